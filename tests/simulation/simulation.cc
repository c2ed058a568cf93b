#include "tests/simulation/simulation.h"

#include <fmt/format.h>
#include <spdlog/details/null_mutex.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "tests/simulation/cluster.h"
#include "tests/simulation/nemesis.h"

namespace braid::simulation {
namespace {

// After the last fault, everything that was accepted must end within this.
constexpr absl::Duration kHealingMax = absl::Seconds(120);
constexpr absl::Duration kStartMax = absl::Seconds(30);
constexpr int kLastCalls = 3;

Cluster::Options ChooseCluster(Random& random) {
  Cluster::Options options;
  options.gateways = random.Between(1, 2);
  const int groups = random.Chance(0.25) ? 2 : 1;
  const int workers = groups == 2 ? random.Between(1, 2) : random.Between(1, 4);  // in each
  const int needed = random.Between(1, workers);                                  // for a group to begin
  RouterOptions& router = options.router;
  router.listen = "";
  router.workers = needed;
  router.step_tokens = random.Between(16, 96);
  router.chunk_tokens = random.Between(8, 48);
  router.sequences_max = random.Between(4, 24);
  router.queue_max = random.Between(2, 40);
  router.prefix_cache = random.Chance(0.95);
  router.snapshot_tokens = random.Chance(0.5) ? 256 : random.Between(20, 100);
  router.heartbeat = random.Between(absl::Milliseconds(100), absl::Milliseconds(500));
  router.heartbeat_timeout = router.heartbeat * random.Between(3, 6);
  router.step_timeout = absl::Seconds(120);
  router.replica_experts = random.Between(0, 3);
  router.rebalance_interval = random.Chance(0.3) ? absl::Seconds(1) : absl::Seconds(30);
  const bool named_groups = groups == 2 && random.Chance(0.5);
  const bool hosts = groups == 2 && random.Chance(0.5);
  router.groups = named_groups || hosts ? 0 : groups;
  router.draft_tokens_max = random.Chance(0.2) ? 0 : random.Between(1, 8);

  SimWorker::Options worker;
  worker.kv_blocks = random.Between(11, 40);
  worker.sequences_max = random.Between(3, 16);
  worker.step_tokens_max = random.Between(24, 64);
  worker.snapshots_max = random.Chance(0.1) ? 0 : random.Between(1, 12);
  // All experts fit into the fewest workers that may serve, sometimes just so.
  const int all = 16;
  worker.expert_slots = random.Chance(0.5) ? all : std::min(all, (all + needed - 1) / needed + random.Between(0, 4));
  worker.exchange_timeout =
      random.Pick(std::vector<absl::Duration>{absl::Seconds(3), absl::Seconds(30), absl::Minutes(30)});
  worker.step_time = random.Between(absl::Milliseconds(2), absl::Milliseconds(20));
  worker.row_time = random.Between(absl::Microseconds(50), absl::Milliseconds(1));
  worker.load_time = random.Chance(0.2) ? absl::Seconds(2) : absl::Milliseconds(100);
  const bool small_ones = random.Chance(0.2);
  const int kv_blocks = worker.kv_blocks;
  options.small_workers = small_ones;
  // One that stands by is no help to whoever is too long for those that serve.
  if (!small_ones && random.Chance(0.15)) worker.ranks_max = random.Between(needed, workers);
  const int together = worker.ranks_max > 0 ? worker.ranks_max : workers;
  options.can_lose_a_worker = !options.small_workers && workers > needed &&
                              std::min(together, workers - 1) * (worker.expert_slots / 2) >= all / 2;
  for (int group = 0; group < groups; ++group) {
    for (int i = 0; i < workers; ++i) {
      worker.kv_blocks = small_ones && i > 0 ? random.Between(3, kv_blocks) : kv_blocks;
      worker.name = fmt::format("worker{}", options.workers.size());
      if (named_groups) worker.group = group == 0 ? "a" : "b";
      if (hosts) worker.host = group == 0 ? "here" : "there";
      options.workers.push_back(worker);
    }
  }
  options.jitter = random.Between(absl::Microseconds(50), absl::Milliseconds(2));
  options.restart_max = random.Between(absl::Milliseconds(300), absl::Seconds(3));
  return options;
}

// What the programs log, between the lines of the simulation.
class LogSink : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
 public:
  explicit LogSink(const World* world) : world_(world) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    world_->Log("  log", std::string(message.payload.data(), message.payload.size()));
  }
  void flush_() override {}

 private:
  const World* const world_;
};

class Simulation {
 public:
  Simulation(uint64_t seed, bool log)
      : world_(seed, log), options_(ChooseCluster(world_.random())), cluster_(&world_, options_), nemesis_(&cluster_) {}

  const World& world() const { return world_; }

  Result Run() {
    world_.Count("seeds");
    RunUntil(
        kStartMax, [this] { return cluster_.Ready(); }, "no group is ready");
    BreakThings();
    nemesis_.Heal();
    cluster_.Heal();
    SIM_LOG(&world_, "nemesis", "heals everything");
    const absl::Time healed = world_.now();
    RunUntil(
        kHealingMax, [this] { return cluster_.calls_open() == 0; }, "calls have not ended");
    CountHealing(world_.now() - healed);
    for (int i = 0; i < kLastCalls; ++i) cluster_.StartCall(HarmlessExam());
    RunUntil(
        kHealingMax, [this] { return cluster_.calls_open() == 0; }, "the last calls have not ended");
    RunFor(absl::Seconds(3));
    if (!world_.failed()) cluster_.CheckEmpty();
    return {world_.failure(), world_.trace(), world_.counts()};
  }

 private:
  void CountHealing(absl::Duration time) {
    for (const int seconds : {1, 3, 10, 30, 100}) {
      if (time <= absl::Seconds(seconds))
        return world_.Count(fmt::format("all calls ended {:>3} s after healing", seconds));
    }
    world_.Count("all calls ended later than 100 s after healing");
  }

  int HarmlessExam() {
    const int exam = static_cast<int>(world_.random().Below(kExams));
    return GetExam(exam).poison ? exam - 1 : exam;
  }

  // Callers come at random times while things break.
  void BreakThings() {
    Random& random = world_.random();
    const absl::Time end = world_.now() + random.Between(absl::Seconds(2), absl::Seconds(10));
    const int poison = random.Chance(0.12) ? random.Between(1, 2) : 0;
    const int calls = random.Between(4, 30);
    for (int i = 0; i < calls + poison; ++i) {
      const int exam = i < calls ? HarmlessExam() : random.Between(0, kExams / 16 - 1) * 16 + 15;
      world_.At(world_.now() + (end - world_.now()) * random.Unit(), [this, exam] { cluster_.StartCall(exam); });
    }
    nemesis_.Start();
    while (world_.now() < end && world_.Step()) {
    }
  }

  void RunFor(absl::Duration time) {
    const absl::Time end = world_.now() + time;
    while (world_.now() < end && world_.Step()) {
    }
  }

  template <typename Condition>
  void RunUntil(absl::Duration within, const Condition& condition, const char* what) {
    const absl::Time end = world_.now() + within;
    while (!condition()) {
      if (world_.failed()) return;
      if (world_.now() > end || !world_.Step()) {
        return world_.Fail(
            fmt::format("{} in {} s:{}", what, absl::ToInt64Seconds(within), cluster_.DescribeOpenCalls()));
      }
    }
  }

  World world_;
  const Cluster::Options options_;
  Cluster cluster_;
  Nemesis nemesis_;
};

}  // namespace

Result Simulate(uint64_t seed, bool log) {
  Simulation simulation(seed, log);
  if (!log) return simulation.Run();
  // All programs of the process log to one place: only for a seed that runs alone.
  const auto before = spdlog::default_logger();
  auto logger = std::make_shared<spdlog::logger>("simulation", std::make_shared<LogSink>(&simulation.world()));
  logger->set_level(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  Result result = simulation.Run();
  spdlog::set_default_logger(before);
  return result;
}

}  // namespace braid::simulation
