#include "model/cuda/op_timer.h"

#include <chrono>
#include <thread>

#include "base/status.h"

namespace braid::gpu {
namespace {

// What the host needs to enqueue a step, and a good deal more: a few hundred launches of 4 us and as many events.
constexpr std::chrono::milliseconds kHeadStart{10};

}  // namespace

void OpTimer::BeginStep(cudaStream_t stream) {
  laps_.clear();
  recorded_ = added_ = 0;
  status_ = CudaError(cudaLaunchHostFunc(
                          stream, [](void*) { std::this_thread::sleep_for(kHeadStart); }, nullptr),
                      "timing a step");
  Record(stream);
}

void OpTimer::Lap(StepOp op, cudaStream_t stream) {
  laps_.push_back(op);
  Record(stream);
}

void OpTimer::Record(cudaStream_t stream) {
  if (!status_.ok()) return;
  if (recorded_ == events_.size()) {
    absl::StatusOr<Event> event = CreateTimedEvent();
    status_ = event.status();
    if (!status_.ok()) return;
    events_.push_back(*std::move(event));
  }
  status_ = CudaError(cudaEventRecord(events_[recorded_++].get(), stream), "timing a step");
}

absl::Status OpTimer::AddTo(StepProfile* profile) {
  RETURN_IF_ERROR(status_);
  for (; added_ < laps_.size(); ++added_) {
    float ms = 0;
    RETURN_IF_ERROR(
        CudaError(cudaEventElapsedTime(&ms, events_[added_].get(), events_[added_ + 1].get()), "timing a step"));
    profile->Add(laps_[added_], std::chrono::nanoseconds(static_cast<int64_t>(double{ms} * 1e6)));
  }
  return absl::OkStatus();
}

}  // namespace braid::gpu
