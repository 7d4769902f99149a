// Vector loads, conversions and the few CUDA spellings that tests/cuda_ops/emulator replaces to run these kernels on a
// CPU, where no GPU is available.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

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
struct Word<8> { using type = uint2; };
template <>
struct Word<4> { using type = uint32_t; };
template <>
struct Word<2> { using type = uint16_t; };

template <typename T, int count>
struct Vector {
  using Of = typename Word<sizeof(T) * count>::type;
  union {
    Of word;
    T v[count];
    uint32_t bits[(sizeof(T) * count + 3) / 4];
  };
  __device__ __forceinline__ Vector() : word{} {}
  __device__ __forceinline__ explicit Vector(const Of& w) : word(w) {}

  __device__ __forceinline__ float operator[](int i) const {
    if constexpr (std::is_same_v<T, __nv_bfloat16> && count > 1) {  // one instruction a value, where nvcc takes two
      return __uint_as_float(i % 2 ? bits[i / 2] & 0xffff0000u : bits[i / 2] << 16);
    } else {
      return to_float(v[i]);
    }
  }
};

// A pointer to vectors: from[i] is one load, `i` counting vectors.
template <typename T, int count>
struct Vectors {
  const typename Vector<T, count>::Of* words;
  __device__ __forceinline__ explicit Vectors(const T* from)
      : words(reinterpret_cast<const typename Vector<T, count>::Of*>(from)) {}
  __device__ __forceinline__ Vector<T, count> operator[](uint32_t i) const { return Vector<T, count>(words[i]); }
};

template <typename T, int count>
__device__ __forceinline__ void store(T* to, const float (&from)[count]) {
  Vector<T, count> vector;
#pragma unroll
  for (int i = 0; i < count; ++i) vector.v[i] = from_float<T>(from[i]);
  *reinterpret_cast<typename Vector<T, count>::Of*>(to) = vector.word;
}

#ifdef VSS_WIDE_ATOMICS
constexpr bool kWideAtomics = true;
#else
constexpr bool kWideAtomics = false;
#endif

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
