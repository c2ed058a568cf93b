#include "gateway/core/output_parser.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace braid {
namespace {

using Kind = OutputEvent::Kind;

// What came out, on one line: R(reasoning) C(content) T0(name arguments).
std::string Describe(const std::vector<OutputEvent>& events) {
  std::string all, run;
  const OutputEvent* last = nullptr;
  const auto flush = [&] {
    if (last == nullptr || run.empty()) return;
    all += (last->kind == Kind::kReasoning ? "R(" : "C(") + run + ")";
    run.clear();
  };
  for (const OutputEvent& event : events) {
    const bool text = event.kind == Kind::kReasoning || event.kind == Kind::kContent;
    if (!text || (last != nullptr && last->kind != event.kind)) flush();
    if (text) run += event.text;
    if (event.kind == Kind::kToolCallBegin) all += "T" + std::to_string(event.index) + "(" + event.text + " ";
    if (event.kind == Kind::kToolCallArguments) all += event.text;
    if (event.kind == Kind::kToolCallEnd) all += ")";
    last = &event;
  }
  flush();
  return all;
}

bool IsMarker(const std::string& piece) { return piece.size() > 2 && piece.front() == '<' && piece.back() == '>'; }

// Feeds text and control tokens; a piece in angle brackets is a control token, "~" in front of it makes it text.
// `width` cuts text into pieces of so many bytes (the texts of these tests are ASCII).
std::string Fold(const std::vector<std::string>& pieces, bool complete = true, size_t width = 1000,
                 bool parse_calls = true) {
  OutputParser parser(parse_calls);
  std::vector<OutputEvent> events;
  const auto add = [&](std::vector<OutputEvent> more) { events.insert(events.end(), more.begin(), more.end()); };
  for (const std::string& piece : pieces) {
    if (IsMarker(piece)) {
      add(parser.OnControl(piece));
      continue;
    }
    const std::string text = piece[0] == '~' ? piece.substr(1) : piece;
    for (size_t at = 0; at < text.size(); at += width) add(parser.OnText(text.substr(at, width)));
  }
  add(parser.Finish(complete));
  return Describe(events);
}

const char kStart[] = "<|tool_call_start|>", kEnd[] = "<|tool_call_end|>";

TEST(OutputParser, PassesContentThrough) { EXPECT_EQ(Fold({"Hello ", "world\n"}), "C(Hello world\n)"); }

TEST(OutputParser, SplitsReasoningByControlTokens) {
  EXPECT_EQ(Fold({"<think>", "Let me see.", "</think>", "\n\n4"}), "R(Let me see.)C(\n\n4)");
  EXPECT_EQ(Fold({"<think>", "never ends"}, false), "R(never ends)");
  EXPECT_EQ(Fold({"<think>", "</think>", "x"}), "C(x)");
}

TEST(OutputParser, SplitsReasoningBySpelledTags) {
  for (size_t width : {1, 2, 3, 7, 100}) {
    EXPECT_EQ(Fold({"~<think>2 < 3 </th x</think>4"}, true, width), "R(2 < 3 </th x)C(4)");
    EXPECT_EQ(Fold({" \n<think>a</think>b"}, true, width), "C( \n)R(a)C(b)");
    EXPECT_EQ(Fold({"~<think>cut </thi"}, false, width), "R(cut </thi)");
    EXPECT_EQ(Fold({"~<thin"}, false, width), "C(<thin)");
  }
}

TEST(OutputParser, ASpelledTagCountsOnlyAtTheStart) {
  EXPECT_EQ(Fold({"The tag <think>x</think> opens reasoning"}), "C(The tag <think>x</think> opens reasoning)");
  EXPECT_EQ(Fold({"<think>", "I spell </think> here", "</think>", "ok"}), "R(I spell </think> here)C(ok)");
}

TEST(OutputParser, ReportsReasoningContentAndCallsInOrder) {
  EXPECT_EQ(Fold({"<think>", "Need tool.", "</think>", "One moment.", kStart, "[f(a=1), g.h()]", kEnd, "Done.",
                  "<|im_end|>"}),
            "R(Need tool.)C(One moment.)T0(f {\"a\": 1})T1(g.h {})C(Done.)");
}

TEST(OutputParser, NumbersCallsOverSeveralBlocks) {
  EXPECT_EQ(Fold({kStart, "[f()]", kEnd, " and ", kStart, "[{\"name\": \"g\", \"arguments\": {}}]", kEnd}),
            "T0(f {})C( and )T1(g {})");
}

TEST(OutputParser, AnyCutGivesTheSame) {
  const std::vector<std::string> pieces = {"~<think>a < b</think>x", kStart, "[f(a='it's'), b(1)]", kEnd, "[f(a='i y"};
  const std::string whole = Fold(pieces);
  EXPECT_EQ(whole, "R(a < b)C(x)T0(f {\"a\": \"it's\"})C(b(1)[f(a='i y)");
  for (size_t width = 1; width < 30; ++width) EXPECT_EQ(Fold(pieces, true, width), whole);
}

TEST(OutputParser, ACallEndsOpenReasoning) {
  EXPECT_EQ(Fold({"<think>", "call it", kStart, "[f()]", kEnd, "ok"}), "R(call it)T0(f {})C(ok)");
  EXPECT_EQ(Fold({"~<think>call it </", kStart, "[f()]", kEnd}), "R(call it </)T0(f {})");
}

TEST(OutputParser, GivesAMalformedBlockBackAsItWas) {
  EXPECT_EQ(Fold({"a", kStart, " f(1) ", kEnd, "b"}), "C(a<|tool_call_start|> f(1) <|tool_call_end|>b)");
}

TEST(OutputParser, AnEmptyListIsNoCall) { EXPECT_EQ(Fold({"a", kStart, "[]", kEnd, "b"}), "C(ab)"); }

TEST(OutputParser, LeavesOutAnEchoedBlock) {
  for (size_t width : {1, 3, 100}) {
    EXPECT_EQ(Fold({kStart, "[f(a=1)]", kEnd, " [f(a=1)]\n", kEnd, "ok"}, true, width), "T0(f {\"a\": 1})C(ok)");
    EXPECT_EQ(Fold({kStart, "[f(a=1)]", kEnd, "[f(a=2)]", kEnd, "ok"}, true, width), "T0(f {\"a\": 1})C([f(a=2)]ok)");
    EXPECT_EQ(Fold({kStart, "[f(a=1)]", kEnd, "[f(a=1)]"}, true, width), "T0(f {\"a\": 1})C([f(a=1)])");
  }
}

TEST(OutputParser, ABlockWithoutEndMarkerIsReadIfTheModelStopped) {
  EXPECT_EQ(Fold({kStart, "[f(a=1)]"}), "T0(f {\"a\": 1})");
  EXPECT_EQ(Fold({kStart, "[f(a=1)]", "<|im_end|>"}, false), "T0(f {\"a\": 1})");
  EXPECT_EQ(Fold({kStart, "[f(a=1)", kStart, "[g()]", kEnd}), "T0(f {\"a\": 1})T1(g {})");
}

TEST(OutputParser, ACutBlockGivesItsWholeCallsAndTheRestAsContent) {
  EXPECT_EQ(Fold({kStart, "[f(a=1), g(b='x"}, false), "T0(f {\"a\": 1})C(g(b='x)");
  EXPECT_EQ(Fold({kStart, "[f(a=1"}, false), "C(<|tool_call_start|>[f(a=1)");
  EXPECT_EQ(Fold({kStart}, false), "C(<|tool_call_start|>)");
}

TEST(OutputParser, WithoutToolsABlockIsContent) {
  EXPECT_EQ(Fold({"<think>", "r", "</think>", kStart, "[f()]", kEnd}, true, 1000, /*parse_calls=*/false),
            "R(r)C(<|tool_call_start|>[f()]<|tool_call_end|>)");
}

TEST(OutputParser, OtherControlTokensLeaveNoTrace) {
  EXPECT_EQ(Fold({"a", "<|reserved_7|>", "</think>", "b", kEnd, "c"}), "C(abc)");
  EXPECT_EQ(Fold({kStart, "[f(a='", "<|reserved_7|>", "')]", kEnd}), "T0(f {\"a\": \"<|reserved_7|>\"})");
}

TEST(OutputParser, MarkersSpelledAsTextAreText) {
  EXPECT_EQ(Fold({"~<|tool_call_start|>[f()]<|tool_call_end|>"}), "C(<|tool_call_start|>[f()]<|tool_call_end|>)");
}

TEST(OutputParser, AHugeBlockIsGivenBack) {
  const std::string body = "[f(a='" + std::string(OutputParser::kBlockBytesMax, 'x') + "')]";
  EXPECT_EQ(Fold({kStart, body, kEnd, "!"}, true, 1 << 16), "C(<|tool_call_start|>" + body + "!)");
}

TEST(OutputParser, KnowsWhetherItIsReasoning) {
  OutputParser parser;
  parser.OnControl("<think>");
  EXPECT_TRUE(parser.in_reasoning());
  parser.OnControl("</think>");
  EXPECT_FALSE(parser.in_reasoning());
  parser.OnControl(kStart);
  parser.OnText("[f(), g()]");
  EXPECT_EQ(parser.calls(), 0);
  parser.OnControl(kEnd);
  EXPECT_EQ(parser.calls(), 2);
}

TEST(OutputParser, ACopyGoesOnByItself) {
  OutputParser parser;
  parser.OnControl(kStart);
  parser.OnText("[f(a=");
  OutputParser fork = parser;
  parser.OnText("1)]");
  fork.OnText("2)]");
  EXPECT_EQ(Describe(parser.OnControl(kEnd)), "T0(f {\"a\": 1})");
  EXPECT_EQ(Describe(fork.OnControl(kEnd)), "T0(f {\"a\": 2})");
}

}  // namespace
}  // namespace braid
