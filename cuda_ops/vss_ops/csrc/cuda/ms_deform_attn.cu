// Multi-scale deformable attention: launches.

#include "launch.cuh"

namespace vss {
namespace {

AttentionView view_of(const Attention& p) {
  int rows = 64;
  while (rows > 1 && shared_bytes(rows, p.samples()) > kSharedBytes) rows /= 2;
  return {p, rows, 0};
}

}  // namespace

template <>
const char* launch_forward<Attention>(const Attention& p, Dtypes dtypes, const void* table, const void* coordinates,
                                      const void* weights, void* out, bool softmax, void* stream) {
  return run_forward(view_of(p), dtypes, table, coordinates, weights, out, softmax, stream);
}

template <>
const char* launch_backward<Attention>(const Attention& p, Dtypes dtypes, const void* grad, const void* table,
                                       const void* coordinates, const void* weights, void* grad_table,
                                       void* grad_coordinates, void* grad_weights, bool softmax, void* stream) {
  const AttentionView view = view_of(p);
  const char* problem = run_points(view, dtypes, grad, table, coordinates, weights, grad_coordinates, grad_weights,
                                   softmax, stream);
  if (*problem != 0) return problem;
  return run_scatter(view, dtypes, grad, coordinates, weights, grad_table, softmax, stream);
}

}  // namespace vss
