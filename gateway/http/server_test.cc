#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "gateway/http/server_fixture.h"

namespace braid {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

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
  inference_.SetUnprotected("group 0 has one worker");
  EXPECT_EQ(Ask(Get("/health")).status, 200) << "it serves";
  EXPECT_EQ(Ask(Get("/health")).body, R"({"status":"ready","unprotected":"group 0 has one worker"})");
  inference_.SetUnprotected("");
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
  EXPECT_EQ(list["data"][0]["arithmetic"], "cuda bf16 fast");
  EXPECT_EQ(list["data"][0]["kv_type"], "int8");
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
  EXPECT_EQ(answer["system_fingerprint"], "fp_0123456789ab_cuda_bf16_fast_kv_int8");
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
