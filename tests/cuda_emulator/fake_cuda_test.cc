// What the fake CUDA runtime promises.

#include "tests/cuda_emulator/fake_cuda.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <set>
#include <thread>

#include "tests/cuda_emulator/simt.h"
//
#include "kernels/cuda/device.h"

namespace fake {
namespace {

using braid::gpu::Launch;

#define EXPECT_CUDA(expression) EXPECT_EQ(expression, cudaSuccess)

__global__ void AddOne(int* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] += 1;
}

class FakeCuda : public ::testing::Test {
 protected:
  FakeCuda() {
    Reset();
    SetBackground(false);
  }
  ~FakeCuda() override { Reset(); }

  int* Ints(size_t n) {
    void* p = nullptr;
    EXPECT_CUDA(cudaMalloc(&p, n * sizeof(int)));
    return static_cast<int*>(p);
  }
  int* Pinned(size_t n) {
    void* p = nullptr;
    EXPECT_CUDA(cudaMallocHost(&p, n * sizeof(int)));
    return static_cast<int*>(p);
  }
  cudaStream_t NewStream() {
    cudaStream_t stream = nullptr;
    EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
  }
};

TEST_F(FakeCuda, RunsNothingUntilSomebodyWaits) {
  const cudaStream_t stream = NewStream();
  int* const on_device = Ints(100);
  int* const host = Pinned(100);
  std::iota(host, host + 100, 0);
  EXPECT_CUDA(cudaMemcpyAsync(on_device, host, 400, cudaMemcpyHostToDevice, stream));
  EXPECT_CUDA(Launch(AddOne, dim3(4), dim3(32), 0, stream, on_device, 100));
  EXPECT_CUDA(cudaMemcpyAsync(host, on_device, 400, cudaMemcpyDeviceToHost, stream));
  EXPECT_EQ(simt::Totals().launches, 0u);
  EXPECT_CUDA(cudaStreamSynchronize(stream));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(host[i], i + 1);
}

}  // namespace
}  // namespace fake
