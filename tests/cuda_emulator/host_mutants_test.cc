// Host code with a bug each that people make, most of which a GPU forgives most of the time: every one is caught by
// the detectors that README.md's table says.

#include <gmock/gmock.h>

#include <numeric>
#include <set>

#include "tests/cuda_emulator/fake_fixture.h"
#include "tests/cuda_emulator/simt.h"
//
#include "kernels/cuda/device.h"

namespace fake {
namespace {

using braid::gpu::Launch;

enum class Bug {
  kNone,
  kDroppedWait,        // of one stream for the other's event
  kForksEarly,         // by an event recorded before the work that it stands for
  kDroppedWaitBack,    // before a buffer is used again
  kReadsEarly,         // the result, before the stream is waited for
  kWaitsForTooLittle,  // for an event recorded before the copy of the result
  kOverwritesPinned,   // before it was copied to the device
  kReadsDevice,        // from the host
  kWritesBeside,       // a kernel, an allocation
  kAllocatesInCapture,
  kWaitsInCapture,
  kUnjoinedCapture,
};

__global__ void Double(const float* x, float* y, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = 2 * x[i];
}
__global__ void AddOne(float* x, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] += 1;
}

// Sends numbers to the device, has one stream add 1 and another double them, and looks at what comes back; two rounds
// over the same buffers, as steps of a server.
class Pipeline {
 public:
  explicit Pipeline(Bug bug) : bug_(bug) {
    Reset();
    SetBackground(false);
    Check(cudaStreamCreateWithFlags(&first_, cudaStreamNonBlocking));
    Check(cudaStreamCreateWithFlags(&second_, cudaStreamNonBlocking));
    for (cudaEvent_t* event : {&added_, &doubled_, &done_})
      Check(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
    x_ = static_cast<float*>(Allocate(cudaMalloc));
    y_ = static_cast<float*>(Allocate(cudaMalloc));
    to_device_ = static_cast<float*>(Allocate(cudaMallocHost));
    from_device_ = static_cast<float*>(Allocate(cudaMallocHost));
    std::fill_n(from_device_, kN, 0);
  }

  // Whether every number is right and the runtime had no objections.
  bool Run() {
    bool right = true;
    for (int round = 0; round < 2; ++round) {
      std::iota(to_device_, to_device_ + kN, round * 100);
      Enqueue();
      if (bug_ == Bug::kOverwritesPinned) to_device_[3] = -1;
      if (bug_ == Bug::kReadsEarly) right &= IsRight(round);
      Check(cudaEventSynchronize(done_));
      if (bug_ != Bug::kReadsEarly) right &= IsRight(round);
    }
    Check(cudaDeviceSynchronize());
    return right && !failed_;
  }

  // The same, captured once.
  bool RunCaptured() {
    Check(cudaStreamBeginCapture(first_, cudaStreamCaptureModeThreadLocal));
    Enqueue();
    if (bug_ == Bug::kAllocatesInCapture) Allocate(cudaMalloc);
    if (bug_ == Bug::kWaitsInCapture) Check(cudaStreamSynchronize(first_));
    cudaGraph_t graph = nullptr;
    Check(cudaStreamEndCapture(first_, &graph));
    if (failed_) return false;
    cudaGraphExec_t executable = nullptr;
    Check(cudaGraphInstantiate(&executable, graph, 0));
    bool right = true;
    for (int round = 0; round < 2; ++round) {
      std::iota(to_device_, to_device_ + kN, round * 100);
      Check(cudaGraphLaunch(executable, first_));
      Check(cudaStreamSynchronize(first_));
      right &= IsRight(round);
    }
    return right && !failed_;
  }

 private:
  static constexpr int kN = 40;
  static constexpr size_t kBytes = kN * sizeof(float);

  void Check(cudaError_t error) { failed_ |= error != cudaSuccess; }
  template <typename Function>
  void* Allocate(Function allocate) {
    void* p = nullptr;
    Check(allocate(&p, kBytes));
    return p;
  }
  bool IsRight(int round) const {
    for (int i = 0; i < kN; ++i)
      if (from_device_[i] != 2 * (round * 100 + i + 1)) return false;
    return true;
  }

  void Enqueue() {
    Check(cudaMemcpyAsync(x_, to_device_, kBytes, cudaMemcpyHostToDevice, first_));
    if (bug_ == Bug::kForksEarly) Check(cudaEventRecord(added_, first_));
    Check(Launch(AddOne, dim3(1), dim3(32), 0, first_, x_, kN));
    if (bug_ != Bug::kForksEarly) Check(cudaEventRecord(added_, first_));
    if (bug_ != Bug::kDroppedWait) Check(cudaStreamWaitEvent(second_, added_, 0));
    Check(Launch(Double, dim3(1), dim3(32), 0, second_, x_, y_, bug_ == Bug::kWritesBeside ? kN + 1 : kN));
    Check(cudaEventRecord(doubled_, second_));
    if (bug_ == Bug::kReadsDevice) failed_ |= y_[0] == 0;
    if (bug_ != Bug::kDroppedWaitBack && bug_ != Bug::kUnjoinedCapture) Check(cudaStreamWaitEvent(first_, doubled_, 0));
    if (bug_ == Bug::kWaitsForTooLittle) Check(cudaEventRecord(done_, first_));
    Check(cudaMemcpyAsync(from_device_, y_, kBytes, cudaMemcpyDeviceToHost, first_));
    if (bug_ != Bug::kWaitsForTooLittle) Check(cudaEventRecord(done_, first_));
  }

  const Bug bug_;
  bool failed_ = false;
  cudaStream_t first_ = nullptr, second_ = nullptr;
  cudaEvent_t added_ = nullptr, doubled_ = nullptr, done_ = nullptr;
  float *x_ = nullptr, *y_ = nullptr, *to_device_ = nullptr, *from_device_ = nullptr;
};

// Whether all is right under the seed.
using Check = bool (*)(Bug bug);
bool RunDirectly(Bug bug) { return Pipeline(bug).Run(); }
bool RunCaptured(Bug bug) { return Pipeline(bug).RunCaptured(); }

std::set<uint64_t> WrongSeeds(Check check, Bug bug) {
  std::set<uint64_t> wrong;
  for (uint64_t seed : simt::Seeds()) {
    simt::SetSeed(seed);
    if (!check(bug)) wrong.insert(seed);
  }
  Reset();
  return wrong;
}

TEST(HostMutants, AreRightWithoutABug) {
  EXPECT_EQ(WrongSeeds(RunDirectly, Bug::kNone), std::set<uint64_t>());
  EXPECT_EQ(WrongSeeds(RunCaptured, Bug::kNone), std::set<uint64_t>());
}

enum class WrongUnder { kEverySeed, kSomeSeeds, kNoSeed };

struct Mutant {
  const char* name;
  Check check;
  Bug bug;
  WrongUnder wrong_under;
  bool address_sanitizer = false;  // reports it
  bool thread_sanitizer = false;
};

void PrintTo(const Mutant& mutant, std::ostream* out) { *out << mutant.name; }

class HostMutantsTest : public ::testing::TestWithParam<Mutant> {};

TEST_P(HostMutantsTest, IsCaught) {
  const Mutant& mutant = GetParam();
  GTEST_FLAG_SET(death_test_style, "threadsafe");
#if defined(__SANITIZE_THREAD__)
  if (mutant.thread_sanitizer) {
    simt::SetSeed(0);
    EXPECT_EXIT(mutant.check(mutant.bug), ::testing::ExitedWithCode(66), "data race(.|\n)*host_mutants_test.cc");
    return;
  }
#elif defined(__SANITIZE_ADDRESS__)
  if (mutant.address_sanitizer) {
    simt::SetSeed(0);
    EXPECT_DEATH(mutant.check(mutant.bug), "use-after-poison(.|\n)*host_mutants_test.cc");
    return;
  }
#endif
  const std::set<uint64_t> wrong = WrongSeeds(mutant.check, mutant.bug);
  switch (mutant.wrong_under) {
    case WrongUnder::kEverySeed:
      EXPECT_EQ(wrong.size(), simt::Seeds().size());
      break;
    case WrongUnder::kSomeSeeds:
      EXPECT_GE(wrong.size(), simt::Seeds().size() / 4);
      break;
    case WrongUnder::kNoSeed:
      EXPECT_TRUE(wrong.empty());
      break;
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, HostMutantsTest,
    ::testing::Values(
        Mutant{"DroppedWait", RunDirectly, Bug::kDroppedWait, WrongUnder::kSomeSeeds, false, true},
        Mutant{"ForksEarly", RunDirectly, Bug::kForksEarly, WrongUnder::kSomeSeeds, false, true},
        Mutant{"ForksEarlyInCapture", RunCaptured, Bug::kForksEarly, WrongUnder::kSomeSeeds, false, true},
        Mutant{"DroppedWaitBack", RunDirectly, Bug::kDroppedWaitBack, WrongUnder::kSomeSeeds, false, true},
        Mutant{"ReadsEarly", RunDirectly, Bug::kReadsEarly, WrongUnder::kEverySeed, false, true},
        Mutant{"WaitsForTooLittle", RunDirectly, Bug::kWaitsForTooLittle, WrongUnder::kEverySeed, false, true},
        Mutant{"OverwritesPinned", RunDirectly, Bug::kOverwritesPinned, WrongUnder::kEverySeed, false, true},
        Mutant{"ReadsDevice", RunDirectly, Bug::kReadsDevice, WrongUnder::kNoSeed, true, true},
        Mutant{"WritesBeside", RunDirectly, Bug::kWritesBeside, WrongUnder::kEverySeed, true},
        Mutant{"AllocatesInCapture", RunCaptured, Bug::kAllocatesInCapture, WrongUnder::kEverySeed},
        Mutant{"WaitsInCapture", RunCaptured, Bug::kWaitsInCapture, WrongUnder::kEverySeed},
        Mutant{"DroppedWaitInCapture", RunCaptured, Bug::kDroppedWait, WrongUnder::kEverySeed},
        Mutant{"UnjoinedCapture", RunCaptured, Bug::kUnjoinedCapture, WrongUnder::kEverySeed}),
    [](const ::testing::TestParamInfo<Mutant>& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace fake
