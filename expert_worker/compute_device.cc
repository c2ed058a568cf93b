#include "expert_worker/compute_device.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <string_view>
#include <system_error>

#include "base/status.h"
#include "expert_worker/cuda_backend.h"
#include "expert_worker/worker_options.h"
#include "model/config.h"

namespace braid {
namespace {

absl::Status ParseDevice(const std::string& text, ComputeDevice* device) {
  if (text == "cpu") return absl::OkStatus();
  const std::string_view cuda = "cuda";
  if (text.compare(0, cuda.size(), cuda) != 0) return InvalidArgument("--device " + text + ": say cpu, cuda or cuda:N");
  device->kind = ComputeDevice::Kind::kCuda;
  if (text.size() == cuda.size()) return absl::OkStatus();
  const char* const end = text.data() + text.size();
  const char* const digits = text.data() + cuda.size() + 1;
  uint8_t index = 0;  // no machine has more
  const auto [stopped, error] = std::from_chars(std::min(digits, end), end, index);
  device->index = index;
  if (text[cuda.size()] == ':' && stopped == end && error == std::errc()) return absl::OkStatus();
  return InvalidArgument("--device " + text + ": say cuda:0 for the first GPU, at most cuda:255");
}

absl::Status CheckCpu(const WorkerOptions& options) {
  if (!options.exact)
    return InvalidArgument("--fast is for GPUs, the CPU has nothing faster to give exactness up for: leave it out");
  if (!options.precision.empty()) {
    return InvalidArgument("--precision is for GPUs, the CPU computes in float32: leave it out, or add --device cuda");
  }
  if (options.weights != "auto") {
    return InvalidArgument("--weights " + options.weights +
                           " is for GPUs, the CPU has a format of its own for quantised weights: leave it out, or add "
                           "--device cuda");
  }
  if (options.overlap_rows > 0)
    return InvalidArgument("--overlap-rows is for GPUs, they exchange while they compute: leave it out");
  if (options.exchange == "nccl")
    return InvalidArgument("--exchange nccl is between GPUs: leave it out, or add --device cuda");
  return absl::OkStatus();
}

absl::Status CheckCuda(const WorkerOptions& options) {
  if (options.kv_type == "int8") {
    return InvalidArgument(
        "--kv-type int8 is for the CPU, a GPU keeps keys and values in bf16: leave one of --kv-type and "
        "--device out");
  }
  if (!options.exchange.empty() && options.exchange != "nccl") {
    return InvalidArgument("--exchange " + options.exchange +
                           " moves what is in the host's memory, GPUs exchange over nccl: leave one of --exchange and "
                           "--device out");
  }
  if (!options.precision.empty() && options.precision != "bf16" && options.precision != "fp8" &&
      options.precision != "float32")
    return InvalidArgument("--precision " + options.precision + ": say bf16, fp8 or float32");
  if (options.weights != "auto" && options.weights != "fp8")
    return InvalidArgument("--weights " + options.weights + ": say auto or fp8");
  if (options.precision == "float32" && !options.exact) {
    return InvalidArgument(
        "--precision float32 is for comparing with the CPU, --fast is not exact: leave one of them out");
  }
  return absl::OkStatus();
}

}  // namespace

std::string ComputeDevice::Name() const { return is_cuda() ? "cuda:" + std::to_string(index) : "cpu"; }

std::string ComputeDevice::Arithmetic() const {
  if (!is_cuda()) return "cpu";
  if (float32) return fp8 ? "cuda float32 fp8 weights" : "cuda float32";
  const std::string rounding = std::string(fp8_rows ? "cuda fp8" : "cuda bf16") + (exact ? " exact" : " fast");
  return fp8 && !fp8_rows ? rounding + " fp8 weights" : rounding;
}

absl::StatusOr<ComputeDevice> ChooseDevice(const WorkerOptions& options) {
  ComputeDevice device;
  RETURN_IF_ERROR(ParseDevice(options.device, &device));
  RETURN_IF_ERROR(device.is_cuda() ? CheckCuda(options) : CheckCpu(options));
  device.float32 = options.precision == "float32";
  device.exact = options.exact;
  device.fp8_rows = options.precision == "fp8";
  device.fp8 = options.weights == "fp8" || device.fp8_rows;
  device.exchange = !options.exchange.empty() ? options.exchange : device.is_cuda() ? "nccl" : "ucx";
  if (options.overlap_rows > 0) device.exchange += ", halves from " + std::to_string(options.overlap_rows) + " rows";
  return device;
}

absl::Status CheckModelFits(const ComputeDevice& device, const ModelConfig& config) {
  if (device.is_cuda() && config.architecture == "checksum")
    return InvalidArgument("--device " + device.Name() + ": a checksum model is for the CPU, leave --device out");
  return absl::OkStatus();
}

absl::Status CheckPresent(const ComputeDevice& device) {
  return device.is_cuda() ? CheckCudaDevice(device) : absl::OkStatus();
}

}  // namespace braid
