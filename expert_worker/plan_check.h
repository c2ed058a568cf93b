#pragma once

#include "absl/status/status.h"
#include "braid/v1/worker.pb.h"
#include "expert_worker/sequence_table.h"
#include "model/config.h"

namespace braid {

// Whether the chunks of a plan can be run as they are: known sequences, one chunk each, positions that go on where the
// sequence stands, tokens of the vocabulary, room in the reserved blocks and in a step, drafts behind one token of the
// answer and no more of them than the conv columns let us take back (8 at least), snapshots that are new and fit in.
// kInvalidArgument or kResourceExhausted saying which sequence and why. REQUIRES: the plan's releases, drops and starts
// have been applied to `table`.
absl::Status CheckChunks(const v1::StepPlan& plan, const ModelConfig& config, int step_tokens_max,
                         SequenceTable& table);

}  // namespace braid
