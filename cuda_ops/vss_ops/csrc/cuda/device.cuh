// Vector loads, conversions and the few CUDA spellings that tests/cuda_ops/emulator replaces to run these kernels on a
// CPU, where no GPU is at hand.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#ifdef VSS_EMULATED
#include VSS_EMULATED
#else
#include <cuda_runtime.h>
#define VSS_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#define VSS_LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...) \
  kernel<<<blocks, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define VSS_WIDE_ATOMICS  // atomicAdd(float4*, float4) on global memory
#endif
#endif

namespace vss {

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }

template <typename T>
__device__ __forceinline__ T from_float(float v);
template <>
__device__ __forceinline__ float from_float<float>(float v) { return v; }
template <>
__device__ __forceinline__ __half from_float<__half>(float v) { return __float2half_rn(v); }
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float v) { return __float2bfloat16_rn(v); }

// `count` values as the one word that a load or store moves; 16 bytes is the widest a thread can ask for.
template <int bytes>
struct Word;
template <>
struct Word<16> { using type = uint4; };
template <>
struct Word<4> { using type = uint32_t; };
template <>
struct Word<2> { using type = uint16_t; };

template <typename T, int count>
union Pack {
  typename Word<sizeof(T) * count>::type word;
  T v[count];
  __device__ __forceinline__ Pack() : word{} {}
};

// Loads `count` values where `wanted`, zeros elsewhere: predicated, not branched around, so that several loads are in
// flight at once.
template <typename T, int count>
__device__ __forceinline__ void load_if(bool wanted, const T* from, float (&to)[count]) {
  Pack<T, count> pack;
  if (wanted) pack.word = *reinterpret_cast<const decltype(pack.word)*>(from);
#pragma unroll
  for (int i = 0; i < count; ++i) to[i] = to_float(pack.v[i]);
}

template <typename T, int count>
__device__ __forceinline__ void store(T* to, const float (&from)[count]) {
  Pack<T, count> pack;
#pragma unroll
  for (int i = 0; i < count; ++i) pack.v[i] = from_float<T>(from[i]);
  *reinterpret_cast<decltype(pack.word)*>(to) = pack.word;
}

// Adds `count` floats to global memory; four at a time where the hardware has it.
template <int count>
__device__ __forceinline__ void add_global(float* to, const float (&v)[count]) {
#ifdef VSS_WIDE_ATOMICS
  if constexpr (count % 4 == 0) {
#pragma unroll
    for (int i = 0; i < count; i += 4)
      atomicAdd(reinterpret_cast<float4*>(to + i), make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]));
  } else
#endif
  {
#pragma unroll
    for (int i = 0; i < count; ++i) atomicAdd(to + i, v[i]);
  }
}

}  // namespace vss
