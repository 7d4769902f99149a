// Interface between the CUDA kernels and the torch glue; plain C++, no CUDA header needed.
#pragma once

#include "../problem.h"

namespace vss {

enum class Dtype { kFloat, kHalf, kBFloat };

// table, out and grad have dtype `table`; coordinates, weights and their gradients have dtype `points`, which is `table`
// or kFloat. grad_table is float whatever the table is, and must hold zeros.
struct Dtypes {
  Dtype table, points;
};

// Each returns "" or what the CUDA runtime said. `stream` is a cudaStream_t.
template <typename Problem>
const char* launch_forward(const Problem&, Dtypes, const void* table, const void* coordinates, const void* weights,
                           void* out, bool softmax, void* stream);
template <typename Problem>
const char* launch_backward(const Problem&, Dtypes, const void* grad, const void* table, const void* coordinates,
                            const void* weights, void* grad_table, void* grad_coordinates, void* grad_weights,
                            bool softmax, void* stream);

}  // namespace vss
