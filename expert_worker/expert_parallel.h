#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "expert_worker/dispatch.h"
#include "expert_worker/epoch_experts.h"
#include "expert_worker/exchange/exchange.h"
#include "expert_worker/expert_ranks.h"
#include "kernels/thread_pool.h"
#include "model/config.h"
#include "model/experts.h"

namespace braid {

// The experts of a model spread over the ranks of an epoch. Each layer is: dispatch rows to the ranks of their experts,
// compute what the others (and this rank itself) ask for, send the results back, add them up in routing order. A row's
// result depends on that row and its expert alone and the sum's order is CombineInRoutingOrder's, so the bits are those
// of LocalExperts, whichever replica of an expert is asked: this rank itself if it has one, else each in turn. With one
// rank nothing is sent and the path is the same. Thread-compatible.
class ExpertParallel : public EpochExperts, public ExpertRunner {
 public:
  // All pointers must outlive *this. `exchange` is connected, for messages of MoeMessageBytesMax; null for one rank
  // alone.
  ExpertParallel(const ModelConfig* config, ExpertFfn* ffn, ThreadPool* pool, HostExchange* exchange, EpochPlace place);

  ExpertRunner& runner() override { return *this; }
  // `step` is part of the name of every phase that follows, so that a rank that runs another step is found out.
  void BeginStep(uint64_t step, int) override { step_ = step; }
  bool CanBeginAhead(int) const override { return false; }
  absl::Status Run(const RoutedBatch& batch) override;
  std::vector<int> suspects() const override;
  std::vector<uint64_t> TakeExpertRows() override;
  absl::Duration TakeExchangeTime() override;

 private:
  // What this rank asks of one rank; rebuilt in every layer.
  struct Request {
    std::vector<int32_t> tokens;  // the token of each row sent; unused for this rank itself, which reads batch.x
    std::vector<Pair> pairs;
    std::vector<int32_t> choices;  // t * K + k of each pair
  };

  const ExpertRanks& placed(int layer) const { return place_.placement[layer - config_->dense_layers]; }
  int ChooseRank(const ExpertRanks& placed, int expert);
  void SortByRank(const RoutedBatch& batch);
  absl::Status Dispatch(const RoutedBatch& batch);
  void GroupByExpert(int layer, int D);
  void Compute(int layer, int D);
  absl::Status Return(int layer, int D);
  absl::Status AllToAll(int layer, int phase, std::span<const size_t> bytes);
  absl::Status Blame(int rank, const absl::Status& status);
  int size() const { return static_cast<int>(requests_.size()); }

  const ModelConfig* config_;
  ExpertFfn* ffn_;
  ThreadPool* pool_;
  HostExchange* exchange_;
  const EpochPlace place_;
  uint64_t step_ = 0;
  std::vector<int> blamed_;
  std::vector<uint64_t> expert_rows_;  // (moe_layers, E)
  absl::Duration taken_;               // of what the exchange waited

  std::vector<uint32_t> turns_;      // by expert: which replica is next
  std::vector<Request> requests_;    // by rank
  std::vector<DispatchView> asked_;  // what each rank asks of this one, itself included

  // All pairs asked of this rank, grouped by expert, in a group by rank and then in the order asked.
  std::vector<int32_t> experts_, offsets_;  // the groups, as ExpertRows has them
  std::vector<int32_t> slot_of_pair_;       // ranks one behind the other
  std::vector<const float*> states_;        // all hidden states at hand, ranks one behind the other
  std::vector<int32_t> source_;             // by slot: which of them
  std::vector<float> results_;              // (R + pairs asked of others, D): computed here, then what came back
  std::vector<int32_t> row_of_choice_;      // (T, K) into results_
};

// Those of a worker whose exchanges are HostExchanges. All pointers must outlive what is made.
MakeEpochExperts ExpertParallelMaker(const ModelConfig* config, ExpertFfn* ffn, ThreadPool* pool);

}  // namespace braid
