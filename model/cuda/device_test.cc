#include "model/cuda/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/status.h"
#include "model/cuda/memory_plan.h"
#include "model/cuda/step_graphs.h"
#include "tests/cuda_emulator/fake_cuda.h"

namespace braid::gpu {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class DeviceTest : public testing::Test {
 protected:
  DeviceTest() { fake::Reset(); }
  ~DeviceTest() override { fake::Reset(); }

  // That of opening it.
  static absl::StatusCode Code(int index) { return OpenDevice(index).status().code(); }
  static std::string Message(int index) { return std::string(StdView(OpenDevice(index).status().message())); }
};

TEST_F(DeviceTest, IsOpened) {
  fake::SetDevices(2);
  fake::SetCapability(9, 0);
  const absl::StatusOr<Device> device = OpenDevice(1);
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ(device->index, 1);
  EXPECT_EQ(device->major, 9);
  EXPECT_LE(device->free_bytes, device->memory_bytes);
  EXPECT_GT(device->free_bytes, 0u);
}

TEST_F(DeviceTest, SaysWhatIsMissing) {
  fake::SetDriverError(cudaErrorNoDevice);
  EXPECT_EQ(Code(0), absl::StatusCode::kNotFound);
  EXPECT_EQ(Message(0), "there is no GPU here: run with --device cpu");
  fake::Reset();
  fake::SetDevices(2);
  EXPECT_EQ(Code(2), absl::StatusCode::kNotFound);
  EXPECT_EQ(Message(2), "there is no cuda:2, cuda:0 to cuda:1 are here: choose one of them, or run with --device cpu");
}

TEST_F(DeviceTest, SaysThatTheDriverIsTooOldOrNotThere) {
  fake::SetDriverError(cudaErrorInsufficientDriver);
  const absl::StatusCode code = Code(0);
  EXPECT_TRUE(code == absl::StatusCode::kFailedPrecondition || code == absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(0), AllOf(HasSubstr("NVIDIA driver"), HasSubstr("run with --device cpu")));
}

TEST_F(DeviceTest, IsRefusedIfNoKernelsAreForIt) {
  fake::SetCapability(7, 5);
  EXPECT_EQ(Code(0), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(0),
              AllOf(HasSubstr("compute capability 7.5"), HasSubstr("8.0 or later"), HasSubstr("--device cpu")));
  fake::SetCapability(12, 0);
  EXPECT_THAT(Message(0), AllOf(HasSubstr("compute capability 12.0"), HasSubstr("kernels for 80 90a 100a")));
}

TEST_F(DeviceTest, RunsKernelsOfItsOwnKind) {
  for (const auto& [major, minor] : {std::pair{8, 0}, {8, 6}, {8, 9}, {9, 0}, {10, 0}})
    EXPECT_TRUE(RunsOn("80 90a 100a", major, minor)) << major << minor;
  for (const auto& [major, minor] : {std::pair{7, 5}, {10, 3}, {12, 0}, {0, 0}})
    EXPECT_FALSE(RunsOn("80 90a 100a", major, minor)) << major << minor;
  EXPECT_FALSE(RunsOn("86", 8, 0));
  EXPECT_FALSE(RunsOn("", 8, 0));
}

TEST_F(DeviceTest, SaysWhetherItMultipliesFp8) {
  const auto open = [](int major, int minor) {
    fake::SetCapability(major, minor);
    return *OpenDevice(0);
  };
  for (const auto& [major, minor] : {std::pair{8, 9}, {9, 0}, {10, 0}})
    EXPECT_TRUE(CheckMultipliesFp8(open(major, minor)).ok()) << major << minor;
  EXPECT_TRUE(GainsByFp8Rows(open(8, 9)));
  EXPECT_FALSE(GainsByFp8Rows(open(9, 0)));
  for (const int minor : {0, 6}) {
    const absl::Status status = CheckMultipliesFp8(open(8, minor));
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(StdView(status.message())),
                AllOf(HasSubstr("8.9 or later"), HasSubstr("of 8." + std::to_string(minor)),
                      HasSubstr("say --weights fp8 instead")));
  }
  EXPECT_FALSE(RunsOn("80 86", 8, 9, 89)) << "no kernel that runs there has it";
}

TEST(MemoryPlan, PutsPartsBehindEachOther) {
  MemoryPlan plan;
  EXPECT_EQ(plan.AddBytes(MemoryPlan::Part::kWeights, 1000), 0u);
  EXPECT_EQ(plan.Add<float>(MemoryPlan::Part::kKv, 3), 1024u);
  EXPECT_EQ(plan.AddBytes(MemoryPlan::Part::kWeights, 1), 1280u);
  EXPECT_EQ(plan.bytes(), 1536u);
  EXPECT_EQ(plan.bytes_of(MemoryPlan::Part::kWeights), 1280u);
  plan.Reserve(1000);
  EXPECT_EQ(plan.bytes(), 1536u);
  EXPECT_EQ(plan.needed_bytes(), 2536u);
  EXPECT_TRUE(plan.CheckFits(2536).ok());
  EXPECT_EQ(plan.left_of(3000), 464u);
  EXPECT_EQ(plan.left_of(1), 0u);
  EXPECT_EQ(StdView(plan.CheckFits(2000).message()),
            "2.54 kB of device memory are needed, 2.00 kB are available (1.28 kB weights, 1.00 kB reserve, 256 B KV)");
}

TEST(StepGraphs, HaveClassesOfRows) {
  int classes = 0;
  for (int rows = 0, last = -1; rows <= 1024; ++rows) {
    const int size = RowsOfClass(rows, 1024);
    EXPECT_GE(size, rows);
    if (rows > 16) {
      EXPECT_LE(size, rows * 3 / 2 + 8);
    }
    classes += size != last;
    last = size;
  }
  EXPECT_EQ(classes, 17);
  EXPECT_EQ(RowsOfClass(0, 100), 0);
  EXPECT_EQ(RowsOfClass(97, 100), 100);
}

}  // namespace
}  // namespace braid::gpu
