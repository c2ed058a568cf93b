#include "cli/bench_engine/worker_engine.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/status.h"
#include "expert_worker/backend.h"

namespace braid {
namespace {

// As StepRunner has it: logits of more rows at a time are never in memory.
constexpr int kLogitRows = 64;
constexpr int kKvBlocksMin = 512 / kKvBlockTokens;  // a worker with fewer would not start: see ChooseKvBlocks

absl::StatusOr<std::vector<ExpertRanks>> AllHere(const ModelConfig& config) {
  v1::Configure configure;
  for (int layer = 0; layer < config.moe_layer_count(); ++layer) {
    v1::LayerPlacement& placement = *configure.add_placement();
    for (int expert = 0; expert < config.experts; ++expert) placement.add_replicas(1), placement.add_ranks(0);
  }
  return ParsePlacement(configure, config.moe_layer_count(), config.experts, 1);
}

class WorkerEngine : public BenchedEngine {
 public:
  WorkerEngine(WorkerOptions options, const MachineLimits& limits)
      : options_(std::move(options)), limits_(limits), pool_(ComputeThreads(options_)) {}

  absl::Status Init(const ModelFile* model) {
    const ModelConfig& config = model->config();
    const std::function<bool()> never = [] { return false; };
    ASSIGN_OR_RETURN(device_, ChooseDevice(options_));
    ASSIGN_OR_RETURN(backend_, MakeBackend({model, &options_, device_, &pool_, {}, never}));
    backend_->states().Fill(kContextByte);
    ASSIGN_OR_RETURN(std::vector<ExpertRanks> placement, AllHere(config));
    ASSIGN_OR_RETURN(hold_, backend_->LoadExperts(placement, 0, never));
    ASSIGN_OR_RETURN(experts_, backend_->MakeExperts(nullptr, {.step_tokens_max = options_.step_tokens_max,
                                                               .placement = std::move(placement)}));
    return absl::OkStatus();
  }

  absl::Status Run(std::span<const Chunk> chunks) override {
    int rows = 0, wanted = 0;
    for (const Chunk& chunk : chunks) {
      rows += static_cast<int>(chunk.tokens.size());
      wanted += chunk.logits == Chunk::Logits::kLast;
    }
    experts_->BeginStep(++step_, rows);
    RETURN_IF_ERROR(backend_->engine().Run(chunks, experts_->runner(), nullptr));
    graph_launches_ = backend_->engine().graph_launches();
    if (backend_->engine().draws() && wanted > 0) return Draw(wanted);
    int row = 0;  // also of none: the step may still run
    do {
      const int end = std::min(wanted, row + kLogitRows);
      RETURN_IF_ERROR(backend_->engine().Logits(row, end, &logits_));
      row = end;
    } while (row < wanted);
    return absl::OkStatus();
  }
  void Profile(StepProfile* profile) override { backend_->engine().Profile(profile); }
  bool profiles_freely() const override { return !device_.is_cuda(); }
  void UseGraphs(bool use) override { backend_->engine().UseGraphs(use); }
  int graph_launches() const override { return graph_launches_; }
  int64_t ExpertsTouched() override {
    const std::vector<uint64_t> rows = experts_->TakeExpertRows();
    return std::ranges::count_if(rows, [](uint64_t count) { return count > 0; });
  }
  MachineLimits Measure() override { return limits_; }
  std::string_view multiplies_with() const override { return "dense bfloat16"; }
  uint64_t MemoryBytesBeyond() const override { return 0; }

 private:
  // As a worker takes tokens of requests that want no more of their logits.
  absl::Status Draw(int rows) {
    drawn_rows_.resize(static_cast<size_t>(rows));
    for (int row = 0; row < rows; ++row) drawn_rows_[static_cast<size_t>(row)].row = row;
    RETURN_IF_ERROR(backend_->engine().Draw(drawn_rows_));
    return backend_->engine().TakeDrawn(&drawn_);
  }

  const WorkerOptions options_;
  const MachineLimits limits_;
  ThreadPool pool_;
  std::unique_ptr<Backend> backend_;
  ExpertHold hold_;
  std::unique_ptr<EpochExperts> experts_;
  std::vector<float> logits_;
  std::vector<Engine::DrawnRow> drawn_rows_;
  std::vector<TokenId> drawn_;
  ComputeDevice device_;
  uint64_t step_ = 0;
  int graph_launches_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BenchedEngine>> MakeWorkerEngine(const ModelFile* model, WorkerOptions options,
                                                                const StateSizes& sizes, const MachineLimits& limits) {
  options.kv_bytes = KvBlockBytes(model->config()) * static_cast<uint64_t>(std::max(sizes.blocks, kKvBlocksMin));
  options.sequences_max = sizes.sequences;
  options.snapshots_max = sizes.snapshots;
  auto engine = std::make_unique<WorkerEngine>(std::move(options), limits);
  RETURN_IF_ERROR(engine->Init(model));
  return engine;
}

}  // namespace braid
