#include "model/conversion_plan.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "model/tensor_names.h"

namespace braid {
namespace {

bool IsFloat(DType type) { return Info(type).elements == 1; }

using Member = TensorView LayerTensors::*;

// The tensors a layer has one of, with their spellings: matrices, and those that stay in a float type.
struct Part {
  Member member;
  std::string_view TensorNames::*name;
};
constexpr Part kMatrices[] = {
    {&LayerTensors::conv_in, &TensorNames::conv_in},
    {&LayerTensors::conv_out, &TensorNames::conv_out},
    {&LayerTensors::q, &TensorNames::q},
    {&LayerTensors::k, &TensorNames::k},
    {&LayerTensors::v, &TensorNames::v},
    {&LayerTensors::attn_out, &TensorNames::attn_out},
};
constexpr Part kVectors[] = {
    {&LayerTensors::operator_norm, &TensorNames::operator_norm},
    {&LayerTensors::ffn_norm, &TensorNames::ffn_norm},
    {&LayerTensors::q_norm, &TensorNames::q_norm},
    {&LayerTensors::k_norm, &TensorNames::k_norm},
    {&LayerTensors::expert_bias, &TensorNames::expert_bias},
};

struct ExpertPart {
  TensorView FfnTensors::*member;
  std::string_view TensorNames::*dense_name;
  std::string_view TensorNames::*stack_name;
  std::string_view TensorNames::*expert_name;
};
constexpr ExpertPart kExpertParts[] = {
    {&FfnTensors::gate, &TensorNames::gate, &TensorNames::gate_stack, &TensorNames::expert_gate},
    {&FfnTensors::up, &TensorNames::up, &TensorNames::up_stack, &TensorNames::expert_up},
    {&FfnTensors::down, &TensorNames::down, &TensorNames::down_stack, &TensorNames::expert_down},
};

// The two formats differ in names, in how experts lie and in which types they take; `matrix_type` and `small_type` say
// the latter.
class Planner {
 public:
  using TypeOf = std::function<DType(const TensorView&)>;
  Planner(const ModelFile& model, const TensorNames& names, Layout layout, TypeOf matrix_type, TypeOf small_type)
      : model_(model),
        names_(names),
        layout_(layout),
        matrix_type_(std::move(matrix_type)),
        small_type_(std::move(small_type)) {}

  void AddEmbedding(DType type) {
    const ModelTensors& tensors = model_.tensors();
    AddMatrix(std::string(names_.embedding), type, Shape(tensors.embedding), {tensors.embedding});
    Add(std::string(names_.final_norm), small_type_(tensors.final_norm), {tensors.final_norm.columns},
        {tensors.final_norm});
    if (tensors.head.data != tensors.embedding.data)
      AddMatrix(std::string(names_.head), type, Shape(tensors.head), {tensors.head});
  }

  void AddLayer(int i, bool conv_kernel_3d) {
    const LayerTensors& layer = model_.tensors().layers[static_cast<size_t>(i)];
    const std::string prefix = names_.LayerPrefix(i);
    for (const Part& part : kVectors) {
      const TensorView& tensor = layer.*part.member;
      if (!tensor.empty())
        Add(prefix + std::string(names_.*part.name), small_type_(tensor), {tensor.columns}, {tensor});
    }
    for (const Part& part : kMatrices) {
      const TensorView& tensor = layer.*part.member;
      if (!tensor.empty())
        AddMatrix(prefix + std::string(names_.*part.name), matrix_type_(tensor), Shape(tensor), {tensor});
    }
    if (const TensorView& kernel = layer.conv_kernel; !kernel.empty())
      Add(prefix + std::string(names_.conv_kernel), small_type_(kernel),
          conv_kernel_3d ? std::vector<int64_t>{kernel.rows, 1, kernel.columns} : Shape(kernel), {kernel});
    if (!layer.router.empty())
      Add(prefix + std::string(names_.router), small_type_(layer.router), Shape(layer.router), {layer.router});
    for (const ExpertPart& part : kExpertParts) {
      const TensorView& dense = layer.dense.*part.member;
      if (!dense.empty())
        AddMatrix(prefix + std::string(names_.*part.dense_name), matrix_type_(dense), Shape(dense), {dense});
    }
  }

  void AddExpertStacks(int i) {
    const LayerTensors& layer = model_.tensors().layers[static_cast<size_t>(i)];
    for (const ExpertPart& part : kExpertParts) {
      std::vector<TensorView> parts;
      for (const FfnTensors& expert : layer.experts) parts.push_back(expert.*part.member);
      if (parts.empty()) return;
      DType type = matrix_type_(parts[0]);
      // Only a directory may mix types among experts, and it has float types only.
      for (const TensorView& tensor : parts)
        if (matrix_type_(tensor) != type) type = DType::kF32;
      AddMatrix(names_.LayerPrefix(i) + std::string(names_.*part.stack_name), type,
                {static_cast<int64_t>(parts.size()), parts[0].rows, parts[0].columns}, parts);
    }
  }

  void AddExpertsApart(int i) {
    const LayerTensors& layer = model_.tensors().layers[static_cast<size_t>(i)];
    for (size_t e = 0; e < layer.experts.size(); ++e)
      for (const ExpertPart& part : kExpertParts) {
        const TensorView& tensor = layer.experts[e].*part.member;
        AddMatrix(names_.ExpertPrefix(i, static_cast<int>(e)) + std::string(names_.*part.expert_name),
                  matrix_type_(tensor), Shape(tensor), {tensor});
      }
  }

  void Add(std::string name, DType type, std::vector<int64_t> shape, std::vector<TensorView> parts) {
    if (shape.back() % Info(type).elements != 0) {
      plan_.notes.push_back(name + " stays F16: its rows of " + std::to_string(shape.back()) +
                            " values are no whole blocks of " + std::string(Name(type)));
      type = DType::kF16;
    }
    plan_.tensors.push_back({std::move(name), type, std::move(shape), std::move(parts)});
  }

  void AddMatrix(std::string name, DType type, std::vector<int64_t> shape, std::vector<TensorView> parts) {
    Add(std::move(name), type, std::move(shape), std::move(parts));
    PlannedTensor& added = plan_.tensors.back();  // of another type, maybe
    if (HasPanels(added.dtype)) added.layout = layout_;
  }

  ConversionPlan Take() { return std::move(plan_); }

 private:
  static std::vector<int64_t> Shape(const TensorView& tensor) { return {tensor.rows, tensor.columns}; }

  const ModelFile& model_;
  const TensorNames& names_;
  const Layout layout_;  // of matrices in types that have both
  TypeOf matrix_type_, small_type_;
  ConversionPlan plan_;
};

DType EmbeddingType(const ModelFile& model, std::optional<DType> type) {
  if (type == DType::kQ4_0) return DType::kQ8_0;
  return type.value_or(model.tensors().embedding.dtype);
}

}  // namespace

uint64_t PlannedTensor::bytes() const {
  uint64_t total = 0;
  for (const TensorView& part : parts)
    total += MatrixBytes(dtype, layout, static_cast<uint64_t>(part.rows), static_cast<uint64_t>(part.columns));
  return total;
}

ConversionPlan PlanGguf(const ModelFile& model, std::optional<DType> type, std::vector<float>* zeros) {
  const auto matrix_type = [type](const TensorView& tensor) { return type.value_or(tensor.dtype); };
  Planner planner(model, kGgufNames, Layout::kRows, matrix_type, [](const TensorView&) { return DType::kF32; });
  planner.AddEmbedding(EmbeddingType(model, type));
  const ModelConfig& config = model.config();
  zeros->assign(static_cast<size_t>(config.experts), 0.0f);
  for (int i = 0; i < config.layer_count(); ++i) {
    planner.AddLayer(i, /*conv_kernel_3d=*/false);
    planner.AddExpertStacks(i);
    if (!config.is_moe_layer(i) || config.use_expert_bias) continue;
    const std::string name = kGgufNames.LayerPrefix(i) + std::string(kGgufNames.expert_bias);
    planner.Add(name, DType::kF32, {config.experts},
                {{name, DType::kF32, 1, config.experts, reinterpret_cast<const std::byte*>(zeros->data())}});
  }
  return planner.Take();
}

ConversionPlan PlanPacked(const ModelFile& model, std::optional<DType> type) {
  const auto matrix_type = [type](const TensorView& tensor) { return type.value_or(tensor.dtype); };
  Planner planner(model, kGgufNames, Layout::kPanels, matrix_type,
                  [](const TensorView& tensor) { return tensor.dtype; });
  planner.AddEmbedding(EmbeddingType(model, type));
  for (int i = 0; i < model.config().layer_count(); ++i) {
    planner.AddLayer(i, /*conv_kernel_3d=*/false);
    planner.AddExpertStacks(i);
  }
  return planner.Take();
}

ConversionPlan PlanHf(const ModelFile& model, std::optional<DType> type) {
  const auto matrix_type = [type](const TensorView& tensor) {
    return type.value_or(IsFloat(tensor.dtype) ? tensor.dtype : DType::kBF16);
  };
  const auto small_type = [](const TensorView& tensor) { return IsFloat(tensor.dtype) ? tensor.dtype : DType::kF32; };
  Planner planner(model, kHfNames, Layout::kRows, matrix_type, small_type);
  planner.AddEmbedding(matrix_type(model.tensors().embedding));
  for (int i = 0; i < model.config().layer_count(); ++i) {
    planner.AddLayer(i, /*conv_kernel_3d=*/true);
    planner.AddExpertsApart(i);
  }
  return planner.Take();
}

}  // namespace braid
