#include "tests/simulation/referee.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace braid::simulation {
namespace {

// What may look like a request that kills its workers.
constexpr size_t kCrashesMin = 2;

}  // namespace

void Referee::OnRouterSends(int router, WorkerId to, const v1::AttachResponse& message) {
  if (message.has_prepare()) {
    const uint64_t epoch = message.prepare().epoch();
    const auto [book, is_new] = epochs_.try_emplace(epoch);
    const auto higher = is_new ? std::next(book) : epochs_.end();
    if (higher != epochs_.end() && higher->second.router == router) {
      world_->Fail(fmt::format("epoch {} is prepared after a higher one", epoch));
    }
    if (is_new) book->second.router = router;
    if (book->second.router != router) world_->Fail(fmt::format("two routers use epoch {}", epoch));
    book->second.members.insert(to);
  }
  if (message.has_stop()) epochs_[message.stop().epoch()].over = true;
  if (message.has_step_plan()) OnPlan(router, to, message.step_plan());
  if (message.has_begin()) OnBegin(router, to, message.begin());
}

void Referee::OnPlan(int router, WorkerId to, const v1::StepPlan& plan) {
  EpochBook& epoch = epochs_[plan.epoch()];
  if (epoch.router != router) return world_->Fail(fmt::format("a step of epoch {} of another router", plan.epoch()));
  if (begun_[{router, to}] != plan.epoch()) {
    return world_->Fail(fmt::format("a step of epoch {} for a worker that serves another", plan.epoch()));
  }
  if (epoch.begun != epoch.members) {
    return world_->Fail(fmt::format("a step of epoch {}, which not all of its workers have begun", plan.epoch()));
  }
  StepBook& step = epoch.steps[plan.step()];
  if (step.silent.empty()) step.silent = epoch.members;
  std::map<uint64_t, SnapshotBook>& snapshots = snapshots_[{router, to}];
  for (const uint64_t id : plan.drop_snapshots()) snapshots.erase(id);
  for (const v1::SequenceStart& start : plan.start()) {
    SequenceBook& sequence = sequences_[{router, SequenceId(start.sequence())}];
    if (sequence.owner != WorkerId()) world_->Count("sequences prefilled again");
    if (sequence.owner != WorkerId() && start.resume() != 0) world_->Count("sequences prefilled again from a snapshot");
    sequence.owner = to;
    sequence.length = 0;
    sequence.run.clear();
    if (start.resume() != 0) OnResume({router, to}, start.resume(), &sequence);
  }
  for (const v1::SequenceChunk& chunk : plan.chunks()) {
    const SequenceId id(chunk.sequence());
    if (sequences_[{router, id}].owner != to) {
      return world_->Fail(fmt::format("worker {} is to run sequence {}, which it has not", to.value, id.value));
    }
    if (chunk.follows()) CheckFollows(router, plan, chunk);
    const uint32_t sure = chunk.follows() ? 1 : static_cast<uint32_t>(chunk.tokens_size()) - chunk.drafts();
    step.rows[id] = {to, chunk.position(), chunk.position() + sure};
    world_->Count("drafts", chunk.drafts());
    SequenceBook& sequence = sequences_[{router, id}];
    if (chunk.position() > sequence.run.size()) {
      return world_->Fail(
          fmt::format("sequence {} goes on at {}; its owner has {}", id.value, chunk.position(), sequence.run.size()));
    }
    sequence.run.resize(chunk.position());
    sequence.run.insert(sequence.run.end(), chunk.tokens().begin(), chunk.tokens().end());
    if (chunk.follows()) sequence.run.push_back(epoch.steps[plan.step() - 1].rows[id].first);
    for (const v1::SnapshotSave& save : chunk.saves()) {
      world_->Count("snapshots saved");
      if (sequence.no_cache) world_->Fail(fmt::format("sequence {} is saved against its will", id.value));
      SnapshotBook& snapshot = snapshots[save.snapshot()];
      snapshot = {.scope = sequence.scope, .epoch = plan.epoch(), .step = plan.step()};
      snapshot.tokens.assign(sequence.run.begin(), sequence.run.begin() + save.position());
    }
    if (!chunk.sample()) continue;
    if (std::exchange(sequence.epoch, plan.epoch()) != plan.epoch()) sequence.steps.clear();
    sequence.steps.push_back(plan.step());
  }
  if (plan.step() > 1 && !epoch.steps[plan.step() - 1].silent.empty()) {
    world_->Count("steps planned ahead, by worker");
    if (plan.step() > 2 && !epoch.steps[plan.step() - 2].silent.empty()) {
      world_->Fail(fmt::format("step {} of epoch {} is the third in flight", plan.step(), plan.epoch()));
    }
  }
}

// The step before it is to choose one token for it, whatever happens.
void Referee::CheckFollows(int router, const v1::StepPlan& plan, const v1::SequenceChunk& chunk) {
  const StepBook& before = epochs_[plan.epoch()].steps[plan.step() - 1];
  const SequenceBook& sequence = sequences_[{router, SequenceId(chunk.sequence())}];
  const auto rows = before.rows.find(SequenceId(chunk.sequence()));
  const bool samples =
      sequence.epoch == plan.epoch() && !sequence.steps.empty() && sequence.steps.back() == plan.step() - 1;
  if (rows != before.rows.end() && samples && chunk.tokens().empty() && rows->second.end == chunk.position()) return;
  world_->Fail(fmt::format("step {} of epoch {}: the chunk of sequence {} at {} follows nothing", plan.step(),
                           plan.epoch(), chunk.sequence(), chunk.position()));
}

void Referee::OnResume(const Worker& worker, uint64_t id, SequenceBook* sequence) {
  const auto snapshot = snapshots_[worker].find(id);
  if (snapshot == snapshots_[worker].end() || !snapshot->second.committed) {
    return world_->Fail(
        fmt::format("worker {} is to begin with snapshot {}, which it has not", worker.second.value, id));
  }
  if (snapshot->second.scope != sequence->scope || sequence->no_cache) {
    return world_->Fail(fmt::format("a sequence of scope '{}' begins with a snapshot of scope '{}'", sequence->scope,
                                    snapshot->second.scope));
  }
  const std::vector<TokenId>& tokens = snapshot->second.tokens;
  const size_t known = std::min(tokens.size(), sequence->prompt.size());
  if (!std::equal(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(known), sequence->prompt.begin())) {
    return world_->Fail(fmt::format("a sequence begins with snapshot {} of other tokens", id));
  }
  world_->Count("sequences begun with a snapshot");
  if (tokens.size() > sequence->prompt.size()) world_->Count("sequences begun with a snapshot of their answer");
  sequence->run = tokens;
  sequence->length = static_cast<uint32_t>(tokens.size());
}

void Referee::OnBegin(int router, WorkerId to, const v1::Begin& begin) {
  uint64_t& last = begun_[{router, to}];
  if (begin.epoch() <= last) world_->Fail(fmt::format("epoch {} begins after epoch {}", begin.epoch(), last));
  last = begin.epoch();
  world_->Count("begins of epochs, by worker");
  std::map<uint64_t, SnapshotBook> snapshots = std::exchange(snapshots_[{router, to}], {});
  for (const uint64_t id : begin.keep_snapshots()) {
    const auto found = snapshots.find(id);
    if (found == snapshots.end() || !found->second.committed) {
      world_->Fail(fmt::format("epoch {} keeps snapshot {}, which worker {} has not", begin.epoch(), id, to.value));
      continue;
    }
    world_->Count("snapshots kept over an epoch");
    snapshots_[{router, to}].insert(snapshots.extract(found));
  }
  for (const v1::SequenceKept& kept : begin.keep()) {
    const SequenceBook& sequence = sequences_[{router, SequenceId(kept.sequence())}];
    if (sequence.owner == to && kept.length() <= sequence.length) {
      world_->Count("sequences kept over an epoch");
      continue;
    }
    world_->Fail(fmt::format("epoch {} keeps sequence {} at length {}; committed are {} at worker {}", begin.epoch(),
                             kept.sequence(), kept.length(), sequence.length, sequence.owner.value));
  }
}

void Referee::OnRouterHears(int router, WorkerId from, const v1::AttachRequest& message) {
  if (message.has_step_done()) OnStepDone(router, from, message.step_done());
  if (message.has_begun()) OnBegun(router, from, message.begun());
  if (message.has_fault()) {
    const auto epoch = epochs_.find(message.fault().epoch());
    if (epoch != epochs_.end() && epoch->second.router == router) epoch->second.over = true;
  }
  if (message.has_leaving()) leaving_.insert({router, from});
  if (!message.has_hello()) return;
  const v1::Hello& hello = message.hello();
  names_[{router, from}] = hello.name();
  if (hello.epoch() == 0) return;
  for (auto& [id, sequence] : sequences_) {
    if (id.first == router) std::erase(sequence.crashes, std::pair(hello.epoch(), hello.name()));  // it lives
  }
}

void Referee::OnBegun(int router, WorkerId from, const v1::Begun& begun) {
  const auto epoch = epochs_.find(begun.epoch());
  if (epoch == epochs_.end() || epoch->second.router != router || epoch->second.over) return;
  epoch->second.begun.insert(from);
  for (const uint64_t id : begun.missing()) {
    const auto sequence = sequences_.find({router, SequenceId(id)});
    if (sequence != sequences_.end() && sequence->second.owner == from) sequence->second.owner = WorkerId(~0u);
  }
}

void Referee::OnStepDone(int router, WorkerId from, const v1::StepDone& done) {
  const auto epoch = epochs_.find(done.epoch());
  if (epoch == epochs_.end() || epoch->second.router != router || epoch->second.over) return;
  const auto found = epoch->second.steps.find(done.step());
  if (found == epoch->second.steps.end()) return;
  StepBook& step = found->second;
  if (!step.silent.contains(from)) return;
  for (const v1::Sampled& sampled : done.sampled()) {
    StepBook::Rows& rows = step.rows[SequenceId(sampled.sequence())];
    rows.right = static_cast<uint32_t>(sampled.more_size());
    world_->Count("drafts that were right", sampled.more_size());
    std::vector<TokenId>& run = sequences_[{router, SequenceId(sampled.sequence())}].run;
    rows.first = sampled.token().token();
    if (rows.end < run.size() && run[rows.end] == kUnknown) run[rows.end] = rows.first;
  }
  step.silent.erase(from);
  if (!step.silent.empty()) return;
  for (const WorkerId member : epoch->second.members) {
    for (auto& [id, snapshot] : snapshots_[{router, member}]) {
      if (snapshot.epoch == done.epoch() && snapshot.step == done.step()) snapshot.committed = true;
    }
  }
  for (const auto& [id, rows] : step.rows) {
    const auto found = sequences_.find({router, id});
    if (found == sequences_.end()) continue;  // cancelled
    SequenceBook& sequence = found->second;
    if (sequence.owner == rows.worker) sequence.length = std::max(sequence.length, rows.end + rows.right);
    if (rows.end + rows.right >= sequence.crash_end) sequence.crashes.clear();
  }
}

void Referee::OnRouterLoses(int router, WorkerId worker, bool broken) {
  const auto begun = begun_.find({router, worker});
  if (begun == begun_.end()) return;
  EpochBook& epoch = epochs_[begun->second];
  const bool was_over = std::exchange(epoch.over, true);
  if (was_over || !broken || leaving_.contains({router, worker}) || epoch.steps.empty() ||
      epoch.steps.rbegin()->second.silent.empty())
    return;
  std::map<SequenceId, StepBook::Rows> in_flight;
  for (const auto& [number, step] : epoch.steps) {
    for (const auto& [id, rows] : step.rows) {
      if (step.silent.empty()) break;
      const auto [book, is_new] = in_flight.try_emplace(id, rows);
      book->second.end = rows.end;
    }
  }
  SequenceBook* serious = nullptr;
  int serious_count = 0;
  for (const auto& [id, rows] : in_flight) {
    const auto found = sequences_.find({router, id});
    if (found == sequences_.end() || found->second.cancelled) continue;
    SequenceBook& sequence = found->second;
    if (sequence.crashes.empty() || rows.end > sequence.crash_begin) {  // else it is on the way back to where that was
      sequence.crashes.emplace_back(begun->second, names_[{router, worker}]);
      sequence.crash_begin = rows.begin;
      sequence.crash_end = rows.end;
    }
    if (sequence.crashes.size() < kCrashesMin) continue;
    serious = &sequence;
    ++serious_count;
  }
  if (serious_count == 1) serious->convicted = true;
}

void Referee::OnGenerate(int router, SequenceId id, const v1::GenerateSequenceRequest& request) {
  SequenceBook& sequence = sequences_[{router, id}];
  sequence.scope = request.cache_scope();
  sequence.no_cache = request.no_cache();
  sequence.prompt.assign(request.prompt().begin(), request.prompt().end());
  sequence.prompt.insert(sequence.prompt.end(), request.generated().begin(), request.generated().end());
}

void Referee::OnCancel(int router, SequenceId sequence) { sequences_[{router, sequence}].cancelled = true; }

void Referee::OnEnd(int router, SequenceId sequence, const absl::Status& status) {
  const auto found = sequences_.find({router, sequence});
  if (found == sequences_.end()) return;
  if (found->second.accepted && (absl::IsResourceExhausted(status) || absl::IsInvalidArgument(status))) {
    world_->Fail(fmt::format("sequence {} was accepted, and then refused: {}", sequence.value, status.ToString()));
  }
  sequences_.erase(found);
}

void Referee::OnQuarantine(int router, SequenceId id, const std::string& request) {
  const SequenceBook& sequence = sequences_[{router, id}];
  if (sequence.convicted && sequence.crashes.size() >= kCrashesMin) quarantined_.insert(request);
  if (quarantined_.contains(request)) return;
  world_->Fail(fmt::format("sequence {} is quarantined; it was at {} crashes since it last got on, perhaps with others",
                           id.value, sequence.crashes.size()));
}

void Referee::OnRouterSays(int router, SequenceId to, const v1::GenerateSequenceResponse& event) {
  SequenceBook& sequence = sequences_[{router, to}];
  if (event.has_accepted() && std::exchange(sequence.accepted, true)) {
    world_->Fail(fmt::format("sequence {} is accepted twice", to.value));
  }
  if (!event.has_tokens()) return;
  const int64_t position = event.tokens().position();
  if (sequence.tokens >= 0 && position != sequence.tokens) {
    world_->Fail(fmt::format("sequence {}: token {} is said after {} tokens", to.value, position, sequence.tokens));
  }
  sequence.tokens = position + event.tokens().tokens_size();
  const auto epoch = epochs_.find(sequence.epoch);
  if (epoch == epochs_.end()) {
    return world_->Fail(fmt::format("sequence {} gets a token that no step has chosen", to.value));
  }
  if (sequence.steps.empty()) {
    return world_->Fail(fmt::format("sequence {} gets a token, and none is to be chosen", to.value));
  }
  const uint64_t step = sequence.steps.front();
  sequence.steps.pop_front();
  if (!epoch->second.steps[step].silent.empty()) {
    world_->Fail(fmt::format("sequence {} gets a token of step {} of epoch {}, which not all have answered", to.value,
                             step, sequence.epoch));
  }
}

}  // namespace braid::simulation
