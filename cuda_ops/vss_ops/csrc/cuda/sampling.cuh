// The two kernels, forward and backward, of both ops. A `View` tells them where rows and samples lie (views.cuh).
//
// Bytes, for one DCNv3 row of InternImage-H (9 points, 32 channels) in bfloat16. Device memory must move 64 of input, 64
// of output, 36 of offset, 18 of mask: 182 bytes, which at 4.8 TB/s (H200) is 38 ps. The 36 table rows that are read are
// 2304 bytes. They must come from the first-level cache: at 128 bytes a clock on 132 SMs that is 78 ps, so this load
// path, not device memory, bounds the forward pass, at twice the device memory floor; the second level would be slower
// again. Hence:
//  - a thread takes 16 bytes of channels, so that a warp's load moves 512 bytes in one instruction;
//  - a block covers a tile of neighbouring pixels of few groups: neighbours sample the same table rows, so that a row
//    enters the first-level cache once a block, about 4 times a tile pixel instead of 36;
//  - positions and weights are found once a sample (not once a thread) and handed to the threads of a row through shared
//    memory; offsets and masks are read once, consecutive threads reading consecutive addresses;
//  - the softmax over a row's weights happens there too: logits are read once and the weights never exist in memory.
// Forward has no atomics: a thread owns its output channels.
//
// Backward adds 36 rows a row. Sums over channels (gradients of offset and mask) are reduced by warp shuffles to one
// plain store. Gradients of the table are first added in shared memory, in a window around the tile, and leave it once a
// window pixel: 2.6 global atomics a tile pixel and channel instead of 36 (8 x 8 tile, 13 x 13 window). Samples outside
// the window, and problems too large for one, add to global memory directly.
#pragma once

#include "../problem.h"
#include "device.cuh"

namespace vss {

constexpr int kThreads = 256;

// One bilinear sample. `pixel` is its first corner inside the image; the others follow from `width` and the bits.
struct Sample {
  int32_t pixel;
  int32_t width_bits;  // width << 4 | x1 inside << 3 | x0 inside << 2 | y1 inside << 1 | y0 inside
  float fx, fy;

  __device__ __forceinline__ bool x0() const { return width_bits & 4; }
  __device__ __forceinline__ bool x1() const { return width_bits & 8; }
  __device__ __forceinline__ bool y0() const { return width_bits & 1; }
  __device__ __forceinline__ bool y1() const { return width_bits & 2; }
  __device__ __forceinline__ int right() const { return x0() && x1() ? 1 : 0; }
  __device__ __forceinline__ int down() const { return y0() && y1() ? width_bits >> 4 : 0; }
  __device__ __forceinline__ bool inside(int corner) const {
    return (corner & 2 ? y1() : y0()) && (corner & 1 ? x1() : x0());
  }
  __device__ __forceinline__ int corner(int c) const { return pixel + (c & 1 ? right() : 0) + (c & 2 ? down() : 0); }
  __device__ __forceinline__ float weight(int c) const {
    return inside(c) ? (c & 1 ? fx : 1.f - fx) * (c & 2 ? fy : 1.f - fy) : 0.f;
  }
};

__device__ __forceinline__ Sample sample_at(float x, float y, int32_t width, int32_t height, int32_t start) {
  Sample s{0, 0, 0.f, 0.f};
  if (x > -1.f && x < static_cast<float>(width) && y > -1.f && y < static_cast<float>(height)) {  // false for NaN
    const float left = floorf(x), top = floorf(y);
    s.fx = x - left;
    s.fy = y - top;
    const int32_t column = static_cast<int32_t>(left), line = static_cast<int32_t>(top);
    s.pixel = start + max(line, 0) * width + max(column, 0);
    s.width_bits = width << 4 | (column + 1 < width) << 3 | (column >= 0) << 2 | (line + 1 < height) << 1 | (line >= 0);
  }
  return s;
}

// A row's softmax in two numbers: weight = exp(logit - top) * scale.
struct Softmax {
  float top, scale;
};

template <typename O>
__device__ __forceinline__ Softmax softmax_of(const O* logits, int samples) {
  float top = to_float(logits[0]);
  for (int s = 1; s < samples; ++s) top = fmaxf(top, to_float(logits[s]));
  float sum = 0.f;
  for (int s = 0; s < samples; ++s) sum += expf(to_float(logits[s]) - top);
  return {top, 1.f / sum};
}

// Fills softmaxes[local] for every row of the block; all threads of the block take part.
template <typename View, typename O>
__device__ __forceinline__ void block_softmax(const View& view, const O* weights, Softmax* softmaxes) {
  const int samples = view.samples();
  for (int local = threadIdx.x; local < view.rows_per_block(); local += kThreads) {
    const int64_t row = view.row(local);
    softmaxes[local] = row < 0 ? Softmax{0.f, 0.f} : softmax_of(weights + row * samples, samples);
  }
  __syncthreads();
}

template <typename O>
__device__ __forceinline__ float weight_of(O weight, bool softmax, Softmax s) {
  return softmax ? expf(to_float(weight) - s.top) * s.scale : to_float(weight);
}

// Shared memory, forward: float4 corner weights and int2 places [samples][rows], then Softmax [rows].
VSS_INLINE size_t forward_bytes(int rows, int samples) { return size_t(rows) * (samples * 24 + 8); }

template <typename View, typename T, typename O, int channels>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(View view, const T* table, const O* coordinates, const O* weights, T* out, bool softmax) {
  VSS_SHARED(memory);
  view.open(blockIdx.x);
  const int rows = view.rows_per_block(), samples = view.samples();
  float4* corner_weights = reinterpret_cast<float4*>(memory);
  int2* places = reinterpret_cast<int2*>(corner_weights + rows * samples);
  Softmax* softmaxes = reinterpret_cast<Softmax*>(places + rows * samples);
  if (softmax) block_softmax(view, weights, softmaxes);

  // consecutive threads take consecutive samples of a row, then the next row: coalesced
  for (int i = threadIdx.x; i < rows * samples; i += kThreads) {
    const int local = i / samples, s = i - local * samples;
    const int64_t row = view.row(local);
    if (row < 0) continue;
    const Sample at = view.locate(coordinates, row, local, s);
    const float weight = weight_of(weights[row * samples + s], softmax, softmax ? softmaxes[local] : Softmax{});
    // [samples][rows], so that the threads of a warp, which work on neighbouring rows, meet no bank conflicts
    corner_weights[s * rows + local] =
        make_float4(weight * at.weight(0), weight * at.weight(1), weight * at.weight(2), weight * at.weight(3));
    places[s * rows + local] = make_int2(at.pixel, at.width_bits);
  }
  __syncthreads();

  const int lanes = view.D() / channels;  // threads a row
  const int64_t stride = view.stride();
  for (int unit = threadIdx.x; unit < rows * lanes; unit += kThreads) {
    const int local = unit / lanes, lane = unit - local * lanes;
    const int64_t row = view.row(local);
    if (row < 0) continue;
    const T* from = table + view.table_at(local, row) + lane * channels;
    float sum[channels] = {};
#pragma unroll 3
    for (int s = 0; s < samples; ++s) {
      const float4 w = corner_weights[s * rows + local];
      const int2 place = places[s * rows + local];
      const Sample at{place.x, place.y, 0.f, 0.f};
      const float corner[4] = {w.x, w.y, w.z, w.w};
      float v[4][channels];
#pragma unroll
      for (int c = 0; c < 4; ++c)  // zero: outside the image, or exactly on a pixel
        load_if(corner[c] != 0.f, from + at.corner(c) * stride, v[c]);
#pragma unroll
      for (int c = 0; c < 4; ++c)
#pragma unroll
        for (int i = 0; i < channels; ++i) sum[i] += corner[c] * v[c][i];
    }
    store(out + row * view.D() + lane * channels, sum);
  }
}

// Shared memory, backward: Sample, weight and place in the window [samples][rows], three sums [rows][samples],
// Softmax [rows], the window.
VSS_INLINE size_t backward_bytes(int rows, int samples, size_t window_floats) {
  const size_t without = size_t(rows) * (samples * (sizeof(Sample) + 4 + 4 + 12) + 8);
  return (without + 15) / 16 * 16 + window_floats * 4;
}

// Adds to the window. Threads of a block may meet there, hence atomics, but they stay on the SM.
template <int channels>
__device__ __forceinline__ void add_window(float* to, const float (&v)[channels]) {
#pragma unroll
  for (int i = 0; i < channels; ++i) atomicAdd(to + i, v[i]);
}

template <typename View, typename T, typename O, int channels>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(View view, const T* grad, const T* table, const O* coordinates, const O* weights,
                    float* grad_table, O* grad_coordinates, O* grad_weights, bool softmax) {
  VSS_SHARED(memory);
  view.open(blockIdx.x);
  const int rows = view.rows_per_block(), samples = view.samples(), total = rows * samples;
  Sample* at_shared = reinterpret_cast<Sample*>(memory);
  float* weight_shared = reinterpret_cast<float*>(at_shared + total);
  int32_t* place_shared = reinterpret_cast<int32_t*>(weight_shared + total);  // -1: not in the window
  float *sum_weight = weight_shared + 2 * total, *sum_x = sum_weight + total, *sum_y = sum_x + total;
  Softmax* softmaxes = reinterpret_cast<Softmax*>(sum_y + total);
  float* window = reinterpret_cast<float*>(memory + backward_bytes(rows, samples, 0));
  for (int i = threadIdx.x; i < view.window_floats(); i += kThreads) window[i] = 0.f;
  if (softmax) block_softmax(view, weights, softmaxes);

  for (int i = threadIdx.x; i < total; i += kThreads) {
    const int local = i / samples, s = i - local * samples;
    const int64_t row = view.row(local);
    Sample at{0, 0, 0.f, 0.f};
    float weight = 0.f;
    if (row >= 0) {
      at = view.locate(coordinates, row, local, s);
      weight = weight_of(weights[row * samples + s], softmax, softmax ? softmaxes[local] : Softmax{});
    }
    at_shared[s * rows + local] = at;
    weight_shared[s * rows + local] = weight;
    place_shared[s * rows + local] = view.window_place(at);
  }
  __syncthreads();

  // `group` threads, a power of two so that they share a warp, take a row; those beyond its channels add nothing.
  const int lanes = view.D() / channels;
  const int64_t stride = view.stride();
  int group = 1;
  while (group < lanes && group < 32) group *= 2;
  for (int first = 0; first < rows * group; first += kThreads) {  // every thread stays in the loop: they shuffle
    const int unit = first + threadIdx.x;
    const int local = unit / group, lane = unit - local * group;
    const int64_t row = local < rows ? view.row(local) : -1;
    const bool active = row >= 0;
    const int64_t base = active ? view.table_at(local, row) : 0;
    for (int s = 0; s < samples; ++s) {
      float gw = 0.f, gx = 0.f, gy = 0.f;
      if (active) {
        const Sample at = at_shared[s * rows + local];
        const float weight = weight_shared[s * rows + local];
        const int place = place_shared[s * rows + local];
        for (int l = lane; l < lanes; l += group) {
          float g[channels], v[4][channels], dots[4] = {};
          load_if(true, grad + row * view.D() + l * channels, g);  // cached from the second sample on
#pragma unroll
          for (int c = 0; c < 4; ++c)
            load_if(at.inside(c), table + base + at.corner(c) * stride + l * channels, v[c]);
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const float w = weight * at.weight(c);
#pragma unroll
            for (int i = 0; i < channels; ++i) {
              dots[c] += v[c][i] * g[i];
              v[c][i] = w * g[i];
            }
            if (w == 0.f) continue;
            if (place >= 0) {
              add_window(window + place + view.window_step(at, c) + l * channels, v[c]);
            } else {
              add_global(grad_table + base + at.corner(c) * stride + l * channels, v[c]);
            }
          }
          gw += (1.f - at.fy) * ((1.f - at.fx) * dots[0] + at.fx * dots[1]) +
                at.fy * ((1.f - at.fx) * dots[2] + at.fx * dots[3]);
          gx += weight * ((1.f - at.fy) * (dots[1] - dots[0]) + at.fy * (dots[3] - dots[2]));
          gy += weight * ((1.f - at.fx) * (dots[2] - dots[0]) + at.fx * (dots[3] - dots[1]));
        }
      }
      for (int step = group / 2; step > 0; step /= 2) {
        gw += __shfl_xor_sync(0xffffffffu, gw, step);
        gx += __shfl_xor_sync(0xffffffffu, gx, step);
        gy += __shfl_xor_sync(0xffffffffu, gy, step);
      }
      if (active && lane == 0) {
        sum_weight[local * samples + s] = gw;
        sum_x[local * samples + s] = gx;
        sum_y[local * samples + s] = gy;
      }
    }
  }
  __syncthreads();

  if (softmax) {  // d logit = weight * (d weight - sum of weight * d weight)
    for (int local = threadIdx.x; local < rows; local += kThreads) {
      float mean = 0.f;
      if (view.row(local) >= 0)
        for (int s = 0; s < samples; ++s) mean += weight_shared[s * rows + local] * sum_weight[local * samples + s];
      softmaxes[local].top = mean;
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < total; i += kThreads) {
    const int local = i / samples, s = i - local * samples;
    const int64_t row = view.row(local);
    if (row < 0) continue;
    float gw = sum_weight[i];
    if (softmax) gw = weight_shared[s * rows + local] * (gw - softmaxes[local].top);
    const float2 scale = view.scale(s);
    grad_weights[row * samples + s] = from_float<O>(gw);
    grad_coordinates[(row * samples + s) * 2] = from_float<O>(sum_x[i] * scale.x);
    grad_coordinates[(row * samples + s) * 2 + 1] = from_float<O>(sum_y[i] * scale.y);
  }
  view.flush(window, grad_table);
}

}  // namespace vss
