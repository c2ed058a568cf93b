#include "model/model_digest.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

#include "base/check.h"
#include "model/tensor_rows.h"
#include "model/visit_tensors.h"

namespace braid {
namespace {

constexpr uint64_t kSampleBytes = 256;

// What is hashed, as one unambiguous string: every part is preceded by its length or has a fixed one. Gathered first
// because a model has some 300,000 short parts, and hashing each apart costs more than hashing the whole.
class Transcript {
 public:
  void Add(std::string_view text) {
    Add(static_cast<uint64_t>(text.size()));
    bytes_.append(text);
  }
  template <typename T>
  requires std::is_arithmetic_v<T>
  void Add(T value) {
    std::array<char, sizeof(T)> raw;
    std::memcpy(raw.data(), &value, sizeof(T));
    bytes_.append(raw.data(), raw.size());
  }
  void Add(std::optional<TokenId> id) { Add(int64_t{id.value_or(-1)}); }

  std::string Sha256() const {
    std::array<unsigned char, 32> hash;
    CHECK(EVP_Digest(bytes_.data(), bytes_.size(), hash.data(), nullptr, EVP_sha256(), nullptr) == 1);
    std::string hex;
    for (const unsigned char byte : hash) {
      hex += "0123456789abcdef"[byte >> 4];
      hex += "0123456789abcdef"[byte & 15];
    }
    return hex;
  }

 private:
  std::string bytes_;
};

void Add(const ModelConfig& config, Transcript* out) {
  out->Add(std::string_view(config.architecture));
  for (const int value :
       {config.model_dim, config.vocab_size, config.heads, config.kv_heads, config.head_dim, config.conv_taps,
        config.dense_ffn_dim, config.dense_layers, config.experts, config.experts_per_token, config.expert_ffn_dim,
        int{config.normalize_topk}, int{config.use_expert_bias}, config.context_tokens_max, config.checksum_tokens,
        config.layer_count()})
    out->Add(int64_t{value});
  for (const float value : {config.rope_theta, config.norm_eps, config.routed_scaling}) out->Add(value);
  for (const ModelConfig::LayerKind kind : config.layers) out->Add(static_cast<uint8_t>(kind));
}

void Add(const TokenizerSpec& spec, Transcript* out) {
  out->Add(uint64_t{spec.tokens.size()});
  for (const std::string& token : spec.tokens) out->Add(std::string_view(token));
  out->Add(uint64_t{spec.merges.size()});
  for (const auto& [left, right] : spec.merges) {
    out->Add(std::string_view(left));
    out->Add(std::string_view(right));
  }
  out->Add(uint64_t{spec.added.size()});
  for (const TokenizerSpec::AddedToken& added : spec.added) {
    out->Add(int64_t{added.id});
    out->Add(std::string_view(added.text));
    for (const bool flag : {added.special, added.lstrip, added.rstrip, added.single_word, added.normalized})
      out->Add(uint8_t{flag});
  }
  out->Add(static_cast<uint8_t>(spec.pre_tokenizer));
  for (const bool flag : {spec.ignore_merges, spec.add_bos, spec.add_prefix_space}) out->Add(uint8_t{flag});
  for (const std::optional<TokenId> id : {spec.bos, spec.eos, spec.pad}) out->Add(id);
}

// `count` bytes from byte `begin` of the tensor in rows.
std::string BytesInRows(const TensorView& tensor, uint64_t begin, uint64_t count) {
  TensorRows rows(tensor);
  std::string bytes;
  for (uint64_t at = begin; at < begin + count;) {
    const uint64_t in_row = at % rows.row_bytes(), part = std::min(rows.row_bytes() - in_row, begin + count - at);
    const std::byte* row = rows.Row(static_cast<int64_t>(at / rows.row_bytes()));
    bytes.append(reinterpret_cast<const char*>(row) + in_row, part);
    at += part;
  }
  return bytes;
}

// Bytes from the middle: differences between two trainings of one model are everywhere, padding is at the ends. Not a
// word of the layout: a packed file is the model it was packed from.
void Add(const TensorView& tensor, Transcript* out) {
  out->Add(std::string_view(tensor.name));
  out->Add(Name(tensor.dtype));
  out->Add(tensor.rows);
  out->Add(tensor.columns);
  const uint64_t bytes =
      static_cast<uint64_t>(tensor.rows) * RowBytes(tensor.dtype, static_cast<uint64_t>(tensor.columns));
  const uint64_t sample = std::min(bytes, kSampleBytes);
  out->Add(BytesInRows(tensor, (bytes - sample) / 2, sample));
}

}  // namespace

std::string ModelDigest(const ModelConfig& config, const ModelTensors& tensors, const TokenizerSpec* tokenizer,
                        const std::optional<std::string>& chat_template) {
  Transcript transcript;
  Add(config, &transcript);
  transcript.Add(uint8_t{tokenizer != nullptr});
  if (tokenizer != nullptr) Add(*tokenizer, &transcript);
  transcript.Add(uint8_t{chat_template.has_value()});
  if (chat_template) transcript.Add(std::string_view(*chat_template));
  VisitTensors(tensors, [&](const TensorView& tensor) { Add(tensor, &transcript); });
  return transcript.Sha256();
}

}  // namespace braid
