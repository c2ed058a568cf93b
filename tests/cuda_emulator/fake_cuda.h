#pragma once

// What tests say to the fake CUDA runtime beside its API: which machine it plays, and what goes wrong.
// A program that has no test of ours in it is told by its environment: FAKE_CUDA_DEVICES=2, FAKE_CUDA_MEMORY=1000000000
// (bytes of each), FAKE_CUDA_CAPABILITY=8.0, FAKE_CUDA_ERROR=no_device or insufficient_driver, FAKE_CUDA_FAILS_AT=1000,
// FAKE_CUDA_WATCHDOG_S=30, FAKE_CUDA_ONE_DEVICE=1 (who makes a context on a second one is told on stderr), and
// SIMT_SEED.

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdint>
#include <string>

namespace fake {

// Forgets every stream, event, graph and allocation, whatever they were doing, and all that was set here.
// REQUIRES: no other thread uses the runtime.
void Reset();

void SetDevices(int count);  // at most kDevicesMax; 1 unless said otherwise
inline constexpr int kDevicesMax = 8;
void SetDeviceMemory(size_t bytes);        // of each device; 80 GB. Only what is touched costs any.
void SetCapability(int major, int minor);  // 9.0
// Every call that needs a device returns this: cudaErrorNoDevice, cudaErrorInsufficientDriver.
void SetDriverError(cudaError_t error);

// Whether work goes on, some 2 ms later, though nobody waits for it. Without, a seed decides all.
void SetBackground(bool on);
// Whether what is legal but slow is an error: asynchronous copies from or to memory that is not pinned. On at first.
void SetStrict(bool on);
// How long somebody may wait while nothing moves, before every stuck stream is printed and the program aborts: 30 s.
void SetWatchdog(std::chrono::milliseconds patience);

// The n-th allocation of device memory, or graph that takes some, from now on fails (1: the next); 0: none.
void FailMalloc(int n);

// The n-th operation from now on (launch, copy, host function, step of a graph) fails its device; 0: none.
void FailOperation(int n);

// What the failure of a device was, for messages and tests; "" if none has failed.
std::string Failure(int device = 0);
size_t DeviceBytesInUse(int device = 0);
size_t PinnedBytesInUse();

// Since Reset().
struct Calls {
  uint64_t operations = 0;      // given to a stream or a capture: launches, copies, host functions, graphs
  uint64_t graph_launches = 0;  // of these
  uint64_t waits = 0;           // of the host
  uint64_t allocations = 0;     // of device or pinned memory
};
Calls CallsSoFar();

}  // namespace fake
