// Whole clusters in virtual time. See README.md beside this file.

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "tests/simulation/simulation.h"

namespace {

using braid::simulation::Result;
using braid::simulation::Simulate;

thread_local uint64_t seed_under_way = 0;

// A CHECK that fails is a finding like any other: say which seed it was.
void OnAbort(int) {
  char line[64];
  const int length =
      std::snprintf(line, sizeof(line), "\nABORTED in seed %llu\n", static_cast<unsigned long long>(seed_under_way));
  [[maybe_unused]] const ssize_t written = write(STDOUT_FILENO, line, static_cast<size_t>(length));
  std::signal(SIGABRT, SIG_DFL);
}

struct Totals {
  std::mutex mutex;
  Result sum;
  uint64_t failures = 0;
};

void Add(const Result& result, uint64_t seed, Totals* totals) {
  const std::lock_guard lock(totals->mutex);
  for (const auto& [what, times] : result.counts) totals->sum.counts[what] += times;
  totals->sum.trace ^= result.trace;
  if (result.failure.empty()) return;
  ++totals->failures;
  fmt::print("FAILED seed {} {}\n  replay: simulation --seed {} --log\n", seed, result.failure, seed);
  std::fflush(stdout);
}

struct Range {
  uint64_t start = 1, seeds = 100, failures_max = 5;
  int threads = 1;
  bool twice = false;
};

Result SimulateTwice(uint64_t seed, bool log) {
  Result result = Simulate(seed, log);
  if (Simulate(seed, false).trace != result.trace && result.failure.empty()) {
    result.failure = "the second run of the same seed went another way";
  }
  return result;
}

int RunMany(const Range& range) {
  Totals totals;
  std::atomic<uint64_t> next{range.start};
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::thread> pool;
  for (int i = 0; i < range.threads; ++i) {
    pool.emplace_back([&] {
      for (;;) {
        const uint64_t seed = next++;
        if (seed >= range.start + range.seeds) return;
        {
          const std::lock_guard lock(totals.mutex);
          if (totals.failures >= range.failures_max) return;
        }
        seed_under_way = seed;
        Add(range.twice ? SimulateTwice(seed, false) : Simulate(seed, false), seed, &totals);
      }
    });
  }
  for (std::thread& thread : pool) thread.join();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  for (const auto& [what, times] : totals.sum.counts) fmt::print("{:>10}  {}\n", times, what);
  fmt::print("{} failures, {:.1f} s, trace {:016x}\n", totals.failures, seconds, totals.sum.trace);
  return totals.failures == 0 ? 0 : 1;
}

int RunOne(uint64_t seed, bool log, bool twice) {
  seed_under_way = seed;
  const Result result = twice ? SimulateTwice(seed, log) : Simulate(seed, log);
  for (const auto& [what, times] : result.counts) fmt::print("{:>10}  {}\n", times, what);
  fmt::print("seed {}, trace {:016x}: {}\n", seed, result.trace,
             result.failure.empty() ? "every promise was kept" : "FAILED " + result.failure);
  return result.failure.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Simulates whole clusters, breaks them, and compares every answer with the right one."};
  Range range;
  range.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::optional<uint64_t> seed;
  bool log = false;
  app.add_option("--seeds", range.seeds, "How many seeds to run");
  app.add_option("--start", range.start, "The first of them");
  app.add_option("--seed", seed, "Run this one alone");
  app.add_option("--threads", range.threads, "Seeds at a time");
  app.add_option("--failures-max", range.failures_max, "Stop after as many");
  app.add_flag("--log", log, "With --seed: tell the story");
  app.add_flag("--twice", range.twice, "Run each twice, which must go the same way");
  CLI11_PARSE(app, argc, argv);
  std::signal(SIGABRT, &OnAbort);
  spdlog::set_level(spdlog::level::off);
  return seed ? RunOne(*seed, log, range.twice) : RunMany(range);
}
