#include "kernels/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace braid {
namespace {

TEST(ThreadPool, RunsEveryIndexExactlyOnce) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int n : {0, 1, 2, 7, 64, 1000}) {
      std::vector<std::atomic<int>> hits(n);
      pool.ParallelFor(n, 3, [&](int begin, int end) {
        for (int i = begin; i < end; ++i) ++hits[i];
      });
      for (int i = 0; i < n; ++i) ASSERT_EQ(hits[i], 1) << i << " of " << n << " on " << threads;
    }
  }
}

TEST(ThreadPool, HandsOutRangesOfAtLeastTheGrain) {
  ThreadPool pool(4);
  pool.ParallelFor(1003, 10, [&](int begin, int end) { EXPECT_TRUE(end - begin >= 10 || end == 1003); });
}

TEST(ThreadPool, RunsSmallJobsOnTheCaller) {
  ThreadPool pool(4);
  const std::thread::id caller = std::this_thread::get_id();
  pool.ParallelFor(10, 10, [&](int, int) { EXPECT_EQ(std::this_thread::get_id(), caller); });
}

// Threads that come late to a job, of which there are many here, must neither miss nor repeat work of the next.
TEST(ThreadPool, KeepsManyShortJobsApart) {
  ThreadPool pool(8);
  for (int job = 0; job < 3000; ++job) {
    std::atomic<int> sum = 0;
    pool.ParallelFor(1 + job % 9, 1, [&](int begin, int end) { sum += end - begin; });
    ASSERT_EQ(sum, 1 + job % 9);
  }
}

TEST(ThreadPool, IsSeenByTheCallerWhenDone) {
  ThreadPool pool(4);
  std::vector<int> squares(5000);
  pool.ParallelFor(5000, 1, [&](int begin, int end) {
    for (int i = begin; i < end; ++i) squares[i] = i * i;
  });
  for (int i = 0; i < 5000; ++i) ASSERT_EQ(squares[i], i * i);
}

TEST(ThreadPool, EndsWithoutEverWorking) { ThreadPool pool(3); }

}  // namespace
}  // namespace braid
