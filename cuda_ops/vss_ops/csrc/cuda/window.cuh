// Gradient of DCNv3's input.
//
// A row adds to 36 table rows. Added to global memory one by one they are 4.6 KB of atomic traffic a row of
// InternImage-H (9 points, 32 channels), most of it to few pixels, since neighbouring outputs sample the same ones.
// So the additions of a tile are gathered in shared memory first, in a window of the image around it, and leave it
// once per window pixel: 2.6 global atomics a tile pixel and channel instead of 36 (8 x 8 tile, 13 x 13 window).
//
// Shared memory has no float atomics: an atomicAdd there is a loop of load, add and compare-and-swap, one channel after
// the other. A warp therefore owns a window and each of its lanes one channel of it: additions are plain, in the order
// of the samples, and a lane's bank is its own, so that there are no conflicts wherever samples lie. 32 channels are one
// group of InternImage-H or two of XL, whose samples then differ between the halves of the warp.
// Shared memory moves 128 bytes a clock: 72 clocks of an SM a row for the additions, 18 for the samples. The few warps
// that fit next to each other (25 KB each), two a scheduler, cannot hide each other's waits: it will issue well below an
// instruction a clock. Hence the next sample is loaded while one is added, and the next pixel's gradient before that.
// Samples outside the window go to global memory directly.
#pragma once

#include "views.cuh"

namespace vss {

constexpr int kWarp = 32;
constexpr int kPixelBytes = kWarp * 4;
constexpr uint32_t kOutside = 0xffffffffu;  // for a place: not in the window
static_assert(kSharedBytes < 0xffff, "a place counts bytes of the window in 16 bits");

struct Windows {
  Dcn p;
  float offset_scale;
  int32_t log_w, log_h;   // tile of output pixels
  int32_t width, height;  // of the window
  int32_t dx, dy;         // from the first sample centre of the tile to the window's corner
  int32_t groups;         // most that 32 neighbouring channels belong to
  int32_t batch;          // pixels of the tile whose samples are staged together

  VSS_INLINE int pixels() const { return 1 << (log_w + log_h); }
  VSS_INLINE int64_t channels() const { return int64_t{p.G} * p.D; }
  VSS_INLINE int64_t chunks() const { return (channels() + kWarp - 1) / kWarp; }
  VSS_INLINE int64_t columns() const { return tiles(p.Wo, log_w); }
  VSS_INLINE int64_t lines() const { return tiles(p.Ho, log_h); }
  VSS_INLINE int64_t blocks() const { return p.N * lines() * columns() * chunks(); }
  VSS_INLINE int staged() const { return batch * groups * p.samples() + 1; }  // one more may be read

  // Where the corners of a sample lie whose first is at (x, y) of the window: bytes from the window's begin, 16 bits
  // each. Corners outside the image share the pixel behind the window, so that those inside are four different ones.
  __device__ __forceinline__ uint2 place(const Sample& at, int x, int y) const {
    const bool x0 = at.slope_x[0] != 0.f, x1 = at.slope_x[1] != 0.f;
    const bool y0 = at.slope_y[0] != 0.f, y1 = at.slope_y[1] != 0.f;
    const int right = at.right, down = at.down ? 1 : 0;
    const bool covered = x >= 0 && x + right < width && y >= 0 && y + down < height;
    if (!covered && (x0 || x1)) return {kOutside, kOutside};
    const auto bytes = [&](bool inside, int from_x, int from_y) -> uint32_t {
      return (inside ? from_y * width + from_x : width * height) * kPixelBytes;
    };
    return {bytes(x0 && y0, x, y) | bytes(x1 && y0, x + right, y) << 16,
            bytes(x0 && y1, x, y + down) | bytes(x1 && y1, x + right, y + down) << 16};
  }

  // the window and one pixel more, corner weights (float4) and places (uint2) of the staged samples, Softmax
  // [pixels][groups]
  VSS_INLINE size_t shared_bytes() const {
    return (size_t(width) * height + 1) * kPixelBytes + size_t(staged()) * 24 + size_t(pixels()) * groups * 8;
  }
};

// Adds the columns first .. last - 1 of a line of the window to the image, `count` neighbouring channels a lane.
template <int count>
__device__ __forceinline__ void flush_line(const float* window, float* grad, int first, int last, int64_t C,
                                           int64_t channels) {
  constexpr int lanes = kWarp / count;
  for (int i = first * lanes + static_cast<int>(threadIdx.x); i < last * lanes; i += kWarp) {
    const int column = i / lanes, channel = i % lanes * count;
    if (channel >= channels) continue;
    const auto sums = Vectors<float, count>(window)[i];
    float v[count];
    bool any = false;
#pragma unroll
    for (int c = 0; c < count; ++c) {
      v[c] = sums[c];
      any |= v[c] != 0.f;
    }
    if (any) add_global(grad + column * C + channel, v);
  }
}

template <typename T, typename O>
__global__ void __launch_bounds__(kWarp)
    window_kernel(Windows w, const T* grad, const O* offsets, const O* masks, float* grad_input, bool softmax) {
  VSS_SHARED(memory);
  const Dcn& p = w.p;
  const int lane = threadIdx.x, samples = p.samples(), tile_w = 1 << w.log_w, window_pixels = w.width * w.height;
  float* window = reinterpret_cast<float*>(memory);  // [height][width][32], and a pixel for what is outside the image
  float4* weights = reinterpret_cast<float4*>(window + (window_pixels + 1) * kWarp);
  uint2* places = reinterpret_cast<uint2*>(weights + w.staged());  // of the window, see Windows::place
  Softmax* softmaxes = reinterpret_cast<Softmax*>(places + w.staged());

  uint32_t block = blockIdx.x;
  const auto chunks = static_cast<uint32_t>(w.chunks()), columns = static_cast<uint32_t>(w.columns());
  const auto lines = static_cast<uint32_t>(w.lines());
  const int64_t C = w.channels(), first_channel = int64_t{block % chunks} * kWarp, channel = first_channel + lane;
  block /= chunks;
  const int first_x = static_cast<int>(block % columns) << w.log_w;
  block /= columns;
  const int first_y = static_cast<int>(block % lines) << w.log_h;
  const int64_t image = block / lines;
  const int window_x = first_x * p.stride_w + p.half_w() - p.pad_w + w.dx;
  const int window_y = first_y * p.stride_h + p.half_h() - p.pad_h + w.dy;

  const bool active = channel < C;
  const int first_group = static_cast<int>(first_channel / p.D);
  const int groups = static_cast<int>((min(first_channel + kWarp, C) - 1) / p.D) - first_group + 1;
  const int group = active ? static_cast<int>(channel / p.D) - first_group : 0;

  const auto x_of = [&](int local) { return first_x + (local & (tile_w - 1)); };
  const auto y_of = [&](int local) { return first_y + (local >> w.log_w); };
  // Output pixel, -1 beyond the edge of its image.
  const auto pixel_of = [&](int local) -> int64_t {
    const int x = x_of(local), y = y_of(local), Wo = static_cast<int>(p.Wo);
    return x < Wo && y < static_cast<int>(p.Ho) ? image * p.Ho * p.Wo + int64_t{y} * Wo + x : -1;
  };

  // Gradient of this lane's channel as it lies in memory, 0 where there is none. Converted where it is used: the
  // conversion would wait for it.
  const Vectors<T, 1> grads(grad);
  const auto grad_of = [&](int local) -> uint32_t {
    const int64_t pixel = local < w.pixels() ? pixel_of(local) : -1;
    return pixel >= 0 && active ? grads.words[pixel * C + channel] : 0;
  };

  // Pixel of the window whose first channel is at `byte`, this lane's channel of it.
  const auto at_byte = [&](uint32_t byte) { return reinterpret_cast<float*>(memory + lane * 4 + byte); };
  for (int i = 0; i <= window_pixels; ++i) window[i * kWarp + lane] = 0.f;
  for (int i = lane; i < w.staged(); i += kWarp) {  // those beyond the image's edge are read, though not used
    weights[i] = float4{};
    places[i] = uint2{};
  }
  if (softmax) {
    for (int g = 0; g < groups; ++g) {
      for (int local = lane; local < w.pixels(); local += kWarp) {
        const int64_t pixel = pixel_of(local), row = pixel * p.G + first_group + g;
        if (pixel >= 0) softmaxes[local * groups + g] = softmax_of(masks + row * samples, samples);
      }
    }
  }

  uint32_t loaded_grad = grad_of(0);
  for (int first = 0; first < w.pixels(); first += w.batch) {
    __syncwarp();  // softmaxes are there, and the batch before this one is done with
    for (int g = 0; g < groups; ++g) {
      for_samples(
          kWarp, samples, min(w.batch, w.pixels() - first), [&](int s) { return point_of(p, s); },
          [&](const DcnPoint& point, int s, int k) {
            const int local = first + k, i = (k * groups + g) * samples + s;
            const int64_t pixel = pixel_of(local), sample = (pixel * p.G + first_group + g) * samples + s;
            if (pixel < 0) return;
            const Sample at = sample_of(p, w.offset_scale, point, offsets + 2 * sample, x_of(local), y_of(local));
            const Softmax of_row = softmax ? softmaxes[local * groups + g] : Softmax{};
            weights[i] = at.corners(weight_of(masks[sample], softmax, of_row));
            places[i] = w.place(at, at.column - window_x, at.line - window_y);
          });
    }
    __syncwarp();
    for (int k = 0; k < w.batch && first + k < w.pixels(); ++k) {
      const int64_t pixel = pixel_of(first + k);
      const float g = Vector<T, 1>(static_cast<typename Vector<T, 1>::Of>(loaded_grad))[0];
      loaded_grad = grad_of(first + k + 1);
      if (pixel < 0 || !active) continue;
      const float4* next_weight = weights + (k * groups + group) * samples;
      const uint2* next_place = places + (k * groups + group) * samples;
      float4 loaded_weight = *next_weight;
      uint2 loaded_place = *next_place;
#pragma unroll 2
      for (int s = 0; s < samples; ++s) {
        const float4 weight = loaded_weight;
        const uint2 place = loaded_place;
        loaded_weight = *++next_weight;  // on its way while this sample is added; behind the last there is one to read
        loaded_place = *++next_place;
        if (place.x == kOutside) {
          const int64_t sample = (pixel * p.G + first_group + group) * samples + s;
          const int x = x_of(first + k), y = y_of(first + k);
          const Sample at = sample_of(p, w.offset_scale, point_of(p, s), offsets + 2 * sample, x, y);
          float* to = grad_input + (image * p.H * p.W + at.pixel) * C + channel;
          const int64_t right = at.right * C, down = at.down * C;
          if (weight.x != 0.f) atomicAdd(to, weight.x * g);
          if (weight.y != 0.f) atomicAdd(to + right, weight.y * g);
          if (weight.z != 0.f) atomicAdd(to + down, weight.z * g);
          if (weight.w != 0.f) atomicAdd(to + down + right, weight.w * g);
        } else {
          // four pixels that differ, or are the spare one: loaded together, stored together
          float *a = at_byte(place.x & 0xffff), *b = at_byte(place.x >> 16);
          float *c = at_byte(place.y & 0xffff), *d = at_byte(place.y >> 16);
          const float4 sum = make_float4(*a + weight.x * g, *b + weight.y * g, *c + weight.z * g, *d + weight.w * g);
          *a = sum.x;
          *b = sum.y;
          *c = sum.z;
          *d = sum.w;
        }
      }
    }
  }
  __syncwarp();

  const int first_column = max(-window_x, 0), last_column = min(w.width, static_cast<int>(p.W) - window_x);
  for (int line = 0; line < w.height; ++line) {
    const int y = window_y + line;
    if (y < 0 || y >= p.H) continue;
    const float* from = window + line * w.width * kWarp;
    float* to = grad_input + ((image * p.H + y) * p.W + window_x) * C + first_channel;
    if (kWideAtomics && C % 4 == 0) {
      flush_line<4>(from, to, first_column, last_column, C, C - first_channel);
    } else {
      flush_line<1>(from, to, first_column, last_column, C, C - first_channel);
    }
  }
}

}  // namespace vss
