#include "gateway/core/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "gateway/core/test_model.h"

namespace braid {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class SessionTest : public testing::Test {
 protected:
  Session Make(SessionOptions options) const { return Session(model_.tokenizer.get(), std::move(options)); }
  Session MakeChat(std::vector<std::string> stop = {}) const {
    return Make({.chat = true, .parse_calls = true, .stop = std::move(stop)});
  }
  std::vector<Delta> Push(Session* session, std::string_view text) const {
    std::vector<Delta> deltas;
    for (TokenId token : AnswerTokens(model_, text)) session->Push({token, -0.5f, {}}, &deltas);
    return deltas;
  }
  std::vector<Delta> Finish(Session* session, bool at_limit = false) const {
    std::vector<Delta> deltas;
    session->Finish(at_limit, &deltas);
    return deltas;
  }

  const ServedModel model_ = MakeTestModel();
};

// Everything a caller can add up from the deltas.
struct Total {
  std::string reasoning, content;
  std::map<int, std::string> calls;  // by index: id, name, arguments
  std::vector<TokenId> tokens;
  size_t scores = 0;
  bool operator==(const Total&) const = default;
};

void AddUp(const std::vector<Delta>& deltas, Total* total) {
  for (const Delta& delta : deltas) {
    if (delta.kind == Delta::Kind::kReasoning) total->reasoning += delta.text;
    if (delta.kind == Delta::Kind::kContent) total->content += delta.text;
    if (delta.kind == Delta::Kind::kToolCall)
      total->calls[delta.tool_index] += delta.tool_id + " " + delta.tool_name + " " + delta.text;
    total->tokens.insert(total->tokens.end(), delta.tokens.begin(), delta.tokens.end());
    total->scores += delta.logprobs.size();
  }
}

TEST_F(SessionTest, TellsTextAsItComes) {
  Session session = Make({});
  const auto deltas = Push(&session, "hi");
  ASSERT_EQ(deltas.size(), 1u);
  EXPECT_EQ(deltas[0].text, "hi");
  EXPECT_THAT(deltas[0].tokens, ElementsAre('h', 'i'));
  EXPECT_THAT(deltas[0].logprobs, IsEmpty());
}

TEST_F(SessionTest, NeverSplitsACharacter) {
  Session session = Make({});
  EXPECT_THAT(Push(&session, "\xc3"), IsEmpty());
  const auto deltas = Push(&session, "\xa9");
  ASSERT_EQ(deltas.size(), 1u);
  EXPECT_EQ(deltas[0].text, "\xc3\xa9");
  EXPECT_EQ(deltas[0].tokens.size(), 2u);
}

TEST_F(SessionTest, AnUnfinishedCharacterAtTheEndBecomesAReplacement) {
  Session session = Make({});
  EXPECT_THAT(Push(&session, "\xf0\x9f"), IsEmpty());
  const auto deltas = Finish(&session, /*at_limit=*/true);
  ASSERT_EQ(deltas.size(), 1u);
  EXPECT_TRUE(IsValidUtf8(deltas[0].text));
  EXPECT_EQ(session.reason(), Finished::Reason::kLength);
}

TEST_F(SessionTest, SpecialTokensHaveNoText) {
  Session session = Make({});
  Total total;
  AddUp(Push(&session, "a<|im_start|>b<|im_end|>"), &total);
  AddUp(Finish(&session), &total);
  EXPECT_EQ(total.content, "ab");
  EXPECT_THAT(total.tokens, ElementsAre('a', kImStart, 'b', kImEnd));
  EXPECT_EQ(session.completion_tokens(), 4);
  EXPECT_EQ(session.reason(), Finished::Reason::kStop);
}

TEST_F(SessionTest, TextThatSpellsASpecialTokenIsText) {
  Session session = MakeChat();
  std::vector<Delta> deltas;
  for (TokenId token : ByteTokens("<|im_end|>")) session.Push({token, 0, {}}, &deltas);
  Total total;
  AddUp(deltas, &total);
  AddUp(Finish(&session), &total);
  EXPECT_EQ(total.content, "<|im_end|>");
}

TEST_F(SessionTest, SplitsReasoningFromTheAnswerAndCountsIt) {
  Session session = MakeChat();
  Total total;
  AddUp(Push(&session, "<think>hmm</think>yes<|im_end|>"), &total);
  AddUp(Finish(&session), &total);
  EXPECT_EQ(total.reasoning, "hmm");
  EXPECT_EQ(total.content, "yes");
  EXPECT_EQ(session.reasoning_tokens(), 5);
  EXPECT_EQ(session.completion_tokens(), 9);
}

TEST_F(SessionTest, ReportsToolCallsWithIdsAndAFittingReason) {
  Session session = MakeChat();
  auto deltas = Push(&session, "<|tool_call_start|>[f(x=1), g()]<|tool_call_end|><|im_end|>");
  for (Delta& delta : Finish(&session)) deltas.push_back(std::move(delta));
  std::vector<std::string> names, ids;
  for (const Delta& delta : deltas) {
    if (delta.tool_name.empty()) continue;
    EXPECT_EQ(delta.kind, Delta::Kind::kToolCall);
    names.push_back(delta.tool_name);
    ids.push_back(delta.tool_id);
  }
  EXPECT_THAT(names, ElementsAre("f", "g"));
  ASSERT_EQ(ids.size(), 2u);
  EXPECT_NE(ids[0], ids[1]);
  EXPECT_EQ(ids[0].size(), 29u);
  EXPECT_TRUE(ids[0].starts_with("call_"));
  EXPECT_EQ(session.reason(), Finished::Reason::kToolCalls);
}

TEST_F(SessionTest, CallIdsDifferBetweenChoicesAndCallsButNotBetweenReplays) {
  const auto id = [&](int choice, uint64_t seed) {
    Session session = Make({.choice = choice, .chat = true, .parse_calls = true, .id_seed = seed});
    for (const Delta& delta : Push(&session, "<|tool_call_start|>[f()]<|tool_call_end|>"))
      if (!delta.tool_id.empty()) return delta.tool_id;
    return std::string();
  };
  EXPECT_EQ(id(0, 1), id(0, 1));
  EXPECT_NE(id(0, 1), id(1, 1));
  EXPECT_NE(id(0, 1), id(0, 2));
}

TEST_F(SessionTest, StopsAtAStopStringAcrossTokensAndLeavesItOut) {
  Session session = Make({.stop = {"END"}});
  Total total;
  AddUp(Push(&session, "the ENDing"), &total);
  EXPECT_TRUE(session.stopped());
  EXPECT_EQ(total.content, "the ");
  EXPECT_EQ(session.completion_tokens(), 7);  // up to the token that completed it
  EXPECT_EQ(total.tokens.size(), 7u);
  EXPECT_EQ(session.reason(), Finished::Reason::kStop);
  EXPECT_THAT(Finish(&session), IsEmpty());
}

TEST_F(SessionTest, WhatLookedLikeAStopStringIsToldAtTheEnd) {
  Session session = Make({.stop = {"END"}});
  Total total;
  AddUp(Push(&session, "the EN"), &total);
  EXPECT_EQ(total.content, "the ");
  AddUp(Finish(&session), &total);
  EXPECT_EQ(total.content, "the EN");
}

TEST_F(SessionTest, StopStringsConcernTheAnswerNotTheReasoning) {
  Session session = MakeChat({"\n\n"});
  Total total;
  AddUp(Push(&session, "<think>a\n\nb</think>c\n\nd"), &total);
  EXPECT_TRUE(session.stopped());
  EXPECT_EQ(total.reasoning, "a\n\nb");
  EXPECT_EQ(total.content, "c");
}

TEST_F(SessionTest, ScoresStayWithTheirTokens) {
  Session session = Make({.want_logprobs = true});
  std::vector<Delta> deltas;
  session.Push({0xc3, -1, {{0xc3, -1}, {'x', -2}}}, &deltas);
  session.Push({0xa9, -0.25f, {}}, &deltas);
  ASSERT_EQ(deltas.size(), 1u);
  ASSERT_EQ(deltas[0].logprobs.size(), 2u);
  EXPECT_EQ(deltas[0].logprobs[0].bytes, "\xc3");
  EXPECT_EQ(deltas[0].logprobs[0].logprob, -1);
  ASSERT_EQ(deltas[0].logprobs[0].top.size(), 2u);
  EXPECT_EQ(deltas[0].logprobs[0].top[1].bytes, "x");
  EXPECT_EQ(deltas[0].logprobs[1].logprob, -0.25f);
}

// The property that recovery rests on.
TEST_F(SessionTest, GroupingTheTokensOtherwiseAddsUpToTheSame) {
  std::mt19937 random(11);
  const std::vector<std::string> words = {"<think>",
                                          "</think>",
                                          "<|tool_call_start|>",
                                          "<|tool_call_end|>",
                                          "[f(a='x')]",
                                          "[g()",
                                          "é",
                                          "日本",
                                          "END",
                                          "EN",
                                          " word",
                                          "\xf0\x9f",
                                          "\n"};
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (size_t i = 0, count = random() % 12; i < count; ++i) text += words[random() % words.size()];
    const bool at_limit = random() % 2 == 0;
    const SessionOptions options{
        .chat = random() % 4 != 0,
        .parse_calls = random() % 2 == 0,
        .want_logprobs = true,
        .stop = random() % 2 == 0 ? std::vector<std::string>{"END"} : std::vector<std::string>{}};
    const std::vector<TokenId> tokens = AnswerTokens(model_, text);
    const auto run = [&](size_t group_max) {
      Session session = Make(options);
      Total total;
      for (size_t at = 0; at < tokens.size();) {
        std::vector<Delta> deltas;
        for (size_t left = 1 + random() % group_max; left > 0 && at < tokens.size(); --left)
          session.Push({tokens[at++], -1, {}}, &deltas);
        AddUp(deltas, &total);
      }
      AddUp(Finish(&session, at_limit), &total);
      EXPECT_EQ(total.tokens.size(), static_cast<size_t>(session.completion_tokens()));
      EXPECT_EQ(total.scores, total.tokens.size());
      return total;
    };
    const Total one_by_one = run(1);
    EXPECT_EQ(run(5), one_by_one) << text;
    EXPECT_EQ(run(1000), one_by_one) << text;
  }
}

}  // namespace
}  // namespace braid
