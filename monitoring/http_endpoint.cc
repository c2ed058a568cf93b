#include "monitoring/http_endpoint.h"

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <thread>
#include <utility>

#include "base/status.h"

namespace braid {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;

constexpr int kConnectionsMax = 32;
constexpr uint64_t kBodyBytesMax = 1024;
constexpr auto kTimeout = std::chrono::seconds(10);

class Endpoint : public MetricsEndpoint {
 public:
  Endpoint(Metrics* metrics, Options options) : metrics_(metrics), options_(std::move(options)), acceptor_(io_) {}

  ~Endpoint() override {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Listen() {
    const std::string where = options_.host + ":" + std::to_string(options_.port);
    boost::system::error_code error;
    const auto address = asio::ip::make_address(options_.host, error);
    if (error) return InvalidArgument("metrics address " + where + ": not an IP address");
    const tcp::endpoint endpoint(address, static_cast<uint16_t>(options_.port));
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(kConnectionsMax, error);
    if (error) return absl::UnavailableError("metrics address " + where + ": " + error.message());
    Accept();
    thread_ = std::thread([this] { io_.run(); });
    return absl::OkStatus();
  }

  int port() const override { return acceptor_.local_endpoint().port(); }

 private:
  // One request, one answer, closed. Everything runs on the endpoint's thread.
  class Connection : public std::enable_shared_from_this<Connection> {
   public:
    Connection(Endpoint* owner, tcp::socket socket) : owner_(owner), stream_(std::move(socket)) {
      ++owner_->connections_;
      parser_.body_limit(kBodyBytesMax);
    }
    ~Connection() { --owner_->connections_; }

    void Start() {
      stream_.expires_after(kTimeout);
      http::async_read(stream_, buffer_, parser_, [self = shared_from_this()](beast::error_code error, size_t) {
        if (!error) self->Answer();
      });
    }

   private:
    void Answer() {
      const auto& request = parser_.get();
      owner_->Fill(std::string(request.target().data(), request.target().size()),
                   request.method() == http::verb::get || request.method() == http::verb::head, &response_);
      response_.version(request.version());
      response_.keep_alive(false);
      response_.prepare_payload();
      if (request.method() == http::verb::head) response_.body().clear();
      stream_.expires_after(kTimeout);
      http::async_write(stream_, response_, [self = shared_from_this()](beast::error_code, size_t) {
        beast::error_code ignored;
        self->stream_.socket().shutdown(tcp::socket::shutdown_both, ignored);
      });
    }

    Endpoint* owner_;
    beast::tcp_stream stream_;
    beast::flat_buffer buffer_{8192};
    http::request_parser<http::string_body> parser_;
    http::response<http::string_body> response_;
  };

  void Accept() {
    acceptor_.async_accept([this](boost::system::error_code error, tcp::socket socket) {
      if (!error && connections_ < kConnectionsMax) std::make_shared<Connection>(this, std::move(socket))->Start();
      Accept();
    });
  }

  void Fill(const std::string& target, bool readable, http::response<http::string_body>* response) {
    response->set(http::field::content_type, "text/plain; charset=utf-8");
    if (!readable) {
      response->result(http::status::method_not_allowed);
      response->set(http::field::allow, "GET, HEAD");
    } else if (target == "/metrics") {
      response->set(http::field::content_type, kMetricsContentType);
      response->body() = metrics_->Serialize();
    } else if (target == "/livez") {
      response->body() = "alive\n";
    } else if (target == "/readyz") {
      const std::string reason = options_.not_ready ? options_.not_ready() : "";
      if (!reason.empty()) response->result(http::status::service_unavailable);
      const std::string warning = reason.empty() && options_.warning ? options_.warning() : "";
      response->body() = (reason.empty() ? "ready" : reason) + (warning.empty() ? "" : "; " + warning) + "\n";
    } else {
      response->result(http::status::not_found);
      response->body() = "try /metrics, /livez or /readyz\n";
    }
  }

  Metrics* metrics_;
  const Options options_;
  int connections_ = 0;
  asio::io_context io_;
  tcp::acceptor acceptor_;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(Metrics* metrics, Options options) {
  auto endpoint = std::make_unique<Endpoint>(metrics, std::move(options));
  RETURN_IF_ERROR(endpoint->Listen());
  return endpoint;
}

}  // namespace braid
