#include "model/cuda/device_weights.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <string>

#include "base/status.h"
#include "kernels/cuda/choose_experts.h"
#include "kernels/cuda/paged_attention.h"
#include "kernels/kv_arena.h"
#include "kernels/rope.h"
#include "model/matrix_view.h"

namespace braid::gpu {
namespace {

// What the kernels ask of a model's shape, in the words of its configuration.
absl::Status CheckShape(const ModelConfig& config) {
  const auto refuse = [](std::string_view field, int value, std::string_view need) {
    return InvalidArgument(fmt::format("{} is {}, on a GPU it must be {}: run with --device cpu", field, value, need));
  };
  for (const auto& [field, value] : {std::pair{"model_dim", config.model_dim},
                                     {"vocab_size", config.vocab_size},
                                     {"dense_ffn_dim", config.dense_ffn_dim},
                                     {"expert_ffn_dim", config.expert_ffn_dim},
                                     {"experts", config.experts}}) {
    if (value % 8 != 0) return refuse(field, value, "a multiple of 8");
  }
  if (config.attention_layer_count() > 0) {
    const int hd = config.head_dim;
    if (hd != 32 && hd != 64 && hd != 128) return refuse("head_dim", hd, "32, 64 or 128");
    if (config.heads / config.kv_heads > PagedAttention::kGroupMax)
      return refuse("heads", config.heads, "at most 16 times kv_heads");
  }
  if (config.conv_layer_count() > 0 && config.conv_taps != 3 && config.conv_taps != 4)
    return refuse("conv_taps", config.conv_taps, "3 or 4");
  if (config.experts > ChooseExperts::kExpertsMax) return refuse("experts", config.experts, "at most 1024");
  if (config.experts_per_token > ChooseExperts::kChosenMax)
    return refuse("experts_per_token", config.experts_per_token, "at most 32");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceWeights>> DeviceWeights::Plan(const ModelConfig* config,
                                                                   const ModelTensors* tensors, DType precision,
                                                                   bool fp8, bool gates_apart, int expert_places,
                                                                   MemoryPlan* plan) {
  RETURN_IF_ERROR(CheckShape(*config));
  std::unique_ptr<DeviceWeights> weights(
      new DeviceWeights(config, tensors, precision, fp8, gates_apart, expert_places));
  RETURN_IF_ERROR(weights->PlanAll(plan));
  weights->LogDequantised();
  return weights;
}

absl::Status DeviceWeights::PlanAll(MemoryPlan* plan) {
  model_.layers.resize(tensors_.layers.size());
  const MatrixSource embedding{{&tensors_.embedding}}, head{{&tensors_.head}};
  PlanMatrix(embedding, StoredType(embedding, precision_), &model_.embedding, plan);
  if (tensors_.head.data != tensors_.embedding.data) PlanMatrix(head, StoredType(head, precision_), &model_.head, plan);
  PlanVector(Floats(tensors_.final_norm), &model_.final_norm, plan);
  RETURN_IF_ERROR(PlanRopeTable(plan));
  for (int layer = 0; layer < config_.layer_count(); ++layer) RETURN_IF_ERROR(PlanLayer(layer, plan));
  bytes_ = plan->bytes_of(MemoryPlan::Part::kWeights);
  const auto is_fp8 = [](const MatrixItem& item) { return item.to->type == kFp8; };
  if (fp8_ && std::none_of(matrices_.begin(), matrices_.end(), is_fp8)) {
    return InvalidArgument(
        "weights in FP8 are asked for, but this model's file has none in floats that could be: they are quantised "
        "already, leave --weights fp8 or --precision fp8 out");
  }
  return absl::OkStatus();
}

absl::Status DeviceWeights::PlanLayer(int layer, MemoryPlan* plan) {
  const LayerTensors& from = tensors_.layers[layer];
  DeviceLayer& to = model_.layers[layer];
  const auto matrix = [&](MatrixSource source, Matrix* matrix) {
    const DType type = StoredType(source, precision_, fp8_);
    PlanMatrix(std::move(source), type, matrix, plan);
  };
  PlanVector(Floats(from.operator_norm), &to.operator_norm, plan);
  PlanVector(Floats(from.ffn_norm), &to.ffn_norm, plan);
  if (config_.layers[layer] == ModelConfig::LayerKind::kConv) {
    matrix({{&from.conv_in}}, &to.conv_in);
    matrix({{&from.conv_out}}, &to.conv_out);
    PlanVector(Transposed(from.conv_kernel), &to.conv_kernel, plan);
  } else {
    matrix({{&from.q, &from.k, &from.v}}, &to.qkv);
    matrix({{&from.attn_out}}, &to.attn_out);
    PlanVector(Floats(from.q_norm), &to.q_norm, plan);
    PlanVector(Floats(from.k_norm), &to.k_norm, plan);
  }
  if (config_.is_moe_layer(layer)) return PlanExperts(layer, plan);
  MatrixSource gate_up{{&from.dense.gate, &from.dense.up}};
  to.in_turns = gate_up.in_turns = !gates_apart_ || StoredType(gate_up, precision_, fp8_) != DType::kBF16;
  matrix(std::move(gate_up), &to.gate_up);
  matrix({{&from.dense.down}}, &to.down);
  return absl::OkStatus();
}

absl::Status DeviceWeights::PlanExperts(int layer, MemoryPlan* plan) {
  const LayerTensors& from = tensors_.layers[layer];
  DeviceLayer& to = model_.layers[layer];
  PlanMatrix({{&from.router}}, DType::kF32, &to.router, plan);
  if (config_.use_expert_bias && !from.expert_bias.empty()) PlanVector(Floats(from.expert_bias), &to.expert_bias, plan);
  // All experts of a layer have one type, for they are one matrix.
  MatrixSource gate_up, down;
  for (const FfnTensors& expert : from.experts) {
    gate_up.parts.push_back(&expert.gate);
    gate_up.parts.push_back(&expert.up);
    down.parts.push_back(&expert.down);
  }
  const auto places = [&](const MatrixSource& all, int64_t rows, Matrix* matrix) {
    const auto columns = static_cast<uint64_t>(all.columns());
    *matrix = {StoredType(all, precision_, fp8_), static_cast<int>(rows * expert_places_),
               static_cast<int>(all.columns())};
    const auto count = static_cast<uint64_t>(matrix->rows);
    MatrixItem item{matrix, all, 0, 0, false};
    item.data = plan->AddBytes(MemoryPlan::Part::kExperts, count * DataBytes(matrix->type, columns));
    item.scales = plan->AddBytes(MemoryPlan::Part::kExperts, count * ScaleBytes(matrix->type, columns));
    matrices_.push_back(std::move(item));
  };
  const int64_t F = config_.expert_ffn_dim, D = config_.model_dim;
  if (int64_t{expert_places_} * std::max(2 * F, D) > INT32_MAX)
    return InvalidArgument("the experts of a layer have more rows than a matrix can");
  places(gate_up, 2 * F, &to.expert_gate_up);
  places(down, D, &to.expert_down);
  return absl::OkStatus();
}

absl::Status DeviceWeights::PlanRopeTable(MemoryPlan* plan) {
  if (config_.attention_layer_count() == 0) return absl::OkStatus();
  constexpr int kTokens = braid::KvArena::kBlockTokens;
  model_.positions = (config_.context_tokens_max + kTokens - 1) / kTokens * kTokens;
  std::vector<int32_t> positions(static_cast<size_t>(model_.positions));
  std::iota(positions.begin(), positions.end(), 0);
  std::vector<float> cos(positions.size() * static_cast<size_t>(config_.head_dim / 2)), sin(cos.size());
  const RopeTable table{model_.positions, config_.head_dim, config_.rope_theta,
                        positions.data(), cos.data(),       sin.data()};
  RETURN_IF_ERROR(Check(table));
  ThreadPool pool(1);
  braid::Run(table, pool);
  PlanVector(std::move(cos), &model_.cos, plan);
  PlanVector(std::move(sin), &model_.sin, plan);
  return absl::OkStatus();
}

void DeviceWeights::PlanMatrix(MatrixSource from, DType type, Matrix* to, MemoryPlan* plan) {
  *to = {type, static_cast<int>(from.rows()), static_cast<int>(from.columns())};
  const auto rows = static_cast<uint64_t>(to->rows), columns = static_cast<uint64_t>(to->columns);
  MatrixItem item{to, std::move(from)};
  item.data = plan->AddBytes(MemoryPlan::Part::kWeights, rows * DataBytes(type, columns));
  item.scales = plan->AddBytes(MemoryPlan::Part::kWeights, rows * ScaleBytes(type, columns));
  matrices_.push_back(std::move(item));
}

void DeviceWeights::PlanVector(std::vector<float> values, const float** to, MemoryPlan* plan) {
  const uint64_t at = plan->Add<float>(MemoryPlan::Part::kWeights, static_cast<int64_t>(values.size()));
  vectors_.push_back({to, std::move(values), at});
}

void DeviceWeights::Bind(std::byte* memory) {
  for (MatrixItem& item : matrices_) {
    item.to->data = memory + item.data;
    if (item.to->type == DType::kQ4_0 || item.to->type == kFp8)
      item.to->scales = reinterpret_cast<const uint16_t*>(memory + item.scales);
  }
  for (VectorItem& item : vectors_) *item.to = reinterpret_cast<const float*>(memory + item.data);
  if (tensors_.head.data == tensors_.embedding.data) model_.head = model_.embedding;
}

uint64_t DeviceWeights::ExpertBytes(int layer) const {
  uint64_t bytes = 0;
  for (const Matrix* matrix : {&model_.layers[layer].expert_gate_up, &model_.layers[layer].expert_down}) {
    const auto rows = static_cast<uint64_t>(matrix->rows / expert_places_);
    const auto columns = static_cast<uint64_t>(matrix->columns);
    bytes += rows * (DataBytes(matrix->type, columns) + ScaleBytes(matrix->type, columns));
  }
  return bytes;
}

absl::Status DeviceWeights::Load(Uploader& uploader) const {
  for (const MatrixItem& item : matrices_)
    if (item.load) RETURN_IF_ERROR(uploader.Put(item.from, *item.to, 0));
  for (const VectorItem& item : vectors_)
    RETURN_IF_ERROR(uploader.Put(item.values.data(), item.values.size() * sizeof(float), *item.to));
  return absl::OkStatus();
}

absl::Status DeviceWeights::LoadExpert(int layer, int expert, int place, Uploader& uploader) const {
  const FfnTensors& from = tensors_.layers[layer].experts[expert];
  const DeviceLayer& to = model_.layers[layer];
  const int64_t F = config_.expert_ffn_dim, D = config_.model_dim;
  RETURN_IF_ERROR(uploader.Put({{&from.gate, &from.up}, /*in_turns=*/true}, to.expert_gate_up, 2 * F * place));
  return uploader.Put({{&from.down}}, to.expert_down, D * place);
}

void DeviceWeights::LogDequantised() const {
  std::set<std::string> types;
  for (const MatrixItem& item : matrices_) {
    for (const TensorView* part : item.from.parts)
      if (part->dtype != item.to->type && Info(part->dtype).elements > 1) types.insert(std::string(Name(part->dtype)));
  }
  if (types.empty()) return;
  std::string names;
  for (const std::string& name : types) names += (names.empty() ? "" : ", ") + name;
  spdlog::info("weights in {} are {} on the device", names, Name(precision_));
}

}  // namespace braid::gpu
