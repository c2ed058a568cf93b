#include "gateway/http/routes.h"

#include <gtest/gtest.h>

#include "gateway/http/message.h"

namespace braid {
namespace {

TEST(HttpRoutes, AreFoundByPathAlone) {
  EXPECT_EQ(MatchRoute("/v1/chat/completions").route.id, RouteId::kChat);
  EXPECT_EQ(MatchRoute("/v1/models?limit=5").route.id, RouteId::kModels);
  EXPECT_EQ(MatchRoute("http://example.org/health").route.id, RouteId::kHealth);
  EXPECT_EQ(MatchRoute("http://example.org").route.id, RouteId::kRoot);
  EXPECT_EQ(MatchRoute("/v1/health").route.id, RouteId::kHealth);
}

TEST(HttpRoutes, AreDeniedByDefault) {
  for (const char* target :
       {"", "*", "//", "/v1", "/v1/", "/v1/models/", "/v1/chat/completions/", "/V1/models", "/../health",
        "/..%2fhealth", "/health/..", "/%68ealth", "/metrics/x", "v1/models", "://", "x://"})
    EXPECT_TRUE(MatchRoute(target).route.id == RouteId::kUnknown || MatchRoute(target).route.id == RouteId::kRoot)
        << target;
  EXPECT_EQ(MatchRoute("/..%2fhealth").route.id, RouteId::kUnknown);
}

TEST(HttpRoutes, DecodeTheModelsId) {
  EXPECT_EQ(MatchRoute("/v1/models/org/name").argument, "org/name");
  EXPECT_EQ(MatchRoute("/v1/models/org%2Fname%20x").argument, "org/name x");
  for (const char* bad : {"/v1/models/a%", "/v1/models/a%2", "/v1/models/a%zz"})
    EXPECT_EQ(MatchRoute(bad).route.id, RouteId::kUnknown) << bad;
}

TEST(HttpRoutes, KnowTheirMethods) {
  const Route models = MatchRoute("/v1/models").route, chat = MatchRoute("/v1/chat/completions").route;
  EXPECT_TRUE(MethodFits(models, "GET") && MethodFits(models, "HEAD") && MethodFits(models, "OPTIONS"));
  EXPECT_FALSE(MethodFits(models, "POST") || MethodFits(chat, "GET") || MethodFits(chat, "HEAD") ||
               MethodFits(chat, "FOO"));
  EXPECT_EQ(AllowedMethods(chat), "POST, OPTIONS");
}

TEST(HttpMessage, TakesOnlyHarmlessRequestIds) {
  EXPECT_TRUE(IsValidRequestId("req_01-AB.c:d/e+f=@"));
  EXPECT_TRUE(IsValidRequestId(std::string(128, 'a')));
  for (const std::string& bad : {std::string(), std::string(129, 'a'), std::string("a b"), std::string("a\nb"),
                                 std::string("ä"), std::string("a\"b"), std::string("a\0b", 3)})
    EXPECT_FALSE(IsValidRequestId(bad)) << bad;
}

TEST(HttpMessage, MakesIdsThatDiffer) {
  EXPECT_EQ(RandomHex128().size(), 32u);
  EXPECT_NE(RandomHex128(), RandomHex128());
}

TEST(HttpMessage, ChecksBearerKeys) {
  EXPECT_TRUE(HasBearerKey("Bearer secret", "secret"));
  EXPECT_TRUE(HasBearerKey("bearer  secret ", "secret"));
  for (const char* bad : {"", "Bearer", "Bearer ", "Bearer secre", "Bearer secrets", "Bearer secreT", "Basic secret",
                          "secret", "Bearer secretsecret"})
    EXPECT_FALSE(HasBearerKey(bad, "secret")) << bad;
}

TEST(HttpMessage, KnowsJson) {
  for (const char* good :
       {"application/json", "Application/JSON; charset=utf-8", " application/json ", "application/ld+json"})
    EXPECT_TRUE(IsJsonMediaType(good)) << good;
  for (const char* bad :
       {"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp"})
    EXPECT_FALSE(IsJsonMediaType(bad)) << bad;
}

TEST(HttpMessage, FramesChunks) {
  EXPECT_EQ(Chunk(std::string(26, 'x'), {}), "1a\r\n" + std::string(26, 'x') + "\r\n");
  EXPECT_EQ(Chunk("abc", {.http_minor = 0}), "abc");
  EXPECT_EQ(LastChunk({}), "0\r\n\r\n");
}

TEST(HttpMessage, TellsClientsWhenToComeBack) {
  const HttpReply reply = ErrorReply({.status = absl::StatusCode::kResourceExhausted,
                                      .code = "rate_limit_exceeded",
                                      .message = "Busy.",
                                      .retry_after = absl::Milliseconds(1200)});
  EXPECT_EQ(reply.status, 429);
  const std::string text = Serialize(reply, {.keep_alive = false, .request_id = "id-1"});
  EXPECT_NE(text.find("Retry-After: 2\r\n"), std::string::npos);
  EXPECT_NE(text.find("retry-after-ms: 1200\r\n"), std::string::npos);
  EXPECT_NE(text.find("x-request-id: id-1\r\n"), std::string::npos);
  EXPECT_NE(text.find("Connection: close\r\n"), std::string::npos);
}

TEST(HttpMessage, LeavesTheBodyOutForHead) {
  const std::string text = Serialize(JsonReply("{}"), {.head_only = true});
  EXPECT_NE(text.find("Content-Length: 2\r\n"), std::string::npos);
  EXPECT_TRUE(text.ends_with("\r\n\r\n"));
}

}  // namespace
}  // namespace braid
