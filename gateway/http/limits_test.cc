#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gateway/http/server_fixture.h"

namespace braid {
namespace {

using testing::HasSubstr;
using testing::Not;

class HttpLimits : public HttpServerTest {};

// ---- many requests, many connections

TEST_F(HttpLimits, AnswersPipelinedRequestsInOrder) {
  Start();
  TestClient client(server_->port());
  std::string requests;
  for (int i = 0; i < 1000; ++i) requests += Get("/livez", "x-request-id: " + std::to_string(i) + "\r\n");
  std::thread sender([&] { client.Send(requests); });
  for (int i = 0; i < 1000; ++i)
    EXPECT_THAT(client.ReadResponse().head, HasSubstr("x-request-id: " + std::to_string(i) + "\r\n"));
  sender.join();
}

TEST_F(HttpLimits, HoldsPipelinedRequestsWhileItStreams) {
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

TEST_F(HttpLimits, ServesBeside500IdleConnections) {
  Start();
  std::vector<std::unique_ptr<TestClient>> idle;
  for (int i = 0; i < 500; ++i) idle.push_back(std::make_unique<TestClient>(server_->port()));
  for (int i = 0; i < 500; i += 50) idle[i]->Send(Get("/livez"));
  for (int i = 0; i < 500; i += 50) EXPECT_EQ(idle[i]->ReadResponse().status, 200);
  idle.back()->Send(Get("/livez"));  // accepted last
  EXPECT_EQ(idle.back()->ReadResponse().status, 200);
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("braid_http_connections 500"));
}

TEST_F(HttpLimits, TurnsAwayConnectionsOverTheLimit) {
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

TEST_F(HttpLimits, DoesNotWaitForSlowHeadersOrBodies) {
  Start({.header_timeout = absl::Milliseconds(20),
         .body_timeout = absl::Milliseconds(20),
         .tick = absl::Milliseconds(5)});
  EXPECT_EQ(Ask("GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow").status, 408);
  EXPECT_EQ(Ask(Post(kChat, kChatBody).substr(0, 120)).status, 408);
  EXPECT_TRUE(IsAlive());
}

TEST_F(HttpLimits, ClosesIdleConnections) {
  Start({.idle_timeout = absl::Milliseconds(20), .tick = absl::Milliseconds(5)});
  TestClient client(server_->port());
  EXPECT_EQ(client.ReadToEnd(), "");
}

TEST_F(HttpLimits, ReadsRequestsThatComeByteByByte) {
  Start();
  TestClient client(server_->port());
  for (char c : Post("/detokenize", R"({"tokens":[72]})")) client.Send(std::string_view(&c, 1));
  EXPECT_EQ(client.ReadResponse().body, R"({"prompt":"H"})");
}

TEST_F(HttpLimits, CutsOffAReaderThatDoesNotRead) {
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

TEST_F(HttpLimits, CutsOffAReaderThatStalls) {
  Start({.outbox_bytes_max = size_t{1} << 40, .write_timeout = absl::Milliseconds(20), .tick = absl::Milliseconds(5)});
  TestClient client(server_->port(), 4096);
  client.Send(Post(kChat, kChatBody));
  const auto call = inference_.NextCall();
  call->Send(Text(std::string(16 << 20, 'x')));  // a whole answer, larger than what the kernel takes
  call->Send(kDone);
  call->AwaitDestroyed();
  EXPECT_EQ(audit_.Await(1).at(0).status, 200);  // the connection was cut while writing
}

TEST_F(HttpLimits, KeepsSilentStreamsAlive) {
  Start({.comment_period = absl::ZeroDuration(), .tick = absl::Milliseconds(1)});
  TestClient client(server_->port());
  client.Send(Post(kChat, kStreamBody));
  const auto call = inference_.NextCall();
  call->Send(Accepted{});
  client.ReadUntil(": keep-alive\n\n");
  EXPECT_EQ(client.ReadUntil(": keep-alive\n\n").substr(0, 2), "\r\n");
}

// ---- hostile input

TEST_F(HttpLimits, RefusesBrokenFraming) {
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

TEST_F(HttpLimits, RefusesBodiesOverTheLimitHoweverTheyCome) {
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

TEST_F(HttpLimits, ReadsChunkedBodies) {
  Start();
  const std::string post = "POST /detokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
  EXPECT_EQ(
      Ask(post + "Transfer-Encoding: chunked\r\n\r\n5;ext=1\r\n{\"tok\r\nA\r\nens\":[72]}\r\n0\r\nX-Trailer: 1\r\n\r\n")
          .body,
      R"({"prompt":"H"})");
}

TEST_F(HttpLimits, LetsNoTrailerStandInForAHeader) {
  Start({.api_key = "secret"});
  EXPECT_EQ(
      Ask("POST /detokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
          "d\r\n{\"tokens\":[]}\r\n0\r\nAuthorization: Bearer secret\r\n\r\n")
          .status,
      401);
}

TEST_F(HttpLimits, LimitsHeaders) {
  Start();
  EXPECT_EQ(Ask(Get("/livez", "X: " + std::string(1 << 20, 'x') + "\r\n")).status, 431);
  std::string many;
  for (int i = 0; i < 10'000; ++i) many += "X" + std::to_string(i) + ": y\r\n";
  EXPECT_EQ(Ask(Get("/livez", many)).status, 431);
  EXPECT_EQ(Ask(Get("/" + std::string(100'000, 'a'))).status, 431);
  EXPECT_TRUE(IsAlive());
}

TEST_F(HttpLimits, ReadsTheBodyOfAGetInsteadOfTakingItForARequest) {
  Start();
  TestClient client(server_->port());
  const std::string inner = Get("/nothing");
  client.Send(Get("/livez", "Content-Length: " + std::to_string(inner.size()) + "\r\n") + inner + Get("/version"));
  EXPECT_EQ(client.ReadResponse().status, 200);
  EXPECT_THAT(client.ReadResponse().body, HasSubstr("version"));
}

TEST_F(HttpLimits, TakesPlainJsonOnly) {
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

TEST_F(HttpLimits, AnswersExpectations) {
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

TEST_F(HttpLimits, LimitsWhatAllBodiesTakeTogether) {
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

TEST_F(HttpLimits, EchoesOnlyHarmlessRequestIds) {
  Start();
  EXPECT_THAT(Ask(Get("/livez", "X-Request-Id: abc-1\r\n")).head, HasSubstr("x-request-id: abc-1\r\n"));
  for (const std::string& bad : {std::string("a b"), std::string("\"x\""), std::string(129, 'a')}) {
    const std::string head = Ask(Get("/livez", "X-Request-Id: " + bad + "\r\n")).head;
    EXPECT_THAT(head, HasSubstr("x-request-id: "));
    EXPECT_THAT(head, Not(HasSubstr(bad)));
  }
}

TEST_F(HttpLimits, SurvivesRequestsCutAnywhere) {
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

}  // namespace
}  // namespace braid
