// Times the linear op at the shapes of LFM2.5-8B-A1B, for each stored type and row count, and compares it with what
// this machine reads from memory and multiplies at most, measured in the same run.
//
//   kernels_bench [THREADS]        BRAID_CPU_LEVEL chooses the instruction set

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "kernels/bench/machine.h"
#include "kernels/cpu/level.h"
#include "kernels/linear.h"
#include "kernels/random_weights.h"

namespace braid {
namespace {

constexpr int kRepeats = 5;
constexpr size_t kColdBytes = size_t{192} << 20;  // several times any cache

// The best of a few runs: what others do on the machine only ever adds.
template <typename F>
double BestSeconds(F run) {
  double best = 1e9;
  for (int i = 0; i < kRepeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

// Copies of one matrix, so many that each pass over all of them finds the caches cold.
void Measure(DType type, int T, int N, int K, const MachineLimits& machine, ThreadPool& pool) {
  RandomNumbers random(1);
  const double bytes = static_cast<double>(RowBytes(type, K)) * N;
  const int copies = T > 8 ? 1 : static_cast<int>(static_cast<double>(kColdBytes) / bytes) + 1;
  const RandomMatrix original(random, type, N, K);
  std::vector<std::vector<std::byte>> cold;
  for (int i = 0; i < copies; ++i)
    cold.emplace_back(original.matrix().data, original.matrix().data + static_cast<size_t>(bytes));
  const std::vector<float> x = random.Floats(static_cast<size_t>(T) * K);
  std::vector<float> y(static_cast<size_t>(T) * N);
  const double seconds = BestSeconds([&] {
                           for (const auto& data : cold)
                             Run(Linear{T, {type, N, K, data.data()}, x.data(), y.data()}, pool);
                         }) /
                         copies;
  const double ops = 2.0 * T * N * K;
  std::printf("%-5s T=%-4d (%6d, %5d) %9.1f us %7.2f GB/s %5.1f%% of memory %8.1f GFLOP/s %5.1f%% of int8\n",
              Info(type).name.data(), T, N, K, seconds * 1e6, bytes / seconds * 1e-9,
              100 * bytes / seconds / machine.read_bytes_per_second, ops / seconds * 1e-9,
              100 * ops / seconds / machine.int8_ops_per_second);
  std::fflush(stdout);
}

void Main(int threads) {
  ThreadPool pool(threads);
  MachineProbe probe(&pool);
  const MachineLimits machine = probe.Measure();
  std::printf("%d threads, level %s, memory read %.1f GB/s, int8 %.2f Tera-op/s (%s)\n", threads,
              ActiveCpuLevel().name.data(), machine.read_bytes_per_second * 1e-9, machine.int8_ops_per_second * 1e-12,
              probe.int8_instruction().data());
  for (DType type : kAllDTypes)
    for (int T : {1, 4, 8, 256}) Measure(type, T, 1792, 2048, machine, pool);
  for (int T : {1, 2, 3, 4, 5, 6, 8, 16, 32, 64, 512}) Measure(DType::kQ4_0, T, 6144, 2048, machine, pool);
  Measure(DType::kQ6_K, 1, 128000, 2048, machine, pool);
}

}  // namespace
}  // namespace braid

int main(int argc, char** argv) {
  const int all = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  braid::Main(argc > 1 ? std::max(1, std::atoi(argv[1])) : all);
}
