#include "gateway/http/server.h"

#include <spdlog/spdlog.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/status.h"
#include "gateway/http/connection.h"

namespace braid {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using tcp = asio::ip::tcp;
using Executor = asio::io_context::executor_type;
using Acceptor = asio::basic_socket_acceptor<tcp, Executor>;

// Requests are understood by two threads: enough that one long prompt does not hold up all short ones, few enough to
// leave the cores to the model.
constexpr int kPoolThreads = 2;

absl::Status ListenError(const std::string& host, int port, const error_code& error) {
  return absl::UnavailableError("cannot listen for HTTP on " + host + " port " + std::to_string(port) + ": " +
                                error.message() + "; choose another port");
}

absl::StatusOr<tcp::endpoint> Resolve(asio::io_context* io, const HttpOptions& options) {
  error_code error;
  tcp::resolver resolver(*io);
  const auto found = resolver.resolve(options.host, std::to_string(options.port), tcp::resolver::passive, error);
  if (error || found.empty())
    return absl::InvalidArgumentError("the host '" + options.host + "' to listen on is no address and no name of one");
  return found.begin()->endpoint();
}

class BeastServer : public HttpServer {
 public:
  BeastServer(Inference* inference, Metrics* metrics, const HttpOptions& options)
      : context_(inference, metrics, options),
        io_(1),
        pool_(kPoolThreads),
        work_(io_.get_executor()),
        acceptor_(io_.get_executor()),
        timer_(io_) {
    context_.pool = &pool_;
    context_.on_closed = [this](HttpConnection* connection) { Forget(connection); };
  }

  ~BeastServer() override { Stop(absl::ZeroDuration()); }

  absl::Status Listen() {
    const HttpOptions& options = context_.options;
    ASSIGN_OR_RETURN(const tcp::endpoint endpoint, Resolve(&io_, options));
    error_code error;
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(Acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) return ListenError(options.host, options.port, error);
    port_ = acceptor_.local_endpoint().port();
    Accept();
    Wait();
    thread_ = std::thread([this] { io_.run(); });
    return absl::OkStatus();
  }

  int port() const override { return port_; }
  void Drain() override { context_.api.Drain(); }

  void Stop(absl::Duration grace) override {
    if (!thread_.joinable()) return;
    Drain();
    context_.answers.AwaitNone(grace);
    asio::post(io_, [this] { CloseAll(); });
    pool_.join();   // whatever is being understood finds its connection closed
    work_.reset();  // the thread ends when the closed connections' last handlers have run
    thread_.join();
  }

 private:
  void Accept() {
    accepting_ = true;
    acceptor_.async_accept([this](const error_code& error, HttpConnection::Socket socket) {
      accepting_ = false;
      if (stopping_) return;
      if (error) return OnAcceptError(error);
      OnAccept(std::move(socket));
      Accept();
    });
  }

  // Out of descriptors, most likely. The next tick tries again: some may be free then.
  void OnAcceptError(const error_code& error) {
    if (!std::exchange(accept_failed_, true)) spdlog::error("cannot accept HTTP connections: {}", error.message());
  }

  void OnAccept(HttpConnection::Socket socket) {
    if (static_cast<int>(connections_.size()) >= context_.options.connections_max) return TurnAway(std::move(socket));
    auto connection = std::make_shared<HttpConnection>(std::move(socket), &context_);
    connections_.emplace(connection.get(), connection);
    context_.probe.connections.Set(connections_.size());
    connection->Start();
  }

  void TurnAway(HttpConnection::Socket socket) {
    context_.probe.connections_refused.Add();
    const HttpReply reply = ErrorReply({.status = absl::StatusCode::kUnavailable,
                                        .code = "too_many_connections",
                                        .message = "Too many connections are open; try again.",
                                        .retry_after = absl::Seconds(1)});
    error_code ignored;
    socket.non_blocking(true, ignored);
    socket.write_some(asio::buffer(Serialize(reply, {.keep_alive = false})), ignored);
    socket.shutdown(asio::socket_base::shutdown_both, ignored);
  }

  void Wait() {
    timer_.expires_after(absl::ToChronoNanoseconds(context_.options.tick));
    timer_.async_wait([this](const error_code& error) {
      if (stopping_ || error) return;
      Tick();
      Wait();
    });
  }

  void Tick() {
    if (!accepting_) Accept();
    const SteadyTime now = std::chrono::steady_clock::now();
    for (const auto& connection : Connections()) connection->Tick(now);
  }

  void CloseAll() {
    stopping_ = true;
    error_code ignored;
    acceptor_.close(ignored);
    timer_.cancel();
    for (const auto& connection : Connections()) connection->Close();
  }

  // A copy: closing one takes it out of the map.
  std::vector<std::shared_ptr<HttpConnection>> Connections() const {
    std::vector<std::shared_ptr<HttpConnection>> all;
    all.reserve(connections_.size());
    for (const auto& [key, connection] : connections_) all.push_back(connection);
    return all;
  }

  void Forget(HttpConnection* connection) {
    connections_.erase(connection);
    context_.probe.connections.Set(connections_.size());
  }

  HttpContext context_;  // first: handlers left in io_ may refer to it to their end
  asio::io_context io_;
  asio::thread_pool pool_;
  asio::executor_work_guard<Executor> work_;
  Acceptor acceptor_;
  asio::steady_timer timer_;
  int port_ = 0;

  // The rest belongs to the I/O thread while it runs.
  absl::flat_hash_map<HttpConnection*, std::shared_ptr<HttpConnection>> connections_;
  bool accepting_ = false;
  bool accept_failed_ = false;  // logged
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(Inference* inference, Metrics* metrics,
                                                              const HttpOptions& options) {
  auto server = std::make_unique<BeastServer>(inference, metrics, options);
  RETURN_IF_ERROR(server->Listen());
  return server;
}

}  // namespace braid
