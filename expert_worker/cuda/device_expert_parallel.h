#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "expert_worker/cuda/epoch_memory.h"
#include "expert_worker/cuda/slot_room.h"
#include "expert_worker/epoch_experts.h"
#include "expert_worker/exchange/device_exchange.h"
#include "kernels/cuda/dispatch.h"
#include "model/config.h"
#include "model/cuda/device.h"
#include "model/cuda/experts.h"
#include "model/cuda/step_graphs.h"

namespace braid::gpu {

// The experts of a model spread over the devices of an epoch: what ../expert_parallel.h does on hosts, enqueued (see
// kernels/cuda/dispatch.h for the way of a layer). A row's bits are those of one device that has all experts.
//
// Messages go one of two ways, by the most rows that any rank has in the step, so that all choose alike:
//   in slots   for few of them (a step of decoding), with room for what is to be expected (slot_room.h): the host
//              waits for nothing, the step can be captured, and the next one begun before it is over. If it does not
//              fit, all ranks run it again, exactly.
//   exactly    for many (prefill): ranks first tell each other how much comes, and each host waits for that once per
//              layer and pass.
// Steps of more than pass_rows go through a layer in several passes: memory is bounded by that. Steps in halves have a
// stream of their own for the exchange, in this order on all ranks: counts of both halves, rows of both, results of
// both.
//
// What a step in slots was too much for, all ranks learn from it alone. By then some hosts may have enqueued the step
// behind it and some not, and yet all must exchange the same, in the same order. So behind a step that may have to run
// again only one of the very same shape is begun ahead; and behind one that has to, every rank lets one void step of
// that shape pass: the one that it has enqueued, whatever comes of it, or else messages of nothing in particular.
//
//    step 7 does not fit    7  8     7 exactly  8    a rank whose host had the plan of 8 in time
//                           7  void  7 exactly  8    one that gets it later
class ExpertParallel : public ExpertRunner, public EpochExperts {
 public:
  // Equal on all ranks.
  struct Options {
    DType type = DType::kBF16;  // of hidden states and results
    int pass_rows = 1024;
    // Steps in which no rank has more rows go in slots; no more than pass_rows. Beyond, what slots carry in vain takes
    // longer than counts by way of the host: see kernels/cuda/README.md.
    int slot_rows_max = 256;
    SlotRoom::Options room;
    // Steps in which some rank has at least so many rows, and none more than two passes', go in halves (see
    // ExpertRunner); 0: none do. Takes memory for two passes.
    int overlap_rows = 0;
  };
  // What an exchange must be able to carry; the rows that the experts must be able to compute at once; and the memory
  // for epochs of at most so many ranks, wherever experts are placed.
  static size_t MessageBytesMax(const ModelConfig& config, const Options& options);
  static int ExpertRowsMax(const ModelConfig& config, const Options& options, int ranks);
  static EpochMemory::Sizes MemorySizes(const ModelConfig& config, const Options& options, int step_tokens_max,
                                        int ranks);

  // All pointers must outlive *this. `exchange` is connected, for MessageBytesMax; null for one rank alone. The steps
  // of all epochs that have their part of `memory`, on the calling thread's device, go on one stream. kInvalidArgument
  // if the options or the sizes of `memory` are not what this epoch needs, errors of EpochMemory and of CUDA. Neither
  // takes memory nor waits for the device.
  static absl::StatusOr<std::unique_ptr<ExpertParallel>> Make(const ModelConfig* config, ExpertFfn* ffn,
                                                              DeviceExchange* exchange, EpochPlace place,
                                                              const Options& options, EpochMemory* memory);
  // Waits for what its steps have left on the device, and for nobody else's: what they used is free then.
  ~ExpertParallel() override;

  // EpochExperts. Of TakeExpertRows and TakeExchangeTime, steps have ended when they were waited for. The time is what
  // the stream of the step stood between what it sends and what it gets (ExchangeClock): in halves, what is left of the
  // exchange when nothing is left to compute.
  braid::ExpertRunner& runner() override { return *this; }
  void BeginStep(uint64_t step, int rows_max) override;
  bool CanBeginAhead(int rows_max) const override;
  std::vector<int> suspects() const override;
  std::vector<uint64_t> TakeExpertRows() override;
  absl::Duration TakeExchangeTime() override;
  int TakeRunsAgain() override { return std::exchange(runs_again_, 0); }

  // ExpertRunner. kDataLoss from Wait if what a peer sent made no sense.
  bool capturable() const override { return place_.size == 1 || !exact(); }
  bool may_run_again() const override { return place_.size > 1 && !exact() && !at_hand().fits_all; }
  uint64_t capture_shape() const override;
  absl::Status Enqueue(const RoutedRows& rows, cudaStream_t stream) override;
  absl::Status EnqueueBegin(cudaStream_t stream) override;
  int half_rows() const override;
  absl::Status Begin(int half, const RoutedRows& rows, cudaStream_t stream) override;
  absl::Status Compute(cudaStream_t stream) override;
  absl::Status Finish(int half, cudaStream_t stream) override;
  absl::Status EnqueueEnd(cudaStream_t stream) override;
  void Drop(cudaStream_t stream) override;
  absl::Status Wait(cudaEvent_t end) override;

 private:
  // Pointers into scratch, or what they come to if it begins at 0: for the largest shape.
  struct Scratch {
    std::byte *send, *received, *send_results, *received_results, *y;
    int32_t *tokens, *counts, *all_counts, *row_of;                           // SendRows, and what all say they send
    int32_t *asked_experts, *asked, *owed, *offsets, *source, *group_row_of;  // ReceiveRows, and GroupRows
    size_t bytes;
  };
  // What lives as long as the epoch. Steps begin with a copy of step and faults from the host, the first one with all,
  // and end with a copy of faults, expert_rows and clock to it.
  struct Tables {
    uint64_t* step;
    uint32_t* faults;        // (ranks)
    uint64_t* expert_rows;   // (moe_layers, E), since the epoch began
    ExchangeClock* clock;    // the same
    int32_t* first_replica;  // (moe_layers, E + 1) into replicas
    int32_t* replicas;
    size_t bytes;
  };
  struct HostTables {  // in pinned memory
    Tables at_begin = {}, at_end = {};
  };
  // A step from its beginning until it is over.
  struct Step {
    uint64_t number = 0;
    int rows_max = 0;
    int slot_results = 0;  // if it goes in slots
    bool fits_all = true;  // whatever comes
    bool again = false;    // it did not fit its slots
    enum class Enqueued { kNot, kInPart, kAll } enqueued = Enqueued::kNot;
    bool begins_once_more = false;  // with the exchange
    bool behind_void = false;       // let one pass first
  };
  // Some rows of a layer on their way. Two at a time have memory, a set each.
  struct Pass {
    RoutedRows rows;
    DispatchShape shape;
    DispatchName name;
    bool exact;
    int set;
    cudaStream_t stream, transfer;  // of the step, of the exchange: the same but for halves
  };
  struct Set {
    Scratch scratch = {};
    Event sent, counts_here, rows_here, computed, results_here;
    int32_t* host_counts = nullptr;  // (ranks, ranks, 2), in pinned memory
    // {rows, results} that `from` asks of `to`, of what ShareCounts got.
    const int32_t* CountsOf(int ranks, int from, int to) const { return host_counts + 2 * (from * ranks + to); }
  };

  ExpertParallel(const ModelConfig* config, ExpertFfn* ffn, DeviceExchange* exchange, EpochPlace place,
                 const Options& options);

  static Scratch LayOut(const ModelConfig& config, const Options& options, int step_tokens_max, int ranks,
                        std::byte* begin);
  static Tables LayOut(int ranks, int moe_layers, int E, size_t replicas, std::byte* begin);
  // Of the host: two HostTables, each table of so many bytes, and the counts of two sets.
  static size_t HostBytes(int ranks, size_t tables);
  static size_t CountsBytes(int ranks);
  absl::Status MakeTables(EpochMemory* memory);

  // The one that is enqueued now, or next: the last that has begun, but where steps run again.
  Step& at_hand() { return steps_[at_hand_ % 2]; }
  const Step& at_hand() const { return steps_[at_hand_ % 2]; }
  bool goes_in_slots(const Step& step) const { return step.rows_max <= options_.slot_rows_max && !step.again; }
  bool exact() const { return !goes_in_slots(at_hand()); }
  // The rows of a step that goes in slots, in whose two halves they may be; few numbers, so that few graphs serve all.
  int RowsInSlots(int rows_max) const { return RowsOfClass(std::max(rows_max, 1), options_.pass_rows); }
  int SlotRowsFor(int rows_max) const {
    return InHalves(rows_max) ? HalfOf(RowsInSlots(rows_max)) : RowsInSlots(rows_max);
  }
  bool InHalves(int rows_max) const {
    return transfer_ && rows_max >= options_.overlap_rows && rows_max <= 2 * options_.pass_rows;
  }
  static int HalfOf(int rows) { return (rows + 1) / 2; }
  // What launches of a step in slots depend on.
  uint64_t ShapeInSlots(int rows_max, int slot_results) const {
    return uint64_t(InHalves(rows_max)) << 63 | uint64_t(RowsInSlots(rows_max)) << 32 | uint32_t(slot_results);
  }
  void TakeRoom(Step* step);
  // The last step that was waited for: to be run again, with the one behind it.
  absl::Status DidNotFit();
  absl::Status EnqueueVoid(cudaStream_t stream);
  HostTables& tables_at_hand() { return host_tables_[at_hand_ % 2]; }
  HostTables& waited_for() { return host_tables_[(steps_waited_for_ + 1) % 2]; }
  absl::Status CheckLayer(const RoutedRows& rows) const;
  // Of rows for which all ranks have this room.
  Pass MakePass(const RoutedRows& rows, int part, int room, cudaStream_t stream) const;
  absl::Status EnqueueAlone(const RoutedRows& rows, cudaStream_t stream);
  absl::Status EnqueuePass(const Pass& pass);
  absl::Status SendHalf(const Pass& pass);
  absl::Status ReturnHalf(const Pass& pass);
  absl::Status Record(const Event& event, cudaStream_t stream);
  absl::Status Await(const Event& event, cudaStream_t stream);
  // What a pass consists of.
  absl::Status SendRowsOut(const Pass& pass);
  absl::Status RunExperts(const Pass& pass);
  absl::Status CombineResults(const Pass& pass);
  // The counts of all ranks for this pass are on the host once AwaitCounts returns.
  absl::Status ShareCounts(const Pass& pass);
  absl::Status AwaitCounts(const Pass& pass);
  absl::Status ExchangeRows(const Pass& pass);
  absl::Status ExchangeResults(const Pass& pass);
  absl::Status CheckFaults();

  int MoeLayer(int layer) const { return layer - config_.dense_layers; }

  const ModelConfig& config_;
  ExpertFfn* const ffn_;
  DeviceExchange* const exchange_;
  const EpochPlace place_;
  const Options options_;
  SlotRoom slot_room_;

  Set sets_[2];
  Stream transfer_;  // null if no step goes in halves
  Pass halves_[2] = {};
  EpochMemory::OwnedPart memory_;
  Tables tables_ = {};
  bool tables_sent_ = false;               // to the device
  Event ended_;                            // of the last step
  std::array<HostTables, 2> host_tables_;  // of every other step: one may be enqueued while one runs
  std::array<Step, 2> steps_;              // the same
  uint64_t steps_begun_ = 0, steps_waited_for_ = 0, at_hand_ = 0;
  std::vector<uint64_t> expert_rows_;         // of the steps that were waited for
  std::vector<uint64_t> taken_;               // of them
  uint64_t exchanged_ns_ = 0, taken_ns_ = 0;  // the same of clock
  int runs_again_ = 0;
  std::vector<int> blamed_;
};

}  // namespace braid::gpu
