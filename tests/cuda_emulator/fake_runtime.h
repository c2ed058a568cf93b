#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "tests/cuda_emulator/fake_cuda.h"
#include "tests/cuda_emulator/fake_order.h"
#include "tests/cuda_emulator/fake_streams.h"
#include "tests/cuda_emulator/schedule.h"

// What the files of the fake runtime share: fake_device, fake_memory, fake_streams, fake_events, fake_graphs. All of it
// is guarded by one mutex, which a `Call`, at the head of each function of the API, holds but while it runs an
// operation.

namespace fake {

class Capture;
struct Stream;

// A point in a stream that others wait for: what one cudaEventRecord made.
struct Mark {
  bool done = false;
  simt::SyncPoint sync;
  std::chrono::steady_clock::time_point time;
};

// One entry of a stream's queue.
struct Work {
  enum class Kind { kOperation, kRecord, kWait };
  Kind kind = Kind::kOperation;
  Operation operation;         // kOperation
  std::shared_ptr<Mark> mark;  // what kRecord makes, what kWait waits for
  uint64_t number = 0;         // in the order of all streams' enqueueing
  simt::SyncPoint enqueued;
};

struct Stream {
  int device = 0;
  unsigned flags = cudaStreamDefault;
  int priority = 0;
  int number = 0;  // in the order of their creation
  int slot = 0;    // the lowest that no other stream has: see running_slot
  bool legacy = false;
  bool destroyed = false;  // stays until its queue is empty
  std::deque<std::unique_ptr<Work>> queue;
  uint64_t enqueued = 0, completed = 0;
  simt::SyncPoint done;  // all that was completed
  std::unique_ptr<Lane> lane = std::make_unique<Lane>();
  std::shared_ptr<Capture> capture;  // that it is part of

  bool idle() const { return queue.empty(); }
};

struct Event {
  unsigned flags = cudaEventDefault;
  int device = 0;
  std::shared_ptr<Mark> mark;         // of the last record
  std::shared_ptr<Capture> captured;  // if that was in a capture,
  std::vector<int> nodes;             // these nodes of it
};

struct Device {
  cudaError_t failed = cudaSuccess;  // for good
  std::string failure;
  std::unique_ptr<Stream> legacy;
  size_t bytes_in_use = 0;
};

struct Allocation {
  enum class Kind { kDevice, kPinned, kManaged, kRegistered };
  Kind kind;
  int device;
  char* begin;
  size_t bytes;
  char* mapped;
  size_t mapped_bytes;
};

// What the machine is like.
struct Settings {
  int devices = 1;
  size_t device_bytes = size_t{80} << 30;
  int major = 9, minor = 0;
  cudaError_t driver_error = cudaSuccess;
  bool background = true;
  bool strict = true;
  bool one_device = false;
  std::chrono::milliseconds watchdog{30000};
  int malloc_fails_in = 0, operation_fails_in = 0;
};
Settings SettingsOfEnvironment();
// The most shared memory of a block.
inline size_t SharedBytesMax(const Settings& settings) {
  if (settings.major >= 9) return 227 << 10;
  return settings.minor == 6 || settings.minor == 9 ? 99 << 10 : 163 << 10;
}

class Runtime {
 public:
  Runtime();

  std::mutex mutex;
  std::condition_variable changed;
  Settings settings;
  std::vector<Device> devices;
  std::vector<std::unique_ptr<Stream>> streams;  // by creation
  std::map<cudaEvent_t, std::unique_ptr<Event>> events;
  std::map<const char*, Allocation> allocations;   // by begin
  std::vector<std::shared_ptr<Capture>> captures;  // that go on
  Calls calls;
  size_t pinned_bytes = 0;
  int used_device = -1;  // the first that was

  void Reset(const Settings& fresh);
  int current_device() const;

  // ---- fake_streams.cc
  Stream* Find(cudaStream_t stream);  // nullptr: no such stream
  cudaStream_t HandleOf(Stream* stream) { return reinterpret_cast<cudaStream_t>(stream); }
  Stream* NewStream(int device, unsigned flags, int priority);
  void Put(Stream& stream, std::unique_ptr<Work> work);  // at the queue's end
  // Runs one operation, if one can go on. REQUIRES: nobody runs one.
  bool Step(std::unique_lock<std::mutex>& lock);
  bool running() const { return running_; }
  // Until done(). Aborts if nothing moves any more.
  template <typename Done>
  void WaitUntil(std::unique_lock<std::mutex>& lock, const char* who, const Done& done) {
    ++calls.waits;
    Patience patience;
    while (!done()) WaitALittle(lock, who, &patience);
  }
  // As somebody who asks: does one operation's worth of work if nobody else does.
  void Nudge(std::unique_lock<std::mutex>& lock);
  bool Idle(int device) const;
  std::string Stuck() const;  // every stream that has something to do
  void Fail(int device, cudaError_t error, const std::string& why);

  // ---- fake_memory.cc
  // Only while an operation of the device runs may anybody touch its memory.
  void OpenMemory(int device);
  void CloseMemory();
  bool memory_is_open(int device) const { return open_device_ == device; }
  const Allocation* Holding(const void* p, size_t bytes) const;
  // Why no kernel of the device can reach what p points to: "" if it can, or p is no pointer.
  std::string WhyUnreachable(const void* p, int device) const;
  // Says of what was written beside an allocation; "" if nothing was.
  std::string FindOverrun(int device) const;

 private:
  struct Patience {
    uint64_t progress = 0;
    std::chrono::steady_clock::time_point since{};
  };
  void WaitALittle(std::unique_lock<std::mutex>& lock, const char* who, Patience* patience);
  bool CanGoOn(const Stream& stream) const;
  bool Advance(Stream& stream, std::unique_lock<std::mutex>& lock);
  size_t Choose(const std::vector<Stream*>& ready);
  std::vector<Stream*> AllStreams() const;
  void StartBackground();
  void WorkInBackground();

  bool running_ = false;
  std::chrono::steady_clock::time_point running_since_{};
  uint64_t progress_ = 0;  // operations completed
  uint64_t numbers_ = 0;
  int streams_made_ = 0;
  uint64_t seed_ = ~uint64_t{0};
  simt::Random random_;
  std::map<int, uint64_t> priorities_;  // by a stream's number
  int open_device_ = -1;
  int background_of_ = 0;  // process
};

Runtime& runtime();
extern thread_local bool in_operation;
// Whose CUDA threads a kernel of the running operation has: to ThreadSanitizer they stay after their stream, and cost
// memory, so that a new stream takes an old one's.
extern thread_local int running_slot;

// The head of a function of the API: hides it from ThreadSanitizer, takes the mutex, and knows whether the device can
// be used at all.
class Call {
 public:
  // kContext: what it is called for is destroyed, which works on a device that has failed, too.
  enum class Needs { kNothing, kDriver, kContext, kDevice };
  explicit Call(Needs needs = Needs::kDevice);
  ~Call();
  cudaError_t error() const { return error_; }
  // What the function returns; remembered for cudaGetLastError.
  cudaError_t Return(cudaError_t error);
  std::unique_lock<std::mutex>& lock() { return lock_; }
  // That of the thread's device, which is made if there is none.
  static void UseContext();

 private:
  const Hidden hidden_;
  std::unique_lock<std::mutex> lock_;
  cudaError_t error_ = cudaSuccess;
};

#define FAKE_CALL(...)            \
  ::fake::Call call{__VA_ARGS__}; \
  if (call.error() != cudaSuccess) return call.Return(call.error())

// ---- fake_memory.cc
void FreeEverything();

// ---- fake_streams.cc
cudaError_t EnqueueHere(Stream* stream, MakeOperation make);  // under the mutex

// ---- fake_graphs.cc
// Takes what a capturing stream is given.
void Record(Stream& stream, MakeOperation make);
void RecordEvent(Stream& stream, Event& event);
// What a call that no capture allows returns: cudaSuccess, or the error, and then the capture is void.
cudaError_t RefuseDuringCapture(Stream* stream);
cudaError_t RefuseUnsafeCall();
cudaError_t WaitInCapture(Stream& stream, const Event& event);
void ForgetGraphs();

}  // namespace fake
