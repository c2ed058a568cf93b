#include "cli/bench_exchange/exchange_bench.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <thread>

#include "base/status.h"
#include "expert_worker/exchange/nccl.h"
#include "model/cuda/device.h"

namespace braid {
namespace {

using gpu::CudaError;

constexpr std::chrono::seconds kOthersCome{120};  // they may have to load CUDA's libraries from a slow disk

// Each rank's address is a file, which is whole once it is there.
absl::StatusOr<std::vector<std::string>> Meet(const ExchangeBenchOptions& options, const std::string& address) {
  const std::filesystem::path place(options.meeting_place);
  const auto file_of = [&](int rank) { return place / ("rank-" + std::to_string(rank)); };
  const std::filesystem::path unfinished = file_of(options.rank).string() + ".part";
  std::ofstream(unfinished, std::ios::binary) << address;
  std::error_code error;
  std::filesystem::rename(unfinished, file_of(options.rank), error);
  if (error) return absl::UnavailableError("cannot write to " + options.meeting_place + ": " + error.message());
  std::vector<std::string> addresses;
  const auto deadline = std::chrono::steady_clock::now() + kOthersCome;
  while (static_cast<int>(addresses.size()) < options.ranks) {
    std::ifstream file(file_of(static_cast<int>(addresses.size())), std::ios::binary);
    if (file) {
      std::stringstream text;
      text << file.rdbuf();
      addresses.push_back(text.str());
    } else if (std::chrono::steady_clock::now() > deadline) {
      return absl::DeadlineExceededError("rank " + std::to_string(addresses.size()) + " has not come");
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  return addresses;
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

class Bench {
 public:
  explicit Bench(const ExchangeBenchOptions& options) : options_(options) {}

  absl::Status Init() {
    slot_bytes_max_ = *std::max_element(options_.slot_bytes.begin(), options_.slot_bytes.end());
    ASSIGN_OR_RETURN(device_, gpu::OpenDevice(options_.device));
    const size_t bytes = static_cast<size_t>(options_.ranks) * slot_bytes_max_;
    ASSIGN_OR_RETURN(send_, gpu::AllocateDevice(bytes));
    ASSIGN_OR_RETURN(received_, gpu::AllocateDevice(bytes));
    ASSIGN_OR_RETURN(free_bytes_, FreeBytes());
    ASSIGN_OR_RETURN(factory_, gpu::MakeNcclExchangeFactory({.device = options_.device}));
    ASSIGN_OR_RETURN(
        exchange_,
        factory_->PrepareDevice(
            {.epoch = 1, .rank = options_.rank, .size = options_.ranks, .message_bytes_max = slot_bytes_max_}));
    ASSIGN_OR_RETURN(const std::vector<std::string> addresses, Meet(options_, exchange_->address()));
    RETURN_IF_ERROR(exchange_->Connect(addresses));
    ASSIGN_OR_RETURN(stream_, gpu::CreateStream());
    ASSIGN_OR_RETURN(begin_, gpu::CreateTimedEvent());
    ASSIGN_OR_RETURN(end_, gpu::CreateTimedEvent());
    return CudaError(cudaMemsetAsync(send_.get(), 0, bytes, stream_.get()), "clearing what is sent");
  }

  // Of the device, by NCCL, since Init.
  absl::StatusOr<uint64_t> BytesTaken() const {
    ASSIGN_OR_RETURN(const uint64_t free_bytes, FreeBytes());
    return free_bytes_ - std::min(free_bytes_, free_bytes);
  }

  uint64_t BytesPlanned() const { return gpu::NcclMemoryBytes(options_.ranks, 1, device_.has_nvlink()); }

  absl::StatusOr<ExchangeFigures> Measure(size_t slot_bytes) {
    ExchangeFigures figures{slot_bytes};
    const auto enqueue = [&]() -> absl::Status {
      for (int round = 0; round < options_.rounds; ++round)
        RETURN_IF_ERROR(exchange_->AllToAll(send_.get(), received_.get(), slot_bytes, stream_.get()));
      return absl::OkStatus();
    };
    ASSIGN_OR_RETURN(figures.plain_seconds, MedianSeconds(enqueue));
    ASSIGN_OR_RETURN(const gpu::GraphExec graph, Capture(enqueue));
    ASSIGN_OR_RETURN(figures.graph_seconds, MedianSeconds([&] {
                       return CudaError(cudaGraphLaunch(graph.get(), stream_.get()), "launching a graph");
                     }));
    return figures;
  }

 private:
  static absl::StatusOr<uint64_t> FreeBytes() {
    size_t free_bytes = 0, all_bytes = 0;
    RETURN_IF_ERROR(CudaError(cudaMemGetInfo(&free_bytes, &all_bytes), "cudaMemGetInfo"));
    return free_bytes;
  }

  // Of one round.
  absl::StatusOr<double> MedianSeconds(const std::function<absl::Status()>& enqueue) {
    std::vector<double> samples;
    for (int sample = -1; sample < options_.repeat; ++sample) {  // one to warm up, and for all ranks to be there
      exchange_->BeginStep(++step_);
      RETURN_IF_ERROR(CudaError(cudaEventRecord(begin_.get(), stream_.get()), "timing"));
      RETURN_IF_ERROR(enqueue());
      RETURN_IF_ERROR(CudaError(cudaEventRecord(end_.get(), stream_.get()), "timing"));
      RETURN_IF_ERROR(exchange_->Wait(end_.get()));
      float ms = 0;
      RETURN_IF_ERROR(CudaError(cudaEventElapsedTime(&ms, begin_.get(), end_.get()), "timing"));
      if (sample >= 0) samples.push_back(1e-3 * ms / options_.rounds);
    }
    return Median(std::move(samples));
  }

  absl::StatusOr<gpu::GraphExec> Capture(const std::function<absl::Status()>& enqueue) {
    RETURN_IF_ERROR(CudaError(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "capturing"));
    const absl::Status enqueued = enqueue();
    cudaGraph_t captured = nullptr;
    const cudaError_t error = cudaStreamEndCapture(stream_.get(), &captured);
    const gpu::Owned<cudaGraph_t, cudaGraphDestroy> owned(captured);
    RETURN_IF_ERROR(enqueued);
    RETURN_IF_ERROR(CudaError(error, "capturing"));
    cudaGraphExec_t exec = nullptr;
    RETURN_IF_ERROR(CudaError(cudaGraphInstantiate(&exec, captured, 0), "making a graph"));
    return gpu::GraphExec(exec);
  }

  const ExchangeBenchOptions& options_;
  gpu::Device device_;
  size_t slot_bytes_max_ = 0;
  uint64_t free_bytes_ = 0;  // before there is anything of NCCL
  std::unique_ptr<gpu::DeviceExchangeFactory> factory_;
  std::unique_ptr<gpu::DeviceExchange> exchange_;
  gpu::DeviceMemory send_, received_;
  gpu::Stream stream_;
  gpu::Event begin_, end_;
  uint64_t step_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<ExchangeFigures>> BenchExchange(const ExchangeBenchOptions& options) {
  Bench bench(options);
  RETURN_IF_ERROR(bench.Init());
  std::vector<ExchangeFigures> figures;
  for (const size_t slot_bytes : options.slot_bytes) {
    ASSIGN_OR_RETURN(figures.emplace_back(), bench.Measure(slot_bytes));
    ASSIGN_OR_RETURN(figures.back().nccl_bytes, bench.BytesTaken());
    figures.back().nccl_bytes_planned = bench.BytesPlanned();
  }
  return figures;
}

}  // namespace braid
