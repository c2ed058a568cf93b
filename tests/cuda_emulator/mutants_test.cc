// Every planted bug is caught by the detectors that README.md's table says.

#include "tests/cuda_emulator/mutants.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "tests/cuda_emulator/global_array.h"

namespace simt {
namespace {

// Whether the kernel gives the right numbers under the seed. An Error is a wrong one.
using Check = bool (*)(const MutantKernels& kernels);

std::vector<float> Numbers(int n) {
  std::vector<float> numbers(n);
  std::iota(numbers.begin(), numbers.end(), 1.0f);
  return numbers;
}

bool RowSums(const MutantKernels& kernels) {
  const int D = 77;
  GlobalArray<float> x(Numbers(2 * D)), out(2);
  kernels.row_sums(x.data(), out.data(), 2, D);
  return out[0] == D * (D + 1) / 2 && out[1] == D * (D + 1) / 2 + D * D;
}

bool OneRowSum(const MutantKernels& kernels) {
  GlobalArray<float> x(Numbers(77)), out(1);
  kernels.row_sums(x.data(), out.data(), 1, 77);
  return out[0] == 77 * 78 / 2;
}

bool TileSums(const MutantKernels& kernels) {
  const int tiles = 6;
  GlobalArray<float> x(Numbers(tiles * 64)), out(64);
  kernels.tile_sums(x.data(), out.data(), tiles);
  for (int i = 0; i < 64; ++i) {
    float want = tiles * 64 * (tiles * 64 + 1) / 2;
    for (int tile = 0; tile < tiles; ++tile) want -= x[tile * 64 + i];
    if (out[i] != want) return false;
  }
  return true;
}

bool ListOfLane0(const MutantKernels& kernels) {
  GlobalArray<int> best(4), out(32);
  kernels.list_of_lane_0(best.data(), out.data());
  for (int i = 0; i < 32; ++i)
    if (out[i] != i % 4 + 1) return false;
  return true;
}

bool CopiedRows(const MutantKernels& kernels) {
  const int rows = 5;
  GlobalArray<float> x(Numbers(rows * 32)), out(32);
  kernels.copied_rows(x.data(), out.data(), rows);
  for (int i = 0; i < 32; ++i)
    if (out[i] != rows * (32 - i) + 32 * rows * (rows - 1) / 2) return false;
  return true;
}

bool BlockNumbers(const MutantKernels& kernels) {
  GlobalArray<int> out(8);
  kernels.block_numbers(out.data(), 8);
  for (int i = 0; i < 8; ++i)
    if (out[i] != i) return false;
  return true;
}

bool HandOff(const MutantKernels& kernels) {
  GlobalArray<int> flag(std::vector<int>{0}), data(1), out(1);
  kernels.hand_off(flag.data(), data.data(), out.data());
  return out[0] == 42;
}

std::set<uint64_t> WrongSeeds(Check check, const MutantKernels& kernels) {
  std::set<uint64_t> wrong;
  for (uint64_t seed : Seeds()) {
    SetSeed(seed);
    try {
      if (!check(kernels)) wrong.insert(seed);
    } catch (const Error& error) {
      wrong.insert(seed);
    }
  }
  return wrong;
}

__global__ void Barriers() {
  __syncthreads();
  __syncthreads();
}
[[maybe_unused]] void RunManyThreads(int blocks, int threads) {
  braid::gpu::Launch(Barriers, dim3(blocks), dim3(threads), 0, nullptr);
}

constexpr Check kChecks[] = {RowSums, OneRowSum, TileSums, ListOfLane0, CopiedRows, BlockNumbers, HandOff};

TEST(Mutants, AreRightWithoutABug) {
  for (Check check : kChecks) EXPECT_EQ(WrongSeeds(check, right::kKernels), std::set<uint64_t>());
}

// Of the ten, under which numbers are wrong.
enum class WrongUnder { kEverySeed, kSomeSeeds, kSomePrioritySeeds, kNoSeed };

struct Mutant {
  const char* name;
  Check check;
  const MutantKernels* kernels;
  WrongUnder wrong_under;
  bool address_sanitizer = false;  // reports it
  bool thread_sanitizer = false;
};

void PrintTo(const Mutant& mutant, std::ostream* out) { *out << mutant.name; }

class MutantsTest : public ::testing::TestWithParam<Mutant> {};

#if defined(__SANITIZE_THREAD__)
TEST_P(MutantsTest, IsCaught) {
  const Mutant& mutant = GetParam();
  SetSeed(0);
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  if (mutant.thread_sanitizer) {
    EXPECT_EXIT(mutant.check(*mutant.kernels), ::testing::ExitedWithCode(66), "data race(.|\n)*mutants.cu");
  } else {
    EXPECT_FALSE(WrongSeeds(mutant.check, *mutant.kernels).empty());
  }
}

// A ThreadSanitizer with many fibers has been seen to lose races without a word.
TEST(Mutants, AreCaughtAmongManyThreads) {
  SetSeed(0);
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        RunManyThreads(3, 256);
        TileSums(dropped_barrier_before_reuse::kKernels);
      },
      ::testing::ExitedWithCode(66), "data race(.|\n)*mutants.cu");
}
#elif defined(__SANITIZE_ADDRESS__)
TEST_P(MutantsTest, IsCaught) {
  const Mutant& mutant = GetParam();
  SetSeed(0);
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  if (mutant.address_sanitizer) {
    EXPECT_DEATH(mutant.check(*mutant.kernels), "use-after-poison(.|\n)*mutants.cu");
  } else {
    const std::set<uint64_t> wrong = WrongSeeds(mutant.check, *mutant.kernels);
    EXPECT_EQ(wrong.size() == Seeds().size(), mutant.wrong_under == WrongUnder::kEverySeed);
  }
}
#else
TEST_P(MutantsTest, IsCaught) {
  const Mutant& mutant = GetParam();
  const std::set<uint64_t> wrong = WrongSeeds(mutant.check, *mutant.kernels);
  EXPECT_EQ(wrong.empty(), mutant.wrong_under == WrongUnder::kNoSeed);
  if (mutant.wrong_under == WrongUnder::kEverySeed) {
    EXPECT_EQ(wrong.size(), Seeds().size());
  }
  if (mutant.wrong_under == WrongUnder::kSomePrioritySeeds) {
    for (uint64_t seed : wrong) EXPECT_TRUE(seed >= 3 && seed % 2 == 1) << seed;
  }
}
#endif

INSTANTIATE_TEST_SUITE_P(
    All, MutantsTest,
    ::testing::Values(
        Mutant{"DroppedBarrier", RowSums, &dropped_barrier::kKernels, WrongUnder::kSomeSeeds, false, true},
        Mutant{"DroppedBarrierBeforeReuse", TileSums, &dropped_barrier_before_reuse::kKernels,
               WrongUnder::kSomePrioritySeeds, false, true},
        Mutant{"DroppedSyncwarp", ListOfLane0, &dropped_syncwarp::kKernels, WrongUnder::kSomeSeeds, false, true},
        Mutant{"DroppedCopyWait", CopiedRows, &dropped_copy_wait::kKernels, WrongUnder::kSomeSeeds},
        Mutant{"CopyOverWhatIsRead", CopiedRows, &copy_over_what_is_read::kKernels, WrongUnder::kSomeSeeds, false,
               true},
        Mutant{"TwoBlocksOneWord", BlockNumbers, &two_blocks_one_word::kKernels, WrongUnder::kEverySeed, false, true},
        Mutant{"SharedOffByOne", OneRowSum, &shared_off_by_one::kKernels, WrongUnder::kEverySeed, true},
        Mutant{"GlobalOffByOne", OneRowSum, &global_off_by_one::kKernels, WrongUnder::kEverySeed, true},
        Mutant{"RelaxedFlag", HandOff, &relaxed_flag::kKernels, WrongUnder::kNoSeed, false, true}),
    [](const ::testing::TestParamInfo<Mutant>& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace simt
