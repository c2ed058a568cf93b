// The tests of kernels/cuda on the GPU of this machine: the same files that run in the emulator, over nvcc's kernels.
//
// What they ask for holds on a device too. Bits must be equal between schedules, tiles, batches and chunks, and where a
// test compares them with the CPU's no function is in it that rounds otherwise. Where one is, the bound has room for a
// GPU's: expf and exp2f are within 2 units in the last place there, tensor cores cut off where they should round.

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdio>

namespace {

constexpr int kSkipped = 77;  // to ctest

}  // namespace

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  int devices = 0, driver = 0, runtime = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    std::printf("no GPU to check kernels on: %s\n", error == cudaSuccess ? "none" : cudaGetErrorString(error));
    return kSkipped;
  }
  cudaDeviceProp device;
  if (cudaGetDeviceProperties(&device, 0) != cudaSuccess || cudaDriverGetVersion(&driver) != cudaSuccess ||
      cudaRuntimeGetVersion(&runtime) != cudaSuccess) {
    std::printf("a GPU that says nothing of itself: %s\n", cudaGetErrorString(cudaGetLastError()));
    return 1;
  }
  std::printf("%s, sm_%d%d, CUDA %d.%d, driver for %d.%d\n", device.name, device.major, device.minor, runtime / 1000,
              runtime % 1000 / 10, driver / 1000, driver % 1000 / 10);
  return RUN_ALL_TESTS();
}
