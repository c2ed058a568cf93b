// braid-cuda-probe: the GPU that a worker would use, or why it could not, and whether its kernels run there.

#include <fmt/format.h>

#include <cstdlib>

#include "base/status.h"
#include "kernels/cuda/gather.h"
#include "model/cuda/device_engine.h"

namespace {

using namespace braid;

// A kernel from end to end: a row of a table is gathered.
absl::Status RunKernel() {
  ASSIGN_OR_RETURN(const gpu::DeviceMemory memory, gpu::AllocateDevice(1024));
  auto* const floats = static_cast<float*>(memory.get());
  std::vector<float> table(64);
  for (int i = 0; i < 64; ++i) table[i] = static_cast<float>(i);
  const int32_t row = 3;
  const gpu::Gather op{
      1, {DType::kF32, 8, 8, floats}, reinterpret_cast<int32_t*>(floats + 64), DType::kF32, floats + 128};
  RETURN_IF_ERROR(gpu::CudaError(cudaMemcpy(floats, table.data(), 256, cudaMemcpyHostToDevice), "copying"));
  RETURN_IF_ERROR(gpu::CudaError(cudaMemcpy(floats + 64, &row, 4, cudaMemcpyHostToDevice), "copying"));
  RETURN_IF_ERROR(Check(op));
  RETURN_IF_ERROR(gpu::CudaError(Run(op, nullptr), "launching a kernel"));
  RETURN_IF_ERROR(gpu::CudaError(cudaMemcpy(table.data(), floats + 128, 32, cudaMemcpyDeviceToHost), "copying"));
  return table[0] == 24 && table[7] == 31 ? absl::OkStatus() : absl::InternalError("a kernel's result is wrong");
}

absl::Status Probe(int index) {
  ASSIGN_OR_RETURN(const gpu::Device device, gpu::OpenDevice(index));
  fmt::print("cuda:{}: {}, compute capability {}.{}, {} multiprocessors, {} of {} bytes free\n", device.index,
             device.name, device.major, device.minor, device.multiprocessors, device.free_bytes, device.memory_bytes);
  return RunKernel();
}

}  // namespace

int main(int argc, char** argv) {
  const absl::Status status = Probe(argc > 1 ? std::atoi(argv[1]) : 0);
  if (!status.ok()) fmt::print(stderr, "{}\n", StdView(status.message()));
  return status.ok() ? EXIT_SUCCESS : EXIT_FAILURE;
}
