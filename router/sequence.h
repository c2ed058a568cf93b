#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/ids.h"
#include "base/planted_bug.h"
#include "braid/v1/router.pb.h"
#include "braid/v1/worker.pb.h"
#include "router/drafter.h"
#include "router/kv_ledger.h"

namespace braid {

// Whether a sequence crashes the workers that run it. A sequence that was in a step at whose time a worker crashed is a
// suspect; one that gets past those rows is cleared. So a bystander is cleared by its next step, a request that kills
// whoever computes it never is, and a long prompt on an unlucky cluster is not taken for one.
//
// A stream that breaks looks like a crash, but may be a broken connection: then the worker comes back and says Hello
// with the epoch it served in, which a process that was started again cannot. So the verdict waits a little.
struct Suspicion {
  struct Crash {
    Epoch epoch;
    std::string worker;  // its name
  };
  std::vector<Crash> crashes;  // in a row, with these positions in the step
  int begin = 0, end = 0;      // positions that were to be computed then
  absl::Time verdict_at = absl::InfiniteFuture();

  void OnCrash(int position, int rows, Crash crash);
  // A worker has come back.
  void OnReturn(const Crash& no_crash);
  void OnComputed(int computed) {
    if (computed >= end) *this = {};
  }
  // It is taken to be the cause unless a worker comes back; until then it does not run.
  bool on_trial() const { return verdict_at != absl::InfiniteFuture(); }
  // It has been there twice: it runs apart from other suspects, so that the next crash tells which of them it is.
  bool serious() const { return crashes.size() >= 2 && !Planted(Bug::kNeverQuarantines); }
};

// One stream of tokens being extended: its request, its token log and where it runs. The log is the truth; everything
// on the workers can be rebuilt from it, and a replay gives the same tokens.
//
//     log:  p p p p p p g g g g          prompt, then committed answer
//           |------->                    computed: positions that the owner holds state for
//                    |---------->        remaining: still to be sent; a chunk that reaches the end samples the next
class Sequence {
 public:
  // REQUIRES: the request has been checked. Tokens of an earlier call (`generated`) are part of the log from the start.
  Sequence(SequenceId id, const v1::GenerateSequenceRequest& request, absl::Time arrived);

  SequenceId id() const { return id_; }
  absl::Time arrived() const { return arrived_; }
  uint64_t fingerprint() const { return fingerprint_; }  // see Quarantine
  int prompt_tokens() const { return prompt_tokens_; }
  const std::vector<TokenId>& log() const { return log_; }
  int answer_tokens() const { return static_cast<int>(log_.size()) - prompt_tokens_; }
  int answer_tokens_left() const { return static_cast<int>(max_new_tokens_) - answer_tokens(); }
  // Positions it may ever need.
  uint64_t tokens_max() const { return static_cast<uint64_t>(prompt_tokens_) + max_new_tokens_; }

  // Appends a committed token.
  void Append(TokenId token) { log_.push_back(token); }
  // Why no token follows, if so. A function of the log alone.
  std::optional<v1::SequenceFinished::Reason> Finished() const;

  int computed() const { return computed_; }
  int remaining() const { return static_cast<int>(log_.size()) - computed_; }
  // The only row left is a token the model has just chosen.
  bool decoding() const { return computed_ >= prefill_tokens_; }
  // A committed step has computed `rows` more positions.
  void OnComputed(int rows);

  std::optional<int> owner() const { return owner_; }  // rank
  bool started() const { return started_; }            // the owner has been told of it
  // Its first `tokens`, whole blocks of `block_tokens`, for a prefix cache; nothing if it takes no part in that.
  Beginning First(int tokens, int block_tokens) const;
  // What it could begin with: all blocks that leave a token to be computed, whose logits choose the next one. Nothing
  // if all of the prompt is to be scored.
  Beginning Resumable(int block_tokens) const;
  // It begins behind what the lease resumes.
  void Place(int rank, KvLease lease);
  KvLease& lease() { return lease_; }
  int prefill_tokens() const { return prefill_tokens_; }  // length of the log when it was placed
  // Of its prompt, when it was placed for the first time: what need not be computed.
  int cached_tokens() const { return cached_tokens_.value_or(0); }
  // The epoch is over; the owner, known as `home` until the next one, still holds state for what is computed.
  void Park(WorkerId home);
  std::optional<WorkerId> home() const { return home_; }
  // The home is in the new epoch as `rank`.
  void Return(int rank);
  // The owner's state is gone: all of the log is to be computed again.
  void Displace();
  v1::SequenceStart Start();
  // Positions [computed, computed + rows).
  v1::SequenceChunk Chunk(int rows) const;

  bool want_logprobs() const { return want_logprobs_; }
  bool want_prompt_logprobs() const { return want_prompt_logprobs_; }
  // The prompt index whose log probability is to be delivered next; prompt_tokens() when all are.
  int scores_delivered() const { return scores_delivered_; }
  void OnScoresDelivered(int end) { scores_delivered_ = end; }
  bool scores_missing() const { return want_prompt_logprobs_ && scores_delivered_ < prompt_tokens_; }

  // Notes of the scheduler and the core.
  bool left_out = false;  // of the last step, for want of rows
  int turn_tokens = 0;    // prefilled since its turn began
  bool accepted = false;  // the gateway has been told
  Suspicion suspicion;
  // It was there when a worker crashed: from then on it gets no drafts, in case it was one of them that crashed it.
  bool careful = false;
  Drafter drafter;

 private:
  SequenceId id_;
  absl::Time arrived_;
  uint64_t fingerprint_;
  v1::SamplingParams sampling_;
  std::vector<TokenId> stop_tokens_;
  std::vector<TokenId> log_;
  int prompt_tokens_;
  uint32_t max_new_tokens_;
  uint32_t top_logprobs_;
  std::string cache_scope_;
  bool no_cache_;
  bool want_logprobs_;
  bool want_prompt_logprobs_;
  int scores_delivered_ = 1;  // the first token of a prompt has no probability

  int computed_ = 0;
  int prefill_tokens_;
  std::optional<int> owner_;
  std::optional<WorkerId> home_;  // not while it has an owner
  KvLease lease_;
  bool started_ = false;
  bool start_committed_ = false;  // by a step that was
  std::optional<int> cached_tokens_;
  mutable std::vector<uint64_t> hashes_;  // see Beginning; as far as anybody asked
};

}  // namespace braid
