// Events. A record puts a mark into the stream; whoever waits, waits for the mark that was the last when it was asked.

#include "tests/cuda_emulator/fake_runtime.h"

using fake::Call;
using fake::Event;
using fake::runtime;
using fake::Stream;
using fake::Work;

namespace {

Event* Find(cudaEvent_t handle) {
  const auto found = runtime().events.find(handle);
  return found == runtime().events.end() ? nullptr : found->second.get();
}

void Acquire(const fake::Mark& mark) {
  const fake::Seen seen;
  simt::Acquire(const_cast<simt::SyncPoint*>(&mark.sync));
}

constexpr unsigned kFlags = cudaEventBlockingSync | cudaEventDisableTiming | cudaEventInterprocess;

}  // namespace

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned flags) {
  FAKE_CALL();
  if (handle == nullptr || (flags & ~kFlags) != 0) return call.Return(cudaErrorInvalidValue);
  auto event = std::make_unique<Event>();
  event->flags = flags;
  event->device = runtime().current_device();
  *handle = reinterpret_cast<cudaEvent_t>(event.get());
  runtime().events.emplace(*handle, std::move(event));
  return call.Return(cudaSuccess);
}
cudaError_t cudaEventCreate(cudaEvent_t* handle) { return cudaEventCreateWithFlags(handle, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  FAKE_CALL(Call::Needs::kContext);
  return call.Return(runtime().events.erase(handle) == 1 ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t handle, cudaStream_t stream_handle, unsigned) {
  FAKE_CALL();
  Event* const event = Find(handle);
  Stream* const stream = runtime().Find(stream_handle);
  if (event == nullptr || stream == nullptr || event->device != stream->device)
    return call.Return(cudaErrorInvalidResourceHandle);
  if (stream->capture != nullptr) {
    fake::RecordEvent(*stream, *event);
    return call.Return(cudaSuccess);
  }
  if (stream->legacy) {
    if (const cudaError_t refused = fake::RefuseDuringCapture(stream); refused != cudaSuccess)
      return call.Return(refused);
  }
  event->captured = nullptr;
  event->mark = std::make_shared<fake::Mark>();
  auto work = std::make_unique<Work>();
  work->kind = Work::Kind::kRecord;
  work->mark = event->mark;
  runtime().Put(*stream, std::move(work));
  return call.Return(cudaSuccess);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return cudaEventRecordWithFlags(event, stream, cudaEventRecordDefault);
}

// For the event as it was recorded last; if it never was, for nothing.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t handle, unsigned) {
  FAKE_CALL();
  const Event* const event = Find(handle);
  Stream* const stream = runtime().Find(stream_handle);
  if (event == nullptr || stream == nullptr) return call.Return(cudaErrorInvalidResourceHandle);
  if (stream->capture != nullptr || event->captured != nullptr)
    return call.Return(fake::WaitInCapture(*stream, *event));
  if (event->mark == nullptr) return call.Return(cudaSuccess);
  auto work = std::make_unique<Work>();
  work->kind = Work::Kind::kWait;
  work->mark = event->mark;
  runtime().Put(*stream, std::move(work));
  return call.Return(cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  FAKE_CALL();
  const Event* const event = Find(handle);
  if (event == nullptr) return call.Return(cudaErrorInvalidResourceHandle);
  if (event->captured != nullptr) return call.Return(cudaErrorCapturedEvent);
  if (const cudaError_t refused = fake::RefuseUnsafeCall(); refused != cudaSuccess) return call.Return(refused);
  const std::shared_ptr<fake::Mark> mark = event->mark;
  const int device = event->device;
  if (mark != nullptr && !mark->done) runtime().Nudge(call.lock());
  if (mark != nullptr && !mark->done) return cudaErrorNotReady;
  if (mark != nullptr) Acquire(*mark);
  return call.Return(runtime().devices[device].failed);
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  FAKE_CALL();
  const Event* const event = Find(handle);
  if (event == nullptr) return call.Return(cudaErrorInvalidResourceHandle);
  if (event->captured != nullptr) return call.Return(cudaErrorCapturedEvent);
  if (const cudaError_t refused = fake::RefuseUnsafeCall(); refused != cudaSuccess) return call.Return(refused);
  const std::shared_ptr<fake::Mark> mark = event->mark;
  const int device = event->device;
  if (mark != nullptr) {
    runtime().WaitUntil(call.lock(), "cudaEventSynchronize", [&] { return mark->done; });
    Acquire(*mark);
  }
  return call.Return(runtime().devices[device].failed);
}

// In the time of the emulation, which says nothing of a GPU's.
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  FAKE_CALL();
  const Event *first = Find(from), *last = Find(to);
  if (first == nullptr || last == nullptr || first->mark == nullptr || last->mark == nullptr ||
      ((first->flags | last->flags) & cudaEventDisableTiming) != 0)
    return call.Return(cudaErrorInvalidResourceHandle);
  if (!first->mark->done || !last->mark->done) return cudaErrorNotReady;
  *ms = std::chrono::duration<float, std::milli>(last->mark->time - first->mark->time).count();
  return call.Return(cudaSuccess);
}
