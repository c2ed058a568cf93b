// Streams: queues that move only while somebody waits or asks, or in the background a little later. One operation runs
// at a time, of a stream that the seed chooses among those that can go on: what is not ordered by an event comes in
// another order under another seed.
//
// To ThreadSanitizer a stream is a thread (a Lane), and these are the only orders:
//   what the host did before it enqueued -> the work;
//   a stream's work -> its next; a recorded event -> what waits for it;
//   work -> the host that found it done.

#include "tests/cuda_emulator/fake_streams.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>

#include "tests/cuda_emulator/fake_runtime.h"
#include "tests/cuda_emulator/simt.h"

namespace fake {

thread_local bool in_operation = false;
thread_local int running_slot = 0;

namespace {

constexpr auto kBackgroundDelay = std::chrono::milliseconds(2);
constexpr auto kPeerPoll = std::chrono::microseconds(200);
constexpr auto kKernelTime = std::chrono::milliseconds(10);  // more than it takes to ask an operation that waits

std::string NameOf(const simt::LaunchConfig& config) {
  std::string_view file = config.stream.at.file;
  while (file.substr(0, 3) == "../") file.remove_prefix(3);
  return "the kernel launched at " + std::string(file) + ":" + std::to_string(config.stream.at.line);
}

Operation KernelOperation(const simt::LaunchConfig& config, const simt::Body& body) {
  return {NameOf(config), [config, body](cudaError_t*) {
            simt::LaunchConfig turn = config;
            turn.stream.stream = reinterpret_cast<cudaStream_t>(static_cast<uintptr_t>(running_slot) + 1);
            const Seen seen;
            simt::Run(turn, body);
            return Progress::kDone;
          }};
}

// As if compiled for 80, 90a and 100a: the first runs on all of its generation, the others on nothing else.
bool HasKernels(const Settings& settings) {
  return settings.major == 8 || (settings.minor == 0 && (settings.major == 9 || settings.major == 10));
}

// A pointer to the host's memory, or another device's, is a fault on a GPU; here it would be followed in silence. What
// looks like an address in an argument's bytes, and is one of such memory, was meant as one.
bool ReachesItsMemory(const simt::LaunchConfig& config) {
  for (const simt::Argument& argument : config.arguments) {
    for (size_t i = 0; i + sizeof(void*) <= argument.bytes; i += sizeof(void*)) {
      const void* word;
      std::memcpy(&word, static_cast<const char*>(argument.begin) + i, sizeof word);
      const std::string why = runtime().WhyUnreachable(word, runtime().current_device());
      if (why.empty()) continue;
      std::fprintf(stderr, "fake CUDA: %s is given %p, which is %s\n", NameOf(config).c_str(), word, why.c_str());
      return false;
    }
  }
  return true;
}

cudaError_t TakeLaunch(const simt::LaunchConfig& config, simt::Body body) {
  simt::LaunchConfig kept = config;
  {
    FAKE_CALL();
    if (!HasKernels(runtime().settings)) return call.Return(cudaErrorNoKernelImageForDevice);
    if (!ReachesItsMemory(config)) return call.Return(cudaErrorIllegalAddress);
    if (config.shared_bytes > SharedBytesMax(runtime().settings)) return call.Return(cudaErrorInvalidValue);
    const Settings& settings = runtime().settings;
    kept.architecture = settings.major == 8 ? 80 : 10 * settings.major + settings.minor;
    kept.shared_bytes_max = SharedBytesMax(settings);
  }
  kept.arguments = {};  // the caller's
  return Enqueue(config.stream.stream,
                 [config = kept, body = std::move(body)] { return KernelOperation(config, body); });
}

// Before main, so that a program whose main knows of no emulator has its kernels run by streams.
[[maybe_unused]] const bool launches_taken = [] {
  if (const char* seed = std::getenv("SIMT_SEED")) simt::SetSeed(std::strtoull(seed, nullptr, 10));
  simt::SetTakeLaunch(TakeLaunch);
  return true;
}();

}  // namespace

Stream* Runtime::NewStream(int device, unsigned flags, int priority) {
  auto stream = std::make_unique<Stream>();
  stream->device = device;
  stream->flags = flags;
  stream->priority = priority;
  stream->number = streams_made_++;
  std::set<int> taken;
  for (const auto& other : streams) taken.insert(other->slot);
  stream->slot = kDevicesMax;  // those below are the legacy streams'
  while (taken.count(stream->slot) > 0) ++stream->slot;
  return streams.emplace_back(std::move(stream)).get();
}

Stream* Runtime::Find(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy) return devices[current_device()].legacy.get();
  for (const auto& stream : streams)
    if (stream.get() == reinterpret_cast<Stream*>(handle)) return stream->destroyed ? nullptr : stream.get();
  return nullptr;
}

std::vector<Stream*> Runtime::AllStreams() const {
  std::vector<Stream*> all;
  for (const Device& device : devices) all.push_back(device.legacy.get());
  for (const auto& stream : streams) all.push_back(stream.get());
  return all;
}

void Runtime::Put(Stream& stream, std::unique_ptr<Work> work) {
  work->number = numbers_++;
  {
    const Seen seen;
    simt::Release(&work->enqueued);
  }
  ++stream.enqueued;
  stream.queue.push_back(std::move(work));
  StartBackground();
  changed.notify_all();
}

// A stream that was made without cudaStreamNonBlocking and the legacy stream wait for each other's earlier work.
bool Runtime::CanGoOn(const Stream& stream) const {
  if (stream.idle()) return false;
  const Work& work = *stream.queue.front();
  if (work.kind == Work::Kind::kWait && !work.mark->done) return false;
  const auto has_earlier = [&](const Stream& other) {
    return !other.idle() && other.queue.front()->number < work.number;
  };
  if (stream.legacy) {
    for (const auto& other : streams)
      if (other->device == stream.device && (other->flags & cudaStreamNonBlocking) == 0 && has_earlier(*other))
        return false;
    return true;
  }
  return (stream.flags & cudaStreamNonBlocking) != 0 || !has_earlier(*devices[stream.device].legacy);
}

size_t Runtime::Choose(const std::vector<Stream*>& ready) {
  if (seed_ != simt::Seed()) {
    seed_ = simt::Seed();
    random_ = simt::Random(seed_ * 0x20003 + 7);
    priorities_.clear();
  }
  switch (simt::PolicyOf(seed_)) {
    case simt::Policy::kAscending:
      return 0;
    case simt::Policy::kDescending:
      return ready.size() - 1;
    case simt::Policy::kRandom:
      return random_.Below(static_cast<int>(ready.size()));
    case simt::Policy::kPriority:
      break;
  }
  // One stream goes as far as it can, until at some time another is the first.
  if (random_.OneIn(16)) priorities_.clear();
  size_t first = 0;
  uint64_t highest = 0;
  for (size_t i = 0; i < ready.size(); ++i) {
    const auto [priority, added] = priorities_.try_emplace(ready[i]->number, 0);
    if (added) priority->second = random_.Next();
    if (priority->second >= highest) {
      first = i;
      highest = priority->second;
    }
  }
  return first;
}

bool Runtime::Step(std::unique_lock<std::mutex>& lock) {
  std::vector<Stream*> ready;
  for (Stream* stream : AllStreams())
    if (CanGoOn(*stream)) ready.push_back(stream);
  while (!ready.empty()) {
    const size_t chosen = Choose(ready);
    if (Advance(*ready[chosen], lock)) return true;
    ready.erase(ready.begin() + chosen);
    // Others have run meanwhile, and a stream may be gone.
    const std::vector<Stream*> all = AllStreams();
    std::erase_if(ready, [&](Stream* s) { return std::find(all.begin(), all.end(), s) == all.end() || !CanGoOn(*s); });
  }
  return false;
}

// False: it waits for somebody else.
bool Runtime::Advance(Stream& stream, std::unique_lock<std::mutex>& lock) {
  Work& work = *stream.queue.front();
  cudaError_t error = devices[stream.device].failed;
  std::string why;
  Progress progress = Progress::kDone;
  if (error == cudaSuccess && work.kind == Work::Kind::kOperation && settings.operation_fails_in == 1) {
    settings.operation_fails_in = 0;
    error = cudaErrorLaunchFailure;
    Fail(stream.device, error, "as a test said, at " + work.operation.name);
  }
  const bool skip = error != cudaSuccess;  // nothing runs on a device that has failed
  running_ = true;
  running_since_ = std::chrono::steady_clock::now();
  OpenMemory(stream.device);
  lock.unlock();
  in_operation = true;
  running_slot = stream.slot;
  stream.lane->Run([&] {
    simt::Acquire(&work.enqueued);
    if (work.kind == Work::Kind::kWait) simt::Acquire(&work.mark->sync);
    if (work.kind == Work::Kind::kOperation && !skip) {
      const Hidden hidden;
      try {
        progress = work.operation.advance(&error);
      } catch (const std::exception& exception) {
        why = exception.what();
        error = cudaErrorLaunchFailure;
        progress = Progress::kDone;
      }
    }
    if (work.kind == Work::Kind::kRecord) simt::Release(&work.mark->sync);
    simt::Release(&stream.done);
  });
  in_operation = false;
  lock.lock();
  running_ = false;
  if (!skip && error == cudaSuccess && work.kind == Work::Kind::kOperation) {
    why = FindOverrun(stream.device);
    if (!why.empty()) error = cudaErrorIllegalAddress;
  }
  if (!skip && error != cudaSuccess) {
    Fail(stream.device, error, work.operation.name + (why.empty() ? "" : ": " + why));
    progress = Progress::kDone;
  }
  if (work.kind == Work::Kind::kOperation && progress != Progress::kWaiting && settings.operation_fails_in > 0)
    --settings.operation_fails_in;
  if (progress == Progress::kMoved) ++progress_;
  if (progress == Progress::kDone) {
    if (work.kind == Work::Kind::kRecord) {
      work.mark->done = true;
      work.mark->time = std::chrono::steady_clock::now();
    }
    stream.queue.pop_front();
    ++stream.completed;
    ++progress_;
    if (stream.destroyed && stream.idle())
      std::erase_if(streams, [&](const auto& other) { return other.get() == &stream; });
  }
  changed.notify_all();
  return progress != Progress::kWaiting;
}

void Runtime::Nudge(std::unique_lock<std::mutex>& lock) {
  if (!running_) Step(lock);
}

void Runtime::WaitALittle(std::unique_lock<std::mutex>& lock, const char* who, Patience* patience) {
  const auto now = std::chrono::steady_clock::now();
  // A kernel may take its time, but one that waits for a peer is asked again and again, by everybody who waits.
  const bool busy = running_ && now - running_since_ > kKernelTime;
  if (patience->since == std::chrono::steady_clock::time_point{} || patience->progress != progress_ || busy) {
    patience->since = now;
    patience->progress = progress_;
  } else if (now - patience->since > settings.watchdog) {
    std::fprintf(stderr, "%s waits, and nothing has moved for %lld ms:\n%s", who,
                 static_cast<long long>(settings.watchdog.count()), Stuck().c_str());
    std::abort();
  }
  if (running_) {
    changed.wait(lock);
  } else if (!Step(lock)) {
    changed.wait_for(lock, kPeerPoll);
  }
}

bool Runtime::Idle(int device) const {
  for (const Stream* stream : AllStreams())
    if (stream->device == device && !stream->idle()) return false;
  return true;
}

std::string Runtime::Stuck() const {
  std::string text;
  for (const Stream* stream : AllStreams()) {
    if (stream->idle()) continue;
    const Work& work = *stream->queue.front();
    const char* what = work.kind == Work::Kind::kWait     ? "an event that is not reached"
                       : work.kind == Work::Kind::kRecord ? "a record of an event"
                                                          : work.operation.name.c_str();
    text += "  device " + std::to_string(stream->device) + ", " +
            (stream->legacy ? "the legacy stream" : "stream " + std::to_string(stream->number)) + ", " +
            std::to_string(stream->queue.size()) + " to do: " + what + "\n";
  }
  return text;
}

void Runtime::Fail(int device, cudaError_t error, const std::string& why) {
  if (devices[device].failed != cudaSuccess) return;
  devices[device].failed = error;
  devices[device].failure = why;
  std::fprintf(stderr, "fake CUDA device %d failed for good (%s): %s\n", device, cudaGetErrorName(error), why.c_str());
}

// A forked child has no threads but one.
void Runtime::StartBackground() {
  if (!settings.background || background_of_ == getpid()) return;
  background_of_ = getpid();
  std::thread([this] { WorkInBackground(); }).detach();
}

void Runtime::WorkInBackground() {
  const Hidden hidden;
  std::unique_lock<std::mutex> lock(mutex);
  const auto has_work = [this] {
    const std::vector<Stream*> all = AllStreams();
    return settings.background && std::any_of(all.begin(), all.end(), [](const Stream* s) { return !s->idle(); });
  };
  for (;;) {
    changed.wait(lock, has_work);
    lock.unlock();
    std::this_thread::sleep_for(kBackgroundDelay);
    lock.lock();
    while (has_work()) {
      if (running_)
        changed.wait(lock);
      else if (!Step(lock))
        changed.wait_for(lock, kPeerPoll);
    }
    if (!running_) CloseMemory();
  }
}

cudaError_t EnqueueHere(Stream* stream, MakeOperation make) {
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  ++runtime().calls.operations;
  if (stream->capture != nullptr) {
    Record(*stream, std::move(make));
    return cudaSuccess;
  }
  if (stream->legacy) {
    if (const cudaError_t refused = RefuseDuringCapture(stream); refused != cudaSuccess) return refused;
  }
  auto work = std::make_unique<Work>();
  work->operation = make();
  runtime().Put(*stream, std::move(work));
  return cudaSuccess;
}

cudaError_t Enqueue(cudaStream_t handle, MakeOperation make) {
  FAKE_CALL();
  Stream* const stream = runtime().Find(handle);
  if (stream != nullptr && stream->device != runtime().current_device())
    return call.Return(cudaErrorInvalidResourceHandle);
  return call.Return(EnqueueHere(stream, std::move(make)));
}

int DeviceOf(cudaStream_t handle) {
  const Call call(Call::Needs::kNothing);
  const Stream* stream = runtime().Find(handle);
  return stream == nullptr ? -1 : stream->device;
}

}  // namespace fake

// ---- The API.

using fake::Call;
using fake::runtime;
using fake::Stream;

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* handle, unsigned flags, int priority) {
  FAKE_CALL();
  if (handle == nullptr || (flags & ~cudaStreamNonBlocking) != 0) return call.Return(cudaErrorInvalidValue);
  *handle = runtime().HandleOf(runtime().NewStream(runtime().current_device(), flags, priority));
  return call.Return(cudaSuccess);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* handle, unsigned flags) {
  return cudaStreamCreateWithPriority(handle, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t* handle) {
  return cudaStreamCreateWithPriority(handle, cudaStreamDefault, 0);
}

// What it has to do is still done.
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  FAKE_CALL(Call::Needs::kContext);
  Stream* const stream = runtime().Find(handle);
  if (stream == nullptr || stream->legacy) return call.Return(cudaErrorInvalidResourceHandle);
  if (stream->capture != nullptr) fake::RefuseDuringCapture(stream);
  stream->capture = nullptr;
  stream->destroyed = true;
  if (stream->idle()) std::erase_if(runtime().streams, [&](const auto& other) { return other.get() == stream; });
  return call.Return(cudaSuccess);
}

cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned* flags) {
  FAKE_CALL();
  const Stream* stream = runtime().Find(handle);
  if (stream == nullptr) return call.Return(cudaErrorInvalidResourceHandle);
  *flags = stream->flags;
  return call.Return(cudaSuccess);
}

cudaError_t cudaStreamGetPriority(cudaStream_t handle, int* priority) {
  FAKE_CALL();
  const Stream* stream = runtime().Find(handle);
  if (stream == nullptr) return call.Return(cudaErrorInvalidResourceHandle);
  *priority = stream->priority;
  return call.Return(cudaSuccess);
}

cudaError_t cudaStreamGetDevice(cudaStream_t handle, int* device) {
  FAKE_CALL();
  const Stream* stream = runtime().Find(handle);
  if (stream == nullptr) return call.Return(cudaErrorInvalidResourceHandle);
  *device = stream->device;
  return call.Return(cudaSuccess);
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  FAKE_CALL();
  Stream* stream = runtime().Find(handle);
  if (stream == nullptr) return call.Return(cudaErrorInvalidResourceHandle);
  if (const cudaError_t refused = fake::RefuseDuringCapture(stream); refused != cudaSuccess)
    return call.Return(refused);
  if (const cudaError_t refused = fake::RefuseUnsafeCall(); refused != cudaSuccess) return call.Return(refused);
  runtime().Nudge(call.lock());
  stream = runtime().Find(handle);
  if (stream == nullptr) return call.Return(cudaErrorInvalidResourceHandle);
  if (!stream->idle()) return cudaErrorNotReady;  // which cudaGetLastError does not know of
  {
    const fake::Seen seen;
    simt::Acquire(&stream->done);
  }
  return call.Return(runtime().devices[stream->device].failed);
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  FAKE_CALL();
  Stream* stream = runtime().Find(handle);
  if (stream == nullptr) return call.Return(cudaErrorInvalidResourceHandle);
  if (const cudaError_t refused = fake::RefuseDuringCapture(stream); refused != cudaSuccess)
    return call.Return(refused);
  const uint64_t last = stream->enqueued;
  const int device = stream->device;
  runtime().WaitUntil(call.lock(), "cudaStreamSynchronize", [&] {
    stream = runtime().Find(handle);
    return stream == nullptr || stream->completed >= last;
  });
  if (stream == nullptr) return call.Return(cudaErrorInvalidResourceHandle);
  {
    const fake::Seen seen;
    simt::Acquire(&stream->done);
  }
  return call.Return(runtime().devices[device].failed);
}

cudaError_t cudaDeviceSynchronize() {
  FAKE_CALL();
  if (const cudaError_t refused = fake::RefuseUnsafeCall(); refused != cudaSuccess) return call.Return(refused);
  const int device = runtime().current_device();
  runtime().WaitUntil(call.lock(), "cudaDeviceSynchronize", [&] { return runtime().Idle(device); });
  const fake::Seen seen;
  simt::Acquire(&runtime().devices[device].legacy->done);
  for (const auto& stream : runtime().streams)
    if (stream->device == device) simt::Acquire(&stream->done);
  return call.Return(runtime().devices[device].failed);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  return fake::Enqueue(handle, [function, data] {
    return fake::Operation{"a host function", [function, data](cudaError_t*) {
                             const fake::Seen seen;
                             function(data);
                             return fake::Progress::kDone;
                           }};
  });
}
