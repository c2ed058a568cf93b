#include <gtest/gtest.h>

#include <fstream>
#include <thread>

#include "base/bounded_queue.h"
#include "base/check.h"
#include "base/checked.h"
#include "base/dtype.h"
#include "base/human.h"
#include "base/mapped_file.h"
#include "base/status.h"

namespace braid {
namespace {

TEST(CheckedSize, OverflowSticks) {
  EXPECT_EQ((CheckedSize(6) * 7 + 1).value(), 43u);
  EXPECT_FALSE((CheckedSize(uint64_t{1} << 63) * 2).value().has_value());
  EXPECT_FALSE((CheckedSize(uint64_t{1} << 63) * 2 * 0).value().has_value());
  EXPECT_FALSE((CheckedSize(~uint64_t{0}) + 1).AtMost(~uint64_t{0}));
  EXPECT_FALSE(CheckedSize(~uint64_t{0} - 2).AlignUp(32).value().has_value());
  EXPECT_EQ(CheckedSize(33).AlignUp(32).value(), 64u);
}

TEST(DType, NamesRoundTrip) {
  for (DType type : kAllDTypes) EXPECT_EQ(DTypeFromName(Name(type)), type);
  EXPECT_EQ(RowBytes(DType::kQ4_K, 512), 288u);
  EXPECT_FALSE(DTypeFromName("I64").has_value());
}

absl::StatusOr<int> Half(int n) { return n % 2 ? absl::StatusOr<int>(absl::InvalidArgumentError("odd")) : n / 2; }
absl::StatusOr<int> Quarter(int n) {
  ASSIGN_OR_RETURN(const int half, Half(n));
  ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

TEST(StatusMacros, ReturnTheErrorOrGoOn) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_EQ(Quarter(6).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Annotate(absl::NotFoundError("b"), "a").message(), "a: b");
}

TEST(CheckDeathTest, SaysWhereAndWhy) { EXPECT_DEATH(CHECK_EQ(1 + 1, 3) << "sum", "2 vs 3.*sum"); }

TEST(BoundedQueue, RefusesWhenFullAndDrainsWhenClosed) {
  BoundedQueue<int> queue(2);
  EXPECT_TRUE(queue.TryPush(1));
  EXPECT_TRUE(queue.TryPush(2));
  EXPECT_FALSE(queue.TryPush(3));
  queue.Close();
  EXPECT_EQ(queue.Pop(), 1);
  EXPECT_EQ(queue.Pop(), 2);
  EXPECT_EQ(queue.Pop(), std::nullopt);
}

TEST(BoundedQueue, WakesAWaiter) {
  BoundedQueue<int> queue(1);
  std::thread producer([&] { EXPECT_TRUE(queue.TryPush(7)); });
  EXPECT_EQ(queue.Pop(), 7);
  producer.join();
}

TEST(MappedFile, MapsAndRefuses) {
  const std::string path = testing::TempDir() + "/mapped_file_test";
  std::ofstream(path) << "braid";
  auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->bytes().size(), 5u);
  EXPECT_EQ(static_cast<char>((*file)->bytes()[4]), 'd');
  EXPECT_EQ(MappedFile::Open(path + "-missing").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(MappedFile::Open(testing::TempDir()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Human, ReadsBytesTheWayPeopleDo) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(999), "999 B");
  EXPECT_EQ(HumanBytes(1000), "1.00 kB");
  EXPECT_EQ(HumanBytes(12345), "12.3 kB");
  EXPECT_EQ(HumanBytes(999'900), "1.00 MB");
  EXPECT_EQ(HumanBytes(4'734'976'000), "4.73 GB");
  EXPECT_EQ(HumanQuantity(8'467'856'128), "8.47 B");
}

}  // namespace
}  // namespace braid
