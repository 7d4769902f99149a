// CPU kernels of both ops, for the instruction set named by VSS_ISA with vectors of VSS_VECTOR_BYTES.
//
// Bytes, for a DCNv3 row of InternImage-H (9 points, 32 channels, float32): 36 table rows of 128 bytes are read, 4.6 KB,
// against 128 bytes written and 108 of offset and mask. Neighbouring pixels sample the same few image rows, so nearly
// all of the 4.6 KB comes from the first two cache levels provided that (a) the channels of a row are contiguous, as
// they are channels-last, and (b) a thread walks along image rows. The rest is arithmetic: positions are found for up
// to 16 samples at once, one vector lane a sample, and the channels of a row stay in registers until it is complete.
// The pure PyTorch path stores indices and weights of all samples (36 * 12 bytes a row) and gathers rows into memory.
//
// Backward: threads own whole (image, group) pairs, so that no two of them ever add to the same address: no atomics,
// no private copies, and the same result on every run and for every number of threads.

#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#ifndef VSS_ISA
#define VSS_ISA baseline
#define VSS_VECTOR_BYTES 16
#endif

namespace vss {
namespace VSS_ISA {
namespace {

constexpr int kBatch = 16;  // samples located at once

// Vector of `Bytes` bytes; GCC and Clang lower it to whatever the instruction set has.
template <typename T, int Bytes>
struct Lanes {
  typedef T type __attribute__((vector_size(Bytes)));
  static constexpr int count = Bytes / sizeof(T);
};

template <typename V>
inline V load(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <typename V>
inline void store(void* to, V v) {
  std::memcpy(to, &v, sizeof v);
}

// Both problems in the form the loops want: position = centre(place) + (coordinate + base[s]) * scale[s], in an image
// of width[s] x height[s] pixels that begins at row start[s] of the table. Padded to a multiple of kBatch samples.
template <typename T>
struct Layout {
  int64_t images, groups, places, table_size, stride;  // stride: elements from a pixel to the next
  int32_t D, samples;
  int64_t columns;                             // places in a line of the output
  T first_x, first_y, step_x, step_y;          // centre of place (0, 0), and its advance a column and a line
  std::vector<T> base_x, base_y, scale_x, scale_y, width, height;
  std::vector<int64_t> start;

  void add(T bx, T by, T sx, T sy, int64_t w, int64_t h, int64_t begin) {
    base_x.push_back(bx);
    base_y.push_back(by);
    scale_x.push_back(sx);
    scale_y.push_back(sy);
    width.push_back(static_cast<T>(w));
    height.push_back(static_cast<T>(h));
    start.push_back(begin);
  }
};

inline int padded(int samples) { return (samples + kBatch - 1) / kBatch * kBatch; }

template <typename T>
Layout<T> layout(const Dcn& p) {
  Layout<T> l{p.N, p.G, p.Ho * p.Wo, p.H * p.W * p.G * p.D, int64_t{p.G} * p.D, p.D, p.samples(), p.Wo,
              T(p.half_w() - p.pad_w), T(p.half_h() - p.pad_h), T(p.stride_w), T(p.stride_h), {}, {}, {}, {}, {}, {}, {}};
  const T scale = static_cast<T>(p.offset_scale);
  for (int s = 0; s < padded(p.samples()); ++s) {
    int32_t x, y;
    p.point(std::min(s, p.samples() - 1), &x, &y);
    l.add(T(x), T(y), scale, scale, p.W, p.H, 0);
  }
  return l;
}

template <typename T>
Layout<T> layout(const Attention& p) {
  Layout<T> l{p.N, p.M, p.Q, p.S * p.M * p.D, int64_t{p.M} * p.D, p.D, p.samples(), std::max<int64_t>(1, p.Q),
              T(-0.5), T(-0.5), T(0), T(0), {}, {}, {}, {}, {}, {}, {}};
  for (int s = 0; s < padded(p.samples()); ++s) {
    const int level = std::min(s, p.samples() - 1) / p.P;
    const int64_t h = p.shapes[2 * level], w = p.shapes[2 * level + 1];
    if (h == 0 || w == 0) {  // may start beyond the table, and may still be wide
      l.add(T(0), T(0), T(0), T(0), 0, 0, 0);
    } else {
      l.add(T(0), T(0), static_cast<T>(w), static_cast<T>(h), w, h, p.starts[level]);
    }
  }
  return l;
}

// Up to kBatch samples of one row, a sample a lane. Corners are in (y, x) order.
template <typename T>
struct Located {
  int64_t row[4][kBatch];  // element offset of the corner's channels from the table of this (image, group)
  T inside[4][kBatch];     // 1 inside the image, 0 outside; row is then some row of the table, read where 0 * NaN is
  T fx[kBatch], fy[kBatch];
};

// Finds samples first.. of a row and splits their positions into corners. `coordinates` are x and y in turn. Written
// without branches, so that it becomes vector code.
template <typename T>
inline void locate(const Layout<T>& l, T centre_x, T centre_y, const T* coordinates, int first, int count,
                   Located<T>& at) {
  T cx[kBatch] = {}, cy[kBatch] = {};
  for (int s = 0; s < count; ++s) {
    cx[s] = coordinates[2 * s];
    cy[s] = coordinates[2 * s + 1];
  }
  const T *base_x = &l.base_x[first], *base_y = &l.base_y[first];
  const T *scale_x = &l.scale_x[first], *scale_y = &l.scale_y[first];
  const T *width = &l.width[first], *height = &l.height[first];
  const int64_t* start = &l.start[first];
  for (int s = 0; s < kBatch; ++s) {
    const T x = centre_x + (cx[s] + base_x[s]) * scale_x[s], y = centre_y + (cy[s] + base_y[s]) * scale_y[s];
    const bool near = (x > T(-1)) & (x < width[s]) & (y > T(-1)) & (y < height[s]);  // false for NaN
    const T px = near ? x : T(0), py = near ? y : T(0);
    const T left = std::floor(px), top = std::floor(py);
    at.fx[s] = px - left;
    at.fy[s] = py - top;
    const T in = near ? T(1) : T(0);
    const bool has_x0 = left >= T(0), has_x1 = left + T(1) < width[s];
    const bool has_y0 = top >= T(0), has_y1 = top + T(1) < height[s];
    const T x0 = has_x0 ? in : T(0), x1 = has_x1 ? in : T(0);
    const T y0 = has_y0 ? T(1) : T(0), y1 = has_y1 ? T(1) : T(0);
    at.inside[0][s] = y0 * x0;
    at.inside[1][s] = y0 * x1;
    at.inside[2][s] = y1 * x0;
    at.inside[3][s] = y1 * x1;
    const int64_t line = static_cast<int64_t>(static_cast<int32_t>(width[s])) * l.stride;
    const int64_t column = static_cast<int32_t>(has_x0 ? left : T(0)) * l.stride;
    const int64_t right = has_x0 & has_x1 ? l.stride : 0, down = has_y0 & has_y1 ? line : 0;
    const int64_t corner = start[s] * l.stride + static_cast<int32_t>(has_y0 ? top : T(0)) * line + column;
    at.row[0][s] = corner;
    at.row[1][s] = corner + right;
    at.row[2][s] = corner + down;
    at.row[3][s] = corner + down + right;
  }
}

// Bilinear weights times the sample's own weight, four a sample; zero outside.
template <typename T>
inline void corner_weights(const Located<T>& at, const T* weight, T out[4][kBatch]) {
  for (int s = 0; s < kBatch; ++s) {
    const T right = at.fx[s] * weight[s], left = weight[s] - right;
    out[0][s] = at.inside[0][s] * (T(1) - at.fy[s]) * left;
    out[1][s] = at.inside[1][s] * (T(1) - at.fy[s]) * right;
    out[2][s] = at.inside[2][s] * at.fy[s] * left;
    out[3][s] = at.inside[3][s] * at.fy[s] * right;
  }
}

template <typename T>
inline void copy_weights(const T* from, int count, T* to) {
  for (int s = 0; s < kBatch; ++s) to[s] = s < count ? from[s] : T(0);
}

// out[0 : n * lanes] += sum of weighted table rows, in registers over all samples. The left and the right corners have
// sums of their own: an addition waits four cycles for the one before it, and n vectors alone would not fill them.
template <typename V, int n, typename T>
inline void gather(const T* table, const Located<T>& at, const T weight[4][kBatch], int count, T* out) {
  constexpr int lanes = sizeof(V) / sizeof(T);
  V sum[2][n];
  for (int i = 0; i < n; ++i) {
    sum[0][i] = load<V>(out + i * lanes);
    sum[1][i] = V{};
  }
  for (int s = 0; s < count; ++s) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const T w = weight[c][s];
      if (w == T(0)) continue;  // outside, or exactly on a pixel: three quarters of all corners at initialisation
      const T* row = table + at.row[c][s];
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i) sum[c & 1][i] += load<V>(row + i * lanes) * w;
    }
  }
  for (int i = 0; i < n; ++i) store<V>(out + i * lanes, sum[0][i] + sum[1][i]);
}

template <typename V, typename T>
inline T horizontal_sum(V v) {
  constexpr int lanes = sizeof(V) / sizeof(T);
  T parts[lanes];
  store<V>(parts, v);
  T sum = 0;
  for (int i = 0; i < lanes; ++i) sum += parts[i];
  return sum;
}

// Folds vectors in half until 16 bytes are left: cheaper than summing wide vectors lane by lane.
template <typename T, int Bytes>
inline T folded_sum(typename Lanes<T, Bytes>::type v) {
  if constexpr (Bytes > 16) {
    using Half = typename Lanes<T, Bytes / 2>::type;
    char parts[Bytes];
    std::memcpy(parts, &v, Bytes);
    return folded_sum<T, Bytes / 2>(load<Half>(parts) + load<Half>(parts + Bytes / 2));
  } else {
    return horizontal_sum<typename Lanes<T, Bytes>::type, T>(v);
  }
}

// For every corner of every sample: dots[c][s] += <grad, row> and grad_row += weight * grad.
template <typename T, int Bytes, int n>
inline void scatter(const T* grad, const T* table, const Located<T>& at, const T weight[4][kBatch], int count,
                    T* grad_table, T dots[4][kBatch]) {
  using V = typename Lanes<T, Bytes>::type;
  constexpr int lanes = Bytes / sizeof(T);
  V g[n];
  for (int i = 0; i < n; ++i) g[i] = load<V>(grad + i * lanes);
  for (int s = 0; s < count; ++s) {
    for (int c = 0; c < 4; ++c) {
      if (at.inside[c][s] == T(0)) continue;
      const T* row = table + at.row[c][s];
      T* grad_row = grad_table + at.row[c][s];
      V dot = load<V>(row) * g[0];
#pragma GCC unroll 8
      for (int i = 1; i < n; ++i) dot += load<V>(row + i * lanes) * g[i];
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i) store<V>(grad_row + i * lanes, load<V>(grad_row + i * lanes) + g[i] * weight[c][s]);
      dots[c][s] += folded_sum<T, Bytes>(dot);
    }
  }
}

// Calls block(channel, bytes, n) until all channels are covered, widest vectors first.
template <typename T, typename Block>
inline void for_channels(int channels, Block block) {
  constexpr int wide = VSS_VECTOR_BYTES / sizeof(T);
  using std::integral_constant;
  int c = 0;
  for (; channels - c >= 4 * wide; c += 4 * wide)
    block(c, integral_constant<int, VSS_VECTOR_BYTES>{}, integral_constant<int, 4>{});
  for (; channels - c >= 2 * wide; c += 2 * wide)
    block(c, integral_constant<int, VSS_VECTOR_BYTES>{}, integral_constant<int, 2>{});
  for (; channels - c >= wide; c += wide)
    block(c, integral_constant<int, VSS_VECTOR_BYTES>{}, integral_constant<int, 1>{});
  constexpr int narrow = 16 / sizeof(T);
  for (; channels - c >= narrow; c += narrow) block(c, integral_constant<int, 16>{}, integral_constant<int, 1>{});
  for (; c < channels; ++c) block(c, integral_constant<int, sizeof(T)>{}, integral_constant<int, 1>{});
}

// grad_weight, grad_x and grad_y of the located samples from the four dots of each.
template <typename T>
inline void finish(const Layout<T>& l, const Located<T>& at, const T* weight, const T dots[4][kBatch], int first,
                   int count, T* grad_coordinates, T* grad_weights) {
  const T *scale_x = &l.scale_x[first], *scale_y = &l.scale_y[first];
  T gx[kBatch], gy[kBatch], gw[kBatch];
  for (int s = 0; s < kBatch; ++s) {
    const T fx = at.fx[s], fy = at.fy[s];
    const T d0 = dots[0][s], d1 = dots[1][s], d2 = dots[2][s], d3 = dots[3][s];
    gw[s] = (T(1) - fy) * ((T(1) - fx) * d0 + fx * d1) + fy * ((T(1) - fx) * d2 + fx * d3);
    gx[s] = weight[s] * scale_x[s] * ((T(1) - fy) * (d1 - d0) + fy * (d3 - d2));
    gy[s] = weight[s] * scale_y[s] * ((T(1) - fx) * (d2 - d0) + fx * (d3 - d1));
  }
  for (int s = 0; s < count; ++s) {
    grad_weights[s] = gw[s];
    grad_coordinates[2 * s] = gx[s];
    grad_coordinates[2 * s + 1] = gy[s];
  }
}

template <typename T>
struct Call {
  Layout<T> layout;
  const T *grad, *table, *coordinates, *weights;
  T *out, *grad_table, *grad_coordinates, *grad_weights;

  // Places of all images are the unit, all groups of a place together: offsets, mask and output then stream through
  // memory in order. Taking several places of one group first, so that its rows stay in the first-level cache, was tried
  // and was slower (250 instead of 160 ns a row): pixels lie 4 * C bytes apart, which is a multiple of 1 KB and maps them
  // to a few cache sets, and nothing streams any more.
  static void forward(const void* context, int64_t begin, int64_t end) {
    const Call& call = *static_cast<const Call*>(context);
    const Layout<T>& l = call.layout;
    Located<T> at;
    T weight[kBatch], corners[4][kBatch];
    for (int64_t unit = begin; unit < end; ++unit) {
      const T* image = call.table + unit / l.places * l.table_size;
      const int64_t place = unit % l.places;
      const T x = l.first_x + T(place % l.columns) * l.step_x, y = l.first_y + T(place / l.columns) * l.step_y;
      for (int64_t g = 0; g < l.groups; ++g) {
        const int64_t row = unit * l.groups + g;
        const T* table = image + g * l.D;
        T* out = call.out + row * l.D;
        std::fill(out, out + l.D, T(0));
        for (int first = 0; first < l.samples; first += kBatch) {
          const int count = std::min(kBatch, l.samples - first);
          const int64_t sample = row * l.samples + first;
          locate(l, x, y, call.coordinates + 2 * sample, first, count, at);
          copy_weights(call.weights + sample, count, weight);
          corner_weights(at, weight, corners);
          for_channels<T>(l.D, [&](int c, auto bytes, auto n) {
            gather<typename Lanes<T, bytes()>::type, n()>(table + c, at, corners, count, out + c);
          });
        }
      }
    }
  }

  // An (image, group) pair is the unit.
  static void backward(const void* context, int64_t begin, int64_t end) {
    const Call& call = *static_cast<const Call*>(context);
    const Layout<T>& l = call.layout;
    Located<T> at;
    T weight[kBatch], corners[4][kBatch], dots[4][kBatch];
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t group = unit % l.groups, table_at = unit / l.groups * l.table_size + group * l.D;
      const T* table = call.table + table_at;
      T* grad_table = call.grad_table + table_at;
      for (int64_t place = 0; place < l.places; ++place) {
        const T x = l.first_x + T(place % l.columns) * l.step_x, y = l.first_y + T(place / l.columns) * l.step_y;
        const int64_t row = (unit / l.groups * l.places + place) * l.groups + group;
        for (int first = 0; first < l.samples; first += kBatch) {
          const int count = std::min(kBatch, l.samples - first);
          const int64_t sample = row * l.samples + first;
          locate(l, x, y, call.coordinates + 2 * sample, first, count, at);
          copy_weights(call.weights + sample, count, weight);
          corner_weights(at, weight, corners);
          std::fill(&dots[0][0], &dots[0][0] + 4 * kBatch, T(0));
          for_channels<T>(l.D, [&](int c, auto bytes, auto n) {
            scatter<T, bytes(), n()>(call.grad + row * l.D + c, table + c, at, corners, count, grad_table + c, dots);
          });
          finish(l, at, weight, dots, first, count, call.grad_coordinates + 2 * sample, call.grad_weights + sample);
        }
      }
    }
  }
};

}  // namespace

template <typename T, typename Problem>
void forward(const Problem& p, ParallelFor parallel, const T* table, const T* coordinates, const T* weights, T* out) {
  const Call<T> call{layout<T>(p), nullptr, table, coordinates, weights, out, nullptr, nullptr, nullptr};
  const Layout<T>& l = call.layout;
  const int64_t grain = std::max<int64_t>(1, 4096 / std::max<int64_t>(1, l.groups * l.samples));
  parallel(l.images * l.places, grain, &Call<T>::forward, &call);
}

template <typename T, typename Problem>
void backward(const Problem& p, ParallelFor parallel, const T* grad, const T* table, const T* coordinates,
              const T* weights, T* grad_table, T* grad_coordinates, T* grad_weights) {
  const Call<T> call{layout<T>(p), grad,       table,            coordinates, weights,
                     nullptr,      grad_table, grad_coordinates, grad_weights};
  const Layout<T>& l = call.layout;
  const int64_t grain = std::max<int64_t>(1, 4096 / std::max<int64_t>(1, l.places * l.samples));
  parallel(l.images * l.groups, grain, &Call<T>::backward, &call);
}

#define VSS_INSTANTIATE(T, Problem)                                                                                \
  template void forward<T, Problem>(const Problem&, ParallelFor, const T*, const T*, const T*, T*);                \
  template void backward<T, Problem>(const Problem&, ParallelFor, const T*, const T*, const T*, const T*, T*, T*, T*);

VSS_INSTANTIATE(float, Dcn)
VSS_INSTANTIATE(double, Dcn)
VSS_INSTANTIATE(float, Attention)
VSS_INSTANTIATE(double, Attention)

}  // namespace VSS_ISA
}  // namespace vss
