#include "model/cuda/device.h"

#include <fmt/format.h>

#include <charconv>

#include "base/human.h"
#include "base/status.h"

namespace braid::gpu {
namespace {

// Those that kernels/cuda is compiled for, as nvcc spells them.
#ifdef BRAID_CUDA_ARCHITECTURES
constexpr std::string_view kArchitectures = BRAID_CUDA_ARCHITECTURES;
// Of FP8 by FP8, which those before the first that has it refuse.
constexpr std::string_view kFp8Architectures = BRAID_CUDA_FP8_ARCHITECTURES;
constexpr int kFp8First = 89;
#else
#error "the build says which architectures there are kernels for"
#endif
constexpr std::string_view kOnCpu = "run with --device cpu";

absl::Status NoDevice(cudaError_t error) {
  int driver = 0, runtime = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  if (cudaRuntimeGetVersion(&runtime) != cudaSuccess) runtime = CUDART_VERSION;
  if (error == cudaErrorInsufficientDriver && driver != 0) {
    return absl::FailedPreconditionError(
        fmt::format("the NVIDIA driver is for CUDA {}.{}, this program needs {}.{}: update it, or {}", driver / 1000,
                    driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10, kOnCpu));
  }
  if (error == cudaErrorInsufficientDriver)
    return absl::NotFoundError(fmt::format("there is no NVIDIA driver here: install one, or {}", kOnCpu));
  if (error == cudaErrorNoDevice || error == cudaSuccess)
    return absl::NotFoundError(fmt::format("there is no GPU here: {}", kOnCpu));
  return CudaError(error, fmt::format("looking for GPUs ({})", kOnCpu));
}

absl::Status CheckCapability(const Device& device) {
  if (RunsOn(kArchitectures, device.major, device.minor)) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "cuda:{} is a {} of compute capability {}.{}, {}: {}", device.index, device.name, device.major, device.minor,
      device.major < 8 ? std::string("8.0 or later is needed")
                       : fmt::format("this program has kernels for {}", kArchitectures),
      kOnCpu));
}

}  // namespace

absl::Status CudaError(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message = fmt::format("{}: {} ({})", what, cudaGetErrorString(error), cudaGetErrorName(error));
  if (error == cudaErrorMemoryAllocation) return absl::ResourceExhaustedError(message);
  return absl::InternalError(message);
}

bool RunsOn(std::string_view architectures, int major, int minor, int least) {
  while (!architectures.empty()) {
    const size_t space = std::min(architectures.find(' '), architectures.size());
    const std::string_view architecture = architectures.substr(0, space);
    architectures.remove_prefix(std::min(space + 1, architectures.size()));
    int built = 0;
    const char* const end = architecture.data() + architecture.size();
    const bool exact = std::from_chars(architecture.data(), end, built).ptr != end;
    if (built < least) continue;
    if (exact ? built == 10 * major + minor : built / 10 == major && built % 10 <= minor) return true;
  }
  return false;
}

absl::Status CheckMultipliesFp8(const Device& device) {
  if (RunsOn(kFp8Architectures, device.major, device.minor, kFp8First)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      fmt::format("--precision fp8 needs a GPU of compute capability 8.9 or later, and kernels for it in this program; "
                  "cuda:{} is a {} of {}.{}: say --weights fp8 instead, which leaves activations in bf16",
                  device.index, device.name, device.major, device.minor));
}

bool GainsByFp8Rows(const Device& device) { return device.major != 9 && device.major != 10; }

absl::StatusOr<Device> OpenDevice(int index) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) return NoDevice(error);
  if (index < 0 || index >= count) {
    return absl::NotFoundError(fmt::format(
        "there is no cuda:{}, {} here: choose one of them, or {}", index,
        count == 1 ? std::string("only cuda:0 is") : fmt::format("cuda:0 to cuda:{} are", count - 1), kOnCpu));
  }
  Device device{.index = index};
  cudaDeviceProp properties;
  RETURN_IF_ERROR(CudaError(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties"));
  device.name = properties.name;
  device.major = properties.major;
  device.minor = properties.minor;
  device.multiprocessors = properties.multiProcessorCount;
  RETURN_IF_ERROR(CheckCapability(device));
  RETURN_IF_ERROR(UseDevice(index));
  size_t free_bytes = 0, all_bytes = 0;
  RETURN_IF_ERROR(CudaError(cudaMemGetInfo(&free_bytes, &all_bytes), "cudaMemGetInfo"));
  device.free_bytes = free_bytes;
  device.memory_bytes = all_bytes;
  return device;
}

absl::Status UseDevice(int index) { return CudaError(cudaSetDevice(index), fmt::format("using cuda:{}", index)); }

absl::StatusOr<Stream> CreateStream() {
  cudaStream_t stream = nullptr;
  RETURN_IF_ERROR(CudaError(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream"));
  return Stream(stream);
}

absl::StatusOr<Event> CreateEvent() {
  cudaEvent_t event = nullptr;
  RETURN_IF_ERROR(CudaError(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event"));
  return Event(event);
}

absl::StatusOr<Event> CreateTimedEvent() {
  cudaEvent_t event = nullptr;
  RETURN_IF_ERROR(CudaError(cudaEventCreateWithFlags(&event, cudaEventDefault), "creating an event"));
  return Event(event);
}

absl::StatusOr<DeviceMemory> AllocateDevice(uint64_t bytes) {
  void* memory = nullptr;
  RETURN_IF_ERROR(CudaError(cudaMalloc(&memory, bytes), fmt::format("allocating {} on the device", HumanBytes(bytes))));
  return DeviceMemory(memory);
}

absl::StatusOr<PinnedMemory> AllocatePinned(uint64_t bytes) {
  void* memory = nullptr;
  RETURN_IF_ERROR(
      CudaError(cudaHostAlloc(&memory, bytes, cudaHostAllocDefault), fmt::format("pinning {}", HumanBytes(bytes))));
  return PinnedMemory(memory);
}

}  // namespace braid::gpu
