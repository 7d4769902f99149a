// Runs CUDA kernels on a CPU: every thread of a block is a fiber, blocks run one after another. Enough of CUDA for
// csrc/cuda, included in place of the CUDA runtime (VSS_EMULATED). It checks arithmetic, indexing, barriers and
// shuffles; it says nothing about speed, nor about races that fibers, which switch only at barriers, cannot show.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <vector>

#undef __shared__
#undef __launch_bounds__
#define __launch_bounds__(threads)
#define VSS_SHARED(name) unsigned char* name = vss_emulator::shared.data()
#define VSS_LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...) \
  vss_emulator::launch(blocks, threads, shared_bytes, [&] { (*kernel)(__VA_ARGS__); })
#define VSS_WIDE_ATOMICS

#define cudaGetLastError() cudaSuccess  // declared by the CUDA headers, defined in a library that is not linked
#define cudaGetErrorString(error) ""

namespace vss_emulator {

struct Index {
  unsigned x = 0;
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done = false;
};

inline Index thread_index, block_index;
inline std::vector<unsigned char> shared;
inline std::vector<Fiber> fibers;
inline std::vector<float> exchange;     // two values a thread, used in turn: one barrier a shuffle
inline std::vector<unsigned> shuffles;  // made by every thread
inline ucontext_t scheduler;
inline std::function<void()> body;

inline void entry() {
  body();
  fibers[thread_index.x].done = true;
  swapcontext(&fibers[thread_index.x].context, &scheduler);
}

// Gives every other fiber a turn. Fibers run in order of their index, so once all have arrived here all may go on.
inline void barrier() {
  const unsigned self = thread_index.x;
  swapcontext(&fibers[self].context, &scheduler);
  thread_index.x = self;
}

inline void launch(unsigned blocks, unsigned threads, size_t shared_bytes, std::function<void()> kernel) {
  body = std::move(kernel);
  fibers.resize(threads);
  exchange.assign(2 * threads, 0.f);
  shuffles.assign(threads, 0u);
  for (unsigned block = 0; block < blocks; ++block) {
    block_index.x = block;
    shared.assign(shared_bytes, 0xA5);  // shared memory starts with garbage
    for (Fiber& fiber : fibers) {
      fiber.done = false;
      fiber.stack.resize(128 * 1024);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.data();
      fiber.context.uc_stack.ss_size = fiber.stack.size();
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, entry, 0);
    }
    for (bool running = true; running;) {
      running = false;
      unsigned finished = 0;
      for (unsigned i = 0; i < threads; ++i) {
        if (!fibers[i].done) {
          thread_index.x = i;
          swapcontext(&scheduler, &fibers[i].context);
        }
        finished += fibers[i].done;
      }
      running = finished < threads;
      if (running && finished > 0) std::abort();  // some threads left while others wait at a barrier
    }
  }
}

}  // namespace vss_emulator

#define threadIdx vss_emulator::thread_index
#define blockIdx vss_emulator::block_index

inline void __syncthreads() { vss_emulator::barrier(); }

inline float __shfl_xor_sync(unsigned, float value, int mask) {
  const unsigned self = threadIdx.x, turn = vss_emulator::shuffles[self]++ & 1;
  vss_emulator::exchange[2 * self + turn] = value;
  vss_emulator::barrier();
  return vss_emulator::exchange[2 * (self ^ mask) + turn];
}

inline void atomicAdd(float* to, float value) { *to += value; }
inline void atomicAdd(float4* to, float4 value) {
  to->x += value.x;
  to->y += value.y;
  to->z += value.z;
  to->w += value.w;
}

using std::max;
