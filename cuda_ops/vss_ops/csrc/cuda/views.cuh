// Where rows, samples and table rows of the two ops lie, as the kernels of sampling.cuh ask for them.
#pragma once

#include "../problem.h"
#include "sampling.cuh"

namespace vss {

// DCNv3. A block takes a tile of 2^log_w x 2^log_h output pixels and 2^log_g groups; local rows run over groups, then
// columns, then lines. In the backward pass log_g is 0 and a window of the image around the tile is kept in shared
// memory as floats [window_h][window_w][D].
struct DcnView {
  Dcn p;
  int32_t log_w, log_h, log_g;
  int32_t window_w, window_h;  // 0 without a window
  int32_t window_dx, window_dy;  // from the first sample centre of the tile to the window's corner

  // of the block at hand
  int64_t image;
  int32_t first_x, first_y, first_g, window_x, window_y;

  VSS_INLINE int64_t tiles(int64_t size, int32_t log) const { return (size + (int64_t{1} << log) - 1) >> log; }
  VSS_INLINE int64_t blocks() const {
    return p.N * tiles(p.Ho, log_h) * tiles(p.Wo, log_w) * tiles(p.G, log_g);
  }
  VSS_INLINE int rows_per_block() const { return 1 << (log_w + log_h + log_g); }
  VSS_INLINE int samples() const { return p.samples(); }
  VSS_INLINE int D() const { return p.D; }
  VSS_INLINE int64_t stride() const { return int64_t{p.G} * p.D; }
  VSS_INLINE int window_floats() const { return window_w * window_h * p.D; }

  // Group tiles of one place are neighbours in the grid, so that they run together and share lines of the offsets.
  __device__ __forceinline__ void open(int64_t block) {
    const int64_t groups = tiles(p.G, log_g), columns = tiles(p.Wo, log_w), lines = tiles(p.Ho, log_h);
    first_g = static_cast<int32_t>(block % groups) << log_g;
    block /= groups;
    first_x = static_cast<int32_t>(block % columns) << log_w;
    block /= columns;
    first_y = static_cast<int32_t>(block % lines) << log_h;
    image = block / lines;
    window_x = first_x * p.stride_w + p.half_w() - p.pad_w + window_dx;
    window_y = first_y * p.stride_h + p.half_h() - p.pad_h + window_dy;
  }

  __device__ __forceinline__ int x_of(int local) const { return first_x + (local >> log_g & ((1 << log_w) - 1)); }
  __device__ __forceinline__ int y_of(int local) const { return first_y + (local >> (log_g + log_w)); }
  __device__ __forceinline__ int g_of(int local) const { return first_g + (local & ((1 << log_g) - 1)); }

  // Row of the output, -1 beyond its edge.
  __device__ __forceinline__ int64_t row(int local) const {
    const int x = x_of(local), y = y_of(local), g = g_of(local);
    if (x >= p.Wo || y >= p.Ho || g >= p.G) return -1;
    return ((image * p.Ho + y) * p.Wo + x) * p.G + g;
  }

  // First channel of the row's group in pixel 0 of its image.
  __device__ __forceinline__ int64_t table_at(int local, int64_t) const {
    return image * p.H * p.W * stride() + int64_t{g_of(local)} * p.D;
  }

  template <typename O>
  __device__ __forceinline__ Sample locate(const O* offsets, int64_t row, int local, int s) const {
    const O* offset = offsets + (row * samples() + s) * 2;
    int32_t dx, dy;
    p.point(s, &dx, &dy);
    const float scale = static_cast<float>(p.offset_scale);
    const float x = x_of(local) * p.stride_w + p.half_w() - p.pad_w + (to_float(offset[0]) + dx) * scale;
    const float y = y_of(local) * p.stride_h + p.half_h() - p.pad_h + (to_float(offset[1]) + dy) * scale;
    return sample_at(x, y, static_cast<int32_t>(p.W), static_cast<int32_t>(p.H), 0);
  }

  __device__ __forceinline__ float2 scale(int) const {
    return make_float2(static_cast<float>(p.offset_scale), static_cast<float>(p.offset_scale));
  }

  // Place of a sample's first corner in the window, -1 unless all its corners lie there.
  __device__ __forceinline__ int window_place(const Sample& at) const {
    const int width = static_cast<int>(p.W), line = at.pixel / width, column = at.pixel - line * width;
    const int x = column - window_x, y = line - window_y;
    const bool covered = x >= 0 && x + at.right() < window_w && y >= 0 && y + (at.down() ? 1 : 0) < window_h;
    return covered ? (y * window_w + x) * p.D : -1;
  }

  // From the first corner's place to that of corner `c`.
  __device__ __forceinline__ int window_step(const Sample& at, int c) const {
    return ((c & 1 ? at.right() : 0) + (c & 2 && at.down() ? window_w : 0)) * p.D;
  }

  // Adds the window to the gradient of the table.
  __device__ __forceinline__ void flush(const float* window, float* grad_table) const {
    const int quads = (p.D + 3) / 4;
    for (int i = threadIdx.x; i < window_w * window_h * quads; i += kThreads) {
      const int at = i / quads, channel = (i - at * quads) * 4;
      const int x = window_x + at % window_w, y = window_y + at / window_w;
      if (x < 0 || x >= p.W || y < 0 || y >= p.H) continue;
      const float* from = window + at * p.D + channel;
      float* to = grad_table + table_at(0, 0) + (int64_t{y} * p.W + x) * stride() + channel;
      if (p.D % 4 == 0) {
        const float v[4] = {from[0], from[1], from[2], from[3]};
        if (v[0] != 0.f || v[1] != 0.f || v[2] != 0.f || v[3] != 0.f) add_global(to, v);
      } else {
        for (int c = 0; c < 4 && channel + c < p.D; ++c)
          if (from[c] != 0.f) atomicAdd(to + c, from[c]);
      }
    }
  }
};

// Attention. A block takes `block_rows` consecutive (query, head) rows. Queries need not be neighbours in any image, so
// there is no window; where they are (the pixel decoder's queries are the pixels in order) the caches see it.
struct AttentionView {
  Attention p;
  int32_t block_rows;
  int64_t first;

  VSS_INLINE int64_t blocks() const { return (p.rows() + block_rows - 1) / block_rows; }
  VSS_INLINE int rows_per_block() const { return block_rows; }
  VSS_INLINE int samples() const { return p.samples(); }
  VSS_INLINE int D() const { return p.D; }
  VSS_INLINE int64_t stride() const { return int64_t{p.M} * p.D; }
  VSS_INLINE int window_floats() const { return 0; }
  __device__ __forceinline__ int window_place(const Sample&) const { return -1; }
  __device__ __forceinline__ int window_step(const Sample&, int) const { return 0; }
  __device__ __forceinline__ void flush(const float*, float*) const {}

  __device__ __forceinline__ void open(int64_t block) { first = block * block_rows; }
  __device__ __forceinline__ int64_t row(int local) const { return first + local < p.rows() ? first + local : -1; }
  __device__ __forceinline__ int64_t table_at(int, int64_t row) const {
    return row / (p.Q * p.M) * p.S * stride() + row % p.M * p.D;
  }

  template <typename O>
  __device__ __forceinline__ Sample locate(const O* locations, int64_t row, int, int s) const {
    const O* location = locations + (row * samples() + s) * 2;
    const int level = s / p.P;
    const int64_t height = p.shapes[2 * level], width = p.shapes[2 * level + 1], start = p.starts[level];
    // the host cannot look at device memory without waiting: a level that is not inside the table is empty. Samples of
    // an empty level lie at position 0, which is there: the table is not empty, and NaN weights read it
    if (height < 1 || width < 1 || start < 0 || start + height * width > p.S) return Sample{0, 0, 0.f, 0.f};
    const float x = to_float(location[0]) * width - 0.5f, y = to_float(location[1]) * height - 0.5f;
    return sample_at(x, y, static_cast<int32_t>(width), static_cast<int32_t>(height), static_cast<int32_t>(start));
  }

  __device__ __forceinline__ float2 scale(int s) const {
    const int level = s / p.P;
    return make_float2(static_cast<float>(p.shapes[2 * level + 1]), static_cast<float>(p.shapes[2 * level]));
  }
};

}  // namespace vss
