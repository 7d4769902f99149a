// Multi-scale deformable attention: launches.

#include "launch.cuh"

namespace vss {
namespace {

// Two heads make the locations of a query's samples long enough to be read at a stretch; more heads would leave fewer
// queries to share table rows.
AttentionView view_of(const Attention& p, Dtypes dtypes) {
  const int log_rows = log_rows_of(lanes_of(p.D, dtypes), p.samples()), log_m = p.M > 1 && log_rows > 0 ? 1 : 0;
  return {p, log_rows - log_m, log_m};
}

}  // namespace

template <>
const char* launch_forward<Attention>(const Attention& p, Dtypes dtypes, const void* table, const void* coordinates,
                                      const void* weights, void* out, bool softmax, void* stream) {
  return run_forward(view_of(p, dtypes), dtypes, table, coordinates, weights, out, softmax, stream);
}

template <>
const char* launch_backward<Attention>(const Attention& p, Dtypes dtypes, const void* grad, const void* table,
                                       const void* coordinates, const void* weights, void* grad_table,
                                       void* grad_coordinates, void* grad_weights, bool softmax, void* stream) {
  const AttentionView view = view_of(p, dtypes);
  const char* problem = run_points(view, dtypes, grad, table, coordinates, weights, grad_coordinates, grad_weights,
                                   softmax, stream);
  if (*problem != 0) return problem;
  return run_scatter(view, dtypes, grad, coordinates, weights, grad_table, softmax, stream);
}

}  // namespace vss
