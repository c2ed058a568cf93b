#include "expert_worker/cpu_backend.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "base/status.h"
#include "expert_worker/cuda_backend.h"
#include "expert_worker/dispatch.h"
#include "expert_worker/exchange/in_process.h"
#include "expert_worker/exchange/ucx.h"
#include "expert_worker/expert_parallel.h"
#include "expert_worker/load_weights.h"
#include "expert_worker/memory.h"
#include "model/host_states.h"

namespace braid {
namespace {

absl::StatusOr<std::unique_ptr<ExchangeFactory>> MakeExchangeFactory(const BackendParts& parts) {
  if (parts.device.exchange == "inprocess") return MakeInProcessExchangeFactory();
  return MakeUcxExchangeFactory({.transports = parts.options->ucx_transports, .spin = parts.options->exchange_spin});
}

// Experts in pages that all processes share are read in ahead, if there is memory for all. Those in memory of our own
// only if they will be placed here: that is known of a worker without peers in other processes.
WorkerWeights::What WhatToLoad(const WorkerWeights& weights, const BackendParts& parts) {
  const ModelConfig& config = parts.model->config();
  const bool all = weights.packs() ? parts.device.exchange == "inprocess"
                                   : ExpertSlots(*parts.options, config) == config.moe_layer_count() * config.experts;
  return all ? WorkerWeights::What::kAll : WorkerWeights::What::kAllButExperts;
}

class CpuBackend : public Backend {
 public:
  CpuBackend(const BackendParts& parts, std::unique_ptr<WorkerWeights> weights, int kv_blocks,
             std::unique_ptr<ExchangeFactory> exchanges)
      : config_(parts.model->config()),
        weights_(std::move(weights)),
        states_(config_,
                {.blocks = kv_blocks,
                 .sequences = parts.options->sequences_max,
                 .snapshots = SnapshotsMax(*parts.options, config_)},
                *KvTypeNamed(parts.options->kv_type)),
        engine_(MakeEngine(&config_, &weights_->tensors(), &states_, parts.pool)),
        exchanges_(std::move(exchanges)),
        make_experts_(ExpertParallelMaker(&config_, &engine_->experts(), parts.pool)),
        message_bytes_max_(
            MoeMessageBytesMax(parts.options->step_tokens_max, config_.experts_per_token, config_.model_dim)),
        ranks_max_(parts.options->ranks_max) {}

  SequenceStates& states() override { return states_; }
  Engine& engine() override { return *engine_; }
  ExchangeFactory& exchanges() override { return *exchanges_; }
  int ranks_max() const override { return ranks_max_; }
  size_t message_bytes_max() const override { return message_bytes_max_; }
  absl::StatusOr<ExpertHold> LoadExperts(std::span<const ExpertRanks> placement, int rank,
                                         const std::function<bool()>& stop) override {
    return weights_->LoadExperts(placement, rank, stop);
  }
  absl::StatusOr<std::unique_ptr<EpochExperts>> MakeExperts(Exchange* exchange, EpochPlace place) override {
    return make_experts_(exchange, std::move(place));
  }

 private:
  const ModelConfig& config_;
  const std::unique_ptr<WorkerWeights> weights_;
  HostStates states_;
  const std::unique_ptr<Engine> engine_;
  const std::unique_ptr<ExchangeFactory> exchanges_;
  const MakeEpochExperts make_experts_;
  const size_t message_bytes_max_;
  const int ranks_max_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const BackendParts& parts) {
  const ModelConfig& config = parts.model->config();
  const KvType kv_type = *KvTypeNamed(parts.options->kv_type);
  ASSIGN_OR_RETURN(std::unique_ptr<WorkerWeights> weights,
                   WorkerWeights::Create(parts.model, ComputeThreads(*parts.options)));
  RETURN_IF_ERROR(weights->Load(WhatToLoad(*weights, parts), parts.stop));
  ASSIGN_OR_RETURN(const int kv_blocks,
                   ChooseKvBlocks(config, kv_type, parts.options->kv_bytes, AvailableMemoryBytes()));
  ASSIGN_OR_RETURN(std::unique_ptr<ExchangeFactory> exchanges, MakeExchangeFactory(parts));
  spdlog::info("KV cache: {} blocks of {} tokens in {}, {} MiB when full", kv_blocks, kKvBlockTokens,
               parts.options->kv_type, (KvBlockBytes(config, kv_type) * static_cast<uint64_t>(kv_blocks)) >> 20);
  return std::make_unique<CpuBackend>(parts, std::move(weights), kv_blocks, std::move(exchanges));
}

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const BackendParts& parts) {
  return parts.device.is_cuda() ? MakeCudaBackend(parts) : MakeCpuBackend(parts);
}

}  // namespace braid
