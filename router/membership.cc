#include "router/membership.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/logging.h"
#include "base/planted_bug.h"
#include "base/status.h"

namespace braid {
namespace {

constexpr size_t kAddressBytesMax = 64 << 10;
constexpr size_t kFaultBytesLogged = 500;

bool Contains(const std::vector<WorkerId>& ids, WorkerId id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

std::optional<int> Membership::View::RankOf(WorkerId worker) const {
  for (size_t rank = 0; rank < members.size(); ++rank) {
    if (members[rank].id == worker) return static_cast<int>(rank);
  }
  return std::nullopt;
}

std::vector<WorkerId> Membership::View::ids() const {
  std::vector<WorkerId> ids;
  for (const Member& member : members) ids.push_back(member.id);
  return ids;
}

Membership::Membership(std::string name, const RouterOptions& options, Epoch* last_epoch, std::vector<Action>* actions)
    : name_(std::move(name)), options_(options), last_epoch_(last_epoch), actions_(actions) {}

void Membership::OnJoined(WorkerId worker, const v1::Hello& hello, absl::Time now) {
  CHECK(members_.emplace(worker, Candidate{.hello = hello, .joined = now}).second);
}

absl::Status Membership::OnPrepared(WorkerId id, const v1::Prepared& prepared) {
  if (!next_ || Epoch(prepared.epoch()) != next_->view.epoch) return absl::OkStatus();
  if (next_->stage != Stage::kPreparing || next_->silent.erase(id) == 0) {
    return InvalidArgument("prepared was not expected");
  }
  if (prepared.address().size() > kAddressBytesMax) {
    return InvalidArgument(absl::StrCat("prepared.address is longer than ", kAddressBytesMax, " bytes"));
  }
  next_->addresses[id] = prepared.address();
  return absl::OkStatus();
}

absl::Status Membership::OnConfigured(WorkerId id, const v1::Configured& configured) {
  if (!next_ || Epoch(configured.epoch()) != next_->view.epoch) return absl::OkStatus();
  if (next_->stage != Stage::kConnecting || next_->silent.erase(id) == 0) {
    return InvalidArgument("configured was not expected");
  }
  if (next_->silent.empty()) next_->stage = Stage::kReady;
  return absl::OkStatus();
}

absl::Status Membership::OnBegun(WorkerId id, const v1::Begun& begun) {
  if (!serving_ || Epoch(begun.epoch()) != serving_->epoch) return absl::OkStatus();
  if (beginning_.erase(id) == 0) return InvalidArgument("begun was not expected");
  if (beginning_.empty()) {
    spdlog::info("group {}: epoch {} serves with {} workers", name_, serving_->epoch.value, serving_->members.size());
  }
  return absl::OkStatus();
}

void Membership::OnFault(WorkerId worker, const v1::Fault& fault, absl::Time now) {
  const bool of_serving = serving_ && Epoch(fault.epoch()) == serving_->epoch && serving_->RankOf(worker);
  const bool of_next = next_ && Epoch(fault.epoch()) == next_->view.epoch && next_->view.RankOf(worker);
  if (!of_serving && !of_next) return;
  const View& view = of_serving ? *serving_ : next_->view;
  spdlog::warn("group {}: worker {} could not complete {} {} of epoch {}: {}", name_, worker.value,
               of_next ? "the set-up" : "step", of_next ? "" : absl::StrCat(fault.step()), fault.epoch(),
               fault.message().substr(0, kFaultBytesLogged));
  problem_ = absl::StrCat("worker \"", members_.at(worker).hello.name(),
                          "\" reported: ", fault.message().substr(0, kFaultBytesLogged));
  // One fault in a step may be anything, and the set-up that follows shows whether they reach each other. In a set-up
  // it counts at once, and a worker that accuses nobody accuses itself.
  if (of_next || ++faults_ > 1) {
    bool named = false;
    for (uint32_t rank : fault.suspect_ranks()) {
      if (rank >= view.members.size() || view.members[rank].id == worker) continue;
      Accuse(worker, view.members[rank].id, now);
      named = true;
    }
    if (!named && of_next) Accuse(worker, worker, now);
  }
  if (of_serving) {
    StopServing(Loss::kFault);
  } else {
    next_.reset();
  }
  retry_at_ = now + retry_delay_;
  retry_delay_ = std::min(2 * retry_delay_, kRetryMax);
}

void Membership::OnLeaving(WorkerId worker, absl::Time now) {
  std::optional<absl::Time>& leave_at = members_.at(worker).leave_at;
  if (!leave_at) leave_at = now + kLeavePatience;
}

void Membership::OnDrained(WorkerId worker, absl::Time now) {
  std::optional<absl::Time>& leave_at = members_.at(worker).leave_at;
  if (leave_at) leave_at = std::min(*leave_at, now);
}

void Membership::OnLost(WorkerId worker, bool crashed, absl::Time now) {
  const auto found = members_.find(worker);
  if (found == members_.end()) return;
  const bool leaving = found->second.leave_at.has_value();
  const std::string name = found->second.hello.name();
  members_.erase(found);
  accusers_.erase(worker);
  for (auto& [accused, accusers] : accusers_) accusers.erase(worker);
  if (next_ && next_->view.RankOf(worker)) next_.reset();
  if (!serving_ || !serving_->RankOf(worker)) return;
  spdlog::log(leaving ? spdlog::level::info : spdlog::level::warn, "group {}: worker {} {}; epoch {} is over", name_,
              worker.value, leaving ? "has left" : "is lost", serving_->epoch.value);
  StopServing(crashed && !leaving ? Loss::kCrash : Loss::kFault);
  crashed_ = name;
  retry_at_ = now;  // what the others have accused each other of is explained
  judge_at_.reset();
  accusers_.clear();
  faults_ = 0;
}

void Membership::OnCut(WorkerId one, WorkerId other, absl::Time now) {
  if (!serving_) return;
  spdlog::warn("group {}: workers {} and {} do not reach each other; epoch {} is over", name_, one.value, other.value,
               serving_->epoch.value);
  problem_ = absl::StrCat("workers ", one.value, " and ", other.value, " do not reach each other");
  Accuse(one, other, now);
  Accuse(other, one, now);
  StopServing(Loss::kFault);
  Judge(now);
}

void Membership::OnProgress() {
  retry_delay_ = kRetryMin;
  faults_ = 0;
  accusers_.clear();
  judge_at_.reset();
}

void Membership::Advance(absl::Time now, std::span<const double> load) {
  if (judge_at_ && now >= *judge_at_) Judge(now);
  if (next_ && next_->stage == Stage::kPreparing && next_->silent.empty()) Connect(load, now);
  if (next_ && next_->stage != Stage::kReady && now >= next_->deadline) {
    const std::set<WorkerId> late = next_->silent;
    for (WorkerId worker : late) Accuse(worker, worker, now);
    problem_ = "a worker took too long to join an epoch";
    next_.reset();
    Judge(now);
  }
  if (next_ || now < retry_at_ || judge_at_) return;
  std::vector<WorkerId> wanted = Wanted(now);
  const bool same_members = serving_ && serving_->ids() == wanted;
  if (same_members && !rebalance_) return;
  if (MayStart(wanted, now)) StartNext(std::move(wanted), now);
}

void Membership::Begin(std::vector<v1::Begin> begins, absl::Time now) {
  CHECK(ready() != nullptr && begins.size() == next_->view.members.size());
  if (serving_) {
    for (const Member& member : serving_->members) {
      if (next_->view.RankOf(member.id)) continue;
      v1::AttachResponse message;
      message.mutable_stop()->set_epoch(serving_->epoch.value);
      Send(member.id, std::move(message));
    }
  }
  serving_ = std::move(next_->view);
  next_.reset();
  memory_ = serving_->placement;
  has_served_ = true;
  beginning_.clear();
  begun_at_ = now;
  for (size_t rank = 0; rank < begins.size(); ++rank) {
    v1::AttachResponse message;
    *message.mutable_begin() = std::move(begins[rank]);
    message.mutable_begin()->set_epoch(serving_->epoch.value);
    const WorkerId id = serving_->members[rank].id;
    Send(id, std::move(message));
    beginning_.insert(id);
    members_.at(id).bench = kBenchMin;
  }
}

std::vector<WorkerId> Membership::LateToBegin(absl::Duration timeout, absl::Time now) const {
  if (beginning_.empty() || now - begun_at_ < timeout) return {};
  return {beginning_.begin(), beginning_.end()};
}

std::optional<Placement> Membership::Rebalanced(std::span<const double> load) const {
  return PlacementFor(serving_->ids(), load);
}

std::vector<WorkerId> Membership::Releasable(bool idle) const {
  std::vector<WorkerId> ids;
  for (const auto& [id, member] : members_) {
    const bool needed = (serving_ && serving_->RankOf(id)) || (next_ && next_->view.RankOf(id));
    if (member.leave_at && (!needed || (idle && dissolving()))) ids.push_back(id);
  }
  return ids;
}

bool Membership::HasWorkerOn(const std::string& host) const {
  return std::any_of(members_.begin(), members_.end(),
                     [&](const auto& entry) { return entry.second.hello.host() == host; });
}

std::string Membership::NotReady() const {
  if (serving_) return dissolving() ? "its last workers are leaving" : "";
  const std::vector<WorkerId> candidates = Candidates(absl::InfiniteFuture()), together = Together(candidates);
  const auto here = static_cast<int>(candidates.size()), most = static_cast<int>(together.size());
  if (!has_served_ && here < options_.workers) {
    return absl::StrCat("waiting for ", options_.workers - here, " of ", options_.workers, " workers");
  }
  if (!has_served_ && most < options_.workers) {
    return absl::StrCat(options_.workers, " workers are to begin together, those that are here have memory for ", most,
                        " in a group: start the router with fewer --workers, or more --groups");
  }
  if (here == 0) return "no worker is left";
  if (next_) return absl::StrCat("workers are joining epoch ", next_->view.epoch.value);
  const v1::Hello& hello = members_.begin()->second.hello;
  uint64_t slots = 0;
  for (WorkerId id : together) slots += members_.at(id).hello.expert_slots();
  const uint64_t experts = uint64_t{hello.moe_layers()} * hello.expert_count();
  if (slots < experts) {
    return absl::StrCat("the workers that are left have memory for ", slots, " of ", experts, " experts");
  }
  return problem_.empty() ? "workers are about to join an epoch" : absl::StrCat(problem_, "; trying again");
}

std::string Membership::Unprotected() const {
  if (!serving_) return "";
  if (serving_->members.size() == 1) return absl::StrCat("group ", name_, " has one worker");
  const v1::Hello& hello = serving_->members.front().hello;
  const uint64_t experts = uint64_t{hello.moe_layers()} * hello.expert_count();
  uint64_t slots = 0, most = 0;
  for (const Member& member : serving_->members) {
    slots += member.hello.expert_slots();
    most = std::max<uint64_t>(most, member.hello.expert_slots());
  }
  if (slots - most >= experts) return "";
  return absl::StrCat("group ", name_, ": after the loss of a worker there would be memory for ", slots - most, " of ",
                      experts, " experts");
}

std::vector<WorkerId> Membership::Candidates(absl::Time now) const {
  std::vector<WorkerId> ids;
  for (const auto& [id, member] : members_) {
    const bool stays = !member.leave_at || (now < *member.leave_at && serving_ && serving_->RankOf(id));
    if (stays && member.benched_until <= now) ids.push_back(id);
  }
  return ids;
}

// Those that serve keep their order, so that nothing moves without need; then the others as they came.
std::vector<WorkerId> Membership::Wanted(absl::Time now) const {
  std::vector<WorkerId> candidates = Candidates(now), wanted;
  if (serving_) {
    for (const Member& member : serving_->members) {
      if (Contains(candidates, member.id)) wanted.push_back(member.id);
    }
  }
  for (WorkerId id : candidates) {
    if (!Contains(wanted, id)) wanted.push_back(id);
  }
  return Together(wanted);
}

// The most of them that can be ranks of one epoch, the first ones of those.
std::vector<WorkerId> Membership::Together(const std::vector<WorkerId>& ids) const {
  const auto with_room_for = [&](size_t size) {
    std::vector<WorkerId> able;
    for (WorkerId id : ids) {
      const uint32_t ranks_max = members_.at(id).hello.ranks_max();
      if ((ranks_max == 0 || size <= ranks_max) && able.size() < size) able.push_back(id);
    }
    return able;
  };
  size_t size = ids.size();
  if (options_.workers_max > 0) size = std::min(size, static_cast<size_t>(options_.workers_max));
  // It ends: one rank is no more than anybody has memory for.
  while (with_room_for(size).size() < size) --size;
  return with_room_for(size);
}

bool Membership::MayStart(const std::vector<WorkerId>& wanted, absl::Time now) const {
  if (wanted.empty()) return false;
  if (!has_served_ && wanted.size() < static_cast<size_t>(options_.workers)) {
    absl::Time first = absl::InfiniteFuture();
    for (WorkerId id : wanted) {
      const Candidate& member = members_.at(id);
      if (member.hello.epoch() > 0) first = std::min(first, member.joined);
    }
    if (now < first + kRejoinGrace) return false;
  }
  return HaveMemory(ProblemFor(wanted));
}

PlacementProblem Membership::ProblemFor(const std::vector<WorkerId>& ids) const {
  const v1::Hello& hello = members_.at(ids.front()).hello;
  PlacementProblem problem{.layers = static_cast<int>(hello.moe_layers()),
                           .experts = static_cast<int>(hello.expert_count()),
                           .workers = {},
                           .before = &memory_,
                           .load = {},
                           .replicas_max = options_.replica_experts,
                           .moves_max = options_.rebalance_experts};
  for (WorkerId id : ids) {
    problem.workers.push_back({.id = id, .slots = static_cast<int>(members_.at(id).hello.expert_slots())});
  }
  return problem;
}

std::optional<Placement> Membership::PlacementFor(const std::vector<WorkerId>& ids,
                                                  std::span<const double> load) const {
  PlacementProblem problem = ProblemFor(ids);
  problem.load = load;
  return PlaceExperts(problem);
}

void Membership::StartNext(std::vector<WorkerId> ids, absl::Time now) {
  next_.emplace();
  next_->view.epoch = Epoch(++last_epoch_->value);
  next_->deadline = now + kPrepareTimeout;
  for (size_t rank = 0; rank < ids.size(); ++rank) {
    next_->view.members.push_back({ids[rank], members_.at(ids[rank]).hello});
    next_->silent.insert(ids[rank]);
    v1::AttachResponse message;
    v1::Prepare* prepare = message.mutable_prepare();
    prepare->set_epoch(next_->view.epoch.value);
    prepare->set_rank(static_cast<uint32_t>(rank));
    prepare->set_size(static_cast<uint32_t>(ids.size()));
    prepare->set_connect_timeout_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(options_.heartbeat_timeout)));
    Send(ids[rank], std::move(message));
  }
}

void Membership::Connect(std::span<const double> load, absl::Time now) {
  const std::vector<WorkerId> ids = next_->view.ids();
  std::optional<Placement> placement = PlacementFor(ids, load);
  if (!placement) return next_.reset();
  next_->view.placement = *std::move(placement);
  next_->stage = Stage::kConnecting;
  next_->deadline = now + kConfigureTimeout;
  next_->silent.insert(ids.begin(), ids.end());
  rebalance_ = false;
  v1::AttachResponse message;
  v1::Configure* configure = message.mutable_configure();
  configure->set_epoch(next_->view.epoch.value);
  for (WorkerId id : ids) configure->add_addresses(next_->addresses[id]);
  for (v1::LayerPlacement& layer : next_->view.placement.ToProto(ids)) {
    *configure->add_placement() = std::move(layer);
  }
  for (WorkerId id : ids) Send(id, message);
}

void Membership::StopServing(Loss loss) {
  v1::AttachResponse message;
  message.mutable_stop()->set_epoch(serving_->epoch.value);
  for (const Member& member : serving_->members) {
    if (members_.contains(member.id)) Send(member.id, message);
  }
  serving_.reset();
  beginning_.clear();
  loss_ = loss;
}

void Membership::Accuse(WorkerId accuser, WorkerId accused, absl::Time now) {
  accusers_[accused].insert(accuser);
  if (!judge_at_) judge_at_ = now + kJudgeDelay;
}

// One worker sits out, so that the others can go on. Whoever most others accuse; an accuser is a suspect, too, since a
// cut link has two ends.
void Membership::Judge(absl::Time now) {
  judge_at_.reset();
  std::map<WorkerId, int> suspicion;
  for (const auto& [accused, accusers] : accusers_) {
    suspicion[accused] += 2 * static_cast<int>(accusers.size());
    for (WorkerId accuser : accusers) suspicion[accuser] += 1;
  }
  accusers_.clear();
  auto newcomer = [this](WorkerId id) { return serving_ && !serving_->RankOf(id); };
  std::optional<WorkerId> culprit;
  for (const auto& [id, points] : suspicion) {
    if (!members_.contains(id)) continue;
    if (culprit && std::pair(newcomer(id), points) < std::pair(newcomer(*culprit), suspicion[*culprit])) continue;
    culprit = id;  // of equals the later one
  }
  if (culprit && !Planted(Bug::kNeverBenches)) Bench(*culprit, now);
}

void Membership::Bench(WorkerId worker, absl::Time now) {
  std::vector<WorkerId> others = Candidates(now);
  std::erase(others, worker);
  // Sitting out helps only if the others can do without.
  others = Together(others);
  if (others.empty() || !HaveMemory(ProblemFor(others))) return;
  Candidate& member = members_.at(worker);
  member.benched_until = now + member.bench;
  spdlog::warn("group {}: worker {} sits out for {} ms", name_, worker.value, absl::ToInt64Milliseconds(member.bench));
  member.bench = std::min(2 * member.bench, kBenchMax);
  retry_at_ = now;
}

}  // namespace braid
