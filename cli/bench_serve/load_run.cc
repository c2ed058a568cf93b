#include "cli/bench_serve/load_run.h"

#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <thread>
#include <unordered_set>
#include <utility>

#include "base/status.h"
#include "cli/bench_serve/answer_chunk.h"
#include "cli/bench_serve/client_connection.h"
#include "cli/bench_serve/sse.h"

namespace braid {
namespace {

namespace asio = boost::asio;
using std::chrono::steady_clock;

constexpr char kTarget[] = "/v1/completions";
constexpr std::chrono::milliseconds kPauseAfterFailure{100};

absl::StatusOr<TcpEndpoints> Resolve(const ServerAddress& server) {
  asio::io_context io;
  asio::ip::tcp::resolver resolver(io);
  boost::system::error_code error;
  const auto found = resolver.resolve(server.host, std::to_string(server.port), error);
  if (error) return absl::UnavailableError("no address for " + server.host + ": " + error.message());
  return TcpEndpoints(found.begin(), found.end());
}

std::string HttpRequest(const LoadRunOptions& options, const std::string& method, const std::string& target,
                        const std::string& body) {
  std::string request = method + " " + options.server.base + target +
                        " HTTP/1.1\r\nHost: " + options.server.Authority() + "\r\nUser-Agent: braid-bench\r\n";
  if (!options.api_key.empty()) request += "Authorization: Bearer " + options.api_key + "\r\n";
  if (!body.empty()) request += "Content-Type: application/json\r\n";
  return request + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

// Thousands of streams need as many descriptors.
void RaiseDescriptorLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

double Seconds(steady_clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// From bytes to the record of one streamed answer.
class AnswerRecorder : public AnswerListener {
 public:
  using OnEnded = std::function<void(RequestRecord record)>;

  AnswerRecorder(RequestRecord record, SteadyTime start, std::atomic<int64_t>* tokens, OnEnded on_ended)
      : record_(std::move(record)), start_(start), tokens_(*tokens), on_ended_(std::move(on_ended)) {}

  void OnHead(int status) override { record_.http_status = status; }

  void OnBody(std::string_view bytes, SteadyTime now) override {
    if (record_.http_status != kOk) {
      if (error_body_.size() < kErrorBytesMax) error_body_ += bytes;
      return;
    }
    const double at_s = Seconds(now - start_);
    if (!parser_.Feed(bytes, [this, at_s](std::string_view data) { OnEvent(data, at_s); })) Fail("event too long", "");
  }

  void OnEnd(const std::string& error, const std::string& detail, SteadyTime now) override {
    record_.ended_s = Seconds(now - start_);
    if (!error.empty()) {
      Fail(error, detail);
    } else if (record_.http_status != kOk) {
      Fail("http " + std::to_string(record_.http_status), ErrorMessage(error_body_));
    } else if (!done_ && record_.finish_reason.empty()) {
      Fail("truncated", "the stream ended without [DONE]");
    }
    CountTokens();
    on_ended_(std::move(record_));
  }

 private:
  static constexpr int kOk = 200;
  static constexpr size_t kErrorBytesMax = 64 << 10;

  void OnEvent(std::string_view data, double at_s) {
    if (data == "[DONE]") {
      done_ = true;
      return;
    }
    std::optional<AnswerChunk> chunk = ParseAnswerChunk(data);
    if (!chunk) return Fail("not json", std::string(data.substr(0, 100)));
    if (chunk->error) return Fail("error event", *chunk->error);
    if (chunk->usage) usage_ = chunk->usage;
    if (!chunk->finish_reason.empty()) record_.finish_reason = std::move(chunk->finish_reason);
    if (const int tokens = chunk->tokens(); tokens > 0) AddTokens(tokens, at_s);
  }

  void AddTokens(int tokens, double at_s) {
    std::vector<TokenArrival>& arrivals = record_.arrivals;
    if (arrivals.empty() || arrivals.back().at_s != at_s) arrivals.push_back({at_s, 0});
    arrivals.back().tokens += tokens;
    record_.output_tokens += tokens;
    tokens_.fetch_add(tokens, std::memory_order_relaxed);
  }

  void Fail(const std::string& error, const std::string& detail) {
    if (!record_.error.empty()) return;  // the first is the cause
    record_.error = error;
    record_.error_detail = detail;
  }

  void CountTokens() {
    record_.prompt_tokens = record_.prompt_tokens_asked;
    record_.tokens_by_server = usage_.has_value();
    if (!usage_) return;
    record_.prompt_tokens = usage_->prompt_tokens;
    record_.cached_tokens = usage_->cached_tokens;
    record_.output_tokens = usage_->output_tokens;
  }

  RequestRecord record_;
  const SteadyTime start_;
  std::atomic<int64_t>& tokens_;
  const OnEnded on_ended_;
  SseParser parser_;
  std::string error_body_;
  std::optional<TokenUsage> usage_;
  bool done_ = false;
};

// What the threads of a run share.
struct SharedRun {
  LoadRunOptions options;
  Workload workload;
  TcpEndpoints endpoints;
  SteadyTime start;
  std::atomic<size_t> next{0};  // closed loop: the request that the next free client sends
  std::atomic<size_t> ended{0}, failed{0}, running{0};
  std::atomic<int64_t> output_tokens{0};
};

// One thread's part. Everything but its construction and Interrupt() happens on that thread.
class Shard {
 public:
  // Open loop: sends the requests index, index + count, ... Closed loop: runs `clients` clients.
  Shard(SharedRun* run, size_t index, size_t count, int clients)
      : run_(*run), next_(index), stride_(count), arrival_timer_(io_), clients_(clients) {
    asio::post(io_, [this] { Begin(); });
    thread_ = std::thread([this] { Loop(); });
  }

  ~Shard() { Join(); }

  void Interrupt() {
    asio::post(io_, [this] {
      interrupted_ = true;
      arrival_timer_.cancel();
      const auto running = running_;  // each that ends leaves the set
      for (const auto& connection : running) connection->Interrupt();
    });
  }

  bool done() const { return done_; }
  void Join() {
    if (thread_.joinable()) thread_.join();
  }
  std::vector<RequestRecord>& records() { return records_; }  // after Join(), like the rest
  double busy_share() const { return busy_share_; }

 private:
  using Connection = std::shared_ptr<ClientConnection>;

  void Loop() {
    const auto begin = steady_clock::now();
    io_.run();
    timespec cpu = {};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    const double busy_s = static_cast<double>(cpu.tv_sec) + 1e-9 * static_cast<double>(cpu.tv_nsec);
    busy_share_ = busy_s / std::max(1e-9, Seconds(steady_clock::now() - begin));
    idle_.clear();
    done_ = true;
  }

  void Begin() {
    if (run_.workload.open_loop()) return AwaitArrival();
    for (int i = 0; i < clients_; ++i) ClientTurn();
  }

  // The next request is written out first and then waits for its time, not the other way round.
  void AwaitArrival() {
    if (next_ >= run_.workload.arrivals_s.size() || interrupted_) return;
    const auto delay = std::chrono::duration<double>(run_.workload.arrivals_s[next_]);
    const SteadyTime due = run_.start + std::chrono::duration_cast<steady_clock::duration>(delay);
    std::string wire = Wire(next_);
    arrival_timer_.expires_at(due);
    arrival_timer_.async_wait([this, due, wire = std::move(wire)](const boost::system::error_code& error) mutable {
      if (error || interrupted_) return;
      Send(next_, std::move(wire), due);
      next_ += stride_;
      AwaitArrival();
    });
  }

  void ClientTurn() {
    if (interrupted_ || Seconds(steady_clock::now() - run_.start) >= run_.workload.duration_s) return;
    const size_t request = run_.next++;
    if (request >= run_.workload.requests_max) return;
    std::string wire = Wire(request);
    Send(request, std::move(wire), steady_clock::now());
  }

  std::string Wire(size_t request) { return HttpRequest(run_.options, "POST", kTarget, run_.options.body(request)); }

  void Send(size_t request, std::string wire, SteadyTime due) {
    const RequestSize size = run_.workload.SizeOf(request);
    RequestRecord record = {.request = request,
                            .prompt_tokens_asked = size.prompt_tokens,
                            .output_tokens_asked = size.output_tokens,
                            .scheduled_s = Seconds(due - run_.start),
                            .sent_s = Seconds(steady_clock::now() - run_.start)};
    const Connection connection = TakeConnection();
    running_.insert(connection);
    ++run_.running;
    auto recorder = std::make_shared<AnswerRecorder>(
        std::move(record), run_.start, &run_.output_tokens,
        [this, connection](RequestRecord ended) { OnEnded(connection, std::move(ended)); });
    connection->Send(std::move(wire), std::move(recorder), run_.options.timeout);
  }

  Connection TakeConnection() {
    if (idle_.empty()) return std::make_shared<ClientConnection>(&io_, &run_.endpoints);
    Connection connection = std::move(idle_.back());
    idle_.pop_back();
    return connection;
  }

  void OnEnded(const Connection& connection, RequestRecord record) {
    running_.erase(connection);
    idle_.push_back(connection);
    --run_.running;
    if (record.error == "interrupted") return;
    ++run_.ended;
    const bool failed = !record.complete();
    if (failed) ++run_.failed;
    records_.push_back(std::move(record));
    if (run_.workload.open_loop()) return;
    failed ? PauseThenTurn() : ClientTurn();
  }

  void PauseThenTurn() {
    auto timer = std::make_shared<asio::steady_timer>(io_, kPauseAfterFailure);
    timer->async_wait([this, timer](const boost::system::error_code&) { ClientTurn(); });
  }

  SharedRun& run_;
  asio::io_context io_{1};
  size_t next_;
  const size_t stride_;
  asio::steady_timer arrival_timer_;
  const int clients_;
  bool interrupted_ = false;
  std::vector<Connection> idle_;
  std::unordered_set<Connection> running_;
  std::vector<RequestRecord> records_;
  double busy_share_ = 0;
  std::atomic<bool> done_{false};
  std::thread thread_;  // last: it uses all of the above
};

class ShardedLoadRun : public LoadRun {
 public:
  ShardedLoadRun(LoadRunOptions options, Workload workload, TcpEndpoints endpoints) {
    RaiseDescriptorLimit();
    const int threads = std::max(1, options.threads);
    run_.options = std::move(options);
    run_.workload = std::move(workload);
    run_.endpoints = std::move(endpoints);
    run_.start = steady_clock::now();
    const int clients = run_.workload.concurrency;
    for (int i = 0; i < threads; ++i) {
      const int share = clients / threads + (i < clients % threads ? 1 : 0);
      shards_.push_back(std::make_unique<Shard>(&run_, i, threads, share));
    }
  }
  ~ShardedLoadRun() override {
    ShardedLoadRun::Interrupt();
    shards_.clear();
  }

  bool done() const override {
    return std::all_of(shards_.begin(), shards_.end(), [](const auto& shard) { return shard->done(); });
  }
  Progress progress() const override { return {run_.ended, run_.failed, run_.running, run_.output_tokens}; }
  void Interrupt() override {
    for (const auto& shard : shards_) shard->Interrupt();
  }

  std::vector<RequestRecord> Wait() override {
    std::vector<RequestRecord> records;
    for (const auto& shard : shards_) {
      shard->Join();
      busy_share_ = std::max(busy_share_, shard->busy_share());
      std::move(shard->records().begin(), shard->records().end(), std::back_inserter(records));
      shard->records().clear();
    }
    std::sort(records.begin(), records.end(),
              [](const RequestRecord& a, const RequestRecord& b) { return a.request < b.request; });
    return records;
  }
  double busy_share() const override { return busy_share_; }

 private:
  SharedRun run_;
  std::vector<std::unique_ptr<Shard>> shards_;
  double busy_share_ = 0;
};

// Gathers one whole answer.
class Collector : public AnswerListener {
 public:
  void OnHead(int status) override { answer.status = status; }
  void OnBody(std::string_view bytes, SteadyTime) override {
    constexpr size_t kBytesMax = 16 << 20;
    if (answer.body.size() < kBytesMax) answer.body += bytes;
  }
  void OnEnd(const std::string& kind, const std::string& detail, SteadyTime) override {
    if (!kind.empty()) error = kind + ": " + detail;
  }

  HttpAnswer answer;
  std::string error;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LoadRun>> LoadRun::Start(LoadRunOptions options, Workload workload) {
  ASSIGN_OR_RETURN(TcpEndpoints endpoints, Resolve(options.server));
  return std::make_unique<ShardedLoadRun>(std::move(options), std::move(workload), std::move(endpoints));
}

absl::StatusOr<HttpAnswer> Fetch(const LoadRunOptions& options, const std::string& method, const std::string& target,
                                 const std::string& body, std::chrono::nanoseconds timeout) {
  ASSIGN_OR_RETURN(const TcpEndpoints endpoints, Resolve(options.server));
  asio::io_context io;
  const auto collector = std::make_shared<Collector>();
  std::make_shared<ClientConnection>(&io, &endpoints)
      ->Send(HttpRequest(options, method, target, body), collector, timeout);
  io.run();
  if (!collector->error.empty())
    return absl::UnavailableError("no answer from " + options.server.Url() + " (" + collector->error + ")");
  return std::move(collector->answer);
}

}  // namespace braid
