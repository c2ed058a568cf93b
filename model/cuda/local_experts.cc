#include "model/cuda/local_experts.h"

#include <cstring>
#include <utility>

#include "base/status.h"
#include "kernels/cuda/combine.h"
#include "kernels/cuda/group_rows.h"
#include "kernels/cuda/grouped_linear.h"

namespace braid::gpu {

void ExpertScratch::Plan(const ModelConfig& config, DType type, int rows, MemoryPlan* plan) {
  using Part = MemoryPlan::Part;
  const uint64_t size = type == DType::kBF16 ? 2 : 4, R = static_cast<uint64_t>(rows);
  const auto take = [&](auto*& pointer, uint64_t bytes) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(plan->AddBytes(Part::kActivations, bytes));
  };
  rows_max = rows;
  take(hidden, R * static_cast<uint64_t>(config.expert_ffn_dim) * size);
  take(results, R * static_cast<uint64_t>(config.model_dim) * size);
  take(offsets, sizeof(int32_t) * static_cast<uint64_t>(config.experts + 1));
  take(source, sizeof(int32_t) * R);
  take(row_of, sizeof(int32_t) * R);
}

void ExpertScratch::Bind(std::byte* memory) {
  const auto bind = [&](auto*& pointer) {
    pointer =
        reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(memory + reinterpret_cast<uintptr_t>(pointer));
  };
  bind(hidden), bind(results), bind(offsets), bind(source), bind(row_of);
}

DeviceExpertFfn::DeviceExpertFfn(const ModelConfig* config, const DeviceWeights* weights,
                                 std::shared_ptr<const ExpertPlaces::Held> held, const ExpertScratch* scratch,
                                 const Fp8Rows* fp8_rows)
    : config_(*config), weights_(*weights), held_(std::move(held)), scratch_(*scratch), fp8_rows_(fp8_rows) {}

absl::Status DeviceExpertFfn::Enqueue(const ExpertGroups& groups, cudaStream_t stream) {
  if (groups.rows_max > scratch_.rows_max)
    return absl::InternalError("more rows for experts at once than there is memory for");
  const DeviceLayer& layer = weights_.model().layers[groups.layer];
  GroupedLinear in{config_.experts, 2 * config_.expert_ffn_dim, groups.D, groups.type, groups.x, groups.source};
  in.offsets = groups.offsets;
  in.rows_max = groups.rows_max;
  in.w = layer.expert_gate_up;
  in.swiglu = true;
  in.y_type = groups.type;
  in.y = scratch_.hidden;
  in.places = held_->places(groups.layer);
  RETURN_IF_ERROR(Multiply(in, stream));
  Lap(groups.timer, StepOp::kExpertsIn, stream);
  GroupedLinear out{config_.experts, groups.D, config_.expert_ffn_dim, groups.type, scratch_.hidden};
  out.offsets = groups.offsets;
  out.rows_max = groups.rows_max;
  out.w = layer.expert_down;
  out.y_type = groups.type;
  out.y = groups.y;
  out.places = in.places;
  RETURN_IF_ERROR(Multiply(out, stream));
  Lap(groups.timer, StepOp::kExpertsOut, stream);
  return absl::OkStatus();
}

absl::Status DeviceExpertFfn::Multiply(GroupedLinear op, cudaStream_t stream) const {
  if (fp8_rows_ != nullptr && Fp8Rows::Feeds(op.w)) RETURN_IF_ERROR(fp8_rows_->Round(&op, stream));
  RETURN_IF_ERROR(Check(op));
  return CudaError(gpu::Run(op, Choose(op), stream), "launching a kernel");
}

absl::StatusOr<std::unique_ptr<LocalExperts>> LocalExperts::Create(const ModelConfig* config, DeviceExpertFfn* ffn,
                                                                   const ExpertScratch* scratch) {
  std::unique_ptr<LocalExperts> experts(new LocalExperts(config, ffn, scratch));
  for (Counted& counted : experts->counted_) {
    ASSIGN_OR_RETURN(counted.memory, AllocatePinned(experts->counted_bytes()));
    ASSIGN_OR_RETURN(counted.copied, CreateEvent());
    std::memset(counted.memory.get(), 0, experts->counted_bytes());
  }
  return experts;
}

absl::Status LocalExperts::Enqueue(const RoutedRows& rows, cudaStream_t stream) {
  if (rows.T == 0) return absl::OkStatus();
  GroupRows group{rows.T, rows.K, config_.experts, rows.experts, scratch_.offsets, scratch_.source, scratch_.row_of};
  group.counted = ffn_.counted();
  RETURN_IF_ERROR(Check(group));
  RETURN_IF_ERROR(CudaError(gpu::Run(group, Choose(group), stream), "launching a kernel"));
  Lap(rows.timer, StepOp::kGroup, stream);
  RETURN_IF_ERROR(ffn_.Enqueue({rows.layer, rows.D, rows.type, rows.x, scratch_.source, scratch_.offsets,
                                rows.T * rows.K, scratch_.results, rows.timer},
                               stream));
  const Combine combine{rows.T, rows.D, rows.K, rows.type, scratch_.results, scratch_.row_of, rows.weights, rows.y};
  RETURN_IF_ERROR(Check(combine));
  RETURN_IF_ERROR(CudaError(gpu::Run(combine, stream), "launching a kernel"));
  Lap(rows.timer, StepOp::kCombine, stream);
  return absl::OkStatus();
}

absl::Status LocalExperts::EnqueueEnd(cudaStream_t stream) {
  std::swap(counted_.front(), counted_.back());
  RETURN_IF_ERROR(CudaError(
      cudaMemcpyAsync(counted_.back().memory.get(), ffn_.counted(), counted_bytes(), cudaMemcpyDeviceToHost, stream),
      "counting the rows of experts"));
  return CudaError(cudaEventRecord(counted_.back().copied.get(), stream), "counting the rows of experts");
}

std::vector<uint64_t> LocalExperts::TakeExpertRows() {
  const bool done = cudaEventQuery(counted_.back().copied.get()) == cudaSuccess;
  std::vector<uint64_t> now(taken_.size());
  std::memcpy(now.data(), (done ? counted_.back() : counted_.front()).memory.get(), now.size() * sizeof(uint64_t));
  std::vector<uint64_t> rows(now.size());
  for (size_t e = 0; e < now.size(); ++e) rows[e] = now[e] - taken_[e];
  taken_ = std::move(now);
  return rows;
}

}  // namespace braid::gpu
