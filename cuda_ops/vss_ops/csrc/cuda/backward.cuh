// Backward kernels of both ops: one for the gradients of coordinates and weights, which gathers as the forward pass
// does, and one for the gradient of the table, which scatters. They share nothing but positions, which are cheap to
// find again, and apart they need half the registers.
#pragma once

#include "sampling.cuh"

namespace vss {

// Gradients of coordinates and weights: dots of the output's gradient with the four corners of every sample, summed
// over the threads of a row by shuffles, and a plain store.
template <typename View, typename T, typename O, int channels>
__global__ void __launch_bounds__(kThreads, kBlocks - 1)
    points_kernel(View view, const T* grad, const T* table, const O* coordinates, const O* weights,
                  O* grad_coordinates, O* grad_weights, bool softmax) {
  VSS_SHARED(memory);
  view.open(blockIdx.x);
  const int rows = view.rows_per_block(), samples = view.samples();
  const Shared shared(memory, rows, samples);
  const auto pixel_vectors = static_cast<uint32_t>(view.stride() / channels);
  if (softmax) block_softmax(view, weights, shared.softmaxes);
  locate_samples(view, coordinates, [&](const Sample& at, const auto&, int local, int s, int64_t) {
    shared.places[s * shared.pitch + local] = place_of(at, pixel_vectors);
  });
  __syncthreads();

  // 2^log threads, so that they share a warp, take a row; those beyond its channels add nothing.
  const int lanes = view.D() / channels;
  int log = 0;
  while (1 << log < lanes && log < 5) ++log;
  for (int first = 0; first < rows << log; first += kThreads) {  // every thread stays in the loop: they shuffle
    const int unit = first + threadIdx.x, local = unit >> log, lane = unit & ((1 << log) - 1);
    const int64_t row = local < rows && lane < lanes ? view.row(local) : -1;
    const bool active = row >= 0;
    const Vectors<T, channels> from(table + (active ? view.table_at(local) : 0));
    const Vectors<T, channels> seeds(grad + (active ? row * view.D() : 0));
    float seed[channels] = {};
    if (active) {
      const auto word = seeds[lane];
#pragma unroll
      for (int i = 0; i < channels; ++i) seed[i] = word[i];
    }
    for (int s = 0; s < samples; ++s) {
      float dot[4] = {};
      if (active) {
        uint32_t at[4];
        corners_of(shared.places[s * shared.pitch + local], pixel_vectors, at);
        Vector<T, channels> v[4];
#pragma unroll
        for (int c = 0; c < 4; ++c) v[c] = from[at[c] + lane];
#pragma unroll
        for (int c = 0; c < 4; ++c)
#pragma unroll
          for (int i = 0; i < channels; ++i) dot[c] += v[c][i] * seed[i];
        for (int l = lane + 32; l < lanes; l += 32) {  // more vectors than a warp has lanes
          const auto more = seeds[l];
          for (int c = 0; c < 4; ++c) {
            const auto corner = from[at[c] + l];
            for (int i = 0; i < channels; ++i) dot[c] += corner[i] * more[i];
          }
        }
      }
      for (int step = 1; step < 1 << log; step *= 2)
#pragma unroll
        for (int c = 0; c < 4; ++c) dot[c] += __shfl_xor_sync(0xffffffffu, dot[c], step);
      if (active && lane == 0) shared.four[s * shared.pitch + local] = make_float4(dot[0], dot[1], dot[2], dot[3]);
    }
  }
  __syncthreads();

  float2* products = reinterpret_cast<float2*>(shared.places);  // weight and its gradient
  locate_samples(view, coordinates, [&](const Sample& at, const auto& point, int local, int s, int64_t sample) {
    const float4 dot = shared.four[s * shared.pitch + local];
    const float weight = weight_of(weights[sample], softmax, softmax ? shared.softmaxes[local] : Softmax{});
    const float left = at.y[0] * dot.x + at.y[1] * dot.z, right = at.y[0] * dot.y + at.y[1] * dot.w;
    const float top = at.x[0] * dot.x + at.x[1] * dot.y, bottom = at.x[0] * dot.z + at.x[1] * dot.w;
    const float2 scale = view.scale(point);
    grad_coordinates[2 * sample] = from_float<O>(weight * (at.slope_x[0] * left + at.slope_x[1] * right) * scale.x);
    grad_coordinates[2 * sample + 1] = from_float<O>(weight * (at.slope_y[0] * top + at.slope_y[1] * bottom) * scale.y);
    const float grad_weight = at.x[0] * left + at.x[1] * right;
    if (softmax) {
      products[s * shared.pitch + local] = make_float2(weight, grad_weight);
    } else {
      grad_weights[sample] = from_float<O>(grad_weight);
    }
  });
  if (!softmax) return;

  __syncthreads();
  float* means = reinterpret_cast<float*>(shared.softmaxes);
  for (int local = threadIdx.x; local < rows; local += kThreads) {
    if (view.row(local) < 0) continue;
    float mean = 0.f;
    for (int s = 0; s < samples; ++s) {
      const float2 product = products[s * shared.pitch + local];
      mean += product.x * product.y;
    }
    means[local] = mean;
  }
  __syncthreads();
  for_samples(
      kThreads, samples, rows, [](int) { return 0; },
      [&](int, int s, int local) {
        const int64_t row = view.row(local);
        if (row < 0) return;
        const float2 product = products[s * shared.pitch + local];
        grad_weights[row * samples + s] = from_float<O>(product.x * (product.y - means[local]));
      });
}

// Gradient of the table, added to global memory corner by corner. For DCNv3 where its window fits: window.cuh. `channels`
// is what one addition takes, 4 where global memory has wide atomics, else 1: whatever the dtype of the gradient that is
// read, neighbouring threads then add to neighbouring addresses, and an instruction of a warp fills the 32-byte sectors
// it touches.
template <typename View, typename T, typename O, int channels>
__global__ void __launch_bounds__(kThreads, kBlocks)
    scatter_kernel(View view, const T* grad, const O* coordinates, const O* weights, float* grad_table, bool softmax) {
  VSS_SHARED(memory);
  view.open(blockIdx.x);
  const int rows = view.rows_per_block(), samples = view.samples();
  const Shared shared(memory, rows, samples);
  const auto pixel_vectors = static_cast<uint32_t>(view.stride() / channels);
  stage(view, coordinates, weights, softmax, pixel_vectors, shared);

  const int lanes = view.D() / channels;
  for (int unit = threadIdx.x; unit < rows * lanes; unit += kThreads) {
    const int local = unit / lanes, lane = unit - local * lanes;
    const int64_t row = view.row(local);
    if (row < 0) continue;
    const auto seed = Vectors<T, channels>(grad + row * view.D())[lane];
    float* to = grad_table + view.table_at(local) + lane * channels;
    for (int s = 0; s < samples; ++s) {
      const float4 weight = shared.four[s * shared.pitch + local];
      const float w[4] = {weight.x, weight.y, weight.z, weight.w};
      uint32_t at[4];
      corners_of(shared.places[s * shared.pitch + local], pixel_vectors, at);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        if (w[c] == 0.f) continue;  // outside the image, or exactly on a pixel
        float v[channels];
#pragma unroll
        for (int i = 0; i < channels; ++i) v[i] = w[c] * seed[i];
        add_global(to + size_t{at[c]} * channels, v);
      }
    }
  }
}

}  // namespace vss
