#include "cli/bench_serve/workload.h"

#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/bench_serve/prompt.h"
#include "cli/bench_serve/server_address.h"

namespace braid {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

TEST(Poisson, IsAFunctionOfTheSeed) {
  EXPECT_EQ(PoissonArrivals(10, 7, 100, Workload::kForever), PoissonArrivals(10, 7, 100, Workload::kForever));
  EXPECT_NE(PoissonArrivals(10, 7, 100, Workload::kForever), PoissonArrivals(10, 8, 100, Workload::kForever));
}

TEST(Poisson, HasTheRateAndTheSpreadOfOne) {
  constexpr size_t kCount = 100'000;
  constexpr double kRate = 20;
  const std::vector<double> arrivals = PoissonArrivals(kRate, 1, kCount, Workload::kForever);
  ASSERT_THAT(arrivals, SizeIs(kCount));
  double sum = 0, squares = 0, last = 0;
  for (double arrival : arrivals) {
    const double gap = arrival - last;
    EXPECT_GE(gap, 0);
    sum += gap;
    squares += gap * gap;
    last = arrival;
  }
  const double mean = sum / kCount, deviation = std::sqrt(squares / kCount - mean * mean);
  EXPECT_NEAR(mean * kRate, 1, 0.02);
  EXPECT_NEAR(deviation * kRate, 1, 0.02);  // an exponential distribution deviates by its mean
}

TEST(Poisson, LimitsCutTheSameSequence) {
  const std::vector<double> all = PoissonArrivals(5, 3, 1000, Workload::kForever);
  const std::vector<double> early = PoissonArrivals(5, 3, SIZE_MAX, 60);
  ASSERT_FALSE(early.empty());
  EXPECT_LT(early.back(), 60);
  EXPECT_EQ(early, std::vector<double>(all.begin(), all.begin() + static_cast<int64_t>(early.size())));
  EXPECT_GE(all[early.size()], 60);
}

TEST(Trace, ReadsCsvAndJsonAndSortsByArrival) {
  const auto trace = ParseTrace(
      "# of a quiet night\r\n"
      "arrival_s,prompt_tokens,output_tokens\r\n"
      "2.5, 100, 20\r\n"
      "\n"
      "{\"prompt_tokens\": 7, \"output_tokens\": 8, \"arrival_s\": 0.5, \"user\": \"x\"}\n"
      "2.5,1,2");
  ASSERT_TRUE(trace.ok()) << trace.status();
  ASSERT_THAT(*trace, SizeIs(3));
  EXPECT_EQ((*trace)[0].arrival_s, 0.5);
  EXPECT_EQ((*trace)[0].size.prompt_tokens, 7);
  EXPECT_EQ((*trace)[0].size.output_tokens, 8);
  EXPECT_EQ((*trace)[1].size.prompt_tokens, 100);  // arrived with the next, stood before it
  EXPECT_EQ((*trace)[2].size.output_tokens, 2);
}

TEST(Trace, NamesTheLineThatIsWrong) {
  for (const char* line : {"1,2", "1,2,3,4", "-1,2,3", "nan,2,3", "1,0,3", "1,2,0", "1,2,x", "{\"arrival_s\":1}",
                           "{\"arrival_s\":1,\"prompt_tokens\":1e99,\"output_tokens\":1}", "{", "[1,2,3]",
                           "1,99999999999,1", "arrival_s,prompt_tokens,output_tokens"}) {
    const auto trace = ParseTrace(std::string("0,1,1\n") + line);
    EXPECT_FALSE(trace.ok()) << line;
    EXPECT_THAT(std::string(trace.status().message()), HasSubstr("line 2")) << line;
  }
  EXPECT_FALSE(ParseTrace("# nothing\n\n").ok());
}

nlohmann::json Prompt(const PromptOptions& options, uint64_t request, int tokens) {
  return nlohmann::json::parse(PromptJson(options, request, tokens));
}

TEST(Prompt, HasIdsOfTheRangeThatFollowFromSeedAndRequest) {
  const PromptOptions options = {.seed = 5, .token_min = 100, .token_max = 108};
  const auto ids = Prompt(options, 0, 1000).get<std::vector<int>>();
  ASSERT_THAT(ids, SizeIs(1000));
  EXPECT_THAT(std::set<int>(ids.begin(), ids.end()), ElementsAre(100, 101, 102, 103, 104, 105, 106, 107));
  EXPECT_EQ(Prompt(options, 0, 1000), nlohmann::json(ids));
  EXPECT_NE(Prompt(options, 1, 1000), nlohmann::json(ids));
  EXPECT_NE(Prompt({.seed = 6, .token_min = 100, .token_max = 108}, 0, 1000), nlohmann::json(ids));
}

TEST(Prompt, SharesThePrefixAndNothingElse) {
  const PromptOptions options = {.token_min = 0, .token_max = 1 << 30, .prefix_tokens = 10};
  const auto a = Prompt(options, 1, 16).get<std::vector<int>>(), b = Prompt(options, 2, 20).get<std::vector<int>>();
  ASSERT_THAT(a, SizeIs(16));
  ASSERT_THAT(b, SizeIs(20));
  for (int i = 0; i < 16; ++i) EXPECT_EQ(a[i] == b[i], i < 10) << i;
  const auto shorter = Prompt(options, 3, 4).get<std::vector<int>>();
  EXPECT_EQ(shorter, std::vector<int>(a.begin(), a.begin() + 4));
}

TEST(Prompt, OfTextHasAsManyWordsAsMakeTheTokens) {
  const auto words = [](const std::string& text) { return 1 + std::count(text.begin(), text.end(), ' '); };
  PromptOptions options = {.kind = PromptKind::kText, .words_per_token = 0.5, .prefix_tokens = 10};
  EXPECT_EQ(words(Prompt(options, 1, 100).get<std::string>()), 50);
  EXPECT_EQ(words(Prompt({.kind = PromptKind::kText, .words_per_token = 0.1}, 1, 1).get<std::string>()), 1);
}

TEST(Body, HasWhatTheServerUnderstandsAndNothingElse) {
  const auto full = nlohmann::json::parse(RequestBody({.model = "m", .temperature = 0.5}, "[1,2]", 3, 4));
  EXPECT_EQ(full, nlohmann::json::parse(R"({"model": "m", "prompt": [1, 2], "max_tokens": 3, "seed": 4, "stream": true,
      "ignore_eos": true, "stream_options": {"include_usage": true}, "return_token_ids": true, "temperature": 0.5})"));
  const auto bare = nlohmann::json::parse(RequestBody(
      {.dialect = {.ignore_eos = false, .include_usage = false, .return_token_ids = false}}, "\"a b\"", 3, 4));
  EXPECT_EQ(bare, nlohmann::json::parse(R"({"prompt": "a b", "max_tokens": 3, "seed": 4, "stream": true})"));
}

TEST(ServerUrl, IsReadInItsUsualForms) {
  const auto url = [](std::string_view text) {
    const auto address = ParseServerUrl(text);
    return address.ok() ? address->Url() : "wrong";
  };
  EXPECT_EQ(url("http://127.0.0.1:8000"), "http://127.0.0.1:8000");
  EXPECT_EQ(url("http://host:8000/v1/"), "http://host:8000");
  EXPECT_EQ(url("http://host/llm/v1"), "http://host:80/llm");
  EXPECT_EQ(url("http://[::1]:9"), "http://[::1]:9");
  EXPECT_EQ(url("http://[::1]"), "http://[::1]:80");
  for (const char* text :
       {"", "host:8000", "https://host", "http://", "http://:80", "http://host:", "http://host:0", "http://host:65536",
        "http://host:8x", "http://a@host", "http://host/x?y", "http://[::1", "http://[::1]x", "http://h/a\r\nb"})
    EXPECT_EQ(url(text), "wrong") << text;
}

}  // namespace
}  // namespace braid
