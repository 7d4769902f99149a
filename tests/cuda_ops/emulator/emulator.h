// Runs CUDA kernels on a CPU: every thread of a block is a fiber, blocks run one after another. Enough of CUDA for
// csrc/cuda, included in place of the CUDA runtime (VSS_EMULATED). It checks arithmetic, indexing, barriers and
// shuffles, and says nothing about speed.
//
// Compiled with -fsanitize=thread it finds races: ThreadSanitizer sees every fiber as a thread of its own. What orders
// them is a barrier, inside a block, and nothing between blocks; that fibers take turns does not count, nor do shuffles.
// So two threads that meet at an address without a barrier between them are reported whatever order they ran in.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <set>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define VSS_UNSEEN __attribute__((no_sanitize("thread"), noinline))  // the emulator's own memory is not the kernels'
#else
#define VSS_UNSEEN
#endif

#undef __shared__
#undef __launch_bounds__
#define __launch_bounds__(...)
#define VSS_SHARED(name) unsigned char* name = vss_emulator::shared
#define VSS_LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...) \
  vss_emulator::launch(blocks, threads, shared_bytes, [&] { (*kernel)(__VA_ARGS__); })
#ifndef VSS_EMULATED_MAJOR
#define VSS_EMULATED_MAJOR 9  // compute capability the code is for; the device's is 9
#endif
#if VSS_EMULATED_MAJOR >= 9
#define VSS_WIDE_ATOMICS
#endif

#define cudaGetLastError() cudaSuccess  // declared by the CUDA headers, defined in a library that is not linked
#define cudaGetErrorString(error) ""
#define cudaGetDevice(device) cudaSuccess
#define cudaDeviceGetAttribute(value, attribute, device) \
  (*(value) = (attribute) == cudaDevAttrMultiProcessorCount ? vss_emulator::processors : 9, cudaSuccess)
#define cudaFuncGetAttributes(attributes, kernel) \
  ((attributes)->ptxVersion = VSS_EMULATED_MAJOR * 10, (kernel) != nullptr ? cudaSuccess : cudaErrorInvalidValue)

namespace vss_emulator {

constexpr unsigned kMostThreads = 256;
constexpr size_t kStack = 64 * 1024, kPage = 4096;

struct Index {
  unsigned x = 0;
};

struct Fiber {
  ucontext_t context;
  void* seen_as;  // by ThreadSanitizer
  unsigned barriers, shuffles;  // it has been through
  unsigned additions;  // to global memory, of this thread so far
  bool done;
};

inline int processors = 0;  // 0: no number of blocks is too few

inline Index thread_index, block_index;
inline unsigned char* shared;
inline Fiber fibers[kMostThreads];
inline float exchange[kMostThreads][2];  // used in turn: one barrier a shuffle
inline ucontext_t scheduler;
inline std::function<void()> body;

#ifdef __SANITIZE_THREAD__
inline void* scheduler_seen_as;
inline char ordered[2], finished;  // addresses that stand for barriers, used in turn, and for the end of the launch
inline void* new_fiber() { return __tsan_create_fiber(0); }
inline void end_fiber(void* fiber) { __tsan_destroy_fiber(fiber); }
inline void enter(void* fiber) { __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync); }
inline void publish(char* what) { __tsan_release(what); }
inline void receive(char* what) { __tsan_acquire(what); }
#else
inline void* scheduler_seen_as;
inline char ordered[2], finished;
inline void* new_fiber() { return nullptr; }
inline void end_fiber(void*) {}
inline void enter(void*) {}
inline void publish(char*) {}
inline void receive(char*) {}
#endif

VSS_UNSEEN inline void leave() {
  enter(scheduler_seen_as);
  swapcontext(&fibers[thread_index.x].context, &scheduler);
}

VSS_UNSEEN inline void finish() {
  publish(&finished);
  fibers[thread_index.x].done = true;
  leave();
}

inline void entry() {
  body();
  finish();
}

// Gives every other fiber a turn. Fibers run in order of their index, so once all have arrived here all may go on.
VSS_UNSEEN inline void wait() {
  const unsigned self = thread_index.x;
  leave();
  thread_index.x = self;
}

VSS_UNSEEN inline void barrier() {
#ifdef VSS_BARRIERS_ORDER_NOTHING  // to see that what they order is found when they do not
  wait();
#else
  char* order = &ordered[fibers[thread_index.x].barriers++ & 1];
  publish(order);
  wait();
  receive(order);
#endif
}

// Memory that no fiber of an earlier block has touched.
inline unsigned char* fresh(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  return static_cast<unsigned char*>(memory);
}

VSS_UNSEEN inline void run_block(unsigned block, unsigned threads, unsigned char* stacks, unsigned char* memory) {
  block_index.x = block;
  shared = memory;
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.done = false;
    fiber.barriers = fiber.shuffles = fiber.additions = 0;
    fiber.seen_as = new_fiber();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stacks + i * kStack;
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
  }
  for (bool running = true; running;) {
    unsigned ended = 0;
    for (unsigned i = 0; i < threads; ++i) {
      if (!fibers[i].done) {
        thread_index.x = i;
        enter(fibers[i].seen_as);
        swapcontext(&scheduler, &fibers[i].context);
      }
      ended += fibers[i].done;
    }
    running = ended < threads;
    if (running && ended > 0) std::abort();  // some threads left while others wait at a barrier
  }
  for (unsigned i = 0; i < threads; ++i) end_fiber(fibers[i].seen_as);
}

inline void launch(unsigned blocks, unsigned threads, size_t shared_bytes, std::function<void()> kernel) {
  if (threads > kMostThreads) std::abort();
  body = std::move(kernel);
#ifdef __SANITIZE_THREAD__
  scheduler_seen_as = __tsan_get_current_fiber();
#endif
  for (unsigned block = 0; block < blocks; ++block) {
    // shared memory starts with garbage and ends at a page that must not be touched
    const size_t size = (shared_bytes + 15) / 16 * 16, pages = (size + kPage - 1) / kPage * kPage;
    unsigned char *stacks = fresh(threads * kStack), *memory = fresh(pages + kPage);
    mprotect(memory + pages, kPage, PROT_NONE);
    std::memset(memory, 0xA5, pages);
    run_block(block, threads, stacks, memory + pages - size);
    munmap(memory, pages + kPage);
    munmap(stacks, threads * kStack);
  }
  receive(&finished);
}

// What the additions of warps to global memory move and touch: a GPU moves sectors of 32 bytes, once an instruction of a
// warp. The n-th additions of its threads count as one instruction.
inline bool watching = false;
inline size_t moved;
inline std::set<std::array<size_t, 4>> touched;

VSS_UNSEEN inline void note_addition(const void* to, size_t bytes) {
  if (!watching) return;
  const size_t number = fibers[thread_index.x].additions++;
  moved += bytes;
  touched.insert({block_index.x, thread_index.x / 32, number, reinterpret_cast<size_t>(to) / 32});
}

inline void add(float* to, float value) {
  float before, after;
  uint32_t bits = __atomic_load_n(reinterpret_cast<uint32_t*>(to), __ATOMIC_RELAXED), sum;
  do {
    std::memcpy(&before, &bits, sizeof before);
    after = before + value;
    std::memcpy(&sum, &after, sizeof sum);
  } while (!__atomic_compare_exchange_n(reinterpret_cast<uint32_t*>(to), &bits, sum, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED));
}

}  // namespace vss_emulator

#define threadIdx vss_emulator::thread_index
#define blockIdx vss_emulator::block_index

inline void __syncthreads() { vss_emulator::barrier(); }
inline void __syncwarp() { vss_emulator::barrier(); }  // in blocks of one warp

VSS_UNSEEN inline float __shfl_xor_sync(unsigned, float value, int mask) {
  const unsigned self = threadIdx.x, turn = vss_emulator::fibers[self].shuffles++ & 1;
  vss_emulator::exchange[self][turn] = value;
  vss_emulator::wait();
  return vss_emulator::exchange[self ^ mask][turn];
}

inline void atomicAdd(float* to, float value) {
  vss_emulator::note_addition(to, sizeof value);
  vss_emulator::add(to, value);
}
inline void atomicAdd(float4* to, float4 value) {
  vss_emulator::note_addition(to, sizeof value);
  vss_emulator::add(&to->x, value.x);
  vss_emulator::add(&to->y, value.y);
  vss_emulator::add(&to->z, value.z);
  vss_emulator::add(&to->w, value.w);
}

inline int __float2int_rd(float value) { return static_cast<int>(std::floor(value)); }

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

using std::max;
using std::min;
