// DCNv3: tiles, windows and launches.

#include <algorithm>
#include <cmath>

#include "launch.cuh"
#include "window.cuh"

namespace vss {
namespace {

constexpr int kTiles[][2] = {{3, 3}, {3, 2}, {2, 2}, {2, 1}, {1, 1}, {1, 0}, {0, 0}};  // log2 of width, height
constexpr int kStaged = 128;  // samples a warp stages at once

// At most 64 rows: one thread a 16-byte vector for 32 channels of half precision. Two groups make the offsets of a pixel
// 72 contiguous bytes (8 x 4 pixels); more groups would leave fewer pixels to share table rows.
DcnView view_of(const Dcn& p) {
  const int log_g = p.G > 1 ? 1 : 0;
  for (const auto& tile : kTiles) {
    const DcnView view{p, tile[0], tile[1], log_g};
    if (view.rows_per_block() <= 64 && shared_bytes(view.rows_per_block(), p.samples()) <= kSharedBytes) return view;
  }
  return {p, 0, 0, 0};
}

// Finds the largest tile whose window fits in shared memory; false without one of at least 16 pixels, since a smaller
// tile has more window than samples.
bool windows_of(const Dcn& p, Windows& w) {
  w.p = p;
  const bool whole = kWarp % p.D == 0 || p.D % kWarp == 0;  // else 32 channels may begin and end inside a group
  w.groups = std::min((kWarp - 1) / p.D + (whole ? 1 : 2), p.G);
  if (w.groups * p.samples() > kStaged) return false;
  // one pixel beyond where samples fall with zero offsets; no farther than an int holds, and too far for any window
  const auto reach = [&](int half) {
    return static_cast<int>(std::fmin(std::ceil(half * std::fabs(p.offset_scale)), 1e6)) + 1;
  };
  const int reach_x = reach(p.half_w()), reach_y = reach(p.half_h());
  w.dx = -reach_x;
  w.dy = -reach_y;
  for (const auto& tile : kTiles) {
    if (tile[0] + tile[1] < 4) return false;
    w.log_w = tile[0];
    w.log_h = tile[1];
    w.width = ((1 << w.log_w) - 1) * p.stride_w + 2 * reach_x + 2;  // the last sample's second corner too
    w.height = ((1 << w.log_h) - 1) * p.stride_h + 2 * reach_y + 2;
    w.batch = std::min(kStaged / (w.groups * p.samples()), w.pixels());
    const bool fits = double(w.width) * w.height * kPixelBytes < kSharedBytes && w.shared_bytes() <= kSharedBytes;
    if (fits && w.blocks() <= kMostBlocks) return true;
  }
  return false;
}

const char* run_window(const Windows& w, Dtypes dtypes, const void* grad, const void* offset, const void* mask,
                       void* grad_input, bool softmax, void* stream) {
  if (w.blocks() == 0) return "";
  const auto blocks = static_cast<unsigned>(w.blocks());
  return with_types(dtypes, [&](auto t, auto o) {
    using T = typename decltype(t)::type;
    using O = typename decltype(o)::type;
    auto* kernel = &window_kernel<T, O>;
    VSS_LAUNCH(kernel, blocks, kWarp, w.shared_bytes(), stream, w, static_cast<const T*>(grad),
               static_cast<const O*>(offset), static_cast<const O*>(mask), static_cast<float*>(grad_input), softmax);
    return last_error();
  });
}

}  // namespace

template <>
const char* launch_forward<Dcn>(const Dcn& p, Dtypes dtypes, const void* table, const void* coordinates,
                                const void* weights, void* out, bool softmax, void* stream) {
  return run_forward(view_of(p), dtypes, table, coordinates, weights, out, softmax, stream);
}

template <>
const char* launch_backward<Dcn>(const Dcn& p, Dtypes dtypes, const void* grad, const void* table,
                                 const void* coordinates, const void* weights, void* grad_table,
                                 void* grad_coordinates, void* grad_weights, bool softmax, void* stream) {
  const DcnView view = view_of(p);
  const char* problem = run_points(view, dtypes, grad, table, coordinates, weights, grad_coordinates, grad_weights,
                                   softmax, stream);
  if (*problem != 0) return problem;
  Windows windows{};
  return windows_of(p, windows) && aligned(grad_table, 16)
             ? run_window(windows, dtypes, grad, coordinates, weights, grad_table, softmax, stream)
             : run_scatter(view, dtypes, grad, coordinates, weights, grad_table, softmax, stream);
}

}  // namespace vss
