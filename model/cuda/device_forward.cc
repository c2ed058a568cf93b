#include "model/cuda/device_forward.h"

#include <algorithm>

#include "base/check.h"
#include "base/status.h"
#include "kernels/cuda/choose_experts.h"
#include "kernels/cuda/gather.h"
#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/qkv_heads.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/short_conv.h"
#include "kernels/cuda/swiglu.h"
#include "model/cuda/device.h"

namespace braid::gpu {
namespace {

// What spans of attention may take for their results; a step that would need more has blocks walk their spans one by
// one, to the same result.
constexpr int64_t kPartialNumbersMax = int64_t{64} << 20;
// With so many blocks a GPU is full: to split contexts over more gains nothing.
constexpr int kBlocksEnough = 1024;

// Checks an op and runs it; what a kernel does not accept is our bug, and says so.
template <typename Op, typename... Config>
absl::Status Do(cudaStream_t stream, const Op& op, const Config&... config) {
  RETURN_IF_ERROR(Check(op));
  const cudaError_t error = Run(op, config..., stream);
  return error == cudaSuccess ? absl::OkStatus() : CudaError(error, "launching a kernel");
}

}  // namespace

DeviceForward::DeviceForward(const ModelConfig* config, const DeviceWeights* weights, DenseLinear* fast,
                             const Fp8Rows* fp8_rows, int rows_max, int logit_rows, MemoryPlan* plan)
    : config_(*config),
      weights_(*weights),
      fast_(fast),
      fp8_rows_(fp8_rows),
      type_(weights->precision()),
      rows_max_(rows_max),
      logit_rows_(logit_rows) {
  using Part = MemoryPlan::Part;
  int count[2] = {};
  for (const ModelConfig::LayerKind kind : config_.layers)
    kind_index_.push_back(count[kind == ModelConfig::LayerKind::kAttention]++);

  const int64_t T = rows_max, D = config_.model_dim, q_dim = int64_t{config_.heads} * config_.head_dim;
  const int64_t kv_dim = config_.kv_dim();
  const auto plan_bytes = [&](void** to, Part part, uint64_t bytes) {
    planned_.push_back({to, plan->AddBytes(part, bytes)});
  };
  const auto plan_floats = [&](float** to, int64_t n, Part part = Part::kActivations) {
    plan_bytes(reinterpret_cast<void**>(to), part, static_cast<uint64_t>(n) * sizeof(float));
  };
  const auto plan_typed = [&](void** to, int64_t n) {
    plan_bytes(to, Part::kActivations, static_cast<uint64_t>(n) * (type_ == DType::kBF16 ? 2 : 4));
  };
  plan_floats(&hidden_, T * D);
  plan_floats(&branch_, T * D);
  plan_typed(&normed_, T * D);
  const bool gates_apart = std::any_of(weights_.model().layers.begin(), weights_.model().layers.end(),
                                       [](const DeviceLayer& layer) { return !layer.in_turns; });
  plan_typed(&wide_, T * std::max({3 * D, q_dim + 2 * kv_dim, int64_t{gates_apart ? 2 * config_.dense_ffn_dim : 0}}));
  plan_typed(&mixed_, T * std::max({D, q_dim, int64_t{config_.dense_layers > 0 ? config_.dense_ffn_dim : 0}}));
  if (config_.experts > 0) {
    if (type_ != DType::kF32) plan_floats(&normed_floats_, T * D);
    plan_floats(&router_logits_, T * config_.experts);
    plan_floats(&expert_weights_, T * config_.experts_per_token);
    plan_bytes(reinterpret_cast<void**>(&experts_), Part::kActivations,
               static_cast<uint64_t>(T * config_.experts_per_token) * sizeof(int32_t));
  }
  plan_floats(&wanted_hidden_, T * D);
  plan_floats(&wanted_branch_, T * D);
  plan_typed(&selected_, T * D);
  plan_floats(&logits_, int64_t{logit_rows} * config_.vocab_size, Part::kLogits);
  if (config_.attention_layer_count() > 0) {
    const int spans = SpansFor(config_.context_tokens_max);
    partials_max_ =
        std::min(kPartialNumbersMax, PagedAttention::PartialNumbers(rows_max, config_.heads, config_.head_dim, spans));
    plan_floats(&partials_, partials_max_);
  }
  if (fast_ != nullptr) plan_bytes(&workspace_, Part::kActivations, DenseLinear::kWorkspaceBytes);
  plan_bytes(reinterpret_cast<void**>(&all_rows_), Part::kInputs, sizeof(int32_t) * 2 * (rows_max + 1));
}

absl::Status DeviceForward::Bind(std::byte* memory, const DeviceStates* states, Uploader& uploader) {
  states_ = states;
  for (const Planned& planned : planned_) *planned.to = memory + planned.at;
  if (normed_floats_ == nullptr) normed_floats_ = static_cast<float*>(normed_);  // float32, or there is no router
  if (fast_ != nullptr) fast_->Bind(workspace_);
  std::vector<int32_t> offsets;
  for (int n = 0; n <= rows_max_; ++n) offsets.insert(offsets.end(), {0, n});
  return uploader.Put(offsets.data(), offsets.size() * sizeof(int32_t), all_rows_);
}

TileRows DeviceForward::tile_rows() const {
  if (config_.attention_layer_count() == 0) return {64, 1};
  const int group = config_.heads / config_.kv_heads;
  return {PagedAttention::RowsMax(type_, group), PagedAttention::FewRows(type_, group)};
}

absl::Status DeviceForward::Run(std::span<const Part> parts, const int32_t* drawn, ExpertRunner* experts,
                                cudaStream_t stream, OpTimer* timer) {
  std::vector<Step> steps;
  int64_t row = 0, wanted = 0;
  for (const Part& part : parts) {
    const int half = parts.size() == 1 ? -1 : static_cast<int>(steps.size());
    steps.push_back({part.shape, part.inputs, experts, stream, timer, half, row, wanted});
    row += part.shape.rows;
    wanted += part.shape.wanted;
  }
  CHECK_LE(row, rows_max_);
  for (const Step& step : steps) {
    const Gather embed{step.T(), weights_.model().embedding, step.inputs.tokens, DType::kF32, hidden(step), drawn};
    RETURN_IF_ERROR(Do(stream, embed));
    step.Lap(StepOp::kEmbed);
  }
  for (int layer = 0; layer < config_.layer_count(); ++layer)
    RETURN_IF_ERROR(steps.size() == 1 ? Layer(steps[0], layer) : LayerOfHalves(steps, layer));
  const bool moe = config_.moe_layer_count() > 0;
  for (const Step& step : steps)
    if (moe && step.half >= 0) RETURN_IF_ERROR(experts->Finish(step.half, stream));
  for (const Step& step : steps) RETURN_IF_ERROR(NormWanted(step));
  return absl::OkStatus();
}

absl::Status DeviceForward::LayerOfHalves(std::span<const Step> halves, int layer) {
  for (const Step& step : halves) {
    if (layer > 0 && config_.is_moe_layer(layer - 1)) RETURN_IF_ERROR(step.experts->Finish(step.half, step.stream));
    RETURN_IF_ERROR(Layer(step, layer));
  }
  return config_.is_moe_layer(layer) ? halves[0].experts->Compute(halves[0].stream) : absl::OkStatus();
}

absl::Status DeviceForward::Layer(const Step& step, int layer) {
  const DeviceLayer& weights = weights_.model().layers[layer];
  const bool attention = config_.layers[layer] == ModelConfig::LayerKind::kAttention;
  const bool moe = config_.is_moe_layer(layer);
  const Matrix& mixer_in = attention ? weights.qkv : weights.conv_in;
  RETURN_IF_ERROR(Norm(step, weights.operator_norm, /*first=*/layer == 0, &mixer_in));
  RETURN_IF_ERROR(attention ? Attend(step, layer) : Convolve(step, layer));
  RETURN_IF_ERROR(Norm(step, weights.ffn_norm, /*first=*/false, moe ? nullptr : &weights.gate_up));
  return moe ? Experts(step, layer) : DenseFfn(step, layer);
}

// hidden += branch, unless this is the first norm; normed = norm(hidden), as the product with `next` reads it. nullptr:
// a router does, in float32, and experts, which may be elsewhere.
absl::Status DeviceForward::Norm(const Step& step, const float* weight, bool first, const Matrix* next) {
  RmsNorm op{step.T(), config_.model_dim, hidden(step), weight, config_.norm_eps};
  if (!first) op.add = branch(step), op.sum = hidden(step);
  if (next != nullptr && TakesFp8(*next)) {
    op.y_fp8 = fp8_rows_->quants(), op.y_scales = fp8_rows_->scales();
  } else if (type_ == DType::kBF16) {
    op.y_bf16 = static_cast<__nv_bfloat16*>(normed_);
  }
  if (next == nullptr) op.y = normed_floats_;
  if (type_ == DType::kF32) op.y = static_cast<float*>(normed_);
  RETURN_IF_ERROR(Do(step.stream, op, Choose(op)));
  step.Lap(StepOp::kNorm);
  return absl::OkStatus();
}

GroupedLinear DeviceForward::DenseProduct(const Matrix& w, int rows, const void* x, void* y) const {
  GroupedLinear op{1, w.rows, w.columns, type_, x};
  op.offsets = all_rows_ + 2 * rows;
  op.rows_max = rows;
  op.w = w;
  op.y_type = type_;
  op.y = y;
  return op;
}

absl::Status DeviceForward::Linear(const Step& step, StepOp lap, const Matrix& w, const void* x, void* y, DType y_type,
                                   bool swiglu) {
  GroupedLinear op = DenseProduct(w, step.T(), x, y);
  op.y_type = y_type;
  op.swiglu = swiglu;
  if (TakesFp8(w)) {
    if (x == normed_) {
      fp8_rows_->Use(&op);
    } else {
      RETURN_IF_ERROR(fp8_rows_->Round(&op, step.stream));
    }
  }
  RETURN_IF_ERROR(Multiply(op, step.stream));
  step.Lap(lap);
  return absl::OkStatus();
}

absl::Status DeviceForward::Multiply(const GroupedLinear& op, cudaStream_t stream) {
  if (fast_ != nullptr) {
    ASSIGN_OR_RETURN(const bool done, fast_->Enqueue(op, stream));
    if (done) return absl::OkStatus();
  }
  return Do(stream, op, Choose(op));
}

absl::Status DeviceForward::Convolve(const Step& step, int layer) {
  const DeviceLayer& weights = weights_.model().layers[layer];
  const int index = kind_index_[layer];
  RETURN_IF_ERROR(Linear(step, StepOp::kConvIn, weights.conv_in, normed_, wide_, type_));
  ShortConv op{step.T(), config_.model_dim, config_.conv_taps, kConvColumns, type_, wide_, weights.conv_kernel};
  op.pieces = step.inputs.pieces;
  op.piece_count = step.shape.sequences;
  op.tokens_max = step.shape.tokens_max;
  op.piece_of = step.inputs.piece_of;
  op.columns = states_->conv_columns(index);
  op.saves = step.inputs.saves;
  op.save_count = step.shape.saves;
  op.saved = states_->conv_copies(index);
  op.y = mixed_;
  RETURN_IF_ERROR(Do(step.stream, op, Choose(op)));
  step.Lap(StepOp::kConv);
  return Linear(step, StepOp::kConvOut, weights.conv_out, mixed_, branch(step), DType::kF32);
}

absl::Status DeviceForward::Attend(const Step& step, int layer) {
  const DeviceLayer& weights = weights_.model().layers[layer];
  const DeviceModel& model = weights_.model();
  const StepInputs& inputs = step.inputs;
  const KvArena arena = states_->kv(kind_index_[layer]);
  const KvRows rows{inputs.positions, inputs.sequences, inputs.blocks, step.shape.blocks()};
  RETURN_IF_ERROR(Linear(step, StepOp::kQkv, weights.qkv, normed_, wide_, type_));
  RETURN_IF_ERROR(Do(step.stream,
                     QkvHeads{step.T(), config_.heads, config_.kv_heads, config_.head_dim, type_, wide_, weights.q_norm,
                              weights.k_norm, config_.norm_eps, model.cos, model.sin, rows, arena, mixed_}));
  step.Lap(StepOp::kRope);
  PagedAttention op{step.T(), config_.heads, config_.kv_heads, config_.head_dim, type_, mixed_, rows, arena};
  op.y = wide_;  // keys and values are where they belong, queries have moved
  const StepShape& shape = step.shape;
  if (shape.tiles + shape.few_tiles == 0) {
    RETURN_IF_ERROR(Attend(step, op));
  } else {
    op.tiles = inputs.tiles, op.tile_count = shape.few_tiles, op.tile_rows = tile_rows().few;
    RETURN_IF_ERROR(Attend(step, op));
    op.tiles += shape.few_tiles, op.tile_count = shape.tiles, op.tile_rows = tile_rows().most;
    RETURN_IF_ERROR(Attend(step, op));
  }
  step.Lap(StepOp::kAttention);
  return Linear(step, StepOp::kAttnOut, weights.attn_out, wide_, branch(step), DType::kF32);
}

// Over spans at once, where there are few tiles.
absl::Status DeviceForward::Attend(const Step& step, PagedAttention op) {
  const int64_t tiles = op.tiles == nullptr ? op.T : op.tile_count, spans = step.shape.spans;
  const int64_t rows = op.tiles == nullptr ? tiles : tiles * op.tile_rows;
  const int64_t numbers = PagedAttention::PartialNumbers(rows, op.heads, op.head_dim, step.shape.spans);
  if (spans > 1 && tiles * op.kv_heads < kBlocksEnough && numbers <= partials_max_)
    op.partials = partials_, op.spans = step.shape.spans;
  return Do(step.stream, op);
}

absl::Status DeviceForward::DenseFfn(const Step& step, int layer) {
  const DeviceLayer& weights = weights_.model().layers[layer];
  if (weights.in_turns) {
    RETURN_IF_ERROR(Linear(step, StepOp::kFfnIn, weights.gate_up, normed_, mixed_, type_, /*swiglu=*/true));
  } else {
    RETURN_IF_ERROR(Linear(step, StepOp::kFfnIn, weights.gate_up, normed_, wide_, type_));
    RETURN_IF_ERROR(Do(step.stream, SwiGlu{step.T(), config_.dense_ffn_dim, type_, wide_, mixed_}));
    step.Lap(StepOp::kSwiGlu);
  }
  return Linear(step, StepOp::kFfnOut, weights.down, mixed_, branch(step), DType::kF32);
}

absl::Status DeviceForward::Experts(const Step& step, int layer) {
  const DeviceLayer& weights = weights_.model().layers[layer];
  const int T = step.T(), K = config_.experts_per_token;
  GroupedLinear router = DenseProduct(weights.router, T, normed_floats_, router_logits_);
  router.type = router.y_type = DType::kF32;
  RETURN_IF_ERROR(Do(step.stream, router, Choose(router)));
  step.Lap(StepOp::kRouter);
  int32_t* const experts = experts_ + step.row * K;
  float* const expert_weights = expert_weights_ + step.row * K;
  ChooseExperts choose{
      T,       config_.experts, K, router_logits_, weights.expert_bias, config_.normalize_topk, config_.routed_scaling,
      experts, expert_weights};
  choose.positions = step.inputs.positions;
  RETURN_IF_ERROR(Do(step.stream, choose));
  step.Lap(StepOp::kChoose);
  const RoutedRows rows{layer,        T,         config_.model_dim, K, type_, normed_, experts, expert_weights,
                        branch(step), step.timer};
  return step.half < 0 ? step.experts->Enqueue(rows, step.stream) : step.experts->Begin(step.half, rows, step.stream);
}

// The rows somebody wants logits of, as they go into the head.
absl::Status DeviceForward::NormWanted(const Step& step) {
  const int L = step.shape.wanted, D = config_.model_dim;
  if (L == 0) return absl::OkStatus();
  const auto gather = [&](const float* from, float* to) {
    return Do(step.stream, Gather{L, {DType::kF32, step.T(), D, from}, step.inputs.wanted, DType::kF32, to});
  };
  RETURN_IF_ERROR(gather(hidden(step), wanted_hidden_));
  RETURN_IF_ERROR(gather(branch(step), wanted_branch_));
  step.Lap(StepOp::kEmbed);
  RmsNorm op{L, D, wanted_hidden_, weights_.model().final_norm, config_.norm_eps, wanted_branch_, wanted_branch_};
  if (type_ == DType::kBF16) op.y_bf16 = static_cast<__nv_bfloat16*>(selected_) + step.wanted * D;
  if (type_ == DType::kF32) op.y = static_cast<float*>(selected_) + step.wanted * D;
  RETURN_IF_ERROR(Do(step.stream, op, Choose(op)));
  step.Lap(StepOp::kNorm);
  return absl::OkStatus();
}

absl::Status DeviceForward::Head(int begin, int end, cudaStream_t stream) {
  CHECK(begin <= end && end - begin <= logit_rows_);
  const int64_t D = config_.model_dim, row_bytes = D * (type_ == DType::kBF16 ? 2 : 4);
  const void* const x = static_cast<const std::byte*>(selected_) + begin * row_bytes;
  GroupedLinear op = DenseProduct(weights_.model().head, end - begin, x, logits_);
  op.y_type = DType::kF32;
  return Multiply(op, stream);
}

}  // namespace braid::gpu
