// DCNv3: tiles, windows and launches.

#include <algorithm>
#include <cmath>

#include "launch.cuh"
#include "window.cuh"

namespace vss {
namespace {

constexpr int kStaged = 128;  // samples that a warp stages at once

// Two groups make the offsets of a pixel 72 contiguous bytes (InternImage-H); more groups would leave fewer pixels to
// share table rows.
DcnView view_of(const Dcn& p, Dtypes dtypes) {
  const int log_rows = log_rows_of(lanes_of(p.D, dtypes), p.samples()), log_g = p.G > 1 && log_rows > 0 ? 1 : 0;
  const int log_pixels = log_rows - log_g;
  return {p, (log_pixels + 1) / 2, log_pixels / 2, log_g};
}

// Blocks that keep the GPU busy: about 8 run on an SM at once, and after three rounds of them a last one that is not
// full costs little.
int64_t enough_blocks() {
  int device = 0, processors = 0;
  const bool known = cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) == cudaSuccess;
  return known ? int64_t{processors} * 8 * 3 : 0;
}

// Finds the largest tile whose window fits in shared memory, and a smaller one while there are fewer than `enough`
// blocks. False without one of at least 16 pixels, since a smaller tile has more window than samples.
bool windows_of(const Dcn& p, int64_t enough, Windows& found) {
  Windows w{};
  w.p = p;
  w.offset_scale = static_cast<float>(p.offset_scale);
  const bool whole = kWarp % p.D == 0 || p.D % kWarp == 0;  // else 32 channels may begin and end inside a group
  w.groups = std::min((kWarp - 1) / p.D + (whole ? 1 : 2), p.G);
  if (w.groups * p.samples() > kStaged) return false;
  // One pixel beyond where samples fall with zero offsets, and the last sample's second corner. In double, since what no
  // int holds is too large in any case.
  const double scale = std::fabs(p.offset_scale), most = kSharedBytes;
  const double reach_x = std::ceil(p.half_w() * scale) + 1, reach_y = std::ceil(p.half_h() * scale) + 1;
  bool any = false;
  for (int log_pixels = 6; log_pixels >= 4 && !(any && found.blocks() >= enough); --log_pixels) {
    w.log_w = (log_pixels + 1) / 2;
    w.log_h = log_pixels / 2;
    const double width = ((1 << w.log_w) - 1) * double(p.stride_w) + 2 * reach_x + 2;
    const double height = ((1 << w.log_h) - 1) * double(p.stride_h) + 2 * reach_y + 2;
    if (width * height * kPixelBytes > most) continue;
    w.width = static_cast<int>(width);
    w.height = static_cast<int>(height);
    w.dx = -static_cast<int>(reach_x);
    w.dy = -static_cast<int>(reach_y);
    w.batch = std::min(kStaged / (w.groups * p.samples()), w.pixels());
    if (w.shared_bytes() > kSharedBytes || w.blocks() > kMostBlocks) continue;
    found = w;
    any = true;
  }
  return any;
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
  return run_forward(view_of(p, dtypes), dtypes, table, coordinates, weights, out, softmax, stream);
}

template <>
const char* launch_backward<Dcn>(const Dcn& p, Dtypes dtypes, const void* grad, const void* table,
                                 const void* coordinates, const void* weights, void* grad_table,
                                 void* grad_coordinates, void* grad_weights, bool softmax, void* stream) {
  const DcnView view = view_of(p, dtypes);
  const char* problem = run_points(view, dtypes, grad, table, coordinates, weights, grad_coordinates, grad_weights,
                                   softmax, stream);
  if (*problem != 0) return problem;
  Windows windows{};
  return windows_of(p, enough_blocks(), windows) && aligned(grad_table, 16)
             ? run_window(windows, dtypes, grad, coordinates, weights, grad_table, softmax, stream)
             : run_scatter(view, dtypes, grad, coordinates, weights, grad_table, softmax, stream);
}

}  // namespace vss
