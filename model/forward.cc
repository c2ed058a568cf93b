#include "model/forward.h"

#include "absl/status/statusor.h"
#include "base/check.h"
#include "base/status.h"
#include "kernels/attention.h"
#include "kernels/choose_experts.h"
#include "kernels/gather.h"
#include "kernels/grouped_ffn.h"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/short_conv.h"
#include "model/matrix_view.h"

// A step, for T rows: embed; per layer h += mixer(norm(h)), h += ffn(norm(h)), the mixer being a short convolution or
// attention, the ffn dense or experts; the rows somebody wants logits of are normed and go through the head. What a
// branch gives is added where the next norm reads it.
// Source: transformers' modeling_lfm2_moe.py. The norm the files call "embedding norm" is the last one.

namespace braid {
namespace {

// The small tensors of a layer, as floats. The matrices stay in the file.
struct SmallTensors {
  explicit SmallTensors(const LayerTensors& layer)
      : operator_norm(Floats(layer.operator_norm)),
        ffn_norm(Floats(layer.ffn_norm)),
        conv_kernel(Transposed(layer.conv_kernel)),
        q_norm(Floats(layer.q_norm)),
        k_norm(Floats(layer.k_norm)),
        expert_bias(Floats(layer.expert_bias)) {}

  std::vector<float> operator_norm, ffn_norm;
  std::vector<float> conv_kernel;  // (C, D)
  std::vector<float> q_norm, k_norm, expert_bias;
};

// A buffer that only grows.
template <typename T>
T* Grow(std::vector<T>& buffer, int64_t size) {
  if (buffer.size() < static_cast<size_t>(size)) buffer.resize(static_cast<size_t>(size));
  return buffer.data();
}

}  // namespace

struct Forward::Impl {
  const ModelConfig& config;
  const ModelTensors& tensors;
  HostStates* states;
  ThreadPool* pool;
  StepProfile* profile = nullptr;

  std::vector<SmallTensors> small;
  std::vector<float> final_norm;
  std::vector<int> kind_index;  // of each layer among those of its kind

  // The step at hand.
  int T = 0;
  StepRows rows;

  // Scratch, sized by the largest step so far.
  std::vector<float> hidden, normed, branch, wide, mixed, cos, sin, router_logits, expert_weights, selected;
  std::vector<int32_t> experts;
  std::vector<QuantBlock> normed_q, mixed_q, selected_q;  // what goes into matrices in panels
  std::vector<ConvPiece> conv_pieces;
  AttentionScratch attention_scratch;
  std::vector<ConvSave> conv_saves;
  GroupedFfnScratch dense_scratch;

  Impl(const ModelConfig* config, const ModelTensors* tensors, HostStates* states, ThreadPool* pool);
  absl::Status Embed();
  absl::Status Layer(int layer, ExpertRunner& runner);
  absl::Status Convolve(int layer);
  absl::Status Attend(int layer);
  absl::Status DenseFfn(int layer);
  absl::Status Experts(int layer, ExpertRunner& runner);
  absl::Status NormWanted();
  absl::Status Head(int begin, int end, std::vector<float>* logits);

  // What ran since the last one was `op`.
  void Lap(StepOp op) {
    if (profile != nullptr) profile->Lap(op);
  }
  template <typename Op>
  absl::Status Do(const Op& op) {
    RETURN_IF_ERROR(Check(op));
    braid::Run(op, *pool);
    return absl::OkStatus();
  }
  // hidden += branch, unless this is the first norm; normed = norm(hidden), also quantised.
  absl::Status Norm(const std::vector<float>& weight, bool first) {
    const int64_t blocks = config.model_dim % 32 == 0 ? config.model_dim / 32 : 0;
    RmsNorm op{T, config.model_dim, hidden.data(), weight.data(), config.norm_eps, normed.data()};
    if (!first) op.add = branch.data(), op.sum = hidden.data();
    if (blocks > 0) op.q = Grow(normed_q, T * blocks);
    return Do(op);
  }
  // `rows` of x (rows, K) for a matrix in panels; nullptr if `w` lies in rows.
  absl::StatusOr<const QuantBlock*> QuantizedFor(const TensorView& w, int rows, const float* x,
                                                 std::vector<QuantBlock>& storage) {
    if (w.layout != Layout::kPanels) return nullptr;
    const int K = static_cast<int>(w.columns);
    QuantBlock* q = Grow(storage, int64_t{rows} * K / 32);
    RETURN_IF_ERROR(Do(QuantizeRows{rows, K, x, q}));
    return q;
  }
};

Forward::Impl::Impl(const ModelConfig* model_config, const ModelTensors* model_tensors, HostStates* sequence_states,
                    ThreadPool* threads)
    : config(*model_config),
      tensors(*model_tensors),
      states(sequence_states),
      pool(threads),
      final_norm(Floats(tensors.final_norm)) {
  CHECK_EQ(tensors.layers.size(), config.layers.size());
  int count[2] = {};
  for (int i = 0; i < config.layer_count(); ++i) {
    small.emplace_back(tensors.layers[i]);
    kind_index.push_back(count[config.layers[i] == ModelConfig::LayerKind::kAttention]++);
  }
}

absl::Status Forward::Impl::Embed() {
  const int64_t D = config.model_dim, half = config.head_dim / 2;
  Grow(normed, T * D);
  Grow(branch, T * D);
  RETURN_IF_ERROR(Do(Gather{T, AsMatrix(tensors.embedding), rows.tokens.data(), Grow(hidden, T * D)}));
  return Do(RopeTable{T, config.head_dim, config.rope_theta, rows.positions.data(), Grow(cos, T * half),
                      Grow(sin, T * half)});
}

absl::Status Forward::Impl::Layer(int layer, ExpertRunner& runner) {
  RETURN_IF_ERROR(Norm(small[layer].operator_norm, /*first=*/layer == 0));
  Lap(StepOp::kNorm);
  const bool attention = config.layers[layer] == ModelConfig::LayerKind::kAttention;
  RETURN_IF_ERROR(attention ? Attend(layer) : Convolve(layer));
  Lap(attention ? StepOp::kAttnOut : StepOp::kConvOut);
  RETURN_IF_ERROR(Norm(small[layer].ffn_norm, /*first=*/false));
  Lap(StepOp::kNorm);
  const bool moe = config.is_moe_layer(layer);
  RETURN_IF_ERROR(moe ? Experts(layer, runner) : DenseFfn(layer));
  Lap(moe ? StepOp::kExperts : StepOp::kFfn);
  return absl::OkStatus();
}

absl::Status Forward::Impl::Convolve(int layer) {
  const LayerTensors& weights = tensors.layers[layer];
  const int64_t D = config.model_dim;
  float* bcx = Grow(wide, T * 3 * D);
  RETURN_IF_ERROR(Do(Linear{T, AsMatrix(weights.conv_in), normed.data(), bcx, normed_q.data()}));
  Lap(StepOp::kConvIn);
  conv_saves.clear();
  for (const Chunk& chunk : rows.chunks) {
    for (const ColumnsSave& save : chunk.saves)
      conv_saves.push_back({save.position, states->conv_copy(kind_index[layer], save.copy)});
  }
  conv_pieces.clear();
  int row = 0;
  const ConvSave* saves = conv_saves.data();
  for (const Chunk& chunk : rows.chunks) {
    float* columns = states->conv_columns(kind_index[layer], chunk.cache->conv_slot);
    conv_pieces.push_back(
        {row, static_cast<int>(chunk.tokens.size()), chunk.position, columns, {saves, chunk.saves.size()}});
    saves += chunk.saves.size();
    row += static_cast<int>(chunk.tokens.size());
  }
  RETURN_IF_ERROR(Do(ShortConv{T, config.model_dim, config.conv_taps, kConvColumns, bcx,
                               small[layer].conv_kernel.data(), conv_pieces, Grow(mixed, T * D)}));
  Lap(StepOp::kConv);
  ASSIGN_OR_RETURN(const QuantBlock* q, QuantizedFor(weights.conv_out, T, mixed.data(), mixed_q));
  return Do(Linear{T, AsMatrix(weights.conv_out), mixed.data(), branch.data(), q});
}

absl::Status Forward::Impl::Attend(int layer) {
  const LayerTensors& weights = tensors.layers[layer];
  const int64_t q_dim = int64_t{config.heads} * config.head_dim, kv_dim = config.kv_dim();
  float* q = Grow(wide, T * (q_dim + 2 * kv_dim));
  float* k = q + T * q_dim;
  float* v = k + T * kv_dim;
  const Linear projections[] = {{T, AsMatrix(weights.q), normed.data(), q, normed_q.data()},
                                {T, AsMatrix(weights.k), normed.data(), k, normed_q.data()},
                                {T, AsMatrix(weights.v), normed.data(), v, normed_q.data()}};
  for (const Linear& projection : projections) RETURN_IF_ERROR(Check(projection));
  RunAll(projections, *pool);
  Lap(StepOp::kQkv);
  const auto norm_rope = [&](int heads, const std::vector<float>& weight, float* x) {
    return Do(HeadNormRope{T, heads, config.head_dim, weight.data(), config.norm_eps, cos.data(), sin.data(), x});
  };
  RETURN_IF_ERROR(norm_rope(config.heads, small[layer].q_norm, q));
  RETURN_IF_ERROR(norm_rope(config.kv_heads, small[layer].k_norm, k));
  Lap(StepOp::kRope);
  const KvArena arena{states->kv(kind_index[layer], 0), static_cast<int64_t>(states->kv_layer_bytes()), config.kv_heads,
                      config.head_dim, states->kv_type()};
  RETURN_IF_ERROR(Do(KvStore{T, k, v, rows.kv.data(), arena}));
  const Attention attention{T, config.heads,   config.kv_heads, config.head_dim,
                            q, rows.kv.data(), arena,           Grow(mixed, T * q_dim)};
  RETURN_IF_ERROR(Check(attention));
  braid::Run(attention, attention_scratch, *pool);
  Lap(StepOp::kAttention);
  ASSIGN_OR_RETURN(const QuantBlock* mixed_blocks, QuantizedFor(weights.attn_out, T, mixed.data(), mixed_q));
  return Do(Linear{T, AsMatrix(weights.attn_out), mixed.data(), branch.data(), mixed_blocks});
}

absl::Status Forward::Impl::DenseFfn(int layer) {
  if (T == 0) return absl::OkStatus();
  const FfnTensors& ffn = tensors.layers[layer].dense;
  const FfnGroup all{0, T, AsMatrix(ffn.gate), AsMatrix(ffn.up), AsMatrix(ffn.down)};
  const GroupedFfn op{T,       config.model_dim, config.dense_ffn_dim, {&all, 1},
                      nullptr, normed.data(),    normed_q.data(),      branch.data()};
  RETURN_IF_ERROR(Check(op));
  braid::Run(op, dense_scratch, *pool);
  return absl::OkStatus();
}

absl::Status Forward::Impl::Experts(int layer, ExpertRunner& runner) {
  const int E = config.experts, K = config.experts_per_token;
  float* logits = Grow(router_logits, int64_t{T} * E);
  const std::vector<float>& bias = small[layer].expert_bias;
  const bool biased = config.use_expert_bias && !bias.empty();
  RETURN_IF_ERROR(Do(Linear{T, AsMatrix(tensors.layers[layer].router), normed.data(), logits}));
  RETURN_IF_ERROR(
      Do(ChooseExperts{T, E, K, logits, biased ? bias.data() : nullptr, config.normalize_topk, config.routed_scaling,
                       Grow(experts, int64_t{T} * K), Grow(expert_weights, int64_t{T} * K)}));
  Lap(StepOp::kRouter);
  return runner.Run(
      {layer, T, config.model_dim, K, normed.data(), experts.data(), expert_weights.data(), branch.data()});
}

// The rows somebody wants logits of, as they go into the head.
absl::Status Forward::Impl::NormWanted() {
  const int L = static_cast<int>(rows.wanted.size()), D = config.model_dim;
  if (L == 0) return absl::OkStatus();
  float *last = Grow(selected, int64_t{L} * D), *added = Grow(mixed, int64_t{L} * D);
  const auto gather = [&](const std::vector<float>& from, float* to) {
    const Matrix all{DType::kF32, T, D, reinterpret_cast<const std::byte*>(from.data())};
    return Do(Gather{L, all, rows.wanted.data(), to});
  };
  RETURN_IF_ERROR(gather(hidden, last));
  RETURN_IF_ERROR(gather(branch, added));
  RETURN_IF_ERROR(Do(RmsNorm{L, D, last, final_norm.data(), config.norm_eps, last, added, added}));
  return QuantizedFor(tensors.head, L, last, selected_q).status();
}

absl::Status Forward::Impl::Head(int begin, int end, std::vector<float>* logits) {
  const int64_t D = config.model_dim, first = begin;
  logits->resize(static_cast<size_t>(end - begin) * config.vocab_size);
  if (begin == end) return absl::OkStatus();
  const bool quantized = tensors.head.layout == Layout::kPanels;
  RETURN_IF_ERROR(Do(Linear{end - begin, AsMatrix(tensors.head), selected.data() + first * D, logits->data(),
                            quantized ? selected_q.data() + first * D / 32 : nullptr}));
  Lap(StepOp::kHead);
  return absl::OkStatus();
}

Forward::Forward(const ModelConfig* config, const ModelTensors* tensors, HostStates* states, ThreadPool* pool)
    : impl_(std::make_unique<Impl>(config, tensors, states, pool)) {}
Forward::~Forward() = default;

absl::Status Forward::Run(std::span<const Chunk> chunks, ExpertRunner& experts, std::vector<float>* logits) {
  impl_->rows.LayOut(chunks);
  impl_->T = impl_->rows.count();
  if (impl_->profile != nullptr) impl_->profile->BeginStep();
  RETURN_IF_ERROR(impl_->Embed());
  impl_->Lap(StepOp::kEmbed);
  for (int layer = 0; layer < impl_->config.layer_count(); ++layer) RETURN_IF_ERROR(impl_->Layer(layer, experts));
  RETURN_IF_ERROR(impl_->NormWanted());
  return logits == nullptr ? absl::OkStatus() : Logits(0, static_cast<int>(impl_->rows.wanted.size()), logits);
}

absl::Status Forward::Logits(int begin, int end, std::vector<float>* logits) { return impl_->Head(begin, end, logits); }

void Forward::Profile(StepProfile* profile) { impl_->profile = profile; }

}  // namespace braid
