#include "cli/bench_serve/client_connection.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/write.hpp>
#include <utility>

#include "base/check.h"

namespace braid {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;

constexpr size_t kHeaderBytesMax = 64 << 10;

SteadyTime Now() { return std::chrono::steady_clock::now(); }

}  // namespace

ClientConnection::ClientConnection(asio::io_context* io, const TcpEndpoints* endpoints)
    : socket_(*io), timer_(*io), endpoints_(*endpoints) {}

void ClientConnection::Send(std::string request, std::shared_ptr<AnswerListener> listener,
                            std::chrono::nanoseconds timeout) {
  CHECK(!listener_) << "a request is in progress";
  request_ = std::move(request);
  listener_ = std::move(listener);
  timer_.expires_after(timeout);
  timer_.async_wait([self = shared_from_this(), listener = listener_](const ErrorCode& error) {
    if (!error && self->listener_ == listener) self->End("timeout", "no complete answer in time", Now());
  });
  kept_ = connected_;
  connected_ ? Exchange() : Connect();
}

void ClientConnection::Interrupt() {
  if (listener_) End("interrupted", "", Now());
}

void ClientConnection::Connect() {
  ErrorCode ignored;
  socket_.close(ignored);
  connected_ = false;
  asio::async_connect(socket_, endpoints_,
                      [self = shared_from_this(), attempt = ++attempt_](const ErrorCode& error, const auto&) {
                        if (attempt != self->attempt_) return;
                        if (error) return self->End("connect", error.message(), Now());
                        ErrorCode ignored;  // without it requests are slower, not wrong
                        self->socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
                        self->connected_ = true;
                        self->Exchange();
                      });
}

void ClientConnection::Exchange() {
  parser_.emplace();
  parser_->header_limit(kHeaderBytesMax);
  parser_->body_limit(boost::none);
  parser_->eager(true);
  inbox_.clear();
  head_passed_ = written_ = false;
  ++attempt_;
  asio::async_write(socket_, asio::buffer(request_),
                    [self = shared_from_this(), attempt = attempt_](const ErrorCode& error, size_t) {
                      if (attempt == self->attempt_) self->written_ = !error;  // reading finds the error, too
                    });
  Read();
}

void ClientConnection::Read() {
  socket_.async_read_some(asio::buffer(chunk_),
                          [self = shared_from_this(), attempt = attempt_](const ErrorCode& error, size_t bytes) {
                            if (attempt == self->attempt_) self->OnRead(error, bytes);
                          });
}

void ClientConnection::OnRead(const ErrorCode& error, size_t bytes) {
  const SteadyTime now = Now();
  if (error) return OnLost(error, now);
  inbox_.append(chunk_.data(), bytes);
  const uint64_t attempt = attempt_;
  Parse(now);
  if (attempt == attempt_) Read();
}

void ClientConnection::OnLost(const ErrorCode& error, SteadyTime now) {
  if (!parser_->got_some()) {
    if (std::exchange(kept_, false)) return Connect();
    return End("disconnected", error.message(), now);
  }
  ErrorCode at_end;
  parser_->put_eof(at_end);  // fine if only the end of the connection tells where the body ends
  if (error == asio::error::eof && !at_end && parser_->is_done()) return End("", "", now);
  End("truncated", error.message(), now);
}

void ClientConnection::Parse(SteadyTime now) {
  while (!inbox_.empty() && !parser_->is_done()) {
    ErrorCode error;
    const size_t used = parser_->put(asio::buffer(inbox_), error);
    inbox_.erase(0, used);
    PassOn(now);
    if (error == http::error::need_more) return;
    if (error) return End("not http", error.message(), now);
  }
  if (parser_->is_done()) End("", "", now);
}

void ClientConnection::PassOn(SteadyTime now) {
  if (!parser_->is_header_done()) return;
  if (!std::exchange(head_passed_, true)) listener_->OnHead(parser_->get().result_int());
  std::string& body = parser_->get().body();
  if (!body.empty()) listener_->OnBody(body, now);
  body.clear();
}

void ClientConnection::End(const std::string& error, const std::string& detail, SteadyTime now) {
  const bool keep = error.empty() && written_ && parser_->keep_alive();
  ++attempt_;
  timer_.cancel();
  if (!keep) {
    ErrorCode ignored;
    socket_.close(ignored);
    connected_ = false;
  }
  // Last, because the listener may send the next request on this connection.
  std::exchange(listener_, nullptr)->OnEnd(error, detail, now);
}

}  // namespace braid
