#include "expert_worker/cuda/device_expert_parallel.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/planted_bug.h"
#include "base/status.h"
#include "kernels/cuda/combine.h"
#include "kernels/cuda/group_rows.h"

namespace braid::gpu {
namespace {

size_t Padded(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Cuts memory into arrays, each at a multiple of 256 bytes; of none, finds out how much it takes.
class Cutter {
 public:
  explicit Cutter(std::byte* begin) : begin_(begin) {}
  template <typename T>
  void Cut(size_t count, T** array) {
    *array = reinterpret_cast<T*>(begin_ + bytes_);
    bytes_ += Padded(count * sizeof(T));
  }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* const begin_;
  size_t bytes_ = 0;
};

size_t BytesBetween(const void* begin, const void* end) {
  return static_cast<const std::byte*>(end) - static_cast<const std::byte*>(begin);
}

std::string_view Describe(DispatchFault fault) {
  switch (fault) {
    case DispatchFault::kNone:
      return "nothing wrong";
    case DispatchFault::kShortOfRoom:
      return "more rows than slots have room for";
    case DispatchFault::kComplaint:
      return "a complaint of what somebody sent it";
    case DispatchFault::kHead:
      return "no message of ours";
    case DispatchFault::kStep:
      return "a message of another step";
    case DispatchFault::kLayer:
      return "a message of another layer";
    case DispatchFault::kCounts:
      return "counts that cannot be";
    case DispatchFault::kExperts:
      return "an expert that is not here";
  }
  return "an unknown fault";
}

size_t BytesOf(DType type) { return type == DType::kF32 ? 4 : 2; }

int SetsFor(const ExpertParallel::Options& options, int ranks) { return options.overlap_rows > 0 && ranks > 1 ? 2 : 1; }

DispatchFault FaultOf(uint32_t word) { return static_cast<DispatchFault>(word % 256); }

// Check and Run of any op.
template <typename Op, typename... Config>
absl::Status Launch(const Op& op, std::string_view what, cudaStream_t stream, const Config&... config) {
  RETURN_IF_ERROR(Annotate(Check(op), what));
  return CudaError(Run(op, config..., stream), what);
}

}  // namespace

ExpertParallel::ExpertParallel(const ModelConfig* config, ExpertFfn* ffn, DeviceExchange* exchange, EpochPlace place,
                               const Options& options)
    : config_(*config),
      ffn_(ffn),
      exchange_(exchange),
      place_(std::move(place)),
      options_(options),
      slot_room_(options.room, config->experts_per_token, config->model_dim * BytesOf(options.type), place_.size,
                 place_.placement) {}

// ---- Memory.

size_t ExpertParallel::MessageBytesMax(const ModelConfig& config, const Options& options) {
  const DispatchShape shape = MakeDispatchShape(1, 0, config.model_dim, config.experts_per_token, options.type,
                                                options.pass_rows, options.pass_rows * config.experts_per_token);
  return std::max(shape.slot_bytes(), shape.result_slot_bytes());
}

int ExpertParallel::ExpertRowsMax(const ModelConfig& config, const Options& options, int ranks) {
  return options.pass_rows * config.experts_per_token * ranks;
}

EpochMemory::Sizes ExpertParallel::MemorySizes(const ModelConfig& config, const Options& options, int step_tokens_max,
                                               int ranks) {
  const int moe_layers = config.moe_layer_count(), E = config.experts;
  const size_t tables = LayOut(ranks, moe_layers, E, size_t(moe_layers) * E * ranks, nullptr).bytes;
  return {.scratch_bytes = LayOut(config, options, step_tokens_max, ranks, nullptr).bytes * SetsFor(options, ranks),
          .device_bytes = tables,
          .host_bytes = HostBytes(ranks, tables)};
}

size_t ExpertParallel::CountsBytes(int ranks) { return Padded(size_t(ranks) * ranks * 2 * sizeof(int32_t)); }

size_t ExpertParallel::HostBytes(int ranks, size_t tables) { return 4 * tables + 2 * CountsBytes(ranks); }

ExpertParallel::Scratch ExpertParallel::LayOut(const ModelConfig& config, const Options& options, int step_tokens_max,
                                               int ranks, std::byte* begin) {
  const int K = config.experts_per_token, rows = std::min(options.pass_rows, std::max(step_tokens_max, 1));
  const DispatchShape shape = MakeDispatchShape(ranks, 0, config.model_dim, K, options.type, rows, rows * K);
  const size_t P = ranks, choices = std::max<size_t>(step_tokens_max, rows) * K;
  // Alone, a rank reads the step's own rows and choices.
  const bool alone = ranks == 1;
  const size_t asked = alone ? rows * size_t(K) : P * shape.slot_rows * K;
  Scratch scratch = {};
  Cutter cutter(begin);
  cutter.Cut(alone ? 0 : P * shape.slot_bytes(), &scratch.send);
  cutter.Cut(alone ? 0 : P * shape.slot_bytes(), &scratch.received);
  cutter.Cut(alone ? 0 : P * shape.result_slot_bytes(), &scratch.send_results);
  cutter.Cut(alone ? 0 : P * shape.result_slot_bytes(), &scratch.received_results);
  cutter.Cut(P * shape.results * shape.row_bytes, &scratch.y);
  cutter.Cut(alone ? 0 : P * rows, &scratch.tokens);
  cutter.Cut(P * 2, &scratch.counts);
  cutter.Cut(P * P * 2, &scratch.all_counts);
  cutter.Cut(choices, &scratch.row_of);
  cutter.Cut(alone ? 0 : asked, &scratch.asked_experts);
  cutter.Cut(alone ? 0 : P * shape.results, &scratch.asked);
  cutter.Cut(P, &scratch.owed);
  cutter.Cut(config.experts + 1, &scratch.offsets);
  cutter.Cut(asked, &scratch.source);
  cutter.Cut(asked, &scratch.group_row_of);
  scratch.bytes = cutter.bytes();
  return scratch;
}

ExpertParallel::Tables ExpertParallel::LayOut(int ranks, int moe_layers, int E, size_t replicas, std::byte* begin) {
  Tables tables = {};
  Cutter cutter(begin);
  cutter.Cut(1, &tables.step);
  cutter.Cut(ranks, &tables.faults);
  cutter.Cut(size_t(moe_layers) * E, &tables.expert_rows);
  cutter.Cut(1, &tables.clock);
  cutter.Cut(size_t(moe_layers) * (E + 1), &tables.first_replica);
  cutter.Cut(replicas, &tables.replicas);
  tables.bytes = cutter.bytes();
  return tables;
}

absl::StatusOr<std::unique_ptr<ExpertParallel>> ExpertParallel::Make(const ModelConfig* config, ExpertFfn* ffn,
                                                                     DeviceExchange* exchange, EpochPlace place,
                                                                     const Options& options, EpochMemory* memory) {
  CHECK(exchange != nullptr || place.size == 1);
  CHECK_EQ(static_cast<int>(place.placement.size()), config->moe_layer_count());
  if (options.pass_rows < 1 || options.slot_rows_max > options.pass_rows || !(options.room.multiple > 0)) {
    return InvalidArgument(fmt::format("pass_rows {}, slot_rows_max {}, room for {} times the results",
                                       options.pass_rows, options.slot_rows_max, options.room.multiple));
  }
  std::unique_ptr<ExpertParallel> experts(new ExpertParallel(config, ffn, exchange, std::move(place), options));
  const EpochPlace& at = experts->place_;
  const int sets = SetsFor(options, at.size);
  const size_t needed = MemorySizes(*config, options, at.step_tokens_max, at.size).scratch_bytes;
  const std::span<std::byte> scratch = memory->scratch();
  if (needed > scratch.size()) {
    return InvalidArgument(fmt::format("the experts of {} ranks need {} bytes for a step, {} are set aside", at.size,
                                       needed, scratch.size()));
  }
  for (int i = 0; i < sets; ++i) {
    Set& set = experts->sets_[i];
    set.scratch = LayOut(*config, options, at.step_tokens_max, at.size, scratch.data() + needed / sets * i);
    for (Event* event : {&set.sent, &set.counts_here, &set.rows_here, &set.computed, &set.results_here}) {
      ASSIGN_OR_RETURN(*event, CreateEvent());
    }
  }
  if (sets == 2) {
    ASSIGN_OR_RETURN(experts->transfer_, CreateStream());
  }
  ASSIGN_OR_RETURN(experts->ended_, CreateEvent());
  RETURN_IF_ERROR(experts->MakeTables(memory));
  return experts;
}

ExpertParallel::~ExpertParallel() {
  if (transfer_) (void)cudaStreamSynchronize(transfer_.get());
  if (ended_) (void)cudaEventSynchronize(ended_.get());
}

absl::Status ExpertParallel::MakeTables(EpochMemory* memory) {
  const int E = config_.experts, moe_layers = config_.moe_layer_count(), ranks = place_.size;
  std::vector<int32_t> first, replicas;
  for (const ExpertRanks& layer : place_.placement) {
    for (int e = 0; e < E; ++e) {
      first.push_back(static_cast<int32_t>(replicas.size()));
      if (layer.IsAt(e, place_.rank)) {
        replicas.push_back(place_.rank);
      } else {
        replicas.insert(replicas.end(), layer.ranks(e).begin(), layer.ranks(e).end());
      }
    }
    first.push_back(static_cast<int32_t>(replicas.size()));
  }
  const auto lay_out = [&](std::byte* begin) { return LayOut(ranks, moe_layers, E, replicas.size(), begin); };
  const size_t bytes = lay_out(nullptr).bytes, host_bytes = HostBytes(ranks, bytes);
  ASSIGN_OR_RETURN(memory_, memory->Take());
  const std::span<std::byte> device = memory_->device, pinned = memory_->host;
  if (bytes > device.size() || host_bytes > pinned.size()) {
    return InvalidArgument(
        fmt::format("the placement on {} ranks takes {} bytes, {} are set aside", ranks, bytes, device.size()));
  }
  std::byte* const host = pinned.data();
  std::fill_n(host, host_bytes, std::byte{0});
  tables_ = lay_out(device.data());
  host_tables_ = {HostTables{lay_out(host), lay_out(host + bytes)},
                  HostTables{lay_out(host + 2 * bytes), lay_out(host + 3 * bytes)}};
  for (int i = 0; i < 2; ++i)
    sets_[i].host_counts = reinterpret_cast<int32_t*>(host + 4 * bytes + i * CountsBytes(ranks));
  const Tables& all = host_tables_[0].at_begin;  // of the first step
  std::copy(first.begin(), first.end(), all.first_replica);
  std::copy(replicas.begin(), replicas.end(), all.replicas);
  taken_.resize(size_t(moe_layers) * E);
  expert_rows_ = taken_;
  return absl::OkStatus();
}

// ---- Steps.

bool ExpertParallel::CanBeginAhead(int rows_max) const {
  if (place_.size == 1) return true;
  if (rows_max > options_.slot_rows_max) return false;
  return !may_run_again() || ShapeInSlots(rows_max, slot_room_.Results(SlotRowsFor(rows_max))) == capture_shape();
}

void ExpertParallel::BeginStep(uint64_t step, int rows_max) {
  CHECK(steps_begun_ == steps_waited_for_ || (steps_begun_ == steps_waited_for_ + 1 && CanBeginAhead(rows_max)));
  at_hand_ = steps_begun_++;
  at_hand() = {.number = step, .rows_max = rows_max};
  *tables_at_hand().at_begin.step = step;
  TakeRoom(&at_hand());
  if (exchange_ != nullptr) exchange_->BeginStep(step);
}

void ExpertParallel::TakeRoom(Step* step) {
  if (place_.size == 1 || !goes_in_slots(*step)) return;
  step->slot_results = slot_room_.Results(SlotRowsFor(step->rows_max));
  step->fits_all = slot_room_.FitsAll(SlotRowsFor(step->rows_max));
  slot_room_.CountStep();
}

uint64_t ExpertParallel::capture_shape() const {
  return place_.size == 1 ? 0 : ShapeInSlots(at_hand().rows_max, at_hand().slot_results);
}

absl::Status ExpertParallel::EnqueueBegin(cudaStream_t stream) {
  Step& step = at_hand();
  step.enqueued = Step::Enqueued::kInPart;
  if (step.begins_once_more) exchange_->BeginStep(step.number);
  if (step.behind_void && !Planted(Bug::kLetsNoVoidStepPass)) RETURN_IF_ERROR(EnqueueVoid(stream));
  // With the first step the placement, and with one that runs again how many rows experts had before.
  size_t bytes = tables_.bytes;
  if (std::exchange(tables_sent_, true)) {
    bytes = BytesBetween(tables_.step, step.again ? static_cast<void*>(tables_.clock) : tables_.expert_rows);
  }
  return CudaError(cudaMemcpyAsync(tables_.step, tables_at_hand().at_begin.step, bytes, cudaMemcpyHostToDevice, stream),
                   "the step's number");
}

// What lies in the buffers goes to and fro, and nobody looks at it. Nothing of a step before is on its way any more.
absl::Status ExpertParallel::EnqueueVoid(cudaStream_t stream) {
  const Step& step = at_hand();
  const int halves = InHalves(step.rows_max) ? 2 : 1;
  Pass pass{.exact = false, .stream = stream, .transfer = halves == 2 ? transfer_.get() : stream};
  pass.shape = MakeDispatchShape(place_.size, place_.rank, config_.model_dim, config_.experts_per_token, options_.type,
                                 SlotRowsFor(step.rows_max), step.slot_results);
  for (int layer = 0; layer < config_.moe_layer_count(); ++layer) {
    for (pass.set = 0; pass.set < halves; ++pass.set) RETURN_IF_ERROR(ExchangeRows(pass));
    for (pass.set = 0; pass.set < halves; ++pass.set) RETURN_IF_ERROR(ExchangeResults(pass));
  }
  if (halves == 1) return absl::OkStatus();
  RETURN_IF_ERROR(Record(sets_[0].results_here, pass.transfer));
  return Await(sets_[0].results_here, stream);
}

absl::Status ExpertParallel::CheckLayer(const RoutedRows& rows) const {
  CHECK_EQ(rows.D, config_.model_dim);
  CHECK_EQ(rows.K, config_.experts_per_token);
  CHECK(rows.type == options_.type);
  if (rows.T > place_.step_tokens_max)
    return InvalidArgument(fmt::format("{} rows, {} at most in a step", rows.T, place_.step_tokens_max));
  return absl::OkStatus();
}

ExpertParallel::Pass ExpertParallel::MakePass(const RoutedRows& rows, int part, int room, cudaStream_t stream) const {
  const DispatchShape shape =
      MakeDispatchShape(place_.size, place_.rank, config_.model_dim, config_.experts_per_token, options_.type, room,
                        exact() ? slot_room_.ResultsMax(room) : at_hand().slot_results);
  return {rows, shape, {tables_.step, rows.layer, part}, exact(), /*set=*/0, stream, /*transfer=*/stream};
}

absl::Status ExpertParallel::Enqueue(const RoutedRows& rows, cudaStream_t stream) {
  RETURN_IF_ERROR(CheckLayer(rows));
  const bool alone = place_.size == 1;
  const int rows_max = at_hand().rows_max;
  const int all = alone ? rows.T : exact() ? rows_max : RowsInSlots(rows_max);
  for (int begin = 0; begin < all; begin += options_.pass_rows) {
    const int room = std::min(all - begin, options_.pass_rows);
    // Rows that do not count come last, there may be more of them than there is room.
    const int end = begin + room < all ? begin + room : std::max(rows.T, begin);
    RoutedRows part = rows;
    part.T = std::clamp(rows.T - begin, 0, end - begin);
    if (part.T > 0) {
      part.x = static_cast<const std::byte*>(rows.x) + size_t(begin) * rows.D * BytesOf(rows.type);
      part.experts += size_t(begin) * rows.K;
      part.weights += size_t(begin) * rows.K;
      part.y += size_t(begin) * rows.D;
    }
    RETURN_IF_ERROR(alone ? EnqueueAlone(part, stream)
                          : EnqueuePass(MakePass(part, begin / options_.pass_rows, room, stream)));
    if (!alone) Lap(rows.timer, StepOp::kExchange, stream);  // with what runs between
  }
  return absl::OkStatus();
}

absl::Status ExpertParallel::EnqueuePass(const Pass& pass) {
  RETURN_IF_ERROR(SendRowsOut(pass));
  if (pass.exact) {
    RETURN_IF_ERROR(ShareCounts(pass));
    RETURN_IF_ERROR(AwaitCounts(pass));
  }
  RETURN_IF_ERROR(ExchangeRows(pass));
  RETURN_IF_ERROR(RunExperts(pass));
  RETURN_IF_ERROR(ExchangeResults(pass));
  return CombineResults(pass);
}

// ---- Halves. What one stream writes and the other reads has an event between: see Set.

int ExpertParallel::half_rows() const {
  const int rows_max = at_hand().rows_max;
  if (!InHalves(rows_max)) return 0;
  // The same when it is run again: it has been cut.
  return rows_max > options_.slot_rows_max ? HalfOf(rows_max) : SlotRowsFor(rows_max);
}

absl::Status ExpertParallel::Begin(int half, const RoutedRows& rows, cudaStream_t stream) {
  if (half == 0) RETURN_IF_ERROR(CheckLayer(rows));
  Pass& pass = halves_[half];
  pass = MakePass(rows, half, half_rows(), stream);
  pass.set = half;
  pass.transfer = transfer_.get();
  RETURN_IF_ERROR(SendRowsOut(pass));
  RETURN_IF_ERROR(Record(sets_[half].sent, stream));
  RETURN_IF_ERROR(Await(sets_[half].sent, pass.transfer));
  return pass.exact ? ShareCounts(pass) : SendHalf(pass);
}

absl::Status ExpertParallel::Compute(cudaStream_t stream) {
  for (const Pass& pass : halves_) {
    if (pass.exact) {
      RETURN_IF_ERROR(AwaitCounts(pass));
      RETURN_IF_ERROR(SendHalf(pass));
    }
    // Behind the second half's rows: those go out while the first half's experts run.
    if (pass.set == 1) RETURN_IF_ERROR(ReturnHalf(halves_[0]));
    RETURN_IF_ERROR(Await(sets_[pass.set].rows_here, stream));
    RETURN_IF_ERROR(RunExperts(pass));
    RETURN_IF_ERROR(Record(sets_[pass.set].computed, stream));
  }
  return ReturnHalf(halves_[1]);
}

absl::Status ExpertParallel::Finish(int half, cudaStream_t stream) {
  RETURN_IF_ERROR(Await(sets_[half].results_here, stream));
  return CombineResults(halves_[half]);
}

absl::Status ExpertParallel::SendHalf(const Pass& pass) {
  RETURN_IF_ERROR(ExchangeRows(pass));
  return Record(sets_[pass.set].rows_here, pass.transfer);
}

absl::Status ExpertParallel::ReturnHalf(const Pass& pass) {
  RETURN_IF_ERROR(Await(sets_[pass.set].computed, pass.transfer));
  RETURN_IF_ERROR(ExchangeResults(pass));
  return Record(sets_[pass.set].results_here, pass.transfer);
}

absl::Status ExpertParallel::Record(const Event& event, cudaStream_t stream) {
  return CudaError(cudaEventRecord(event.get(), stream), "ordering the exchange");
}

absl::Status ExpertParallel::Await(const Event& event, cudaStream_t stream) {
  if (Planted(Bug::kForgetsToAwaitRows) && &event == &sets_[1].rows_here) return absl::OkStatus();
  if (Planted(Bug::kForgetsToAwaitComputing) && &event == &sets_[0].computed) return absl::OkStatus();
  return CudaError(cudaStreamWaitEvent(stream, event.get(), 0), "ordering the exchange");
}

absl::Status ExpertParallel::EnqueueEnd(cudaStream_t stream) {
  const size_t bytes = BytesBetween(tables_.faults, tables_.first_replica);
  void* const at_end = tables_at_hand().at_end.faults;
  at_hand().enqueued = Step::Enqueued::kAll;
  if (at_hand_ + 1 < steps_begun_) ++at_hand_;  // it runs again, and so does the one behind it
  RETURN_IF_ERROR(CudaError(cudaMemcpyAsync(at_end, tables_.faults, bytes, cudaMemcpyDeviceToHost, stream),
                            "what came of the step"));
  return CudaError(cudaEventRecord(ended_.get(), stream), "the end of the step");
}

// Scratch is that of the next epoch, too. If an order cannot be made the device has failed, and nothing comes behind.
void ExpertParallel::Drop(cudaStream_t stream) {
  if (transfer_ && Record(sets_[0].sent, transfer_.get()).ok()) (void)Await(sets_[0].sent, stream);
  (void)cudaEventRecord(ended_.get(), stream);
}

absl::Status ExpertParallel::EnqueueAlone(const RoutedRows& rows, cudaStream_t stream) {
  const Scratch& scratch = sets_[0].scratch;
  const int E = config_.experts;
  const GroupRows group{rows.T, rows.K, E, rows.experts, scratch.offsets, scratch.source, scratch.group_row_of};
  RETURN_IF_ERROR(Launch(group, "grouping", stream, Choose(group)));
  ReceiveResults count;
  count.E = E;
  count.offsets = scratch.offsets;
  count.expert_rows = tables_.expert_rows + size_t(MoeLayer(rows.layer)) * E;
  RETURN_IF_ERROR(Launch(count, "expert rows", stream));
  Lap(rows.timer, StepOp::kGroup, stream);
  RETURN_IF_ERROR(ffn_->Enqueue(
      {rows.layer, rows.D, rows.type, rows.x, scratch.source, scratch.offsets, rows.T * rows.K, scratch.y, rows.timer},
      stream));
  RETURN_IF_ERROR(
      Launch(Combine{rows.T, rows.D, rows.K, rows.type, scratch.y, scratch.group_row_of, rows.weights, rows.y},
             "combine", stream));
  Lap(rows.timer, StepOp::kCombine, stream);
  return absl::OkStatus();
}

absl::Status ExpertParallel::SendRowsOut(const Pass& pass) {
  const Scratch& scratch = sets_[pass.set].scratch;
  const RoutedRows& rows = pass.rows;
  SendRows op{pass.shape, pass.name, rows.T, config_.experts, rows.x, rows.experts};
  op.first_replica = tables_.first_replica + size_t(MoeLayer(rows.layer)) * (config_.experts + 1);
  op.replicas = tables_.replicas;
  op.send = scratch.send;
  op.received = scratch.received;
  op.tokens = scratch.tokens;
  op.counts = scratch.counts;
  op.row_of = scratch.row_of;
  op.clock = tables_.clock;
  return Launch(op, "sending rows", pass.stream, Choose(pass.shape));
}

absl::Status ExpertParallel::RunExperts(const Pass& pass) {
  const Scratch& scratch = sets_[pass.set].scratch;
  const DispatchShape& shape = pass.shape;
  const int E = config_.experts;
  ReceiveRows receive{shape, pass.name, E};
  receive.first_replica = tables_.first_replica + size_t(MoeLayer(pass.rows.layer)) * (E + 1);
  receive.replicas = tables_.replicas;
  receive.announced = pass.exact ? scratch.all_counts : nullptr;
  receive.received = scratch.received;
  receive.experts = scratch.asked_experts;
  receive.asked = scratch.asked;
  receive.counts = scratch.owed;
  receive.faults = tables_.faults;
  receive.clock = tables_.clock;
  RETURN_IF_ERROR(Launch(receive, "receiving rows", pass.stream, Choose(shape)));
  const GroupRows group{shape.ranks * shape.slot_rows, shape.K,         E,
                        scratch.asked_experts,         scratch.offsets, scratch.source,
                        scratch.group_row_of};
  RETURN_IF_ERROR(Launch(group, "grouping", pass.stream, Choose(group)));
  int rows_max = shape.ranks * shape.results;
  if (pass.exact) {
    rows_max = 0;
    for (int rank = 0; rank < place_.size; ++rank)
      rows_max += sets_[pass.set].CountsOf(place_.size, rank, place_.rank)[1];
  }
  if (rows_max > 0) {
    RETURN_IF_ERROR(ffn_->Enqueue(
        {pass.rows.layer, shape.D, shape.type, scratch.received, scratch.source, scratch.offsets, rows_max, scratch.y},
        pass.stream));
  }
  SendResults results{shape, pass.name, scratch.asked, scratch.owed, scratch.group_row_of, scratch.y};
  results.faults = tables_.faults;
  results.send = scratch.send_results;
  results.received = scratch.received_results;
  results.clock = tables_.clock;
  return Launch(results, "sending results", pass.stream, Choose(shape));
}

absl::Status ExpertParallel::CombineResults(const Pass& pass) {
  const Scratch& scratch = sets_[pass.set].scratch;
  const RoutedRows& rows = pass.rows;
  ReceiveResults receive{pass.shape, pass.name, config_.experts, scratch.counts, scratch.received_results};
  receive.offsets = scratch.offsets;
  receive.expert_rows = tables_.expert_rows + size_t(MoeLayer(rows.layer)) * config_.experts;
  receive.faults = tables_.faults;
  receive.clock = tables_.clock;
  RETURN_IF_ERROR(Launch(receive, "receiving results", pass.stream));
  return Launch(
      Combine{rows.T, rows.D, rows.K, rows.type, scratch.received_results, scratch.row_of, rows.weights, rows.y},
      "combine", pass.stream);
}

// ---- The exchange.

absl::Status ExpertParallel::ShareCounts(const Pass& pass) {
  const Set& set = sets_[pass.set];
  const Scratch& scratch = set.scratch;
  const int ranks = place_.size;
  const size_t bytes = size_t(ranks) * 2 * sizeof(int32_t);
  RETURN_IF_ERROR(exchange_->AllGather(scratch.counts, scratch.all_counts, bytes, pass.transfer));
  RETURN_IF_ERROR(CudaError(
      cudaMemcpyAsync(set.host_counts, scratch.all_counts, bytes * ranks, cudaMemcpyDeviceToHost, pass.transfer),
      "counts"));
  return CudaError(cudaEventRecord(set.counts_here.get(), pass.transfer), "counts");
}

absl::Status ExpertParallel::AwaitCounts(const Pass& pass) {
  return exchange_->Wait(sets_[pass.set].counts_here.get());
}

absl::Status ExpertParallel::ExchangeRows(const Pass& pass) {
  const Set& set = sets_[pass.set];
  const Scratch& scratch = set.scratch;
  const DispatchShape& shape = pass.shape;
  if (!pass.exact) return exchange_->AllToAll(scratch.send, scratch.received, shape.slot_bytes(), pass.transfer);
  std::vector<size_t> sent(place_.size), received(place_.size);
  for (int rank = 0; rank < place_.size; ++rank) {
    const int32_t* const theirs = set.CountsOf(place_.size, rank, place_.rank);
    if (theirs[0] < 0 || theirs[0] > shape.rows || theirs[1] < 0 || theirs[1] > shape.results) {
      blamed_.push_back(rank);
      return absl::DataLossError(fmt::format("rank {}: {} rows and {} results, {} and {} are the most", rank, theirs[0],
                                             theirs[1], shape.rows, shape.results));
    }
    sent[rank] = size_t(shape.head_rows + set.CountsOf(place_.size, place_.rank, rank)[0]) * shape.row_bytes;
    received[rank] = size_t(shape.head_rows + theirs[0]) * shape.row_bytes;
  }
  return exchange_->AllToAllExact(scratch.send, sent, scratch.received, received, shape.slot_bytes(), pass.transfer);
}

absl::Status ExpertParallel::ExchangeResults(const Pass& pass) {
  const Set& set = sets_[pass.set];
  const Scratch& scratch = set.scratch;
  const DispatchShape& shape = pass.shape;
  if (!pass.exact) {
    return exchange_->AllToAll(scratch.send_results, scratch.received_results, shape.result_slot_bytes(),
                               pass.transfer);
  }
  std::vector<size_t> sent(place_.size), received(place_.size);
  for (int rank = 0; rank < place_.size; ++rank) {
    sent[rank] = size_t(shape.result_head_rows + set.CountsOf(place_.size, rank, place_.rank)[1]) * shape.row_bytes;
    received[rank] = size_t(shape.result_head_rows + set.CountsOf(place_.size, place_.rank, rank)[1]) * shape.row_bytes;
  }
  return exchange_->AllToAllExact(scratch.send_results, sent, scratch.received_results, received,
                                  shape.result_slot_bytes(), pass.transfer);
}

// ---- What came of it.

absl::Status ExpertParallel::Wait(cudaEvent_t end) {
  steps_waited_for_ = std::min(steps_waited_for_ + 1, steps_begun_);
  if (exchange_ == nullptr) {
    RETURN_IF_ERROR(ExpertRunner::Wait(end));
  } else {
    RETURN_IF_ERROR(exchange_->Wait(end));
    RETURN_IF_ERROR(CheckFaults());
  }
  std::copy_n(waited_for().at_end.expert_rows, expert_rows_.size(), expert_rows_.begin());
  exchanged_ns_ = waited_for().at_end.clock->exchanged_ns;
  return absl::OkStatus();
}

absl::Status ExpertParallel::CheckFaults() {
  const Tables& at_end = waited_for().at_end;
  std::string message;
  bool short_of_room = false;
  for (int rank = 0; rank < place_.size; ++rank) {
    const DispatchFault fault = FaultOf(at_end.faults[rank]);
    short_of_room |= fault == DispatchFault::kShortOfRoom;
    if (fault == DispatchFault::kNone || fault == DispatchFault::kShortOfRoom) continue;
    if (fault > DispatchFault::kComplaint) blamed_.push_back(rank);
    fmt::format_to(std::back_inserter(message), "{}rank {}: {} in layer {}", message.empty() ? "" : "; ", rank,
                   Describe(fault), at_end.faults[rank] / 256);
  }
  if (!message.empty()) return absl::DataLossError(message);
  return short_of_room ? DidNotFit() : absl::OkStatus();
}

absl::Status ExpertParallel::DidNotFit() {
  CHECK_GT(steps_waited_for_, 0u);
  const bool another_behind = steps_begun_ > steps_waited_for_;
  at_hand_ = --steps_waited_for_;
  Step &step = at_hand(), &behind = steps_[(at_hand_ + 1) % 2];
  if (step.again) return absl::InternalError("what was counted before it was sent does not fit");
  slot_room_.DidNotFit(another_behind && !Planted(Bug::kCountsAVoidStep));
  ++runs_again_;
  step.again = step.begins_once_more = step.behind_void = true;
  step.enqueued = Step::Enqueued::kNot;
  std::copy(expert_rows_.begin(), expert_rows_.end(), tables_at_hand().at_begin.expert_rows);
  if (another_behind) {
    if (behind.enqueued == Step::Enqueued::kInPart)
      return absl::AbortedError("a step's rows do not fit its slots, and the step behind it has failed");
    step.behind_void = behind.enqueued == Step::Enqueued::kNot;
    behind.begins_once_more = true;
    behind.enqueued = Step::Enqueued::kNot;
    TakeRoom(&behind);
  }
  return absl::ResourceExhaustedError("a step's rows do not fit its slots: to be run again");
}

std::vector<int> ExpertParallel::suspects() const {
  if (!blamed_.empty() || exchange_ == nullptr) return blamed_;
  return exchange_->suspects();
}

std::vector<uint64_t> ExpertParallel::TakeExpertRows() {
  std::vector<uint64_t> rows = expert_rows_;
  for (size_t i = 0; i < rows.size(); ++i) rows[i] -= std::exchange(taken_[i], expert_rows_[i]);
  return rows;
}

absl::Duration ExpertParallel::TakeExchangeTime() {
  return absl::Nanoseconds(exchanged_ns_ - std::exchange(taken_ns_, exchanged_ns_));
}

}  // namespace braid::gpu
