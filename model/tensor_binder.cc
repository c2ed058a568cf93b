#include "model/tensor_binder.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>

#include "base/checked.h"
#include "base/status.h"
#include "model/visit_tensors.h"

namespace braid {
namespace {

using Shape = std::vector<int64_t>;

std::string ToString(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// The same numbers in the same places; formats differ in whether they keep dimensions of length 1.
Shape Squeezed(const Shape& shape) {
  Shape squeezed;
  std::copy_if(shape.begin(), shape.end(), std::back_inserter(squeezed), [](int64_t length) { return length != 1; });
  return squeezed;
}

// The tensors of a file, each to be taken once.
class Table {
 public:
  explicit Table(const std::vector<StoredTensor>& stored) {
    for (const StoredTensor& tensor : stored) tensors_.emplace(tensor.name, &tensor);
  }

  bool Has(const std::string& name) const { return tensors_.contains(name); }

  // The tensor's matrices: one of (rows, columns) for a shape of two dimensions, shape[0] of them for three.
  absl::StatusOr<std::vector<TensorView>> Take(const std::string& name, const Shape& shape) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) return InvalidArgument("tensor '" + name + "' is missing");
    const StoredTensor& tensor = *found->second;
    // Dimensions of length 1 in other places would be other matrices, packed in another way.
    if (tensor.layout == Layout::kRows ? Squeezed(tensor.shape) != Squeezed(shape) : tensor.shape != shape)
      return InvalidArgument("tensor '" + name + "': expected shape " + ToString(shape) + ", got " +
                             ToString(tensor.shape));
    if (!tensor.dtype)
      return InvalidArgument("tensor '" + name + "' is of type " + tensor.type + ", which is not supported");
    const int64_t columns = shape.back();
    const int64_t rows = shape[shape.size() - 2];
    // Blocks must not straddle our rows, which may differ from the file's in dimensions of length 1.
    if (columns % Info(*tensor.dtype).elements != 0)
      return InvalidArgument("tensor '" + name + "' of type " + tensor.type + " has rows of " +
                             std::to_string(columns));
    std::vector<TensorView> views(shape.size() > 2 ? static_cast<size_t>(shape[0]) : 1);
    const std::byte* data = tensor.data.data();
    for (TensorView& view : views) {
      view = TensorView{name, *tensor.dtype, rows, columns, data, tensor.layout};
      data += view.bytes();
    }
    tensors_.erase(found);
    return views;
  }

  absl::Status Take(const std::string& name, int64_t rows, int64_t columns, TensorView* view) {
    ASSIGN_OR_RETURN(std::vector<TensorView> views, Take(name, {rows, columns}));
    *view = std::move(views[0]);
    return absl::OkStatus();
  }

  // The first by name of those never taken, so that the message does not depend on a hash.
  absl::Status RequireAllTaken(const std::string& architecture) const {
    if (tensors_.empty()) return absl::OkStatus();
    const auto first = std::min_element(tensors_.begin(), tensors_.end(),
                                        [](const auto& a, const auto& b) { return a.first < b.first; });
    return InvalidArgument(
        "tensor '" + first->first + "' has no place in this " + architecture + " model" +
        (tensors_.size() > 1 ? ", nor have " + std::to_string(tensors_.size() - 1) + " others" : ""));
  }

 private:
  std::unordered_map<std::string, const StoredTensor*> tensors_;
};

class Binder {
 public:
  Binder(const ModelConfig& config, const TensorNames& names, Table* table)
      : config_(config), names_(names), table_(*table) {}

  absl::StatusOr<ModelTensors> Bind() {
    ModelTensors model;
    RETURN_IF_ERROR(table_.Take(std::string(names_.embedding), config_.vocab_size, D(), &model.embedding));
    RETURN_IF_ERROR(table_.Take(std::string(names_.final_norm), 1, D(), &model.final_norm));
    model.head = model.embedding;
    if (table_.Has(std::string(names_.head)))
      RETURN_IF_ERROR(table_.Take(std::string(names_.head), config_.vocab_size, D(), &model.head));
    model.layers.resize(config_.layers.size());
    for (int i = 0; i < config_.layer_count(); ++i)
      RETURN_IF_ERROR(BindLayer(i, &model.layers[static_cast<size_t>(i)]));
    return model;
  }

 private:
  int64_t D() const { return config_.model_dim; }

  absl::Status Take(int layer, std::string_view name, int64_t rows, int64_t columns, TensorView* view) {
    return table_.Take(names_.LayerPrefix(layer) + std::string(name), rows, columns, view);
  }

  absl::Status BindLayer(int i, LayerTensors* layer) {
    RETURN_IF_ERROR(Take(i, names_.operator_norm, 1, D(), &layer->operator_norm));
    RETURN_IF_ERROR(Take(i, names_.ffn_norm, 1, D(), &layer->ffn_norm));
    const bool attention = config_.layers[static_cast<size_t>(i)] == ModelConfig::LayerKind::kAttention;
    RETURN_IF_ERROR(attention ? BindAttention(i, layer) : BindConv(i, layer));
    return config_.is_moe_layer(i) ? BindMoe(i, layer) : BindDense(i, layer);
  }

  absl::Status BindConv(int i, LayerTensors* layer) {
    RETURN_IF_ERROR(Take(i, names_.conv_in, 3 * D(), D(), &layer->conv_in));
    RETURN_IF_ERROR(Take(i, names_.conv_kernel, D(), config_.conv_taps, &layer->conv_kernel));
    return Take(i, names_.conv_out, D(), D(), &layer->conv_out);
  }

  absl::Status BindAttention(int i, LayerTensors* layer) {
    const int64_t q_dim = int64_t{config_.heads} * config_.head_dim;
    RETURN_IF_ERROR(Take(i, names_.q, q_dim, D(), &layer->q));
    RETURN_IF_ERROR(Take(i, names_.k, config_.kv_dim(), D(), &layer->k));
    RETURN_IF_ERROR(Take(i, names_.v, config_.kv_dim(), D(), &layer->v));
    RETURN_IF_ERROR(Take(i, names_.attn_out, D(), q_dim, &layer->attn_out));
    RETURN_IF_ERROR(Take(i, names_.q_norm, 1, config_.head_dim, &layer->q_norm));
    return Take(i, names_.k_norm, 1, config_.head_dim, &layer->k_norm);
  }

  absl::Status BindDense(int i, LayerTensors* layer) {
    const int64_t ffn = config_.dense_ffn_dim;
    RETURN_IF_ERROR(Take(i, names_.gate, ffn, D(), &layer->dense.gate));
    RETURN_IF_ERROR(Take(i, names_.up, ffn, D(), &layer->dense.up));
    return Take(i, names_.down, D(), ffn, &layer->dense.down);
  }

  absl::Status BindMoe(int i, LayerTensors* layer) {
    RETURN_IF_ERROR(Take(i, names_.router, config_.experts, D(), &layer->router));
    if (config_.use_expert_bias) RETURN_IF_ERROR(Take(i, names_.expert_bias, 1, config_.experts, &layer->expert_bias));
    layer->experts.resize(static_cast<size_t>(config_.experts));
    if (!names_.gate_stack.empty()) return BindStacks(i, layer);
    if (table_.Has(names_.LayerPrefix(i) + std::string(names_.fused_gate_up))) return BindFused(i, layer);
    return BindSeparate(i, layer);
  }

  absl::StatusOr<std::vector<TensorView>> TakeStack(int i, std::string_view name, int64_t rows, int64_t columns) {
    return table_.Take(names_.LayerPrefix(i) + std::string(name), {config_.experts, rows, columns});
  }

  absl::Status BindStacks(int i, LayerTensors* layer) {
    const int64_t F = config_.expert_ffn_dim;
    ASSIGN_OR_RETURN(std::vector<TensorView> gates, TakeStack(i, names_.gate_stack, F, D()));
    ASSIGN_OR_RETURN(std::vector<TensorView> ups, TakeStack(i, names_.up_stack, F, D()));
    ASSIGN_OR_RETURN(std::vector<TensorView> downs, TakeStack(i, names_.down_stack, D(), F));
    for (size_t e = 0; e < layer->experts.size(); ++e)
      layer->experts[e] = {std::move(gates[e]), std::move(ups[e]), std::move(downs[e])};
    return absl::OkStatus();
  }

  absl::Status BindFused(int i, LayerTensors* layer) {
    const int64_t F = config_.expert_ffn_dim;
    ASSIGN_OR_RETURN(std::vector<TensorView> gate_ups, TakeStack(i, names_.fused_gate_up, 2 * F, D()));
    ASSIGN_OR_RETURN(std::vector<TensorView> downs, TakeStack(i, names_.fused_down, D(), F));
    for (size_t e = 0; e < layer->experts.size(); ++e) {
      TensorView gate = std::move(gate_ups[e]);
      gate.rows = F;
      TensorView up = gate;
      up.data += gate.bytes();
      layer->experts[e] = {std::move(gate), std::move(up), std::move(downs[e])};
    }
    return absl::OkStatus();
  }

  absl::Status BindSeparate(int i, LayerTensors* layer) {
    const int64_t F = config_.expert_ffn_dim;
    for (int e = 0; e < config_.experts; ++e) {
      const std::string prefix = names_.ExpertPrefix(i, e);
      FfnTensors& expert = layer->experts[static_cast<size_t>(e)];
      RETURN_IF_ERROR(table_.Take(prefix + std::string(names_.expert_gate), F, D(), &expert.gate));
      RETURN_IF_ERROR(table_.Take(prefix + std::string(names_.expert_up), F, D(), &expert.up));
      RETURN_IF_ERROR(table_.Take(prefix + std::string(names_.expert_down), D(), F, &expert.down));
    }
    return absl::OkStatus();
  }

  const ModelConfig& config_;
  const TensorNames& names_;
  Table& table_;
};

// What is not multiplied with is read value by value.
absl::Status CheckOnlyMatricesInPanels(ModelTensors model) {
  VisitMatrices(model, [](TensorView& tensor) { tensor.layout = Layout::kRows; });
  absl::Status status;
  VisitTensors(model, [&](const TensorView& tensor) {
    if (tensor.layout == Layout::kPanels)
      status.Update(InvalidArgument("tensor '" + tensor.name + "' is in panels, which only matrices can be"));
  });
  return status;
}

}  // namespace

absl::StatusOr<ModelTensors> BindTensors(const ModelConfig& config, const TensorNames& names,
                                         const std::vector<StoredTensor>& stored) {
  Table table(stored);
  ASSIGN_OR_RETURN(ModelTensors model, Binder(config, names, &table).Bind());
  RETURN_IF_ERROR(table.RequireAllTaken(config.architecture));
  RETURN_IF_ERROR(CheckOnlyMatricesInPanels(model));
  return model;
}

}  // namespace braid
