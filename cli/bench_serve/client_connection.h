#pragma once

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace braid {

using SteadyTime = std::chrono::steady_clock::time_point;
using TcpEndpoints = std::vector<boost::asio::ip::tcp::endpoint>;

// Hears of one request. Times are those at which this process got hold of the bytes, before anything looked at them.
class AnswerListener {
 public:
  virtual ~AnswerListener() = default;
  virtual void OnHead(int status) = 0;
  virtual void OnBody(std::string_view bytes, SteadyTime now) = 0;
  // The last call. An empty `error` is a whole answer; else its kind: "connect", "disconnected" (before the answer
  // began), "truncated" (after that), "timeout", "not http", "interrupted".
  virtual void OnEnd(const std::string& error, const std::string& detail, SteadyTime now) = 0;
};

// A connection to the server that carries one request at a time: connected when needed, kept when the server allows. A
// kept one that turns out to be closed, before any byte of an answer, is made anew without the listener knowing. Not
// thread-safe: everything happens on the thread that runs its io_context.
class ClientConnection : public std::enable_shared_from_this<ClientConnection> {
 public:
  // Both must outlive the connection and its handlers.
  ClientConnection(boost::asio::io_context* io, const TcpEndpoints* endpoints);

  // REQUIRES: no request is in progress. From inside OnEnd() of the one before is fine.
  void Send(std::string request, std::shared_ptr<AnswerListener> listener, std::chrono::nanoseconds timeout);
  // Ends the request in progress, if there is one, with "interrupted".
  void Interrupt();

 private:
  using ErrorCode = boost::system::error_code;
  using Parser = boost::beast::http::response_parser<boost::beast::http::string_body>;

  void Connect();
  void Exchange();  // writes the request and reads the answer
  void Read();
  void OnRead(const ErrorCode& error, size_t bytes);
  void OnLost(const ErrorCode& error, SteadyTime now);
  void Parse(SteadyTime now);
  void PassOn(SteadyTime now);
  void End(const std::string& error, const std::string& detail, SteadyTime now);

  boost::asio::ip::tcp::socket socket_;
  boost::asio::steady_timer timer_;
  const TcpEndpoints& endpoints_;

  // Handlers of an earlier attempt to get an answer, still on their way, know by this number that they come too late.
  uint64_t attempt_ = 0;
  std::shared_ptr<AnswerListener> listener_;  // null: no request in progress
  std::string request_;
  bool connected_ = false, kept_ = false, written_ = false;

  std::optional<Parser> parser_;
  std::array<char, 16384> chunk_;
  std::string inbox_;  // read, not yet parsed: part of a header or of a chunk's length
  bool head_passed_ = false;
};

}  // namespace braid
