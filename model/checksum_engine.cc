#include "model/checksum_engine.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/status.h"

namespace braid {
namespace {

constexpr uint32_t kPrime = ModelConfig::kChecksumPrime;
constexpr int kGrain = 16;  // rows worth waking a thread for

constexpr uint32_t Fold(uint32_t hash, uint32_t value) {
  hash = (hash ^ value) * 0x9E3779B1u;
  return hash ^ (hash >> 15);
}

template <typename... Values>
constexpr uint32_t Mix(Values... values) {
  uint32_t hash = 1;
  ((hash = Fold(hash, static_cast<uint32_t>(values))), ...);
  return hash % kPrime;
}

// What a float stands for. One from a broken exchange may be anything: it leads to a wrong answer, which is what the
// model is for, not to undefined behaviour.
uint32_t Number(float value) { return value >= 0 && value < (1 << 24) ? static_cast<uint32_t>(value) : 0; }

uint32_t MixRow(const float* x, int D) {
  uint32_t hash = 1;
  for (int d = 0; d < D; ++d) hash = Fold(hash, Number(x[d]));
  return hash % kPrime;
}

// Draws K different experts of E, one digit of `hash` each.
void Choose(uint32_t hash, int E, int K, int32_t* chosen) {
  std::vector<int32_t> left(E);
  std::iota(left.begin(), left.end(), 0);
  for (int k = 0; k < K; ++k) {
    const auto drawn = left.begin() + hash % left.size();
    hash /= static_cast<uint32_t>(left.size());
    chosen[k] = *drawn;
    left.erase(drawn);
  }
}

}  // namespace

ChecksumEngine::Experts::Experts(const ModelConfig& config) {
  for (int layer = 0; layer < config.layer_count(); ++layer) {
    std::vector<Line>& lines = lines_.emplace_back();
    for (int e = 0; e < config.experts; ++e) lines.push_back({Mix(layer, e, 1), Mix(layer, e, 2)});
  }
}

void ChecksumEngine::Experts::Run(const ExpertRows& rows) {
  CHECK_EQ(rows.offsets.size(), rows.experts.size() + 1);
  for (size_t i = 0; i < rows.experts.size(); ++i) {
    const Line line = lines_.at(rows.layer).at(rows.experts[i]);
    for (int64_t r = rows.offsets[i]; r < rows.offsets[i + 1]; ++r) {
      const float* x = rows.x[rows.source[r]];
      for (int d = 0; d < rows.D; ++d)
        rows.y[r * rows.D + d] = static_cast<float>((uint64_t{line.a} * Number(x[d]) + line.b) % kPrime);
    }
  }
}

ChecksumEngine::ChecksumEngine(const ModelConfig* config, HostStates* states, ThreadPool* pool)
    : config_(*config), states_(states), pool_(pool), experts_(*config), D_(config->model_dim) {
  CHECK_EQ(config->kv_dim(), D_);
}

absl::Status ChecksumEngine::Run(std::span<const Chunk> chunks, ExpertRunner& experts, std::vector<float>* logits) {
  rows_.LayOut(chunks);
  Embed();
  int conv_layer = 0, attention_layer = 0;
  for (int layer = 0; layer < config_.layer_count(); ++layer) {
    RETURN_IF_ERROR(AskExperts(layer, experts));
    if (config_.layers[layer] == ModelConfig::LayerKind::kConv) {
      Convolve(conv_layer++);
    } else {
      Attend(attention_layer++);
    }
  }
  return logits == nullptr ? absl::OkStatus() : Logits(0, static_cast<int>(rows_.wanted.size()), logits);
}

void ChecksumEngine::Embed() {
  const size_t size = static_cast<size_t>(rows_.count()) * D_;
  x_.resize(size);
  next_.resize(size);
  y_.resize(size);
  for (int t = 0; t < rows_.count(); ++t)
    for (int d = 0; d < D_; ++d) x_[int64_t{t} * D_ + d] = static_cast<float>(Mix(rows_.tokens[t], d));
}

absl::Status ChecksumEngine::AskExperts(int layer, ExpertRunner& runner) {
  const int T = rows_.count(), K = config_.experts_per_token;
  chosen_.resize(static_cast<size_t>(T) * K);
  chosen_weights_.resize(chosen_.size());
  for (int t = 0; t < T; ++t) {
    Choose(MixRow(row(t), D_), config_.experts, K, &chosen_[int64_t{t} * K]);
    std::iota(&chosen_weights_[int64_t{t} * K], &chosen_weights_[int64_t{t} * K] + K, 1.0f);
  }
  RETURN_IF_ERROR(runner.Run({layer, T, D_, K, x_.data(), chosen_.data(), chosen_weights_.data(), y_.data()}));
  for (int t = 0; t < T; ++t) {
    const float* const x = row(t);
    for (int d = 0; d < D_; ++d) {
      const int64_t at = int64_t{t} * D_ + d;
      next_[at] = static_cast<float>(Mix(Number(x[d]), Number(x[(d + 1) % D_]), Number(y_[at]) % kPrime));
    }
  }
  x_.swap(next_);
  return absl::OkStatus();
}

void ChecksumEngine::Convolve(int conv_layer) {
  const std::vector<float> zeros(D_);
  int first = 0;  // row of the chunk's first token
  for (const Chunk& chunk : rows_.chunks) {
    float* const columns = states_->conv_columns(conv_layer, chunk.cache->conv_slot);
    const auto column = [&](int position) { return columns + int64_t{position % kConvColumns} * D_; };
    const auto at = [&](int position) -> const float* {
      if (position < 0) return zeros.data();
      return position < chunk.position ? column(position) : row(first + position - chunk.position);
    };
    const int end = chunk.position + static_cast<int>(chunk.tokens.size());
    for (int position = chunk.position; position < end; ++position) {
      const float* const x = at(position);
      float* const next = next_.data() + (x - x_.data());
      for (int d = 0; d < D_; ++d) {
        uint32_t hash = Fold(Fold(1, Number(x[d])), Number(x[(d + 1) % D_]));
        for (int back = 1; back < config_.conv_taps; ++back) hash = Fold(hash, Number(at(position - back)[d]));
        next[d] = static_cast<float>(hash % kPrime);
      }
    }
    for (const ColumnsSave& save : chunk.saves) {
      const int columns = config_.conv_taps - 1;
      float* const to = states_->conv_copy(conv_layer, save.copy);
      for (int i = 0; i < columns; ++i) std::copy_n(at(save.position - columns + i), D_, to + int64_t{i} * D_);
    }
    for (int position = std::max(chunk.position, end - kConvColumns); position < end; ++position)
      std::copy_n(at(position), D_, column(position));
    first += static_cast<int>(chunk.tokens.size());
  }
  x_.swap(next_);
}

void ChecksumEngine::Attend(int attention_layer) {
  // In a block: keys (kKvBlockTokens, D), values alike.
  const auto key = [&](const int32_t* blocks, int s) {
    return reinterpret_cast<float*>(states_->kv(attention_layer, blocks[s / kKvBlockTokens])) +
           int64_t{s % kKvBlockTokens} * D_;
  };
  const auto value = [&](const int32_t* blocks, int s) { return key(blocks, s) + int64_t{kKvBlockTokens} * D_; };
  for (int t = 0; t < rows_.count(); ++t) {
    const auto [blocks, position] = rows_.kv[t];
    std::copy_n(row(t), D_, key(blocks, position));
    for (int d = 0; d < D_; ++d) {
      const uint64_t x = Number(row(t)[d]);
      value(blocks, position)[d] = static_cast<float>(x * x % kPrime);
    }
  }
  pool_->ParallelFor(rows_.count(), kGrain, [&](int begin, int end) {
    std::vector<uint64_t> sums(D_);
    for (int t = begin; t < end; ++t) {
      const int32_t* const blocks = rows_.kv[t].blocks;
      const int position = rows_.kv[t].position;
      std::fill(sums.begin(), sums.end(), 0);
      for (int s = 0; s <= position; ++s) {
        const float* const k = key(blocks, s);
        for (int d = 0; d < D_; ++d) sums[d] += uint64_t{Number(k[d])} * static_cast<uint32_t>(s + 1);
      }
      const float* const x = row(t);
      for (int d = 0; d < D_; ++d) {
        const uint32_t self = Number(x[d]);
        const float looked_up = value(blocks, static_cast<int>(self % static_cast<uint32_t>(position + 1)))[d];
        next_[int64_t{t} * D_ + d] =
            static_cast<float>(Mix(self, Number(x[(d + 1) % D_]), sums[d] % kPrime, Number(looked_up)));
      }
    }
  });
  x_.swap(next_);
}

absl::Status ChecksumEngine::Logits(int begin, int end, std::vector<float>* logits) {
  const size_t V = static_cast<size_t>(config_.vocab_size);
  logits->assign(static_cast<size_t>(end - begin) * V, 0.0f);
  for (int i = begin; i < end; ++i) {
    const uint32_t token = MixRow(row(rows_.wanted[i]), D_) % static_cast<uint32_t>(config_.checksum_tokens);
    (*logits)[static_cast<size_t>(i - begin) * V + token] = kChosenLogit;
  }
  return absl::OkStatus();
}

}  // namespace braid
