#include "expert_worker/compute_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/status.h"
#include "expert_worker/worker_options.h"
#include "model/config.h"

namespace braid {
namespace {

using testing::AllOf;
using testing::HasSubstr;

ComputeDevice Chosen(const std::function<void(WorkerOptions&)>& change) {
  WorkerOptions options;
  change(options);
  const absl::StatusOr<ComputeDevice> device = ChooseDevice(options);
  EXPECT_TRUE(device.ok()) << device.status();
  return *device;
}

std::string Refusal(const std::function<void(WorkerOptions&)>& change) {
  WorkerOptions options;
  change(options);
  const absl::Status status = ChooseDevice(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(StdView(status.message()));
}

TEST(ComputeDevice, IsTheCpuUnlessAskedOtherwise) {
  const ComputeDevice device = Chosen([](WorkerOptions&) {});
  EXPECT_EQ(device.Name(), "cpu");
  EXPECT_EQ(device.Arithmetic(), "cpu");
  EXPECT_EQ(device.exchange, "ucx");
  EXPECT_TRUE(CheckPresent(device).ok());
  EXPECT_EQ(Chosen([](auto& o) { o.exchange = "inprocess"; }).exchange, "inprocess");
}

TEST(ComputeDevice, SaysHowAGpuRounds) {
  const ComputeDevice first = Chosen([](auto& o) { o.device = "cuda"; });
  EXPECT_EQ(first.Name(), "cuda:0");
  EXPECT_EQ(first.Arithmetic(), "cuda bf16 exact");
  EXPECT_EQ(first.exchange, "nccl");
  EXPECT_EQ(Chosen([](auto& o) { o.device = "cuda", o.overlap_rows = 512; }).exchange, "nccl, halves from 512 rows");
  const ComputeDevice eighth = Chosen([](auto& o) { o.device = "cuda:7", o.precision = "bf16", o.exact = false; });
  EXPECT_EQ(eighth.Name(), "cuda:7");
  EXPECT_EQ(eighth.Arithmetic(), "cuda bf16 fast");
  EXPECT_EQ(Chosen([](auto& o) { o.device = "cuda", o.precision = "float32"; }).Arithmetic(), "cuda float32");
  EXPECT_EQ(Chosen([](auto& o) { o.device = "cuda:255"; }).index, 255);
  EXPECT_EQ(Chosen([](auto& o) { o.device = "cuda", o.weights = "fp8"; }).Arithmetic(), "cuda bf16 exact fp8 weights");
  const ComputeDevice fp8 = Chosen([](auto& o) { o.device = "cuda", o.precision = "fp8"; });
  EXPECT_EQ(fp8.Arithmetic(), "cuda fp8 exact");
  EXPECT_TRUE(fp8.fp8 && fp8.fp8_rows) << "FP8 rows are for weights in FP8";
  EXPECT_EQ(Chosen([](auto& o) { o.device = "cuda", o.precision = o.weights = "fp8", o.exact = false; }).Arithmetic(),
            "cuda fp8 fast");
}

TEST(ComputeDevice, RefusesWhatIsNone) {
  for (const char* name : {"", "gpu", "CPU", "cpu:0", "cud"})
    EXPECT_THAT(Refusal([&](auto& o) { o.device = name; }), HasSubstr("say cpu, cuda or cuda:N"));
  for (const char* name : {"cuda:", "cuda:x", "cuda:-1", "cuda:256", "cuda:0x", "cuda: 1", "cuda1", "cuda:0 "})
    EXPECT_THAT(Refusal([&](auto& o) { o.device = name; }), AllOf(HasSubstr(name), HasSubstr("say cuda:0"))) << name;
}

TEST(ComputeDevice, RefusesWhatContradictsItself) {
  EXPECT_THAT(Refusal([](auto& o) { o.exact = false; }), AllOf(HasSubstr("--fast"), HasSubstr("leave it out")));
  EXPECT_THAT(Refusal([](auto& o) { o.precision = "bf16"; }),
              AllOf(HasSubstr("--precision"), HasSubstr("--device cuda")));
  EXPECT_THAT(Refusal([](auto& o) { o.overlap_rows = 8; }), HasSubstr("--overlap-rows"));
  EXPECT_THAT(Refusal([](auto& o) { o.weights = "fp8"; }), AllOf(HasSubstr("--weights"), HasSubstr("--device cuda")));
  EXPECT_THAT(Refusal([](auto& o) { o.exchange = "nccl"; }),
              AllOf(HasSubstr("--exchange"), HasSubstr("--device cuda")));
  const auto refusal = [](const std::function<void(WorkerOptions&)>& change) {
    return Refusal([&](WorkerOptions& o) { o.device = "cuda", change(o); });
  };
  EXPECT_THAT(refusal([](auto& o) { o.kv_type = "int8"; }), AllOf(HasSubstr("--kv-type"), HasSubstr("leave one")));
  EXPECT_THAT(refusal([](auto& o) { o.exchange = "ucx"; }), AllOf(HasSubstr("--exchange ucx"), HasSubstr("leave one")));
  EXPECT_THAT(refusal([](auto& o) { o.precision = "fp4"; }),
              AllOf(HasSubstr("--precision fp4"), HasSubstr("say bf16")));
  EXPECT_THAT(refusal([](auto& o) { o.weights = "fp4"; }), AllOf(HasSubstr("--weights fp4"), HasSubstr("say auto")));
  EXPECT_THAT(refusal([](auto& o) { o.precision = "float32", o.exact = false; }),
              AllOf(HasSubstr("--precision float32"), HasSubstr("--fast")));
}

TEST(ComputeDevice, KeepsChecksumModelsOffGpus) {
  ModelConfig config;
  config.architecture = "checksum";
  EXPECT_TRUE(CheckModelFits(Chosen([](auto&) {}), config).ok());
  const ComputeDevice gpu = Chosen([](auto& o) { o.device = "cuda"; });
  EXPECT_THAT(std::string(StdView(CheckModelFits(gpu, config).message())), HasSubstr("leave --device out"));
  config.architecture = "lfm2moe";
  EXPECT_TRUE(CheckModelFits(gpu, config).ok());
}

}  // namespace
}  // namespace braid
