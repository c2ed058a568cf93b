#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/thread_pool.h"
#include "model/chunk.h"
#include "model/config.h"
#include "model/experts.h"
#include "model/host_states.h"
#include "model/step_profile.h"
#include "model/tensors.h"

namespace braid {

// What computes a model on one machine. Exact: the bits of a row depend on that sequence's tokens alone, not on
// chunking, batch, threads or where experts run. Not thread-safe.
class Engine {
 public:
  virtual ~Engine() = default;

  // Runs one step over `chunks` (may be empty: the MoE layers still run, for the peers' sake). `logits` gets (L, V)
  // rows in the order of the chunks and positions that asked for them; if it is null Logits does that, and the step may
  // still run when this returns. On an error, of this or of what waits for the step, nothing of it may be used;
  // sequences can go on from where their chunks began, see ShortRunTokens. REQUIRES: at most kStepRowsMax rows over all
  // chunks.
  virtual absl::Status Run(std::span<const Chunk> chunks, ExpertRunner& experts, std::vector<float>* logits) = 0;

  // The rows [begin, end) of the L that the last step asked for: a vocabulary is long, and a caller that looks at few
  // rows at a time needs no memory for all. Returns once the step is done, also for no rows. REQUIRES: the last Run has
  // returned OK.
  virtual absl::Status Logits(int begin, int end, std::vector<float>* logits) = 0;

  // What follows is for who would leave the choice of tokens to the engine, so that the next step can be begun before
  // anybody knows them: Run, Draw, Run (of chunks that name what was drawn, see Chunk::drawn), Draw, TakeDrawn for the
  // first step, Run, ... Until the draw of a step has been taken it may be run again, and with it what was begun behind
  // it: that one has other sequences, in blocks and slots of their own, but for chunks that name what was drawn.

  // What is drawn from one of the L rows, as a request's sampling parameters say: temperature 0 takes the best token.
  struct DrawnRow {
    int row = 0;
    float temperature = 0;
    int top_k = 0;  // 0: off
    float top_p = 1, min_p = 0;
    double uniform = 0;  // in [0, 1), see UniformAt
  };
  // Draws that may wait to be taken.
  static constexpr size_t kDrawsMax = 2;
  // Whether Draw is there.
  virtual bool draws() const { return false; }
  // Chooses a token for each of `rows` (which may be none) of the last step, by the worker's rule for what a row names,
  // among the ids that are not masked; need not wait for anything. Costs least after all calls of Logits. REQUIRES:
  // draws(); the last Run has returned OK, at most one Draw for it; fewer than kDrawsMax have not been taken.
  virtual absl::Status Draw(std::span<const DrawnRow> rows);
  // Whether TakeDrawn would return at once. Does not wait.
  virtual bool Drawn() { return true; }
  // Waits for the oldest step whose draw has not been taken, and gives its tokens. -1: none can be, and the row's
  // logits say why. On an error neither this step nor what was begun behind it may be used, and no draw is left to be
  // taken. Logits is not called until all are. REQUIRES: there is one.
  virtual absl::Status TakeDrawn(std::vector<TokenId>* tokens);

  // After an error: OK once nothing of the step goes on any more and another may be run. An error if none ever will be,
  // in this process: what this computes on has failed, or does not come to an end within a few seconds.
  virtual absl::Status Recover() { return absl::OkStatus(); }

  // Times the ops of all further steps into `profile`, which must outlive them; nullptr ends it. Not every engine does.
  virtual void Profile(StepProfile* profile) {}

  // Whether steps may be put on a device as graphs, as they are at first; the bits are the same. Of no meaning to
  // engines that have none.
  virtual void UseGraphs(bool use) {}
  // Operations of the graph that the last step was; 0: it was none.
  virtual int graph_launches() const { return 0; }

  // The experts of this process, for whoever wants rows of them: what Run's `experts` comes to in the end.
  virtual ExpertFfn& experts() = 0;
};

// The engine of config->architecture, which has been validated, also against the tensors. All must outlive the engine.
std::unique_ptr<Engine> MakeEngine(const ModelConfig* config, const ModelTensors* tensors, HostStates* states,
                                   ThreadPool* pool);

}  // namespace braid
