#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gateway/audit.h"
#include "gateway/fake_inference.h"
#include "gateway/http/server.h"
#include "gateway/http/test_client.h"

// For tests of the HTTP door: a server on a free port before a fake inference.

namespace braid {

inline constexpr char kChatBody[] = R"({"messages":[{"role":"user","content":"hi"}]})";
inline constexpr char kStreamBody[] = R"({"messages":[{"role":"user","content":"hi"}],"stream":true})";
inline constexpr char kChat[] = "/v1/chat/completions";

inline std::string Get(const std::string& path, const std::string& headers = "") {
  return "GET " + path + " HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n";
}
inline std::string Post(const std::string& path, const std::string& body, const std::string& headers = "") {
  return "POST " + path +
         " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\n" + headers + "\r\n" + body;
}
inline std::string ErrorCode(const TestResponse& response) {
  const auto body = nlohmann::json::parse(response.body, nullptr, false);
  return body.is_object() && body.contains("error") ? body["error"]["code"].get<std::string>() : "";
}
inline Delta Text(std::string text) { return {.text = std::move(text)}; }
inline constexpr Done kDone = {.prompt_tokens = 2, .completion_tokens = 1, .seed = 5};

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

}  // namespace braid
