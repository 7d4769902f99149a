// Runs every kernel of csrc/cuda under ThreadSanitizer, see emulator.h: exit status 0, or 66 and a report of the races.

#include <cstdio>
#include <random>
#include <vector>

#include "dcnv3.cu"
#include "ms_deform_attn.cu"

namespace {

std::mt19937 generator(7);

template <typename T>
std::vector<T> normal(int64_t count, float scale) {
  std::normal_distribution<float> draw(0.f, scale);
  std::vector<T> values(count);
  for (T& value : values) value = vss::from_float<T>(draw(generator));
  return values;
}

void check(const char* problem) {
  if (*problem == 0) return;
  std::fprintf(stderr, "%s\n", problem);
  std::exit(1);
}

template <typename T, typename Problem>
void run(const char* name, const Problem& p, int64_t table_elements, vss::Dtype dtype, bool softmax, float reach) {
  std::printf("%s\n", name);
  std::fflush(stdout);
  const int64_t samples = p.rows() * p.samples();
  const auto table = normal<T>(table_elements, 1.f), coordinates = normal<T>(2 * samples, reach);
  const auto weights = normal<T>(samples, 1.f), grad = normal<T>(p.rows() * p.D, 1.f);
  std::vector<T> out(p.rows() * p.D), grad_coordinates(2 * samples), grad_weights(samples);
  std::vector<float> grad_table(table_elements);
  const vss::Dtypes dtypes{dtype, dtype};
  check(vss::launch_forward(p, dtypes, table.data(), coordinates.data(), weights.data(), out.data(), softmax, nullptr));
  check(vss::launch_backward(p, dtypes, grad.data(), table.data(), coordinates.data(), weights.data(),
                             grad_table.data(), grad_coordinates.data(), grad_weights.data(), softmax, nullptr));
}

vss::Dcn dcn(int64_t N, int64_t H, int64_t W, int G, int D, int kernel) {
  const int pad = kernel / 2;
  return {N, H, W, H, W, G, D, kernel, kernel, 1, 1, pad, pad, 1, 1, 0, 1.0};
}

int64_t elements(const vss::Dcn& p) { return p.N * p.H * p.W * p.G * p.D; }

}  // namespace

int main() {
  using vss::Dtype;
  const auto run_dcn = [](const char* name, const vss::Dcn& p, bool softmax, float reach) {
    run<__half>(name, p, elements(p), Dtype::kHalf, softmax, reach);
  };
  run_dcn("32 channels a group", dcn(1, 9, 10, 2, 32, 3), true, 1.5f);
  vss_emulator::processors = 132;
  run_dcn("small tiles", dcn(1, 9, 10, 2, 32, 3), true, 1.5f);
  vss_emulator::processors = 0;
  run_dcn("16 channels a group, far outside", dcn(2, 8, 9, 3, 16, 3), true, 9.f);
  run_dcn("groups that 32 channels cut", dcn(1, 9, 9, 5, 12, 3), false, 1.5f);
  run_dcn("no window", dcn(1, 9, 9, 1, 8, 13), true, 1.5f);
  run_dcn("more lanes than a warp", dcn(1, 4, 5, 1, 264, 3), true, 1.5f);
  const auto floats = dcn(1, 8, 8, 2, 32, 3);
  run<float>("float32", floats, elements(floats), Dtype::kFloat, true, 1.f);
  const int64_t shapes[] = {3, 4, 6, 7}, starts[] = {0, 12};
  const vss::Attention attention{2, 54, 21, 2, 32, 2, 4, shapes, starts};
  run<__half>("attention", attention, 2 * 54 * 2 * 32, Dtype::kHalf, true, 1.f);
}
