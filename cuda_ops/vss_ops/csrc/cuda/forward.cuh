// Forward kernel of both ops.
//
// Bytes, for one DCNv3 row of InternImage-H (9 points, 32 channels) in bfloat16, points in float32 as the models have
// them. Device memory must move 64 of input, 64 of output, 72 of offset, 36 of mask: 236 bytes, which at 4.8 TB/s (H200)
// is 49 ps. The 36 table rows that are read are 2304 bytes. They must come from the first-level cache: at 128 bytes a
// clock and SM that is 18 clocks, on 132 SMs 78 ps, 1.6 times the device memory floor; the second level would be slower
// again. Converting 1152 values to float32 and multiplying them takes as long: 72 instructions of a warp, four a clock.
// With addresses, positions and the softmax a row takes about 190: 48 clocks, so that instructions bound the forward
// pass. Hence:
//  - a thread takes 16 bytes of channels, so that a warp's load moves 512 bytes in one instruction;
//  - a block covers a tile of neighbouring pixels of few groups: neighbours sample the same table rows, so that a row
//    enters the first-level cache once per block, about 4 times a tile pixel instead of 36;
//  - positions and weights are found once per sample (not once per thread) and handed to the threads of a row through
//    shared memory, ready to be added to a pointer; offsets and masks are read once;
//  - every corner is loaded, whatever its weight: a condition would cost more than the load;
//  - the softmax over a row's weights happens here too: logits are read once and the weights never exist in memory.
// No atomics: a thread owns its output channels.
#pragma once

#include "sampling.cuh"

namespace vss {

template <typename View, typename T, typename O, int channels>
__global__ void __launch_bounds__(kThreads, kBlocks)
    forward_kernel(View view, const T* table, const O* coordinates, const O* weights, T* out, bool softmax) {
  VSS_SHARED(memory);
  view.open(blockIdx.x);
  const int rows = view.rows_per_block(), samples = view.samples();
  const Shared shared(memory, rows, samples);
  const auto pixel_vectors = static_cast<uint32_t>(view.stride() / channels);
  stage(view, coordinates, weights, softmax, pixel_vectors, shared);

  const int lanes = view.D() / channels;  // threads per row
  for (int unit = threadIdx.x; unit < rows * lanes; unit += kThreads) {
    const int local = unit / lanes, lane = unit - local * lanes;
    const int64_t row = view.row(local);
    if (row < 0) continue;
    const Vectors<T, channels> from(table + view.table_at(local) + lane * channels);
    const float4* weight = shared.four + local;
    const Place* place = shared.places + local;
    float sum[channels] = {};
#pragma unroll 3
    for (int s = 0; s < samples; ++s, weight += shared.pitch, place += shared.pitch) {
      const float w[4] = {weight->x, weight->y, weight->z, weight->w};
      uint32_t at[4];
      corners_of(*place, pixel_vectors, at);
      Vector<T, channels> v[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) v[c] = from[at[c]];
#pragma unroll
      for (int c = 0; c < 4; ++c)
#pragma unroll
        for (int i = 0; i < channels; ++i) sum[i] += w[c] * v[c][i];
    }
    store(out + row * view.D() + lane * channels, sum);
  }
}

}  // namespace vss
