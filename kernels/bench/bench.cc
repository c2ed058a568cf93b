// Times the linear op, for each stored type and row count, and attention at the shapes of LFM2.5-8B-A1B, and compares
// them with what this machine reads from memory and multiplies in registers, measured in the same run.
//
//   kernels_bench [THREADS] [linear | attention]        BRAID_CPU_LEVEL chooses the instruction set

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>
#include <thread>

#include "base/check.h"
#include "kernels/attention.h"
#include "kernels/bench/fma_peak.h"
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

class HugePages {
 public:
  explicit HugePages(size_t bytes) : bytes_(bytes) {
    data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(data_ != MAP_FAILED);
    madvise(data_, bytes, MADV_HUGEPAGE);
  }
  ~HugePages() { munmap(data_, bytes_); }
  HugePages(const HugePages&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* data_;
  size_t bytes_;
};

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

// T rows of one sequence behind `context` positions. A layer has its own keys and values, and there are so many that
// decoding finds the caches cold.
void MeasureAttention(KvType type, int T, int context, double bandwidth, double peak, ThreadPool& pool) {
  constexpr int kHeads = 32, kKvHeads = 8, kHeadDim = 64;
  RandomNumbers random(2);
  const int tokens = context + T, blocks = (tokens - 1) / KvArena::kBlockTokens + 1;
  const int64_t block_bytes = KvArena::BlockBytes(type, kKvHeads, kHeadDim);
  const double bytes = static_cast<double>(block_bytes) / KvArena::kBlockTokens * tokens;
  const int layers = T > 8 ? 1 : static_cast<int>(static_cast<double>(kColdBytes) / bytes) + 1;
  std::vector<int32_t> ids;
  for (int i = 0; i < blocks; ++i) ids.push_back((blocks - 1 - i) ^ 1);  // somewhere
  const int64_t layer_bytes = block_bytes * (blocks + 1);
  const HugePages memory(static_cast<size_t>(layer_bytes) * layers);
  // Small numbers of both types, and of scales, alike.
  for (int64_t i = 0; i < layer_bytes * layers; i += 2) {
    const auto number = static_cast<uint16_t>(0x3F00 | (random.Bits() & 0x80FF));
    std::memcpy(memory.data() + i, &number, sizeof number);
  }
  const std::vector<float> q = random.Floats(static_cast<size_t>(T) * kHeads * kHeadDim);
  std::vector<float> y(q.size());
  std::vector<KvRow> rows;
  for (int t = 0; t < T; ++t) rows.push_back({ids.data(), context + t});
  AttentionScratch scratch;
  const double seconds =
      BestSeconds([&] {
        for (int i = 0; i < layers; ++i) {
          const KvArena arena{memory.data() + i * layer_bytes, block_bytes, kKvHeads, kHeadDim, type};
          Run(Attention{T, kHeads, kKvHeads, kHeadDim, q.data(), rows.data(), arena, y.data()}, scratch, pool);
        }
      }) /
      layers;
  const double flops = 4.0 * kHeads * kHeadDim * T * (context + (T + 1) / 2.0);
  std::printf("attention %s T=%-4d after %6d %9.1f us %7.2f GB/s %5.1f%% of memory %8.1f GFLOP/s", Name(type).data(), T,
              context, seconds * 1e6, bytes / seconds * 1e-9, 100 * bytes / seconds / bandwidth,
              flops / seconds * 1e-9);
  if (peak > 0) std::printf(" %5.1f%% of FMA", 100 * flops / seconds / peak);
  std::printf("\n");
  std::fflush(stdout);
}

void Main(int threads, std::string_view only) {
  ThreadPool pool(threads);
  MachineProbe probe(&pool);
  const MachineLimits machine = probe.Measure();
  const double fmas = RunFmas(pool), peak = fmas / BestSeconds([&] { RunFmas(pool); });
  std::printf("%d threads, level %s, memory read %.1f GB/s, int8 %.2f Tera-op/s (%s), FMA %.1f GFLOP/s\n", threads,
              ActiveCpuLevel().name.data(), machine.read_bytes_per_second * 1e-9, machine.int8_ops_per_second * 1e-12,
              probe.int8_instruction().data(), peak * 1e-9);
  if (only != "linear") {
    const double bandwidth = machine.read_bytes_per_second;
    for (const KvType type : {KvType::kBFloat16, KvType::kInt8}) {
      for (int context : {1 << 10, 1 << 14, 1 << 17})
        for (int T : {1, 4}) MeasureAttention(type, T, context - T, bandwidth, peak, pool);
      for (int context : {0, 1 << 13}) MeasureAttention(type, 512, context, bandwidth, peak, pool);
    }
  }
  if (only == "attention") return;
  for (DType type : kAllDTypes)
    for (int T : {1, 4, 8, 256}) Measure(type, T, 1792, 2048, machine, pool);
  for (int T : {1, 2, 3, 4, 5, 6, 8, 16, 32, 64, 512}) Measure(DType::kQ4_0, T, 6144, 2048, machine, pool);
  Measure(DType::kQ6_K, 1, 128000, 2048, machine, pool);
}

}  // namespace
}  // namespace braid

int main(int argc, char** argv) {
  const int all = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  braid::Main(argc > 1 ? std::max(1, std::atoi(argv[1])) : all, argc > 2 ? argv[2] : "");
}
