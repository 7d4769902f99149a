// Picks dtypes and vector width for a view and launches.
#pragma once

#include <atomic>
#include <type_traits>

#include "backward.cuh"
#include "forward.cuh"
#include "launch.h"
#include "views.cuh"

namespace vss {

constexpr int64_t kMostBlocks = 2147483647;
constexpr int64_t kMostVectors = 2147483647;
constexpr int kWidest = 0;     // channels a thread takes at once: as many as 16 bytes hold
constexpr int kScattered = 4;  // and where it adds them to float32: what one addition takes, see scatter_kernel

// Threads that share a row (pick, below): one a 16-byte vector of its channels, or one per channel.
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

// True where the code that runs here adds four floats to global memory at once. The code is asked, by one of its
// kernels, not the GPU: what a newer GPU compiles of PTX for an older one does not.
template <typename View>
bool wide_atomics() {
  constexpr int kDevices = 64;  // more than a machine has; beyond, one float at a time
  static std::atomic<int> versions[kDevices];  // of PTX, 0: not asked yet; kept, since asking may load the kernel
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= kDevices) return false;
  if (versions[device] == 0) {
    cudaFuncAttributes code{};
    const auto* kernel = reinterpret_cast<const void*>(&scatter_kernel<View, float, float, kScattered>);
    if (cudaFuncGetAttributes(&code, kernel) != cudaSuccess) return false;
    versions[device] = code.ptxVersion;
  }
  return versions[device] >= 90;
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

inline const char* last_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

// Why the kernels cannot take the problem in one launch, "" where they can. Names are those of the ops' arguments.
template <typename View>
const char* too_large(const View& view, int channels) {
  if (view.blocks() > kMostBlocks) return View::kTooManyRows;
  if (shared_bytes(view.rows_per_block(), view.samples()) > kSharedBytes) return View::kTooManySamples;
  // Place counts vectors in 32 bits: 32 GB per image, half of that where half precision is scattered four channels at a
  // time, or 2^31 elements where they do not split into vectors
  if (view.image_elements() / channels > kMostVectors) return View::kTooManyElements;
  return "";
}

// Calls run(Type<T>, Type<O>, width): threads take `width` channels of a row where `vectors` allows it, the channels split
// and what is read and written that way, `a` and `b`, is aligned. Else they take one.
template <int width, typename View, typename Run>
const char* pick(const View& view, Dtypes dtypes, bool vectors, const void* a, const void* b, Run run) {
  if (view.blocks() == 0) return "";
  return with_types(dtypes, [&](auto t, auto o) {
    constexpr int wide = width == kWidest ? 16 / sizeof(typename decltype(t)::type) : width;
    const bool split = vectors && view.D() % wide == 0 && aligned(a, 16) && aligned(b, 16);
    const char* problem = too_large(view, split ? wide : 1);
    if (*problem != 0) return problem;
    if (split) {
      run(t, o, std::integral_constant<int, wide>{});
    } else {
      run(t, o, std::integral_constant<int, 1>{});
    }
    return last_error();
  });
}

// Launches a kernel of a view; pointers become those of its parameters.
template <typename View, typename... Parameters, typename... Arguments>
void launch(void (*kernel)(View, Parameters...), const View& view, void* stream, Arguments... arguments) {
  const auto blocks = static_cast<unsigned>(view.blocks());
  VSS_LAUNCH(kernel, blocks, kThreads, shared_bytes(view.rows_per_block(), view.samples()), stream, view,
             static_cast<Parameters>(arguments)...);
}

template <typename View>
const char* run_forward(const View& view, Dtypes dtypes, const void* table, const void* coordinates,
                        const void* weights, void* out, bool softmax, void* stream) {
  return pick<kWidest>(view, dtypes, true, table, out, [&](auto t, auto o, auto width) {
    launch(&forward_kernel<View, typename decltype(t)::type, typename decltype(o)::type, width()>, view, stream, table,
           coordinates, weights, out, softmax);
  });
}

// Gradients of coordinates and weights.
template <typename View>
const char* run_points(const View& view, Dtypes dtypes, const void* grad, const void* table, const void* coordinates,
                       const void* weights, void* grad_coordinates, void* grad_weights, bool softmax, void* stream) {
  return pick<kWidest>(view, dtypes, true, table, grad, [&](auto t, auto o, auto width) {
    launch(&points_kernel<View, typename decltype(t)::type, typename decltype(o)::type, width()>, view, stream, grad,
           table, coordinates, weights, grad_coordinates, grad_weights, softmax);
  });
}

// Gradient of the table.
template <typename View>
const char* run_scatter(const View& view, Dtypes dtypes, const void* grad, const void* coordinates,
                        const void* weights, void* grad_table, bool softmax, void* stream) {
  return pick<kScattered>(view, dtypes, wide_atomics<View>(), grad, grad_table, [&](auto t, auto o, auto width) {
    launch(&scatter_kernel<View, typename decltype(t)::type, typename decltype(o)::type, width()>, view, stream, grad,
           coordinates, weights, grad_table, softmax);
  });
}

}  // namespace vss
