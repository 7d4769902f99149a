// What the kernels of both ops share: bilinear samples, the softmax over a row's weights, and the places of a block's
// samples in shared memory. A `View` defines where rows and samples lie (views.cuh).
#pragma once

#include "../problem.h"
#include "device.cuh"

namespace vss {

constexpr int kThreads = 256;
constexpr size_t kSharedBytes = 48 * 1024;  // of shared memory; a block may take so much without asking
constexpr int kBlocks = 4;  // on an SM: leaves a thread 64 registers, enough not to spill any

// One bilinear sample: two columns times two lines of pixels. A corner outside the image has weight and slope zero and
// the pixel of its neighbour inside: it may be read.
struct Sample {
  int32_t column, line, pixel;  // of the first corner inside; `pixel` counts from the image's first
  int32_t right, down;          // pixels to the second column and line; 0 where only one is inside
  float x[2], y[2];             // weights of the columns and lines
  float slope_x[2], slope_y[2]; // their derivatives: -1 and 1

  __device__ __forceinline__ float4 corners(float weight) const {
    return make_float4(weight * y[0] * x[0], weight * y[0] * x[1], weight * y[1] * x[0], weight * y[1] * x[1]);
  }
};

// `spare` is read, with weight zero, where all corners are outside: a neighbouring pixel, so that what is not a number does
// not spread over the image.
__device__ __forceinline__ Sample sample_at(float x, float y, int32_t width, int32_t height, int32_t start,
                                            int32_t spare) {
  Sample s{};
  s.pixel = spare;
  if (x > -1.f && x < static_cast<float>(width) && y > -1.f && y < static_cast<float>(height)) {  // false for NaN
    const int32_t column = __float2int_rd(x), line = __float2int_rd(y);  // exact, as their way back to float is
    const float fx = x - static_cast<float>(column), fy = y - static_cast<float>(line);
    const bool x0 = column >= 0, x1 = column + 1 < width, y0 = line >= 0, y1 = line + 1 < height;
    s.column = max(column, 0);
    s.line = max(line, 0);
    s.pixel = start + s.line * width + s.column;
    s.right = x0 && x1 ? 1 : 0;
    s.down = y0 && y1 ? width : 0;
    s.x[0] = x0 ? 1.f - fx : 0.f;
    s.x[1] = x1 ? fx : 0.f;
    s.y[0] = y0 ? 1.f - fy : 0.f;
    s.y[1] = y1 ? fy : 0.f;
    s.slope_x[0] = x0 ? -1.f : 0.f;
    s.slope_x[1] = x1 ? 1.f : 0.f;
    s.slope_y[0] = y0 ? -1.f : 0.f;
    s.slope_y[1] = y1 ? 1.f : 0.f;
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

template <typename O>
__device__ __forceinline__ float weight_of(O weight, bool softmax, Softmax s) {
  return softmax ? expf(to_float(weight) - s.top) * s.scale : to_float(weight);
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

// Calls visit(point, s, row) for every sample s of the rows first, first + 1, ..., rows - 1, shared out among `threads`
// threads. Consecutive threads take consecutive samples of a row, then the next row: coalesced. A thread keeps to its
// sample, for which point_at(s) says what all rows have in common.
template <typename PointOf, typename Visit>
__device__ __forceinline__ void for_samples(int threads, int samples, int rows, PointOf point_at, Visit visit) {
  const int busy = min(samples, threads), step = threads / busy, first = threadIdx.x / busy;
  if (first >= step) return;
  for (int s = threadIdx.x % busy; s < samples; s += busy) {
    const auto point = point_at(s);
    for (int row = first; row < rows; row += step) visit(point, s, row);
  }
}

// The same for the rows of a block: visit(at, point, local, s, sample), `sample` counting over all rows.
template <typename View, typename O, typename Visit>
__device__ __forceinline__ void locate_samples(const View& view, const O* coordinates, Visit visit) {
  const int samples = view.samples();
  for_samples(
      kThreads, samples, view.rows_per_block(), [&](int s) { return view.point(s); },
      [&](const typename View::Point& point, int s, int local) {
        const int64_t row = view.row(local), sample = row * samples + s;
        if (row >= 0) visit(view.locate(point, coordinates + 2 * sample, local), point, local, s, sample);
      });
}

// Where the corners of a sample lie in the table, in vectors from pixel 0 of its image. Found once per sample and handed
// through shared memory to the threads of the row, which are spared the arithmetic.
struct __align__(8) Place {
  uint32_t first, steps;  // steps: down << 1 | right
};

__device__ __forceinline__ Place place_of(const Sample& at, uint32_t pixel_vectors) {
  return {at.pixel * pixel_vectors, at.down * pixel_vectors << 1 | at.right};
}

__device__ __forceinline__ void corners_of(Place place, uint32_t pixel_vectors, uint32_t (&at)[4]) {
  const uint32_t right = place.steps & 1 ? pixel_vectors : 0;
  at[0] = place.first;
  at[1] = place.first + right;
  at[2] = place.first + (place.steps >> 1);
  at[3] = at[2] + right;
}

// Shared memory of the kernels of a View: float4 and Place [samples][pitch], Softmax [rows]. Threads write consecutive
// samples of a row and read one sample of consecutive rows; both meet no bank conflicts where the pitch is odd.
VSS_INLINE int pitch_of(int rows) { return rows | 1; }
VSS_INLINE size_t shared_bytes(int rows, int samples) {
  return size_t(pitch_of(rows)) * samples * 24 + size_t(rows) * 8;
}

struct Shared {
  int pitch;
  float4* four;  // corner weights; where weights are not staged, what the kernel makes of it
  Place* places;
  Softmax* softmaxes;

  __device__ __forceinline__ Shared(unsigned char* memory, int rows, int samples)
      : pitch(pitch_of(rows)),
        four(reinterpret_cast<float4*>(memory)),
        places(reinterpret_cast<Place*>(four + pitch * samples)),
        softmaxes(reinterpret_cast<Softmax*>(places + pitch * samples)) {}
};

// Fills places and corner weights for the rows of the block.
template <typename View, typename O>
__device__ __forceinline__ void stage(const View& view, const O* coordinates, const O* weights, bool softmax,
                                      uint32_t pixel_vectors, const Shared& shared) {
  if (softmax) block_softmax(view, weights, shared.softmaxes);
  locate_samples(view, coordinates, [&](const Sample& at, const auto&, int local, int s, int64_t sample) {
    const float weight = weight_of(weights[sample], softmax, softmax ? shared.softmaxes[local] : Softmax{});
    shared.four[s * shared.pitch + local] = at.corners(weight);
    shared.places[s * shared.pitch + local] = place_of(at, pixel_vectors);
  });
  __syncthreads();
}

}  // namespace vss
