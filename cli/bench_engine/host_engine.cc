#include "cli/bench_engine/host_engine.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "model/engine.h"
#include "model/host_states.h"

namespace braid {
namespace {

// Counts the distinct experts that go by.
class CountedExperts : public ExpertRunner {
 public:
  CountedExperts(ExpertRunner* experts, int expert_count) : experts_(experts), seen_(expert_count) {}
  absl::Status Run(const RoutedBatch& batch) override {
    std::fill(seen_.begin(), seen_.end(), 0);
    for (int64_t i = 0; i < int64_t{batch.T} * batch.K; ++i) seen_.at(batch.experts[i]) = 1;
    touched += std::count(seen_.begin(), seen_.end(), 1);
    return experts_->Run(batch);
  }
  int64_t touched = 0;

 private:
  ExpertRunner* experts_;
  std::vector<char> seen_;
};

// Private memory of this process, without mapped files.
uint64_t AnonymousBytes() {
  std::ifstream status("/proc/self/status");
  std::string key;
  uint64_t kib = 0;
  while (status >> key) {
    if (key == "RssAnon:" && status >> kib) return kib << 10;
    status.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return 0;
}

class HostEngine : public BenchedEngine {
 public:
  HostEngine(const ModelConfig* config, const ModelTensors* tensors, const EngineBenchOptions* options,
             const StateSizes& sizes)
      : pool_(options->threads),
        probe_(&pool_),
        states_(*config, sizes, options->kv_type),
        engine_(MakeEngine(config, tensors, &states_, &pool_)),
        local_(config->experts, &engine_->experts(), &pool_),
        experts_(&local_, config->experts),
        not_the_engines_(KvBlockBytes(*config, options->kv_type) * static_cast<uint64_t>(sizes.blocks) +
                         probe_.bytes() + options->weight_copy_bytes) {
    // Pages that nobody has written are all the same one, which costs nothing to read.
    states_.Fill(kContextByte);
  }

  absl::Status Run(std::span<const Chunk> chunks) override {
    experts_.touched = 0;
    return engine_->Run(chunks, experts_, &logits_);
  }
  void Profile(StepProfile* profile) override { engine_->Profile(profile); }
  bool profiles_freely() const override { return true; }
  int64_t ExpertsTouched() override { return experts_.touched; }
  MachineLimits Measure() override { return probe_.Measure(); }
  std::string_view multiplies_with() const override { return probe_.int8_instruction(); }
  uint64_t MemoryBytesBeyond() const override {
    const uint64_t bytes = AnonymousBytes();
    return bytes - std::min(bytes, not_the_engines_);
  }

 private:
  ThreadPool pool_;
  MachineProbe probe_;
  HostStates states_;
  const std::unique_ptr<Engine> engine_;
  LocalExperts local_;
  CountedExperts experts_;
  std::vector<float> logits_;
  const uint64_t not_the_engines_;
};

}  // namespace

std::unique_ptr<BenchedEngine> MakeHostEngine(const ModelConfig* config, const ModelTensors* tensors,
                                              const EngineBenchOptions* options, const StateSizes& sizes) {
  return std::make_unique<HostEngine>(config, tensors, options, sizes);
}

}  // namespace braid
