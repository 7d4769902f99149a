// What the two ops compute, in plain numbers: the only thing the torch glue, the CPU kernels and the CUDA kernels
// share. Nothing here knows torch. All tensors are dense and row-major; sizes were checked by the caller.
//
// Both ops are out[row] = sum_s weight[row, s] * bilinear(table, position[row, s]), one `row` being a (pixel, group) or
// a (query, head) with `channels` contiguous values. Conventions are those of vss_ops/reference.py.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define VSS_INLINE __host__ __device__ __forceinline__
#else
#define VSS_INLINE inline
#endif

namespace vss {

// Of one image, and at most of every number of a window: these are counted in 32 bits, everything else in 64.
// PIXELS of vss_ops/checks.py.
constexpr int64_t kMostPixels = (int64_t{1} << 27) - 1;

// DCNv3: table = input [N, H, W, G, D], coordinates = offset [N, Ho, Wo, G, P, 2], weights = mask [N, Ho, Wo, G, P].
struct Dcn {
  int64_t N, H, W, Ho, Wo;
  int32_t G, D;
  int32_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int32_t remove_center;
  double offset_scale;

  VSS_INLINE int32_t samples() const { return kernel_h * kernel_w - remove_center; }
  VSS_INLINE int32_t half_h() const { return dilation_h * (kernel_h - 1) / 2; }
  VSS_INLINE int32_t half_w() const { return dilation_w * (kernel_w - 1) / 2; }
  VSS_INLINE int64_t rows() const { return N * Ho * Wo * G; }

  // Point `s` relative to the kernel's centre; x is the slow axis and the middle point may be left out.
  VSS_INLINE void point(int32_t s, int32_t* x, int32_t* y) const {
    if (remove_center && s >= kernel_h * kernel_w / 2) ++s;
    *x = s / kernel_h * dilation_w - half_w();
    *y = s % kernel_h * dilation_h - half_h();
  }
};

// Attention: table = value [N, S, M, D], coordinates = sampling_locations [N, Q, M, L, P, 2], weights [N, Q, M, L, P].
struct Attention {
  int64_t N, S, Q;
  int32_t M, D, L, P;
  const int64_t* shapes;  // [L, 2] (height, width), where the kernel runs
  const int64_t* starts;  // [L]

  VSS_INLINE int32_t samples() const { return L * P; }
  VSS_INLINE int64_t rows() const { return N * Q * M; }
};

}  // namespace vss
