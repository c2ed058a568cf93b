#include "router/link_watch.h"

#include <gtest/gtest.h>

#include <vector>

namespace braid {
namespace {

v1::Heartbeat Beat(uint64_t phase, std::vector<uint32_t> waiting_for) {
  v1::Heartbeat beat;
  beat.set_epoch(1);
  beat.set_phase(phase);
  beat.mutable_waiting_for()->Add(waiting_for.begin(), waiting_for.end());
  return beat;
}

class LinkWatchTest : public ::testing::Test {
 protected:
  // Looks every 500 ms for as long as `seconds`; what was found, if anything.
  std::optional<std::pair<int, int>> Look(const std::vector<v1::Heartbeat>& beats, int seconds) {
    std::vector<const v1::Heartbeat*> pointers;
    for (const v1::Heartbeat& beat : beats) pointers.push_back(&beat);
    for (int i = 0; i <= 2 * seconds; ++i) {
      if (auto cut = watch_.Look(pointers, now_)) return cut;
      now_ += absl::Milliseconds(500);
    }
    return std::nullopt;
  }
  LinkWatch watch_{absl::Seconds(2)};
  absl::Time now_ = absl::UnixEpoch();
};

TEST_F(LinkWatchTest, FindsTwoThatWaitForEachOther) {
  EXPECT_EQ(Look({Beat(7, {1}), Beat(7, {0})}, 2), std::pair(0, 1));
}

TEST_F(LinkWatchTest, FindsALinkThatIsCutInOneDirection) {
  EXPECT_EQ(Look({Beat(7, {2}), Beat(7, {2}), Beat(8, {0})}, 2), std::pair(0, 2));
}

TEST_F(LinkWatchTest, APeerThatComputesIsNotAccused) { EXPECT_EQ(Look({Beat(7, {1}), Beat(6, {})}, 60), std::nullopt); }

TEST_F(LinkWatchTest, AnExchangeThatGoesOnIsNotAccused) {
  for (uint64_t phase = 1; phase < 50; ++phase) {
    EXPECT_EQ(Look({Beat(phase, {1}), Beat(phase, {0})}, 1), std::nullopt);
  }
}

TEST_F(LinkWatchTest, NonsenseIsIgnored) { EXPECT_EQ(Look({Beat(7, {0, 9, ~0u}), Beat(7, {1})}, 5), std::nullopt); }

}  // namespace
}  // namespace braid
