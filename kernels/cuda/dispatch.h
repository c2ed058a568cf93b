#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "absl/status/status.h"
#include "base/dtype.h"

// An MoE layer whose experts are spread over the devices of a group: what a rank sends to the others and makes of what
// it gets, without a word from the host. Five ops, with the exchange, the grouping and the experts between them:
//
//   SendRows        chooses who computes what, and lays each rank's rows out
//     exchange of the row slots
//   ReceiveRows     checks what came; GroupRows then orders it by expert, and the experts run over it
//   SendResults     lays out what each rank asked for
//     exchange of the result slots
//   ReceiveResults  checks what came; Combine then adds it up in routing order
//
// Two arrays go to and fro, each with a slot per rank:
//
//   row slot:     | head, (rows, K) experts |  hidden states (rows, D)     |
//   result slot:  | head                    |  results (results, D)        |
//
// A hidden state is sent once to a rank, however many of its experts are there: its K experts come with it, as int16,
// -1 for those that somebody else computes. A result is one expert's for one row; they come back in the order of rows
// and of choices within a row, so they need no names. The first part of a slot takes whole rows of D: an array is one
// matrix, in which any row is named by one number. What a rank asks of itself lies in its own slot of what is received,
// where no exchange writes.
//
// Both ends keep the time that lies between them: see ExchangeClock.
//
// What others send is not trusted: nothing of it leads out of an array, whatever it is. What is wrong with it is
// written down in `faults` and makes the step void.

namespace braid::gpu {

// The shape of both arrays, equal on all ranks (but for `rank`). Made by MakeDispatchShape.
struct DispatchShape {
  int ranks = 0, rank = 0;  // of the group; of this device
  int D = 0, K = 0;
  DType type = DType::kBF16;  // of hidden states and results: kBF16 or kF32
  int rows = 0;               // room of a row slot
  int results = 0;            // room of a result slot

  int row_bytes = 0;         // of D numbers
  int head_rows = 0;         // what a row slot's first part takes
  int slot_rows = 0;         // a row slot is so many rows of D
  int result_head_rows = 0;  // the same of result slots
  int result_slot_rows = 0;

  size_t slot_bytes() const { return size_t(slot_rows) * row_bytes; }
  size_t result_slot_bytes() const { return size_t(result_slot_rows) * row_bytes; }

  static constexpr int kRanksMax = 1024;
  static constexpr int kExpertsMax = 1024;
};
DispatchShape MakeDispatchShape(int ranks, int rank, int D, int K, DType type, int rows, int results);

// What every slot begins with.
struct DispatchHead {
  uint64_t step = 0;
  int32_t kind = 0;  // kRows or kResults
  int32_t layer = 0;
  int32_t part = 0;     // of the layer's rows, where they go in several
  int32_t rows = 0;     // hidden states, or results
  int32_t results = 0;  // asked for, or given
  int32_t trouble = 0;  // kShortOfRoom or kComplaint: this message is to be ignored, and the step void
  int32_t reserved[8] = {};

  static constexpr int32_t kRows = 0x42524431, kResults = 0x42524432;
};
static_assert(sizeof(DispatchHead) == 64);

// What was wrong with what a rank sent: faults[r] is a DispatchFault, plus the layer times 256.
enum class DispatchFault : uint8_t {
  kNone,
  // Not the fault of who sent it. All ranks of a step come to know of these, by the results of the same layer.
  kShortOfRoom,  // more was to be sent than slots have room for
  kComplaint,    // it has found a message that was wrong
  kHead,         // no message of this kind
  kStep,         // of another step
  kLayer,        // of another layer, or part of it
  kCounts,       // more rows than there can be, or another number of results than are asked for
  kExperts,      // an expert that is not here
};

// Where a message belongs.
struct DispatchName {
  const uint64_t* step = nullptr;  // on the device, so that one graph serves all steps
  int32_t layer = 0, part = 0;
};

// How long the stream of these ops has stood in exchanges: from the end of the last op that lays out messages to the
// begin of one that reads what came. So it is the bytes' time on the way and the wait for peers, less what the stream
// has to do meanwhile. In device memory, one for all ops that run one behind the other; begins as zeros.
struct ExchangeClock {
  unsigned long long sent_ns = 0;       // when that end was, by the device's clock
  unsigned long long exchanged_ns = 0;  // so far
};

// How the ops below are cut.
struct DispatchConfig {
  int warps = 0;   // that put one rank's rows in order: 1, 2 or 8
  int blocks = 0;  // that copy one rank's rows
};
DispatchConfig Choose(const DispatchShape& shape);

struct SendRows {
  DispatchShape shape;
  DispatchName name;
  int T = 0, E = 0;
  const void* x = nullptr;           // (T, D)
  const int32_t* experts = nullptr;  // (T, K), distinct in a row; below 0: none
  // Who may compute an expert: replicas[first_replica[e], first_replica[e + 1]), in turns by row; below 0 or empty for
  // none. An expert that is here has this rank alone.
  const int32_t* first_replica = nullptr;  // (E + 1)
  const int32_t* replicas = nullptr;
  void* send = nullptr;       // row slots out
  void* received = nullptr;   // row slots; the own one out
  int32_t* tokens = nullptr;  // (ranks, rows) out: the token of each row of the slots
  int32_t* counts = nullptr;  // (ranks, 2) out: rows and results that each rank is asked for
  int32_t* row_of = nullptr;  // (T, K) out: the row of the result array where its result will be; -1: there is none
  ExchangeClock* clock = nullptr;
};
absl::Status Check(const SendRows& op);
cudaError_t Run(const SendRows& op, const DispatchConfig& config, cudaStream_t stream);

struct ReceiveRows {
  DispatchShape shape;
  DispatchName name;
  int E = 0;
  const int32_t* first_replica = nullptr;  // as in SendRows: an expert is here if its first replica is this rank
  const int32_t* replicas = nullptr;
  // (ranks, ranks, 2): the rows and results that each rank has said before to ask of each; nullptr: none has.
  const int32_t* announced = nullptr;
  const void* received = nullptr;  // row slots
  int32_t* experts = nullptr;      // (ranks * slot_rows, K) out, for GroupRows: -1 where nothing is asked for
  int32_t* asked = nullptr;        // (ranks, results) out: which of `experts` is each result that a rank is owed
  int32_t* counts = nullptr;       // (ranks) out: results owed
  uint32_t* faults = nullptr;      // (ranks) in and out
  ExchangeClock* clock = nullptr;
};
absl::Status Check(const ReceiveRows& op);
cudaError_t Run(const ReceiveRows& op, const DispatchConfig& config, cudaStream_t stream);

struct SendResults {
  DispatchShape shape;
  DispatchName name;
  const int32_t* asked = nullptr;    // ReceiveRows'
  const int32_t* counts = nullptr;   // ReceiveRows'
  const int32_t* row_of = nullptr;   // (ranks * slot_rows, K), GroupRows': the row of y with its result
  const void* y = nullptr;           // (R, D)
  const uint32_t* faults = nullptr;  // (ranks): all are told that there are any
  void* send = nullptr;              // result slots out
  void* received = nullptr;          // result slots; the own one out
  ExchangeClock* clock = nullptr;
};
absl::Status Check(const SendResults& op);
cudaError_t Run(const SendResults& op, const DispatchConfig& config, cudaStream_t stream);

struct ReceiveResults {
  DispatchShape shape;
  DispatchName name;
  int E = 0;
  const int32_t* counts = nullptr;   // SendRows'
  const void* received = nullptr;    // result slots; nullptr: nothing was sent, there are only experts to count
  const int32_t* offsets = nullptr;  // (E + 1), GroupRows'
  uint64_t* expert_rows = nullptr;   // (E) in and out: rows computed here
  uint32_t* faults = nullptr;        // (ranks) in and out
  ExchangeClock* clock = nullptr;    // not used if nothing was sent
};
absl::Status Check(const ReceiveResults& op);
cudaError_t Run(const ReceiveResults& op, cudaStream_t stream);

}  // namespace braid::gpu
