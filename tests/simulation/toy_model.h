#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "expert_worker/step_runner.h"
#include "gateway/core/served_model.h"
#include "kernels/thread_pool.h"
#include "model/chunk.h"
#include "model/config.h"
#include "model/experts.h"
#include "model/host_states.h"
#include "model/tensors.h"

namespace braid::simulation {

// The vocabulary: control tokens, words, pieces of characters that are several tokens long, pieces of calls.
namespace vocabulary {
inline constexpr TokenId kBos = 0, kImStart = 1, kImEnd = 2, kEndOfText = 3, kThink = 4, kEndThink = 5,
                         kToolCallStart = 6, kToolCallEnd = 7;
inline constexpr TokenId kFirstWord = 8, kWords = 18;
inline constexpr TokenId kChorusWords = 6;  // the first ones: the model likes to say them in their order, over and over
inline constexpr TokenId kFirstCharacterPiece = kFirstWord + kWords;  // C3 A9, E2 82 AC, F0 9F 98 80
inline constexpr TokenId kFirstCallPiece = kFirstCharacterPiece + 9;  // [ f ( x = 1 "s" ) ] ,
inline constexpr TokenId kPoison = kFirstCallPiece + 10;              // crashes whoever runs it
inline constexpr int kSize = kPoison + 1;
}  // namespace vocabulary

// A model small enough for a whole cluster of it in one thread. Its state is integers: the next token depends, through
// the conv columns, the KV blocks and two layers of experts, on every token before, so one contribution that is lost,
// doubled, stale or of another sequence changes everything that follows. Immutable: shared by all threads.
class ToyModel {
 public:
  static const ToyModel& Get();

  const ModelConfig& config() const { return config_; }
  const ModelTensors& tensors() const { return tensors_; }
  // What the gateway knows of it.
  const ServedModel& served() const { return served_; }
  static constexpr const char* kDigest = "toy";
  // Whether it is the last phase of a step: what goes wrong in another one is noticed by those that follow.
  static bool EndsStep(uint64_t phase) { return (phase & 0xFFFFFF) == (1 << 8 | 1); }

 private:
  ToyModel();
  TensorView Make(int64_t rows, int64_t columns);

  ModelConfig config_;
  ModelTensors tensors_;
  std::vector<std::unique_ptr<std::vector<float>>> values_;
  ServedModel served_;
};

// In the place of an Engine.
class ToyForward {
 public:
  // `pause` is called between layers, with the rows of the step; `poisoned` when a row of the poison token is computed.
  struct Hooks {
    std::function<void(int rows)> pause;
    std::function<void()> poisoned;
  };
  // `states` must outlive *this.
  ToyForward(HostStates* states, Hooks hooks) : states_(states), hooks_(std::move(hooks)) {}

  absl::Status Run(std::span<const Chunk> chunks, ExpertRunner& experts, std::vector<float>* logits);

 private:
  struct Row {
    const Chunk* chunk = nullptr;
    int position = 0;
    TokenId token = 0;
    uint64_t state = 0;
  };
  void Conv(Row& row) const;
  void Attend(Row& row) const;
  absl::Status Moe(int layer, ExpertRunner& experts);
  void WriteLogits(const Row& row, std::vector<float>* logits) const;

  HostStates* const states_;
  const Hooks hooks_;
  std::vector<Row> rows_;
  std::vector<float> x_, y_, weights_;
  std::vector<int32_t> chosen_;
};

}  // namespace braid::simulation
