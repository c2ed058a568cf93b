#include "gateway/audit.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace braid {
namespace {

AuditRecord Example() {
  return {.received = absl::FromUnixMicros(1'700'000'000'123'456),
          .latency = absl::Microseconds(1500),
          .request_id = "req-1",
          .door = "http",
          .route = "/v1/chat/completions",
          .status = 200,
          .model_digest = "abc",
          .finish_reasons = {"stop", "length"},
          .prompt_tokens = 7,
          .completion_tokens = 9,
          .reasoning_tokens = 2,
          .has_seed = true,
          .seed = 18446744073709551615u};
}

class AuditFile : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/braid_audit_test_XXXXXX";
    folder_ = mkdtemp(name);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path() const { return folder_ + "/audit.jsonl"; }
  std::vector<nlohmann::json> Lines() const {
    std::ifstream in(path());
    std::vector<nlohmann::json> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  std::string folder_;
  Metrics metrics_;
};

TEST(AuditLine, IsOneJsonObject) {
  const std::string line = AuditLine(Example(), 3);
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["sequence"], 3);
  EXPECT_EQ(json["time"], "2023-11-14T22:13:20.123456Z");
  EXPECT_EQ(json["latency_us"], 1500);
  EXPECT_EQ(json["finish_reasons"], (std::vector<std::string>{"stop", "length"}));
  EXPECT_EQ(json["seed"], 18446744073709551615u);
  EXPECT_FALSE(json.contains("error_code"));
}

TEST(AuditLine, CannotBeForgedThroughAnId) {
  AuditRecord record = Example();
  record.request_id = "x\"}\n{\"sequence\":0\x01\xFF";
  const std::string line = AuditLine(record, 1);
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  EXPECT_EQ(nlohmann::json::parse(line)["sequence"], 1);
}

TEST_F(AuditFile, HoldsEveryRecordInOrder) {
  auto audit = Audit::Open(path(), &metrics_);
  ASSERT_TRUE(audit.ok()) << audit.status();
  for (int i = 0; i < 100; ++i) (*audit)->Record(Example());
  audit->reset();
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 100u);
  for (size_t i = 0; i < lines.size(); ++i) EXPECT_EQ(lines[i]["sequence"], i);
}

TEST_F(AuditFile, IsAppendedTo) {
  for (int i = 0; i < 2; ++i) (*Audit::Open(path(), &metrics_))->Record(Example());
  EXPECT_EQ(Lines().size(), 2u);
}

TEST_F(AuditFile, IsForItsOwnerOnly) {
  (*Audit::Open(path(), &metrics_))->Record(Example());
  EXPECT_EQ(std::filesystem::status(path()).permissions() & std::filesystem::perms(0077), std::filesystem::perms::none);
}

TEST_F(AuditFile, ThatCannotBeOpenedIsNamed) {
  const auto audit = Audit::Open(folder_ + "/no/such/folder", &metrics_);
  ASSERT_FALSE(audit.ok());
  EXPECT_NE(std::string(audit.status().message()).find("/no/such/folder"), std::string::npos);
}

TEST(Audit, CountsWhatABrokenDiskLoses) {
  Metrics metrics;
  auto audit = Audit::Open("/dev/full", &metrics);
  ASSERT_TRUE(audit.ok()) << audit.status();
  (*audit)->Record(Example());
  audit->reset();
  EXPECT_NE(metrics.Serialize().find("braid_audit_dropped_total 1"), std::string::npos);
}

}  // namespace
}  // namespace braid
