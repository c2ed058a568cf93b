#include "expert_worker/backend.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/status.h"
#include "expert_worker/cuda/device_expert_parallel.h"
#include "expert_worker/cuda_backend.h"
#include "expert_worker/exchange/nccl.h"
#include "expert_worker/memory.h"
#include "model/cuda/device.h"
#include "model/cuda/device_engine.h"

namespace braid::gpu {
namespace {

// Ranks of an epoch that memory is planned for: its exchange and its products grow with them. 16 GPUs of two hosts take
// 1 GB for LFM2-8B-A1B.
constexpr int kRanksPlanned = 16;
// Of these, on one machine: for them NCCL has buffers.
constexpr int kNeighboursMax = 8;
// The epoch that serves, and the next one, whose first step may come before all of the last one's memory is free.
constexpr int kCommunicators = 2;

// A communicator of eight GPUs takes 2.5 s by others' logs, and more while NCCL's kernels are loaded for the first
// time: longer than the silence after which a router gives up a worker.
constexpr absl::Duration kConnectTimeoutMin = absl::Minutes(1);

ExpertParallel::Options ParallelOptions(const WorkerOptions& options, DType type) {
  const ExpertParallel::Options defaults;
  return {.type = type,
          .pass_rows = std::min(defaults.pass_rows, options.step_tokens_max),
          .slot_rows_max = std::min(defaults.slot_rows_max, options.step_tokens_max),
          .overlap_rows = options.overlap_rows};
}

// Of each MoE layer, of which the router places no more here than an even share of the slots. Where not all fit,
// experts of the epoch to come are loaded beside those that serve.
int PlacesFor(const WorkerOptions& options, const ModelConfig& config) {
  const int layers = config.moe_layer_count();
  return layers == 0 ? 0 : std::min(config.experts, 2 * ((ExpertSlots(options, config) + layers - 1) / layers));
}

// An epoch's, with what computes them.
//
// May end on any thread, beside steps of the next epoch: once nobody runs steps of it any more, its graphs are nobody
// else's (see ExpertRunner::graphs), and go before its exchange does.
class DeviceEpochExperts : public EpochExperts {
 public:
  DeviceEpochExperts(int device, std::unique_ptr<DeviceExpertFfn> ffn, std::unique_ptr<ExpertParallel> parallel)
      : device_(device), ffn_(std::move(ffn)), parallel_(std::move(parallel)) {}
  // A thread that never chose a device would have CUDA make a context on the first one, in another worker's memory.
  ~DeviceEpochExperts() override { (void)UseDevice(device_); }
  braid::ExpertRunner& runner() override { return parallel_->runner(); }
  void BeginStep(uint64_t step, int rows_max) override { parallel_->BeginStep(step, rows_max); }
  bool CanBeginAhead(int rows_max) const override { return parallel_->CanBeginAhead(rows_max); }
  std::vector<int> suspects() const override { return parallel_->suspects(); }
  std::vector<uint64_t> TakeExpertRows() override { return parallel_->TakeExpertRows(); }
  absl::Duration TakeExchangeTime() override { return parallel_->TakeExchangeTime(); }
  int TakeRunsAgain() override { return parallel_->TakeRunsAgain(); }

 private:
  const int device_;
  const std::unique_ptr<DeviceExpertFfn> ffn_;
  const std::unique_ptr<ExpertParallel> parallel_;
};

class CudaBackend : public Backend {
 public:
  explicit CudaBackend(const BackendParts& parts)
      : config_(parts.model->config()),
        type_(parts.device.float32 ? DType::kF32 : DType::kBF16),
        ranks_max_(parts.options->ranks_max > 0 ? parts.options->ranks_max : kRanksPlanned),
        parallel_options_(ParallelOptions(*parts.options, type_)) {}

  absl::Status Init(const BackendParts& parts) {
    const WorkerOptions& options = *parts.options;
    ASSIGN_OR_RETURN(const Device device, OpenDevice(parts.device.index));
    if (parts.device.fp8_rows && !GainsByFp8Rows(device)) {
      spdlog::warn(
          "{} ({}) multiplies FP8 by FP8 no faster than FP8 by bf16 here: --weights fp8 is nearer to the model",
          parts.device.Name(), device.name);
    }
    ASSIGN_OR_RETURN(
        exchanges_, MakeNcclExchangeFactory(
                        {.device = device.index, .router = options.router, .connect_timeout_min = kConnectTimeoutMin}));
    DeviceEngineOptions engine;
    engine.precision = type_;
    engine.step_tokens_max = options.step_tokens_max;
    int kv_blocks = 0;  // as many as fit
    if (options.kv_bytes > 0) {
      ASSIGN_OR_RETURN(kv_blocks, ChooseKvBlocks(config_, KvType::kBFloat16, options.kv_bytes, device.free_bytes));
    }
    engine.states = {
        .blocks = kv_blocks, .sequences = options.sequences_max, .snapshots = SnapshotsMax(options, config_)};
    engine.expert_places = PlacesFor(options, config_);
    engine.masked = parts.masked;
    engine.exact = parts.device.exact;
    engine.fp8 = parts.device.fp8;
    engine.fp8_rows = parts.device.fp8_rows;
    engine.load_threads = parts.pool->threads();
    if (config_.moe_layer_count() > 0) {
      engine.expert_rows_max = ExpertParallel::ExpertRowsMax(config_, parallel_options_, ranks_max_);
      engine.reserve_bytes +=
          NcclMemoryBytes(std::min(ranks_max_, kNeighboursMax), kCommunicators, device.has_nvlink());
    }
    const EpochMemory::Sizes epoch_sizes =
        ExpertParallel::MemorySizes(config_, parallel_options_, options.step_tokens_max, ranks_max_);
    engine.exchange_bytes = epoch_sizes.all_device_bytes();
    ASSIGN_OR_RETURN(engine_, DeviceEngine::Create(device, &config_, &parts.model->tensors(), engine));
    ASSIGN_OR_RETURN(epoch_memory_, EpochMemory::Create(engine_->exchange_memory(), epoch_sizes));
    RETURN_IF_ERROR(engine_->Load(parts.stop));
    spdlog::info("{} ({}): {}; {} KV blocks of {} tokens", parts.device.Name(), device.name,
                 engine_->memory().ToString(), engine_->states().sizes().blocks, kKvBlockTokens);
    return absl::OkStatus();
  }

  SequenceStates& states() override { return engine_->states(); }
  Engine& engine() override { return *engine_; }
  ExchangeFactory& exchanges() override { return *exchanges_; }
  int ranks_max() const override { return ranks_max_; }
  size_t message_bytes_max() const override {
    return config_.moe_layer_count() > 0 ? ExpertParallel::MessageBytesMax(config_, parallel_options_) : 0;
  }

  absl::StatusOr<ExpertHold> LoadExperts(std::span<const ExpertRanks> placement, int rank,
                                         const std::function<bool()>& stop) override {
    if (placement.empty()) return ExpertHold();
    std::vector<bool> wanted;
    for (const ExpertRanks& layer : placement)
      for (int expert = 0; expert < layer.experts(); ++expert) wanted.push_back(layer.IsAt(expert, rank));
    ASSIGN_OR_RETURN(std::shared_ptr<const ExpertPlaces::Held> held, engine_->LoadExperts(wanted, stop));
    last_held_ = held;
    return ExpertHold(std::move(held));
  }

  absl::StatusOr<std::unique_ptr<EpochExperts>> MakeExperts(Exchange* exchange, EpochPlace place) override {
    if (place.size > ranks_max_) {
      return absl::ResourceExhaustedError("the epoch has " + std::to_string(place.size) +
                                          " ranks, there is memory for " + std::to_string(ranks_max_));
    }
    RETURN_IF_ERROR(UseDevice(engine_->device().index));
    std::unique_ptr<DeviceExpertFfn> ffn = engine_->MakeExpertFfn(last_held_.lock());
    ASSIGN_OR_RETURN(std::unique_ptr<ExpertParallel> parallel,
                     ExpertParallel::Make(&config_, ffn.get(), static_cast<DeviceExchange*>(exchange), std::move(place),
                                          parallel_options_, epoch_memory_.get()));
    return std::make_unique<DeviceEpochExperts>(engine_->device().index, std::move(ffn), std::move(parallel));
  }

  // The error of a device that has failed comes back from whatever is asked of it, this among them, which no capture
  // of another thread minds.
  absl::Status CheckDevice() const override {
    RETURN_IF_ERROR(UseDevice(engine_->device().index));
    size_t free_bytes = 0, all_bytes = 0;
    return CudaError(cudaMemGetInfo(&free_bytes, &all_bytes), "looking at the device");
  }

 private:
  const ModelConfig& config_;
  const DType type_;
  const int ranks_max_;
  const ExpertParallel::Options parallel_options_;
  std::unique_ptr<DeviceExchangeFactory> exchanges_;
  std::unique_ptr<DeviceEngine> engine_;
  std::unique_ptr<EpochMemory> epoch_memory_;
  std::weak_ptr<const ExpertPlaces::Held> last_held_;  // of the thread that sets up
};

}  // namespace
}  // namespace braid::gpu

namespace braid {

absl::Status CheckCudaDevice(const ComputeDevice& device) {
  ASSIGN_OR_RETURN(const gpu::Device found, gpu::OpenDevice(device.index));
  return device.fp8_rows ? gpu::CheckMultipliesFp8(found) : absl::OkStatus();
}

absl::StatusOr<CudaDevice> DescribeCudaDevice(int index) {
  ASSIGN_OR_RETURN(const gpu::Device device, gpu::OpenDevice(index));
  CudaDevice found{.name = device.name, .free_bytes = device.free_bytes};
  int memory_khz = 0, bus_bits = 0, clock_khz = 0;
  const auto ask = [index](cudaDeviceAttr attribute, int* value) {
    return gpu::CudaError(cudaDeviceGetAttribute(value, attribute, index), "cudaDeviceGetAttribute");
  };
  RETURN_IF_ERROR(ask(cudaDevAttrMemoryClockRate, &memory_khz));
  RETURN_IF_ERROR(ask(cudaDevAttrGlobalMemoryBusWidth, &bus_bits));
  RETURN_IF_ERROR(ask(cudaDevAttrClockRate, &clock_khz));
  found.read_bytes_per_second = 2.0 * 1e3 * memory_khz * bus_bits / 8;  // two transfers in a clock
  // Of a multiprocessor's tensor cores in a clock: NVIDIA's figures for the three that there are kernels for.
  const double ops = device.major == 8 ? 2048 : device.major == 9 ? 4096 : 8192;
  found.multiply_ops_per_second = ops * device.multiprocessors * 1e3 * clock_khz;
  return found;
}

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const BackendParts& parts) {
  auto backend = std::make_unique<gpu::CudaBackend>(parts);
  RETURN_IF_ERROR(backend->Init(parts));
  return backend;
}

}  // namespace braid
