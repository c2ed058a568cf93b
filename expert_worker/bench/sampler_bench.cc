// Times what becomes of one row of logits on one thread, in us: the middle of many rows, each of which comes from the
// second-level cache at best, as a row that another core has computed does.
//
//   sampler_bench [VOCABULARY]        BRAID_CPU_LEVEL chooses the instruction set

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/check.h"
#include "expert_worker/logprobs.h"
#include "expert_worker/sampler.h"
#include "kernels/cpu/level.h"

namespace braid {
namespace {

constexpr int kRows = 8, kRepeats = 25;

v1::SamplingParams Params(float temperature, uint32_t top_k = 0, float top_p = 1, float min_p = 0) {
  v1::SamplingParams params;
  params.set_temperature(temperature);
  params.set_top_k(top_k);
  params.set_top_p(top_p);
  params.set_min_p(min_p);
  params.set_repetition_penalty(1);
  return params;
}

class Bench {
 public:
  explicit Bench(int vocabulary) : rows_(kRows, std::vector<float>(static_cast<size_t>(vocabulary))) {}

  // Logits around 0; `peak` are far above the rest, one further than the other.
  void Fill(const char* name, float deviation, int peak) {
    name_ = name;
    std::mt19937 rng(7);
    std::normal_distribution<float> normal(0, 1);
    for (std::vector<float>& row : rows_) {
      for (float& logit : row) logit = deviation * normal(rng);
      for (int i = 0; i < peak; ++i) row[rng() % row.size()] = 20 - 0.5f * static_cast<float>(i);
    }
  }

  void Time(const char* what, const std::function<void(std::span<float>, uint64_t position)>& run) {
    std::vector<double> us;
    for (int i = 0; i < kRepeats * kRows; ++i) {
      std::vector<float>& row = rows_[static_cast<size_t>(i % kRows)];
      const auto start = std::chrono::steady_clock::now();
      run(row, static_cast<uint64_t>(i));
      us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
    }
    std::sort(us.begin(), us.end());
    std::printf("%-10s %-28s %8.1f us\n", name_, what, us[us.size() / 2]);
  }

  void TimeSampling(const char* what, const v1::SamplingParams& params, const TokenCounts& counts = {}) {
    Time(what,
         [&](std::span<float> row, uint64_t position) { CHECK(SampleToken(row, params, counts, {}, position).ok()); });
  }

 private:
  const char* name_ = "";
  std::vector<std::vector<float>> rows_;
};

void Main(int vocabulary) {
  std::printf("level %s, %d logits a row\n", ActiveCpuLevel().name.data(), vocabulary);
  Bench bench(vocabulary);
  TokenCounts counts;
  for (int i = 0; i < 2000; ++i) counts.Add(i * 31 % vocabulary, /*answer=*/true);
  v1::SamplingParams penalties = Params(0);
  penalties.set_repetition_penalty(1.1f);
  for (const auto& [name, deviation, peak] :
       {std::tuple{"peaked", 2.0f, 20}, {"normal", 3.0f, 0}, {"flat", 0.01f, 0}, {"all equal", 0.0f, 0}}) {
    bench.Fill(name, deviation, peak);
    bench.TimeSampling("greedy", Params(0));
    bench.TimeSampling("greedy, 2000 penalties", penalties, counts);
    bench.TimeSampling("temperature 1", Params(1));
    bench.TimeSampling("temperature 0.3, min_p 0.15", Params(0.3f, 0, 1, 0.15f));
    bench.TimeSampling("top_k 50", Params(1, 50));
    bench.TimeSampling("top_k 5000", Params(1, 5000));
    bench.TimeSampling("top_p 0.9", Params(1, 0, 0.9f));
    bench.TimeSampling("top_p 0.999", Params(1, 0, 0.999f));
    bench.TimeSampling("top_k 50, top_p 0.9", Params(0.7f, 50, 0.9f));
    bench.Time("log probability", [](std::span<float> row, uint64_t) { CHECK(LogSumExp(row) > 0); });
    bench.Time("with 20 alternatives", [](std::span<float> row, uint64_t) {
      v1::TokenLogprob out;
      AddAlternatives(row, LogSumExp(row), 20, &out);
      CHECK_EQ(out.top_size(), 20);
    });
  }
}

}  // namespace
}  // namespace braid

int main(int argc, char** argv) { braid::Main(argc > 1 ? std::max(32, std::atoi(argv[1])) : 128000); }
