#include "gateway/openai/bodies.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace braid {
namespace {

ChatRequest Chat(const std::string& text) {
  auto body = ParseChatBody(text);
  const auto* error = std::get_if<ApiError>(&body);
  EXPECT_EQ(error, nullptr) << error->message;
  return error ? ChatRequest() : std::get<ChatBody>(body).request;
}

// A chat with one good message and `fields` besides.
std::string With(const std::string& fields) {
  return R"({"messages":[{"role":"user","content":"hi"}])" + (fields.empty() ? "" : "," + fields) + "}";
}
std::string WithMessage(const std::string& message) { return R"({"messages":[)" + message + "]}"; }
std::string PromptAnd(const std::string& fields) {
  return R"({"prompt":"hi")" + (fields.empty() ? "" : "," + fields) + "}";
}

// "code param" of the refusal, or "ok".
template <typename Body>
std::string Verdict(const std::variant<ApiError, Body>& body) {
  const auto* error = std::get_if<ApiError>(&body);
  return error ? error->code + " " + error->param : "ok";
}

struct Claim {
  std::string fields;
  std::string verdict;
};

TEST(ChatBody, ReadsEveryField) {
  const auto parsed = ParseChatBody(R"({
    "model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0.5,"top_p":1,"top_k":40,"min_p":0.1,
    "repetition_penalty":1.05,"presence_penalty":-1,"frequency_penalty":2,"seed":-7,"n":3,"max_completion_tokens":9,
    "stop":["a","b"],"logit_bias":{"5":-100,"17":1.5},"logprobs":true,"top_logprobs":4,"ignore_eos":true,
    "tools":[{"type":"function","function":{"name":"f","parameters":{"z":1,"a":2}}}],"tool_choice":"auto",
    "stream":true,"stream_options":{"include_usage":true},"return_token_ids":true})");
  ASSERT_EQ(Verdict(parsed), "ok");
  const auto& [request, answer] = std::get<ChatBody>(parsed);
  const GenerationParams& params = request.params;
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(request.messages.at(0).content, "hi");
  EXPECT_EQ(params.temperature, 0.5);
  EXPECT_EQ(params.top_p, 1.0);
  EXPECT_EQ(params.top_k, 40);
  EXPECT_EQ(params.min_p, 0.1);
  EXPECT_EQ(params.repetition_penalty, 1.05);
  EXPECT_EQ(params.presence_penalty, -1.0);
  EXPECT_EQ(params.frequency_penalty, 2.0);
  EXPECT_EQ(params.seed, -7);
  EXPECT_EQ(params.n, 3);
  EXPECT_EQ(params.max_tokens, 9);
  EXPECT_THAT(params.stop, testing::ElementsAre("a", "b"));
  EXPECT_THAT(params.logit_bias, testing::ElementsAre(testing::Pair(5, -100), testing::Pair(17, 1.5)));
  EXPECT_TRUE(params.logprobs && params.ignore_eos);
  EXPECT_EQ(params.top_logprobs, 4);
  EXPECT_EQ(request.tools.at(0)["function"]["parameters"].dump(), R"({"z":1,"a":2})");
  EXPECT_EQ(request.tool_choice, "auto");
  EXPECT_TRUE(answer.stream && answer.include_usage && answer.return_token_ids);
}

TEST(ChatBody, LeavesUnsetWhatIsAbsentOrNull) {
  for (const char* fields : {"", R"("temperature":null,"stop":null,"n":null,"tools":null,"logit_bias":null,"seed":null,
                                   "response_format":null,"tool_choice":null,"stream_options":null,"audio":null)"}) {
    const auto body = ParseChatBody(With(fields));
    ASSERT_EQ(Verdict(body), "ok");
    const GenerationParams& params = std::get<ChatBody>(body).request.params;
    EXPECT_FALSE(params.temperature || params.n || params.seed || params.max_tokens);
    EXPECT_TRUE(params.stop.empty() && params.logit_bias.empty());
  }
}

TEST(ChatBody, RefusesByName) {
  const Claim claims[] = {
      {R"("temperature":"hot")", "invalid_type temperature"},
      {R"("temperature":[1])", "invalid_type temperature"},
      {R"("n":1.5)", "invalid_type n"},
      {R"("n":"1")", "invalid_type n"},
      {R"("n":true)", "invalid_type n"},
      {R"("seed":18446744073709551616)", "invalid_value seed"},
      {R"("seed":9223372036854775808)", "invalid_value seed"},
      {R"("max_tokens":1e300)", "invalid_value max_tokens"},
      {R"("max_tokens":5,"max_completion_tokens":6)", "invalid_value max_completion_tokens"},
      {R"("stop":5)", "invalid_type stop"},
      {R"("stop":["a",5])", "invalid_type stop[1]"},
      {R"("logit_bias":{"x":1})", "invalid_value logit_bias.x"},
      {R"("logit_bias":{"50257abc":1})", "invalid_value logit_bias.50257abc"},
      {R"("logit_bias":{" 5":1})", "invalid_value logit_bias. 5"},
      {R"("logit_bias":{"5":"1"})", "invalid_type logit_bias.5"},
      {R"("logit_bias":[])", "invalid_type logit_bias"},
      {R"("logprobs":1)", "invalid_type logprobs"},
      {R"("top_logprobs":3)", "invalid_value top_logprobs"},
      {R"("top_logprobs":3,"logprobs":false)", "invalid_value top_logprobs"},
      {R"("stream":"yes")", "invalid_type stream"},
      {R"("stream_options":{"include_usage":true})", "invalid_value stream_options"},
      {R"("stream":true,"stream_options":{"x":1})", "unknown_field stream_options.x"},
      {R"("stream":true,"stream_options":{"continuous_usage_stats":true})",
       "unsupported_value stream_options.continuous_usage_stats"},
      {R"("tools":{})", "invalid_type tools"},
      {R"("tools":["f"])", "invalid_type tools[0]"},
      {R"("tool_choice":{"type":"function","function":{"name":"f"}})", "unsupported_value tool_choice"},
      {R"("tool_choice":1)", "invalid_type tool_choice"},
      {R"("parallel_tool_calls":false)", "unsupported_value parallel_tool_calls"},
      {R"("response_format":{"type":"json_object"})", "unsupported_value response_format"},
      {R"("response_format":{"type":"text","x":1})", "unsupported_value response_format"},
      {R"("reasoning_effort":"high")", "unsupported_value reasoning_effort"},
      {R"("functions":[])", "unsupported_value functions"},
      {R"("function_call":"auto")", "unsupported_value function_call"},
      {R"("audio":{})", "unsupported_value audio"},
      {R"("modalities":["text","audio"])", "unsupported_value modalities"},
      {R"("chat_template":"{{x}}")", "unsupported_value chat_template"},
      {R"("chat_template_kwargs":{"x":1})", "unsupported_value chat_template_kwargs"},
      {R"("continue_final_message":true)", "unsupported_value continue_final_message"},
      {R"("best_of":2)", "unsupported_value best_of"},
      {R"("store":true)", "unsupported_value store"},
      {R"("service_tier":"priority")", "unsupported_value service_tier"},
      {R"("stop_token_ids":[1])", "unsupported_value stop_token_ids"},
      {R"("request_id":"x")", "unsupported_value request_id"},
      {R"("cache_salt":5)", "invalid_type cache_salt"},
      {R"("user":5)", "invalid_type user"},
      {R"("temprature":1)", "unknown_field temprature"},
      {R"("x_anything":1)", "unknown_field x_anything"},
      {R"("unknown":null)", "unknown_field unknown"},
      {R"("":1)", "unknown_field "},
  };
  for (const Claim& claim : claims)
    EXPECT_EQ(Verdict(ParseChatBody(With(claim.fields))), claim.verdict) << claim.fields;
}

TEST(ChatBody, AcceptsWhatDoesNotChangeTheAnswer) {
  const char* good[] = {R"("user":"u")",
                        R"("metadata":{"a":"b"})",
                        R"("store":false)",
                        R"("service_tier":"auto")",
                        R"("parallel_tool_calls":true)",
                        R"("response_format":{"type":"text"})",
                        R"("modalities":["text"])",
                        R"("n":2,"best_of":2)",
                        R"("best_of":1)",
                        R"("max_tokens":5,"max_completion_tokens":5)",
                        R"("n":1.0)",
                        R"("top_logprobs":0)",
                        R"("tools":[])",
                        R"("tool_choice":"required")",  // the validator's to refuse, for both doors
                        R"("stream":true,"stream_options":{"include_usage":false,"include_obfuscation":false})",
                        R"("min_tokens":0,"length_penalty":1.0,"use_beam_search":false,"skip_special_tokens":true)",
                        R"("chat_template_kwargs":{},"add_generation_prompt":true)"};
  for (const char* fields : good) EXPECT_EQ(Verdict(ParseChatBody(With(fields))), "ok") << fields;
}

TEST(ChatBody, ReadsAStopThatIsOneString) {
  EXPECT_THAT(Chat(With(R"("stop":"\n\n")")).params.stop, testing::ElementsAre("\n\n"));
}

TEST(ChatBody, TakesValuesItCannotJudge) {
  const GenerationParams params =
      Chat(With(R"("n":-1,"temperature":-5,"max_tokens":0,"logit_bias":{"-1":1e38})")).params;
  EXPECT_EQ(params.n, -1);
  EXPECT_EQ(params.temperature, -5);
  EXPECT_EQ(params.max_tokens, 0);
  EXPECT_EQ(params.logit_bias.at(0).first, -1);
}

TEST(Messages, HaveTextOrPartsOrNothing) {
  EXPECT_EQ(Chat(WithMessage(R"({"role":"user","content":null})")).messages.at(0).content, "");
  EXPECT_EQ(Chat(WithMessage(R"({"role":"user"})")).messages.at(0).content, "");
  EXPECT_EQ(Chat(WithMessage(R"({"role":"user","content":[]})")).messages.at(0).content, "");
  const char* parts = R"({"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]})";
  EXPECT_EQ(Chat(WithMessage(parts)).messages.at(0).content, "ab");
}

TEST(Messages, CarryReasoningUnderEitherName) {
  for (const char* fields :
       {R"("reasoning_content":"r")", R"("reasoning":"r")", R"("reasoning":"r","reasoning_content":"r")"})
    EXPECT_EQ(
        Chat(WithMessage(R"({"role":"assistant","content":"c",)" + std::string(fields) + "}")).messages[0].reasoning,
        "r");
  EXPECT_EQ(Chat(WithMessage(R"({"role":"assistant","content":"c"})")).messages[0].reasoning, std::nullopt);
  EXPECT_EQ(Chat(WithMessage(R"({"role":"assistant","reasoning":""})")).messages[0].reasoning, "");
}

TEST(Messages, CarryToolCallsAndResults) {
  const ChatRequest chat = Chat(R"({"messages":[
    {"role":"assistant","content":null,"tool_calls":[
       {"id":"c1","type":"function","index":0,"function":{"name":"f","arguments":"{\"a\":1}"}}]},
    {"role":"tool","tool_call_id":"c1","name":"f","content":"4"}]})");
  const MessageCall& call = chat.messages.at(0).tool_calls.at(0);
  EXPECT_EQ(call.id, "c1");
  EXPECT_EQ(call.name, "f");
  EXPECT_EQ(call.arguments, R"({"a":1})");
  EXPECT_EQ(chat.messages.at(1).tool_call_id, "c1");
}

TEST(Messages, MayBeTheSdksOwnObjects) {
  EXPECT_EQ(Verdict(ParseChatBody(WithMessage(
                R"({"role":"assistant","content":"x","refusal":null,"annotations":[],"audio":null,"function_call":null,
                    "tool_calls":null})"))),
            "ok");
}

TEST(Messages, AreRefusedByPath) {
  const Claim claims[] = {
      {R"({"content":"x"})", "missing_field messages[0].role"},
      {R"({"role":null})", "missing_field messages[0].role"},
      {R"({"role":5})", "invalid_type messages[0].role"},
      {R"("hi")", "invalid_type messages[0]"},
      {R"(null)", "invalid_type messages[0]"},
      {R"({"role":"user","content":5})", "invalid_type messages[0].content"},
      {R"({"role":"user","content":{"type":"text","text":"x"}})", "invalid_type messages[0].content"},
      {R"({"role":"user","content":["x"]})", "invalid_type messages[0].content[0]"},
      {R"({"role":"user","content":[{"text":"x"}]})", "missing_field messages[0].content[0].type"},
      {R"({"role":"user","content":[{"type":"text"}]})", "missing_field messages[0].content[0].text"},
      {R"({"role":"user","content":[{"type":"text","text":5}]})", "invalid_type messages[0].content[0].text"},
      {R"({"role":"user","content":[{"type":"text","text":"x"},{"type":"image_url","image_url":{"url":"x"}}]})",
       "unsupported_value messages[0].content[1].type"},
      {R"({"role":"user","content":[{"type":"text","text":"x","cache_control":{}}]})",
       "unknown_field messages[0].content[0].cache_control"},
      {R"({"role":"user","content":"x","name":"bob"})", "unsupported_value messages[0].name"},
      {R"({"role":"user","content":"x","weight":1})", "unknown_field messages[0].weight"},
      {R"({"role":"assistant","reasoning":"a","reasoning_content":"b"})",
       "invalid_value messages[0].reasoning_content"},
      {R"({"role":"assistant","refusal":"no"})", "unsupported_value messages[0].refusal"},
      {R"({"role":"assistant","tool_calls":{}})", "invalid_type messages[0].tool_calls"},
      {R"({"role":"assistant","tool_calls":[{}]})", "missing_field messages[0].tool_calls[0].function"},
      {R"({"role":"assistant","tool_calls":[{"type":"custom"}]})", "unsupported_value messages[0].tool_calls[0].type"},
      {R"({"role":"assistant","tool_calls":[{"function":{"arguments":"{}"}}]})",
       "missing_field messages[0].tool_calls[0].function.name"},
      {R"({"role":"assistant","tool_calls":[{"function":{"name":"f"}}]})",
       "missing_field messages[0].tool_calls[0].function.arguments"},
      {R"({"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":{}}}]})",
       "invalid_type messages[0].tool_calls[0].function.arguments"},
  };
  for (const Claim& claim : claims)
    EXPECT_EQ(Verdict(ParseChatBody(WithMessage(claim.fields))), claim.verdict) << claim.fields;
}

TEST(ChatBody, MustBeAnObjectWithMessages) {
  const Claim claims[] = {{"", "invalid_json "},
                          {"null", "invalid_type "},
                          {"[]", "invalid_type "},
                          {"\"x\"", "invalid_type "},
                          {"{}", "missing_field messages"},
                          {R"({"messages":null})", "missing_field messages"},
                          {R"({"messages":{}})", "invalid_type messages"},
                          {R"({"messages":[]})", "ok"}};
  for (const Claim& claim : claims) EXPECT_EQ(Verdict(ParseChatBody(claim.fields)), claim.verdict) << claim.fields;
}

TEST(ChatBody, RefusesDepthWhereverItHides) {
  const std::string deep = std::string(70, '[') + std::string(70, ']');
  EXPECT_EQ(Verdict(ParseChatBody(With(R"("tools":[{"type":)" + deep + "}]"))), "invalid_json ");
  EXPECT_EQ(Verdict(ParseChatBody(With(R"("metadata":{"a":)" + deep + "}"))), "invalid_json ");
}

TEST(ChatBody, RefusesEveryTruncation) {
  const std::string text = With(R"("tools":[{"type":"function"}],"stop":["a"],"n":2)");
  ASSERT_EQ(Verdict(ParseChatBody(text)), "ok");
  for (size_t n = 0; n < text.size(); ++n) EXPECT_EQ(Verdict(ParseChatBody(text.substr(0, n))), "invalid_json ") << n;
}

TEST(CompletionBody, ReadsAllFourKindsOfPrompt) {
  const auto prompts = [](const std::string& json) {
    auto body = ParseCompletionBody("{\"prompt\":" + json + "}");
    EXPECT_EQ(Verdict(body), "ok") << json;
    return std::get<CompletionBody>(body).request.prompts;
  };
  EXPECT_EQ(prompts(R"("a")"), (std::vector<Prompt>{"a"}));
  EXPECT_EQ(prompts(R"(["a",""])"), (std::vector<Prompt>{"a", ""}));
  EXPECT_EQ(prompts("[1,-2,4294967301]"), (std::vector<Prompt>{std::vector<int64_t>{1, -2, 4294967301}}));
  EXPECT_EQ(prompts(R"([[1],"a",[]])"), (std::vector<Prompt>{std::vector<int64_t>{1}, "a", std::vector<int64_t>{}}));
  EXPECT_EQ(prompts("[]"), std::vector<Prompt>{});
}

TEST(CompletionBody, ReadsLogprobsAsACount) {
  const auto parsed = ParseCompletionBody(PromptAnd(R"("logprobs":0,"echo":true,"max_tokens":0)"));
  ASSERT_EQ(Verdict(parsed), "ok");
  const CompletionRequest& request = std::get<CompletionBody>(parsed).request;
  EXPECT_TRUE(request.params.logprobs && request.echo);
  EXPECT_EQ(request.params.top_logprobs, 0);
  EXPECT_FALSE(std::get<CompletionBody>(ParseCompletionBody(PromptAnd(""))).request.params.logprobs);
}

TEST(CompletionBody, RefusesByName) {
  const Claim claims[] = {
      {R"("logprobs":true)", "invalid_type logprobs"},
      {R"("logprobs":-1)", "invalid_value logprobs"},
      {R"("suffix":"x")", "unsupported_value suffix"},
      {R"("best_of":3)", "unsupported_value best_of"},
      {R"("echo":1)", "invalid_type echo"},
      {R"("messages":[])", "unknown_field messages"},
      {R"("tools":[])", "unknown_field tools"},
      {R"("top_logprobs":1)", "unknown_field top_logprobs"},
      {R"("prompt_logprobs":1)", "unsupported_value prompt_logprobs"},
  };
  for (const Claim& claim : claims)
    EXPECT_EQ(Verdict(ParseCompletionBody(PromptAnd(claim.fields))), claim.verdict) << claim.fields;
}

TEST(CompletionBody, RefusesPromptsOfMixedTypes) {
  const Claim claims[] = {{"5", "invalid_type prompt"},
                          {"{}", "invalid_type prompt"},
                          {"[1,\"a\"]", "invalid_type prompt[1]"},
                          {"[\"a\",1]", "invalid_type prompt[1]"},
                          {"[1,2.5]", "invalid_type prompt[1]"},
                          {"[[1,\"a\"]]", "invalid_type prompt[0][1]"},
                          {"[[[1]]]", "invalid_type prompt[0][0]"},
                          {"null", "missing_field prompt"},
                          {"[null]", "invalid_type prompt[0]"},
                          {"[1,18446744073709551615]", "invalid_value prompt[1]"}};
  for (const Claim& claim : claims)
    EXPECT_EQ(Verdict(ParseCompletionBody("{\"prompt\":" + claim.fields + "}")), claim.verdict) << claim.fields;
}

TEST(TokenizeBody, HoldsAPromptOrMessages) {
  const Claim claims[] = {
      {R"({"prompt":"x"})", "ok"},
      {R"({"prompt":"x","add_special_tokens":false,"model":"m"})", "ok"},
      {R"({"messages":[{"role":"user","content":"x"}],"add_special_tokens":false,"tools":[]})", "ok"},
      {R"({})", "missing_field prompt"},
      {R"({"prompt":"x","messages":[]})", "invalid_value prompt"},
      {R"({"prompt":["x"]})", "invalid_type prompt"},
      {R"({"prompt":"x","tools":[{}]})", "invalid_value tools"},
      {R"({"messages":[],"add_special_tokens":true})", "unsupported_value add_special_tokens"},
      {R"({"messages":[],"add_generation_prompt":false})", "unsupported_value add_generation_prompt"},
      {R"({"prompt":"x","return_token_strs":true})", "unsupported_value return_token_strs"},
      {R"({"prompt":"x","y":1})", "unknown_field y"},
  };
  for (const Claim& claim : claims) EXPECT_EQ(Verdict(ParseTokenizeBody(claim.fields)), claim.verdict) << claim.fields;
}

TEST(DetokenizeBody, HoldsTokens) {
  const auto body = ParseDetokenizeBody(R"({"model":"m","tokens":[1,-1]})");
  ASSERT_EQ(Verdict(body), "ok");
  EXPECT_THAT(std::get<DetokenizeBody>(body).tokens, testing::ElementsAre(1, -1));
  EXPECT_EQ(Verdict(ParseDetokenizeBody("{}")), "missing_field tokens");
  EXPECT_EQ(Verdict(ParseDetokenizeBody(R"({"tokens":["1"]})")), "invalid_type tokens[0]");
}

}  // namespace
}  // namespace braid
