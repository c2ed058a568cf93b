#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "tests/cuda_emulator/fake_cuda.h"

namespace fake {

#define EXPECT_CUDA(expression) EXPECT_EQ(expression, cudaSuccess)

// A test of what uses the fakes: a fresh machine, where the seed alone decides what runs when.
class FakeCudaTest : public ::testing::Test {
 protected:
  FakeCudaTest() {
    Reset();
    SetBackground(false);
  }
  ~FakeCudaTest() override { Reset(); }

  template <typename T>
  static T* Device(size_t n) {
    void* p = nullptr;
    EXPECT_CUDA(cudaMalloc(&p, n * sizeof(T)));
    return static_cast<T*>(p);
  }
  template <typename T>
  static T* Pinned(size_t n) {
    void* p = nullptr;
    EXPECT_CUDA(cudaMallocHost(&p, n * sizeof(T)));
    return static_cast<T*>(p);
  }
  static cudaStream_t NewStream(unsigned flags = cudaStreamNonBlocking) {
    cudaStream_t stream = nullptr;
    EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, flags));
    return stream;
  }
  static cudaEvent_t NewEvent() {
    cudaEvent_t event = nullptr;
    EXPECT_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return event;
  }
};

}  // namespace fake
