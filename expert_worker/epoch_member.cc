#include "expert_worker/epoch_member.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "absl/time/clock.h"
#include "base/status.h"

namespace braid {

absl::StatusOr<std::string> EpochMember::Open() {
  if (open_.size == 1) return std::string();  // nobody to talk to
  const absl::Duration connect_timeout =
      open_.connect_timeout_ms > 0 ? absl::Milliseconds(open_.connect_timeout_ms) : shared_.exchange_timeout;
  ASSIGN_OR_RETURN(std::unique_ptr<Exchange> exchange,
                   shared_.exchanges->Prepare({.epoch = open_.epoch,
                                               .rank = open_.rank,
                                               .size = open_.size,
                                               .message_bytes_max = shared_.message_bytes_max,
                                               .timeout = shared_.exchange_timeout,
                                               .connect_timeout = connect_timeout}));
  std::string address = exchange->address();
  absl::MutexLock lock(&mutex_);
  exchange_ = std::move(exchange);
  if (abandoned_) exchange_->Abort(*abandoned_);
  return address;
}

absl::Status EpochMember::Connect(const v1::Configure& configure) {
  const ModelConfig& config = *shared_.config;
  const absl::Time start = absl::Now();
  ASSIGN_OR_RETURN(std::vector<ExpertRanks> placement,
                   ParsePlacement(configure, config.moe_layer_count(), config.experts, open_.size));
  if (exchange_) {
    const std::vector<std::string> addresses(configure.addresses().begin(), configure.addresses().end());
    RETURN_IF_ERROR(exchange_->Connect(addresses));
  }
  const absl::Time connected = absl::Now();
  ASSIGN_OR_RETURN(hold_, shared_.load_experts(placement, open_.rank, [this] { return abandoned(); }));
  spdlog::info("epoch {}: rank {} of {}, connected in {} ms, experts here after another {} ms", open_.epoch, open_.rank,
               open_.size, absl::ToInt64Milliseconds(connected - start),
               absl::ToInt64Milliseconds(absl::Now() - connected));
  ASSIGN_OR_RETURN(experts_, shared_.make_experts(exchange_.get(), {.rank = open_.rank,
                                                                    .size = open_.size,
                                                                    .step_tokens_max = shared_.step_tokens_max,
                                                                    .placement = std::move(placement)}));
  return absl::OkStatus();
}

std::vector<int> EpochMember::suspects() const {
  if (experts_) return experts_->suspects();
  return exchange_ ? exchange_->suspects() : std::vector<int>();
}

void EpochMember::Abandon(const std::string& reason) {
  absl::MutexLock lock(&mutex_);
  abandoned_ = reason;
  if (exchange_) exchange_->Abort(reason);
}

ExchangeProgress EpochMember::progress() const {
  absl::MutexLock lock(&mutex_);
  return exchange_ ? exchange_->progress() : ExchangeProgress();
}

bool EpochMember::abandoned() const {
  absl::MutexLock lock(&mutex_);
  return abandoned_.has_value();
}

}  // namespace braid
