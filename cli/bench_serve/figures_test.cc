#include "cli/bench_serve/figures.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "cli/bench_serve/report.h"

namespace braid {
namespace {

using ::testing::DoubleEq;
using ::testing::DoubleNear;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Percentile, InterpolatesBetweenTheNearestTwo) {
  const std::vector<double> values = {1, 2, 4, 8};
  EXPECT_EQ(Percentile(values, 0), 1);
  EXPECT_EQ(Percentile(values, 1), 8);
  EXPECT_EQ(Percentile(values, 0.5), 3);
  EXPECT_THAT(Percentile(values, 0.9), DoubleEq(6.8));
  EXPECT_EQ(Percentile({5}, 0.99), 5);
}

TEST(Describe, OfNothingIsNothing) {
  EXPECT_EQ(Describe({}).count, 0u);
  const Distribution some = Describe({3, 1, 2});
  EXPECT_EQ(some.count, 3u);
  EXPECT_EQ(some.mean, 2);
  EXPECT_EQ(some.p50, 2);
  EXPECT_EQ(some.max, 3);
}

// One token each at these times.
RequestRecord Answer(double scheduled_s, const std::vector<double>& token_times_s) {
  RequestRecord record = {.output_tokens_asked = static_cast<int>(token_times_s.size()),
                          .scheduled_s = scheduled_s,
                          .sent_s = scheduled_s + 0.001,
                          .prompt_tokens = 10,
                          .output_tokens = static_cast<int>(token_times_s.size()),
                          .tokens_by_server = true,
                          .http_status = 200};
  for (double at_s : token_times_s) record.arrivals.push_back({at_s, 1});
  record.ended_s = record.arrivals.back().at_s;
  return record;
}

RequestRecord Failure(double scheduled_s, double ended_s, const std::string& kind) {
  return {.scheduled_s = scheduled_s, .ended_s = ended_s, .error = kind, .error_detail = "because"};
}

TEST(Figures, CountLatenciesFromTheScheduleAndGapsBetweenArrivals) {
  const LoadFigures figures = Summarize({Answer(1, {1.5, 1.6, 1.8}), Answer(2, {2.1})}, {}, 0);
  EXPECT_EQ(figures.ttft_ms.count, 2u);
  EXPECT_THAT(figures.ttft_ms.mean, DoubleNear(300, 1e-6));
  EXPECT_EQ(figures.itl_ms.count, 2u);
  EXPECT_THAT(figures.itl_ms.max, DoubleNear(200, 1e-6));
  EXPECT_EQ(figures.tpot_ms.count, 1u);  // a single token has no time per token
  EXPECT_THAT(figures.tpot_ms.mean, DoubleNear(150, 1e-6));
  EXPECT_THAT(figures.end_to_end_ms.max, DoubleNear(800, 1e-6));
  EXPECT_THAT(figures.send_delay_ms.p50, DoubleNear(1, 1e-6));
  EXPECT_THAT(figures.duration_s, DoubleNear(1.1, 1e-9));
  EXPECT_THAT(figures.output_tokens_per_s, DoubleNear(4 / 1.1, 1e-6));
  EXPECT_THAT(figures.total_tokens_per_s, DoubleNear(24 / 1.1, 1e-6));
}

TEST(Figures, TokensThatComeTogetherHaveNoGap) {
  RequestRecord record = Answer(0, {1, 2});
  record.arrivals[1].tokens = 4;
  record.output_tokens = 5;
  const LoadFigures figures = Summarize({record}, {}, 0);
  EXPECT_EQ(figures.itl_ms.count, 1u);
  EXPECT_THAT(figures.tpot_ms.mean, DoubleNear(250, 1e-6));
  EXPECT_THAT(figures.tokens_per_arrival, DoubleNear(2.5, 1e-9));
}

TEST(Figures, FailuresAreCountedByKindAndHaveNoLatency) {
  RequestRecord cut = Answer(0, {0.1, 0.2});
  cut.error = "truncated";
  const LoadFigures figures =
      Summarize({Answer(0, {0.5, 1}), cut, Failure(0, 1, "http 429"), Failure(0, 2, "http 429")}, {}, 0);
  EXPECT_EQ(figures.requests, 4u);
  EXPECT_EQ(figures.completed, 1u);
  EXPECT_EQ(figures.failed, 3u);
  EXPECT_EQ(figures.errors.at("http 429").count, 2u);
  EXPECT_EQ(figures.errors.at("http 429").example, "because");
  EXPECT_EQ(figures.errors.at("truncated").count, 1u);
  EXPECT_EQ(figures.ttft_ms.count, 1u);
  EXPECT_EQ(figures.output_tokens, 4);  // those of the truncated answer did come
  EXPECT_EQ(figures.duration_s, 2);
}

TEST(Goodput, NeedsEveryLimitKeptAndACompleteAnswer) {
  const RequestRecord answer = Answer(1, {1.2, 1.25, 1.35});
  EXPECT_TRUE(KeepsLimits(answer, {}));
  EXPECT_TRUE(KeepsLimits(answer, {.ttft_ms = 201}));
  EXPECT_FALSE(KeepsLimits(answer, {.ttft_ms = 199}));
  EXPECT_TRUE(KeepsLimits(answer, {.itl_ms = 101}));
  EXPECT_FALSE(KeepsLimits(answer, {.itl_ms = 90}));
  EXPECT_FALSE(KeepsLimits(answer, {.ttft_ms = 199, .itl_ms = 101}));
  EXPECT_TRUE(KeepsLimits(Answer(1, {1.1}), {.itl_ms = 1}));  // a single token has no gap
  RequestRecord failed = answer;
  failed.error = "timeout";
  EXPECT_FALSE(KeepsLimits(failed, {.ttft_ms = 1000}));

  const LoadFigures figures = Summarize({answer, Answer(1, {3, 3.1}), failed, Answer(0, {0.1})}, {.ttft_ms = 250}, 0);
  EXPECT_EQ(figures.within_limits, 2u);
  EXPECT_EQ(figures.goodput_share, 0.5);
  EXPECT_THAT(figures.goodput_per_s, DoubleNear(2 / 3.1, 1e-6));
}

TEST(FullLoad, LeavesOutTheRampsAtBothEnds) {
  // Two clients. The second has its first token at 2; the last request starts at 4, as the first answer ends.
  const std::vector<RequestRecord> records = {Answer(0, {1, 2, 3, 4}), Answer(0, {2, 3, 4, 5}), Answer(4, {5, 6, 7})};
  const LoadFigures figures = Summarize(records, {}, 2);
  EXPECT_EQ(figures.full_s, 2);                     // from 2 to 4
  EXPECT_EQ(figures.full_output_tokens_per_s, 2);   // 3, 4 and 3, 4
  EXPECT_EQ(Summarize(records, {}, 0).full_s, 0);   // an open loop has no such time
  EXPECT_EQ(Summarize(records, {}, 10).full_s, 0);  // nor has a loop with more clients than requests
  EXPECT_EQ(Summarize({Failure(0, 1, "connect")}, {}, 1).full_output_tokens_per_s, 0);
}

TEST(Report, OfNothingButFailuresIsSound) {
  const LoadFigures figures = Summarize({Failure(0, 1, "connect")}, {.ttft_ms = 5}, 1);
  const LoadSetting setting = {.url = "http://h:1", .concurrency = 1, .limits = {.ttft_ms = 5}};
  EXPECT_THAT(LoadTable(setting, figures), HasSubstr("failed: 1 x connect, such as: because"));
  const auto json = nlohmann::json::parse(LoadJson(setting, figures, nullptr));
  EXPECT_EQ(json["errors"]["connect"]["count"], 1);
  EXPECT_FALSE(json.contains("requests"));
  EXPECT_THAT(LoadTable({}, Summarize({}, {}, 1)), HasSubstr("0 requests"));
}

TEST(Report, ListsRecordsWhenAsked) {
  std::vector<RequestRecord> records = {Answer(0, {1, 2}), Failure(0, 1, "error event")};
  records[1].error_detail = "\xff";  // not UTF-8
  const auto json = nlohmann::json::parse(LoadJson({}, Summarize(records, {}, 0), &records));
  EXPECT_EQ(json["requests"].size(), 2u);
  EXPECT_EQ(json["requests"][0]["arrivals"], nlohmann::json::parse("[[1.0, 1], [2.0, 1]]"));
  EXPECT_FALSE(json["requests"][0].contains("error"));
  EXPECT_EQ(json["requests"][1]["error"]["kind"], "error event");
}

TEST(Report, SaysWhatTheFiguresDoNotShow) {
  RequestRecord record = Answer(0, {1, 2});
  EXPECT_THAT(LoadTable({.concurrency = 1}, Summarize({record}, {}, 1)), Not(HasSubstr("note")));
  record.tokens_by_server = false;
  record.output_tokens_asked = 5;
  record.sent_s = 0.5;
  const std::string table = LoadTable({}, Summarize({record}, {}, 0));
  EXPECT_THAT(table, HasSubstr("does not count tokens"));
  EXPECT_THAT(table, HasSubstr("ended before their length"));
  EXPECT_THAT(table, HasSubstr("too busy"));
  EXPECT_THAT(table, HasSubstr("scheduled arrival"));
}

}  // namespace
}  // namespace braid
