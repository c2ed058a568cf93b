#include "model/experts.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "kernels/grouped_ffn.h"
#include "kernels/weighted_sum.h"
#include "model/matrix_view.h"

namespace braid {
namespace {

// Tokens gathered at once: enough to read an expert's weights for dozens of rows, and a bound on scratch.
constexpr int kTokensPerPass = 512;

RoutedBatch Slice(const RoutedBatch& batch, int begin, int end) {
  RoutedBatch slice = batch;
  slice.T = end - begin;
  slice.x += int64_t{begin} * batch.D;
  slice.y += int64_t{begin} * batch.D;
  slice.experts += int64_t{begin} * batch.K;
  slice.weights += int64_t{begin} * batch.K;
  return slice;
}

}  // namespace

struct GatedExpertFfn::Impl {
  const ModelConfig* config;
  const ModelTensors* tensors;
  ThreadPool* pool;
  std::vector<FfnGroup> groups;
  std::vector<float> x;
  std::vector<QuantBlock> q;
  GroupedFfnScratch scratch;
};

GatedExpertFfn::GatedExpertFfn(const ModelConfig* config, const ModelTensors* tensors, ThreadPool* pool)
    : impl_(new Impl{config, tensors, pool, {}, {}, {}, {}}) {}
GatedExpertFfn::~GatedExpertFfn() = default;

void GatedExpertFfn::Run(const ExpertRows& rows) {
  CHECK_EQ(rows.offsets.size(), rows.experts.size() + 1);
  impl_->groups.clear();
  for (size_t i = 0; i < rows.experts.size(); ++i) {
    const FfnTensors& expert = impl_->tensors->layers.at(rows.layer).experts.at(rows.experts[i]);
    impl_->groups.push_back(
        {rows.offsets[i], rows.offsets[i + 1], AsMatrix(expert.gate), AsMatrix(expert.up), AsMatrix(expert.down)});
  }
  // The hidden states one behind the other: quantised for panels, as they are for weights in rows. A file may mix them.
  const int M = static_cast<int>(rows.x.size());
  const int64_t D = rows.D, blocks = D / 32;
  bool panels = false, in_rows = false;
  for (const FfnGroup& group : impl_->groups) {
    for (const Matrix* in : {&group.gate, &group.up}) (in->layout == Layout::kPanels ? panels : in_rows) = true;
  }
  GroupedFfn op{rows.R, rows.D, impl_->config->expert_ffn_dim, impl_->groups, rows.source};
  if (panels) {
    impl_->q.resize(std::max(impl_->q.size(), static_cast<size_t>(M * blocks)));
    op.q = impl_->q.data();
  }
  if (in_rows) {
    impl_->x.resize(std::max(impl_->x.size(), static_cast<size_t>(M * D)));
    op.x = impl_->x.data();
  }
  impl_->pool->ParallelFor(M, 8, [&](int begin, int end) {
    for (int m = begin; m < end; ++m) {
      if (panels) QuantizeRow(rows.x[m], rows.D, impl_->q.data() + m * blocks);
      if (in_rows) std::copy_n(rows.x[m], D, impl_->x.data() + m * D);
    }
  });
  op.y = rows.y;
  CHECK_OK(Check(op));
  braid::Run(op, impl_->scratch, *impl_->pool);
}

void CombineInRoutingOrder(const RoutedBatch& batch, const float* rows, const int32_t* row_of, ThreadPool* pool) {
  braid::Run(WeightedSum{batch.T, batch.D, batch.K, rows, row_of, batch.weights, batch.y}, *pool);
}

LocalExperts::LocalExperts(int experts, ExpertFfn* ffn, ThreadPool* pool)
    : ffn_(ffn), pool_(pool), expert_rows_(experts) {}

absl::Status LocalExperts::Run(const RoutedBatch& batch) {
  for (int begin = 0; begin < batch.T; begin += kTokensPerPass)
    RunPass(Slice(batch, begin, std::min(batch.T, begin + kTokensPerPass)));
  return absl::OkStatus();
}

// Sorts the rows by expert, in the order of (token, slot) within one.
void LocalExperts::GroupByExpert(const RoutedBatch& batch) {
  const int R = batch.T * batch.K, E = static_cast<int>(expert_rows_.size());
  next_.assign(static_cast<size_t>(E) + 1, 0);  // first counts, then the next free row, per expert
  for (int i = 0; i < R; ++i) {
    CHECK(batch.experts[i] >= 0 && batch.experts[i] < E);
    ++next_[batch.experts[i] + 1];
  }
  experts_.clear();
  offsets_.clear();
  for (int e = 0; e < E; ++e) {
    expert_rows_[e] += static_cast<uint64_t>(next_[e + 1]);
    if (next_[e + 1] > 0) {
      experts_.push_back(e);
      offsets_.push_back(next_[e]);
    }
    next_[e + 1] += next_[e];
  }
  offsets_.push_back(R);
  row_of_.resize(static_cast<size_t>(R));
  source_.resize(static_cast<size_t>(R));
  for (int i = 0; i < R; ++i) {
    row_of_[i] = next_[batch.experts[i]]++;
    source_[row_of_[i]] = i / batch.K;
  }
}

void LocalExperts::RunPass(const RoutedBatch& batch) {
  GroupByExpert(batch);
  states_.resize(static_cast<size_t>(batch.T));
  for (int t = 0; t < batch.T; ++t) states_[t] = batch.x + int64_t{t} * batch.D;
  const int R = batch.T * batch.K;
  if (results_.size() < static_cast<size_t>(R) * batch.D) results_.resize(static_cast<size_t>(R) * batch.D);
  ffn_->Run({batch.layer, R, batch.D, experts_, offsets_, states_, source_.data(), results_.data()});
  CombineInRoutingOrder(batch, results_.data(), row_of_.data(), pool_);
}

std::vector<uint64_t> LocalExperts::TakeExpertRows() {
  return std::exchange(expert_rows_, std::vector<uint64_t>(expert_rows_.size()));
}

}  // namespace braid
