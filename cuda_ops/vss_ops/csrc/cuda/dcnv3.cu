// DCNv3: tiles, windows and launches.

#include <cmath>

#include "launch.cuh"

namespace vss {
namespace {

constexpr int kTiles[][2] = {{3, 3}, {3, 2}, {2, 2}, {2, 1}, {1, 1}, {1, 0}, {0, 0}};  // log2 of width, height

DcnView tiled(const Dcn& p, int log_w, int log_h, int log_g) {
  DcnView view{};
  view.p = p;
  view.log_w = log_w;
  view.log_h = log_h;
  view.log_g = log_g;
  return view;
}

// At most 64 rows: one thread a 16-byte vector for 32 channels of half precision. Two groups make the offsets of a pixel
// 72 contiguous bytes (8 x 4 pixels); more groups would leave fewer pixels to share table rows.
DcnView forward_view(const Dcn& p) {
  const int log_g = p.G > 1 ? 1 : 0;
  for (const auto& tile : kTiles) {
    const DcnView view = tiled(p, tile[0], tile[1], log_g);
    if (view.rows_per_block() <= 64 && forward_bytes(view.rows_per_block(), p.samples()) <= kSharedBytes) return view;
  }
  return tiled(p, 0, 0, 0);
}

// The window reaches one pixel beyond where samples fall with zero offsets, plus the second corner.
void add_window(DcnView& view) {
  const Dcn& p = view.p;
  const auto reach = [&](int half) {  // no farther than an int holds; such a window is too large in any case
    return static_cast<int>(std::fmin(std::ceil(half * std::fabs(p.offset_scale)), 1e6)) + 1;
  };
  const int reach_x = reach(p.half_w()), reach_y = reach(p.half_h());
  view.window_dx = -reach_x;
  view.window_dy = -reach_y;
  view.window_w = ((1 << view.log_w) - 1) * p.stride_w + 2 * reach_x + 2;
  view.window_h = ((1 << view.log_h) - 1) * p.stride_h + 2 * reach_y + 2;
}

DcnView backward_view(const Dcn& p) {
  for (const auto& tile : kTiles) {
    if (tile[0] + tile[1] < 4) break;  // 16 pixels; a smaller tile has more window than samples
    DcnView view = tiled(p, tile[0], tile[1], 0);
    add_window(view);
    const double floats = double(view.window_w) * view.window_h * p.D;
    if (floats * 4 < kSharedBytes && backward_bytes(view.rows_per_block(), p.samples(), size_t(floats)) <= kSharedBytes)
      return view;
  }
  for (const auto& tile : kTiles) {
    const DcnView view = tiled(p, tile[0], tile[1], 0);
    if (backward_bytes(view.rows_per_block(), p.samples(), 0) <= kSharedBytes) return view;
  }
  return tiled(p, 0, 0, 0);
}

}  // namespace

template <>
const char* launch_forward<Dcn>(const Dcn& p, Dtypes dtypes, const void* table, const void* coordinates,
                                const void* weights, void* out, bool softmax, void* stream) {
  return run_forward(forward_view(p), dtypes, table, coordinates, weights, out, softmax, stream);
}

template <>
const char* launch_backward<Dcn>(const Dcn& p, Dtypes dtypes, const void* grad, const void* table,
                                 const void* coordinates, const void* weights, void* grad_table,
                                 void* grad_coordinates, void* grad_weights, bool softmax, void* stream) {
  return run_backward(backward_view(p), dtypes, grad, table, coordinates, weights, grad_table, grad_coordinates,
                      grad_weights, softmax, stream);
}

}  // namespace vss
