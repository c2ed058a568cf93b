#pragma once

#include <cstdint>
#include <vector>

#include "model/engine.h"

namespace braid {

// A model that has learnt nothing and forgets nothing: a checksum over everything a server does with a sequence. It has
// the shape of a language model (embedding, experts, short convolutions, attention over paged keys and values, logits)
// but computes with whole numbers modulo a prime, so that its answer is known exactly, from twenty lines of Python
// (tests/checksum_model.py). One expert's contribution lost, doubled or mixed up, one stale key, value or conv column,
// one wrong token, at any position and in any layer, and all tokens from there on are other ones.
//
// With D lanes x of numbers in [0, P), position t, and Mix, a hash into [0, P):
//
//   x[d] = Mix(token, d)
//   per layer
//     y    = sum over k of (k + 1) * (a * x + b)   by K different experts, chosen by Mix(x); a, b are the expert's
//     x[d] = Mix(x[d], x[d + 1], y[d] mod P)
//     conv:      column = x; x[d] = Mix(x[d], x[d + 1], column[d] of the C - 1 positions before, latest first)
//     attention: key = x, value = x * x; x[d] = Mix(x[d], x[d + 1], sum over s <= t of (s + 1) * key_s[d] mod P,
//                                                   value_s[d] of s = x[d] mod (t + 1))
//   token = Mix(x) mod checksum_tokens
//
// The experts come first in a layer, and the last layer is attention: so what they contribute to any position, not only
// to those with logits, ends up in a key, and every key counts for every later token.
class ChecksumEngine : public Engine {
 public:
  // All must outlive *this. The configuration is valid and of architecture "checksum".
  ChecksumEngine(const ModelConfig* config, HostStates* states, ThreadPool* pool);

  absl::Status Run(std::span<const Chunk> chunks, ExpertRunner& experts, std::vector<float>* logits) override;
  absl::Status Logits(int begin, int end, std::vector<float>* logits) override;
  ExpertFfn& experts() override { return experts_; }

  // Far above all others, so that temperature 2, log probabilities and moderate penalties leave the choice as it is.
  static constexpr float kChosenLogit = 1000;

 private:
  // x -> a * x + b modulo P, lane by lane.
  class Experts : public ExpertFfn {
   public:
    explicit Experts(const ModelConfig& config);
    void Run(const ExpertRows& rows) override;

   private:
    struct Line {
      uint32_t a, b;
    };
    std::vector<std::vector<Line>> lines_;  // [layer][expert]
  };

  void Embed();
  absl::Status AskExperts(int layer, ExpertRunner& runner);
  void Convolve(int conv_layer);
  void Attend(int attention_layer);
  const float* row(int t) const { return x_.data() + int64_t{t} * D_; }

  const ModelConfig& config_;
  HostStates* const states_;
  ThreadPool* const pool_;
  Experts experts_;
  const int D_;

  // The step at hand. Numbers travel as floats, which hold them exactly.
  StepRows rows_;
  std::vector<float> x_, next_, y_;    // (T, D)
  std::vector<int32_t> chosen_;        // (T, K)
  std::vector<float> chosen_weights_;  // (T, K): 1, 2, .., K
};

}  // namespace braid
