#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

// What tests of kernels have of the emulator (tests/cuda_emulator), for the same tests on a real GPU.

namespace simt {

// A GPU schedules as it likes: a seed only tells a test's numbers apart.
inline std::vector<uint64_t> Seeds() { return {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}; }
inline void SetSeed(uint64_t) {}
inline constexpr bool kManyThreads = true;

// A tensor for a kernel, in memory that host and device share. As the emulator's: of exactly n numbers, between zones
// that must not be written, and NaN before it is written. Whoever looks at it waits for the device first.
template <typename T>
class GlobalArray {
 public:
  explicit GlobalArray(size_t n) : n_(n) {
    void* memory = nullptr;
    const cudaError_t error = cudaMallocManaged(&memory, kZone + bytes() + kZone, cudaMemAttachGlobal);
    if (error != cudaSuccess) throw std::bad_alloc();
    memory_ = static_cast<unsigned char*>(memory);
    Wait();
    std::memset(memory_, kZoneByte, kZone);
    std::memset(memory_ + kZone, kUnwrittenByte, bytes());
    std::memset(memory_ + kZone + bytes(), kZoneByte, kZone);
  }
  explicit GlobalArray(const std::vector<T>& values) : GlobalArray(values.size()) {
    std::copy(values.begin(), values.end(), begin());
  }
  ~GlobalArray() {
    Wait();
    EXPECT_TRUE(ZoneIsWhole(memory_)) << "something was written before an array of " << n_;
    EXPECT_TRUE(ZoneIsWhole(memory_ + kZone + bytes())) << "something was written behind an array of " << n_;
    (void)cudaFree(memory_);
  }
  GlobalArray(const GlobalArray&) = delete;
  GlobalArray& operator=(const GlobalArray&) = delete;

  T* data() {
    Wait();
    return begin();
  }
  size_t size() const { return n_; }
  T& operator[](size_t i) { return data()[i]; }
  std::vector<T> values() {
    T* const from = data();
    return std::vector<T>(from, from + n_);
  }

 private:
  static constexpr size_t kZone = 256;  // what cudaMalloc aligns to
  static constexpr int kZoneByte = 0x7F, kUnwrittenByte = 0xFF;

  static void Wait() { EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess); }
  static bool ZoneIsWhole(const unsigned char* zone) {
    return std::all_of(zone, zone + kZone, [](unsigned char byte) { return byte == kZoneByte; });
  }
  T* begin() const { return reinterpret_cast<T*>(memory_ + kZone); }
  size_t bytes() const { return n_ * sizeof(T); }

  const size_t n_;
  unsigned char* memory_ = nullptr;
};

}  // namespace simt
