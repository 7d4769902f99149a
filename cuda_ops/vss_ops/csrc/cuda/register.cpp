// Gives the CUDA kernels to torch through its stable ABI; see ../cpu/register.cpp.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstring>

#include "../arguments.h"
#include "launch.h"

namespace vss {
namespace {

void* stream_of(const Tensor& t) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
  return stream;
}

Dtype dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Dtype::kFloat;
    case ScalarType::Half: return Dtype::kHalf;
    case ScalarType::BFloat16: return Dtype::kBFloat;
    default: STD_TORCH_CHECK(false, "vss_ops: the CUDA kernels take float32, float16 and bfloat16");
  }
}

Dtypes dtypes_of(const Tensor& table, const Tensor& coordinates) {
  const Dtypes d{dtype_of(table), dtype_of(coordinates)};
  STD_TORCH_CHECK(d.points == d.table || d.points == Dtype::kFloat,
                  "vss_ops: coordinates and weights must be float32 or of the table's dtype");
  return d;
}

void check(const char* error) {
  if (*error == 0) return;
  const bool not_built_for_it = std::strstr(error, "kernel image") != nullptr;
  STD_TORCH_CHECK(false, "vss_ops: ", error,
                  not_built_for_it ? "; the kernels were not built for this GPU: run `python -m vss_ops.build --force` "
                                     "with TORCH_CUDA_ARCH_LIST set to its compute capability"
                                   : "");
}

template <typename Problem>
void forward(const Problem& p, const Tensor& table, const Tensor& coordinates, const Tensor& weights, bool softmax,
             Tensor& out) {
  check_forward(p, table, coordinates, weights, out);
  check(launch_forward(p, dtypes_of(table, coordinates), table.const_data_ptr(), coordinates.const_data_ptr(),
                       weights.const_data_ptr(), out.mutable_data_ptr(), softmax, stream_of(table)));
}

template <typename Problem>
void backward(const Problem& p, const Tensor& grad, const Tensor& table, const Tensor& coordinates,
              const Tensor& weights, bool softmax, Tensor& grad_table, Tensor& grad_coordinates, Tensor& grad_weights) {
  check_backward(p, grad, table, coordinates, weights, grad_table, grad_coordinates, grad_weights);
  STD_TORCH_CHECK(grad_table.scalar_type() == ScalarType::Float, "vss_ops: grad_table must be float32");
  check(launch_backward(p, dtypes_of(table, coordinates), grad.const_data_ptr(), table.const_data_ptr(),
                        coordinates.const_data_ptr(), weights.const_data_ptr(), grad_table.mutable_data_ptr(),
                        grad_coordinates.mutable_data_ptr(), grad_weights.mutable_data_ptr(), softmax,
                        stream_of(table)));
}

void dcnv3_forward(Tensor input, Tensor offset, Tensor mask, Pair kernel_size, Pair stride, Pair padding, Pair dilation,
                   int64_t group, int64_t group_channels, double offset_scale, bool remove_center, bool softmax,
                   Tensor out) {
  const Dcn p = dcn_of(input, offset, kernel_size, stride, padding, dilation, group, group_channels, offset_scale,
                       remove_center);
  forward(p, input, offset, mask, softmax, out);
}

void dcnv3_backward(Tensor grad, Tensor input, Tensor offset, Tensor mask, Pair kernel_size, Pair stride, Pair padding,
                    Pair dilation, int64_t group, int64_t group_channels, double offset_scale, bool remove_center,
                    bool softmax, Tensor grad_input, Tensor grad_offset, Tensor grad_mask) {
  const Dcn p = dcn_of(input, offset, kernel_size, stride, padding, dilation, group, group_channels, offset_scale,
                       remove_center);
  backward(p, grad, input, offset, mask, softmax, grad_input, grad_offset, grad_mask);
}

void ms_deform_attn_forward(Tensor value, Tensor shapes, Tensor starts, Tensor locations, Tensor weights, bool softmax,
                            Tensor out) {
  forward(attention_of(value, shapes, starts, locations), value, locations, weights, softmax, out);
}

void ms_deform_attn_backward(Tensor grad, Tensor value, Tensor shapes, Tensor starts, Tensor locations, Tensor weights,
                             bool softmax, Tensor grad_value, Tensor grad_locations, Tensor grad_weights) {
  backward(attention_of(value, shapes, starts, locations), grad, value, locations, weights, softmax, grad_value,
           grad_locations, grad_weights);
}

}  // namespace
}  // namespace vss

STABLE_TORCH_LIBRARY_IMPL(vss_ops, CUDA, m) {
  m.impl("dcnv3_forward_out", TORCH_BOX(&vss::dcnv3_forward));
  m.impl("dcnv3_backward_out", TORCH_BOX(&vss::dcnv3_backward));
  m.impl("ms_deform_attn_forward_out", TORCH_BOX(&vss::ms_deform_attn_forward));
  m.impl("ms_deform_attn_backward_out", TORCH_BOX(&vss::ms_deform_attn_backward));
}
