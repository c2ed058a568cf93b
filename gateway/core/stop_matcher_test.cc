#include "gateway/core/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

namespace braid {
namespace {

struct Outcome {
  std::string text;
  bool matched = false;
  bool operator==(const Outcome&) const = default;
};

Outcome Cut(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  StopMatcher matcher(stops);
  Outcome outcome;
  for (const std::string& piece : pieces) outcome.text += matcher.Push(piece);
  outcome.text += matcher.Flush();
  outcome.matched = matcher.matched();
  return outcome;
}

TEST(StopMatcher, LetsTextThroughAtOnceWithoutStops) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Push("hello"), "hello");
}

TEST(StopMatcher, HoldsBackWhatMayBecomeAStopString) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Push("the E"), "the ");
  EXPECT_EQ(matcher.Push("N"), "");
  EXPECT_EQ(matcher.Push("T"), "ENT");
  EXPECT_EQ(matcher.Push("EN"), "");
  EXPECT_EQ(matcher.Flush(), "EN");
  EXPECT_FALSE(matcher.matched());
}

TEST(StopMatcher, FindsAStopStringAcrossPieces) {
  EXPECT_EQ(Cut({"\n\nUser:"}, {"hi\n", "\nUs", "er: more"}), (Outcome{"hi", true}));
}

TEST(StopMatcher, SaysNothingAfterTheMatch) {
  StopMatcher matcher({"x"});
  EXPECT_EQ(matcher.Push("axb"), "a");
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.Push("c"), "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcher, TheFirstCompleteMatchWinsAndOfEqualEndsTheLongest) {
  EXPECT_EQ(Cut({"abcd", "bc"}, {"xabcd"}), (Outcome{"xa", true}));
  EXPECT_EQ(Cut({"bcd", "ab"}, {"xabcd"}), (Outcome{"x", true}));
  EXPECT_EQ(Cut({"c", "abc"}, {"xabc"}), (Outcome{"x", true}));
}

TEST(StopMatcher, FindsAMatchThatBeginsInsideAFailedOne) {
  EXPECT_EQ(Cut({"aab"}, {"aaab"}), (Outcome{"a", true}));
  EXPECT_EQ(Cut({"ababc"}, {"abab", "abc"}), (Outcome{"ab", true}));
}

TEST(StopMatcher, NeverSplitsACharacter) {
  StopMatcher matcher({"é!"});
  EXPECT_EQ(matcher.Push("caf\xc3\xa9"), "caf");
  EXPECT_EQ(matcher.Push("\xc3\xa8"), "\xc3\xa9\xc3\xa8");
}

// The reference: look at the whole text, take the earliest end, then the longest.
Outcome Reference(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops)
      if (text.substr(0, end).ends_with(stop)) longest = std::max(longest, stop.size());
    if (longest > 0) return {text.substr(0, end - longest), true};
  }
  return {text, false};
}

TEST(StopMatcher, AgreesWithASearchOfTheWholeTextHoweverItIsCut) {
  std::mt19937 random(7);
  const auto word = [&](size_t size) {
    std::string text;
    for (size_t i = 0; i < size; ++i) text += static_cast<char>('a' + random() % 2);
    return text;
  };
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = 0, count = random() % 4; i < count; ++i) stops.push_back(word(1 + random() % 7));
    const std::string text = word(random() % 40);
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      pieces.push_back(text.substr(at, 1 + random() % 5));
      at += pieces.back().size();
    }
    ASSERT_EQ(Cut(stops, pieces), Reference(stops, text)) << text;
  }
}

}  // namespace
}  // namespace braid
