#include "expert_worker/step_thread.h"

#include <fmt/format.h>

#include <optional>
#include <utility>

namespace braid {

StepThread::StepThread(EpochMember* member) : member_(member), thread_([this] { Loop(); }) {}

StepThread::~StepThread() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    BeginGeneration({.drop = true}, "the worker is stopping");
  }
  thread_.join();
}

void StepThread::Attach(Answer answer) {
  absl::MutexLock lock(&mutex_);
  answer_ = std::move(answer);
  prepared_epoch_ = 0;
}

void StepThread::Detach() {
  absl::MutexLock lock(&mutex_);
  answer_ = nullptr;
  BeginGeneration({.drop = true}, "the stream to the router is lost");
}

bool StepThread::Post(v1::AttachResponse message) {
  absl::MutexLock lock(&mutex_);
  if (message.has_prepare()) {
    if (message.prepare().epoch() <= prepared_epoch_) return true;
    prepared_epoch_ = message.prepare().epoch();
    BeginGeneration({.message = std::move(message)}, fmt::format("epoch {} begins", prepared_epoch_));
    return true;
  }
  if (waiting_.size() >= kWaitingMax) return false;
  waiting_.push_back({.generation = generation_, .message = std::move(message)});
  return true;
}

uint64_t StepThread::configured_epoch() const {
  absl::MutexLock lock(&mutex_);
  return configured_epoch_;
}

// What waits and what runs belongs to an older generation and is in vain.
void StepThread::BeginGeneration(Item item, const std::string& reason) {
  item.generation = ++generation_;
  configured_epoch_ = 0;
  waiting_.clear();
  waiting_.push_back(std::move(item));
  member_->Supersede(generation_, reason);
}

void StepThread::Loop() {
  for (;;) {
    Item item;
    {
      absl::MutexLock lock(&mutex_, absl::Condition(this, &StepThread::HasWork));
      if (stopping_) return;
      item = std::move(waiting_.front());
      waiting_.pop_front();
    }
    if (item.drop) {
      member_->Drop();
      continue;
    }
    std::optional<v1::AttachRequest> reply = member_->Handle(item.message, item.generation);
    absl::MutexLock lock(&mutex_);
    if (!reply || item.generation != generation_) continue;
    if (reply->has_configured()) configured_epoch_ = reply->configured().epoch();
    if (reply->has_fault()) configured_epoch_ = 0;
    if (answer_) answer_(*std::move(reply));
  }
}

}  // namespace braid
