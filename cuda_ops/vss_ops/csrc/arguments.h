// From torch tensors to the plain structs of problem.h. vss_ops/checks.py has refused a user's mistakes by the time
// these run; the checks here only keep a direct call of torch.ops.vss_ops.*_out from touching foreign memory.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <vector>

#include "problem.h"

namespace vss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
const T* read(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <typename T>
T* write(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

inline void check_device(const Tensor& t, const Tensor& table, const char* name) {
  STD_TORCH_CHECK(t.is_cpu() == table.is_cpu() && t.get_device_index() == table.get_device_index(), "vss_ops: ", name,
                  " must be on the device of the table");
}

inline void check_pixels(int64_t height, int64_t width, const char* name) {
  STD_TORCH_CHECK(height <= kMostPixels && width <= kMostPixels && height * width <= kMostPixels, "vss_ops: ", name,
                  " has more than ", kMostPixels, " pixels per image");
}

using Pair = std::vector<int64_t>;  // (height, width)

// Returns a number of the window, counted in 32 bits from here on.
inline int32_t window_number(const char* name, int64_t value, int64_t least) {
  STD_TORCH_CHECK(value >= least && value <= kMostPixels, "vss_ops: ", name, " must be from ", least, " to ", kMostPixels,
                  ", got ", value);
  return static_cast<int32_t>(value);
}

inline Dcn dcn_of(const Tensor& input, const Tensor& offset, const Pair& kernel_size, const Pair& stride,
                  const Pair& padding, const Pair& dilation, int64_t group, int64_t group_channels, double offset_scale,
                  bool remove_center) {
  STD_TORCH_CHECK(input.dim() == 4 && offset.dim() == 4, "vss_ops: input and offset must have four dimensions");
  STD_TORCH_CHECK(kernel_size.size() == 2 && stride.size() == 2 && padding.size() == 2 && dilation.size() == 2,
                  "vss_ops: kernel_size, stride, padding and dilation must be (height, width)");
  check_pixels(input.size(1), input.size(2), "input");
  check_pixels(offset.size(1), offset.size(2), "offset");
  Dcn p{};
  p.N = input.size(0);
  p.H = input.size(1);
  p.W = input.size(2);
  p.Ho = offset.size(1);
  p.Wo = offset.size(2);
  p.G = window_number("group", group, 1);
  p.D = window_number("group_channels", group_channels, 1);
  p.kernel_h = window_number("kernel_size", kernel_size[0], 1);
  p.kernel_w = window_number("kernel_size", kernel_size[1], 1);
  p.stride_h = window_number("stride", stride[0], 1);
  p.stride_w = window_number("stride", stride[1], 1);
  p.pad_h = window_number("padding", padding[0], 0);
  p.pad_w = window_number("padding", padding[1], 0);
  p.dilation_h = window_number("dilation", dilation[0], 1);
  p.dilation_w = window_number("dilation", dilation[1], 1);
  p.remove_center = remove_center;
  p.offset_scale = offset_scale;
  const int64_t points = kernel_size[0] * kernel_size[1];
  STD_TORCH_CHECK(points <= kMostPixels, "vss_ops: kernel_size has too many points");
  STD_TORCH_CHECK(!remove_center || points > 1, "vss_ops: remove_center leaves no point");
  return p;
}

inline Attention attention_of(const Tensor& value, const Tensor& shapes, const Tensor& starts,
                              const Tensor& locations) {
  STD_TORCH_CHECK(value.dim() == 4 && locations.dim() == 6, "vss_ops: bad arguments of ms_deform_attn");
  STD_TORCH_CHECK(shapes.scalar_type() == ScalarType::Long && starts.scalar_type() == ScalarType::Long &&
                      shapes.is_contiguous() && starts.is_contiguous() && shapes.numel() == 2 * locations.size(3) &&
                      starts.numel() == locations.size(3),
                  "vss_ops: spatial_shapes and level_start_index must be dense int64");
  check_pixels(value.size(1), 1, "value");
  check_device(shapes, value, "spatial_shapes");
  check_device(starts, value, "level_start_index");
  auto at = [](int64_t v) { return static_cast<int32_t>(v); };
  return Attention{value.size(0),        value.size(1),           locations.size(1),
                   at(value.size(2)),    at(value.size(3)),       at(locations.size(3)),
                   at(locations.size(4)), read<int64_t>(shapes),  read<int64_t>(starts)};
}

inline int64_t table_elements(const Dcn& p) { return p.N * p.H * p.W * p.G * p.D; }
inline int64_t table_elements(const Attention& p) { return p.N * p.S * p.M * p.D; }

inline void check_size(const Tensor& t, int64_t elements, const char* name) {
  STD_TORCH_CHECK(t.is_contiguous() && t.numel() == elements, "vss_ops: ", name, " must be dense with ", elements,
                  " elements, has ", t.numel());
}

template <typename Problem>
void check_forward(const Problem& p, const Tensor& table, const Tensor& coordinates, const Tensor& weights,
                   const Tensor& out) {
  check_size(table, table_elements(p), "table");
  check_size(coordinates, 2 * p.rows() * p.samples(), "coordinates");
  check_size(weights, p.rows() * p.samples(), "weights");
  check_size(out, p.rows() * p.D, "out");
  check_device(coordinates, table, "coordinates");
  check_device(weights, table, "weights");
  check_device(out, table, "out");
  STD_TORCH_CHECK(p.samples() >= 1 && (table.numel() > 0 || p.rows() == 0), "vss_ops: a row has nothing to sample");
  STD_TORCH_CHECK(coordinates.scalar_type() == weights.scalar_type() && out.scalar_type() == table.scalar_type(),
                  "vss_ops: dtypes of coordinates and weights, and of table and output, must agree");
}

template <typename Problem>
void check_backward(const Problem& p, const Tensor& grad, const Tensor& table, const Tensor& coordinates,
                    const Tensor& weights, const Tensor& grad_table, const Tensor& grad_coordinates,
                    const Tensor& grad_weights) {
  check_forward(p, table, coordinates, weights, grad);
  check_size(grad_table, table.numel(), "grad_table");
  check_size(grad_coordinates, coordinates.numel(), "grad_coordinates");
  check_size(grad_weights, weights.numel(), "grad_weights");
  check_device(grad_table, table, "grad_table");
  check_device(grad_coordinates, table, "grad_coordinates");
  check_device(grad_weights, table, "grad_weights");
  STD_TORCH_CHECK(grad_coordinates.scalar_type() == coordinates.scalar_type() &&
                      grad_weights.scalar_type() == weights.scalar_type(),
                  "vss_ops: gradients of coordinates and weights must have their dtype");
}

}  // namespace vss
