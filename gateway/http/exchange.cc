#include "gateway/http/exchange.h"

#include <utility>

#include "absl/time/clock.h"

namespace braid {

void CallMailbox::Push(CallEvent event) {
  absl::MutexLock lock(&mutex_);
  if (closed_) return;
  events_.push_back(std::move(event));
  if (events_.size() == 1) wake_();  // under the lock, so that Close() ends it for good
}

std::vector<CallEvent> CallMailbox::TakeAll() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(events_, {});
}

void CallMailbox::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  events_.clear();
}

HttpExchange::HttpExchange(RouteMatch match, std::string method, HttpDelivery delivery)
    : match_(std::move(match)), method_(std::move(method)), delivery_(std::move(delivery)), received_(absl::Now()) {}

void HttpExchange::Reply(const HttpReply& reply, std::string* wire) {
  *wire += Serialize(reply, delivery_);
  record_.status = reply.status;
  record_.error_code = reply.error_code;
  complete_ = true;
  Cancel();
}

Inference::Sink HttpExchange::OpenSink(std::function<void()> wake) {
  mailbox_ = std::make_shared<CallMailbox>(std::move(wake));
  return [mailbox = mailbox_](CallEvent event) { mailbox->Push(std::move(event)); };
}

void HttpExchange::Start(StartedCall call) {
  call_ = std::move(call);
  started_ = true;
}

void HttpExchange::OnEvents(std::string* wire) {
  if (!started_ || complete_) return;
  std::string text;  // of a stream; many events make one chunk
  for (const CallEvent& event : mailbox_->TakeAll()) {
    Add(event, &text, wire);
    if (complete_) break;
  }
  if (!text.empty()) *wire += Chunk(text, delivery_);
  if (!complete_) return;
  if (head_sent_ && !truncated_) *wire += LastChunk(delivery_);
  Cancel();
}

void HttpExchange::Add(const CallEvent& event, std::string* text, std::string* wire) {
  record_.Note(event);
  if (const auto* error = std::get_if<ApiError>(&event)) return AddError(*error, text, wire);
  if (call_.stream && !head_sent_) {
    if (delivery_.http_minor == 0) delivery_.keep_alive = false;  // only its end can tell where the body ends
    *wire += SerializeStreamHead(delivery_);
    head_sent_ = true;
    record_.status = 200;
  }
  const size_t before = text->size();
  call_.formatter->Add(event, text);
  if (std::holds_alternative<EchoedPrompt>(event)) echo_bytes_ += text->size() - before;
  if (!std::holds_alternative<Done>(event)) return;
  if (call_.stream) {
    complete_ = true;
  } else {
    Reply(JsonReply(std::exchange(*text, {})), wire);
  }
}

// A chunked body without its last chunk tells every hop that it was cut short.
void HttpExchange::AddError(const ApiError& error, std::string* text, std::string* wire) {
  if (!head_sent_) return Reply(ErrorReply(error), wire);
  call_.formatter->Add(error, text);
  record_.status = HttpStatus(error);
  record_.error_code = error.code;
  delivery_.keep_alive = false;
  truncated_ = true;
  complete_ = true;
}

void HttpExchange::Comment(std::string* wire) {
  if (streaming()) *wire += Chunk(": keep-alive\n\n", delivery_);
}

void HttpExchange::Cancel() {
  call_.call.reset();
  if (mailbox_) mailbox_->Close();
}

AuditRecord HttpExchange::Record() const {
  constexpr int kClientWentAway = 499;
  AuditRecord record = record_;
  if (!complete_) record.status = kClientWentAway;
  if (!complete_ && record.error_code.empty()) record.error_code = "cancelled";
  record.received = received_;
  record.latency = absl::Now() - received_;
  record.request_id = delivery_.request_id;
  record.door = "http";
  record.route = match_.route.label;
  return record;
}

}  // namespace braid
