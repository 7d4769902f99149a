// Interface of the CPU kernels. kernels.cpp is compiled once for every instruction set below, into its own namespace;
// register.cpp picks one when it runs, so a build can be shared by unlike machines of a cluster.
#pragma once

#include "../problem.h"

namespace vss {

// What the kernels need of a parallel loop: body(context, begin, end) over [0, count).
using Body = void (*)(const void* context, int64_t begin, int64_t end);
using ParallelFor = void (*)(int64_t count, int64_t grain, Body body, const void* context);

#define VSS_DECLARE_KERNELS(ISA)                                                                                    \
  namespace ISA {                                                                                                   \
  template <typename T, typename Problem>                                                                           \
  void forward(const Problem&, ParallelFor, const T* table, const T* coordinates, const T* weights, bool softmax,   \
               T* out);                                                                                             \
  /* grad_table must hold zeros; the other two are overwritten */                                                   \
  template <typename T, typename Problem>                                                                           \
  void backward(const Problem&, ParallelFor, const T* grad, const T* table, const T* coordinates, const T* weights, \
                bool softmax, T* grad_table, T* grad_coordinates, T* grad_weights);                                 \
  }

VSS_DECLARE_KERNELS(baseline)
VSS_DECLARE_KERNELS(avx2)
VSS_DECLARE_KERNELS(avx512)

}  // namespace vss
