#include "tests/simulation/toy_model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/rng.h"
#include "model/byte_spelling.h"

namespace braid::simulation {
namespace {

using namespace vocabulary;  // NOLINT: this file is about nothing else

constexpr int kDim = 16, kExperts = 8, kExpertsPerToken = 2, kExpertDim = 8, kContext = 512;

uint64_t Mix(uint64_t a, uint64_t b) {
  a = (a ^ b) * 0x9E3779B97F4A7C15u;
  a ^= a >> 29;
  a *= 0xBF58476D1CE4E5B9u;
  return a ^ (a >> 32);
}

// 24 bits are exact in a float.
float Pack(uint64_t bits) { return static_cast<float>(bits & 0xFFFFFF); }
uint64_t Unpack(float value) { return static_cast<uint64_t>(value); }

TokenizerSpec Spec() {
  const char* const kWordTexts[kWords] = {" the", " a",  " of", " sea", " stop", "ST",  "OP", " END", "\n",
                                          "\n\n", " we", " go", " on",  ",",     " so", ".",  " x",   "ab"};
  TokenizerSpec spec;
  for (const char* text : {"<|startoftext|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>",
                           "<|tool_call_start|>", "<|tool_call_end|>"}) {
    TokenizerSpec::AddedToken added;
    added.id = static_cast<TokenId>(spec.tokens.size());
    added.text = text;
    spec.tokens.push_back(text);
    spec.added.push_back(std::move(added));
  }
  const auto add = [&spec](const std::string& bytes) { spec.tokens.push_back(SpellBytes(bytes)); };
  for (const char* text : kWordTexts) add(text);
  for (const char* byte : {"\xC3", "\xA9", "\xE2", "\x82", "\xAC", "\xF0", "\x9F", "\x98", "\x80"}) add(byte);
  for (const char* text : {"[", "f", "(", "x", "=", "1", "\"s\"", ")", "]", ", "}) add(text);
  add("poison");
  CHECK_EQ(static_cast<int>(spec.tokens.size()), kSize);
  // The tokenizer wants a token for every byte; the model never says these.
  for (int byte = 0; byte < 256; ++byte) {
    const std::string spelled = SpellBytes(std::string(1, static_cast<char>(byte)));
    if (std::ranges::find(spec.tokens, spelled) == spec.tokens.end()) spec.tokens.push_back(spelled);
  }
  spec.bos = kBos;
  spec.eos = kImEnd;
  return spec;
}

bool IsWord(TokenId token) { return token >= kFirstWord && token < kFirstWord + kWords; }

// What the model likes to say after `last`: answers look like answers, most of the time.
bool Likes(TokenId last, uint64_t state, TokenId next) {
  const auto piece = [next](int index) { return next == kFirstCharacterPiece + index; };
  const auto call = [next](int index) { return next == kFirstCallPiece + index; };
  switch (last - kFirstCharacterPiece) {
    case 0:
      return piece(1);
    case 2:
      return piece(3);
    case 3:
      return piece(4);
    case 5:
      return piece(6);
    case 6:
      return piece(7);
    case 7:
      return piece(8);
    default:
      break;
  }
  if (last == kToolCallStart) return call(0);
  switch (last - kFirstCallPiece) {
    case 0:
      return call(1);
    case 1:
      return call(2);
    case 2:
      return call(state & 1 ? 3 : 7);
    case 3:
      return call(4);
    case 4:
      return call(state & 1 ? 5 : 6);
    case 5:
    case 6:
      return call(7);
    case 7:
      return call(state & 3 ? 8 : 9);
    case 8:
      return next == kToolCallEnd;
    case 9:
      return call(1);
    default:
      break;
  }
  if (IsWord(last) && state % 8 != 5) {
    const bool sings = last + 1 < kFirstWord + kChorusWords;
    return next == (sings ? last + 1 : state % 64 < 4 ? kImEnd : kFirstWord);
  }
  if (next == kImEnd) return state % 29 == 0;
  if (next == kThink) return state % 31 == 1;
  if (next == kEndThink) return state % 13 == 2;
  if (next == kToolCallStart) return state % 19 == 3;
  if (piece(0) || piece(2) || piece(5)) return state % 9 == 4;
  return false;
}

}  // namespace

const ToyModel& ToyModel::Get() {
  static const ToyModel* const model = new ToyModel;
  return *model;
}

ToyModel::ToyModel() {
  using Kind = ModelConfig::LayerKind;
  config_.name = "toy";
  config_.architecture = "lfm2moe";
  config_.model_dim = kDim;
  config_.vocab_size = kSize;
  config_.layers = {Kind::kConv, Kind::kAttention};
  config_.heads = config_.kv_heads = 1;
  config_.head_dim = 2;
  config_.experts = kExperts;
  config_.experts_per_token = kExpertsPerToken;
  config_.expert_ffn_dim = kExpertDim;
  config_.context_tokens_max = kContext;
  tensors_.layers.resize(config_.layers.size());
  for (LayerTensors& layer : tensors_.layers) {
    layer.experts.resize(kExperts);
    for (FfnTensors& expert : layer.experts) {
      expert = {Make(kExpertDim, kDim), Make(kExpertDim, kDim), Make(kDim, kExpertDim)};
    }
  }
  served_.id = "toy";
  served_.digest = kDigest;
  served_.context_tokens_max = kContext;
  served_.vocab_size = kSize;
  auto tokenizer = Tokenizer::Create(Spec());
  CHECK(tokenizer.ok()) << tokenizer.status();
  served_.tokenizer = *std::move(tokenizer);
}

TensorView ToyModel::Make(int64_t rows, int64_t columns) {
  const uint64_t seed = values_.size();
  auto& values = *values_.emplace_back(std::make_unique<std::vector<float>>(static_cast<size_t>(rows * columns)));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(UniformAt(seed, 1, i)) * 2 - 1;
  return {"", DType::kF32, rows, columns, reinterpret_cast<const std::byte*>(values.data())};
}

absl::Status ToyForward::Run(std::span<const Chunk> chunks, ExpertRunner& experts, std::vector<float>* logits) {
  rows_.clear();
  for (const Chunk& chunk : chunks) {
    for (size_t i = 0; i < chunk.tokens.size(); ++i) {
      const int position = chunk.position + static_cast<int>(i);
      const TokenId token = chunk.tokens[i];
      rows_.push_back({&chunk, position, token, Mix(static_cast<uint64_t>(token) + 1, position)});
      if (token == kPoison && hooks_.poisoned) hooks_.poisoned();
    }
  }
  const int rows = static_cast<int>(rows_.size());
  if (hooks_.pause) hooks_.pause(rows);
  for (Row& row : rows_) Conv(row);
  if (absl::Status status = Moe(0, experts); !status.ok()) return status;
  if (hooks_.pause) hooks_.pause(rows);
  for (Row& row : rows_) Attend(row);
  if (absl::Status status = Moe(1, experts); !status.ok()) return status;
  if (hooks_.pause) hooks_.pause(rows);
  logits->clear();
  for (const Row& row : rows_) {
    const Chunk& chunk = *row.chunk;
    const bool last = row.position + 1 == chunk.position + static_cast<int>(chunk.tokens.size());
    if (chunk.logits == Chunk::Logits::kAll || (last && chunk.logits == Chunk::Logits::kLast)) {
      WriteLogits(row, logits);
    }
  }
  return absl::OkStatus();
}

void ToyForward::Conv(Row& row) const {
  float* const columns = states_->conv_columns(0, row.chunk->cache->conv_slot);
  const auto column = [columns](int position) { return columns + position % kConvColumns * kDim; };
  column(row.position)[0] = Pack(row.state);
  uint64_t sum = 0;
  for (int back = 1; back <= 2; ++back) {
    const int position = row.position - back;
    sum = Mix(sum + 1, position < 0 ? 0 : Unpack(column(position)[0]));
  }
  row.state = Mix(row.state, sum);
  for (const ColumnsSave& save : row.chunk->saves) {
    if (save.position != row.position + 1) continue;
    float* const to = states_->conv_copy(0, save.copy);
    for (int i = 0; i < 2; ++i) std::copy_n(column(save.position - 2 + i), kDim, to + i * kDim);
  }
}

void ToyForward::Attend(Row& row) const {
  const std::vector<int32_t>& blocks = row.chunk->cache->blocks;
  const auto at = [&](int position, bool value) {
    const int block = blocks[static_cast<size_t>(position / kKvBlockTokens)];
    return reinterpret_cast<float*>(states_->kv(0, block)) + position % kKvBlockTokens * 2 + (value ? 1 : 0);
  };
  at(row.position, false)[0] = Pack(row.state);
  at(row.position, true)[0] = Pack(row.state >> 24);
  uint64_t sum = 0;
  for (int position = 0; position <= row.position; ++position) {
    sum = sum * 0x2545F4914F6CDD1Du + (Unpack(at(position, false)[0]) ^ Unpack(at(position, true)[0]) << 20);
  }
  row.state = Mix(row.state, sum);
}

absl::Status ToyForward::Moe(int layer, ExpertRunner& experts) {
  const size_t T = rows_.size();
  x_.resize(T * kDim);
  y_.assign(T * kDim, 0);
  weights_.resize(T * kExpertsPerToken);
  chosen_.resize(T * kExpertsPerToken);
  for (size_t t = 0; t < T; ++t) {
    const uint64_t state = rows_[t].state;
    for (int d = 0; d < kDim; ++d) {
      x_[t * kDim + d] = static_cast<float>(static_cast<int>(state >> (d * 4) & 15) - 7) / 8;
    }
    const uint64_t route = Mix(state, layer);
    const int32_t first = static_cast<int32_t>(route % kExperts);
    const int32_t second = static_cast<int32_t>((first + 1 + route / kExperts % (kExperts - 1)) % kExperts);
    chosen_[t * 2] = first;
    chosen_[t * 2 + 1] = second;
    weights_[t * 2] = 0.625f;
    weights_[t * 2 + 1] = 0.375f;
  }
  const RoutedBatch batch = {.layer = layer,
                             .T = static_cast<int>(T),
                             .D = kDim,
                             .K = kExpertsPerToken,
                             .x = x_.data(),
                             .experts = chosen_.data(),
                             .weights = weights_.data(),
                             .y = y_.data()};
  if (absl::Status status = experts.Run(batch); !status.ok()) return status;
  for (size_t t = 0; t < T; ++t) {
    for (int d = 0; d < kDim; ++d) {
      rows_[t].state = Mix(rows_[t].state, std::bit_cast<uint32_t>(y_[t * kDim + d]));
    }
  }
  return absl::OkStatus();
}

void ToyForward::WriteLogits(const Row& row, std::vector<float>* logits) const {
  const uint64_t mood = row.state >> 40;
  bool structured = false;
  const size_t begin = logits->size();
  for (TokenId token = 0; token < kSize; ++token) {
    const bool likes = Likes(row.token, mood, token);
    structured |= likes;
    const float noise = static_cast<float>(Mix(row.state, token) >> 32 & 255) / 64;
    logits->push_back(noise + (likes ? 9.0f : 0.0f) - (token == kPoison || token < kImEnd ? 20.0f : 0.0f));
  }
  if (structured) return;
  for (TokenId token = 0; token < kSize; ++token) {
    if (IsWord(token)) (*logits)[begin + token] += 4;
  }
}

}  // namespace braid::simulation
