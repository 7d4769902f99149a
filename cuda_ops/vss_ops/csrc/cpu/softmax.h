// The softmax of a row's weights, a row at a time. A part of kernels.cpp, compiled for each of its instruction sets.
//
// torch's own over so short a last axis takes 50 ns per row (9 values, AVX-512), twice as long as all the rest of a row.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "samples.h"

namespace vss {
namespace VSS_ISA {
namespace {

// Folds a vector in half until 16 bytes are left, then lane by lane: cheaper than lane by lane from the start.
template <typename T, int Bytes, typename Combine>
inline T folded(typename Lanes<T, Bytes>::type v, Combine combine) {
  if constexpr (Bytes > 16) {
    using Half = typename Lanes<T, Bytes / 2>::type;
    char parts[Bytes];
    std::memcpy(parts, &v, Bytes);
    return folded<T, Bytes / 2>(combine(load<Half>(parts), load<Half>(parts + Bytes / 2)), combine);
  } else {
    constexpr int lanes = Bytes / sizeof(T);
    T parts[lanes];
    store(parts, v);
    T result = parts[0];
    for (int i = 1; i < lanes; ++i) result = combine(result, parts[i]);
    return result;
  }
}

struct Sum {
  template <typename V>
  V operator()(V a, V b) const {
    return a + b;
  }
};

struct Largest {
  template <typename V>
  V operator()(V a, V b) const {
    return b > a ? b : a;
  }
};

// exp of values up to 0; NaN of NaN, 0 where the result would be below the smallest normal number.
inline void exponential(const double* x, double* out, int count) {
  for (int i = 0; i < count; ++i) out[i] = std::exp(x[i]);
}

// x = n ln 2 + r with |r| <= ln 2 / 2, and exp(r) by the polynomial of Cephes' expf: two units in the last place.
inline void exponential(const float* from, float* out, int count) {
  using V = Lanes<float, VSS_VECTOR_BYTES>::type;
  using I = Lanes<int32_t, VSS_VECTOR_BYTES>::type;
  constexpr float shift = 12582912.f;  // 1.5 * 2^23: what is added to it is rounded to an integer, in the low bits
  for (int k = 0; k < count; k += Lanes<float, VSS_VECTOR_BYTES>::count) {
    const V x = load<V>(from + k), zero = {};
    const V t = x * 1.44269504f + shift, n = t - shift;
    const V r = x - n * 0.693359375f + n * 2.12194440e-4f;
    V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    const V result = (V)((I)p + ((I)t << 23));
    store(out + k, x != x ? x : x < -87.f ? zero : result);
  }
}

// The weights of one row at a time, softmaxed over its samples or as they are.
template <typename T>
class RowWeights {
 public:
  RowWeights(int samples, bool softmax) : samples_(samples), softmax_(softmax) {
    if (softmax) values_.resize(int64_t{batches(samples)} * kBatch);  // locate() reads whole batches
  }

  // Takes the row whose first weight or logit this is.
  void take(const T* row) {
    if (!softmax_) return;
    using V = typename Lanes<T, VSS_VECTOR_BYTES>::type;
    constexpr int lanes = Lanes<T, VSS_VECTOR_BYTES>::count;
    const int padded = (samples_ + lanes - 1) / lanes * lanes;
    T* values = values_.data();
    std::memcpy(values, row, samples_ * sizeof(T));
    for (int s = samples_; s < padded; ++s) values[s] = -std::numeric_limits<T>::infinity();
    V largest = load<V>(values);
    for (int s = lanes; s < padded; s += lanes) largest = Largest{}(largest, load<V>(values + s));
    const T top = folded<T, VSS_VECTOR_BYTES>(largest, Largest{});
    for (int s = 0; s < padded; s += lanes) store<V>(values + s, load<V>(values + s) - top);
    exponential(values, values, padded);
    V sum = load<V>(values);
    for (int s = lanes; s < padded; s += lanes) sum += load<V>(values + s);
    const T scale = T(1) / folded<T, VSS_VECTOR_BYTES>(sum, Sum{});
    for (int s = 0; s < padded; s += lanes) store<V>(values + s, load<V>(values + s) * scale);
  }

  // The weights of the row's samples from `first` on, where `given` are those of the tensor.
  const T* from(int first, const T* given) const { return softmax_ ? values_.data() + first : given; }

  // Turns the gradient of the row's weights into that of its logits.
  void to_logits(T* grad) const {
    if (!softmax_) return;
    T dot = 0;
    for (int s = 0; s < samples_; ++s) dot += values_[s] * grad[s];
    for (int s = 0; s < samples_; ++s) grad[s] = values_[s] * (grad[s] - dot);
  }

 private:
  int samples_;
  bool softmax_;
  std::vector<T> values_;
};

}  // namespace
}  // namespace VSS_ISA
}  // namespace vss
