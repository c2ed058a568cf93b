#include <gmock/gmock.h>

#include "cli/bench_serve/answer_chunk.h"
#include "cli/bench_serve/sse.h"

namespace braid {
namespace {

using ::testing::ElementsAre;

constexpr std::string_view kStream =
    ": a comment\r\n"
    "data: {\"a\": 1}\n\n"
    "event: x\r\nid: 7\r\ndata:b\r\ndata:  c\r\n\r\n"
    "\n\r\r\n"
    "data\n\n"
    "id: 8\n\n"
    "data: [DONE]\r\r"
    "data: not ended\n";

std::vector<std::string> Feed(const std::vector<std::string_view>& pieces) {
  SseParser parser;
  std::vector<std::string> events;
  for (std::string_view piece : pieces)
    EXPECT_TRUE(parser.Feed(piece, [&](std::string_view data) { events.emplace_back(data); }));
  return events;
}

TEST(Sse, EventsAreTheSameHoweverTheBytesAreCut) {
  const std::vector<std::string> expected = {"{\"a\": 1}", "b\n c", "[DONE]"};
  EXPECT_EQ(Feed({kStream}), expected);
  for (size_t a = 0; a <= kStream.size(); ++a) {
    for (size_t b = a; b <= kStream.size(); ++b)
      ASSERT_EQ(Feed({kStream.substr(0, a), kStream.substr(a, b - a), kStream.substr(b)}), expected) << a << " " << b;
  }
  std::vector<std::string_view> bytes;
  for (size_t i = 0; i < kStream.size(); ++i) bytes.push_back(kStream.substr(i, 1));
  EXPECT_EQ(Feed(bytes), expected);
}

TEST(Sse, AnEndlessEventIsGivenUp) {
  SseParser parser;
  const std::string line(1 << 20, 'x');
  bool ok = true;
  int pieces = 0;
  for (; ok && pieces < 100; ++pieces) ok = parser.Feed(line, [](std::string_view) { FAIL(); });
  EXPECT_LE(pieces, 17);
  EXPECT_FALSE(parser.Feed("\n\n", [](std::string_view) { FAIL(); }));
}

TEST(AnswerChunk, TellsTextFromNone) {
  const auto chunk = ParseAnswerChunk(R"({"id":"cmpl-1","choices":[{"index":0,"text":" a","finish_reason":null}],)"
                                      R"("usage":null})");
  ASSERT_TRUE(chunk);
  EXPECT_TRUE(chunk->has_text);
  EXPECT_EQ(chunk->tokens(), 1);
  EXPECT_EQ(chunk->finish_reason, "");
  EXPECT_FALSE(chunk->usage);
  EXPECT_FALSE(chunk->error);
  EXPECT_EQ(ParseAnswerChunk(R"({"choices":[{"text":"","finish_reason":"length"}]})")->tokens(), 0);
  EXPECT_EQ(ParseAnswerChunk(R"({"choices":[{"text":"","finish_reason":"length"}]})")->finish_reason, "length");
  EXPECT_EQ(ParseAnswerChunk(R"({"text":"a","choices":[]})")->tokens(), 0);
  EXPECT_EQ(ParseAnswerChunk(R"({"choices":[{"delta":{"role":"assistant","content":""}}]})")->tokens(), 0);
  EXPECT_EQ(ParseAnswerChunk(R"({"choices":[{"delta":{"reasoning_content":"hm"}}]})")->tokens(), 1);
}

TEST(AnswerChunk, CountsTheTokenIdsThatAreListed) {
  EXPECT_EQ(ParseAnswerChunk(R"({"choices":[{"text":"","token_ids":[5]}]})")->tokens(), 1);
  EXPECT_EQ(
      ParseAnswerChunk(R"({"choices":[{"logprobs":{"token_ids":[1]},"text":"abc","token_ids":[5,6,7]}]})")->tokens(),
      3);
}

TEST(AnswerChunk, ReadsUsage) {
  const auto chunk = ParseAnswerChunk(
      R"({"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46,)"
      R"("completion_tokens_details":{"reasoning_tokens":9},"prompt_tokens_details":{"cached_tokens":8}},"seed":1})");
  ASSERT_TRUE(chunk && chunk->usage);
  EXPECT_EQ(chunk->usage->prompt_tokens, 12);
  EXPECT_EQ(chunk->usage->output_tokens, 34);
  EXPECT_EQ(chunk->usage->cached_tokens, 8);
}

TEST(AnswerChunk, ReadsErrorsOfSeveralShapes) {
  EXPECT_EQ(ParseAnswerChunk(R"({"error":{"message":"no","code":"x"}})")->error, "no");
  EXPECT_EQ(ParseAnswerChunk(R"({"error":"no"})")->error, "no");
  EXPECT_EQ(ParseAnswerChunk(R"({"error":{}})")->error, "");
  EXPECT_FALSE(ParseAnswerChunk(R"({"error":null})")->error);
  EXPECT_EQ(ErrorMessage(R"({"error":{"message":"busy"}})"), "busy");
  EXPECT_EQ(ErrorMessage("<html>"), "<html>");
}

TEST(AnswerChunk, IsAJsonObjectOrNothing) {
  for (const char* data : {"", "[]", "3", "{", "{\"a\":1}x", "{\"a\":\"\xff\"}", "[DONE]"})
    EXPECT_FALSE(ParseAnswerChunk(data)) << data;
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100'000; ++i) deep += '[';
  EXPECT_FALSE(ParseAnswerChunk(deep));
}

}  // namespace
}  // namespace braid
