// CPU kernels of both ops, for the instruction set named by VSS_ISA with vectors of VSS_VECTOR_BYTES.
//
// Bytes, for a DCNv3 row of InternImage-H (9 points, 32 channels, float32): 36 table rows of 128 bytes are read, 4.6 KB,
// against 128 bytes written and 108 of offset and mask. Neighbouring pixels sample the same few image rows, so nearly
// all of the 4.6 KB comes from the first two cache levels provided that (a) the channels of a row are contiguous, as
// they are channels-last, and (b) a thread walks along image rows. The rest is arithmetic: positions are found for up
// to 16 samples at once, one vector lane a sample (samples.h), and the channels of a row stay in registers until it is
// complete.
// The pure PyTorch path stores indices and weights of all samples (36 * 12 bytes per row) and gathers rows into memory.
//
// Backward: threads own whole (image, group) pairs, so that no two of them ever add to the same address: no atomics,
// no private copies, and the same result on every run and for every number of threads.

#ifndef VSS_ISA
#define VSS_ISA baseline
#define VSS_VECTOR_BYTES 16
#endif

#include "kernels.h"
#include "samples.h"
#include "softmax.h"

namespace vss {
namespace VSS_ISA {
namespace {

// out[0 : n * lanes] (+)= sum of weighted table rows, in registers over all samples. Corners have sums of their own: an
// addition waits four cycles for the one before it, and n vectors alone would not fill them.
template <typename V, int n, typename T>
inline void gather(const T* table, const Rows& rows, const T weight[4][kBatch], int count, bool add, T* out) {
  constexpr int lanes = sizeof(V) / sizeof(T), sums = n > 2 ? 2 : 4;
  V sum[sums][n];
  for (int k = 0; k < sums; ++k)
    for (int i = 0; i < n; ++i) sum[k][i] = V{};
  for (int s = 0; s < count; ++s) {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const T w = weight[c][s];
      if (w == T(0)) continue;  // outside, or exactly on a pixel: three quarters of all corners at initialisation
      const T* row = table + rows.of[c][s];
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i) sum[c % sums][i] += load<V>(row + i * lanes) * w;
    }
  }
  for (int i = 0; i < n; ++i) {
    V total = sum[0][i] + sum[1][i];
    if constexpr (sums == 4) total += sum[2][i] + sum[3][i];
    store<V>(out + i * lanes, add ? load<V>(out + i * lanes) + total : total);
  }
}

// For every corner of every sample: dots[c][s] += <grad, row> and grad_row += weight * grad.
template <typename T, int Bytes, int n>
inline void scatter(const T* grad, const T* table, const Located<T>& at, const Rows& rows, const T weight[4][kBatch],
                    int count, T* grad_table, T dots[4][kBatch]) {
  using V = typename Lanes<T, Bytes>::type;
  constexpr int lanes = Bytes / sizeof(T);
  V g[n];
  for (int i = 0; i < n; ++i) g[i] = load<V>(grad + i * lanes);
  for (int s = 0; s < count; ++s) {
    for (int c = 0; c < 4; ++c) {
      if (!at.inside(c, s)) continue;
      const T* row = table + rows.of[c][s];
      T* grad_row = grad_table + rows.of[c][s];
      V dot = load<V>(row) * g[0];
#pragma GCC unroll 8
      for (int i = 1; i < n; ++i) dot += load<V>(row + i * lanes) * g[i];
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i) store<V>(grad_row + i * lanes, load<V>(grad_row + i * lanes) + g[i] * weight[c][s]);
      dots[c][s] += folded<T, Bytes>(dot, Sum{});
    }
  }
}

// Calls block(channel, bytes, n) until all channels are covered, widest vectors first.
template <typename T, typename Block>
inline void for_channels(int channels, Block block) {
  constexpr int wide = VSS_VECTOR_BYTES / sizeof(T);
  using std::integral_constant;
  int c = 0;
  for (; channels - c >= 4 * wide; c += 4 * wide)
    block(c, integral_constant<int, VSS_VECTOR_BYTES>{}, integral_constant<int, 4>{});
  for (; channels - c >= 2 * wide; c += 2 * wide)
    block(c, integral_constant<int, VSS_VECTOR_BYTES>{}, integral_constant<int, 2>{});
  for (; channels - c >= wide; c += wide)
    block(c, integral_constant<int, VSS_VECTOR_BYTES>{}, integral_constant<int, 1>{});
  constexpr int narrow = 16 / sizeof(T);
  for (; channels - c >= narrow; c += narrow) block(c, integral_constant<int, 16>{}, integral_constant<int, 1>{});
  for (; c < channels; ++c) block(c, integral_constant<int, sizeof(T)>{}, integral_constant<int, 1>{});
}

template <typename T>
struct Call {
  Layout<T> layout;
  const T *grad, *table, *coordinates, *weights;
  bool softmax;  // the weights are logits
  T *out, *grad_table, *grad_coordinates, *grad_weights;

  // Coordinates and weights of kBatch samples from `sample` on, of which `count` belong to the current row. The others
  // are those of the next rows, or zeros at the end of the tensors.
  struct Points {
    const Call& call;
    const int64_t total;
    const T *coordinates, *weights;
    T copied_coordinates[2 * kBatch] = {}, copied_weights[kBatch] = {};

    explicit Points(const Call& c) : call(c), total(c.layout.rows() * c.layout.samples) {}

    void move(int64_t sample, int count) {
      coordinates = call.coordinates + 2 * sample;
      weights = call.weights + sample;
      if (total - sample >= kBatch) return;
      std::copy(coordinates, coordinates + 2 * count, copied_coordinates);
      std::copy(weights, weights + count, copied_weights);
      coordinates = copied_coordinates;
      weights = copied_weights;
    }
  };

  // Places of all images are the unit, all groups of a place together: offsets, mask and output then stream through
  // memory in order. Taking fewer groups at a time, so that their rows stay in the first or second cache level, was tried
  // and was slower (160 to 240 instead of 120 ns per row): pixels lie 4 * C bytes apart, which is a multiple of 1 KB and
  // maps them to a few cache sets, and nothing streams any more. Columns in strips and prefetching gained nothing.
  static void forward(const void* context, int64_t begin, int64_t end) {
    const Call& call = *static_cast<const Call*>(context);
    if (begin == end || call.layout.groups == 0) return;
    Step steps[2];
    Walk walk(call, begin);
    walk.prepare(steps[0]);
    // The next step is located before this one is gathered: finding positions is a chain of a hundred cycles, which the
    // processor then works off while it waits for table rows.
    for (int current = 0; true; current ^= 1) {
      const bool more = walk.advance(end);
      if (more) walk.prepare(steps[current ^ 1]);
      const Step& step = steps[current];
      for_channels<T>(call.layout.D, [&](int c, auto bytes, auto n) {
        gather<typename Lanes<T, bytes()>::type, n()>(step.table + c, step.rows, step.corners, step.count, step.add,
                                                      step.out + c);
      });
      if (!more) return;
    }
  }

  // Up to kBatch samples of a row, ready to be gathered.
  struct Step {
    Rows rows;
    alignas(64) T corners[4][kBatch];
    const T* table;
    T* out;
    int count;
    bool add;  // to what earlier samples of the row left in `out`
  };

  // Goes through places, groups and batches of samples.
  struct Walk {
    const Call& call;
    const Layout<T>& l;
    Points points;
    RowWeights<T> weights;
    int64_t place, group = 0;
    int first = 0;  // sample of the row
    T x, y;

    Walk(const Call& c, int64_t begin) : call(c), l(c.layout), points(c), weights(l.samples, c.softmax), place(begin) {
      enter();
    }

    void enter() {
      const int64_t within = place % l.places;
      x = l.first_x + T(within % l.columns) * l.step_x;
      y = l.first_y + T(within / l.columns) * l.step_y;
    }

    bool advance(int64_t end) {
      first += kBatch;
      if (first < l.samples) return true;
      first = 0;
      if (++group < l.groups) return true;
      group = 0;
      if (++place == end) return false;
      enter();
      return true;
    }

    void prepare(Step& step) {
      const int64_t row = place * l.groups + group;
      step.count = std::min(kBatch, l.samples - first);
      step.add = first > 0;
      step.table = call.table + place / l.places * l.table_size + group * l.D;
      step.out = call.out + row * l.D;
      points.move(row * l.samples + first, step.count);
      if (first == 0) weights.take(call.weights + row * l.samples);
      Located<T> at;
      locate(l.batches[first / kBatch], x, y, points.coordinates, l.stride, at, step.rows);
      corner_weights(at, weights.from(first, points.weights), step.corners);
    }
  };

  // An (image, group) pair is the unit.
  static void backward(const void* context, int64_t begin, int64_t end) {
    const Call& call = *static_cast<const Call*>(context);
    const Layout<T>& l = call.layout;
    Located<T> at;
    Rows rows;
    alignas(64) T corners[4][kBatch], dots[4][kBatch];
    Points points(call);
    RowWeights<T> row_weights(l.samples, call.softmax);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t group = unit % l.groups, table_at = unit / l.groups * l.table_size + group * l.D;
      const T* table = call.table + table_at;
      T* grad_table = call.grad_table + table_at;
      for (int64_t place = 0; place < l.places; ++place) {
        const T x = l.first_x + T(place % l.columns) * l.step_x, y = l.first_y + T(place / l.columns) * l.step_y;
        const int64_t row = (unit / l.groups * l.places + place) * l.groups + group;
        row_weights.take(call.weights + row * l.samples);
        for (int first = 0; first < l.samples; first += kBatch) {
          const int count = std::min(kBatch, l.samples - first);
          const int64_t sample = row * l.samples + first;
          const Batch<T>& batch = l.batches[first / kBatch];
          points.move(sample, count);
          locate(batch, x, y, points.coordinates, l.stride, at, rows);
          const T* weights = row_weights.from(first, points.weights);
          corner_weights(at, weights, corners);
          std::fill(&dots[0][0], &dots[0][0] + 4 * kBatch, T(0));
          for_channels<T>(l.D, [&](int c, auto bytes, auto n) {
            scatter<T, bytes(), n()>(call.grad + row * l.D + c, table + c, at, rows, corners, count,
                                     grad_table + c, dots);
          });
          finish(batch, at, weights, dots, count, call.grad_coordinates + 2 * sample, call.grad_weights + sample);
        }
        row_weights.to_logits(call.grad_weights + row * l.samples);
      }
    }
  }
};

}  // namespace

template <typename T, typename Problem>
void forward(const Problem& p, ParallelFor parallel, const T* table, const T* coordinates, const T* weights,
             bool softmax, T* out) {
  const Call<T> call{layout<T>(p), nullptr, table, coordinates, weights, softmax, out, nullptr, nullptr, nullptr};
  const Layout<T>& l = call.layout;
  const int64_t grain = std::max<int64_t>(1, 4096 / std::max<int64_t>(1, l.groups * l.samples));
  parallel(l.images * l.places, grain, &Call<T>::forward, &call);
}

template <typename T, typename Problem>
void backward(const Problem& p, ParallelFor parallel, const T* grad, const T* table, const T* coordinates,
              const T* weights, bool softmax, T* grad_table, T* grad_coordinates, T* grad_weights) {
  const Call<T> call{layout<T>(p), grad,    table,      coordinates,      weights,
                     softmax,      nullptr, grad_table, grad_coordinates, grad_weights};
  const Layout<T>& l = call.layout;
  const int64_t grain = std::max<int64_t>(1, 4096 / std::max<int64_t>(1, l.places * l.samples));
  parallel(l.images * l.groups, grain, &Call<T>::backward, &call);
}

#define VSS_INSTANTIATE(T, Problem)                                                                                \
  template void forward<T, Problem>(const Problem&, ParallelFor, const T*, const T*, const T*, bool, T*);          \
  template void backward<T, Problem>(const Problem&, ParallelFor, const T*, const T*, const T*, const T*, bool, T*, \
                                     T*, T*);

VSS_INSTANTIATE(float, Dcn)
VSS_INSTANTIATE(double, Dcn)
VSS_INSTANTIATE(float, Attention)
VSS_INSTANTIATE(double, Attention)

}  // namespace VSS_ISA
}  // namespace vss
