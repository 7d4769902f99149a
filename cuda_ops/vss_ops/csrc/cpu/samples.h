// Where samples lie: from coordinates to table rows and bilinear weights, many samples at once. A part of kernels.cpp,
// compiled for each of its instruction sets.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "../problem.h"

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

template <typename T>
using Integer = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

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

// kBatch samples of every row, a sample a lane: position = centre(place) + (coordinate + base) * scale, in an image of
// width x height pixels whose first is `start` pixels into the table.
template <typename T>
struct alignas(64) Batch {
  T base_x[kBatch], base_y[kBatch], scale_x[kBatch], scale_y[kBatch], width[kBatch], height[kBatch];
  Integer<T> columns[kBatch], start[kBatch];

  void set(int lane, T bx, T by, T sx, T sy, int64_t w, int64_t h, int64_t begin) {
    base_x[lane] = bx;
    base_y[lane] = by;
    scale_x[lane] = sx;
    scale_y[lane] = sy;
    width[lane] = static_cast<T>(w);
    height[lane] = static_cast<T>(h);
    columns[lane] = static_cast<Integer<T>>(w);
    start[lane] = static_cast<Integer<T>>(begin);
  }
};

// Both problems in the form the loops need; lanes beyond the samples repeat the last one.
template <typename T>
struct Layout {
  int64_t images, groups, places, table_size, stride;  // stride: elements from one pixel to the next
  int32_t D, samples;
  int64_t columns;                     // places in a line of the output
  T first_x, first_y, step_x, step_y;  // centre of place (0, 0), and its advance a column and a line
  std::vector<Batch<T>> batches;

  int64_t rows() const { return images * places * groups; }
};

inline int batches(int samples) { return (samples + kBatch - 1) / kBatch; }

template <typename T>
Layout<T> layout(const Dcn& p) {
  Layout<T> l{p.N, p.G, p.Ho * p.Wo, p.H * p.W * p.G * p.D, int64_t{p.G} * p.D, p.D, p.samples(), p.Wo,
              T(p.half_w() - p.pad_w), T(p.half_h() - p.pad_h), T(p.stride_w), T(p.stride_h), {}};
  l.batches.resize(batches(p.samples()));
  const T scale = static_cast<T>(p.offset_scale);
  for (int s = 0; s < int(l.batches.size()) * kBatch; ++s) {
    int32_t x, y;
    p.point(std::min(s, p.samples() - 1), &x, &y);
    l.batches[s / kBatch].set(s % kBatch, T(x), T(y), scale, scale, p.W, p.H, 0);
  }
  return l;
}

template <typename T>
Layout<T> layout(const Attention& p) {
  Layout<T> l{p.N, p.M, p.Q, p.S * p.M * p.D, int64_t{p.M} * p.D, p.D, p.samples(), std::max<int64_t>(1, p.Q),
              T(-0.5), T(-0.5), T(0), T(0), {}};
  l.batches.resize(batches(p.samples()));
  for (int s = 0; s < int(l.batches.size()) * kBatch; ++s) {
    const int level = std::min(s, p.samples() - 1) / p.P;
    int64_t h = p.shapes[2 * level], w = p.shapes[2 * level + 1], start = p.starts[level];
    if (h == 0 || w == 0) h = w = start = 0;  // may start beyond the table, and may still be wide
    l.batches[s / kBatch].set(s % kBatch, T(0), T(0), T(w), T(h), w, h, start);
  }
  return l;
}

// Up to kBatch samples of one row, a sample a lane. Corners are in (y, x) order.
template <typename T>
struct alignas(64) Located {
  T x_inside[2][kBatch], y_inside[2][kBatch];  // 1 inside the image, 0 outside
  T fx[kBatch], fy[kBatch];

  bool inside(int corner, int s) const { return x_inside[corner & 1][s] * y_inside[corner >> 1][s] != T(0); }
};

// Element offset of the corners' channels from the table of this (image, group). Where a corner is outside the image it
// is that of another pixel, which is read where 0 * NaN is expected.
struct alignas(64) Rows {
  int64_t of[4][kBatch];
};

// Finds a row's samples and splits their positions into corners. `coordinates` are x and y in turn, kBatch of them.
// Vectors by hand where there are conditions, which compilers turn into branches; masks are integers, 0 or -1.
template <typename T>
inline void locate(const Batch<T>& b, T centre_x, T centre_y, const T* coordinates, int64_t stride, Located<T>& at,
                   Rows& rows) {
  using V = typename Lanes<T, VSS_VECTOR_BYTES>::type;
  using I = typename Lanes<Integer<T>, VSS_VECTOR_BYTES>::type;
  alignas(64) T given_x[kBatch], given_y[kBatch];
  alignas(64) Integer<T> pixel[kBatch], right[kBatch], down[kBatch];
  for (int s = 0; s < kBatch; ++s) {
    given_x[s] = coordinates[2 * s];
    given_y[s] = coordinates[2 * s + 1];
  }
  for (int s = 0; s < kBatch; s += int(sizeof(V) / sizeof(T))) {
    const auto of = [s](const T* values) { return load<V>(values + s); };
    const V zero = {}, one = zero + T(1), width = of(b.width), height = of(b.height);
    const V x = centre_x + (of(given_x) + of(b.base_x)) * of(b.scale_x);
    const V y = centre_y + (of(given_y) + of(b.base_y)) * of(b.scale_y);
    const I near = (x > -one) & (x < width) & (y > -one) & (y < height);  // false for NaN
    const V px = near ? x : zero, py = near ? y : zero;
    I left = __builtin_convertvector(px, I), top = __builtin_convertvector(py, I);
    left += px < __builtin_convertvector(left, V);
    top += py < __builtin_convertvector(top, V);
    const V floor_x = __builtin_convertvector(left, V), floor_y = __builtin_convertvector(top, V);
    const I x0 = near & (left >= 0), x1 = near & (floor_x + one < width);
    const I y0 = near & (top >= 0), y1 = near & (floor_y + one < height);
    store(at.fx + s, px - floor_x);
    store(at.fy + s, py - floor_y);
    store(at.x_inside[0] + s, x0 ? one : zero);
    store(at.x_inside[1] + s, x1 ? one : zero);
    store(at.y_inside[0] + s, y0 ? one : zero);
    store(at.y_inside[1] + s, y1 ? one : zero);
    const I columns = load<I>(b.columns + s);
    store(pixel + s, load<I>(b.start + s) + (top & (top >= 0)) * columns + (left & (left >= 0)));
    store(right + s, x0 & x1 & 1);
    store(down + s, y0 & y1 & columns);
  }
  for (int s = 0; s < kBatch; ++s) {
    const int64_t corner = pixel[s] * stride, to_right = right[s] * stride, to_down = down[s] * stride;
    rows.of[0][s] = corner;
    rows.of[1][s] = corner + to_right;
    rows.of[2][s] = corner + to_down;
    rows.of[3][s] = corner + to_down + to_right;
  }
}

// Bilinear weights times the sample's own weight, four per sample; zero outside.
template <typename T>
inline void corner_weights(const Located<T>& at, const T* __restrict weight, T out[4][kBatch]) {
  for (int s = 0; s < kBatch; ++s) {
    const T left = at.x_inside[0][s] * (T(1) - at.fx[s]), right = at.x_inside[1][s] * at.fx[s];
    const T up = at.y_inside[0][s] * (T(1) - at.fy[s]) * weight[s], down = at.y_inside[1][s] * at.fy[s] * weight[s];
    out[0][s] = up * left;
    out[1][s] = up * right;
    out[2][s] = down * left;
    out[3][s] = down * right;
  }
}

// grad_weight, grad_x and grad_y of the located samples from the four dots of each.
template <typename T>
inline void finish(const Batch<T>& b, const Located<T>& at, const T* weight, const T dots[4][kBatch], int count,
                   T* grad_coordinates, T* grad_weights) {
  T gx[kBatch], gy[kBatch], gw[kBatch];
  for (int s = 0; s < kBatch; ++s) {
    const T fx = at.fx[s], fy = at.fy[s];
    const T d0 = dots[0][s], d1 = dots[1][s], d2 = dots[2][s], d3 = dots[3][s];
    gw[s] = (T(1) - fy) * ((T(1) - fx) * d0 + fx * d1) + fy * ((T(1) - fx) * d2 + fx * d3);
    gx[s] = weight[s] * b.scale_x[s] * ((T(1) - fy) * (d1 - d0) + fy * (d3 - d2));
    gy[s] = weight[s] * b.scale_y[s] * ((T(1) - fx) * (d2 - d0) + fx * (d3 - d1));
  }
  for (int s = 0; s < count; ++s) {
    grad_weights[s] = gw[s];
    grad_coordinates[2 * s] = gx[s];
    grad_coordinates[2 * s + 1] = gy[s];
  }
}

}  // namespace
}  // namespace VSS_ISA
}  // namespace vss
