#include "model/inspect.h"

#include <map>
#include <sstream>
#include <string_view>

#include "base/human.h"
#include "base/panels.h"
#include "base/status.h"
#include "model/chat_template.h"
#include "model/sequence_states.h"
#include "model/visit_tensors.h"

namespace braid {
namespace {

struct Counts {
  uint64_t tensors = 0;
  uint64_t parameters = 0;
  uint64_t bytes = 0;
};

uint64_t Parameters(const TensorView& tensor) { return static_cast<uint64_t>(tensor.rows * tensor.columns); }

// Of each MoE layer a token meets K experts, of the rest everything; of an embedding that is not the head, one row.
uint64_t ActiveParameters(const ModelFile& model, uint64_t total) {
  const ModelConfig& config = model.config();
  uint64_t idle = 0;
  for (const LayerTensors& layer : model.tensors().layers)
    if (!layer.experts.empty())
      idle += static_cast<uint64_t>(config.experts - config.experts_per_token) *
              (Parameters(layer.experts[0].gate) + Parameters(layer.experts[0].up) + Parameters(layer.experts[0].down));
  if (model.tensors().head.data != model.tensors().embedding.data) idle += Parameters(model.tensors().embedding);
  return total - idle;
}

void DescribeShape(const ModelConfig& config, std::ostream& out) {
  out << "architecture      " << config.architecture << "\n";
  out << "layers            " << config.layer_count() << ": " << config.conv_layer_count() << " conv of "
      << config.conv_taps << " taps, " << config.attention_layer_count() << " attention\n";
  out << "model dim         " << config.model_dim << "\n";
  out << "attention         " << config.heads << " heads, " << config.kv_heads << " for keys and values, of "
      << config.head_dim << "; RoPE base " << config.rope_theta << "\n";
  if (config.dense_layers > 0)
    out << "dense FFN         " << config.dense_ffn_dim << " in " << config.dense_layers << " layers\n";
  if (config.experts > 0)
    out << "experts           " << config.experts << " of " << config.expert_ffn_dim << " in "
        << config.layer_count() - config.dense_layers << " layers, " << config.experts_per_token << " per token\n";
  out << "vocabulary        " << config.vocab_size << "\n";
  out << "context           " << config.context_tokens_max << " tokens\n";
}

void DescribeWeights(const ModelFile& model, std::ostream& out) {
  std::map<std::string, Counts> by_type;
  uint64_t parameters = 0;
  VisitTensors(model.tensors(), [&](const TensorView& tensor) {
    Counts& counts = by_type[std::string(Name(tensor.dtype)) + (tensor.layout == Layout::kPanels ? " in panels" : "")];
    ++counts.tensors;
    counts.parameters += Parameters(tensor);
    counts.bytes += tensor.bytes();
    parameters += Parameters(tensor);
  });
  out << "parameters        " << HumanQuantity(parameters) << ", " << HumanQuantity(ActiveParameters(model, parameters))
      << " active per token\n";
  out << "weights           " << HumanBytes(model.weight_bytes()) << "\n";
  for (const auto& [type, counts] : by_type)
    out << "  " << type << std::string(16 - type.size(), ' ') << HumanBytes(counts.bytes) << ", "
        << HumanQuantity(counts.parameters) << " parameters, " << counts.tensors << " tensors\n";
}

// Whether starting to serve is a map. What can be in panels must be.
void DescribeLayout(const ModelFile& model, std::ostream& out) {
  uint64_t packed = 0, unpacked = 0;
  VisitMatrices(model.tensors(), [&](const TensorView& tensor) {
    if (HasPanels(tensor.dtype)) (tensor.layout == Layout::kPanels ? packed : unpacked) += tensor.bytes();
  });
  if (unpacked > 0) {
    out << "layout            rows: " << HumanBytes(unpacked)
        << " are packed into memory at each start; braid convert --format packed saves that\n";
  } else {
    out << "layout            " << (packed > 0 ? "packed" : "rows, of floats") << ": mapped as it is\n";
  }
}

void DescribeMemory(const ModelFile& model, std::ostream& out) {
  const ModelConfig& config = model.config();
  out << "memory            " << HumanBytes(model.weight_bytes()) << " of weights, mapped\n";
  const auto kv_bytes = [&](KvType type) { return HumanBytes(1000 * KvBlockBytes(config, type) / kKvBlockTokens); };
  out << "                  " << kv_bytes(KvType::kBFloat16) << " of keys and values per 1,000 tokens, "
      << kv_bytes(KvType::kInt8) << " in int8\n";
  out << "                  " << HumanBytes(ConvColumnsBytes(config)) << " of conv state per sequence\n";
}

std::string_view Name(TokenizerSpec::PreTokenizer kind) {
  switch (kind) {
    case TokenizerSpec::PreTokenizer::kGpt2:
      return "GPT-2";
    case TokenizerSpec::PreTokenizer::kLlama3:
      return "Llama 3";
    case TokenizerSpec::PreTokenizer::kQwen2:
      return "Qwen2";
    case TokenizerSpec::PreTokenizer::kLfm2:
      return "LFM2";
  }
  return "?";
}

std::string_view Name(ChatTemplate::Variant variant) {
  switch (variant) {
    case ChatTemplate::Variant::kLfm2:
      return "LFM2, October 2025";
    case ChatTemplate::Variant::kLfm2Updated:
      return "LFM2 updated, dense LFM2.5";
    case ChatTemplate::Variant::kLfm25Release:
      return "LFM2.5 as released";
    case ChatTemplate::Variant::kLfm25:
      return "LFM2.5";
  }
  return "?";
}

void DescribeText(const ModelFile& model, std::ostream& out) {
  out << "tokenizer         ";
  if (model.tokenizer().ok()) {
    const TokenizerSpec& spec = *model.tokenizer();
    out << "byte-level BPE, " << Name(spec.pre_tokenizer) << " pre-tokenizer, " << spec.tokens.size() << " tokens, "
        << spec.merges.size() << " merges, " << spec.added.size() << " added\n";
  } else {
    out << "none that is known: " << model.tokenizer().status().message() << "\n";
  }
  out << "chat template     ";
  if (!model.chat_template()) {
    out << "none\n";
    return;
  }
  const absl::StatusOr<ChatTemplate> recognized = ChatTemplate::Recognize(*model.chat_template());
  if (recognized.ok()) {
    out << Name(recognized->variant()) << "\n";
  } else {
    out << "not known: " << recognized.status().message() << "\n";
  }
}

}  // namespace

std::string DescribeModel(const ModelFile& model) {
  std::ostringstream out;
  out << "model             " << model.config().name << "\n";
  out << "file              " << model.path() << "\n";
  DescribeShape(model.config(), out);
  DescribeWeights(model, out);
  DescribeLayout(model, out);
  DescribeMemory(model, out);
  DescribeText(model, out);
  out << "digest            " << model.digest() << "\n";
  return out.str();
}

}  // namespace braid
