// The kernels of csrc/cuda behind C functions, for ctypes. `sizes` are those of test_emulated.py.

#include <vector>

#include "dcnv3.cu"
#include "ms_deform_attn.cu"

namespace {

vss::Dtypes dtypes(int table, int points) { return {static_cast<vss::Dtype>(table), static_cast<vss::Dtype>(points)}; }

vss::Dcn dcn(const int64_t* s, double offset_scale) {
  auto at = [&](int i) { return static_cast<int32_t>(s[i]); };
  return {s[0], s[1], s[2], s[3], s[4], at(13), at(14), at(5), at(6), at(7), at(8), at(9), at(10), at(11), at(12), at(15),
          offset_scale};
}

vss::Attention attention(const int64_t* s, const int64_t* shapes, const int64_t* starts) {
  auto at = [&](int i) { return static_cast<int32_t>(s[i]); };
  return {s[0], s[1], s[2], at(3), at(4), at(5), at(6), shapes, starts};
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

void set_processors(int count) { vss_emulator::processors = count; }

// Output pixels of a tile whose gradients are added up in shared memory, 0 where they are not.
int window_tile(const int64_t* sizes, double scale) {
  vss::Windows windows{};
  return vss::windows_of(dcn(sizes, scale), vss::enough_blocks(), windows) ? windows.pixels() : 0;
}

void watch_additions() {
  vss_emulator::watching = true;
  vss_emulator::moved = 0;
  vss_emulator::touched.clear();
}

// Bytes that additions to global memory since watch_additions() move, a byte of the sectors they touch.
double filled_sectors() {
  vss_emulator::watching = false;
  return vss_emulator::moved / (32.0 * vss_emulator::touched.size());
}

const char* dcnv3_forward(const int64_t* sizes, double scale, int table_type, int point_type, const void* input,
                          const void* offset, const void* mask, void* out, int softmax) {
  return vss::launch_forward(dcn(sizes, scale), dtypes(table_type, point_type), input, offset, mask, out, softmax,
                             nullptr);
}

const char* dcnv3_backward(const int64_t* sizes, double scale, int table_type, int point_type, const void* grad,
                           const void* input, const void* offset, const void* mask, void* grad_input,
                           void* grad_offset, void* grad_mask, int softmax) {
  return vss::launch_backward(dcn(sizes, scale), dtypes(table_type, point_type), grad, input, offset, mask, grad_input,
                              grad_offset, grad_mask, softmax, nullptr);
}

const char* attention_forward(const int64_t* sizes, const int64_t* shapes, const int64_t* starts, int table_type,
                              int point_type, const void* value, const void* locations, const void* weights, void* out,
                              int softmax) {
  return vss::launch_forward(attention(sizes, shapes, starts), dtypes(table_type, point_type), value, locations,
                             weights, out, softmax, nullptr);
}

const char* attention_backward(const int64_t* sizes, const int64_t* shapes, const int64_t* starts, int table_type,
                               int point_type, const void* grad, const void* value, const void* locations,
                               const void* weights, void* grad_value, void* grad_locations, void* grad_weights,
                               int softmax) {
  return vss::launch_backward(attention(sizes, shapes, starts), dtypes(table_type, point_type), grad, value, locations,
                              weights, grad_value, grad_locations, grad_weights, softmax, nullptr);
}
}
#pragma GCC visibility pop
