// Where rows, samples and table rows of the two ops lie, as the kernels ask for them.
#pragma once

#include "../problem.h"
#include "sampling.cuh"

namespace vss {

// Tiles of 2^log that cover `size`.
VSS_INLINE int64_t tiles(int64_t size, int32_t log) { return (size + (int64_t{1} << log) - 1) >> log; }

// A kernel point of DCNv3, relative to the kernel's centre.
struct DcnPoint {
  float x, y;
};

__device__ __forceinline__ DcnPoint point_of(const Dcn& p, int s) {
  int32_t x, y;
  p.point(s, &x, &y);
  return {static_cast<float>(x), static_cast<float>(y)};
}

// The sample of a kernel point at output pixel (x, y), with its offset. `scale` is the offset_scale of `p`: converting
// that double takes a thread longer than all else here.
template <typename O>
__device__ __forceinline__ Sample sample_of(const Dcn& p, float scale, const DcnPoint& point, const O* offset, int x,
                                            int y) {
  const auto width = static_cast<int32_t>(p.W), height = static_cast<int32_t>(p.H);
  const int centre_x = x * p.stride_w + p.half_w() - p.pad_w, centre_y = y * p.stride_h + p.half_h() - p.pad_h;
  // fmaf, so that a sample found twice is the same sample
  const float at_x = fmaf(to_float(offset[0]) + point.x, scale, static_cast<float>(centre_x));
  const float at_y = fmaf(to_float(offset[1]) + point.y, scale, static_cast<float>(centre_y));
  const int32_t spare = min(max(centre_y, 0), height - 1) * width + min(max(centre_x, 0), width - 1);
  return sample_at(at_x, at_y, width, height, 0, spare);
}

// DCNv3. A block takes a tile of 2^log_w x 2^log_h output pixels and 2^log_g groups; local rows run over groups, then
// columns, then lines.
struct DcnView {
  using Point = DcnPoint;
  static constexpr const char* kTooManyRows = "offset has too many pixels and groups for one launch on a GPU";
  static constexpr const char* kTooManySamples = "kernel_size has too many points for a GPU, at most 2047";
  static constexpr const char* kTooManyElements = "input has too many elements per image for a GPU";

  Dcn p;
  float offset_scale;
  int32_t log_w, log_h, log_g;
  uint32_t columns, lines, groups;  // tiles of an image
  int64_t line_rows;                // rows of a line of the output

  // of the current block; what follows from these is not kept, to save registers
  uint32_t image;
  int32_t first_x, first_y, first_g;

  DcnView(const Dcn& problem, int32_t log_w, int32_t log_h, int32_t log_g)
      : p(problem),
        offset_scale(static_cast<float>(p.offset_scale)),
        log_w(log_w),
        log_h(log_h),
        log_g(log_g),
        columns(static_cast<uint32_t>(tiles(p.Wo, log_w))),
        lines(static_cast<uint32_t>(tiles(p.Ho, log_h))),
        groups(static_cast<uint32_t>(tiles(p.G, log_g))),
        line_rows(p.Wo * p.G) {}

  VSS_INLINE int64_t blocks() const { return p.N * lines * columns * groups; }
  VSS_INLINE int rows_per_block() const { return 1 << (log_w + log_h + log_g); }
  VSS_INLINE int samples() const { return p.samples(); }
  VSS_INLINE int D() const { return p.D; }
  VSS_INLINE int64_t stride() const { return int64_t{p.G} * p.D; }
  VSS_INLINE int64_t image_elements() const { return p.H * p.W * stride(); }

  // Group tiles of one place are neighbours in the grid, so that they run together and share lines of the offsets.
  __device__ __forceinline__ void open(uint32_t block) {
    first_g = static_cast<int32_t>(block % groups) << log_g;
    block /= groups;
    first_x = static_cast<int32_t>(block % columns) << log_w;
    block /= columns;
    first_y = static_cast<int32_t>(block % lines) << log_h;
    image = block / lines;
  }

  __device__ __forceinline__ int x_of(int local) const { return first_x + (local >> log_g & ((1 << log_w) - 1)); }
  __device__ __forceinline__ int y_of(int local) const { return first_y + (local >> (log_g + log_w)); }
  __device__ __forceinline__ int g_of(int local) const { return first_g + (local & ((1 << log_g) - 1)); }

  // Row of the output, -1 beyond its edge.
  __device__ __forceinline__ int64_t row(int local) const {
    const int x = x_of(local), y = y_of(local), g = g_of(local);
    if (x >= static_cast<int>(p.Wo) || y >= static_cast<int>(p.Ho) || g >= p.G) return -1;
    return (int64_t{image} * static_cast<uint32_t>(p.Ho) + y) * line_rows + (int64_t{x} * p.G + g);
  }

  // First channel of the row's group in pixel 0 of its image.
  __device__ __forceinline__ int64_t table_at(int local) const {
    return image * image_elements() + int64_t{g_of(local)} * p.D;
  }

  __device__ __forceinline__ Point point(int s) const { return point_of(p, s); }

  template <typename O>
  __device__ __forceinline__ Sample locate(const Point& point, const O* offset, int local) const {
    return sample_of(p, offset_scale, point, offset, x_of(local), y_of(local));
  }

  __device__ __forceinline__ float2 scale(const Point&) const {
    return make_float2(offset_scale, offset_scale);
  }
};

// Attention. A block takes 2^log_q neighbouring queries and 2^log_m heads; local rows run over heads, then queries.
// Queries need not be neighbours in any image; where they are (the pixel decoder's queries are the pixels in order)
// those of one head sample the same table rows.
struct AttentionView {
  struct Point {  // the level of a sample
    int32_t width, height, start;
  };
  static constexpr const char* kTooManyRows = "sampling_locations has too many queries and heads for one launch on a GPU";
  static constexpr const char* kTooManySamples = "sampling_locations has too many levels x points for a GPU, at most 2047";
  static constexpr const char* kTooManyElements = "value has too many elements per image for a GPU";

  Attention p;
  int32_t log_q, log_m;
  int64_t queries;  // tiles of an image
  uint32_t heads;

  // of the current block
  int64_t first_row;
  uint32_t image;
  int32_t first_m, count_q;  // queries from its first to the last of the image, not more than it takes

  AttentionView(const Attention& problem, int32_t log_q, int32_t log_m)
      : p(problem),
        log_q(log_q),
        log_m(log_m),
        queries(tiles(p.Q, log_q)),
        heads(static_cast<uint32_t>(tiles(p.M, log_m))) {}

  VSS_INLINE int64_t blocks() const { return p.N * queries * heads; }
  VSS_INLINE int rows_per_block() const { return 1 << (log_q + log_m); }
  VSS_INLINE int samples() const { return p.samples(); }
  VSS_INLINE int D() const { return p.D; }
  VSS_INLINE int64_t stride() const { return int64_t{p.M} * p.D; }
  VSS_INLINE int64_t image_elements() const { return p.S * stride(); }

  __device__ __forceinline__ void open(uint32_t block) {
    first_m = static_cast<int32_t>(block % heads) << log_m;
    block /= heads;
    const auto launched = static_cast<uint32_t>(queries);  // fewer than 2^31, or nothing is launched
    const int64_t first_q = int64_t{block % launched} << log_q;
    count_q = static_cast<int32_t>(min(p.Q - first_q, int64_t{1} << log_q));
    image = block / launched;
    first_row = (image * p.Q + first_q) * p.M + first_m;
  }

  // Query and head of a row in the tile.
  __device__ __forceinline__ int q_of(int local) const { return local >> log_m; }
  __device__ __forceinline__ int m_of(int local) const { return local & ((1 << log_m) - 1); }

  // Row of the output, -1 beyond the queries or heads.
  __device__ __forceinline__ int64_t row(int local) const {
    const int q = q_of(local), m = m_of(local);
    return first_m + m < p.M && q < count_q ? first_row + int64_t{q} * p.M + m : -1;
  }

  // First channel of the row's head in position 0 of its image.
  __device__ __forceinline__ int64_t table_at(int local) const {
    return image * image_elements() + int64_t{first_m + m_of(local)} * p.D;
  }

  // The host cannot look at device memory without waiting: a level that is not inside the table is empty. Samples of an
  // empty level read position 0, which is there, since the table is not empty.
  __device__ __forceinline__ Point point(int s) const {
    const int level = s / p.P;
    const int64_t height = p.shapes[2 * level], width = p.shapes[2 * level + 1], start = p.starts[level];
    const bool sizes = height >= 1 && height <= p.S && width >= 1 && width <= p.S;  // their product is then no overflow
    if (!sizes || start < 0 || start > p.S - height * width) return {0, 0, 0};
    return {static_cast<int32_t>(width), static_cast<int32_t>(height), static_cast<int32_t>(start)};
  }

  template <typename O>
  __device__ __forceinline__ Sample locate(const Point& level, const O* location, int) const {
    const float x = fmaf(to_float(location[0]), static_cast<float>(level.width), -0.5f);
    const float y = fmaf(to_float(location[1]), static_cast<float>(level.height), -0.5f);
    const float right = static_cast<float>(level.width - 1), bottom = static_cast<float>(level.height - 1);
    const int32_t column = static_cast<int32_t>(fmaxf(fminf(x, right), 0.f));  // a number whatever x is
    const int32_t line = static_cast<int32_t>(fmaxf(fminf(y, bottom), 0.f));
    return sample_at(x, y, level.width, level.height, level.start, level.start + line * level.width + column);
  }

  __device__ __forceinline__ float2 scale(const Point& level) const {
    return make_float2(static_cast<float>(level.width), static_cast<float>(level.height));
  }
};

}  // namespace vss
