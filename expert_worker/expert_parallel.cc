#include "expert_worker/expert_parallel.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/planted_bug.h"
#include "base/status.h"

namespace braid {
namespace {

constexpr int kDispatchPhase = 0, kCombinePhase = 1;

// Makes room without ever shrinking: capacity settles at the largest step.
void Reserve(std::vector<float>* buffer, size_t floats) {
  if (buffer->size() < floats) buffer->resize(floats);
}

}  // namespace

ExpertParallel::ExpertParallel(const ModelConfig* config, ExpertFfn* ffn, ThreadPool* pool, HostExchange* exchange,
                               EpochPlace place)
    : config_(config),
      ffn_(ffn),
      pool_(pool),
      exchange_(exchange),
      place_(std::move(place)),
      expert_rows_(static_cast<size_t>(config->moe_layer_count()) * config->experts),
      requests_(place_.size),
      asked_(place_.size) {
  CHECK(exchange || place_.size == 1);
  CHECK_EQ(static_cast<int>(place_.placement.size()), config->moe_layer_count());
}

absl::Status ExpertParallel::Run(const RoutedBatch& batch) {
  CHECK_LE(batch.T, place_.step_tokens_max);
  SortByRank(batch);
  RETURN_IF_ERROR(Dispatch(batch));
  GroupByExpert(batch.layer, batch.D);
  Compute(batch.layer, batch.D);
  const absl::Status returned = Return(batch.layer, batch.D);
  if (!Planted(Bug::kMasksMissingContribution)) RETURN_IF_ERROR(returned);
  CombineInRoutingOrder(batch, results_.data(), row_of_choice_.data(), pool_);
  return absl::OkStatus();
}

int ExpertParallel::ChooseRank(const ExpertRanks& placed, int expert) {
  const std::span<const int32_t> ranks = placed.ranks(expert);
  if (ranks.size() == 1) return ranks[0];
  if (placed.IsAt(expert, place_.rank)) return place_.rank;
  return ranks[turns_[expert]++ % ranks.size()];
}

void ExpertParallel::SortByRank(const RoutedBatch& batch) {
  // Ranks that all have few rows begin at different replicas.
  turns_.assign(config_->experts, static_cast<uint32_t>(place_.rank));
  const ExpertRanks& placement = placed(batch.layer);
  for (Request& request : requests_) {
    request.tokens.clear();
    request.pairs.clear();
    request.choices.clear();
  }
  for (int t = 0; t < batch.T; ++t) {
    for (int choice = t * batch.K; choice < (t + 1) * batch.K; ++choice) {
      const int32_t expert = batch.experts[choice];
      const int rank = ChooseRank(placement, expert);
      Request& request = requests_[rank];
      if (rank != place_.rank && (request.tokens.empty() || request.tokens.back() != t)) request.tokens.push_back(t);
      const int32_t row = rank == place_.rank ? t : static_cast<int32_t>(request.tokens.size()) - 1;
      request.pairs.push_back({row, expert});
      request.choices.push_back(choice);
    }
  }
}

absl::Status ExpertParallel::Dispatch(const RoutedBatch& batch) {
  const int D = batch.D;
  asked_[place_.rank] = {requests_[place_.rank].pairs, batch.T, batch.x};
  if (size() == 1) return absl::OkStatus();
  std::vector<size_t> bytes(size());
  for (int rank = 0; rank < size(); ++rank) {
    if (rank == place_.rank) continue;
    const Request& request = requests_[rank];
    const int rows = static_cast<int>(request.tokens.size());
    const DispatchLayout layout = LayOutDispatch(batch.layer, rows, D, request.pairs, exchange_->Outgoing(rank));
    bytes[rank] = layout.bytes;
    for (int row = 0; row < rows; ++row) {
      std::memcpy(layout.x + size_t(row) * D, batch.x + size_t(request.tokens[row]) * D, D * sizeof(float));
    }
  }
  RETURN_IF_ERROR(AllToAll(batch.layer, kDispatchPhase, bytes));
  const DispatchLimits limits = {.layer = batch.layer,
                                 .D = D,
                                 .rows_max = place_.step_tokens_max,
                                 .pairs_per_row_max = config_->experts_per_token,
                                 .rank = place_.rank,
                                 .placed = &placed(batch.layer)};
  for (int rank = 0; rank < size(); ++rank) {
    if (rank == place_.rank) continue;
    absl::StatusOr<DispatchView> view = ParseDispatch(exchange_->Incoming(rank), limits);
    if (!view.ok()) return Blame(rank, view.status());
    asked_[rank] = *view;
  }
  return absl::OkStatus();
}

void ExpertParallel::GroupByExpert(int layer, int D) {
  uint64_t* const rows_ran = expert_rows_.data() + size_t(layer - config_->dense_layers) * config_->experts;
  std::vector<int32_t> next(config_->experts);  // rows of each expert, then where its next row goes
  size_t pairs = 0;
  for (const DispatchView& view : asked_) {
    for (const Pair& pair : view.pairs) ++next[pair.expert];
    pairs += view.pairs.size();
  }
  experts_.clear();
  offsets_.assign(1, 0);
  for (int32_t expert = 0; expert < config_->experts; ++expert) {
    const int32_t rows = next[expert];
    rows_ran[expert] += rows;
    next[expert] = offsets_.back();
    if (rows == 0) continue;
    experts_.push_back(expert);
    offsets_.push_back(offsets_.back() + rows);
  }
  slot_of_pair_.clear();
  states_.clear();
  source_.resize(pairs);
  for (const DispatchView& view : asked_) {
    const int32_t first = static_cast<int32_t>(states_.size());
    for (int row = 0; row < view.rows; ++row) states_.push_back(view.x + size_t(row) * D);
    for (const Pair& pair : view.pairs) {
      const int32_t slot = next[pair.expert]++;
      slot_of_pair_.push_back(slot);
      source_[slot] = first + pair.row;
    }
  }
}

void ExpertParallel::Compute(int layer, int D) {
  const int R = static_cast<int>(source_.size());
  size_t remote = 0;
  for (int rank = 0; rank < size(); ++rank) remote += rank == place_.rank ? 0 : requests_[rank].pairs.size();
  Reserve(&results_, (R + remote) * D);
  if (R == 0) return;
  ffn_->Run({.layer = layer,
             .R = R,
             .D = D,
             .experts = experts_,
             .offsets = offsets_,
             .x = states_,
             .source = source_.data(),
             .y = results_.data()});
}

// Sends each rank what it asked for, and notes in which row of results_ each choice of this rank lies.
absl::Status ExpertParallel::Return(int layer, int D) {
  std::vector<size_t> bytes(size());
  size_t choices = 0;
  for (const Request& request : requests_) choices += request.choices.size();
  row_of_choice_.resize(choices);
  const int32_t* slot = slot_of_pair_.data();
  for (int rank = 0; rank < size(); ++rank) {
    const int pairs = static_cast<int>(asked_[rank].pairs.size());
    if (rank == place_.rank) {
      for (int i = 0; i < pairs; ++i) row_of_choice_[requests_[rank].choices[i]] = slot[i];
    } else {
      const DispatchLayout layout = LayOutCombine(layer, pairs, D, exchange_->Outgoing(rank));
      bytes[rank] = layout.bytes;
      for (int i = 0; i < pairs; ++i) {
        std::memcpy(layout.x + size_t(i) * D, results_.data() + size_t(slot[i]) * D, D * sizeof(float));
      }
    }
    slot += pairs;
  }
  if (size() == 1) return absl::OkStatus();
  RETURN_IF_ERROR(AllToAll(layer, kCombinePhase, bytes));
  size_t row = slot_of_pair_.size();
  for (int rank = 0; rank < size(); ++rank) {
    if (rank == place_.rank) continue;
    const Request& request = requests_[rank];
    const int pairs = static_cast<int>(request.pairs.size());
    absl::StatusOr<const float*> rows = ParseCombine(exchange_->Incoming(rank), layer, pairs, D);
    if (!rows.ok()) return Blame(rank, rows.status());
    if (pairs > 0) std::memcpy(results_.data() + row * D, *rows, size_t(pairs) * D * sizeof(float));
    for (const int32_t choice : request.choices) row_of_choice_[choice] = static_cast<int32_t>(row++);
  }
  return absl::OkStatus();
}

absl::Status ExpertParallel::AllToAll(int layer, int phase, std::span<const size_t> bytes) {
  const uint64_t sequence = step_ << 24 | static_cast<uint64_t>(layer) << 8 | static_cast<uint64_t>(phase);
  return exchange_->AllToAll(sequence, bytes);
}

absl::Status ExpertParallel::Blame(int rank, const absl::Status& status) {
  blamed_.push_back(rank);
  return Annotate(status, fmt::format("rank {}", rank));
}

std::vector<int> ExpertParallel::suspects() const {
  if (!blamed_.empty() || !exchange_) return blamed_;
  return exchange_->suspects();
}

std::vector<uint64_t> ExpertParallel::TakeExpertRows() {
  return std::exchange(expert_rows_, std::vector<uint64_t>(expert_rows_.size()));
}

absl::Duration ExpertParallel::TakeExchangeTime() {
  if (!exchange_) return absl::ZeroDuration();
  const absl::Duration now = exchange_->waited();
  return now - std::exchange(taken_, now);
}

MakeEpochExperts ExpertParallelMaker(const ModelConfig* config, ExpertFfn* ffn, ThreadPool* pool) {
  return [=](Exchange* exchange, EpochPlace place) -> absl::StatusOr<std::unique_ptr<EpochExperts>> {
    auto* const host = dynamic_cast<HostExchange*>(exchange);
    CHECK_EQ(host == nullptr, exchange == nullptr) << "an exchange of devices for experts in host memory";
    return std::make_unique<ExpertParallel>(config, ffn, pool, host, std::move(place));
  };
}

}  // namespace braid
