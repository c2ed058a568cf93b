#include "router/membership.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/logging.h"
#include "base/status.h"
#include "router/placement.h"
#include "router/validate.h"

namespace braid {
namespace {

constexpr size_t kAddressBytesMax = 64 << 10;
constexpr size_t kFaultBytesLogged = 500;

}  // namespace

Membership::Membership(const RouterOptions& options, Epoch before, std::vector<Action>* actions)
    : options_(options), epoch_(before), actions_(actions) {}

absl::Status Membership::OnOpened(WorkerId worker, absl::Time now) {
  if (attached_.size() >= kAttachedMax) return absl::ResourceExhaustedError("too many workers are attached");
  CHECK(attached_.emplace(worker, Worker{.heard = now, .said = now}).second);
  return absl::OkStatus();
}

void Membership::OnHeard(WorkerId worker, absl::Time now) { attached_.at(worker).heard = now; }

absl::Status Membership::OnHello(WorkerId id, const v1::Hello& hello, absl::Time now) {
  Worker& worker = attached_.at(id);
  if (worker.hello) return InvalidArgument("hello came twice on one stream");
  RETURN_IF_ERROR(CheckHello(hello));
  for (const auto& [other_id, other] : attached_) {
    if (other.hello) RETURN_IF_ERROR(CheckSameGroup(hello, *other.hello));
  }
  worker.hello = hello;
  v1::AttachResponse message;
  v1::Welcome* welcome = message.mutable_welcome();
  welcome->set_worker_id(id.value);
  welcome->set_heartbeat_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(options_.heartbeat)));
  welcome->set_heartbeat_timeout_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(options_.heartbeat_timeout)));
  Send(id, std::move(message));
  spdlog::info("worker {} ({}) attached with {} KV blocks", id.value, hello.name(), hello.kv_blocks());
  return absl::OkStatus();
}

absl::Status Membership::OnPrepared(WorkerId id, const v1::Prepared& prepared) {
  if (Epoch(prepared.epoch()) != epoch_ || !IsMember(id)) return absl::OkStatus();
  Worker& worker = attached_.at(id);
  if (state_ != State::kPreparing || worker.answered) return InvalidArgument("prepared was not expected");
  if (prepared.address().size() > kAddressBytesMax) {
    return InvalidArgument(absl::StrCat("prepared.address is longer than ", kAddressBytesMax, " bytes"));
  }
  worker.answered = true;
  worker.address = prepared.address();
  if (AllAnswered()) Configure();
  return absl::OkStatus();
}

absl::Status Membership::OnConfigured(WorkerId id, const v1::Configured& configured) {
  if (Epoch(configured.epoch()) != epoch_ || !IsMember(id)) return absl::OkStatus();
  Worker& worker = attached_.at(id);
  if (state_ != State::kConfiguring || worker.answered) return InvalidArgument("configured was not expected");
  worker.answered = true;
  if (!AllAnswered()) return absl::OkStatus();
  state_ = State::kServing;
  for (WorkerId member : ranks_) serving_.push_back({member, *attached_.at(member).hello});
  spdlog::info("epoch {} serves with {} workers", epoch_.value, ranks_.size());
  return absl::OkStatus();
}

void Membership::OnFault(WorkerId worker, const v1::Fault& fault, absl::Time now) {
  if (Epoch(fault.epoch()) != epoch_ || !IsMember(worker)) return;
  spdlog::warn("worker {} could not complete step {} of epoch {}: {}", worker.value, fault.step(), epoch_.value,
               fault.message().substr(0, kFaultBytesLogged));
  EndEpoch();
  retry_at_ = now + retry_delay_;
  retry_delay_ = std::min(2 * retry_delay_, kRetryMax);
}

void Membership::OnLeaving(WorkerId worker) { attached_.at(worker).leaving = true; }

void Membership::OnLost(WorkerId worker) {
  const auto found = attached_.find(worker);
  if (found == attached_.end()) return;
  const bool leaving = found->second.leaving;
  attached_.erase(found);
  if (!IsMember(worker)) return;
  spdlog::log(leaving ? spdlog::level::info : spdlog::level::warn, "worker {} {}; epoch {} is over", worker.value,
              leaving ? "has left" : "is lost", epoch_.value);
  EndEpoch();
}

void Membership::Advance(absl::Time now) {
  // A router that slept itself (stopped, swapped out) accuses nobody: what they said in the meantime is still unread.
  if (now - advanced_ > options_.heartbeat_timeout / 2) {
    for (auto& [id, worker] : attached_) worker.heard = now;
  }
  advanced_ = now;
  GiveUpSilent(now);
  if ((state_ == State::kPreparing || state_ == State::kConfiguring) && now >= setup_deadline_) {
    std::vector<WorkerId> late;
    for (WorkerId member : ranks_) {
      if (!attached_.at(member).answered) late.push_back(member);
    }
    Evict(late, "the set-up of an epoch");
  }
  const bool enough = Candidates().size() >= static_cast<size_t>(options_.workers);
  if (state_ == State::kWaiting && enough && now >= retry_at_) StartEpoch(now);
  SendHeartbeats(now);
}

void Membership::ReleaseLeaving() {
  std::vector<WorkerId> leaving;
  for (const auto& [id, worker] : attached_) {
    if (worker.leaving) leaving.push_back(id);
  }
  for (WorkerId id : leaving) Close(id, absl::OkStatus());
}

void Membership::Evict(const std::vector<WorkerId>& late, const std::string& what) {
  for (WorkerId worker : late) Close(worker, absl::DeadlineExceededError(absl::StrCat("no answer in time to ", what)));
}

void Membership::Close(WorkerId worker, absl::Status status) {
  if (!status.ok()) spdlog::warn("worker {} is sent away: {}", worker.value, StdView(status.message()));
  actions_->push_back(CloseWorker{worker, std::move(status)});
  OnLost(worker);
}

void Membership::CloseAll(const absl::Status& status) {
  while (!attached_.empty()) Close(attached_.begin()->first, status);
}

std::optional<int> Membership::RankOf(WorkerId worker) const {
  for (size_t rank = 0; rank < serving_.size(); ++rank) {
    if (serving_[rank].id == worker) return static_cast<int>(rank);
  }
  return std::nullopt;
}

bool Membership::heard_hello(WorkerId worker) const {
  auto it = attached_.find(worker);
  return it != attached_.end() && it->second.hello.has_value();
}

std::vector<std::pair<WorkerId, const v1::Hello*>> Membership::Attached() const {
  std::vector<std::pair<WorkerId, const v1::Hello*>> workers;
  for (const auto& [id, worker] : attached_) {
    if (worker.hello) workers.emplace_back(id, &*worker.hello);
  }
  return workers;
}

std::string Membership::NotReady() const {
  switch (state_) {
    case State::kServing:
      return "";
    case State::kWaiting: {
      const int missing = options_.workers - static_cast<int>(Candidates().size());
      if (missing > 0) return absl::StrCat("waiting for ", missing, " of ", options_.workers, " workers");
      return "workers reported a fault; trying again";
    }
    case State::kPreparing:
    case State::kConfiguring:
      return absl::StrCat("workers are joining epoch ", epoch_.value);
  }
  return "";
}

void Membership::Send(WorkerId worker, v1::AttachResponse message) {
  actions_->push_back(SendToWorker{worker, std::move(message)});
}

bool Membership::IsMember(WorkerId worker) const {
  return std::find(ranks_.begin(), ranks_.end(), worker) != ranks_.end();
}

bool Membership::AllAnswered() const {
  return std::all_of(ranks_.begin(), ranks_.end(), [this](WorkerId id) { return attached_.at(id).answered; });
}

std::vector<WorkerId> Membership::Candidates() const {
  std::vector<WorkerId> ids;
  for (const auto& [id, worker] : attached_) {
    if (worker.hello && !worker.leaving) ids.push_back(id);
  }
  return ids;
}

void Membership::GiveUpSilent(absl::Time now) {
  std::vector<WorkerId> silent;
  for (const auto& [id, worker] : attached_) {
    if (now - worker.heard > options_.heartbeat_timeout) silent.push_back(id);
  }
  for (WorkerId worker : silent) {
    Close(worker, absl::DeadlineExceededError(absl::StrCat(
                      "nothing heard for ", absl::ToInt64Milliseconds(options_.heartbeat_timeout), " ms")));
  }
}

void Membership::SendHeartbeats(absl::Time now) {
  for (auto& [id, worker] : attached_) {
    if (!worker.hello || now - worker.said < options_.heartbeat) continue;
    v1::AttachResponse message;
    message.mutable_heartbeat()->set_epoch(epoch_.value);
    worker.said = now;
    Send(id, std::move(message));
  }
}

void Membership::StartEpoch(absl::Time now) {
  ++epoch_.value;
  state_ = State::kPreparing;
  setup_deadline_ = now + kSetupTimeout;
  ranks_ = Candidates();
  ranks_.resize(static_cast<size_t>(options_.workers));
  for (size_t rank = 0; rank < ranks_.size(); ++rank) {
    attached_.at(ranks_[rank]).answered = false;
    v1::AttachResponse message;
    v1::Prepare* prepare = message.mutable_prepare();
    prepare->set_epoch(epoch_.value);
    prepare->set_rank(static_cast<uint32_t>(rank));
    prepare->set_size(static_cast<uint32_t>(ranks_.size()));
    Send(ranks_[rank], std::move(message));
  }
}

void Membership::Configure() {
  state_ = State::kConfiguring;
  v1::AttachResponse message;
  v1::Configure* configure = message.mutable_configure();
  configure->set_epoch(epoch_.value);
  for (WorkerId member : ranks_) configure->add_addresses(attached_.at(member).address);
  const uint32_t experts = attached_.at(ranks_.front()).hello->expert_count();
  for (uint32_t rank : PlaceExperts(experts, static_cast<uint32_t>(ranks_.size()))) configure->add_expert_rank(rank);
  for (WorkerId member : ranks_) {
    attached_.at(member).answered = false;
    Send(member, message);
  }
}

void Membership::EndEpoch() {
  state_ = State::kWaiting;
  ranks_.clear();
  serving_.clear();
}

}  // namespace braid
