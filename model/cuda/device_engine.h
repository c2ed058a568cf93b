#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/thread_pool.h"
#include "model/config.h"
#include "model/cuda/dense_linear.h"
#include "model/cuda/device.h"
#include "model/cuda/device_forward.h"
#include "model/cuda/device_states.h"
#include "model/cuda/device_weights.h"
#include "model/cuda/expert_places.h"
#include "model/cuda/experts.h"
#include "model/cuda/fp8_rows.h"
#include "model/cuda/local_experts.h"
#include "model/cuda/memory_plan.h"
#include "model/cuda/op_timer.h"
#include "model/cuda/step_graphs.h"
#include "model/cuda/step_inputs.h"
#include "model/cuda/upload.h"
#include "model/engine.h"
#include "model/tensors.h"

namespace braid::gpu {

struct DeviceEngineOptions {
  DType precision = DType::kBF16;  // of activations; kF32 is for comparing with the CPU
  bool exact = true;               // a row's bits do not depend on the rows beside it; else see DenseLinear
  bool fp8 = false;                // weights that the file has in floats are quantised as they are loaded
  bool fp8_rows = false;           // and the rows that meet them as they do: FP8 by FP8. REQUIRES: fp8, kBF16
  int step_tokens_max = 1024;
  StateSizes states = {.blocks = 0, .sequences = 256};  // no blocks: as many as fit, and as the sequences can use
  int logit_rows = 64;                                  // that are computed at a time
  int expert_places = 0;                                // of each MoE layer; 0: one for each expert
  int expert_rows_max = 0;      // (row, expert) pairs at once; 0: those of a step of this worker's own
  uint64_t exchange_bytes = 0;  // device memory for whoever exchanges hidden states, see exchange_memory
  // Left alone: kernels, libraries, graphs.
  uint64_t reserve_bytes = (uint64_t{512} << 20) + StepGraphs::kBytesMax;
  int load_threads = 1;         // that convert weights on their way to the device
  bool graphs = true;           // the same bits either way
  std::vector<TokenId> masked;  // ids that Draw never draws: vocabulary rows without a token
};

// The engine of one GPU. All memory is planned and taken at once, at start.
//
// A step is enqueued on one stream and not waited for until somebody wants something of it. Its inputs go up in one
// copy; a decode step is a graph, one for each class of rows and contexts, padded with rows that are in no sequence.
// Its ExpertRunner keeps it, since it is of use with that one alone. Tokens that are drawn stay in device memory, where
// the step behind finds them, and go to the host beside it. Whatever is waited for, is through the ExpertRunner of that
// step, who knows of what else can go wrong. A step that it wants to have run again is taken back, and before that the
// one behind it, if there is one; then both are run again in their order, as if for the first time.
//
// Used by one thread at a time, but for LoadExperts.
class DeviceEngine : public Engine {
 public:
  // Takes the memory; nothing is loaded yet. All pointers must outlive *this. kResourceExhausted with needed and
  // available bytes, by part; kInvalidArgument if the kernels do not know such a model; CheckMultipliesFp8's errors.
  static absl::StatusOr<std::unique_ptr<DeviceEngine>> Create(const Device& device, const ModelConfig* config,
                                                              const ModelTensors* tensors,
                                                              const DeviceEngineOptions& options);
  ~DeviceEngine() override;

  // Everything but the experts. kCancelled once `stop` says true; `shown` hears of bytes so far and of all.
  absl::Status Load(const std::function<bool()>& stop, const std::function<void(uint64_t, uint64_t)>& shown = nullptr);
  // Those of `wanted`, by MoE layer (counted among those) and expert; an empty one stands for all. See ExpertPlaces.
  // Steps may run on another thread meanwhile.
  absl::StatusOr<std::shared_ptr<const ExpertPlaces::Held>> LoadExperts(
      const std::vector<bool>& wanted, const std::function<bool()>& stop,
      const std::function<void(uint64_t, uint64_t)>& shown = nullptr);

  // Rows for the experts that are held. *this must outlive them.
  std::unique_ptr<DeviceExpertFfn> MakeExpertFfn(std::shared_ptr<const ExpertPlaces::Held> held);
  // All experts are here. `ffn` must outlive it.
  absl::StatusOr<std::unique_ptr<LocalExperts>> MakeLocalExperts(DeviceExpertFfn* ffn);

  absl::Status Run(std::span<const Chunk> chunks, braid::ExpertRunner& experts, std::vector<float>* logits) override;
  absl::Status Logits(int begin, int end, std::vector<float>* logits) override;
  bool draws() const override { return true; }
  absl::Status Draw(std::span<const DrawnRow> rows) override;
  bool Drawn() override;
  absl::Status TakeDrawn(std::vector<TokenId>* tokens) override;
  absl::Status Recover() override;
  // Each op by its time on the device, in steps that are enqueued launch by launch, and behind no other.
  void Profile(StepProfile* profile) override { profile_ = profile; }
  void UseGraphs(bool use) override { uses_graphs_ = use && options_.graphs; }
  int graph_launches() const override { return launches_; }
  braid::ExpertFfn& experts() override;  // not for hidden states in host memory: ends the program if it is run

  DeviceStates& states() { return *states_; }
  const Device& device() const { return device_; }
  const MemoryPlan& memory() const { return plan_; }
  const DeviceEngineOptions& options() const { return options_; }
  cudaStream_t stream() const { return stream_.get(); }
  // options.exchange_bytes of them.
  std::byte* exchange_memory() const { return static_cast<std::byte*>(memory_.get()) + exchange_at_; }

 private:
  // One for each row of a step: what DrawTokens is told.
  struct DrawTable {
    float *temperature, *top_p, *min_p;
    double* uniform;
    int32_t* top_k;
    size_t bytes;
    static DrawTable At(int rows, std::byte* memory);
  };
  using Columns = DeviceStates::Columns;
  // A step, from its Run until it is known that it went well: what was enqueued, and what it takes to do that again.
  struct Step {
    bool ran = false;  // Run has returned OK
    ExpertRunner* runner = nullptr;
    bool decode = false;
    bool may_run_again = false;
    int wanted = 0;                          // rows that somebody wants logits of
    std::vector<DeviceForward::Part> parts;  // one, or two halves
    int padded_wanted() const;
    PinnedMemory inputs;  // of the parts, one behind the other
    size_t input_bytes = 0;
    Event inputs_copied;
    // If it may run again: what the step before has drawn, once that is known, since it will have been overwritten;
    // what became of columns between the two steps; and those that the step itself overwrites.
    std::vector<TokenId> tokens_before;
    std::vector<DeviceStates::Change> changes;
    std::vector<Columns> columns;
    int first_copy = 0;  // for them

    // What is drawn of it.
    bool drawn = false;     // and is to be taken
    std::vector<int> rows;  // among those wanted
    bool cuts = false;      // by top K or top P
    PinnedMemory draw_table, drawn_tokens;
    Event done;
  };

  DeviceEngine(const Device& device, const ModelConfig* config, const DeviceEngineOptions& options)
      : device_(device), config_(*config), options_(options), load_pool_(options.load_threads) {}
  absl::Status Plan(const ModelTensors* tensors);
  absl::Status PlanStates();
  absl::Status TakeMemory();
  absl::Status UploadMask();

  absl::Status CheckStep() const;
  bool IsDecode() const;
  // Of rows_ makes the last step.
  absl::Status Prepare(ExpertRunner* runner);
  // The places where the step before leaves tokens, for chunks that name them.
  void PlaceDrawn();
  void CutStep(Step& step, int half_rows);
  absl::Status FillInputs(Step& step);
  absl::Status SendInputs(Step& step);
  absl::Status EnqueueStep(Step& step);
  // All that may be a graph.
  absl::Status EnqueueLayersOrGraph(const Step& step);
  absl::Status EnqueueLayers(const Step& step);
  absl::Status Head(int begin, int end);
  OpTimer* timer() { return timed_ ? &timer_ : nullptr; }
  absl::Status AddTimes() { return timed_ && profile_ != nullptr ? timer_.AddTo(profile_) : absl::OkStatus(); }
  // Takes the step back, and before that what was run behind it, and runs both again.
  absl::Status RunAgain(Step& step);
  absl::Status Repeat(Step& step);
  int CopiesOfStep() const;
  void NoteColumns(Step& step);
  void SaveColumns(const Step& step);
  void TakeBack(const Step& step);
  // The tokens that the step before has drawn come by way of the host from now on.
  static void Learn(const Step& before, Step* step);
  void PlaceLearnt(Step& step);
  // The logits of wanted rows [begin, end) are in logits(), or will be when the stream comes there.
  absl::Status HaveLogits(int begin, int end);
  absl::Status EnqueueDraws(const Step& step);
  // Enqueues `last_work`, which asks for something of the last step, and returns once all is done.
  absl::Status WaitFor(absl::FunctionRef<absl::Status()> last_work);
  absl::Status WaitForStream();
  static absl::Status WaitForEvent(cudaEvent_t event, ExpertRunner* runner);
  // Of how many of the rows the logits are there at once.
  int PieceEnd(int begin, int end) const { return std::min(end, begin + options_.logit_rows); }

  const Device device_;
  const ModelConfig& config_;
  const DeviceEngineOptions options_;
  ThreadPool load_pool_;

  MemoryPlan plan_;
  DeviceMemory memory_;  // planned by plan_
  Stream stream_;        // of the steps
  Event done_;
  std::unique_ptr<DeviceWeights> weights_;
  std::unique_ptr<ExpertPlaces> places_;
  std::unique_ptr<DenseLinear> fast_;  // nullptr: exact
  std::unique_ptr<Fp8Rows> fp8_rows_;  // nullptr: rows stay as they are
  std::unique_ptr<DeviceForward> forward_;
  std::unique_ptr<DeviceStates> states_;
  ExpertScratch expert_scratch_;
  std::unique_ptr<Uploader> uploader_;
  uint64_t inputs_at_ = 0, draws_at_ = 0, drawn_at_ = 0, mask_at_ = 0, exchange_at_ = 0, inputs_bytes_ = 0;

  bool uses_graphs_ = options_.graphs;
  StepProfile* profile_ = nullptr;
  OpTimer timer_;
  bool timed_ = false;  // the last step
  int launches_ = 0;    // of its graph
  PinnedMemory logit_memory_;
  int32_t* drawn() const { return reinterpret_cast<int32_t*>(static_cast<std::byte*>(memory_.get()) + drawn_at_); }

  // The last step, and in front of it the one before, which may not be over either.
  std::array<Step, kDrawsMax> steps_;
  Step& last() { return steps_.back(); }
  Step* Behind(const Step& step) { return &step != &last() && last().ran ? &last() : nullptr; }
  bool any_drawn() const { return steps_.front().drawn || steps_.back().drawn; }
  Step& oldest_drawn() { return steps_.front().drawn ? steps_.front() : steps_.back(); }
  StepRows rows_;  // of the last step, while it is prepared
  std::array<StepPart, 2> halves_;
  int logits_begin_ = 0, logits_end_ = 0;  // the wanted rows whose logits are in memory
};

}  // namespace braid::gpu
