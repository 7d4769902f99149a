// Picks dtypes and vector width for a view and launches.
#pragma once

#include <type_traits>

#include "backward.cuh"
#include "forward.cuh"
#include "launch.h"
#include "views.cuh"

namespace vss {

constexpr int64_t kMostBlocks = 2147483647;
constexpr int64_t kMostVectors = 2147483647;

// Threads that share a row: one a 16-byte vector of its channels, or one a channel.
inline int lanes_of(int channels, Dtypes dtypes) {
  const int vector = dtypes.table == Dtype::kFloat ? 4 : 8;
  return channels % vector == 0 ? channels / vector : channels;
}

// Log2 of the rows of a block: 64, more where that would leave threads without work, fewer where shared memory ends.
inline int log_rows_of(int lanes, int samples) {
  int log = 6;
  while (lanes << log < kThreads) ++log;
  while (log > 0 && shared_bytes(1 << log, samples) > kSharedBytes) --log;
  return log;
}

// True where the GPU adds four floats to global memory at once.
inline bool wide_atomics() {
  int device = 0, major = 0;
  const bool known = cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess;
  return known && major >= 9;
}

template <typename T>
struct Type {
  using type = T;
};

// Calls run(Type<T>, Type<O>) for the dtypes of table and points.
template <typename Run>
const char* with_types(Dtypes dtypes, Run run) {
  if (dtypes.table == Dtype::kFloat && dtypes.points == Dtype::kFloat) return run(Type<float>{}, Type<float>{});
  if (dtypes.table == Dtype::kHalf)
    return dtypes.points == Dtype::kHalf ? run(Type<__half>{}, Type<__half>{}) : run(Type<__half>{}, Type<float>{});
  if (dtypes.table == Dtype::kBFloat)
    return dtypes.points == Dtype::kBFloat ? run(Type<__nv_bfloat16>{}, Type<__nv_bfloat16>{})
                                           : run(Type<__nv_bfloat16>{}, Type<float>{});
  return "unsupported dtypes";
}

inline bool aligned(const void* pointer, size_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

// True where all channels of a row split into 16-byte vectors.
template <typename T>
bool splits_into_vectors(int channels, const void* a, const void* b) {
  return channels % (16 / sizeof(T)) == 0 && aligned(a, 16) && aligned(b, 16);
}

inline const char* last_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

// Why the kernels cannot take the problem in one launch, "" where they can.
template <typename View>
const char* too_large(const View& view, int channels) {
  if (view.blocks() > kMostBlocks) return "the output has too many rows for one launch";
  if (shared_bytes(view.rows_per_block(), view.samples()) > kSharedBytes) return "a row has too many samples";
  // Place counts vectors in 32 bits: 32 GB an image, or 2^31 elements where they do not split into vectors
  if (view.image_elements() / channels > kMostVectors) return "the table has too many elements an image";
  return "";
}

// Calls run(vector width) for a row's channels: all in 16-byte vectors, or one by one.
template <typename T, typename View, typename Run>
const char* with_channels(const View& view, bool vectors, Run run) {
  constexpr int wide = 16 / sizeof(T);
  const char* problem = too_large(view, vectors ? wide : 1);
  if (*problem != 0) return problem;
  if (vectors) {
    run(std::integral_constant<int, wide>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
  return last_error();
}

template <typename View>
const char* run_forward(const View& view, Dtypes dtypes, const void* table, const void* coordinates,
                        const void* weights, void* out, bool softmax, void* stream) {
  if (view.blocks() == 0) return "";
  const auto blocks = static_cast<unsigned>(view.blocks());
  const size_t bytes = shared_bytes(view.rows_per_block(), view.samples());
  return with_types(dtypes, [&](auto t, auto o) {
    using T = typename decltype(t)::type;
    using O = typename decltype(o)::type;
    return with_channels<T>(view, splits_into_vectors<T>(view.D(), table, out), [&](auto channels) {
      auto* kernel = &forward_kernel<View, T, O, channels()>;
      VSS_LAUNCH(kernel, blocks, kThreads, bytes, stream, view, static_cast<const T*>(table),
                 static_cast<const O*>(coordinates), static_cast<const O*>(weights), static_cast<T*>(out), softmax);
    });
  });
}

// Gradients of coordinates and weights.
template <typename View>
const char* run_points(const View& view, Dtypes dtypes, const void* grad, const void* table, const void* coordinates,
                       const void* weights, void* grad_coordinates, void* grad_weights, bool softmax, void* stream) {
  if (view.blocks() == 0) return "";
  const auto blocks = static_cast<unsigned>(view.blocks());
  const size_t bytes = shared_bytes(view.rows_per_block(), view.samples());
  return with_types(dtypes, [&](auto t, auto o) {
    using T = typename decltype(t)::type;
    using O = typename decltype(o)::type;
    return with_channels<T>(view, splits_into_vectors<T>(view.D(), table, grad), [&](auto channels) {
      auto* kernel = &points_kernel<View, T, O, channels()>;
      VSS_LAUNCH(kernel, blocks, kThreads, bytes, stream, view, static_cast<const T*>(grad),
                 static_cast<const T*>(table), static_cast<const O*>(coordinates), static_cast<const O*>(weights),
                 static_cast<O*>(grad_coordinates), static_cast<O*>(grad_weights), softmax);
    });
  });
}

// Gradient of the table.
template <typename View>
const char* run_scatter(const View& view, Dtypes dtypes, const void* grad, const void* coordinates,
                        const void* weights, void* grad_table, bool softmax, void* stream) {
  if (view.blocks() == 0) return "";
  const auto blocks = static_cast<unsigned>(view.blocks());
  const size_t bytes = shared_bytes(view.rows_per_block(), view.samples());
  return with_types(dtypes, [&](auto t, auto o) {
    using T = typename decltype(t)::type;
    using O = typename decltype(o)::type;
    const bool vectors = wide_atomics() && splits_into_vectors<T>(view.D(), grad, grad_table);
    return with_channels<T>(view, vectors, [&](auto channels) {
      auto* kernel = &scatter_kernel<View, T, O, channels()>;
      VSS_LAUNCH(kernel, blocks, kThreads, bytes, stream, view, static_cast<const T*>(grad),
                 static_cast<const O*>(coordinates), static_cast<const O*>(weights), static_cast<float*>(grad_table),
                 softmax);
    });
  });
}

}  // namespace vss
