#pragma once

#include <array>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/beast/core/buffers_range.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/optional.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/synchronization/mutex.h"
#include "gateway/http/admission.h"
#include "gateway/http/api.h"
#include "gateway/http/exchange.h"
#include "gateway/http/probe.h"
#include "gateway/http/server.h"

namespace braid {

// Beast's string_body reserves what a client announces; this one grows with what has come.
struct GrowingBody {
  using value_type = std::string;
  struct reader {
    template <bool kIsRequest, typename Fields>
    reader(boost::beast::http::header<kIsRequest, Fields>&, value_type& body) : body_(body) {}
    void init(const boost::optional<uint64_t>&, boost::system::error_code& error) { error = {}; }
    template <typename Buffers>
    size_t put(const Buffers& buffers, boost::system::error_code& error) {
      error = {};
      size_t bytes = 0;
      for (const boost::asio::const_buffer buffer : boost::beast::buffers_range_ref(buffers)) {
        body_.append(static_cast<const char*>(buffer.data()), buffer.size());
        bytes += buffer.size();
      }
      return bytes;
    }
    void finish(boost::system::error_code& error) { error = {}; }

   private:
    value_type& body_;
  };
};

class HttpConnection;
using SteadyTime = std::chrono::steady_clock::time_point;

// How many requests are being answered. Thread-safe.
class AnswerCount {
 public:
  void Add(int n) {
    absl::MutexLock lock(&mutex_);
    count_ += n;
  }
  bool AwaitNone(absl::Duration timeout) {
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(
                                       +[](int* count) { return *count == 0; }, &count_),
                                   timeout);
  }

 private:
  absl::Mutex mutex_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};

// What all connections share. Used on the I/O thread unless its type is thread-safe.
struct HttpContext {
  HttpContext(Inference* inference, Metrics* metrics, const HttpOptions& http_options)
      : options(http_options),
        guard{http_options.api_key, http_options.body_bytes_max},
        api(inference, metrics),
        probe(metrics) {}

  const HttpOptions options;
  const HttpGuard guard;
  HttpApi api;
  HttpProbe probe;
  AnswerCount answers;
  std::atomic<size_t> bodies_bytes = 0;  // read and not yet understood
  boost::asio::thread_pool* pool = nullptr;
  std::function<void(HttpConnection*)> on_closed;
};

// One client's connection: requests one after the other. A state machine with at most one read and one write in flight
// and no timer of its own: Tick() looks at the clock. A read is always pending while an answer is made, so that a
// client that leaves is noticed and its call cancelled; an end of file counts as leaving unless the answer is complete.
// Kept alive by its pending operations. All functions on the I/O thread.
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  using Socket = boost::asio::basic_stream_socket<boost::asio::ip::tcp, boost::asio::io_context::executor_type>;

  HttpConnection(Socket socket, HttpContext* context);

  void Start();
  void Tick(SteadyTime now);
  void Close();  // at once; a call in progress is cancelled

 private:
  enum class State {
    kIdle,    // no byte of the next request yet
    kHeader,  // some
    kBody,
    kAnswer,  // the request is being answered; what comes in belongs to the next one
    kLinger,  // the answer is out and said "close"; waiting for the client to do so
    kClosed
  };
  using Parser = boost::beast::http::request_parser<GrowingBody>;

  void Enter(State state, absl::Duration timeout);
  void Read();
  void OnRead(const boost::system::error_code& error, size_t bytes);
  void OnEndOfFile();

  void Parse();
  void OnParserError(const boost::system::error_code& error);
  void OnHeader();
  HttpHeader HeaderOfRequest() const;
  void OpenExchange(const HttpHeader& header);
  bool TakeBodyBudget();
  void OnRequest();
  void StartCall(std::string body);
  void OnOutcome(uint64_t request, HttpOutcome outcome);
  void OnCallEvents();
  void Answer(const HttpReply& reply);
  void Refuse(const HttpReply& reply);  // before the whole request was read: the connection cannot go on

  void Flush();
  void WriteSome();
  void OnWritten(const boost::system::error_code& error, size_t bytes);
  void OnAnswered();
  void NextRequest();
  void FinishExchange();
  bool IsSlowReader() const;

  Socket socket_;
  HttpContext& context_;
  State state_ = State::kIdle;
  SteadyTime deadline_;  // of the state; unused in kAnswer

  std::array<char, 4096> chunk_;  // belongs to the read in flight
  std::string inbox_;             // read and not yet parsed
  bool reading_ = false;
  bool end_of_file_ = false;

  std::optional<Parser> parser_;
  size_t body_bytes_ = 0;  // ours in context_.bodies_bytes
  uint64_t request_ = 0;   // counts this connection's requests
  std::optional<HttpExchange> exchange_;

  std::string outbox_;    // waits for the write in flight
  std::string inflight_;  // being written
  size_t written_ = 0;    // of inflight_
  bool writing_ = false;
  SteadyTime last_write_;
};

}  // namespace braid
