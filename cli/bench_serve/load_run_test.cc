#include "cli/bench_serve/load_run.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/bench_serve/server_probe.h"

namespace braid {
namespace {

using ::testing::Each;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::SizeIs;

std::string Chunked(const std::string& body) {
  char length[16];
  std::snprintf(length, sizeof length, "%zx", body.size());
  return std::string(length) + "\r\n" + body + "\r\n";
}

constexpr char kStreamHead[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
constexpr char kToken[] = "data: {\"choices\":[{\"text\":\"a\"}]}\n\n";
constexpr char kEnd[] =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";

std::string WholeAnswer() {
  return std::string(kStreamHead) + Chunked(kToken) + Chunked(kToken) + Chunked(kEnd) + "0\r\n\r\n";
}
std::string Refusal(int status, const std::string& message) {
  const std::string body = "{\"error\":{\"message\":\"" + message + "\"}}";
  return "HTTP/1.1 " + std::to_string(status) + " No\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" +
         body;
}

// Answers requests with what `answer(head, body)` returns; the connection is closed if that ends with kHangUp, and
// stays silent if it is empty.
constexpr char kHangUp[] = "<hang up>";
class ScriptedServer {
 public:
  using Script = std::function<std::string(const std::string& head, const std::string& body)>;

  explicit ScriptedServer(Script script) : script_(std::move(script)), listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof(address);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), bytes), 0);
    EXPECT_EQ(listen(listener_, 64), 0);
    EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &bytes), 0);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { Accept(); });
  }
  ~ScriptedServer() {
    shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    for (int fd : fds_) shutdown(fd, SHUT_RDWR);
    for (std::thread& thread : threads_) thread.join();
    for (int fd : fds_) close(fd);
    close(listener_);
  }

  int connections() const { return connections_; }
  LoadRunOptions Options() const {
    return {.server = {.host = "127.0.0.1", .port = port_},
            .timeout = std::chrono::seconds(20),
            .body = [](size_t request) { return "{\"n\":" + std::to_string(request) + "}"; }};
  }

 private:
  void Accept() {
    for (int fd; (fd = accept(listener_, nullptr, nullptr)) >= 0;) {
      ++connections_;
      fds_.push_back(fd);
      threads_.emplace_back([this, fd] { Serve(fd); });
    }
  }

  void Serve(int fd) {
    std::string input;
    char bytes[4096];
    for (ssize_t n; (n = recv(fd, bytes, sizeof bytes, 0)) > 0;) {
      input.append(bytes, n);
      const size_t head = input.find("\r\n\r\n"), at = input.find("Content-Length: ");
      if (head == input.npos || at == input.npos) continue;
      const size_t end = head + 4 + std::stoul(input.substr(at + 16));
      if (input.size() < end) continue;
      std::string answer = script_(input.substr(0, head), input.substr(head + 4, end - head - 4));
      input.erase(0, end);
      const bool hang_up = answer.ends_with(kHangUp);
      if (hang_up) answer.resize(answer.size() - std::strlen(kHangUp));
      send(fd, answer.data(), answer.size(), MSG_NOSIGNAL);
      if (hang_up) shutdown(fd, SHUT_RDWR);
    }
  }

  const Script script_;
  const int listener_;
  int port_ = 0;
  std::atomic<int> connections_{0};
  std::vector<int> fds_;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

Workload Closed(int clients, size_t requests) {
  return {.sizes = {{5, 2}}, .concurrency = clients, .requests_max = requests};
}

std::vector<RequestRecord> RunAll(const LoadRunOptions& options, Workload workload) {
  auto run = LoadRun::Start(options, std::move(workload));
  EXPECT_TRUE(run.ok());
  return (*run)->Wait();
}

TEST(LoadRun, RecordsWholeAnswersAndKeepsConnections) {
  ScriptedServer server([](const std::string&, const std::string&) { return WholeAnswer(); });
  for (int threads : {1, 3}) {
    LoadRunOptions options = server.Options();
    options.threads = threads;
    const int before = server.connections();
    const std::vector<RequestRecord> records = RunAll(options, Closed(4, 50));
    ASSERT_THAT(records, SizeIs(50));
    EXPECT_LE(server.connections() - before, 4);
    for (size_t i = 0; i < records.size(); ++i) {
      const RequestRecord& record = records[i];
      EXPECT_EQ(record.request, i);
      EXPECT_EQ(record.error, "") << record.error_detail;
      EXPECT_EQ(record.output_tokens, 2);
      EXPECT_EQ(record.prompt_tokens, 5);
      EXPECT_TRUE(record.tokens_by_server);
      EXPECT_LE(record.scheduled_s, record.sent_s);
      EXPECT_LE(record.sent_s, record.arrivals.front().at_s);
      EXPECT_LE(record.arrivals.back().at_s, record.ended_s);
    }
  }
}

TEST(LoadRun, AnOpenLoopDoesNotWaitForTheServer) {
  constexpr size_t kRequests = 20;
  std::mutex mutex;
  std::condition_variable all;
  size_t arrived = 0;
  ScriptedServer server([&](const std::string&, const std::string&) {  // nobody is answered before all have asked
    std::unique_lock lock(mutex);
    if (++arrived == kRequests) all.notify_all();
    all.wait(lock, [&] { return arrived >= kRequests; });
    return WholeAnswer();
  });
  Workload workload = {.sizes = {{5, 2}}};
  for (size_t i = 0; i < kRequests; ++i) workload.arrivals_s.push_back(0.001 * static_cast<double>(i));
  const std::vector<RequestRecord> records = RunAll(server.Options(), workload);
  ASSERT_THAT(records, SizeIs(kRequests));
  for (size_t i = 0; i < kRequests; ++i) {
    EXPECT_TRUE(records[i].complete()) << records[i].error;
    EXPECT_DOUBLE_EQ(records[i].scheduled_s, workload.arrivals_s[i]);
    EXPECT_GE(records[i].sent_s, records[i].scheduled_s);
  }
}

TEST(LoadRun, EveryWayToFailHasAName) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {Refusal(429, "slow down"), "http 429"},
      {Refusal(500, "oh"), "http 500"},
      {kHangUp, "disconnected"},
      {std::string(kStreamHead) + Chunked(kToken) + kHangUp, "truncated"},
      {std::string(kStreamHead) + Chunked(kToken) + "0\r\n\r\n", "truncated"},  // a clean end, but no [DONE]
      {std::string(kStreamHead) + Chunked("data: {\"error\":{\"message\":\"x\"}}\n\n") + "0\r\n\r\n", "error event"},
      {std::string(kStreamHead) + Chunked("data: hm\n\n") + "0\r\n\r\n", "not json"},
      {std::string("220 mail.example.org ESMTP\r\n\r\n") + kHangUp, "not http"},
  };
  ScriptedServer server([&](const std::string&, const std::string& body) {
    return cases[nlohmann::json::parse(body)["n"].get<size_t>()].first;
  });
  const std::vector<RequestRecord> records =
      RunAll(server.Options(), Closed(static_cast<int>(cases.size()), cases.size()));
  ASSERT_THAT(records, SizeIs(cases.size()));
  for (size_t i = 0; i < cases.size(); ++i) EXPECT_EQ(records[i].error, cases[i].second) << cases[i].first;
  EXPECT_EQ(records[0].error_detail, "slow down");
}

TEST(LoadRun, ASilentServerIsATimeout) {
  ScriptedServer server([](const std::string&, const std::string&) { return std::string(); });
  LoadRunOptions options = server.Options();
  options.timeout = std::chrono::milliseconds(20);
  EXPECT_THAT(RunAll(options, Closed(2, 2)), Each(Field(&RequestRecord::error, "timeout")));
}

TEST(LoadRun, NoServerIsAnErrorOfEachRequest) {
  LoadRunOptions options;
  {
    ScriptedServer gone([](const std::string&, const std::string&) { return std::string(); });
    options = gone.Options();
  }
  const std::vector<RequestRecord> records = RunAll(options, Closed(2, 3));
  ASSERT_THAT(records, SizeIs(3));
  EXPECT_THAT(records, Each(Field(&RequestRecord::error, "connect")));
}

TEST(LoadRun, AKeptConnectionThatTheServerClosedIsNoFailure) {
  ScriptedServer server([](const std::string&, const std::string&) { return WholeAnswer() + kHangUp; });
  const std::vector<RequestRecord> records = RunAll(server.Options(), Closed(1, 10));
  ASSERT_THAT(records, SizeIs(10));
  EXPECT_THAT(records, Each(Field(&RequestRecord::error, "")));
  EXPECT_EQ(server.connections(), 10);
}

TEST(LoadRun, InterruptingLeavesOnlyWhatHasEnded) {
  std::atomic<int> asked{0};
  ScriptedServer server([&](const std::string&, const std::string&) {
    return ++asked <= 3 ? WholeAnswer() : std::string();  // then silence
  });
  auto run = LoadRun::Start(server.Options(), Closed(2, 100));
  ASSERT_TRUE(run.ok());
  while ((*run)->progress().ended < 3) std::this_thread::yield();
  (*run)->Interrupt();
  EXPECT_THAT((*run)->Wait(), SizeIs(3));
  EXPECT_EQ((*run)->progress().running, 0u);
  EXPECT_TRUE((*run)->done());
}

// A server that knows only these members of a completion, and ids below 5000.
ScriptedServer::Script Strict(std::vector<std::string> known, bool takes_ids) {
  return [known, takes_ids](const std::string& head, const std::string& body) {
    if (head.starts_with("GET")) {
      const std::string models = R"({"data":[{"id":"tiny"}]})";
      return "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(models.size()) + "\r\n\r\n" + models;
    }
    const auto json = nlohmann::json::parse(body);
    for (const auto& [name, value] : json.items()) {
      if (std::find(known.begin(), known.end(), name) == known.end()) return Refusal(400, "unknown " + name);
    }
    if (json["prompt"].is_string()) return WholeAnswer();
    if (!takes_ids || json["prompt"][0] >= 5000) return Refusal(422, "bad prompt");
    return WholeAnswer();
  };
}

TEST(Probe, AsksForLessUntilTheServerAgrees) {
  const std::vector<std::string> openai = {"model", "prompt", "max_tokens", "seed", "stream", "stream_options"};
  std::vector<std::string> ours = openai;
  ours.insert(ours.end(), {"ignore_eos", "return_token_ids"});
  {
    ScriptedServer server(Strict(ours, true));
    const auto facts = ProbeServer(server.Options(), {});
    ASSERT_TRUE(facts.ok()) << facts.status();
    EXPECT_EQ(facts->model, "tiny");
    EXPECT_TRUE(facts->dialect.ignore_eos && facts->dialect.include_usage && facts->dialect.return_token_ids);
    EXPECT_EQ(facts->dialect.prompt, PromptKind::kTokenIds);
    EXPECT_EQ(facts->token_max, 4000);
    EXPECT_EQ(facts->token_min, 500);
  }
  ScriptedServer server(Strict(openai, false));
  const auto facts = ProbeServer(server.Options(), {});
  ASSERT_TRUE(facts.ok()) << facts.status();
  EXPECT_EQ(facts->dialect.prompt, PromptKind::kText);
  EXPECT_FALSE(facts->dialect.ignore_eos);
  EXPECT_TRUE(facts->dialect.include_usage);
}

TEST(Probe, SaysWhyThereIsNothingToMeasure) {
  const auto error = [](int status) {
    ScriptedServer server([status](const std::string&, const std::string&) { return Refusal(status, "the reason"); });
    return ProbeServer(server.Options(), {}).status();
  };
  EXPECT_EQ(error(401).code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(error(404).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(error(503).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(error(400).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(error(400).message()), HasSubstr("the reason"));
}

}  // namespace
}  // namespace braid
