#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/thread_pool.h"
#include "model/config.h"
#include "model/tensors.h"

namespace braid {

// One MoE layer's work on one worker: T local rows, each with K experts chosen in routing order (best first).
struct RoutedBatch {
  int layer = 0;  // model layer
  int T = 0, D = 0, K = 0;
  const float* x = nullptr;          // (T, D), normed
  const int32_t* experts = nullptr;  // (T, K)
  const float* weights = nullptr;    // (T, K)
  float* y = nullptr;  // (T, D) out: sum over k, in routing order, of weights[t,k] * expert(experts[t,k], x[t])
};

// Where experts run: all here (LocalExperts) or spread over the workers of a group (expert_worker). The forward pass
// calls Run once per MoE layer and step, in layer order, also with T == 0: peers may need this worker's experts.
class ExpertRunner {
 public:
  virtual ~ExpertRunner() = default;
  // kAborted or kUnavailable: the step is void, nothing of it may be used.
  virtual absl::Status Run(const RoutedBatch& batch) = 0;
};

// Rows of one layer for experts of this process, already grouped: rows [offsets[i], offsets[i + 1]) are for experts[i].
// A hidden state goes to several experts, so rows name theirs.
struct ExpertRows {
  int layer = 0;
  int R = 0, D = 0;
  std::span<const int32_t> experts;  // distinct, ascending
  std::span<const int32_t> offsets;  // experts.size() + 1, ascending, from 0 to R
  std::span<const float* const> x;   // hidden states of D floats each
  const int32_t* source = nullptr;   // (R) into x
  float* y = nullptr;                // (R, D) out, not weighted
};

// The expert feed-forwards of a model. A row's result never depends on the other rows.
class ExpertFfn {
 public:
  virtual ~ExpertFfn() = default;
  virtual void Run(const ExpertRows& rows) = 0;  // not thread-safe: uses scratch of its own
};

// The gated ones of the LFM2-MoE family.
class GatedExpertFfn : public ExpertFfn {
 public:
  // All must outlive *this.
  GatedExpertFfn(const ModelConfig* config, const ModelTensors* tensors, ThreadPool* pool);
  ~GatedExpertFfn() override;
  void Run(const ExpertRows& rows) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Adds up what came back: y[t] = sum over k ascending of weights[t,k] * rows[row_of[t,k]]. The one place where this
// order is decided; one worker and many both end here.
void CombineInRoutingOrder(const RoutedBatch& batch, const float* rows, const int32_t* row_of, ThreadPool* pool);

class LocalExperts : public ExpertRunner {
 public:
  // Both pointers must outlive *this.
  LocalExperts(int experts, ExpertFfn* ffn, ThreadPool* pool);
  absl::Status Run(const RoutedBatch& batch) override;
  // Rows computed per expert since the last call, summed over layers; resets.
  std::vector<uint64_t> TakeExpertRows();

 private:
  void GroupByExpert(const RoutedBatch& batch);
  void RunPass(const RoutedBatch& batch);

  ExpertFfn* ffn_;
  ThreadPool* pool_;
  std::vector<uint64_t> expert_rows_;

  // Of the pass at hand: the groups as ExpertRows has them, and the row of each (token, slot).
  std::vector<int32_t> next_, experts_, offsets_, source_, row_of_;
  std::vector<const float*> states_;
  std::vector<float> results_;  // (R, D)
};

}  // namespace braid
