#include "gateway/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "gateway/audit.h"
#include "gateway/fake_inference.h"
#include "gateway/http_test_client.h"

namespace braid {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

constexpr char kChatBody[] = R"({"messages":[{"role":"user","content":"hi"}]})";
constexpr char kStreamBody[] = R"({"messages":[{"role":"user","content":"hi"}],"stream":true})";
constexpr char kChat[] = "/v1/chat/completions";

std::string Get(const std::string& path, const std::string& headers = "") {
  return "GET " + path + " HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n";
}
std::string Post(const std::string& path, const std::string& body, const std::string& headers = "") {
  return "POST " + path +
         " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\n" + headers + "\r\n" + body;
}
std::string ErrorCode(const TestResponse& response) {
  const json body = json::parse(response.body, nullptr, false);
  return body.is_object() && body.contains("error") ? body["error"]["code"].get<std::string>() : "";
}
Delta Text(std::string text) { return {.text = std::move(text)}; }
constexpr Done kDone = {.prompt_tokens = 2, .completion_tokens = 1, .seed = 5};

class FakeAudit : public Audit {
 public:
  void Record(AuditRecord record) override {
    absl::MutexLock lock(&mutex_);
    records_.push_back(std::move(record));
  }
  std::vector<AuditRecord> Await(size_t n) {
    absl::MutexLock lock(&mutex_);
    wanted_ = n;
    mutex_.Await(absl::Condition(
        +[](FakeAudit* self) { return self->records_.size() >= self->wanted_; }, this));
    return records_;
  }

 private:
  absl::Mutex mutex_;
  size_t wanted_ = 0;
  std::vector<AuditRecord> records_;
};

class HttpServerTest : public testing::Test {
 protected:
  void Start(HttpOptions options = {}) {
    options.port = 0;
    options.audit = &audit_;
    auto server = HttpServer::Start(&inference_, &metrics_, options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  TestResponse Ask(const std::string& request) {
    TestClient client(server_->port());
    client.Send(request);
    return client.ReadResponse(request.starts_with("HEAD"));
  }
  bool IsAlive() { return Ask(Get("/livez")).status == 200; }

  FakeInference inference_;
  Metrics metrics_;
  FakeAudit audit_;
  std::unique_ptr<HttpServer> server_;
};

// ---- routes

TEST_F(HttpServerTest, SaysWhatItIsAndWhetherItIsReady) {
  Start();
  EXPECT_THAT(Ask(Get("/")).body, HasSubstr("Braid"));
  EXPECT_EQ(Ask(Get("/livez")).status, 200);
  for (const char* path : {"/health", "/v1/health", "/readyz"}) {
    const TestResponse ready = Ask(Get(path));
    EXPECT_EQ(ready.status, 200);
    EXPECT_EQ(ready.body, R"({"status":"ready"})");
  }
  inference_.SetNotReady("loading: 40% of the weights");
  const TestResponse loading = Ask(Get("/health"));
  EXPECT_EQ(loading.status, 503);
  EXPECT_EQ(loading.body, R"({"status":"loading","detail":"40% of the weights"})");
  EXPECT_EQ(Ask(Get("/livez")).status, 200);
  EXPECT_THAT(Ask(Get("/version")).body, HasSubstr("version"));
}

TEST_F(HttpServerTest, ListsItsModel) {
  Start();
  const json list = json::parse(Ask(Get("/v1/models")).body);
  EXPECT_EQ(list["data"][0]["id"], "org/m");
  EXPECT_EQ(list["data"][0]["max_model_len"], 4096);
  EXPECT_EQ(json::parse(Ask(Get("/v1/models/org%2Fm")).body)["id"], "org/m");
  const TestResponse other = Ask(Get("/v1/models/other"));
  EXPECT_EQ(other.status, 404);
  EXPECT_EQ(ErrorCode(other), "model_not_found");
}

TEST_F(HttpServerTest, TokenizesBothWays) {
  Start();
  EXPECT_EQ(Ask(Post("/tokenize", R"({"prompt":"AB"})")).body,
            R"({"count":3,"max_model_len":4096,"tokens":[1,65,66]})");
  EXPECT_EQ(Ask(Post("/tokenize", R"({"prompt":"A","add_special_tokens":false})")).body,
            R"({"count":1,"max_model_len":4096,"tokens":[65]})");
  EXPECT_EQ(Ask(Post("/tokenize", kChatBody)).body, R"({"count":1,"max_model_len":4096,"tokens":[7]})");
  EXPECT_EQ(Ask(Post("/detokenize", R"({"tokens":[72,105]})")).body, R"({"prompt":"Hi"})");
  EXPECT_EQ(Ask(Post("/detokenize", "{}")).status, 400);
}

TEST_F(HttpServerTest, RefusesWhatIsNotThere) {
  Start();
  EXPECT_EQ(ErrorCode(Ask(Get("/nothing"))), "unknown_url");
  const TestResponse wrong = Ask(Get(kChat));
  EXPECT_EQ(wrong.status, 405);
  EXPECT_THAT(wrong.head, HasSubstr("Allow: POST, OPTIONS"));
  EXPECT_EQ(Ask("FOO / HTTP/1.1\r\nHost: x\r\n\r\n").status, 405);
}

TEST_F(HttpServerTest, AnswersHeadAndOptions) {
  Start();
  const TestResponse head = Ask("HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(head.status, 200);
  EXPECT_THAT(head.head, HasSubstr("Content-Length: 18"));
  const TestResponse options = Ask("OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(options.status, 204);
  EXPECT_THAT(options.head, HasSubstr("Allow: POST, OPTIONS"));
  EXPECT_THAT(options.head, Not(HasSubstr("Access-Control")));
}

TEST_F(HttpServerTest, AsksForTheKeyEverywhereButHealthAndMetrics) {
  Start({.api_key = "secret"});
  for (const char* path : {"/", "/version", "/v1/models", "/v1/models/m", "/nothing"}) {
    const TestResponse response = Ask(Get(path));
    EXPECT_EQ(response.status, 401) << path;
    EXPECT_EQ(ErrorCode(response), "invalid_api_key");
    EXPECT_THAT(response.head, HasSubstr("WWW-Authenticate: Bearer"));
    EXPECT_NE(Ask(Get(path, "Authorization: Bearer secret\r\n")).status, 401) << path;
    EXPECT_EQ(Ask(Get(path, "Authorization: Bearer secreT\r\n")).status, 401) << path;
  }
  for (const char* path : {"/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"})
    EXPECT_EQ(Ask(Post(path, "{}")).status, 401) << path;
  for (const char* path : {"/health", "/v1/health", "/livez", "/readyz", "/metrics"})
    EXPECT_EQ(Ask(Get(path)).status, 200);
}

// ---- calls

TEST_F(HttpServerTest, AnswersAWholeChat) {
  Start();
  TestClient client(server_->port());
  client.Send(Post(kChat, kChatBody, "x-request-id: mine-1\r\n"));
  const auto call = inference_.NextCall();
  EXPECT_EQ(call->chat.messages.at(0).content, "hi");
  EXPECT_EQ(call->request_id, "mine-1");
  for (CallEvent event : std::vector<CallEvent>{Accepted{}, Text("Hel"), Text("lo"), Finished{}, kDone})
    call->Send(event);
  const TestResponse response = client.ReadResponse();
  EXPECT_EQ(response.status, 200);
  EXPECT_THAT(response.head, HasSubstr("x-request-id: mine-1\r\n"));
  const json answer = json::parse(response.body);
  EXPECT_EQ(answer["choices"][0]["message"]["content"], "Hello");
  EXPECT_EQ(answer["system_fingerprint"], "fp_0123456789ab");
  EXPECT_THAT(answer["id"].get<std::string>(), testing::StartsWith("chatcmpl-"));
  call->AwaitDestroyed();
}

TEST_F(HttpServerTest, StreamsInOrderAndHoldsTheHeadUntilAccepted) {
  Start();
  TestClient client(server_->port());
  client.Send(Post(kChat, kStreamBody));
  const auto call = inference_.NextCall();
  call->Send(Accepted{});
  const std::string head = client.ReadUntil("\r\n\r\n");
  EXPECT_THAT(head, testing::StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(head, HasSubstr("Content-Type: text/event-stream; charset=utf-8\r\n"));
  EXPECT_THAT(head, HasSubstr("Cache-Control: no-cache\r\n"));
  EXPECT_THAT(head, HasSubstr("X-Accel-Buffering: no\r\n"));
  std::string expected;
  for (int i = 0; i < 300; ++i) {
    call->Send(Text(std::to_string(i) + " "));
    expected += std::to_string(i) + " ";
  }
  call->Send(Finished{});
  call->Send(kDone);
  const std::string body = TestClient::Unchunked(client.ReadUntil("0\r\n\r\n"));
  std::string text;
  for (size_t at = 0; (at = body.find("\"content\":\"", at)) != body.npos;) {
    at += 11;
    text += body.substr(at, body.find('"', at) - at);
  }
  EXPECT_EQ(text, expected);
  EXPECT_THAT(body, testing::EndsWith("data: [DONE]\n\n"));
  client.Send(Get("/livez"));  // the connection goes on
  EXPECT_EQ(client.ReadResponse().status, 200);
}

TEST_F(HttpServerTest, StreamsCompletions) {
  Start();
  TestClient client(server_->port());
  client.Send(Post("/v1/completions", R"({"prompt":[1,2],"stream":true})"));
  const auto call = inference_.NextCall();
  EXPECT_EQ(std::get<1>(call->completion.prompts.at(0)), (std::vector<int64_t>{1, 2}));
  for (CallEvent event : std::vector<CallEvent>{Accepted{}, Text("x"), Finished{}, kDone}) call->Send(event);
  EXPECT_THAT(client.ReadResponse().body, HasSubstr("\"text\":\"x\""));
}

TEST_F(HttpServerTest, GivesRefusalsTheirOwnStatus) {
  Start();
  const ApiError busy = {.status = absl::StatusCode::kResourceExhausted,
                         .code = "rate_limit_exceeded",
                         .message = "Busy.",
                         .retry_after = absl::Seconds(3)};
  for (const char* body : {kChatBody, kStreamBody}) {
    TestClient client(server_->port());
    client.Send(Post(kChat, body));
    inference_.NextCall()->Send(busy);  // at admission
    const TestResponse response = client.ReadResponse();
    EXPECT_EQ(response.status, 429);
    EXPECT_THAT(response.head, HasSubstr("Retry-After: 3\r\n"));
    EXPECT_EQ(ErrorCode(response), "rate_limit_exceeded");
  }
  inference_.Refuse({.code = "invalid_value", .param = "n", .message = "No."});  // at validation
  EXPECT_EQ(ErrorCode(Ask(Post(kChat, kStreamBody))), "invalid_value");
  EXPECT_EQ(ErrorCode(Ask(Post(kChat, "{"))), "invalid_json");
}

TEST_F(HttpServerTest, NamesLogprobsAsTheRouteDoes) {
  Start();
  inference_.Refuse({.code = "invalid_value", .param = "top_logprobs", .message = "No."});
  EXPECT_EQ(json::parse(Ask(Post("/v1/completions", R"({"prompt":"x"})")).body)["error"]["param"], "logprobs");
  EXPECT_EQ(json::parse(Ask(Post(kChat, kChatBody)).body)["error"]["param"], "top_logprobs");
}

TEST_F(HttpServerTest, NeverEndsABrokenStreamWell) {
  Start();
  TestClient client(server_->port());
  client.Send(Post(kChat, kStreamBody));
  const auto call = inference_.NextCall();
  call->Send(Accepted{});
  call->Send(Text("half"));
  call->Send(ApiError{.status = absl::StatusCode::kInternal, .code = "quarantined", .message = "No."});
  const std::string all = client.ReadToEnd();
  EXPECT_THAT(all, HasSubstr("half"));
  EXPECT_THAT(all, HasSubstr("data: {\"error\":{\"message\":\"No.\""));
  EXPECT_THAT(all, Not(HasSubstr("[DONE]")));
  EXPECT_THAT(all, Not(HasSubstr("\r\n0\r\n")));
}

TEST_F(HttpServerTest, CancelsTheCallOfAClientThatLeaves) {
  Start();
  for (const char* body : {kChatBody, kStreamBody}) {
    for (bool accepted : {false, true}) {
      TestClient client(server_->port());
      client.Send(Post(kChat, body));
      const auto call = inference_.NextCall();
      if (accepted) call->Send(Accepted{});
      client.Reset();
      call->AwaitDestroyed();
    }
  }
  for (const AuditRecord& record : audit_.Await(4)) EXPECT_EQ(record.status, 499);
}

TEST_F(HttpServerTest, TakesAnEndOfFileForLeaving) {
  Start();
  TestClient client(server_->port());
  client.Send(Post(kChat, kStreamBody));
  const auto call = inference_.NextCall();
  client.CloseWrite();
  call->AwaitDestroyed();
  TestClient other(server_->port());
  other.Send(Get("/health") + Get("/livez"));  // answered at once, so nothing is lost
  other.CloseWrite();
  EXPECT_EQ(other.ReadResponse().status, 200);
  EXPECT_EQ(other.ReadResponse().status, 200);
  EXPECT_EQ(other.ReadToEnd(), "");
}

TEST_F(HttpServerTest, CutsOffAReaderThatDoesNotRead) {
  Start({.outbox_bytes_max = 64 << 10});
  TestClient client(server_->port(), 4096);
  client.Send(Post(kChat, kStreamBody));
  const auto call = inference_.NextCall();
  call->Send(Accepted{});
  // More than the kernel buffers on both sides; ends when the call is destroyed.
  while (call->Send(Text(std::string(64 << 10, 'x')))) {
  }
  EXPECT_TRUE(IsAlive());
  audit_.Await(1);
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("braid_http_slow_readers_total 1"));
}

TEST_F(HttpServerTest, CutsOffAReaderThatStalls) {
  Start({.outbox_bytes_max = size_t{1} << 40, .write_timeout = absl::Milliseconds(20), .tick = absl::Milliseconds(5)});
  TestClient client(server_->port(), 4096);
  client.Send(Post(kChat, kChatBody));
  const auto call = inference_.NextCall();
  call->Send(Text(std::string(16 << 20, 'x')));  // a whole answer, larger than what the kernel takes
  call->Send(kDone);
  call->AwaitDestroyed();
  EXPECT_EQ(audit_.Await(1).at(0).status, 200);  // the connection was cut while writing
}

TEST_F(HttpServerTest, KeepsSilentStreamsAlive) {
  Start({.comment_period = absl::ZeroDuration(), .tick = absl::Milliseconds(1)});
  TestClient client(server_->port());
  client.Send(Post(kChat, kStreamBody));
  const auto call = inference_.NextCall();
  call->Send(Accepted{});
  client.ReadUntil(": keep-alive\n\n");
  EXPECT_EQ(client.ReadUntil(": keep-alive\n\n").substr(0, 2), "\r\n");
}

TEST_F(HttpServerTest, StreamsToHttp10UntilTheEnd) {
  Start();
  TestClient client(server_->port());
  std::string request = Post(kChat, kStreamBody, "Connection: keep-alive\r\n");
  request.replace(request.find("HTTP/1.1"), 8, "HTTP/1.0");
  client.Send(request);
  const auto call = inference_.NextCall();
  for (CallEvent event : std::vector<CallEvent>{Accepted{}, Text("x"), Finished{}, kDone}) call->Send(event);
  const std::string all = client.ReadToEnd();
  EXPECT_THAT(all, testing::StartsWith("HTTP/1.0 200 OK\r\n"));
  EXPECT_THAT(all, HasSubstr("Connection: close"));
  EXPECT_THAT(all, Not(HasSubstr("chunked")));
  EXPECT_THAT(all, testing::EndsWith("data: [DONE]\n\n"));
}

// ---- many requests, many connections

TEST_F(HttpServerTest, AnswersPipelinedRequestsInOrder) {
  Start();
  TestClient client(server_->port());
  std::string requests;
  for (int i = 0; i < 1000; ++i) requests += Get("/livez", "x-request-id: " + std::to_string(i) + "\r\n");
  std::thread sender([&] { client.Send(requests); });
  for (int i = 0; i < 1000; ++i)
    EXPECT_THAT(client.ReadResponse().head, HasSubstr("x-request-id: " + std::to_string(i) + "\r\n"));
  sender.join();
}

TEST_F(HttpServerTest, HoldsPipelinedRequestsWhileItStreams) {
  Start();
  TestClient client(server_->port());
  client.Send(Post(kChat, kStreamBody) + Get("/nothing") + Post(kChat, kChatBody));
  auto call = inference_.NextCall();
  for (CallEvent event : std::vector<CallEvent>{Accepted{}, Text("x"), Finished{}, kDone}) call->Send(event);
  EXPECT_EQ(client.ReadResponse().status, 200);
  EXPECT_EQ(client.ReadResponse().status, 404);
  call = inference_.NextCall();
  call->Send(kDone);
  EXPECT_EQ(client.ReadResponse().status, 200);
}

TEST_F(HttpServerTest, ServesBeside500IdleConnections) {
  Start();
  std::vector<std::unique_ptr<TestClient>> idle;
  for (int i = 0; i < 500; ++i) idle.push_back(std::make_unique<TestClient>(server_->port()));
  for (int i = 0; i < 500; i += 50) idle[i]->Send(Get("/livez"));
  for (int i = 0; i < 500; i += 50) EXPECT_EQ(idle[i]->ReadResponse().status, 200);
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("braid_http_connections 500"));
}

TEST_F(HttpServerTest, TurnsAwayConnectionsOverTheLimit) {
  Start({.connections_max = 1});
  TestClient first(server_->port());
  first.Send(Get("/livez"));
  EXPECT_EQ(first.ReadResponse().status, 200);
  TestClient second(server_->port());
  const TestResponse response = second.ReadResponse();
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(ErrorCode(response), "too_many_connections");
  first.Send(Get("/livez"));
  EXPECT_EQ(first.ReadResponse().status, 200);
}

// ---- time

TEST_F(HttpServerTest, DoesNotWaitForSlowHeadersOrBodies) {
  Start({.header_timeout = absl::Milliseconds(20),
         .body_timeout = absl::Milliseconds(20),
         .tick = absl::Milliseconds(5)});
  EXPECT_EQ(Ask("GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow").status, 408);
  EXPECT_EQ(Ask(Post(kChat, kChatBody).substr(0, 120)).status, 408);
  EXPECT_TRUE(IsAlive());
}

TEST_F(HttpServerTest, ClosesIdleConnections) {
  Start({.idle_timeout = absl::Milliseconds(20), .tick = absl::Milliseconds(5)});
  TestClient client(server_->port());
  EXPECT_EQ(client.ReadToEnd(), "");
}

TEST_F(HttpServerTest, ReadsRequestsThatComeByteByByte) {
  Start();
  TestClient client(server_->port());
  for (char c : Post("/detokenize", R"({"tokens":[72]})")) client.Send(std::string_view(&c, 1));
  EXPECT_EQ(client.ReadResponse().body, R"({"prompt":"H"})");
}

// ---- hostile input

TEST_F(HttpServerTest, RefusesBrokenFraming) {
  Start();
  const std::string post = "POST /detokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
  const std::string bad[] = {
      post + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      post + "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
      post + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
      post + "Content-Length: -1\r\n\r\n",
      post + "Content-Length: +5\r\n\r\n{}   ",
      post + "Content-Length: 0x2\r\n\r\n{}",
      post + "Content-Length: 99999999999999999999999\r\n\r\n",
      post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
      post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      post + "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
      post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
      post + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}xx\r\n",
      "GET /livez HTTP/1.1\r\n\r\n",
      "GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
      "GET /livez\r\n\r\n",
      "GET /livez HTTP/2.0\r\nHost: x\r\n\r\n",
      "GET /livez HTTP/9\r\n\r\n",
      std::string("GET /li\0vez HTTP/1.1\r\nHost: x\r\n\r\n", 33),
      "GET /livez HTTP/1.1\r\nHost : x\r\n\r\n",
      "GET /livez HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n",
      "\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03 hello",
  };
  for (const std::string& request : bad) {
    const TestResponse response = Ask(request);
    EXPECT_EQ(response.status, 400) << request;
    EXPECT_THAT(response.head, HasSubstr("Connection: close")) << request;
  }
  EXPECT_TRUE(IsAlive());
}

TEST_F(HttpServerTest, RefusesBodiesOverTheLimitHoweverTheyCome) {
  Start({.body_bytes_max = 1000});
  const std::string post = "POST /detokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
  EXPECT_EQ(Ask(post + "Content-Length: 1001\r\n\r\n").status, 413);
  EXPECT_EQ(Ask(post + "Content-Length: 18446744073709551615\r\n\r\n").status, 413);
  EXPECT_EQ(Ask(post + "Transfer-Encoding: chunked\r\n\r\nfffffff\r\n").status, 413);
  EXPECT_EQ(Ask(post + "Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\n{}\r\n0\r\n\r\n").status / 100, 4);
  std::string chunks = post + "Transfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 1001; ++i) chunks += "1\r\nx\r\n";
  const TestResponse response = Ask(chunks);
  EXPECT_EQ(response.status, 413);
  EXPECT_EQ(ErrorCode(response), "body_too_large");
}

TEST_F(HttpServerTest, ReadsChunkedBodies) {
  Start();
  const std::string post = "POST /detokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
  EXPECT_EQ(
      Ask(post + "Transfer-Encoding: chunked\r\n\r\n5;ext=1\r\n{\"tok\r\nA\r\nens\":[72]}\r\n0\r\nX-Trailer: 1\r\n\r\n")
          .body,
      R"({"prompt":"H"})");
}

TEST_F(HttpServerTest, LetsNoTrailerStandInForAHeader) {
  Start({.api_key = "secret"});
  EXPECT_EQ(
      Ask("POST /detokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
          "d\r\n{\"tokens\":[]}\r\n0\r\nAuthorization: Bearer secret\r\n\r\n")
          .status,
      401);
}

TEST_F(HttpServerTest, LimitsHeaders) {
  Start();
  EXPECT_EQ(Ask(Get("/livez", "X: " + std::string(1 << 20, 'x') + "\r\n")).status, 431);
  std::string many;
  for (int i = 0; i < 10'000; ++i) many += "X" + std::to_string(i) + ": y\r\n";
  EXPECT_EQ(Ask(Get("/livez", many)).status, 431);
  EXPECT_EQ(Ask(Get("/" + std::string(100'000, 'a'))).status, 431);
  EXPECT_TRUE(IsAlive());
}

TEST_F(HttpServerTest, ReadsTheBodyOfAGetInsteadOfTakingItForARequest) {
  Start();
  TestClient client(server_->port());
  const std::string inner = Get("/nothing");
  client.Send(Get("/livez", "Content-Length: " + std::to_string(inner.size()) + "\r\n") + inner + Get("/version"));
  EXPECT_EQ(client.ReadResponse().status, 200);
  EXPECT_THAT(client.ReadResponse().body, HasSubstr("version"));
}

TEST_F(HttpServerTest, TakesPlainJsonOnly) {
  Start();
  const std::string head = "POST /detokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n";
  for (const char* headers : {"", "Content-Type: application/x-www-form-urlencoded\r\n", "Content-Type: text/plain\r\n",
                              "Content-Type: application/json\r\nContent-Encoding: gzip\r\n"}) {
    const TestResponse response = Ask(head + headers + "\r\n{\"tokens\":[]}");
    EXPECT_EQ(response.status, 415) << headers;
    EXPECT_EQ(ErrorCode(response), "unsupported_media_type");
  }
  EXPECT_EQ(Ask(head + "content-type: Application/JSON; charset=utf-8\r\n\r\n{\"tokens\":[]}").status, 200);
}

TEST_F(HttpServerTest, AnswersExpectations) {
  Start();
  TestClient client(server_->port());
  const std::string request = Post("/detokenize", R"({"tokens":[72]})", "Expect: 100-continue\r\n");
  const size_t head = request.find("\r\n\r\n") + 4;
  client.Send(request.substr(0, head));
  EXPECT_EQ(client.ReadResponse().status, 100);
  client.Send(request.substr(head));
  EXPECT_EQ(client.ReadResponse().body, R"({"prompt":"H"})");
  EXPECT_EQ(Ask(Post("/detokenize", "{}", "Expect: magic\r\n")).status, 417);
}

TEST_F(HttpServerTest, LimitsWhatAllBodiesTakeTogether) {
  Start({.bodies_bytes_max = 1000});
  TestClient first(server_->port());
  const std::string body = R"({"tokens":[]})" + std::string(800, ' ');
  const std::string request = Post("/detokenize", body);
  first.Send(request.substr(0, request.size() - 1));
  // The first body is being read; a second one of its size does not fit beside it.
  TestResponse response;
  do {
    response = Ask(request);
  } while (response.status == 200);  // until the first one's bytes have been read
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(ErrorCode(response), "overloaded");
  first.Send(" ");
  EXPECT_EQ(first.ReadResponse().status, 200);
  EXPECT_EQ(Ask(request).status, 200);  // all given back
}

TEST_F(HttpServerTest, EchoesOnlyHarmlessRequestIds) {
  Start();
  EXPECT_THAT(Ask(Get("/livez", "X-Request-Id: abc-1\r\n")).head, HasSubstr("x-request-id: abc-1\r\n"));
  for (const std::string& bad : {std::string("a b"), std::string("\"x\""), std::string(129, 'a')}) {
    const std::string head = Ask(Get("/livez", "X-Request-Id: " + bad + "\r\n")).head;
    EXPECT_THAT(head, HasSubstr("x-request-id: "));
    EXPECT_THAT(head, Not(HasSubstr(bad)));
  }
}

TEST_F(HttpServerTest, SurvivesRequestsCutAnywhere) {
  Start();
  const std::string request = Post("/detokenize", R"({"tokens":[72]})");
  for (size_t n = 0; n < request.size(); ++n) {
    TestClient client(server_->port());
    client.Send(request.substr(0, n));
    client.CloseWrite();
    client.ReadToEnd();
  }
  EXPECT_TRUE(IsAlive());
}

// ---- the end

TEST_F(HttpServerTest, DrainsWithoutBreakingAnswers) {
  Start();
  TestClient client(server_->port());
  client.Send(Post(kChat, kStreamBody));
  const auto call = inference_.NextCall();
  call->Send(Accepted{});
  server_->Drain();
  EXPECT_EQ(Ask(Get("/health")).body, R"({"status":"draining"})");
  EXPECT_EQ(Ask(Get("/health")).status, 503);
  const TestResponse refused = Ask(Post(kChat, kChatBody));
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(ErrorCode(refused), "draining");
  EXPECT_THAT(refused.head, HasSubstr("Connection: close"));
  std::thread stop([this] { server_->Stop(absl::InfiniteDuration()); });
  call->Send(Text("end"));
  call->Send(Finished{});
  call->Send(kDone);
  EXPECT_THAT(client.ReadResponse().body, testing::EndsWith("data: [DONE]\n\n"));
  stop.join();
  EXPECT_FALSE(TestClient(server_->port()).connected());
}

TEST_F(HttpServerTest, StopsAtOnceIfTold) {
  Start();
  TestClient client(server_->port());
  client.Send(Post(kChat, kStreamBody));
  const auto call = inference_.NextCall();
  call->Send(Accepted{});
  client.ReadUntil("\r\n\r\n");
  server_->Stop(absl::ZeroDuration());
  call->AwaitDestroyed();
  EXPECT_THAT(client.ReadToEnd(), Not(HasSubstr("[DONE]")));
}

TEST_F(HttpServerTest, NamesAPortThatIsTaken) {
  Start();
  Metrics metrics;
  const auto second = HttpServer::Start(&inference_, &metrics, {.port = server_->port()});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(std::to_string(server_->port())));
  EXPECT_EQ(HttpServer::Start(&inference_, &metrics, {.host = "no such host"}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// ---- what is written down

TEST_F(HttpServerTest, AuditsEveryCallOnceAndProbesNever) {
  Start();
  Ask(Get("/health"));
  TestClient client(server_->port());
  client.Send(Post(kChat, kChatBody, "x-request-id: mine\r\n"));
  const auto call = inference_.NextCall();
  call->Send(Text("x"));
  call->Send(Finished{.reason = Finished::Reason::kLength});
  call->Send(kDone);
  client.ReadResponse();
  Ask(Post(kChat, "{"));
  const auto records = audit_.Await(2);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].request_id, "mine");
  EXPECT_EQ(records[0].route, kChat);
  EXPECT_EQ(records[0].status, 200);
  EXPECT_EQ(records[0].prompt_tokens, 2);
  EXPECT_EQ(records[0].seed, 5u);
  EXPECT_EQ(records[0].model_digest, "sha256:0123456789abcdef");
  EXPECT_THAT(records[0].finish_reasons, testing::ElementsAre("length"));
  EXPECT_EQ(records[1].status, 400);
  EXPECT_EQ(records[1].error_code, "invalid_json");
}

TEST_F(HttpServerTest, CountsRequestsWithBoundedLabels) {
  Start();
  for (const char* path : {"/a", "/b", "/c"}) Ask(Get(path));
  Ask("BREW /livez HTTP/1.1\r\nHost: x\r\n\r\n");
  const std::string metrics = Ask(Get("/metrics")).body;
  EXPECT_THAT(metrics, HasSubstr(R"(braid_http_requests_total{code="404",method="GET",route="unknown"} 3)"));
  EXPECT_THAT(metrics, HasSubstr(R"(braid_http_requests_total{code="405",method="other",route="/livez"} 1)"));
}

}  // namespace
}  // namespace braid
