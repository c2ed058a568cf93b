// What the emulator does, and what it says about kernels that are wrong.

#include "tests/cuda_emulator/simt.h"

#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/ptx_async_copy.h"
#include "kernels/cuda/ptx_mma.h"
#include "kernels/cuda/reduce.h"
#include "tests/cuda_emulator/global_array.h"

namespace simt {
namespace {

using braid::gpu::kAllLanes;
using braid::gpu::Launch;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

// Runs one kernel of up to a few blocks under a seed.
template <typename... P, typename... A>
void RunKernel(uint64_t seed, void (*kernel)(P...), int blocks, int threads, const A&... args) {
  SetSeed(seed);
  ASSERT_EQ(Launch(kernel, dim3(blocks), dim3(threads), 0, nullptr, args...), cudaSuccess);
}

// The error that every seed finds, of one of two blocks.
template <typename... P, typename... A>
std::string ErrorOf(ErrorKind kind, void (*kernel)(P...), int threads, const A&... args) {
  std::string message;
  for (uint64_t seed : Seeds()) {
    SetSeed(seed);
    try {
      Launch(kernel, dim3(2), dim3(threads), 0, nullptr, args...);
      ADD_FAILURE() << "no error under seed " << seed;
    } catch (const Error& error) {
      message = error.what();
      EXPECT_EQ(error.kind(), kind) << message;
      EXPECT_THAT(message, HasSubstr("seed " + std::to_string(seed)));
      EXPECT_THAT(message, ContainsRegex("of the launch at .*simt_test.cc:[0-9]+, seed"));
      EXPECT_THAT(message, MatchesRegex("[^ ]*simt_test.cc:[0-9]+: .*"));
    }
  }
  return message;
}

std::string Line(int line) { return "simt_test.cc:" + std::to_string(line); }

// ---- Launches.

__global__ void WriteIndices(int* out) {
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

TEST(Launch, RunsEveryThreadOfEveryBlockOnce) {
  for (uint64_t seed : Seeds()) {
    SetSeed(seed);
    GlobalArray<int> out(6 * 64);
    Launch(WriteIndices, dim3(2, 1, 3), dim3(8, 4, 2), 0, nullptr, out.data());
    for (int i = 0; i < 6 * 64; ++i) ASSERT_EQ(out[i], i / 64 * 1000 + i % 64);
  }
}

TEST(Launch, HasMoreBlocksThanThereAreSlotsOfSharedMemory) {
  GlobalArray<int> out(300 * 32);
  RunKernel(2, WriteIndices, 300, 32, out.data());
  for (int i = 0; i < 300 * 32; ++i) ASSERT_EQ(out[i], i / 32 * 1000 + i % 32);
}

__global__ void LogBlocks(int* log, int* length) {
  if (threadIdx.x == 0) log[atomicAdd(length, 1)] = blockIdx.x;
}

std::vector<int> BlockOrder(uint64_t seed) {
  GlobalArray<int> log(8), length(std::vector<int>{0});
  RunKernel(seed, LogBlocks, 8, 32, log.data(), length.data());
  return log.values();
}

TEST(Launch, OrdersBlocksBySeed) {
  EXPECT_EQ(BlockOrder(0), (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(BlockOrder(1), (std::vector<int>{7, 6, 5, 4, 3, 2, 1, 0}));
  EXPECT_NE(BlockOrder(2), BlockOrder(4));
  EXPECT_EQ(BlockOrder(2), BlockOrder(2));
}

__global__ void LogThreads(int* log, int* length) {
  for (int i = 0; i < 3; ++i) {
    log[atomicAdd(length, 1)] = threadIdx.x;
    __syncthreads();
  }
}

std::vector<int> ThreadOrder(uint64_t seed) {
  GlobalArray<int> log(64 * 3), length(std::vector<int>{0});
  RunKernel(seed, LogThreads, 1, 64, log.data(), length.data());
  return log.values();
}

TEST(Launch, OrdersThreadsBySeed) {
  std::vector<int> ascending(64);
  std::iota(ascending.begin(), ascending.end(), 0);
  const std::vector<int> first = ThreadOrder(0), last = ThreadOrder(1);
  EXPECT_TRUE(std::equal(ascending.begin(), ascending.end(), first.begin()));
  EXPECT_TRUE(std::equal(ascending.rbegin(), ascending.rend(), last.begin()));
  std::set<std::vector<int>> orders;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    orders.insert(ThreadOrder(seed));
    EXPECT_EQ(ThreadOrder(seed), ThreadOrder(seed)) << seed;
  }
  EXPECT_EQ(orders.size(), 10u);
  // By priority, a warp goes as far as it can: all of it is there before the other starts.
  const std::vector<int> by_priority = ThreadOrder(3);
  for (int i = 1; i < 32; ++i) EXPECT_EQ(by_priority[i] / 32, by_priority[0] / 32);
}

__global__ void Nothing() {}
__global__ void BoundedBy64() { LAUNCH_BOUNDS(64); }

template <typename Function>
std::string LaunchError(Function launch) {
  try {
    launch();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kLaunch);
    return error.what();
  }
  return "no error";
}

TEST(Launch, IsRefusedBeyondTheLimits) {
  const auto launch = [](dim3 grid, dim3 block, size_t shared) {
    return LaunchError([&] { Launch(Nothing, grid, block, shared, nullptr); });
  };
  EXPECT_EQ(launch(dim3(1), dim3(64), 48 << 10), "no error");
  EXPECT_THAT(launch(dim3(0), dim3(32), 0), HasSubstr("a grid of (0, 1, 1)"));
  EXPECT_THAT(launch(dim3(1, 65536), dim3(32), 0), HasSubstr("a grid of (1, 65536, 1)"));
  EXPECT_THAT(launch(dim3(1), dim3(1056), 0), HasSubstr("a block of (1056, 1, 1)"));
  EXPECT_THAT(launch(dim3(1), dim3(48), 0), HasSubstr("whole warps"));
  EXPECT_THAT(launch(dim3(1), dim3(32), (48 << 10) + 1), HasSubstr("AllowSharedBytes said 49152"));
  braid::gpu::AllowSharedBytes(Nothing, 100 << 10);
  EXPECT_EQ(launch(dim3(1), dim3(32), 100 << 10), "no error");
  EXPECT_THAT(LaunchError([] { braid::gpu::AllowSharedBytes(Nothing, 228 << 10); }), HasSubstr("at most 232448"));
  EXPECT_THAT(LaunchError([] { braid::gpu::AllowSharedBytes(Nothing, 99 << 10); }),
              HasSubstr("101376, after 102400 for others"));
  EXPECT_THAT(LaunchError([] { Launch(BoundedBy64, dim3(1), dim3(96), 0, nullptr); }),
              HasSubstr("launch bounds say 64"));
}

std::vector<std::pair<LaunchConfig, Body>> taken;

TEST(Launch, GoesToWhoeverPlaysStreams) {
  SetTakeLaunch([](const LaunchConfig& config, Body body) {
    taken.emplace_back(config, std::move(body));
    return cudaErrorNotReady;
  });
  GlobalArray<int> out(32);
  const cudaStream_t stream = reinterpret_cast<cudaStream_t>(out.data());  // any address
  EXPECT_EQ(Launch(WriteIndices, dim3(1), dim3(32), 0, stream, out.data()), cudaErrorNotReady);
  SetTakeLaunch(nullptr);
  ASSERT_EQ(taken.size(), 1u);
  EXPECT_EQ(taken[0].first.stream.stream, stream);
  EXPECT_NE(out[31], 31);
  simt::Run(taken[0].first, taken[0].second);
  EXPECT_EQ(out[31], 31);
}

// ---- Barriers.

__global__ void Rotate(int* out, int rounds) {
  SHARED_ARRAY(int, ring, 96);
  ring[threadIdx.x] = threadIdx.x;
  for (int i = 0; i < rounds; ++i) {
    __syncthreads();
    const int next = ring[(threadIdx.x + 1) % 96];
    __syncthreads();
    ring[threadIdx.x] = next;
  }
  out[threadIdx.x] = ring[threadIdx.x];
}

TEST(Barrier, SeparatesWhatIsBeforeFromWhatIsAfter) {
  for (uint64_t seed : Seeds()) {
    GlobalArray<int> out(96);
    RunKernel(seed, Rotate, 1, 96, out.data(), 20);
    for (int i = 0; i < 96; ++i) ASSERT_EQ(out[i], (i + 20) % 96);
  }
}

TEST(Launch, MayComeFromManyThreads) {
  SetSeed(3);
  GlobalArray<int> out(4 * 96);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&out, t] {
      for (int i = 0; i < 5; ++i) {
        const cudaStream_t stream = reinterpret_cast<cudaStream_t>(static_cast<uintptr_t>(t + 1));
        Launch(Rotate, dim3(1), dim3(96), 0, stream, out.data() + t * 96, i);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 4 * 96; ++i) ASSERT_EQ(out[i], (i % 96 + 4) % 96);
}

__global__ void CountOdd(int* out) {
  const int odd = threadIdx.x % 2;
  const int count = __syncthreads_count(odd), all = __syncthreads_and(odd), any = __syncthreads_or(odd);
  out[threadIdx.x] = count * 100 + all * 10 + any;
}

TEST(Barrier, CountsVotes) {
  for (uint64_t seed : Seeds()) {
    GlobalArray<int> out(64);
    RunKernel(seed, CountOdd, 1, 64, out.data());
    EXPECT_EQ(out.values(), std::vector<int>(64, 3201));
  }
}

constexpr int kDivergentLine = __LINE__ + 3;
__global__ void DivergentBarrier() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

TEST(Barrier, IsReportedWhenDivergent) {
  const std::string message = ErrorOf(ErrorKind::kDivergentBarrier, DivergentBarrier, 64);
  EXPECT_THAT(message, HasSubstr("divergent barrier: thread "));
  EXPECT_THAT(message, HasSubstr(Line(kDivergentLine)));
  EXPECT_THAT(message, HasSubstr(Line(kDivergentLine + 2)));
}

constexpr int kExitLine = __LINE__ + 3;
__global__ void ExitBeforeBarrier() {
  if (threadIdx.x == 5) return;
  __syncthreads();
}

TEST(Barrier, IsReportedWhenAThreadHasReturned) {
  EXPECT_THAT(ErrorOf(ErrorKind::kExited, ExitBeforeBarrier, 64), HasSubstr(Line(kExitLine)));
}

constexpr int kDeadlockLine = __LINE__ + 4;
__global__ void Deadlock() {
  const unsigned even = 0x55555555u;
  if (threadIdx.x % 2 == 0) {
    __syncwarp(even | 2);
  } else {
    __syncthreads();
  }
}

TEST(Barrier, IsReportedWhenEverybodyWaits) {
  const std::string message = ErrorOf(ErrorKind::kDeadlock, Deadlock, 32);
  EXPECT_THAT(message, ContainsRegex("16 threads at __syncwarp .*" + Line(kDeadlockLine) + ": 0 2 4 6 8 10 12 14 .."));
  EXPECT_THAT(message, ContainsRegex("16 threads at the barrier .*" + Line(kDeadlockLine + 2) + ": 1 3 5"));
}

constexpr int kSpinLine = __LINE__ + 4;
__global__ void SpinForever(int* flag) {
  if (threadIdx.x == 0) {
    while (atomicAdd(flag, 0) == 0) {
      __nanosleep(100);
    }
  }
  __syncthreads();
}

TEST(Spinning, IsReportedWhenNothingElseCanHappen) {
  GlobalArray<int> flag(std::vector<int>{0});
  const std::string message = ErrorOf(ErrorKind::kLivelock, SpinForever, 32, flag.data());
  EXPECT_THAT(message, ContainsRegex("1 threads at the spinning loop .*" + Line(kSpinLine) + ": 0"));
  EXPECT_THAT(message, HasSubstr("31 threads at the barrier"));
}

__global__ void PassOn(int* turn, int* out) {
  while (atomicAdd(turn, 0) != static_cast<int>(blockDim.x - 1 - threadIdx.x)) __nanosleep(10);
  out[threadIdx.x] = threadIdx.x;
  atomicAdd(turn, 1);
}

TEST(Spinning, LetsOthersGoOn) {
  for (uint64_t seed : Seeds()) {
    GlobalArray<int> turn(std::vector<int>{0}), out(64);
    RunKernel(seed, PassOn, 1, 64, turn.data(), out.data());
    for (int i = 0; i < 64; ++i) ASSERT_EQ(out[i], i);
  }
}

// ---- Warps.

__global__ void Shuffles(int* out) {
  const int i = threadIdx.x;
  int* mine = out + i * 8;
  mine[0] = __shfl_sync(kAllLanes, i, 5);
  mine[1] = __shfl_sync(kAllLanes, i, i + 1, 8);
  mine[2] = __shfl_up_sync(kAllLanes, i, 3);
  mine[3] = __shfl_down_sync(kAllLanes, i, 3, 16);
  mine[4] = __shfl_xor_sync(kAllLanes, i, 9);
  mine[5] = static_cast<int>(__shfl_sync(kAllLanes, i * 1e10, 2) / 1e10);
  mine[6] = __reduce_add_sync(kAllLanes, i) + __reduce_max_sync(kAllLanes, -i) * 1000;
  mine[7] = __popc(__match_any_sync(kAllLanes, i / 3));
}

TEST(Warp, Shuffles) {
  for (uint64_t seed : Seeds()) {
    GlobalArray<int> out(32 * 8);
    RunKernel(seed, Shuffles, 1, 32, out.data());
    for (int i = 0; i < 32; ++i) {
      const int* mine = out.data() + i * 8;
      ASSERT_EQ(mine[0], 5);
      ASSERT_EQ(mine[1], i / 8 * 8 + (i + 1) % 8);
      ASSERT_EQ(mine[2], i < 3 ? i : i - 3);
      ASSERT_EQ(mine[3], i % 16 + 3 < 16 ? i + 3 : i);
      ASSERT_EQ(mine[4], i ^ 9);
      ASSERT_EQ(mine[5], 2);
      ASSERT_EQ(mine[6], 496);
      ASSERT_EQ(mine[7], i < 30 ? 3 : 2);
    }
  }
}

__global__ void Divergent(unsigned* out) {
  const unsigned odd = 0xAAAAAAAAu;
  if (threadIdx.x % 2 == 1) {
    out[threadIdx.x] = __ballot_sync(odd, threadIdx.x > 16) + __any_sync(odd, threadIdx.x == 3);
  } else {
    out[threadIdx.x] = __ballot_sync(~odd, threadIdx.x > 16) + __all_sync(~odd, threadIdx.x < 30);
  }
}

TEST(Warp, DivergesAndVotesByMask) {
  for (uint64_t seed : Seeds()) {
    GlobalArray<unsigned> out(32);
    RunKernel(seed, Divergent, 1, 32, out.data());
    for (int i = 0; i < 32; ++i) ASSERT_EQ(out[i], i % 2 == 1 ? 0xAAAA0000u + 1 : 0x55540000u);
  }
}

// Lanes that go on at once meet others, again and again, before the first have looked: each meeting is its own.
__global__ void ManyMeetings(int* out) {
  SHARED_ARRAY(int, words, 32);
  const int lane = threadIdx.x;
  words[lane] = lane;
  const unsigned pair = 3u << (lane & ~1);
  for (int i = 0; i < 50; ++i) {
    __syncwarp(pair);
    const int other = words[lane ^ 1];
    __syncwarp(pair);
    words[lane] = other + 1;
    __syncwarp(1u << lane);
  }
  __syncwarp();
  out[lane] = words[31 - lane];
}

TEST(Warp, MeetsInPairs) {
  for (uint64_t seed : Seeds()) {
    GlobalArray<int> out(32);
    RunKernel(seed, ManyMeetings, 1, 32, out.data());
    for (int i = 0; i < 32; ++i) ASSERT_EQ(out[i], 31 - i + 50);
  }
}

__global__ void NotInItsMask() { __syncwarp(0xFFFF); }
__global__ void OtherMask() {
  __shfl_xor_sync(threadIdx.x == 7 ? kAllLanes : kAllLanes - 1 + (threadIdx.x == 0), 1, 1);
}
__global__ void OtherLine() {
  if (threadIdx.x < 16) {
    __shfl_sync(kAllLanes, 1, 0);
  } else {
    __shfl_sync(kAllLanes, 1, 0);
  }
}
__global__ void OtherOperation() { threadIdx.x < 16 ? (void)__shfl_sync(kAllLanes, 1, 0) : __syncwarp(); }
__global__ void FromOutside() {
  if (threadIdx.x < 8) __shfl_down_sync(0xFF, 1, 1);
}
__global__ void LaneReturns() {
  if (threadIdx.x == 9) return;
  __syncwarp();
}

TEST(Warp, ReportsWhatIsUndefined) {
  EXPECT_THAT(ErrorOf(ErrorKind::kBadMask, NotInItsMask, 32), HasSubstr("not in its mask 0000ffff"));
  EXPECT_THAT(ErrorOf(ErrorKind::kMismatch, OtherMask, 32), HasSubstr("meets lane"));
  EXPECT_THAT(ErrorOf(ErrorKind::kMismatch, OtherLine, 32), HasSubstr("__shfl_sync meets lane"));
  EXPECT_THAT(ErrorOf(ErrorKind::kMismatch, OtherOperation, 32), HasSubstr("meets lane"));
  EXPECT_THAT(ErrorOf(ErrorKind::kInactiveLane, FromOutside, 32),
              HasSubstr("lane 7 reads lane 8, which is not in the mask 000000ff"));
  EXPECT_THAT(ErrorOf(ErrorKind::kExited, LaneReturns, 32), HasSubstr("__syncwarp"));
}

TEST(Launch, GoesOnAfterAnError) {
  ErrorOf(ErrorKind::kExited, LaneReturns, 32);
  GlobalArray<int> out(96);
  RunKernel(0, Rotate, 1, 96, out.data(), 3);
  EXPECT_EQ(out[0], 3);
}

// ---- Memory.

__global__ void ReadUnwritten(float* out) {
  SHARED_ARRAY(float, never_written, 32);
  out[threadIdx.x] = never_written[threadIdx.x];
}

TEST(SharedMemory, HoldsNoNumbersAtFirst) {
  GlobalArray<float> out(32);
  RunKernel(0, ReadUnwritten, 1, 32, out.data());
  EXPECT_TRUE(std::isnan(out[7]));
  RunKernel(1, ReadUnwritten, 1, 32, out.data());
  EXPECT_GT(std::abs(out[7]), 2e38f);
  EXPECT_FALSE(std::isnan(out[7]));
}

template <int kTimes>
__device__ int* ArrayOfItsOwn() {
  SHARED_ARRAY(int, own, 8 * kTimes);
  return own;
}
__global__ void OneForTheBlock(int* out) {
  int* a = ArrayOfItsOwn<1>();
  int* b = ArrayOfItsOwn<2>();
  if (threadIdx.x == 40) a[0] = 1, b[0] = 2;
  __syncthreads();
  out[threadIdx.x] = ArrayOfItsOwn<1>()[0] * 10 + ArrayOfItsOwn<2>()[0];
}

TEST(SharedMemory, IsOneForTheBlockAndEachInstanceOfATemplate) {
  for (uint64_t seed : Seeds()) {
    GlobalArray<int> out(64);
    RunKernel(seed, OneForTheBlock, 1, 64, out.data());
    EXPECT_EQ(out.values(), std::vector<int>(64, 12));
  }
}

__global__ void TwoPieces(int* out, int n, int m) {
  braid::gpu::DynShared shared;
  int* a = shared.Take<int>(n);
  short* b = shared.Take<short>(m);
  for (int i = threadIdx.x; i < n; i += 32) a[i] = i;
  for (int i = threadIdx.x; i < m; i += 32) b[i] = 2;
  __syncwarp();
  out[threadIdx.x] = a[n - 1] + b[m - 1];
}
__global__ void UnequalPieces() {
  braid::gpu::DynShared shared;
  shared.Take<float>(threadIdx.x == 3 ? 5 : 4);
}

TEST(SharedMemory, ComesInPieces) {
  using braid::gpu::DynSharedBytes;
  GlobalArray<int> out(32);
  const size_t bytes = DynSharedBytes<int>(5) + DynSharedBytes<short>(7);
  EXPECT_EQ(bytes, 48u);
  Launch(TwoPieces, dim3(1), dim3(32), bytes, nullptr, out.data(), 5, 7);
  EXPECT_EQ(out[31], 6);
  try {
    Launch(TwoPieces, dim3(1), dim3(32), bytes - 1, nullptr, out.data(), 5, 7);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kSharedMemory);
    EXPECT_THAT(error.what(), HasSubstr("takes 48 bytes of dynamic shared memory, the launch gave 47"));
  }
  try {
    Launch(UnequalPieces, dim3(1), dim3(32), 64, nullptr);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("piece 0 of dynamic shared memory is of"));
  }
}

__global__ void TooMuchShared() {
  SHARED_ARRAY(char, first, 40 << 10);
  SHARED_ARRAY(char, second, 9 << 10);
  first[0] = second[0] = 0;
}

__global__ void HasStaticToo() {
  SHARED_ARRAY(char, few, 32);
  few[threadIdx.x] = 0;
}

TEST(SharedMemory, IsBounded) {
  EXPECT_THAT(ErrorOf(ErrorKind::kSharedMemory, TooMuchShared, 32), HasSubstr("at most 49152 fit"));
  // Static arrays and what the launch gives share what there is, whether more was allowed or not.
  const auto launch = [](size_t bytes) {
    try {
      Launch(HasStaticToo, dim3(1), dim3(32), bytes, nullptr);
      return std::string("no error");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kSharedMemory);
      return std::string(error.what());
    }
  };
  EXPECT_EQ(launch((48 << 10) - 32), "no error");
  EXPECT_THAT(launch((48 << 10) - 16), HasSubstr("32 bytes static, 49136 dynamic in 1 arrays: more than the 49152"));
  braid::gpu::AllowSharedBytes(HasStaticToo, (227 << 10) - 32);
  EXPECT_EQ(launch((227 << 10) - 32), "no error");
  braid::gpu::AllowSharedBytes(HasStaticToo, (227 << 10) - 16);
  EXPECT_THAT(launch(64), HasSubstr("more than the 232448 of a block"));
}

constexpr int kOverrunLine = __LINE__ + 2;
__global__ void WriteBesideShared(int at) {
  SHARED_ARRAY(float, row, 32);
  row[threadIdx.x] = 0;
  if (threadIdx.x == 0) row[at] = 1;
}
__global__ void WriteOne(int* out, int at) {
  if (threadIdx.x == 0) out[at] = 1;
}

#ifdef __SANITIZE_ADDRESS__
TEST(Overruns, AreReportedWithTheirLine) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  GlobalArray<int> out(5);
  EXPECT_DEATH(RunKernel(0, WriteBesideShared, 1, 32, 32), "(use-after-poison|index 32 out of bounds)");
  EXPECT_DEATH(RunKernel(0, WriteOne, 1, 32, out.data(), 5), "use-after-poison(.|\n)*WriteOne");
  EXPECT_DEATH(RunKernel(0, WriteOne, 1, 32, out.data(), -1), "use-after-poison(.|\n)*WriteOne");
}
#else
TEST(Overruns, AreFoundWhenTheKernelIsOver) {
  EXPECT_THAT(ErrorOf(ErrorKind::kSharedOverrun, WriteBesideShared, 32, 32),
              HasSubstr(Line(kOverrunLine) + ": written beside row, of 128 bytes"));
  ErrorOf(ErrorKind::kSharedOverrun, WriteBesideShared, 32, -1);
  for (int at : {-1, 5}) {
    GlobalArray<int> out(5);
    try {
      RunKernel(0, WriteOne, 1, 32, out.data(), at);
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kGlobalOverrun);
      EXPECT_THAT(error.what(), HasSubstr("wrote beside a GlobalArray of 20 bytes, seed 0"));
    }
  }
}
#endif

__global__ void Misaligned(const float* x) { braid::gpu::LoadVec<4>(x + threadIdx.x); }

TEST(Memory, IsReadAndWrittenInAlignedVectors) {
  GlobalArray<float> x(64);
  EXPECT_THAT(ErrorOf(ErrorKind::kMisaligned, Misaligned, 32, x.data()), HasSubstr("a vector of 16 bytes at 0x"));
}

__global__ void Histogram(const int* keys, int* counts, float* sum) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&counts[keys[i]], 1);
  atomicAdd(sum, 0.5f);
  atomicMax(&counts[4], i);
}

TEST(Atomics, LoseNothing) {
  std::vector<int> keys(128);
  for (int i = 0; i < 128; ++i) keys[i] = i % 4;
  for (uint64_t seed : Seeds()) {
    GlobalArray<int> from(keys), counts(std::vector<int>(5));
    GlobalArray<float> sum(std::vector<float>{0});
    RunKernel(seed, Histogram, 2, 64, from.data(), counts.data(), sum.data());
    EXPECT_EQ(counts.values(), (std::vector<int>{32, 32, 32, 32, 127}));
    EXPECT_EQ(sum[0], 64);
  }
}

__global__ void WideAtomics(unsigned long long* latest, bool in_shared_memory) {
  SHARED_ARRAY(unsigned long long, shared, 1);
  if (threadIdx.x == 0) shared[0] = 0;
  __syncthreads();
  atomicMax(in_shared_memory ? shared : latest, (1ull << 40) + threadIdx.x);
}

TEST(Atomics, Of64BitsAreForGlobalMemory) {
  GlobalArray<unsigned long long> latest(std::vector<unsigned long long>{0});
  RunKernel(0, WideAtomics, 1, 32, latest.data(), false);
  EXPECT_EQ(latest[0], (1ull << 40) + 31);
  EXPECT_THAT(ErrorOf(ErrorKind::kSharedMemory, WideAtomics, 32, latest.data(), true), HasSubstr("of 8 bytes"));
}

// ---- What ptx_*.h wraps.

__global__ void CopyRows(const float* from, float* out, int n) {
  SHARED_ARRAY(float, rows, 2 * 128);
  float* mine = rows + threadIdx.x * 4;
  braid::gpu::CopyAsync<16>(mine, from + threadIdx.x * 4);
  braid::gpu::CopyAsyncCommit();
  braid::gpu::CopyAsync<16>(mine + 128, from, static_cast<int>(threadIdx.x) < n);
  braid::gpu::CopyAsyncCommit();
  braid::gpu::CopyAsyncWait<1>();
  out[threadIdx.x * 3] = mine[3];
  out[threadIdx.x * 3 + 1] = mine[128];
  braid::gpu::CopyAsyncWait<0>();
  out[threadIdx.x * 3 + 2] = mine[128];
}

TEST(AsyncCopy, LandsWhenItIsWaitedFor) {
  std::vector<float> numbers(128);
  std::iota(numbers.begin(), numbers.end(), 1.0f);
  GlobalArray<float> from(numbers), out(32 * 3);
  RunKernel(0, CopyRows, 1, 32, from.data(), out.data(), 20);
  for (int i = 0; i < 32; ++i) {
    ASSERT_EQ(out[i * 3], 4 * i + 4);
    ASSERT_TRUE(std::isnan(out[i * 3 + 1]));
    ASSERT_EQ(out[i * 3 + 2], i < 20 ? 1 : 0);
  }
}

__global__ void CopyElsewhere(const float* from, float* to) { braid::gpu::CopyAsync<4>(to, from); }
__global__ void CopyMisaligned(const float* from) {
  SHARED_ARRAY(float, row, 32);
  braid::gpu::CopyAsync<8>(row, from + 1);
}

TEST(AsyncCopy, IsReportedWhereItCannotLand) {
  GlobalArray<float> from(32), to(1);
  EXPECT_THAT(ErrorOf(ErrorKind::kAsyncCopy, CopyElsewhere, 32, from.data(), to.data()),
              HasSubstr("no shared array holds"));
  EXPECT_THAT(ErrorOf(ErrorKind::kMisaligned, CopyMisaligned, 32, from.data()), HasSubstr("cp.async of 8 bytes from"));
}

// One warp, one 16 x 8 product of 16 x 16 and 16 x 8 in shared memory, as a GEMM would load them.
__global__ void Multiply(const __nv_bfloat16* a, const __nv_bfloat16* b, float* d) {
  SHARED_ARRAY(__nv_bfloat16, tile_a, 16 * 16);
  SHARED_ARRAY(__nv_bfloat16, tile_b, 16 * 8);
  for (int i = threadIdx.x; i < 16 * 16; i += 32) tile_a[i] = a[i];
  for (int i = threadIdx.x; i < 16 * 8; i += 32) tile_b[i] = b[i];
  __syncwarp();
  const int lane = threadIdx.x;
  uint32_t left[4], right[4];
  braid::gpu::LoadMatrices(left, tile_a + lane % 16 * 16 + lane / 16 * 8);
  braid::gpu::LoadMatricesTransposed(right, tile_b + lane % 16 * 8);
  float sums[4] = {1, 1, 1, 1};
  const uint32_t columns[2] = {right[0], right[1]};
  braid::gpu::MmaBf16(sums, left, columns);
  for (int i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

TEST(Mma, IsAMatrixProduct) {
  GlobalArray<__nv_bfloat16> a(16 * 16), b(16 * 8);
  for (int i = 0; i < 16 * 16; ++i) a[i] = __float2bfloat16_rn(static_cast<float>(i * 7 % 31 - 15));
  for (int i = 0; i < 16 * 8; ++i) b[i] = __float2bfloat16_rn(static_cast<float>(i * 5 % 23 - 11));
  for (uint64_t seed : Seeds()) {
    GlobalArray<float> d(16 * 8);
    RunKernel(seed, Multiply, 1, 32, a.data(), b.data(), d.data());
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        float want = 1;  // whole numbers: exact in any order
        for (int k = 0; k < 16; ++k) want += __bfloat162float(a[row * 16 + k]) * __bfloat162float(b[k * 8 + column]);
        ASSERT_EQ(d[row * 8 + column], want) << row << " " << column;
      }
    }
  }
}

// As tensor cores do, whatever stands beside: a bound that only allows for rounding, or an order of k that somebody
// relies on, shows.
TEST(Mma, CutsOffWhatIsBelowTheLargestNumbersLastBit) {
  GlobalArray<__nv_bfloat16> a(16 * 16), b(16 * 8);
  GlobalArray<float> d(16 * 8);
  const auto product_of = [&](float largest, float others) {
    for (int i = 0; i < 16 * 16; ++i) a[i] = __float2bfloat16_rn(i % 16 < 8 ? others : 0);
    for (int row = 0; row < 16; ++row) a[row * 16 + 3] = __float2bfloat16_rn(largest);
    for (int i = 0; i < 16 * 8; ++i) b[i] = __float2bfloat16_rn(1);
    RunKernel(0, Multiply, 1, 32, a.data(), b.data(), d.data());
    for (int i = 1; i < 16 * 8; ++i) EXPECT_EQ(std::memcmp(&d[i], &d[0], sizeof(float)), 0) << i;
    return d[0];
  };
  EXPECT_EQ(product_of(0x1p25f, 1), 0x1p25f) << "and not 8 more";
  EXPECT_EQ(product_of(-0x1p25f, -1), -0x1p25f);
  EXPECT_EQ(product_of(0x1p25f, 7), 0x1p25f + 28) << "seven times 4, of which the sum is one";
  // 1 - 37,978,112, a number of 26 bits.
  EXPECT_EQ(product_of(-0x1p23f, -0x1p22f - 0x1p15f), -37978108.0f) << "not the next one, which is nearer";
  // 1 - 8 * 16,711,680, of 27 bits.
  EXPECT_EQ(product_of(-0xFFp16f, -0xFFp16f), -133693432.0f);
  EXPECT_EQ(product_of(0, 0), 1) << "what was there stays";
  EXPECT_EQ(product_of(0x1p127f, 0x1p127f), INFINITY);
  EXPECT_TRUE(std::isnan(product_of(INFINITY, -INFINITY)));
  EXPECT_TRUE(std::isnan(product_of(NAN, 1)));
  EXPECT_EQ(product_of(-1, 0), 0);
}

// The same of bytes: 16 x 32 and 32 x 8, B column by column.
__global__ void MultiplyBytes(const uint8_t* a, const uint8_t* b, float* d) {
  const int lane = threadIdx.x, group = lane / 4, at = lane % 4 * 4;
  uint32_t left[4], right[2];
  for (int i = 0; i < 4; ++i) std::memcpy(&left[i], a + (group + i % 2 * 8) * 32 + at + i / 2 * 16, 4);
  for (int i = 0; i < 2; ++i) std::memcpy(&right[i], b + group * 32 + at + i * 16, 4);
  float sums[4] = {1, 1, 1, 1};
  braid::gpu::MmaE4M3(sums, left, right);
  for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

TEST(Mma, IsAProductOfE4M3Too) {
  const auto widened = [](uint8_t byte) {
    const __half_raw half = __nv_cvt_fp8_to_halfraw(byte, __NV_E4M3);
    return __half2float(__half(half));
  };
  GlobalArray<uint8_t> a(16 * 32), b(8 * 32);
  // Up to 30 and down to 2^-9: sums are multiples of 2^-18 below 2^15, not all of them floats, but doubles.
  for (int i = 0; i < 16 * 32; ++i) a[i] = static_cast<uint8_t>(i * 7 % 95 + i % 2 * 128);
  for (int i = 0; i < 8 * 32; ++i) b[i] = static_cast<uint8_t>(i * 11 % 93 + i / 2 % 2 * 128);
  for (uint64_t seed : Seeds()) {
    GlobalArray<float> d(16 * 8);
    RunKernel(seed, MultiplyBytes, 1, 32, a.data(), b.data(), d.data());
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        double want = 1, magnitude = 1;
        for (int k = 0; k < 32; ++k) {
          const double product = double{widened(a[row * 32 + k])} * double{widened(b[column * 32 + k])};
          want += product, magnitude += std::abs(product);
        }
        ASSERT_NEAR(d[row * 8 + column], want, 32 * 0x1p-24 * magnitude) << row << " " << column;
      }
    }
  }
}

__global__ void Numbers(float* out, int* bits) {
  if (threadIdx.x != 0) return;
  out[0] = rsqrtf(4.0f), out[1] = __expf(0.0f), out[2] = __fdividef(1.0f, 4.0f), out[3] = __saturatef(NAN);
  bits[0] = __dp4a(0x01FF0203, 0x02020202, 7);
  bits[1] = static_cast<int>(__byte_perm(0x33221100u, 0x77665544u, 0x7250u));
  bits[2] = __ffs(0x10), bits[3] = __clz(1), bits[4] = static_cast<int>(__brev(1u));
}

TEST(Numbers, AreThoseOfCuda) {
  GlobalArray<float> out(4);
  GlobalArray<int> bits(5);
  RunKernel(0, Numbers, 1, 32, out.data(), bits.data());
  EXPECT_EQ(out.values(), (std::vector<float>{0.5f, 1, 0.25f, 0}));
  EXPECT_EQ(bits.values(), (std::vector<int>{7 + 2 - 2 + 4 + 6, 0x77225500, 5, 31, static_cast<int>(0x80000000u)}));
}

TEST(Totals, CountWhatRan) {
  const Counts before = Totals();
  GlobalArray<int> out(64);
  RunKernel(0, CountOdd, 1, 64, out.data());
  EXPECT_EQ(Totals().launches, before.launches + 1);
  EXPECT_EQ(Totals().blocks, before.blocks + 1);
  EXPECT_GT(Totals().switches, before.switches + 3 * 63);
}

}  // namespace
}  // namespace simt
