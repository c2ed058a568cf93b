// What the fake CUDA runtime promises.

#include "tests/cuda_emulator/fake_cuda.h"

#include <gmock/gmock.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

#include "tests/cuda_emulator/fake_fixture.h"
#include "tests/cuda_emulator/fake_streams.h"
#include "tests/cuda_emulator/simt.h"
//
#include "kernels/cuda/device.h"
#include "kernels/cuda/ptx_mma.h"

namespace fake {
namespace {

using braid::gpu::Launch;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

__global__ void AddOne(int* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] += 1;
}
__global__ void Fill(int* x, int n, int value) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = value;
}
__global__ void Add(const int* x, const int* y, int* sum, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum[i] = x[i] + y[i];
}
__global__ void Reverse(int* x) {
  SHARED_ARRAY(int, shared, 32);
  shared[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = shared[31 - threadIdx.x];
}
struct Op {
  char type;
  const int* x;
};
__global__ void TakeOp(Op op) {}
__global__ void Diverge() {
  if (threadIdx.x < 32) __syncthreads();
}

class FakeCuda : public FakeCudaTest {};

// Host functions say when they ran. (Atomics: what is in no order is a race.)
class Log {
 public:
  void Note(cudaStream_t stream, int number) {
    entries_.push_back(std::make_unique<Entry>(Entry{this, number}));
    EXPECT_CUDA(cudaLaunchHostFunc(
        stream,
        [](void* data) {
          auto* entry = static_cast<Entry*>(data);
          entry->log->numbers_[entry->log->count_++] = entry->number;
        },
        entries_.back().get()));
  }
  std::vector<int> numbers() const { return std::vector<int>(numbers_.begin(), numbers_.begin() + count_); }

 private:
  struct Entry {
    Log* log;
    int number;
  };
  std::vector<std::unique_ptr<Entry>> entries_;
  std::array<std::atomic<int>, 64> numbers_{};
  std::atomic<int> count_{0};
};

// ---- Streams.

TEST_F(FakeCuda, RunsNothingUntilSomebodyWaits) {
  const cudaStream_t stream = NewStream();
  int* const on_device = Device<int>(100);
  int* const host = Pinned<int>(100);
  std::iota(host, host + 100, 0);
  const uint64_t launches = simt::Totals().launches;
  EXPECT_CUDA(cudaMemcpyAsync(on_device, host, 400, cudaMemcpyHostToDevice, stream));
  EXPECT_CUDA(Launch(AddOne, dim3(4), dim3(32), 0, stream, on_device, 100));
  EXPECT_CUDA(cudaMemcpyAsync(host, on_device, 400, cudaMemcpyDeviceToHost, stream));
  EXPECT_EQ(simt::Totals().launches, launches);
  EXPECT_CUDA(cudaStreamSynchronize(stream));
  EXPECT_EQ(simt::Totals().launches, launches + 1);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(host[i], i + 1);
}

std::vector<int> OrderOfTwoStreams(uint64_t seed) {
  Reset();
  SetBackground(false);
  simt::SetSeed(seed);
  cudaStream_t streams[2];
  for (cudaStream_t& stream : streams) EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  Log log;
  for (int i = 0; i < 8; ++i) log.Note(streams[i % 2], i);
  EXPECT_CUDA(cudaDeviceSynchronize());
  return log.numbers();
}

TEST_F(FakeCuda, LetsTheSeedOrderStreams) {
  EXPECT_THAT(OrderOfTwoStreams(0), ElementsAre(0, 2, 4, 6, 1, 3, 5, 7));
  EXPECT_THAT(OrderOfTwoStreams(1), ElementsAre(1, 3, 5, 7, 0, 2, 4, 6));
  std::set<std::vector<int>> orders;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<int> order = OrderOfTwoStreams(seed);
    EXPECT_EQ(order, OrderOfTwoStreams(seed)) << seed;
    orders.insert(order);
    for (int parity : {0, 1}) {  // a stream's own order stays
      std::vector<int> own;
      std::copy_if(order.begin(), order.end(), std::back_inserter(own), [&](int i) { return i % 2 == parity; });
      EXPECT_TRUE(std::is_sorted(own.begin(), own.end()));
    }
  }
  EXPECT_GT(orders.size(), 6u);
}

TEST_F(FakeCuda, LetsEventsOrderStreams) {
  for (uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    const cudaStream_t a = NewStream(), b = NewStream();
    const cudaEvent_t event = NewEvent();
    int* const x = Device<int>(32);
    int* const host = Pinned<int>(32);
    EXPECT_CUDA(Launch(Fill, dim3(1), dim3(32), 0, a, x, 32, 6));
    EXPECT_CUDA(cudaEventRecord(event, a));
    EXPECT_CUDA(cudaStreamWaitEvent(b, event, 0));
    EXPECT_CUDA(Launch(AddOne, dim3(1), dim3(32), 0, b, x, 32));
    EXPECT_CUDA(cudaMemcpyAsync(host, x, 128, cudaMemcpyDeviceToHost, b));
    EXPECT_CUDA(cudaEventRecord(event, b));
    EXPECT_CUDA(cudaEventSynchronize(event));
    EXPECT_EQ(host[31], 7);
  }
}

TEST_F(FakeCuda, RacesNotInTheSharedMemoryOfKernels) {
  for (uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    for (int i = 0; i < 4; ++i) EXPECT_CUDA(Launch(Reverse, dim3(1), dim3(32), 0, NewStream(), Device<int>(32)));
    EXPECT_CUDA(cudaDeviceSynchronize());
  }
}

TEST_F(FakeCuda, WaitsForAnEventAsItWasRecordedLast) {
  simt::SetSeed(0);
  const cudaStream_t a = NewStream(), b = NewStream();
  const cudaEvent_t event = NewEvent();
  Log log;
  EXPECT_CUDA(cudaStreamWaitEvent(a, event, 0));  // never recorded: nothing to wait for
  log.Note(b, 1);
  EXPECT_CUDA(cudaEventRecord(event, b));
  EXPECT_CUDA(cudaStreamWaitEvent(a, event, 0));
  log.Note(b, 2);
  EXPECT_CUDA(cudaEventRecord(event, b));  // a does not wait for this one
  log.Note(a, 3);
  EXPECT_CUDA(cudaDeviceSynchronize());
  EXPECT_THAT(log.numbers(), ElementsAre(1, 3, 2));
}

TEST_F(FakeCuda, DoesALittleWhenAsked) {
  const cudaStream_t stream = NewStream();
  const cudaEvent_t event = NewEvent();
  EXPECT_CUDA(cudaEventQuery(event));
  Log log;
  log.Note(stream, 1);
  log.Note(stream, 2);
  EXPECT_CUDA(cudaEventRecord(event, stream));
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  EXPECT_THAT(log.numbers(), ElementsAre(1));
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  EXPECT_CUDA(cudaStreamQuery(stream));
  EXPECT_CUDA(cudaEventQuery(event));
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);  // not ready is none
}

TEST_F(FakeCuda, GoesOnInTheBackground) {
  SetBackground(true);
  std::atomic<bool> done{false};
  EXPECT_CUDA(cudaLaunchHostFunc(
      NewStream(), [](void* data) { *static_cast<std::atomic<bool>*>(data) = true; }, &done));
  while (!done) std::this_thread::yield();
}

TEST_F(FakeCuda, HasBlockingStreamsWaitForTheLegacyOne) {
  for (uint64_t seed : {0, 1}) {
    simt::SetSeed(seed);
    const cudaStream_t blocking = NewStream(cudaStreamDefault);
    Log log;
    log.Note(blocking, 1);
    log.Note(nullptr, 2);
    log.Note(blocking, 3);
    EXPECT_CUDA(cudaDeviceSynchronize());
    EXPECT_THAT(log.numbers(), ElementsAre(1, 2, 3));
  }
}

TEST_F(FakeCuda, HasNonBlockingStreamsIgnoreTheLegacyOne) {
  simt::SetSeed(1);  // the stream made last goes first
  const cudaStream_t stream = NewStream();
  Log log;
  log.Note(nullptr, 1);
  log.Note(stream, 2);
  EXPECT_CUDA(cudaDeviceSynchronize());
  EXPECT_THAT(log.numbers(), ElementsAre(2, 1));
}

TEST_F(FakeCuda, LetsNoHostFunctionCallTheRuntime) {
  const cudaStream_t stream = NewStream();
  cudaError_t error = cudaSuccess;
  EXPECT_CUDA(cudaLaunchHostFunc(
      stream,
      [](void* data) {
        int device;
        *static_cast<cudaError_t*>(data) = cudaGetDevice(&device);
      },
      &error));
  EXPECT_CUDA(cudaStreamSynchronize(stream));
  EXPECT_EQ(error, cudaErrorNotPermitted);
}

TEST_F(FakeCuda, FinishesWhatADestroyedStreamHasToDo) {
  const cudaStream_t stream = NewStream();
  Log log;
  log.Note(stream, 1);
  EXPECT_CUDA(cudaStreamDestroy(stream));
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
  EXPECT_CUDA(cudaDeviceSynchronize());
  EXPECT_THAT(log.numbers(), ElementsAre(1));
}

TEST_F(FakeCuda, AsksAgainWhoWaitsForAPeer) {
  const cudaStream_t stream = NewStream(), other = NewStream();
  int asked = 0;
  EXPECT_CUDA(Enqueue(stream, [&] {
    return Operation{"a peer's turn", [&](cudaError_t*) { return ++asked < 5 ? Progress::kWaiting : Progress::kDone; }};
  }));
  EXPECT_CUDA(cudaStreamSynchronize(other));
  EXPECT_CUDA(cudaStreamSynchronize(stream));
  EXPECT_EQ(asked, 5);
}

void GetStuck() {
  SetWatchdog(std::chrono::milliseconds(50));
  cudaStream_t stream, other;
  cudaEvent_t event;
  EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  EXPECT_CUDA(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  EXPECT_CUDA(cudaEventCreate(&event));
  EXPECT_CUDA(Enqueue(stream, [] {
    return Operation{"a peer that never comes", [](cudaError_t*) { return Progress::kWaiting; }};
  }));
  EXPECT_CUDA(cudaEventRecord(event, stream));
  EXPECT_CUDA(cudaStreamWaitEvent(other, event, 0));
  EXPECT_CUDA(cudaStreamSynchronize(other));
}

TEST_F(FakeCuda, ShowsEveryStuckStreamInsteadOfHanging) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(GetStuck(),
               "cudaStreamSynchronize waits(.|\n)*stream 0, 2 to do: a peer that never comes\n"
               ".*stream 1, 1 to do: an event that is not reached");
}

// ---- Memory.

TEST_F(FakeCuda, GivesMemoryThatHoldsNoNumber) {
  for (uint64_t seed : {0, 1}) {
    simt::SetSeed(seed);
    float* const x = Device<float>(100);
    float* const host = Pinned<float>(100);
    EXPECT_CUDA(cudaMemcpy(host, x, 400, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 100; ++i) EXPECT_TRUE(std::isnan(host[i]) || std::abs(host[i]) > 1e38);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(x) % 256, 0u);
  }
}

TEST_F(FakeCuda, HasAsMuchMemoryAsItWasTold) {
  SetDeviceMemory(10000);
  char* const first = Device<char>(8000);
  void* second = nullptr;
  EXPECT_EQ(cudaMalloc(&second, 3000), cudaErrorMemoryAllocation);
  EXPECT_EQ(second, nullptr);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  size_t free, total;
  EXPECT_CUDA(cudaMemGetInfo(&free, &total));
  EXPECT_EQ(total, 10000u);
  EXPECT_EQ(free, total - 8192);
  EXPECT_CUDA(cudaFree(first));
  EXPECT_EQ(DeviceBytesInUse(), 0u);
  EXPECT_CUDA(cudaMalloc(&second, 3000));
}

TEST_F(FakeCuda, PaysOnlyForMemoryThatIsTouched) {
  char* const large = Device<char>(size_t{60} << 30);
  EXPECT_CUDA(cudaMemset(large + (size_t{50} << 30), 1, 1000));
  EXPECT_CUDA(cudaFree(large));
}

TEST_F(FakeCuda, FailsTheAllocationThatATestSays) {
  FailMalloc(2);
  void* p = nullptr;
  EXPECT_CUDA(cudaMalloc(&p, 10));
  EXPECT_EQ(cudaMalloc(&p, 10), cudaErrorMemoryAllocation);
  EXPECT_CUDA(cudaMalloc(&p, 10));
}

TEST_F(FakeCuda, RefusesCopiesThatAGpuMayForgive) {
  const cudaStream_t stream = NewStream();
  char* const device = Device<char>(100);
  char* const pinned = Pinned<char>(100);
  char pageable[100] = {};
  const auto copy = [&](void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    return cudaMemcpyAsync(to, from, bytes, kind, stream);
  };
  EXPECT_CUDA(copy(device, pinned, 100, cudaMemcpyHostToDevice));
  EXPECT_CUDA(copy(device, pinned, 100, cudaMemcpyDefault));
  EXPECT_EQ(copy(device, pinned, 101, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(copy(device + 90, pinned, 11, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(copy(device, pinned, 100, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(copy(device, pageable, 100, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  SetStrict(false);
  EXPECT_CUDA(copy(device, pageable, 100, cudaMemcpyHostToDevice));
  SetStrict(true);
  EXPECT_CUDA(cudaHostRegister(pageable, 100, cudaHostRegisterDefault));
  EXPECT_CUDA(copy(device, pageable, 100, cudaMemcpyHostToDevice));
  EXPECT_EQ(cudaMemcpy2DAsync(device, 30, pinned, 10, 10, 4, cudaMemcpyHostToDevice, stream), cudaSuccess);
  EXPECT_EQ(cudaMemcpy2DAsync(device, 31, pinned, 10, 10, 4, cudaMemcpyHostToDevice, stream), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemsetAsync(device + 1, 0, 100, stream), cudaErrorInvalidValue);
  EXPECT_CUDA(cudaStreamSynchronize(stream));
  EXPECT_CUDA(cudaHostUnregister(pageable));
}

TEST_F(FakeCuda, CopiesRowsByTheirPitch) {
  char* const device = Device<char>(12);
  char* const host = Pinned<char>(12);
  std::iota(host, host + 12, 'a');
  EXPECT_CUDA(cudaMemset(device, '.', 12));
  EXPECT_CUDA(cudaMemcpy2D(device, 4, host, 2, 2, 3, cudaMemcpyHostToDevice));
  EXPECT_CUDA(cudaMemset2DAsync(device + 3, 4, '!', 1, 2, nullptr));
  EXPECT_CUDA(cudaMemcpy(host, device, 12, cudaMemcpyDeviceToHost));
  EXPECT_EQ(std::string(host, 12), "ab.!cd.!ef..");
}

TEST_F(FakeCuda, FreesOnlyWhatItGaveAndAfterItsUse) {
  int x;
  EXPECT_EQ(cudaFree(&x), cudaErrorInvalidValue);
  EXPECT_CUDA(cudaFree(nullptr));
  char* const pinned = Pinned<char>(10);
  EXPECT_EQ(cudaFree(pinned), cudaErrorInvalidValue);
  EXPECT_CUDA(cudaFreeHost(pinned));
  EXPECT_EQ(PinnedBytesInUse(), 0u);
  int* const device = Device<int>(10);
  EXPECT_EQ(cudaFree(device + 1), cudaErrorInvalidValue);
  Log log;
  log.Note(NewStream(), 1);
  EXPECT_CUDA(cudaFree(device));
  EXPECT_THAT(log.numbers(), ElementsAre(1));
}

#ifndef __SANITIZE_ADDRESS__  // which reports the line
TEST_F(FakeCuda, FailsADeviceThatWritesBesideAnAllocation) {
  const cudaStream_t stream = NewStream();
  int* const x = Device<int>(100);
  EXPECT_CUDA(Launch(Fill, dim3(1), dim3(32), 0, stream, x, 101, 1));
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorIllegalAddress);
  EXPECT_THAT(Failure(), HasSubstr("beside an allocation of 400 bytes"));
  EXPECT_THAT(Failure(), HasSubstr("fake_cuda_test.cc"));
}
#endif

TEST_F(FakeCuda, GivesKernelsNoMemoryThatTheyCannotReach) {
  const cudaStream_t stream = NewStream();
  std::vector<int> on_heap(32);
  int on_stack[32] = {};
  int* const device = Device<int>(32);
  const auto launch = [&](int* x) { return Launch(Fill, dim3(1), dim3(32), 0, stream, x, 32, 1); };
  EXPECT_EQ(launch(on_heap.data()), cudaErrorIllegalAddress);
  EXPECT_EQ(launch(on_stack), cudaErrorIllegalAddress);
  EXPECT_CUDA(launch(device));
  EXPECT_CUDA(launch(Pinned<int>(32)));
  SetDevices(2);
  EXPECT_CUDA(cudaSetDevice(1));
  int* const elsewhere = Device<int>(32);
  EXPECT_CUDA(cudaSetDevice(0));
  EXPECT_EQ(launch(elsewhere), cudaErrorIllegalAddress);
  EXPECT_CUDA(Launch(Fill, dim3(1), dim3(32), 0, stream, device + 32, 0, 1));  // its end
  Op op;
  std::memset(static_cast<void*>(&op), 0, sizeof op);
  op.x = on_stack;
  EXPECT_EQ(Launch(TakeOp, dim3(1), dim3(32), 0, stream, op), cudaErrorIllegalAddress);
  int* const stale = on_stack;
  std::memcpy(static_cast<void*>(&op), &stale, sizeof stale);  // seven bytes of it in the padding
  op.x = device;
  EXPECT_CUDA(Launch(TakeOp, dim3(1), dim3(32), 0, stream, op));
  EXPECT_CUDA(cudaStreamSynchronize(stream));
}

// ---- Devices.

TEST_F(FakeCuda, PlaysTheMachineThatATestSays) {
  SetDevices(2);
  SetCapability(8, 0);
  int count = 0, major = 0, minor = -1;
  EXPECT_CUDA(cudaGetDeviceCount(&count));
  EXPECT_EQ(count, 2);
  EXPECT_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 1));
  EXPECT_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 1));
  EXPECT_EQ(major * 10 + minor, 80);
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
  cudaDeviceProp properties;
  EXPECT_CUDA(cudaGetDeviceProperties(&properties, 0));
  EXPECT_EQ(properties.major, 8);
  EXPECT_EQ(properties.totalGlobalMem, size_t{80} << 30);
  EXPECT_CUDA(cudaFuncSetAttribute(reinterpret_cast<const void*>(Diverge), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   163 << 10));
  EXPECT_EQ(cudaFuncSetAttribute(reinterpret_cast<const void*>(Diverge), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 164 << 10),
            cudaErrorInvalidValue);
}

TEST_F(FakeCuda, HasKernelsForTheArchitecturesThatTheyAreCompiledFor) {
  const auto launch = [](int major, int minor) {
    SetCapability(major, minor);
    return Launch(Fill, dim3(1), dim3(32), 0, nullptr, static_cast<int*>(nullptr), 0, 1);
  };
  EXPECT_CUDA(launch(8, 9));
  EXPECT_CUDA(launch(9, 0));
  EXPECT_CUDA(launch(10, 0));
  EXPECT_EQ(launch(7, 5), cudaErrorNoKernelImageForDevice);
  EXPECT_EQ(launch(12, 0), cudaErrorNoKernelImageForDevice);
}

__global__ void MultiplyFp8() {
  float d[4] = {};
  braid::gpu::MmaE4M3(d, {0, 0, 0, 0}, {0, 0});
}
__global__ void UseSharedArray() {
  SHARED_ARRAY(int, array, 32);
  array[threadIdx.x] = 0;
}

// On 8.9, too, there is what was compiled for 8.0.
TEST_F(FakeCuda, HasTheInstructionsAndTheSharedMemoryOfItsGpu) {
  constexpr int kMost = (99 << 10) - 128;
  EXPECT_CUDA(braid::gpu::AllowSharedBytes(UseSharedArray, kMost));
  const auto launch = [](auto kernel, size_t bytes, int major, int minor) {
    Reset();
    SetCapability(major, minor);
    cudaError_t error = Launch(kernel, dim3(1), dim3(32), bytes, nullptr);
    if (error == cudaSuccess) error = cudaDeviceSynchronize();
    return error;
  };
  EXPECT_CUDA(launch(MultiplyFp8, 0, 9, 0));
  EXPECT_CUDA(launch(MultiplyFp8, 0, 10, 0));
  EXPECT_CUDA(launch(UseSharedArray, kMost, 8, 9));
  EXPECT_EQ(launch(MultiplyFp8, 0, 8, 9), cudaErrorLaunchFailure);
  EXPECT_THAT(Failure(), HasSubstr("mma.m16n8k32 of e4m3 is of sm_89, the kernel was compiled for sm_80"));
  EXPECT_CUDA(braid::gpu::AllowSharedBytes(UseSharedArray, 99 << 10));
  EXPECT_EQ(launch(UseSharedArray, 0, 8, 6), cudaErrorLaunchFailure);
  EXPECT_THAT(Failure(), HasSubstr("128 bytes static, 101376 dynamic in 1 arrays: more than the 101376 of a block"));
  EXPECT_CUDA(launch(UseSharedArray, 99 << 10, 8, 0));
}

TEST_F(FakeCuda, PlaysAMachineWithoutADriver) {
  SetDriverError(cudaErrorInsufficientDriver);
  int count = 5;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorInsufficientDriver);
  void* p;
  EXPECT_EQ(cudaMalloc(&p, 10), cudaErrorInsufficientDriver);
  EXPECT_THAT(cudaGetErrorString(cudaErrorInsufficientDriver), HasSubstr("driver version is insufficient"));
  SetDriverError(cudaSuccess);
  SetDevices(0);
  EXPECT_EQ(cudaSetDevice(0), cudaErrorNoDevice);
}

TEST_F(FakeCuda, KeepsDevicesApart) {
  SetDevices(2);
  SetDeviceMemory(1024);
  const cudaStream_t first = NewStream();
  void* p;
  EXPECT_CUDA(cudaMalloc(&p, 900));
  EXPECT_CUDA(cudaSetDevice(1));
  void* q;
  EXPECT_CUDA(cudaMalloc(&q, 900));
  EXPECT_TRUE(IsDeviceMemory(q, 900));
  EXPECT_FALSE(IsDeviceMemory(p, 900));
  EXPECT_TRUE(IsDeviceMemory(p, 900, 0));
  EXPECT_FALSE(IsDeviceMemory(p, 901, 0));
  EXPECT_EQ(DeviceOf(first), 0);
  EXPECT_EQ(Launch(Fill, dim3(1), dim3(32), 0, first, static_cast<int*>(q), 1, 1), cudaErrorInvalidResourceHandle);
  EXPECT_CUDA(cudaSetDevice(0));
}

// A thread's own device, whose streams come and go; polled for, waited for or left to the background.
void UseDevice(int device) {
  constexpr int kN = 40;
  EXPECT_CUDA(cudaSetDevice(device));
  int *x = nullptr, *host = nullptr;
  EXPECT_CUDA(cudaMallocHost(reinterpret_cast<void**>(&host), kN * sizeof(int)));
  for (int round = 0; round < 12; ++round) {
    cudaStream_t stream;
    EXPECT_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    EXPECT_CUDA(cudaMalloc(reinterpret_cast<void**>(&x), kN * sizeof(int)));
    std::iota(host, host + kN, round);
    EXPECT_CUDA(cudaMemcpyAsync(x, host, kN * sizeof(int), cudaMemcpyHostToDevice, stream));
    EXPECT_CUDA(Launch(AddOne, dim3(2), dim3(32), 0, stream, x, kN));
    EXPECT_CUDA(cudaMemcpyAsync(host, x, kN * sizeof(int), cudaMemcpyDeviceToHost, stream));
    if (round % 3 == 0) {
      EXPECT_CUDA(cudaStreamSynchronize(stream));
    } else if (round % 3 == 1) {
      while (cudaStreamQuery(stream) == cudaErrorNotReady) std::this_thread::yield();
    } else {
      std::atomic<bool> done{false};
      EXPECT_CUDA(cudaLaunchHostFunc(
          stream, [](void* data) { *static_cast<std::atomic<bool>*>(data) = true; }, &done));
      while (!done) std::this_thread::yield();
    }
    for (int i = 0; i < kN; ++i) EXPECT_EQ(host[i], round + i + 1);
    EXPECT_CUDA(cudaFree(x));
    EXPECT_CUDA(cudaStreamDestroy(stream));
  }
  EXPECT_CUDA(cudaFreeHost(host));
}

TEST_F(FakeCuda, ServesManyThreads) {
  SetBackground(true);
  SetDevices(4);
  std::vector<std::thread> threads;
  for (int device = 0; device < 4; ++device) threads.emplace_back([device] { UseDevice(device); });
  for (std::thread& thread : threads) thread.join();
  for (int device = 0; device < 4; ++device) EXPECT_EQ(DeviceBytesInUse(device), 0u);
}

TEST_F(FakeCuda, FailsADeviceForGoodWhenAKernelDoes) {
  SetDevices(2);
  const cudaStream_t stream = NewStream();
  Log log;
  EXPECT_CUDA(Launch(Diverge, dim3(1), dim3(64), 0, stream));
  log.Note(stream, 1);  // is never run
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorLaunchFailure);
  EXPECT_THAT(Failure(), HasSubstr("fake_cuda_test.cc"));
  EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchFailure);
  EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchFailure);  // nothing makes it forget
  void* p;
  EXPECT_EQ(cudaMalloc(&p, 10), cudaErrorLaunchFailure);
  EXPECT_TRUE(log.numbers().empty());
  EXPECT_CUDA(cudaSetDevice(1));
  EXPECT_CUDA(cudaMalloc(&p, 10));
}

TEST_F(FakeCuda, FailsADeviceWhenATestSays) {
  const cudaStream_t stream = NewStream();
  FailOperation(3);
  Log log;
  for (int i = 0; i < 4; ++i) log.Note(stream, i);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorLaunchFailure);
  EXPECT_THAT(log.numbers(), ElementsAre(0, 1));
}

TEST_F(FakeCuda, AThreadThatChoseNoDeviceUsesTheFirstOne) {
  setenv("FAKE_CUDA_ONE_DEVICE", "1", /*replace=*/1);
  Reset();
  unsetenv("FAKE_CUDA_ONE_DEVICE");
  SetDevices(2);
  EXPECT_CUDA(cudaSetDevice(1));
  const cudaEvent_t event = NewEvent();
  testing::internal::CaptureStderr();
  std::thread([event] { EXPECT_CUDA(cudaEventDestroy(event)); }).join();
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "fake CUDA: a process of device 1 makes a context on device 0, too\n");
}

// ---- Captures and graphs.

class FakeGraphs : public FakeCudaTest {
 protected:
  cudaGraphExec_t EndAndInstantiate(cudaStream_t stream) {
    cudaGraph_t graph = nullptr;
    EXPECT_CUDA(cudaStreamEndCapture(stream, &graph));
    cudaGraphExec_t executable = nullptr;
    EXPECT_CUDA(cudaGraphInstantiate(&executable, graph, 0));
    EXPECT_CUDA(cudaGraphDestroy(graph));
    return executable;
  }
  static void Begin(cudaStream_t stream, cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal) {
    EXPECT_CUDA(cudaStreamBeginCapture(stream, mode));
  }
  // Ends a capture that something was wrong with.
  static cudaError_t EndInvalid(cudaStream_t stream) {
    cudaGraph_t graph = reinterpret_cast<cudaGraph_t>(1);
    const cudaError_t error = cudaStreamEndCapture(stream, &graph);
    EXPECT_EQ(graph, nullptr);
    return error;
  }
};

TEST_F(FakeGraphs, RunWhatWasCapturedWithItsArgumentsEachTime) {
  const cudaStream_t stream = NewStream();
  int* const x = Device<int>(32);
  int* const host = Pinned<int>(1);
  EXPECT_CUDA(cudaMemset(x, 0, 128));
  Begin(stream);
  {
    int n = 32;
    EXPECT_CUDA(Launch(AddOne, dim3(1), dim3(32), 0, stream, x, n));
    n = 0;
  }
  EXPECT_CUDA(cudaMemcpyAsync(host, x + 31, 4, cudaMemcpyDeviceToHost, stream));
  const cudaGraphExec_t executable = EndAndInstantiate(stream);
  for (int i = 1; i <= 3; ++i) {
    EXPECT_CUDA(cudaGraphLaunch(executable, stream));
    EXPECT_CUDA(cudaStreamSynchronize(stream));
    EXPECT_EQ(*host, i);
  }
  EXPECT_EQ(CallsSoFar().graph_launches, 3u);
  EXPECT_CUDA(cudaGraphLaunch(executable, stream));
  EXPECT_CUDA(cudaGraphExecDestroy(executable));  // what was launched goes on
  EXPECT_CUDA(cudaStreamSynchronize(stream));
  EXPECT_EQ(*host, 4);
  EXPECT_EQ(cudaGraphLaunch(executable, stream), cudaErrorInvalidValue);
}

TEST_F(FakeGraphs, ForkAndJoinByEvents) {
  std::set<std::vector<int>> orders;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    simt::SetSeed(seed);
    const cudaStream_t a = NewStream(), b = NewStream();
    const cudaEvent_t fork = NewEvent(), join = NewEvent();
    int *const x = Device<int>(32), *const y = Device<int>(32), *const sum = Device<int>(32);
    int* const host = Pinned<int>(32);
    Log log;
    Begin(a);
    log.Note(a, 0);
    EXPECT_CUDA(cudaEventRecord(fork, a));
    EXPECT_CUDA(cudaStreamWaitEvent(b, fork, 0));
    EXPECT_CUDA(Launch(Fill, dim3(1), dim3(32), 0, b, x, 32, 3));
    log.Note(b, 1);
    EXPECT_CUDA(Launch(Fill, dim3(1), dim3(32), 0, a, y, 32, 4));
    log.Note(a, 2);
    EXPECT_CUDA(cudaEventRecord(join, b));
    EXPECT_CUDA(cudaStreamWaitEvent(a, join, 0));
    EXPECT_CUDA(Launch(Add, dim3(1), dim3(32), 0, a, x, y, sum, 32));
    EXPECT_CUDA(cudaMemcpyAsync(host, sum, 128, cudaMemcpyDeviceToHost, a));
    const cudaGraphExec_t executable = EndAndInstantiate(a);
    EXPECT_CUDA(cudaGraphLaunch(executable, a));
    EXPECT_CUDA(cudaStreamSynchronize(a));
    EXPECT_EQ(host[31], 7);
    EXPECT_EQ(log.numbers().front(), 0);
    orders.insert(log.numbers());
  }
  EXPECT_EQ(orders.size(), 2u);
}

TEST_F(FakeGraphs, RefuseWorkThatIsNotJoined) {
  const cudaStream_t a = NewStream(), b = NewStream();
  const cudaEvent_t fork = NewEvent();
  Log log;
  Begin(a);
  EXPECT_CUDA(cudaEventRecord(fork, a));
  EXPECT_CUDA(cudaStreamWaitEvent(b, fork, 0));
  log.Note(b, 1);
  EXPECT_EQ(EndInvalid(a), cudaErrorStreamCaptureUnjoined);
  EXPECT_CUDA(cudaStreamSynchronize(b));  // is out of the capture
}

TEST_F(FakeGraphs, RefuseToDependOnWhatWasNotCaptured) {
  const cudaStream_t a = NewStream(), b = NewStream();
  const cudaEvent_t event = NewEvent();
  EXPECT_CUDA(cudaEventRecord(event, b));
  Begin(a);
  EXPECT_EQ(cudaStreamWaitEvent(a, event, 0), cudaErrorStreamCaptureIsolation);
  EXPECT_EQ(EndInvalid(a), cudaErrorStreamCaptureInvalidated);
}

TEST_F(FakeGraphs, RefuseWhatNoCaptureAllows) {
  const cudaStream_t stream = NewStream();
  const cudaEvent_t event = NewEvent();
  char* const device = Device<char>(16);
  char pageable[16] = {};
  void* p = nullptr;
  const std::vector<std::pair<const char*, std::function<cudaError_t()>>> calls = {
      {"cudaMalloc", [&] { return cudaMalloc(&p, 10); }},
      {"cudaMallocHost", [&] { return cudaMallocHost(&p, 10); }},
      {"cudaFree", [&] { return cudaFree(device); }},
      {"cudaStreamSynchronize", [&] { return cudaStreamSynchronize(stream); }},
      {"cudaStreamQuery", [&] { return cudaStreamQuery(stream); }},
      {"cudaDeviceSynchronize", [&] { return cudaDeviceSynchronize(); }},
      {"cudaMemcpy", [&] { return cudaMemcpy(device, pageable, 16, cudaMemcpyHostToDevice); }},
  };
  for (const auto& [name, call] : calls) {
    Begin(stream);
    EXPECT_EQ(call(), cudaErrorStreamCaptureUnsupported) << name;
    cudaStreamCaptureStatus status;
    EXPECT_CUDA(cudaStreamIsCapturing(stream, &status));
    EXPECT_EQ(status, cudaStreamCaptureStatusInvalidated) << name;
    EXPECT_EQ(EndInvalid(stream), cudaErrorStreamCaptureInvalidated) << name;
  }
  Begin(stream);
  EXPECT_NE(cudaMemcpyAsync(device, pageable, 16, cudaMemcpyHostToDevice, stream), cudaSuccess);
  EXPECT_CUDA(cudaEventRecord(event, stream));
  EXPECT_EQ(cudaEventQuery(event), cudaErrorCapturedEvent);
  EXPECT_EQ(cudaEventSynchronize(event), cudaErrorCapturedEvent);
  EXPECT_EQ(cudaStreamEndCapture(NewStream(), nullptr), cudaErrorInvalidValue);
}

TEST_F(FakeGraphs, LetOtherThreadsWorkAsTheirModeSays) {
  const cudaStream_t stream = NewStream();
  const auto malloc_elsewhere = [] {
    cudaError_t error;
    std::thread([&] {
      void* p;
      error = cudaMalloc(&p, 10);
    }).join();
    return error;
  };
  void* p = nullptr;
  Begin(stream, cudaStreamCaptureModeThreadLocal);
  EXPECT_CUDA(malloc_elsewhere());
  EndAndInstantiate(stream);
  Begin(stream, cudaStreamCaptureModeRelaxed);
  EXPECT_CUDA(cudaMalloc(&p, 10));
  EndAndInstantiate(stream);
  Begin(stream, cudaStreamCaptureModeGlobal);
  EXPECT_EQ(malloc_elsewhere(), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(EndInvalid(stream), cudaErrorStreamCaptureInvalidated);
}

TEST_F(FakeGraphs, KeepTheLegacyStreamOutOfBlockingStreamsCaptures) {
  const cudaStream_t blocking = NewStream(cudaStreamDefault), stream = NewStream();
  int* const x = Device<int>(32);
  Begin(blocking);
  EXPECT_EQ(Launch(AddOne, dim3(1), dim3(32), 0, nullptr, x, 32), cudaErrorStreamCaptureImplicit);
  EXPECT_EQ(EndInvalid(blocking), cudaErrorStreamCaptureInvalidated);
  Begin(stream);
  EXPECT_CUDA(Launch(AddOne, dim3(1), dim3(32), 0, nullptr, x, 32));
  EndAndInstantiate(stream);
}

TEST_F(FakeGraphs, AreUpdatedToOnesOfTheSameShape) {
  const cudaStream_t stream = NewStream();
  int* const x = Device<int>(32);
  int* const host = Pinned<int>(1);
  const auto capture = [&](int value, int times) {
    Begin(stream);
    for (int i = 0; i < times; ++i) EXPECT_CUDA(Launch(Fill, dim3(1), dim3(32), 0, stream, x, 32, value));
    cudaGraph_t graph = nullptr;
    EXPECT_CUDA(cudaStreamEndCapture(stream, &graph));
    return graph;
  };
  cudaGraphExec_t executable = nullptr;
  EXPECT_CUDA(cudaGraphInstantiate(&executable, capture(1, 1), 0));
  cudaGraphExecUpdateResultInfo result;
  EXPECT_CUDA(cudaGraphExecUpdate(executable, capture(2, 1), &result));
  EXPECT_EQ(cudaGraphExecUpdate(executable, capture(3, 2), &result), cudaErrorGraphExecUpdateFailure);
  EXPECT_EQ(result.result, cudaGraphExecUpdateErrorTopologyChanged);
  EXPECT_CUDA(cudaGraphLaunch(executable, stream));
  EXPECT_CUDA(cudaMemcpyAsync(host, x, 4, cudaMemcpyDeviceToHost, stream));
  EXPECT_CUDA(cudaStreamSynchronize(stream));
  EXPECT_EQ(*host, 2);
}

TEST_F(FakeGraphs, RunOneLaunchAfterTheOther) {
  for (uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    const cudaStream_t a = NewStream(), b = NewStream();
    Log log;
    Begin(a);
    log.Note(a, 1);
    log.Note(a, 2);
    const cudaGraphExec_t executable = EndAndInstantiate(a);
    EXPECT_CUDA(cudaGraphLaunch(executable, a));
    EXPECT_CUDA(cudaGraphLaunch(executable, b));
    EXPECT_CUDA(cudaDeviceSynchronize());
    EXPECT_THAT(log.numbers(), ElementsAre(1, 2, 1, 2));
  }
}

TEST_F(FakeGraphs, FailTheDeviceWhenAKernelOfTheirsDoes) {
  const cudaStream_t stream = NewStream();
  Begin(stream);
  EXPECT_CUDA(Launch(Diverge, dim3(1), dim3(64), 0, stream));
  EXPECT_CUDA(cudaGraphLaunch(EndAndInstantiate(stream), stream));
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorLaunchFailure);
}

}  // namespace
}  // namespace fake
