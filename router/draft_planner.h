#pragma once

#include <span>
#include <vector>

#include "absl/time/time.h"
#include "braid/v1/worker.pb.h"
#include "router/drafter.h"
#include "router/sequence.h"
#include "router/step_times.h"

namespace braid {

// Speculation: which sequences of a step get drafts, and how many. A draft is one more row, and is worth a token as
// often as it and those before it turn out right. So the rows of all sequences compete: the likeliest first, as long as
// tokens per time go up, by what rows have cost of late. Where rows are dear (a large batch, a prompt under way) or
// guesses bad that is at once, and the step goes without: it switches itself off. No decision changes what an answer
// says, only when.
//
// Pure; thread-compatible.
class DraftPlanner {
 public:
  // More than a worker takes back for any model, see CheckChunks of the worker.
  static constexpr int kDraftsMax = 8;

  // `drafts_max`: of a sequence in a step; 0: none ever.
  explicit DraftPlanner(int drafts_max) : drafts_max_(drafts_max) {}

  // A step of so many rows has taken so long.
  void OnStep(int rows, absl::Duration time) { times_.Add(rows, absl::ToDoubleSeconds(time)); }
  const StepTimes& times() const { return times_; }
  // `token` follows; the caller appends it then.
  void OnToken(Sequence& sequence, TokenId token);

  // A decode that could have drafts.
  struct Decode {
    Sequence* sequence = nullptr;
    v1::SequenceChunk* chunk = nullptr;
    int rank = 0;
    int most = 0;    // drafts that there is room for
    int drafts = 0;  // Choose says so
  };
  // REQUIRES: the chunks are for the ends of the sequences' logs; `rows` of the step so far, at least one.
  void Choose(std::span<Decode> decodes, int rows) { Choose(decodes, rows, 0); }
  // Whether it would choose any behind one more token each, if those turn out as guessed. Changes nothing.
  bool WouldChoose(std::span<Decode> decodes, int rows);
  // Gives the chunk its first `drafts` drafts, at most as many as were chosen.
  static void AddDrafts(const Decode& decode, int drafts);

 private:
  struct Row {
    double chance = 0;
    Decode* decode = nullptr;
  };

  // Drafts begin behind the first `skipped` guesses.
  void Choose(std::span<Decode> decodes, int rows, int skipped);

  const int drafts_max_;
  StepTimes times_;
  HitRates rates_{1000};
  std::vector<Row> rows_;  // of one Choose
};

}  // namespace braid
