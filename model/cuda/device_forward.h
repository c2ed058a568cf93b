#pragma once

#include <cuda_runtime_api.h>

#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/grouped_linear.h"
#include "kernels/cuda/paged_attention.h"
#include "model/config.h"
#include "model/cuda/dense_linear.h"
#include "model/cuda/device_states.h"
#include "model/cuda/device_weights.h"
#include "model/cuda/experts.h"
#include "model/cuda/fp8_rows.h"
#include "model/cuda/memory_plan.h"
#include "model/cuda/op_timer.h"
#include "model/cuda/step_inputs.h"

namespace braid::gpu {

// The LFM2 / LFM2-MoE forward pass of model/forward.cc over the ops of kernels/cuda. Everything is enqueued on one
// stream; nothing is allocated, waited for or asked of the device, so that a step can be captured as a graph.
//
// Activations are bfloat16, or float32, for comparing with the CPU; the residual stream is float32 in any case. With
// Fp8Rows, those that meet weights in FP8 are rounded to FP8 for it: of the mixers and dense layers here; routers and
// the head, whose mistakes nothing evens out, have no such weights.
//
// A step may come in two halves, for an ExpertRunner that wants it so. All is on one stream, and a mixer's work is over
// before the next one's begins: what the halves have of their own is the residual stream and how experts are weighted.
class DeviceForward {
 public:
  // Takes its part of the plan, and of dense products' if `fast` is not nullptr: for steps of at most `rows_max` rows,
  // and `logit_rows` rows of logits at a time. `fp8_rows` is nullptr if products read rows as they are. All must
  // outlive *this.
  DeviceForward(const ModelConfig* config, const DeviceWeights* weights, DenseLinear* fast, const Fp8Rows* fp8_rows,
                int rows_max, int logit_rows, MemoryPlan* plan);
  // `states` must outlive *this. Enqueues the upload of a table.
  absl::Status Bind(std::byte* memory, const DeviceStates* states, Uploader& uploader);

  int rows_max() const { return rows_max_; }
  int logit_rows() const { return logit_rows_; }
  TileRows tile_rows() const;

  struct Part {
    StepShape shape;
    StepInputs inputs;
  };
  // All layers; the wanted rows are ready for the head then, those of a second half behind the first's. `drawn` are the
  // tokens of the step before, for those of this one that say so (see Gather). `experts` may be nullptr in a dense
  // model. REQUIRES: one part, or two if experts->half_rows() > 0; the inputs are in device memory, and as they must
  // be; the shapes have at most rows_max rows together.
  absl::Status Run(std::span<const Part> parts, const int32_t* drawn, ExpertRunner* experts, cudaStream_t stream,
                   OpTimer* timer = nullptr);
  // Logits of the wanted rows [begin, end) of the last step. REQUIRES: at most logit_rows.
  absl::Status Head(int begin, int end, cudaStream_t stream);
  float* logits() const { return logits_; }  // (end - begin, V)

 private:
  // The step at hand, or a half of it.
  struct Step {
    const StepShape& shape;
    const StepInputs& inputs;
    ExpertRunner* experts;
    cudaStream_t stream;
    OpTimer* timer;
    int half;             // -1: all of it
    int64_t row, wanted;  // the first ones: among all rows of the step
    int T() const { return shape.rows; }
    void Lap(StepOp op) const { gpu::Lap(timer, op, stream); }
  };

  absl::Status LayerOfHalves(std::span<const Step> halves, int layer);
  absl::Status Layer(const Step& step, int layer);
  absl::Status Norm(const Step& step, const float* weight, bool first, const Matrix* next);
  absl::Status Convolve(const Step& step, int layer);
  absl::Status Attend(const Step& step, int layer);
  absl::Status Attend(const Step& step, PagedAttention op);
  absl::Status DenseFfn(const Step& step, int layer);
  absl::Status Experts(const Step& step, int layer);
  absl::Status NormWanted(const Step& step);
  bool TakesFp8(const Matrix& w) const { return fp8_rows_ != nullptr && Fp8Rows::Feeds(w); }
  // y = W x for all rows; of normed_, if that is x, what Norm made for W.
  absl::Status Linear(const Step& step, StepOp lap, const Matrix& w, const void* x, void* y, DType y_type,
                      bool swiglu = false);
  absl::Status Multiply(const GroupedLinear& op, cudaStream_t stream);
  GroupedLinear DenseProduct(const Matrix& w, int rows, const void* x, void* y) const;
  float* hidden(const Step& step) const { return hidden_ + step.row * config_.model_dim; }
  float* branch(const Step& step) const { return branch_ + step.row * config_.model_dim; }

  const ModelConfig& config_;
  const DeviceWeights& weights_;
  DenseLinear* const fast_;
  const Fp8Rows* const fp8_rows_;
  const DType type_;  // of activations
  const int rows_max_, logit_rows_;
  const DeviceStates* states_ = nullptr;
  std::vector<int> kind_index_;  // of each layer among those of its kind
  int64_t partials_max_ = 0;     // numbers

  // Device memory; before Bind, where it was planned. T is rows_max.
  float *hidden_ = nullptr, *branch_ = nullptr;  // (T, D): the residual stream, and what is to be added to it
  void* normed_ = nullptr;                       // (T, D) of type_
  float* normed_floats_ = nullptr;               // (T, D), for the router; normed_ itself if that is float32
  void *wide_ = nullptr, *mixed_ = nullptr;      // of type_: what a mixer or a dense layer makes on its way
  float *router_logits_ = nullptr, *expert_weights_ = nullptr;  // (T, E), (T, K)
  int32_t* experts_ = nullptr;                                  // (T, K)
  float *wanted_hidden_ = nullptr, *wanted_branch_ = nullptr;   // (T, D)
  void* selected_ = nullptr;                                    // (T, D) of type_, normed for the head
  void* workspace_ = nullptr;                                   // of fast_
  float *logits_ = nullptr, *partials_ = nullptr;
  int32_t* all_rows_ = nullptr;  // (rows_max + 1, 2): {0, n}, the offsets of a product of n rows
  struct Planned {
    void** to;
    uint64_t at;
  };
  std::vector<Planned> planned_;
};

}  // namespace braid::gpu
