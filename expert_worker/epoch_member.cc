#include "expert_worker/epoch_member.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/status.h"
#include "expert_worker/dispatch.h"
#include "expert_worker/exchange/frame.h"

namespace braid {

EpochMember::EpochMember(const ModelConfig* config, StepRunner* runner, ExpertFfn* ffn, ThreadPool* pool,
                         ExchangeFactory* exchanges, WorkerProbe* probe, Options options)
    : config_(config),
      runner_(runner),
      ffn_(ffn),
      pool_(pool),
      exchanges_(exchanges),
      probe_(probe),
      options_(options) {}

EpochMember::~EpochMember() { Drop(); }

std::optional<v1::AttachRequest> EpochMember::Handle(const v1::AttachResponse& message, uint64_t generation) {
  v1::AttachRequest reply;
  switch (message.message_case()) {
    case v1::AttachResponse::kPrepare: {
      Drop();
      generation_ = generation;
      const absl::Status status = Prepare(message.prepare(), reply.mutable_prepared());
      return status.ok() ? reply : Fault(0, status);
    }
    case v1::AttachResponse::kConfigure: {
      if (epoch_ == 0 || message.configure().epoch() != epoch_ || experts_) return std::nullopt;
      const absl::Status status = Configure(message.configure());
      if (!status.ok()) return Fault(0, status);
      reply.mutable_configured()->set_epoch(epoch_);
      return reply;
    }
    case v1::AttachResponse::kStepPlan: {
      if (!experts_ || message.step_plan().epoch() != epoch_) return std::nullopt;
      const absl::Status status = RunStep(message.step_plan(), reply.mutable_step_done());
      return status.ok() ? reply : Fault(message.step_plan().step(), status);
    }
    default:
      return std::nullopt;
  }
}

absl::Status EpochMember::Prepare(const v1::Prepare& prepare, v1::Prepared* prepared) {
  epoch_ = prepare.epoch();
  if (prepare.size() < 1 || prepare.size() > kRanksMax || prepare.rank() >= prepare.size()) {
    return InvalidArgument(fmt::format("rank {} of {}", prepare.rank(), prepare.size()));
  }
  rank_ = static_cast<int>(prepare.rank());
  size_ = static_cast<int>(prepare.size());
  prepared->set_epoch(epoch_);
  if (size_ == 1) return absl::OkStatus();  // nobody to talk to
  ASSIGN_OR_RETURN(std::unique_ptr<Exchange> exchange,
                   exchanges_->Prepare({.epoch = epoch_,
                                        .rank = rank_,
                                        .size = size_,
                                        .message_bytes_max = MoeMessageBytesMax(
                                            options_.step_tokens_max, config_->experts_per_token, config_->model_dim),
                                        .timeout = options_.exchange_timeout}));
  prepared->set_address(exchange->address());
  SetExchange(std::move(exchange));
  return absl::OkStatus();
}

absl::Status EpochMember::Configure(const v1::Configure& configure) {
  if (configure.addresses_size() != size_) {
    return InvalidArgument(fmt::format("{} addresses for {} ranks", configure.addresses_size(), size_));
  }
  if (configure.expert_rank_size() != config_->experts) {
    return InvalidArgument(
        fmt::format("{} experts are placed, the model has {}", configure.expert_rank_size(), config_->experts));
  }
  std::vector<int32_t> rank_of_expert;
  for (const uint32_t rank : configure.expert_rank()) {
    if (rank >= static_cast<uint32_t>(size_))
      return InvalidArgument(fmt::format("an expert is placed at rank {}", rank));
    rank_of_expert.push_back(static_cast<int32_t>(rank));
  }
  if (exchange_) {
    const std::vector<std::string> addresses(configure.addresses().begin(), configure.addresses().end());
    RETURN_IF_ERROR(exchange_->Connect(addresses));
  }
  experts_ = std::make_unique<ExpertParallel>(
      config_, ffn_, pool_, exchange_.get(), size_,
      ExpertParallel::Options{
          .rank = rank_, .step_tokens_max = options_.step_tokens_max, .rank_of_expert = std::move(rank_of_expert)});
  spdlog::info("epoch {}: rank {} of {}", epoch_, rank_, size_);
  ReportState();
  return absl::OkStatus();
}

absl::Status EpochMember::RunStep(const v1::StepPlan& plan, v1::StepDone* done) {
  if (plan.step() != step_ + 1) return InvalidArgument(fmt::format("step {} after step {}", plan.step(), step_));
  const absl::Time start = absl::Now();
  const absl::Duration waited = exchange_ ? exchange_->waited() : absl::ZeroDuration();
  experts_->BeginStep(plan.step());
  ASSIGN_OR_RETURN(*done, runner_->Run(plan, *experts_));
  step_ = plan.step();
  done->set_epoch(epoch_);
  done->set_step(step_);
  done->set_step_us(static_cast<uint64_t>(absl::ToInt64Microseconds(absl::Now() - start)));
  if (exchange_) {
    done->set_exchange_us(static_cast<uint64_t>(absl::ToInt64Microseconds(exchange_->waited() - waited)));
  }
  for (const uint64_t rows : experts_->TakeExpertRows()) done->add_expert_rows(rows);
  probe_->StepRan(plan, *done);
  ReportState();
  return absl::OkStatus();
}

v1::AttachRequest EpochMember::Fault(uint64_t step, const absl::Status& status) {
  v1::AttachRequest reply;
  v1::Fault* fault = reply.mutable_fault();
  fault->set_epoch(epoch_);
  fault->set_step(step);
  fault->set_message(status.ToString());
  const std::vector<int> suspects = experts_    ? experts_->suspects()
                                    : exchange_ ? exchange_->suspects()
                                                : std::vector<int>();
  for (const int rank : suspects) fault->add_suspect_ranks(static_cast<uint32_t>(rank));
  spdlog::warn("epoch {}, step {}: {}", epoch_, step, fault->message());
  probe_->faults.Add();
  // Closing our end at once tells the peers faster than their deadline would.
  Drop();
  return reply;
}

void EpochMember::Drop() {
  experts_.reset();
  TakeExchange().reset();
  runner_->Clear();
  epoch_ = step_ = 0;
  rank_ = size_ = 0;
  ReportState();
}

void EpochMember::SetExchange(std::unique_ptr<Exchange> exchange) {
  absl::MutexLock lock(&mutex_);
  exchange_ = std::move(exchange);
  exchange_generation_ = generation_;
  if (generation_ < superseded_below_) exchange_->Abort("superseded before it began");
}

std::unique_ptr<Exchange> EpochMember::TakeExchange() {
  absl::MutexLock lock(&mutex_);
  return std::move(exchange_);
}

void EpochMember::Supersede(uint64_t generation, const std::string& reason) {
  absl::MutexLock lock(&mutex_);
  superseded_below_ = std::max(superseded_below_, generation);
  if (exchange_ && exchange_generation_ < generation) exchange_->Abort(reason);
}

void EpochMember::ReportState() {
  probe_->epoch.Set(experts_ ? static_cast<double>(epoch_) : 0);
  probe_->sequences.Set(runner_->sequences().size());
  probe_->kv_blocks_used.Set(runner_->sequences().blocks().used());
  probe_->kv_blocks_total.Set(runner_->sequences().blocks().total());
}

}  // namespace braid
