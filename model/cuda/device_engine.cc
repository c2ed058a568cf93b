#include "model/cuda/device_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/status.h"
#include "kernels/cuda/draw_tokens.h"
#include "kernels/cuda/edit_logits.h"

namespace braid::gpu {
namespace {

// Below 512 tokens there is nothing worth serving.
constexpr int64_t kBlocksMin = 512 / kKvBlockTokens;
// For what is on a device when a step has failed. The exchange has been aborted by then, and a prefill takes less.
constexpr absl::Duration kDryPatience = absl::Seconds(5);

int BlocksOfContext(const ModelConfig& config) {
  return (config.context_tokens_max + kKvBlockTokens - 1) / kKvBlockTokens;
}

// Engine::experts() is for hosts.
class NoHostExperts : public braid::ExpertFfn {
 public:
  void Run(const ExpertRows&) override { CHECK(false) << "a device's experts do not run for hidden states on a host"; }
};

// Tells `shown` of bytes so far and of `all`.
std::function<void(uint64_t)> Counting(uint64_t all, std::function<void(uint64_t, uint64_t)> shown) {
  if (shown == nullptr) return nullptr;
  return [all, shown = std::move(shown), done = uint64_t{0}](uint64_t bytes) mutable { shown(done += bytes, all); };
}

}  // namespace

DeviceEngine::DrawTable DeviceEngine::DrawTable::At(int rows, std::byte* memory) {
  const auto T = static_cast<size_t>(rows);
  DrawTable table;
  table.uniform = reinterpret_cast<double*>(memory);  // first: it wants to be aligned
  table.temperature = reinterpret_cast<float*>(memory + 8 * T);
  table.top_p = reinterpret_cast<float*>(memory + 12 * T);
  table.min_p = reinterpret_cast<float*>(memory + 16 * T);
  table.top_k = reinterpret_cast<int32_t*>(memory + 20 * T);
  table.bytes = 24 * T;
  return table;
}

absl::StatusOr<std::unique_ptr<DeviceEngine>> DeviceEngine::Create(const Device& device, const ModelConfig* config,
                                                                   const ModelTensors* tensors,
                                                                   const DeviceEngineOptions& options) {
  CHECK(options.precision == DType::kBF16 || options.precision == DType::kF32);
  CHECK(!options.fp8_rows || (options.fp8 && options.precision == DType::kBF16));
  if (config->architecture == "checksum")
    return InvalidArgument("a checksum model has no kernels for a GPU: run with --device cpu");
  if (options.fp8_rows) RETURN_IF_ERROR(CheckMultipliesFp8(device));
  RETURN_IF_ERROR(UseDevice(device.index));
  std::unique_ptr<DeviceEngine> engine(new DeviceEngine(device, config, options));
  RETURN_IF_ERROR(engine->Plan(tensors));
  RETURN_IF_ERROR(engine->TakeMemory());
  return engine;
}

// What is enqueued uses memory that goes now.
DeviceEngine::~DeviceEngine() {
  if (stream_) (void)cudaStreamSynchronize(stream_.get());
  if (uploader_) (void)uploader_->Finish();
}

absl::Status DeviceEngine::Plan(const ModelTensors* tensors) {
  const int places = options_.expert_places > 0 ? std::min(options_.expert_places, config_.experts) : config_.experts;
  ASSIGN_OR_RETURN(weights_, DeviceWeights::Plan(&config_, tensors, options_.precision, options_.fp8,
                                                 /*gates_apart=*/!options_.exact, places, &plan_));
  if (config_.experts > 0) places_ = std::make_unique<ExpertPlaces>(&config_, weights_.get(), &plan_);
  // The states are planned last, the forward pass only keeps where they are.
  const int rows_max = (std::max(options_.step_tokens_max, options_.states.sequences) + 1) / 2 * 2;  // two halves
  if (rows_max > kStepRowsMax) {
    return InvalidArgument(fmt::format("a step can have {} rows, not {}: fewer sequences, or fewer tokens to a step",
                                       kStepRowsMax, rows_max));
  }
  if (!options_.exact) {
    ASSIGN_OR_RETURN(fast_, DenseLinear::Create());
  }
  const int pairs = std::max(options_.expert_rows_max, rows_max * config_.experts_per_token);
  if (options_.fp8_rows) fp8_rows_ = std::make_unique<Fp8Rows>(config_, rows_max, pairs, &plan_);
  forward_ = std::make_unique<DeviceForward>(&config_, weights_.get(), fast_.get(), fp8_rows_.get(), rows_max,
                                             options_.logit_rows, &plan_);
  if (config_.experts > 0) expert_scratch_.Plan(config_, options_.precision, pairs, &plan_);

  using Part = MemoryPlan::Part;
  // Of two halves, which may both have a piece of a sequence, or padding.
  const StepShape largest{.rows = rows_max,
                          .sequences = options_.states.sequences + 2,
                          .spans = SpansFor(config_.context_tokens_max),
                          .wanted = rows_max,
                          .tiles = rows_max,
                          .saves = rows_max};
  inputs_bytes_ = StepInputs::At(largest, nullptr).bytes + 256;  // both begin their arrays at 16 bytes
  inputs_at_ = plan_.AddBytes(Part::kInputs, inputs_bytes_);
  draws_at_ = plan_.AddBytes(Part::kInputs, DrawTable::At(rows_max, nullptr).bytes);
  drawn_at_ = plan_.Add<int32_t>(Part::kInputs, rows_max);
  mask_at_ = plan_.Add<int32_t>(Part::kInputs, static_cast<int64_t>(options_.masked.size()));
  exchange_at_ = plan_.AddBytes(Part::kExchange, options_.exchange_bytes);
  plan_.Reserve(options_.reserve_bytes);
  return PlanStates();
}

absl::Status DeviceEngine::PlanStates() {
  StateSizes sizes = options_.states;
  const int own_copies = static_cast<int>(steps_.size()) * CopiesOfStep();
  const int64_t context = BlocksOfContext(config_),
                block_bytes = static_cast<int64_t>(std::max<uint64_t>(DeviceStates::BlockBytes(config_), 1));
  if (sizes.blocks == 0) {
    MemoryPlan with_states = plan_;
    sizes.blocks = static_cast<int>(std::min(kBlocksMin, context));
    DeviceStates least(&config_, sizes, own_copies, &with_states);
    RETURN_IF_ERROR(with_states.CheckFits(device_.free_bytes));
    const int64_t more = static_cast<int64_t>(with_states.left_of(device_.free_bytes)) / block_bytes;
    const int64_t useful = std::min<int64_t>(context * sizes.sequences, INT32_MAX);
    sizes.blocks = static_cast<int>(std::min(sizes.blocks + std::max<int64_t>(0, more - 1), useful));
  }
  states_ = std::make_unique<DeviceStates>(&config_, sizes, own_copies, &plan_);
  return plan_.CheckFits(device_.free_bytes);
}

absl::Status DeviceEngine::TakeMemory() {
  ASSIGN_OR_RETURN(stream_, CreateStream());
  ASSIGN_OR_RETURN(done_, CreateEvent());
  ASSIGN_OR_RETURN(uploader_, Uploader::Create(&load_pool_));
  ASSIGN_OR_RETURN(memory_, AllocateDevice(plan_.bytes()));
  int copies = states_->sizes().copies();
  for (Step& step : steps_) {
    ASSIGN_OR_RETURN(step.inputs, AllocatePinned(inputs_bytes_));
    ASSIGN_OR_RETURN(step.inputs_copied, CreateEvent());
    ASSIGN_OR_RETURN(step.draw_table, AllocatePinned(DrawTable::At(forward_->rows_max(), nullptr).bytes));
    ASSIGN_OR_RETURN(step.drawn_tokens, AllocatePinned(sizeof(int32_t) * static_cast<uint64_t>(forward_->rows_max())));
    ASSIGN_OR_RETURN(step.done, CreateEvent());
    step.first_copy = std::exchange(copies, copies + CopiesOfStep());
  }
  ASSIGN_OR_RETURN(logit_memory_, AllocatePinned(sizeof(float) * static_cast<uint64_t>(options_.logit_rows) *
                                                 static_cast<uint64_t>(config_.vocab_size)));
  auto* const memory = static_cast<std::byte*>(memory_.get());
  weights_->Bind(memory);
  if (places_) places_->Bind(memory);
  if (config_.experts > 0) expert_scratch_.Bind(memory);
  if (fp8_rows_) fp8_rows_->Bind(memory);
  states_->Bind(memory, stream_.get());
  RETURN_IF_ERROR(forward_->Bind(memory, states_.get(), *uploader_));
  RETURN_IF_ERROR(UploadMask());
  return uploader_->Finish();
}

absl::Status DeviceEngine::UploadMask() {
  for (const TokenId token : options_.masked) CHECK(token >= 0 && token < config_.vocab_size);
  return uploader_->Put(options_.masked.data(), options_.masked.size() * sizeof(TokenId),
                        static_cast<std::byte*>(memory_.get()) + mask_at_);
}

absl::Status DeviceEngine::Load(const std::function<bool()>& stop,
                                const std::function<void(uint64_t, uint64_t)>& shown) {
  RETURN_IF_ERROR(UseDevice(device_.index));
  uploader_->Watch(stop, Counting(weights_->bytes(), shown));
  RETURN_IF_ERROR(weights_->Load(*uploader_));
  return uploader_->Finish();
}

absl::StatusOr<std::shared_ptr<const ExpertPlaces::Held>> DeviceEngine::LoadExperts(
    const std::vector<bool>& wanted, const std::function<bool()>& stop,
    const std::function<void(uint64_t, uint64_t)>& shown) {
  if (!places_) return InvalidArgument("this model has no experts");
  RETURN_IF_ERROR(UseDevice(device_.index));
  const std::vector<bool> all(static_cast<size_t>(config_.moe_layer_count() * config_.experts), true);
  const std::vector<bool>& experts = wanted.empty() ? all : wanted;
  uploader_->Watch(stop, Counting(places_->BytesToLoad(experts), shown));
  return places_->Load(experts, *uploader_);
}

std::unique_ptr<DeviceExpertFfn> DeviceEngine::MakeExpertFfn(std::shared_ptr<const ExpertPlaces::Held> held) {
  return std::make_unique<DeviceExpertFfn>(&config_, weights_.get(), std::move(held), &expert_scratch_,
                                           fp8_rows_.get());
}

absl::StatusOr<std::unique_ptr<LocalExperts>> DeviceEngine::MakeLocalExperts(DeviceExpertFfn* ffn) {
  return LocalExperts::Create(&config_, ffn, &expert_scratch_);
}

braid::ExpertFfn& DeviceEngine::experts() {
  static NoHostExperts none;
  return none;
}

absl::Status DeviceEngine::CheckStep() const {
  const auto refuse = [](std::string_view what, int64_t value, int64_t max) {
    return InvalidArgument(fmt::format("the step has {} {}, the device has room for {}", value, what, max));
  };
  if (rows_.count() > forward_->rows_max()) return refuse("rows", rows_.count(), forward_->rows_max());
  const auto chunks = static_cast<int>(rows_.chunks.size());
  if (chunks > states_->sizes().sequences) return refuse("sequences", chunks, states_->sizes().sequences);
  size_t saves = 0;
  for (const Chunk& chunk : rows_.chunks) saves += chunk.saves.size();
  if (saves > static_cast<size_t>(forward_->rows_max()))
    return refuse("saves", static_cast<int64_t>(saves), forward_->rows_max());
  for (const Chunk& chunk : rows_.chunks) {
    CHECK(chunk.cache->conv_slot >= 0 && chunk.cache->conv_slot < states_->sizes().sequences);
    const int64_t end = chunk.position + static_cast<int64_t>(chunk.tokens.size());
    if (end > config_.context_tokens_max) return refuse("positions of a sequence", end, config_.context_tokens_max);
  }
  return absl::OkStatus();
}

// Each chunk is one token whose logits are wanted. So is no chunk: peers may need this worker's experts.
bool DeviceEngine::IsDecode() const {
  return rows_.count() == static_cast<int>(rows_.wanted.size()) &&
         std::all_of(rows_.chunks.begin(), rows_.chunks.end(),
                     [](const Chunk& chunk) { return chunk.tokens.size() == 1 && chunk.saves.empty(); });
}

void DeviceEngine::PlaceDrawn() {
  const Step& before = steps_.front();
  int32_t* token = rows_.tokens.data();
  bool any = false;
  for (const Chunk& chunk : rows_.chunks) {
    if (chunk.drawn >= 0) {
      CHECK(chunk.tokens.size() == 1 && chunk.drawn < static_cast<int>(before.rows.size()));
      *token = ~before.rows[static_cast<size_t>(chunk.drawn)];
      any = true;
    }
    token += chunk.tokens.size();
  }
  if (any && !before.drawn) Learn(before, &last());
}

void DeviceEngine::Learn(const Step& before, Step* step) {
  const auto* const tokens = static_cast<const TokenId*>(before.drawn_tokens.get());
  step->tokens_before.assign(tokens, tokens + before.wanted);
}

void DeviceEngine::CutStep(Step& step, int half_rows) {
  const int rows = rows_.count(), sequences = states_->sizes().sequences;
  step.parts.clear();
  const auto add = [&](const StepRows& part, int padded) {
    step.parts.push_back({step.decode ? DecodeShape(part, padded) : ShapeOf(part, forward_->tile_rows()), {}});
  };
  if (half_rows == 0) return add(rows_, RowsOfClass(rows, sequences));
  // The second half has the padding: the rows that count are one behind the other, and so are those that are wanted.
  const int half = (rows + 1) / 2;
  const int padded = std::min({RowsOfClass(half, (sequences + 1) / 2), half_rows, forward_->rows_max() / 2});
  const int first = step.decode ? padded : half;
  CHECK(first >= half && first <= rows) << half << " of " << rows << " rows, " << half_rows << " at most";
  Cut(rows_, 0, first, &halves_[0]);
  Cut(rows_, first, rows, &halves_[1]);
  for (const StepPart& part : halves_) add(part.rows, padded);
}

absl::Status DeviceEngine::FillInputs(Step& step) {
  RETURN_IF_ERROR(CudaError(cudaEventSynchronize(step.inputs_copied.get()), "waiting for a step's inputs"));
  auto* const host = static_cast<std::byte*>(step.inputs.get());
  auto* const device = static_cast<std::byte*>(memory_.get()) + inputs_at_;
  step.input_bytes = 0;
  for (size_t i = 0; i < step.parts.size(); ++i) {
    DeviceForward::Part& part = step.parts[i];
    const StepInputs on_host = StepInputs::At(part.shape, host + step.input_bytes);
    part.inputs = StepInputs::At(part.shape, device + step.input_bytes);
    step.input_bytes += on_host.bytes;
    CHECK_LE(step.input_bytes, inputs_bytes_);
    Fill(step.parts.size() == 1 ? rows_ : halves_[i].rows, part.shape, forward_->tile_rows(), on_host);
  }
  return absl::OkStatus();
}

void DeviceEngine::PlaceLearnt(Step& step) {
  if (step.tokens_before.empty()) return;
  auto* host = static_cast<std::byte*>(step.inputs.get());
  for (const DeviceForward::Part& part : step.parts) {
    const StepInputs on_host = StepInputs::At(part.shape, host);
    for (int32_t& token : std::span(on_host.tokens, static_cast<size_t>(part.shape.rows)))
      if (token < 0) token = std::max(step.tokens_before[static_cast<size_t>(~token)], 0);
    host += on_host.bytes;
  }
}

absl::Status DeviceEngine::SendInputs(Step& step) {
  if (step.input_bytes == 0) return absl::OkStatus();
  RETURN_IF_ERROR(CudaError(cudaMemcpyAsync(static_cast<std::byte*>(memory_.get()) + inputs_at_, step.inputs.get(),
                                            step.input_bytes, cudaMemcpyHostToDevice, stream_.get()),
                            "copying a step's inputs"));
  return CudaError(cudaEventRecord(step.inputs_copied.get(), stream_.get()), "copying a step's inputs");
}

int DeviceEngine::Step::padded_wanted() const {
  int sum = 0;
  for (const DeviceForward::Part& part : parts) sum += part.shape.wanted;
  return sum;
}

absl::Status DeviceEngine::EnqueueStep(Step& step) {
  RETURN_IF_ERROR(states_->TakeError());
  RETURN_IF_ERROR(SendInputs(step));
  launches_ = 0;
  logits_begin_ = 0;
  logits_end_ = PieceEnd(0, step.padded_wanted());
  ExpertRunner* const runner = step.runner;
  if (runner == nullptr) return EnqueueLayers(step);
  absl::Status status = runner->EnqueueBegin(stream_.get());
  if (status.ok()) status = EnqueueLayersOrGraph(step);
  if (status.ok()) status = runner->EnqueueEnd(stream_.get());
  if (!status.ok()) runner->Drop(stream_.get());
  return status;
}

absl::Status DeviceEngine::EnqueueLayersOrGraph(const Step& step) {
  ExpertRunner* const runner = step.runner;
  if (!step.decode || !uses_graphs_ || timed_ || !runner->capturable()) return EnqueueLayers(step);
  StepGraphs::Key key{.shape = step.parts[0].shape, .capture_shape = runner->capture_shape()};
  if (step.parts.size() == 2) key.second_half = step.parts[1].shape;
  return runner->graphs().Run(
      key, stream_.get(), [&] { return EnqueueLayers(step); }, &launches_);
}

absl::Status DeviceEngine::EnqueueLayers(const Step& step) {
  RETURN_IF_ERROR(forward_->Run(step.parts, drawn(), step.runner, stream_.get(), timer()));
  const int wanted = step.padded_wanted();
  return wanted == 0 ? absl::OkStatus() : Head(0, PieceEnd(0, wanted));
}

absl::Status DeviceEngine::Head(int begin, int end) {
  RETURN_IF_ERROR(forward_->Head(begin, end, stream_.get()));
  Lap(timer(), StepOp::kHead, stream_.get());
  return absl::OkStatus();
}

// ---- Once more.

// Chunks that change columns they began with: with the token that the next step may put behind them.
int DeviceEngine::CopiesOfStep() const { return forward_->rows_max() / ShortRunTokens(config_); }

void DeviceEngine::NoteColumns(Step& step) {
  for (const Chunk& chunk : rows_.chunks) {
    if (static_cast<int>(chunk.tokens.size()) < ShortRunTokens(config_)) continue;
    const int copy = step.first_copy + static_cast<int>(step.columns.size());
    step.columns.push_back({chunk.cache->conv_slot, chunk.position, copy});
  }
}

void DeviceEngine::SaveColumns(const Step& step) {
  for (const Columns& columns : step.columns) states_->Copy(columns, /*save=*/true);
}

void DeviceEngine::TakeBack(const Step& step) {
  for (const Columns& columns : step.columns) states_->Copy(columns, /*save=*/false);
}

absl::Status DeviceEngine::RunAgain(Step& step) {
  Step* const behind = Behind(step);
  if (behind != nullptr) TakeBack(*behind);
  TakeBack(step);
  PlaceLearnt(step);
  RETURN_IF_ERROR(Repeat(step));
  if (behind == nullptr) return absl::OkStatus();
  states_->Repeat(behind->changes);
  SaveColumns(*behind);
  return Repeat(*behind);
}

absl::Status DeviceEngine::Repeat(Step& step) {
  RETURN_IF_ERROR(EnqueueStep(step));
  return step.drawn ? EnqueueDraws(step) : absl::OkStatus();
}

// ---- What the engine is asked for.

absl::Status DeviceEngine::Run(std::span<const Chunk> chunks, braid::ExpertRunner& experts,
                               std::vector<float>* logits) {
  auto* const runner = dynamic_cast<ExpertRunner*>(&experts);
  if (runner == nullptr && config_.moe_layer_count() > 0)
    return InvalidArgument("the experts of a device's engine must run on devices");
  std::swap(steps_.front(), steps_.back());
  Step& step = last();
  CHECK(!step.drawn) << "nobody takes what is drawn";
  step.ran = step.may_run_again = false;
  logits_begin_ = logits_end_ = 0;
  rows_.LayOut(chunks);
  RETURN_IF_ERROR(CheckStep());
  RETURN_IF_ERROR(UseDevice(device_.index));
  timed_ = profile_ != nullptr && !any_drawn();
  RETURN_IF_ERROR(Prepare(runner));
  if (timed_) timer_.BeginStep(stream_.get());
  RETURN_IF_ERROR(EnqueueStep(step));
  step.ran = true;
  return logits == nullptr ? absl::OkStatus() : Logits(0, step.wanted, logits);
}

absl::Status DeviceEngine::Prepare(ExpertRunner* runner) {
  Step& step = last();
  step.runner = runner;
  step.decode = IsDecode();
  step.may_run_again = runner != nullptr && runner->may_run_again();
  step.wanted = static_cast<int>(rows_.wanted.size());
  step.tokens_before.clear();
  step.columns.clear();
  step.rows.clear();
  states_->TakeChanges(&step.changes);
  PlaceDrawn();
  CutStep(step, runner == nullptr ? 0 : runner->half_rows());
  if (step.may_run_again) NoteColumns(step);
  SaveColumns(step);
  return FillInputs(step);
}

absl::Status DeviceEngine::HaveLogits(int begin, int end) {
  if (begin >= logits_begin_ && end <= logits_end_) return absl::OkStatus();
  logits_begin_ = begin;
  logits_end_ = end;
  return Head(begin, end);
}

absl::Status DeviceEngine::WaitFor(absl::FunctionRef<absl::Status()> last_work) {
  RETURN_IF_ERROR(last_work());
  absl::Status status = WaitForStream();
  if (last().may_run_again && absl::IsResourceExhausted(status)) {
    RETURN_IF_ERROR(RunAgain(last()));
    RETURN_IF_ERROR(last_work());
    status = WaitForStream();
  }
  last().may_run_again = false;
  return status.ok() ? AddTimes() : status;
}

absl::Status DeviceEngine::WaitForStream() {
  CHECK(!any_drawn()) << "what was drawn is to be taken first";
  RETURN_IF_ERROR(CudaError(cudaEventRecord(done_.get(), stream_.get()), "running a step on the device"));
  return WaitForEvent(done_.get(), last().runner);
}

absl::Status DeviceEngine::WaitForEvent(cudaEvent_t event, ExpertRunner* runner) {
  if (runner != nullptr) return runner->Wait(event);
  return CudaError(cudaEventSynchronize(event), "running a step on the device");
}

absl::Status DeviceEngine::Logits(int begin, int end, std::vector<float>* logits) {
  CHECK(last().ran && begin >= 0 && begin <= end && end <= last().wanted);
  const auto V = static_cast<size_t>(config_.vocab_size);
  logits->resize(static_cast<size_t>(end - begin) * V);
  if (begin == end) return WaitFor([] { return absl::OkStatus(); });
  for (int at = begin, piece_end; at < end; at = piece_end) {
    piece_end = PieceEnd(at, end);
    const size_t bytes = static_cast<size_t>(piece_end - at) * V * sizeof(float);
    RETURN_IF_ERROR(WaitFor([&] {
      RETURN_IF_ERROR(HaveLogits(at, piece_end));
      const auto first = static_cast<size_t>(at - logits_begin_) * V;
      return CudaError(cudaMemcpyAsync(logit_memory_.get(), forward_->logits() + first, bytes, cudaMemcpyDeviceToHost,
                                       stream_.get()),
                       "copying logits");
    }));
    std::memcpy(logits->data() + static_cast<size_t>(at - begin) * V, logit_memory_.get(), bytes);
  }
  return absl::OkStatus();
}

absl::Status DeviceEngine::Draw(std::span<const DrawnRow> rows) {
  Step& step = last();
  CHECK(step.ran && !step.drawn);
  // It has been taken, unless that failed.
  RETURN_IF_ERROR(CudaError(cudaEventSynchronize(step.done.get()), "waiting for what was drawn"));
  step.rows.clear();
  step.cuts = false;
  const DrawTable table = DrawTable::At(step.wanted, static_cast<std::byte*>(step.draw_table.get()));
  std::memset(step.draw_table.get(), 0, table.bytes);  // of rows that nobody asks for: the best token, why not
  std::fill_n(table.top_p, step.wanted, 1.0f);
  for (const DrawnRow& row : rows) {
    CHECK(row.row >= 0 && row.row < step.wanted);
    table.temperature[row.row] = row.temperature;
    table.top_k[row.row] = row.top_k;
    table.top_p[row.row] = row.top_p;
    table.min_p[row.row] = row.min_p;
    table.uniform[row.row] = row.uniform;
    step.cuts = step.cuts || (row.temperature > 0 && (row.top_k > 0 || row.top_p < 1));
    step.rows.push_back(row.row);
  }
  RETURN_IF_ERROR(EnqueueDraws(step));
  step.drawn = true;
  return absl::OkStatus();
}

absl::Status DeviceEngine::EnqueueDraws(const Step& step) {
  const int L = step.rows.empty() ? 0 : step.wanted;
  auto* const memory = static_cast<std::byte*>(memory_.get());
  const DrawTable table = DrawTable::At(L, static_cast<std::byte*>(step.draw_table.get()));
  const DrawTable on_device = DrawTable::At(L, memory + draws_at_);
  if (L > 0)
    RETURN_IF_ERROR(
        CudaError(cudaMemcpyAsync(on_device.uniform, table.uniform, table.bytes, cudaMemcpyHostToDevice, stream_.get()),
                  "copying what is to be drawn"));
  for (int begin = 0, end; begin < L; begin = end) {
    end = PieceEnd(begin, L);
    RETURN_IF_ERROR(HaveLogits(begin, end));
    const auto first = static_cast<int64_t>(begin - logits_begin_) * config_.vocab_size;
    if (!options_.masked.empty()) {
      EditLogits mask{end - begin, config_.vocab_size, forward_->logits() + first};
      mask.masked = reinterpret_cast<const int32_t*>(memory + mask_at_);
      mask.masked_count = static_cast<int>(options_.masked.size());
      RETURN_IF_ERROR(Check(mask));
      RETURN_IF_ERROR(CudaError(gpu::Run(mask, stream_.get()), "launching a kernel"));
    }
    DrawTokens op{end - begin, config_.vocab_size, forward_->logits() + first};
    op.temperature = on_device.temperature + begin;
    if (step.cuts) op.top_k = on_device.top_k + begin, op.top_p = on_device.top_p + begin;
    op.min_share = on_device.min_p + begin;
    op.uniform = on_device.uniform + begin;
    op.tokens = drawn() + begin;
    RETURN_IF_ERROR(Check(op));
    RETURN_IF_ERROR(CudaError(gpu::Run(op, stream_.get()), "launching a kernel"));
    Lap(timer(), StepOp::kDraw, stream_.get());
    // Masked logits are no longer those of the model.
    if (!options_.masked.empty()) logits_begin_ = logits_end_ = 0;
  }
  if (L > 0)
    RETURN_IF_ERROR(
        CudaError(cudaMemcpyAsync(step.drawn_tokens.get(), drawn(), sizeof(int32_t) * static_cast<size_t>(L),
                                  cudaMemcpyDeviceToHost, stream_.get()),
                  "copying tokens"));
  return CudaError(cudaEventRecord(step.done.get(), stream_.get()), "running a step on the device");
}

absl::Status DeviceEngine::Recover() {
  RETURN_IF_ERROR(UseDevice(device_.index));
  const absl::Time give_up = absl::Now() + kDryPatience;
  for (;;) {
    const cudaError_t error = cudaStreamQuery(stream_.get());
    if (error != cudaErrorNotReady) return CudaError(error, "running steps on the device");
    (void)cudaGetLastError();
    if (absl::Now() > give_up) return absl::InternalError("the device does not end what it was given");
    absl::SleepFor(absl::Milliseconds(1));
  }
}

bool DeviceEngine::Drawn() {
  if (!any_drawn()) return true;
  if (cudaEventQuery(oldest_drawn().done.get()) != cudaErrorNotReady) return true;
  (void)cudaGetLastError();  // "not ready" is no error that somebody else should find
  return false;
}

absl::Status DeviceEngine::TakeDrawn(std::vector<TokenId>* tokens) {
  CHECK(any_drawn()) << "nothing was drawn";
  Step& step = oldest_drawn();
  absl::Status status = WaitForEvent(step.done.get(), step.runner);
  if (step.may_run_again && absl::IsResourceExhausted(status)) {
    status = RunAgain(step);
    if (status.ok()) status = WaitForEvent(step.done.get(), step.runner);
  }
  step.drawn = step.may_run_again = false;
  if (!status.ok()) {
    last().drawn = false;
    return status;
  }
  const auto* const drawn = static_cast<const int32_t*>(step.drawn_tokens.get());
  tokens->clear();
  for (const int row : step.rows) tokens->push_back(drawn[row]);
  if (Step* const behind = Behind(step)) Learn(step, behind);
  return &step == &last() ? AddTimes() : absl::OkStatus();
}

}  // namespace braid::gpu
