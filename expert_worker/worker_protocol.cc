#include "expert_worker/worker_protocol.h"

#include "absl/strings/str_cat.h"
#include "base/planted_bug.h"
#include "expert_worker/expert_ranks.h"

namespace braid {

void WorkerProtocol::OnAttached() {
  OnDetached();
  attached_ = true;
  highest_epoch_ = 0;
}

void WorkerProtocol::OnDetached() {
  if (!attached_) return;
  attached_ = false;
  DropNext("the stream to the router is lost");
  EndServing("the stream to the router is lost");
  forget_ = true;
  Advance();
}

absl::Status WorkerProtocol::OnMessage(v1::AttachResponse message) {
  if (!attached_) return absl::OkStatus();
  absl::Status status;
  switch (message.message_case()) {
    case v1::AttachResponse::kPrepare:
      OnPrepare(message.prepare());
      break;
    case v1::AttachResponse::kConfigure:
      OnConfigure(std::move(*message.mutable_configure()));
      break;
    case v1::AttachResponse::kBegin:
      OnBegin(std::move(*message.mutable_begin()));
      break;
    case v1::AttachResponse::kStepPlan:
      status = OnStepPlan(std::move(*message.mutable_step_plan()));
      break;
    case v1::AttachResponse::kStop:
      if (serving_ && message.stop().epoch() == serving_->epoch) EndServing("the router stopped the epoch");
      break;
    default:
      break;  // of the stream itself, or something newer than we are
  }
  Advance();
  return status;
}

void WorkerProtocol::OnPrepare(const v1::Prepare& prepare) {
  if (prepare.epoch() <= highest_epoch_) return;
  highest_epoch_ = prepare.epoch();
  DropNext(absl::StrCat("epoch ", prepare.epoch(), " takes its place"));
  if (prepare.size() < 1 || prepare.size() > kRanksMax || prepare.rank() >= prepare.size()) {
    return AnswerFault(prepare.epoch(), 0,
                       absl::InvalidArgumentError(absl::StrCat("rank ", prepare.rank(), " of ", prepare.size())), {});
  }
  next_.emplace(OpenExchange{.epoch = prepare.epoch(),
                             .rank = static_cast<int>(prepare.rank()),
                             .size = static_cast<int>(prepare.size()),
                             .connect_timeout_ms = prepare.connect_timeout_ms()});
}

void WorkerProtocol::OnConfigure(v1::Configure configure) {
  if (!next_ || configure.epoch() != next_->open.epoch || next_->state > Next::State::kOpened) return;
  if (next_->state < Next::State::kOpened) {
    return FailNext(absl::InvalidArgumentError("it is configured before it is prepared"), {});
  }
  const int size = next_->open.size;
  if (configure.addresses_size() != size) {
    return FailNext(
        absl::InvalidArgumentError(absl::StrCat(configure.addresses_size(), " addresses for ", size, " ranks")), {});
  }
  if (const auto placement = ParsePlacement(configure, moe_layers_, experts_, size); !placement.ok()) {
    return FailNext(placement.status(), {});
  }
  next_->state = Next::State::kConnecting;
  setting_up_ = true;
  const uint64_t epoch = configure.epoch();
  orders_.push_back(ConnectExchange{epoch, std::move(configure)});
}

void WorkerProtocol::OnBegin(v1::Begin begin) {
  if (!next_ || (begin.epoch() != next_->open.epoch && !Planted(Bug::kAcceptsStaleBegin))) return;
  if (next_->state != Next::State::kReady) {
    return FailNext(absl::InvalidArgumentError("it begins before it is configured"), {});
  }
  EndServing(absl::StrCat("epoch ", begin.epoch(), " begins"));
  next_.reset();
  last_served_epoch_ = begin.epoch();
  serving_.emplace(begin.epoch());
  serving_->begin = std::move(begin);
}

absl::Status WorkerProtocol::OnStepPlan(v1::StepPlan plan) {
  const bool over = serving_ && plan.epoch() != serving_->epoch;
  if (!serving_ || (over && !Planted(Bug::kWorkerTakesAnyEpoch))) return absl::OkStatus();
  if (plan.step() != serving_->last_step + 1) {
    FailServing(plan.step(), absl::InvalidArgumentError(absl::StrCat("it comes after step ", serving_->last_step)), {});
    return absl::OkStatus();
  }
  if (serving_->plans.size() >= kPlansWaitingMax) {
    return absl::ResourceExhaustedError("the router sends plans faster than they are run");
  }
  serving_->last_step = plan.step();
  serving_->plans.push_back(std::move(plan));
  return absl::OkStatus();
}

void WorkerProtocol::OnOpened(uint64_t epoch, const absl::StatusOr<std::string>& address) {
  setting_up_ = false;
  if (next_ && next_->state == Next::State::kOpening) {
    if (address.ok()) {
      next_->state = Next::State::kOpened;
      v1::Prepared* const prepared = AddAnswer().mutable_prepared();
      prepared->set_epoch(epoch);
      prepared->set_address(*address);
    } else {
      FailNext(address.status(), {});
    }
  }
  Advance();
}

void WorkerProtocol::OnConnected(uint64_t epoch, const absl::Status& status, const std::vector<int>& suspects) {
  setting_up_ = false;
  if (next_ && next_->state == Next::State::kConnecting) {
    if (status.ok()) {
      next_->state = Next::State::kReady;
      AddAnswer().mutable_configured()->set_epoch(epoch);
    } else {
      FailNext(status, suspects);
    }
  }
  Advance();
}

void WorkerProtocol::OnBegun(uint64_t epoch, const std::vector<uint64_t>& missing) {
  const std::optional<StepOrder> order = TakeStepOrder();
  if (order && !order->in_vain) {
    v1::Begun* const begun = AddAnswer().mutable_begun();
    begun->set_epoch(epoch);
    begun->mutable_missing()->Assign(missing.begin(), missing.end());
  }
  Advance();
}

void WorkerProtocol::OnStepRan(uint64_t epoch, absl::StatusOr<v1::StepDone> done, const std::vector<int>& suspects) {
  const std::optional<StepOrder> order = TakeStepOrder();
  if (order && !order->in_vain && done.ok()) {
    done->set_epoch(epoch);
    done->set_step(order->step);
    *AddAnswer().mutable_step_done() = *std::move(done);
  } else if (order && !order->in_vain) {
    FailServing(order->step, done.status(), suspects);
  }
  Advance();
}

std::optional<WorkerProtocol::StepOrder> WorkerProtocol::TakeStepOrder() {
  if (step_orders_.empty()) return std::nullopt;
  const StepOrder order = step_orders_.front();
  step_orders_.pop_front();
  return order;
}

void WorkerProtocol::EndServing(const std::string& reason) {
  if (!serving_) return;
  // Steps of an older epoch are in vain already.
  for (StepOrder& order : step_orders_) order.in_vain = true;
  orders_.push_back(AbandonExchange{serving_->epoch, reason});
  serving_.reset();
}

void WorkerProtocol::DropNext(const std::string& reason) {
  if (!next_) return;
  if (next_->state != Next::State::kWaiting) orders_.push_back(AbandonExchange{next_->open.epoch, reason});
  next_.reset();
}

// The router hears of it first; peers notice by the exchange that closes.
void WorkerProtocol::FailServing(uint64_t step, const absl::Status& status, const std::vector<int>& suspects) {
  AnswerFault(serving_->epoch, step, status, suspects);
  if (Planted(Bug::kGoesOnBehindAFault) && !serving_->plans.empty()) return;
  EndServing(absl::StrCat("the epoch failed: ", status.message()));
}

void WorkerProtocol::FailNext(const absl::Status& status, const std::vector<int>& suspects) {
  AnswerFault(next_->open.epoch, 0, status, suspects);
  DropNext(absl::StrCat("the set-up failed: ", status.message()));
}

void WorkerProtocol::AnswerFault(uint64_t epoch, uint64_t step, const absl::Status& status,
                                 const std::vector<int>& suspects) {
  v1::Fault* const fault = AddAnswer().mutable_fault();
  fault->set_epoch(epoch);
  fault->set_step(step);
  fault->set_message(status.ToString());
  for (const int rank : suspects) fault->add_suspect_ranks(static_cast<uint32_t>(rank));
}

v1::AttachRequest& WorkerProtocol::AddAnswer() {
  orders_.push_back(Answer{});
  return std::get<Answer>(orders_.back()).message;
}

void WorkerProtocol::Advance() {
  if (step_orders_.empty() && forget_) {
    forget_ = false;
    orders_.push_back(ForgetSequences{});
  }
  if (step_orders_.empty() && serving_ && serving_->begin) {
    step_orders_.emplace_back(0);
    orders_.push_back(BeginEpoch{*std::exchange(serving_->begin, std::nullopt)});
  }
  const auto can_order_step = [this] {
    const bool in_steps = step_orders_.empty() || step_orders_.front().step > 0;  // of this epoch: others are returned
    return serving_ && !serving_->begin && in_steps && step_orders_.size() < steps_at_once_;
  };
  while (can_order_step() && !serving_->plans.empty()) {
    step_orders_.emplace_back(serving_->plans.front().step());
    orders_.push_back(RunStep{std::move(serving_->plans.front())});
    serving_->plans.pop_front();
  }
  // While a step of an epoch before the serving one is to return, its exchange is the second that is open.
  const bool two_are_open = serving_ && serving_->begin;
  if (next_ && next_->state == Next::State::kWaiting && !setting_up_ && !two_are_open) {
    next_->state = Next::State::kOpening;
    setting_up_ = true;
    orders_.push_back(next_->open);
  }
}

}  // namespace braid
