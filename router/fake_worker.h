#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "braid/v1/worker.pb.h"

namespace braid {

// An expert worker for tests: speaks the protocol, keeps every sequence's tokens and checks what a real worker relies
// on. Its model is a hash, so the right answer to any request is known: see Answer.
class FakeWorker {
 public:
  static constexpr uint32_t kVocab = 1000;
  // With this seed it mostly repeats what it and the prompt have said.
  static constexpr uint64_t kParrot = 1234567;

  // A worker with room for `kv_blocks` blocks of 16 positions.
  explicit FakeWorker(const std::string& name, uint64_t kv_blocks = 1000);

  // The greedy continuation of a prompt: a hash of seed, prompt length and all tokens so far, at each position.
  static std::vector<TokenId> Answer(const std::vector<TokenId>& prompt, uint64_t seed, int tokens);

  v1::Hello& hello() { return hello_; }
  v1::AttachRequest SayHello() const;
  // The answer to a message of the router, if one is due.
  std::optional<v1::AttachRequest> On(const v1::AttachResponse& message);

  int snapshots() const { return static_cast<int>(snapshots_.size()); }
  // Held by sequences and snapshots, each once.
  uint64_t blocks() const;
  int sequences() const { return static_cast<int>(sequences_.size()); }
  // What the router did wrong; empty is well.
  const std::vector<std::string>& complaints() const { return complaints_; }

 private:
  struct Sequence {
    v1::SequenceStart start;
    std::vector<TokenId> tokens;
    std::vector<uint64_t> blocks;  // numbers that are never used twice
  };
  struct Snapshot {
    std::vector<TokenId> tokens;
    std::vector<uint64_t> blocks;
  };
  static TokenId Next(std::span<const TokenId> tokens, int prompt_tokens, uint64_t seed);
  v1::Begun Begin(const v1::Begin& begin);
  v1::AttachRequest Run(const v1::StepPlan& plan);
  void Apply(const v1::StepPlan& plan);
  void Start(const v1::SequenceStart& start);
  void Save(const v1::SequenceChunk& chunk, const Sequence& sequence);
  void Extend(const v1::SequenceChunk& chunk, v1::StepDone& done);
  void Follow(v1::SequenceChunk chunk, v1::StepDone& done);
  void Complain(const std::string& complaint) { complaints_.push_back(hello_.name() + ": " + complaint); }

  v1::Hello hello_;
  uint64_t epoch_ = 0, next_epoch_ = 0;
  bool stopped_ = false;
  uint64_t step_ = 0;
  std::map<uint64_t, Sequence> sequences_;
  std::map<uint64_t, Snapshot> snapshots_;
  uint64_t last_block_ = 0;
  std::vector<std::string> complaints_;
};

}  // namespace braid
