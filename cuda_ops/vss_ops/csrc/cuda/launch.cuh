// Picks dtypes and vector width for a view and launches.
#pragma once

#include <type_traits>

#include "launch.h"
#include "views.cuh"

namespace vss {

// Shared memory a block may take without asking. Five blocks of 40 KB, 40 warps, fit on an SM of sm_80 and sm_90.
constexpr size_t kSharedBytes = 48 * 1024;
constexpr int64_t kMostBlocks = 2147483647;

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

// True where all channels of a row split into 16-byte vectors. The gradient of the table is float, so its vectors of
// four are aligned whenever these are.
template <typename T>
bool vectors(int channels, const void* a, const void* b) {
  return channels % (16 / sizeof(T)) == 0 && aligned(a, 16) && aligned(b, 16);
}

inline const char* last_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

template <typename View>
const char* run_forward(const View& view, Dtypes dtypes, const void* table, const void* coordinates,
                        const void* weights, void* out, bool softmax, void* stream) {
  const size_t bytes = forward_bytes(view.rows_per_block(), view.samples());
  if (view.blocks() == 0) return "";
  if (view.blocks() > kMostBlocks || bytes > kSharedBytes) return "the problem is too large for one launch";
  const auto blocks = static_cast<unsigned>(view.blocks());
  return with_types(dtypes, [&](auto t, auto o) {
    using T = typename decltype(t)::type;
    using O = typename decltype(o)::type;
    const auto call = [&](auto kernel) {
      VSS_LAUNCH(kernel, blocks, kThreads, bytes, stream, view, static_cast<const T*>(table),
                 static_cast<const O*>(coordinates), static_cast<const O*>(weights), static_cast<T*>(out), softmax);
    };
    if (vectors<T>(view.D(), table, out)) {
      call(&forward_kernel<View, T, O, int(16 / sizeof(T))>);
    } else {
      call(&forward_kernel<View, T, O, 1>);
    }
    return last_error();
  });
}

template <typename View>
const char* run_backward(const View& view, Dtypes dtypes, const void* grad, const void* table, const void* coordinates,
                         const void* weights, void* grad_table, void* grad_coordinates, void* grad_weights,
                         bool softmax, void* stream) {
  const size_t bytes = backward_bytes(view.rows_per_block(), view.samples(), view.window_floats());
  if (view.blocks() == 0) return "";
  if (view.blocks() > kMostBlocks || bytes > kSharedBytes) return "the problem is too large for one launch";
  if (!aligned(grad_table, 16)) return "the gradient of the table must be aligned to 16 bytes";  // as torch allocates
  const auto blocks = static_cast<unsigned>(view.blocks());
  return with_types(dtypes, [&](auto t, auto o) {
    using T = typename decltype(t)::type;
    using O = typename decltype(o)::type;
    const auto call = [&](auto kernel) {
      VSS_LAUNCH(kernel, blocks, kThreads, bytes, stream, view, static_cast<const T*>(grad),
                 static_cast<const T*>(table), static_cast<const O*>(coordinates), static_cast<const O*>(weights),
                 static_cast<float*>(grad_table), static_cast<O*>(grad_coordinates), static_cast<O*>(grad_weights),
                 softmax);
    };
    if (vectors<T>(view.D(), table, grad)) {
      call(&backward_kernel<View, T, O, int(16 / sizeof(T))>);
    } else {
      call(&backward_kernel<View, T, O, 1>);
    }
    return last_error();
  });
}

}  // namespace vss
