// Multi-scale deformable attention: launches.

#include "launch.cuh"

namespace vss {
namespace {

template <typename Bytes>
AttentionView view_of(const Attention& p, Bytes bytes) {
  int rows = 64;
  while (rows > 1 && bytes(rows) > kSharedBytes) rows /= 2;
  return AttentionView{p, rows, 0};
}

}  // namespace

template <>
const char* launch_forward<Attention>(const Attention& p, Dtypes dtypes, const void* table, const void* coordinates,
                                      const void* weights, void* out, bool softmax, void* stream) {
  const auto view = view_of(p, [&](int rows) { return forward_bytes(rows, p.samples()); });
  return run_forward(view, dtypes, table, coordinates, weights, out, softmax, stream);
}

template <>
const char* launch_backward<Attention>(const Attention& p, Dtypes dtypes, const void* grad, const void* table,
                                       const void* coordinates, const void* weights, void* grad_table,
                                       void* grad_coordinates, void* grad_weights, bool softmax, void* stream) {
  const auto view = view_of(p, [&](int rows) { return backward_bytes(rows, p.samples(), 0); });
  return run_backward(view, dtypes, grad, table, coordinates, weights, grad_table, grad_coordinates, grad_weights,
                      softmax, stream);
}

}  // namespace vss
