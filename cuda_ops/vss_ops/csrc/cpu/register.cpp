// Gives the CPU kernels to torch through its stable ABI: no Python headers, no ATen, so that one build serves every
// torch from 2.10 on and every Python. Outputs are allocated by the caller (vss_ops/compiled.py).

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "../arguments.h"
#include "kernels.h"

namespace vss {
namespace {

void parallel_for(int64_t count, int64_t grain, Body body, const void* context) {
  torch::stable::parallel_for(0, count, grain, [=](int64_t begin, int64_t end) { body(context, begin, end); });
}

// Calls run(isa) with the widest instruction set this machine and operating system have.
#if defined(__x86_64__)
#define VSS_PICK(call)                                                                                      \
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&                            \
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")) {                           \
    avx512::call;                                                                                           \
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {                             \
    avx2::call;                                                                                             \
  } else {                                                                                                  \
    baseline::call;                                                                                         \
  }
#else
#define VSS_PICK(call) baseline::call;
#endif

template <typename Problem>
void run_forward(const Problem& p, const Tensor& table, const Tensor& coordinates, const Tensor& weights, bool softmax,
                 Tensor& out) {
  if (table.scalar_type() == ScalarType::Double) {
    VSS_PICK(forward(p, parallel_for, read<double>(table), read<double>(coordinates), read<double>(weights), softmax,
                     write<double>(out)))
  } else {
    VSS_PICK(forward(p, parallel_for, read<float>(table), read<float>(coordinates), read<float>(weights), softmax,
                     write<float>(out)))
  }
}

template <typename Problem>
void run_backward(const Problem& p, const Tensor& grad, const Tensor& table, const Tensor& coordinates,
                  const Tensor& weights, bool softmax, Tensor& grad_table, Tensor& grad_coordinates,
                  Tensor& grad_weights) {
  if (table.scalar_type() == ScalarType::Double) {
    VSS_PICK(backward(p, parallel_for, read<double>(grad), read<double>(table), read<double>(coordinates),
                      read<double>(weights), softmax, write<double>(grad_table), write<double>(grad_coordinates),
                      write<double>(grad_weights)))
  } else {
    VSS_PICK(backward(p, parallel_for, read<float>(grad), read<float>(table), read<float>(coordinates),
                      read<float>(weights), softmax, write<float>(grad_table), write<float>(grad_coordinates),
                      write<float>(grad_weights)))
  }
}

void check_dtypes(const Tensor& table, const Tensor& coordinates) {
  const auto dtype = table.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "vss_ops: the CPU kernels take float32 and float64");
  STD_TORCH_CHECK(coordinates.scalar_type() == dtype, "vss_ops: the CPU kernels take one dtype");
}

void check_levels(const Attention& p) {
  for (int l = 0; l < p.L; ++l) {
    const int64_t h = p.shapes[2 * l], w = p.shapes[2 * l + 1], start = p.starts[l];
    const bool empty = h == 0 || w == 0;
    const bool sizes = h >= 0 && w >= 0 && (empty || (h <= p.S && w <= p.S));  // their product is then no overflow
    STD_TORCH_CHECK(sizes && start >= 0 && start <= p.S - (empty ? 0 : h * w), "vss_ops: level ", l,
                    " of spatial_shapes and level_start_index does not lie in value");
  }
}

void dcnv3_forward(Tensor input, Tensor offset, Tensor mask, Pair kernel_size, Pair stride, Pair padding, Pair dilation,
                   int64_t group, int64_t group_channels, double offset_scale, bool remove_center, bool softmax,
                   Tensor out) {
  const Dcn p = dcn_of(input, offset, kernel_size, stride, padding, dilation, group, group_channels, offset_scale,
                       remove_center);
  check_dtypes(input, offset);
  check_forward(p, input, offset, mask, out);
  run_forward(p, input, offset, mask, softmax, out);
}

void dcnv3_backward(Tensor grad, Tensor input, Tensor offset, Tensor mask, Pair kernel_size, Pair stride, Pair padding,
                    Pair dilation, int64_t group, int64_t group_channels, double offset_scale, bool remove_center,
                    bool softmax, Tensor grad_input, Tensor grad_offset, Tensor grad_mask) {
  const Dcn p = dcn_of(input, offset, kernel_size, stride, padding, dilation, group, group_channels, offset_scale,
                       remove_center);
  check_dtypes(input, offset);
  check_backward(p, grad, input, offset, mask, grad_input, grad_offset, grad_mask);
  run_backward(p, grad, input, offset, mask, softmax, grad_input, grad_offset, grad_mask);
}

void ms_deform_attn_forward(Tensor value, Tensor shapes, Tensor starts, Tensor locations, Tensor weights, bool softmax,
                            Tensor out) {
  const Attention p = attention_of(value, shapes, starts, locations);
  check_dtypes(value, locations);
  check_levels(p);
  check_forward(p, value, locations, weights, out);
  run_forward(p, value, locations, weights, softmax, out);
}

void ms_deform_attn_backward(Tensor grad, Tensor value, Tensor shapes, Tensor starts, Tensor locations, Tensor weights,
                             bool softmax, Tensor grad_value, Tensor grad_locations, Tensor grad_weights) {
  const Attention p = attention_of(value, shapes, starts, locations);
  check_dtypes(value, locations);
  check_levels(p);
  check_backward(p, grad, value, locations, weights, grad_value, grad_locations, grad_weights);
  run_backward(p, grad, value, locations, weights, softmax, grad_value, grad_locations, grad_weights);
}

}  // namespace
}  // namespace vss

STABLE_TORCH_LIBRARY_IMPL(vss_ops, CPU, m) {
  m.impl("dcnv3_forward_out", TORCH_BOX(&vss::dcnv3_forward));
  m.impl("dcnv3_backward_out", TORCH_BOX(&vss::dcnv3_backward));
  m.impl("ms_deform_attn_forward_out", TORCH_BOX(&vss::ms_deform_attn_forward));
  m.impl("ms_deform_attn_backward_out", TORCH_BOX(&vss::ms_deform_attn_backward));
}
