#include "router/roster.h"

#include <utility>

#include "base/check.h"
#include "base/planted_bug.h"
#include "base/status.h"
#include "router/validate.h"

namespace braid {

absl::Status Roster::OnOpened(WorkerId worker, absl::Time now) {
  if (attached_.size() >= kAttachedMax) return absl::ResourceExhaustedError("too many workers are attached");
  CHECK(attached_.emplace(worker, Worker{.heard = now, .said = now}).second);
  return absl::OkStatus();
}

absl::Status Roster::OnHello(WorkerId id, const v1::Hello& hello) {
  Worker& worker = attached_.at(id);
  if (worker.hello) return InvalidArgument("hello came twice on one stream");
  RETURN_IF_ERROR(CheckHello(hello));
  for (const auto& [other_id, other] : attached_) {
    if (other.hello) RETURN_IF_ERROR(CheckSameCluster(hello, *other.hello));
  }
  worker.hello = hello;
  SendToWorker send{id, {}};
  v1::Welcome* welcome = send.message.mutable_welcome();
  welcome->set_worker_id(id.value);
  welcome->set_heartbeat_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(options_.heartbeat)));
  welcome->set_heartbeat_timeout_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(options_.heartbeat_timeout)));
  actions_->push_back(std::move(send));
  return absl::OkStatus();
}

void Roster::OnHeartbeat(WorkerId worker, const v1::Heartbeat& beat, absl::Time now) {
  attached_.at(worker).beat = beat;
  attached_.at(worker).beat_at = now;
}

std::vector<WorkerId> Roster::Silent(absl::Time now) {
  if (now - looked_ > options_.heartbeat_timeout / 2 && !Planted(Bug::kEvictsAfterOwnPause)) {
    for (auto& [id, worker] : attached_) worker.heard = now;
  }
  looked_ = now;
  std::vector<WorkerId> silent;
  for (const auto& [id, worker] : attached_) {
    if (now - worker.heard > options_.heartbeat_timeout && !Planted(Bug::kNeverEvictsSilent)) silent.push_back(id);
  }
  return silent;
}

void Roster::SendHeartbeats(Epoch epoch, absl::Time now) {
  for (auto& [id, worker] : attached_) {
    if (!worker.hello || now - worker.said < options_.heartbeat) continue;
    SendToWorker send{id, {}};
    send.message.mutable_heartbeat()->set_epoch(epoch.value);
    worker.said = now;
    actions_->push_back(std::move(send));
  }
}

const Roster::Worker* Roster::Find(WorkerId worker) const {
  auto found = attached_.find(worker);
  return found == attached_.end() ? nullptr : &found->second;
}

}  // namespace braid
