#include "gateway/openai/format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace braid {
namespace {

using nlohmann::json;

AnswerShape Shape(AnswerOptions options) {
  return {.id = "id-1", .model = "m", .fingerprint = "fp_1", .created_unix_s = 7, .options = options};
}
constexpr AnswerOptions kStream = {.stream = true};

std::string Feed(AnswerFormatter* formatter, const std::vector<CallEvent>& events) {
  std::string out;
  for (const CallEvent& event : events) formatter->Add(event, &out);
  return out;
}
std::string Chat(AnswerOptions options, const std::vector<CallEvent>& events) {
  return Feed(MakeChatFormatter(Shape(options)).get(), events);
}
std::string Completion(AnswerOptions options, const std::vector<CallEvent>& events) {
  return Feed(MakeCompletionFormatter(Shape(options)).get(), events);
}

// The data of each server-sent event; [DONE] as a string.
std::vector<json> Events(std::string_view stream) {
  std::vector<json> events;
  while (!stream.empty()) {
    const size_t end = stream.find("\n\n");
    EXPECT_TRUE(stream.starts_with("data: ") && end != stream.npos) << stream;
    if (end == stream.npos) break;
    const std::string data(stream.substr(6, end - 6));
    EXPECT_EQ(data.find('\n'), data.npos);
    events.push_back(data == "[DONE]" ? json(data) : json::parse(data));
    stream.remove_prefix(end + 2);
  }
  return events;
}

Delta Text(std::string text, int choice = 0) { return {.choice = choice, .text = std::move(text)}; }
Delta Reasoning(std::string text) { return {.kind = Delta::Kind::kReasoning, .text = std::move(text)}; }
Delta Tool(int index, std::string id, std::string name, std::string text) {
  return {
      .kind = Delta::Kind::kToolCall, .text = std::move(text), .tool_index = index, .tool_id = id, .tool_name = name};
}
Finished Stop(int choice = 0) { return {.choice = choice, .reason = Finished::Reason::kStop}; }
constexpr Done kDone = {
    .prompt_tokens = 9, .completion_tokens = 3, .reasoning_tokens = 1, .cached_tokens = 5, .seed = 42};

TEST(ChatStream, IsWhatOpenAiClientsRead) {
  const auto events = Events(Chat(kStream, {Accepted{}, Text("Hel"), Text("lo"), Stop(), kDone}));
  ASSERT_EQ(events.size(), 5u);
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    EXPECT_EQ(events[i]["id"], "id-1");
    EXPECT_EQ(events[i]["object"], "chat.completion.chunk");
    EXPECT_EQ(events[i]["created"], 7);
    EXPECT_EQ(events[i]["model"], "m");
    EXPECT_EQ(events[i]["system_fingerprint"], "fp_1");
    EXPECT_EQ(events[i]["choices"][0]["index"], 0);
    EXPECT_EQ(events[i]["choices"][0]["logprobs"], nullptr);
    EXPECT_FALSE(events[i].contains("usage"));
  }
  EXPECT_EQ(events[0]["choices"][0]["delta"], json::parse(R"({"role":"assistant","content":""})"));
  EXPECT_EQ(events[1]["choices"][0]["delta"], json::parse(R"({"content":"Hel"})"));
  EXPECT_EQ(events[2]["choices"][0]["delta"]["content"], "lo");
  EXPECT_EQ(events[2]["choices"][0]["finish_reason"], nullptr);
  EXPECT_EQ(events[3]["choices"][0]["delta"], json::object());
  EXPECT_EQ(events[3]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(events[4], "[DONE]");
}

TEST(ChatStream, SaysNothingBeforeTheFirstToken) { EXPECT_EQ(Chat(kStream, {Accepted{}}), ""); }

TEST(ChatStream, LeavesOutDeltasThatSayNothing) {
  EXPECT_EQ(Chat(kStream, {Accepted{}, Delta{.tokens = {5}}}), "");
  const auto events = Events(Chat({.stream = true, .return_token_ids = true}, {Accepted{}, Delta{.tokens = {5}}}));
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1]["choices"][0]["token_ids"], json::array({5}));
}

TEST(ChatStream, BeginsEachChoiceOnce) {
  const auto events = Events(Chat(kStream, {Text("a", 1), Text("b", 0), Text("c", 1), Stop(2)}));
  int roles = 0;
  for (const json& event : events) roles += event["choices"][0]["delta"].contains("role");
  EXPECT_EQ(roles, 3);
  EXPECT_EQ(events[1]["choices"][0]["index"], 1);
}

TEST(ChatStream, EndsWithUsageIfAsked) {
  const auto events = Events(Chat({.stream = true, .include_usage = true}, {Text("a"), Stop(), kDone}));
  for (size_t i = 0; i + 2 < events.size(); ++i) EXPECT_EQ(events[i].at("usage"), nullptr);
  const json& usage = events[events.size() - 2];
  EXPECT_EQ(usage["choices"], json::array());
  EXPECT_EQ(usage["usage"]["prompt_tokens"], 9);
  EXPECT_EQ(usage["usage"]["completion_tokens"], 3);
  EXPECT_EQ(usage["usage"]["total_tokens"], 12);
  EXPECT_EQ(usage["usage"]["completion_tokens_details"]["reasoning_tokens"], 1);
  EXPECT_EQ(usage["usage"]["prompt_tokens_details"]["cached_tokens"], 5);
  EXPECT_EQ(usage["seed"], 42);
  EXPECT_EQ(events.back(), "[DONE]");
}

TEST(ChatStream, KeepsReasoningApart) {
  const auto events = Events(Chat(kStream, {Reasoning("hm"), Text("4")}));
  EXPECT_EQ(events[1]["choices"][0]["delta"], json::parse(R"({"reasoning_content":"hm"})"));
  EXPECT_EQ(events[2]["choices"][0]["delta"], json::parse(R"({"content":"4"})"));
}

TEST(ChatStream, SendsToolCallsInPieces) {
  const auto events =
      Events(Chat(kStream, {Tool(0, "call_1", "f", ""), Tool(0, "", "", "{\"a\""), Tool(1, "call_2", "g", "{}"),
                            Finished{.reason = Finished::Reason::kToolCalls}}));
  EXPECT_EQ(events[1]["choices"][0]["delta"]["tool_calls"],
            json::parse(R"([{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}])"));
  EXPECT_EQ(events[2]["choices"][0]["delta"]["tool_calls"],
            json::parse(R"([{"index":0,"function":{"arguments":"{\"a\""}}])"));
  EXPECT_EQ(events[3]["choices"][0]["delta"]["tool_calls"][0]["id"], "call_2");
  EXPECT_EQ(events[4]["choices"][0]["finish_reason"], "tool_calls");
}

TEST(ChatStream, ThatBreaksEndsWithTheErrorAndWithoutDone) {
  const ApiError error = {.status = absl::StatusCode::kInternal, .code = "quarantined", .message = "No."};
  const auto events = Events(Chat(kStream, {Text("a"), error}));
  EXPECT_EQ(events.back()["error"]["message"], "No.");
  EXPECT_EQ(events.back()["error"]["code"], "quarantined");
  EXPECT_EQ(events.back()["error"]["param"], nullptr);
}

TokenScore Score(TokenId token, std::string bytes, float logprob, std::vector<TokenScore> top = {}) {
  return {.token = token, .bytes = std::move(bytes), .logprob = logprob, .top = std::move(top)};
}

TEST(ChatLogprobs, AreExactAndCarryBytes) {
  const float logprob = -0.1f;
  Delta delta = Text("\xE2\x82\xAC");
  delta.tokens = {1, 2};
  delta.logprobs = {Score(1, "\xE2\x82", logprob, {Score(1, "\xE2\x82", logprob), Score(9, "x", -1e-30f)}),
                    Score(2, "\xAC", -INFINITY)};
  for (AnswerOptions options : {kStream, AnswerOptions{}}) {
    const std::string out = Chat(options, {delta, Stop(), kDone});
    const json answer = options.stream ? Events(out)[1] : json::parse(out);
    const json& content = answer["choices"][0]["logprobs"]["content"];
    ASSERT_EQ(content.size(), 2u);
    EXPECT_EQ(content[0]["logprob"].get<double>(), static_cast<double>(logprob));
    EXPECT_EQ(content[0]["token"], "\uFFFD\uFFFD");
    EXPECT_EQ(content[0]["bytes"], json::array({0xE2, 0x82}));
    EXPECT_EQ(content[0]["top_logprobs"].size(), 2u);
    EXPECT_EQ(content[0]["top_logprobs"][1]["logprob"].get<double>(), static_cast<double>(-1e-30f));
    EXPECT_EQ(content[1]["logprob"], -9999);
  }
}

TEST(ChatWhole, IsWhatOpenAiClientsRead) {
  const json answer =
      json::parse(Chat({}, {Accepted{}, Reasoning("h"), Reasoning("m"), Text("Hel"), Text("lo"), Stop(), kDone}));
  EXPECT_EQ(answer["object"], "chat.completion");
  const json& choice = answer["choices"].at(0);
  EXPECT_EQ(choice["message"],
            json::parse(R"({"role":"assistant","content":"Hello","refusal":null,"reasoning_content":"hm"})"));
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["logprobs"], nullptr);
  EXPECT_FALSE(choice.contains("token_ids"));
  EXPECT_EQ(answer["usage"]["total_tokens"], 12);
  EXPECT_EQ(answer["seed"], 42);
}

TEST(ChatWhole, HasNullContentBesideToolCalls) {
  const json answer = json::parse(Chat({}, {Tool(0, "call_1", "f", ""), Tool(0, "", "", "{\"a\":"),
                                            Tool(0, "", "", "1}"), Tool(1, "call_2", "g", "{}"), Stop(), kDone}));
  const json& message = answer["choices"][0]["message"];
  EXPECT_EQ(message["content"], nullptr);
  EXPECT_EQ(message["tool_calls"],
            json::parse(R"([{"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}},
                            {"id":"call_2","type":"function","function":{"name":"g","arguments":"{}"}}])"));
}

TEST(ChatWhole, PutsChoicesInOrder) {
  const json answer = json::parse(Chat({.return_token_ids = true}, {Delta{.choice = 1, .text = "b", .tokens = {7, 8}},
                                                                    Text("a"), Stop(1), Stop(0), kDone}));
  EXPECT_EQ(answer["choices"][0]["message"]["content"], "a");
  EXPECT_EQ(answer["choices"][1]["index"], 1);
  EXPECT_EQ(answer["choices"][1]["token_ids"], json::array({7, 8}));
}

TEST(ChatWhole, IsNotWrittenBeforeItIsDoneNorWhenItBreaks) {
  EXPECT_EQ(Chat({}, {Text("a"), Stop(), ApiError{.code = "x"}}), "");
}

TEST(CompletionStream, IsWhatOpenAiClientsRead) {
  const auto events =
      Events(Completion({.stream = true, .include_usage = true}, {Accepted{}, Text("Hel"), Stop(), kDone}));
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0]["object"], "text_completion");
  EXPECT_EQ(events[0]["choices"][0], json::parse(R"({"index":0,"text":"Hel","logprobs":null,"finish_reason":null})"));
  EXPECT_EQ(events[1]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(events[2]["usage"]["prompt_tokens"], 9);
  EXPECT_EQ(events[3], "[DONE]");
}

std::vector<CallEvent> EchoedWithScores() {
  EchoedPrompt echo = {.text = "é!",
                       .logprobs = {Score(1, "\xC3", NAN), Score(2, "\xA9", -1.5f), Score(3, "!", -0.25f)}};
  Delta delta = Text("ab");
  delta.tokens = {4};
  delta.logprobs = {Score(4, "ab", -0.5f, {Score(5, "c", -0.1f), Score(4, "ab", -0.5f), Score(6, "c", -3.0f)})};
  return {Accepted{}, echo, delta, Stop(), kDone};
}

TEST(CompletionLogprobs, HaveTheLegacyShape) {
  const json answer = json::parse(Completion({}, EchoedWithScores()));
  EXPECT_EQ(answer["choices"][0]["text"], "é!ab");
  EXPECT_EQ(answer["choices"][0]["logprobs"], json::parse(R"({"tokens":["bytes:\\xc3","bytes:\\xa9","!","ab"],
                            "token_logprobs":[null,-1.5,-0.25,-0.5],
                            "top_logprobs":[null,{"bytes:\\xa9":-1.5},{"!":-0.25},{"c":-0.10000000149011612,"ab":-0.5}],
                            "text_offset":[0,1,1,2]})"));
}

TEST(CompletionLogprobs, GoOnOverTheChunksOfAStream) {
  const auto events = Events(Completion(kStream, EchoedWithScores()));
  EXPECT_EQ(events[0]["choices"][0]["text"], "é!");
  EXPECT_EQ(events[0]["choices"][0]["logprobs"]["text_offset"], json::array({0, 1, 1}));
  EXPECT_EQ(events[1]["choices"][0]["logprobs"]["text_offset"], json::array({2}));
  EXPECT_EQ(events[1]["choices"][0]["logprobs"]["tokens"], json::array({"ab"}));
  EXPECT_EQ(events[2]["choices"][0]["logprobs"], nullptr);
}

TEST(CompletionWhole, CarriesTokenIdsIfAsked) {
  const json answer = json::parse(
      Completion({.return_token_ids = true}, {Delta{.text = "a", .tokens = {1}}, Delta{.text = "b", .tokens = {2, 3}},
                                              Finished{.reason = Finished::Reason::kLength}, kDone}));
  EXPECT_EQ(answer["choices"][0]["token_ids"], json::array({1, 2, 3}));
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "length");
}

TEST(Formats, SurviveTextThatIsNotUtf8) {
  for (AnswerOptions options : {kStream, AnswerOptions{}}) {
    const std::string out = Chat(options, {Text("a\xFF\n\"z"), Stop(), kDone});
    const json answer = options.stream ? Events(out)[1] : json::parse(out);
    const json& said = answer["choices"][0][options.stream ? "delta" : "message"]["content"];
    EXPECT_EQ(said, "a\uFFFD\n\"z");
  }
}

TEST(ErrorJson, IsTheShapeTheSdksExpect) {
  const ApiError error = {
      .status = absl::StatusCode::kInvalidArgument, .code = "invalid_value", .param = "n", .message = "No."};
  EXPECT_EQ(
      json::parse(ErrorJson(error)),
      json::parse(R"({"error":{"message":"No.","type":"invalid_request_error","param":"n","code":"invalid_value"}})"));
}

}  // namespace
}  // namespace braid
