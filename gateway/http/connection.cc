#include "gateway/http/connection.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <utility>

namespace braid {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

constexpr size_t kHeaderBytesMax = 16 << 10;
constexpr size_t kInboxBytesMax = 64 << 10;  // more than a header; beyond it a pipelining client waits
constexpr size_t kIdleBytesMax = 16 << 10;   // capacity a connection keeps between requests
constexpr absl::Duration kLingerTime = absl::Seconds(2);

// Gives the bytes of a body back to the budget when the body is gone, wherever that happens.
class BodyLease {
 public:
  BodyLease(std::atomic<size_t>* budget, size_t bytes) : budget_(budget), bytes_(bytes) {}
  BodyLease(BodyLease&& other) noexcept : budget_(other.budget_), bytes_(std::exchange(other.bytes_, 0)) {}
  ~BodyLease() { Release(); }
  void Release() { *budget_ -= std::exchange(bytes_, 0); }

 private:
  std::atomic<size_t>* budget_;
  size_t bytes_;
};

std::string Value(const http::request<GrowingBody>& request, http::field field) {
  const auto value = request[field];
  return std::string(value.data(), value.size());
}

ApiError TooManyBytes() {
  return {.status = absl::StatusCode::kUnavailable,
          .code = "overloaded",
          .message = "The server is reading too many large requests; try again.",
          .retry_after = absl::Seconds(1)};
}

void Shrink(std::string* buffer) {
  buffer->clear();
  if (buffer->capacity() > kIdleBytesMax) buffer->shrink_to_fit();
}

}  // namespace

HttpConnection::HttpConnection(Socket socket, HttpContext* context) : socket_(std::move(socket)), context_(*context) {}

void HttpConnection::Start() {
  error_code ignored;  // without these it is slower, not wrong
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket_.set_option(asio::socket_base::keep_alive(true), ignored);
  NextRequest();
}

void HttpConnection::Close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  FinishExchange();
  context_.bodies_bytes -= std::exchange(body_bytes_, 0);
  error_code ignored;
  socket_.close(ignored);
  context_.on_closed(this);
}

void HttpConnection::Enter(State state, absl::Duration timeout) {
  state_ = state;
  deadline_ = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(timeout);
}

void HttpConnection::Tick(SteadyTime now) {
  const auto since_write = absl::FromChrono(now - last_write_);
  if (writing_ && since_write > context_.options.write_timeout) {
    context_.probe.timeouts.Add();
    return Close();
  }
  if (state_ == State::kAnswer && !writing_ && exchange_->streaming() &&
      since_write > context_.options.comment_period) {
    exchange_->Comment(&outbox_);
    return Flush();
  }
  if (state_ == State::kAnswer || now < deadline_) return;
  if (state_ == State::kIdle || state_ == State::kLinger) return Close();
  context_.probe.timeouts.Add();
  Refuse(ErrorReply(408, {.code = "request_timeout", .message = "The request took too long to arrive."}));
}

// ---- in

void HttpConnection::Read() {
  if (reading_ || end_of_file_ || state_ == State::kClosed || inbox_.size() >= kInboxBytesMax) return;
  reading_ = true;
  socket_.async_read_some(asio::buffer(chunk_), [self = shared_from_this()](const error_code& error, size_t bytes) {
    self->OnRead(error, bytes);
  });
}

void HttpConnection::OnRead(const error_code& error, size_t bytes) {
  reading_ = false;
  if (state_ == State::kClosed) return;
  if (error == asio::error::eof) return OnEndOfFile();
  if (error) return Close();
  if (state_ != State::kLinger) inbox_.append(chunk_.data(), bytes);
  Parse();
  Read();
}

// A complete answer is still written; everything else has lost its reader.
void HttpConnection::OnEndOfFile() {
  end_of_file_ = true;
  if (state_ != State::kAnswer || !exchange_->complete()) Close();
}

void HttpConnection::Parse() {
  while ((state_ == State::kIdle || state_ == State::kHeader || state_ == State::kBody) && !inbox_.empty()) {
    if (state_ == State::kIdle) Enter(State::kHeader, context_.options.header_timeout);
    error_code error;
    inbox_.erase(0, parser_->put(asio::buffer(inbox_), error));
    if (error && error != http::error::need_more) return OnParserError(error);
    if (state_ == State::kHeader && parser_->is_header_done()) OnHeader();
    if (state_ == State::kBody && !TakeBodyBudget()) return Refuse(ErrorReply(TooManyBytes()));
    if (state_ == State::kBody && parser_->is_done()) OnRequest();
    if (error != http::error::need_more) continue;
    if (inbox_.size() >= kInboxBytesMax) OnParserError(http::error::header_limit);  // a chunk extension or a trailer
    return;
  }
}

void HttpConnection::OnParserError(const error_code& error) {
  if (!exchange_) OpenExchange(HeaderOfRequest());
  if (error == http::error::body_limit)
    return Refuse(ErrorReply(
        {.code = "body_too_large",
         .message = "The body may have up to " + std::to_string(context_.options.body_bytes_max) + " bytes."}));
  if (error == http::error::header_limit)
    return Refuse(ErrorReply(431, {.code = "header_too_large", .message = "The request's header is too large."}));
  Refuse(ErrorReply(400,
                    {.code = "bad_request", .message = "This is not a valid HTTP request: " + error.message() + "."}));
}

HttpHeader HttpConnection::HeaderOfRequest() const {
  const auto& request = parser_->get();
  HttpHeader header;
  header.method = std::string(request.method_string());
  header.target = std::string(request.target());
  header.http_minor = request.version() >= 11 ? 1 : 0;
  header.hosts = static_cast<int>(request.count(http::field::host));
  header.has_body = !parser_->is_done();
  if (parser_->is_header_done()) header.content_length = parser_->content_length().value_or(0);
  header.authorization = Value(request, http::field::authorization);
  header.content_type = Value(request, http::field::content_type);
  header.content_encoding = Value(request, http::field::content_encoding);
  header.transfer_encoding = Value(request, http::field::transfer_encoding);
  header.expect = Value(request, http::field::expect);
  const auto id = request["x-request-id"];
  header.request_id = std::string(id.data(), id.size());
  return header;
}

void HttpConnection::OpenExchange(const HttpHeader& header) {
  HttpDelivery delivery = {.http_minor = header.http_minor,
                           .keep_alive = parser_->is_header_done() && parser_->keep_alive(),
                           .head_only = header.method == "HEAD",
                           .request_id = IsValidRequestId(header.request_id) ? header.request_id : RandomHex128()};
  exchange_.emplace(MatchRoute(header.target), header.method, std::move(delivery));
  ++request_;
  context_.answers.Add(1);
}

void HttpConnection::OnHeader() {
  const HttpHeader header = HeaderOfRequest();
  OpenExchange(header);
  const std::optional<HttpReply> refusal = RefuseHeader(header, exchange_->match().route, context_.guard);
  constexpr int kBadRequest = 400;  // nothing that follows a malformed header can be trusted
  if (refusal && (header.has_body || refusal->status == kBadRequest)) return Refuse(*refusal);
  if (refusal) {
    state_ = State::kAnswer;
    return Answer(*refusal);
  }
  if (!header.has_body) return OnRequest();
  if (!header.expect.empty() && header.http_minor == 1 && inbox_.empty()) outbox_ += "HTTP/1.1 100 Continue\r\n\r\n";
  parser_->body_limit(context_.options.body_bytes_max);  // for chunked bodies; a length is checked already
  parser_->eager(true);
  Enter(State::kBody, context_.options.body_timeout);
  Flush();
}

// Counts what has been read, not what was announced: an announcement costs nothing.
bool HttpConnection::TakeBodyBudget() {
  const size_t bytes = parser_->get().body().size();
  context_.bodies_bytes += bytes - body_bytes_;
  body_bytes_ = bytes;
  return context_.bodies_bytes <= context_.options.bodies_bytes_max;
}

// ---- the answer

void HttpConnection::OnRequest() {
  state_ = State::kAnswer;
  const Route& route = exchange_->match().route;
  if (exchange_->method() == "OPTIONS") {
    Answer({.status = 204, .headers = {{"Allow", AllowedMethods(route)}}});
  } else if (exchange_->method() == "POST") {
    StartCall(std::move(parser_->get().body()));
  } else {
    Answer(context_.api.Get(exchange_->match()));
  }
}

// Understanding the request may take a while, so it happens on the pool; the outcome comes back to this thread.
void HttpConnection::StartCall(std::string body) {
  const auto executor = socket_.get_executor();
  Inference::Sink sink = exchange_->OpenSink([executor, weak = weak_from_this()] {
    asio::post(executor, [weak] {
      if (auto self = weak.lock()) self->OnCallEvents();
    });
  });
  auto work = [self = shared_from_this(), executor, request = request_, route = exchange_->match().route.id,
               id = exchange_->delivery().request_id, body = std::move(body), sink = std::move(sink),
               lease = BodyLease(&context_.bodies_bytes, std::exchange(body_bytes_, 0))]() mutable {
    HttpOutcome outcome = self->context_.api.Post(route, body, id, std::move(sink));
    body = {};
    lease.Release();  // before the answer goes out, so that its reader finds the room free
    asio::post(executor, [self = std::move(self), request, outcome = std::move(outcome)]() mutable {
      self->OnOutcome(request, std::move(outcome));
    });
  };
  asio::post(*context_.pool, std::move(work));
}

void HttpConnection::OnOutcome(uint64_t request, HttpOutcome outcome) {
  if (state_ != State::kAnswer || request != request_) return;  // the client left; a call is destroyed here
  if (const auto* reply = std::get_if<HttpReply>(&outcome)) return Answer(*reply);
  exchange_->Start(std::get<StartedCall>(std::move(outcome)));
  OnCallEvents();
}

void HttpConnection::OnCallEvents() {
  if (state_ != State::kAnswer) return;
  if (context_.api.draining()) exchange_->delivery().keep_alive = false;
  exchange_->OnEvents(&outbox_);
  if (IsSlowReader()) {
    context_.probe.slow_readers.Add();
    return Close();
  }
  Flush();
}

bool HttpConnection::IsSlowReader() const {
  const size_t unread = outbox_.size() + inflight_.size() - written_;
  return exchange_->streaming() && unread > context_.options.outbox_bytes_max + exchange_->echo_bytes();
}

void HttpConnection::Answer(const HttpReply& reply) {
  if (context_.api.draining()) exchange_->delivery().keep_alive = false;
  exchange_->Reply(reply, &outbox_);
  Flush();
}

void HttpConnection::Refuse(const HttpReply& reply) {
  if (!exchange_) OpenExchange({});
  state_ = State::kAnswer;
  exchange_->delivery().keep_alive = false;
  Answer(reply);
}

// ---- out

void HttpConnection::Flush() {
  if (writing_ || outbox_.empty()) return;
  inflight_.swap(outbox_);
  outbox_.clear();
  written_ = 0;
  last_write_ = std::chrono::steady_clock::now();
  WriteSome();
}

void HttpConnection::WriteSome() {
  writing_ = true;
  socket_.async_write_some(
      asio::buffer(inflight_.data() + written_, inflight_.size() - written_),
      [self = shared_from_this()](const error_code& error, size_t bytes) { self->OnWritten(error, bytes); });
}

void HttpConnection::OnWritten(const error_code& error, size_t bytes) {
  writing_ = false;
  if (state_ == State::kClosed) return;
  if (error) return Close();
  written_ += bytes;
  last_write_ = std::chrono::steady_clock::now();
  if (written_ < inflight_.size()) return WriteSome();
  inflight_.clear();
  written_ = 0;
  if (!outbox_.empty()) return Flush();
  if (state_ == State::kAnswer && exchange_->complete()) OnAnswered();
}

void HttpConnection::OnAnswered() {
  const bool keep_alive = exchange_->delivery().keep_alive;
  FinishExchange();
  if (keep_alive) return NextRequest();
  // Closing with unread input would send a reset, and the client might lose the answer before it has read it.
  error_code ignored;
  socket_.shutdown(asio::socket_base::shutdown_send, ignored);
  if (end_of_file_) return Close();
  Enter(State::kLinger, kLingerTime);
  inbox_.clear();
  Read();
}

void HttpConnection::FinishExchange() {
  if (!exchange_) return;
  exchange_->Cancel();
  AuditRecord record = exchange_->Record();
  const Route& route = exchange_->match().route;
  context_.probe.Request(route.label, KnownMethod(exchange_->method()), record.status);
  spdlog::debug("{} {} {} {} in {} us", record.request_id, KnownMethod(exchange_->method()), route.label, record.status,
                absl::ToInt64Microseconds(record.latency));
  if (context_.options.audit != nullptr && !route.open) {
    record.model_digest = context_.api.model_digest();
    context_.options.audit->Record(std::move(record));
  }
  exchange_.reset();
  context_.answers.Add(-1);
}

void HttpConnection::NextRequest() {
  Enter(State::kIdle, context_.options.idle_timeout);
  context_.bodies_bytes -= std::exchange(body_bytes_, 0);
  parser_.emplace();
  parser_->header_limit(kHeaderBytesMax);
  parser_->body_limit(boost::none);
  Shrink(&outbox_);
  Shrink(&inflight_);
  if (inbox_.capacity() > kIdleBytesMax) inbox_.shrink_to_fit();
  Parse();
  if (end_of_file_ && (state_ == State::kIdle || state_ == State::kHeader || state_ == State::kBody)) return Close();
  Read();
}

}  // namespace braid
