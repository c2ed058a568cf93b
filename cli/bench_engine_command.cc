#include "cli/bench_engine_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "base/logging.h"
#include "base/status.h"
#include "cli/bench_engine/engine_bench.h"
#include "cli/bench_engine/host_engine.h"
#include "cli/bench_engine/report.h"
#include "cli/bench_engine/worker_engine.h"
#include "cli/bench_report.h"
#include "expert_worker/compute_device.h"
#include "expert_worker/cuda_backend.h"
#include "expert_worker/load_weights.h"
#include "expert_worker/worker_options.h"
#include "kernels/cpu/level.h"
#include "model/chunk.h"
#include "model/model_file.h"
#include "model/sequence_states.h"

namespace braid {
namespace {

struct BenchEngineFlags {
  std::string model, json;
  WorkerOptions worker;
  EngineBenchOptions bench;
};

// A line that is drawn over, on a terminal.
class SampleProgressLine {
 public:
  explicit SampleProgressLine(size_t total) : total_(total) {}
  ~SampleProgressLine() {
    if (terminal_) fmt::print(stderr, "\r\x1b[K");
  }
  void Show(const BenchPoint& point) {
    if (!terminal_) return;
    fmt::print(stderr, "\r\x1b[K{} of {}: {}", ++begun_, total_, point.Name());
    std::fflush(stderr);
  }

 private:
  const size_t total_;
  const bool terminal_ = isatty(STDERR_FILENO) == 1;
  size_t begun_ = 0;
};

// The engine that is measured, and what it needs.
struct Subject {
  std::unique_ptr<WorkerWeights> weights;  // of the CPU's
  std::unique_ptr<BenchedEngine> engine;
  std::string device_name;
};

absl::StatusOr<Subject> MakeSubject(const ModelFile& model, const ComputeDevice& device, const WorkerOptions& worker,
                                    const StateSizes& sizes, EngineBenchOptions* options) {
  Subject subject;
  if (device.is_cuda()) {
    ASSIGN_OR_RETURN(const CudaDevice gpu, DescribeCudaDevice(device.index));
    ASSIGN_OR_RETURN(subject.engine,
                     MakeWorkerEngine(&model, worker, sizes, {gpu.read_bytes_per_second, gpu.multiply_ops_per_second}));
    subject.device_name = gpu.name;
    return subject;
  }
  ASSIGN_OR_RETURN(subject.weights, WorkerWeights::Create(&model, options->threads));
  RETURN_IF_ERROR(subject.weights->Load(WorkerWeights::What::kAll, [] { return false; }));
  options->weight_copy_bytes = subject.weights->packed_bytes();
  subject.engine = MakeHostEngine(&model.config(), &subject.weights->tensors(), options, sizes);
  subject.device_name = ActiveCpuLevel().name;
  return subject;
}

// Of a model in bfloat16 or four bits, which are not larger on a GPU; what else an engine needs of it is less.
uint64_t RoomForKv(const CudaDevice& gpu, const ModelFile& model) {
  const uint64_t others = model.weight_bytes() + (uint64_t{12} << 30);
  return gpu.free_bytes - std::min(others, gpu.free_bytes);
}

absl::Status BenchEngine(const BenchEngineFlags& flags) {
  WorkerOptions worker = flags.worker;
  worker.threads = flags.bench.threads;
  ASSIGN_OR_RETURN(const ComputeDevice device, ChooseDevice(worker));
  RETURN_IF_ERROR(CheckPresent(device));
  const KvType kv_type = *KvTypeNamed(worker.kv_type);
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> model, ModelFile::Open(flags.model));
  const ModelConfig& config = model->config();
  RETURN_IF_ERROR(CheckModelFits(device, config));
  if (model->tensors().layers.empty()) return InvalidArgument(flags.model + " has no weights: nothing to measure");
  EngineBenchOptions options = flags.bench;
  options.kv_type = kv_type;
  options.fp8 = device.fp8_rows ? Fp8::kRowsToo : device.fp8 ? Fp8::kWeights : Fp8::kNone;
  if (device.is_cuda()) {
    ASSIGN_OR_RETURN(const CudaDevice gpu, DescribeCudaDevice(device.index));
    options.kv_bytes_max = std::min(options.kv_bytes_max, RoomForKv(gpu, *model));
  }
  const BenchPlan plan = PlanPoints(options, config, KvBlockBytes(config, kv_type));
  for (const std::string& reason : plan.left_out) fmt::print(stderr, "left out: {}\n", reason);
  if (plan.points.empty()) return InvalidArgument("nothing is left to measure");
  const StateSizes sizes = SizesFor(options, plan.points);
  worker.step_tokens_max = std::max(options.chunk, sizes.sequences);
  ASSIGN_OR_RETURN(const Subject subject, MakeSubject(*model, device, worker, sizes, &options));
  const ModelTensors& tensors = subject.weights ? subject.weights->tensors() : model->tensors();
  absl::StatusOr<EngineBenchResults> results = absl::UnknownError("");
  {
    SampleProgressLine line(plan.points.size() * static_cast<size_t>(flags.bench.repeat));
    results = RunEngineBench(config, tensors, options, plan.points, subject.engine.get(),
                             [&line](const BenchPoint& point) { line.Show(point); });
  }
  RETURN_IF_ERROR(results.status());
  const EngineBenchSubject described{config.name,   flags.model,         model->weight_bytes(),
                                     device.Name(), device.Arithmetic(), subject.device_name};
  return WriteBenchReport(EngineBenchTable(described, options, *results), EngineBenchJson(described, options, *results),
                          flags.json);
}

}  // namespace

void AddBenchEngineCommand(CLI::App& bench, int* exit_code) {
  const auto flags = std::make_shared<BenchEngineFlags>();
  EngineBenchOptions& options = flags->bench;
  options.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  CLI::App* command = bench.add_subcommand("engine", "Time the engine on this machine, without a server");
  const auto add = [command](const char* name, auto& value, const char* help) {
    return command->add_option(name, value, help)->capture_default_str();
  };
  const auto add_list = [&add](const char* name, std::vector<int>& values, const char* help) {
    add(name, values, help)->delimiter(',')->check(CLI::NonNegativeNumber);
  };
  command->add_option("--model", flags->model, "A GGUF file or a Hugging Face directory")->required();
  add("--device", flags->worker.device, "What computes: cpu, cuda or cuda:N");
  add("--precision", flags->worker.precision, "Of activations on a GPU: bf16, the default, fp8 or float32");
  command->add_flag("--exact,!--fast", flags->worker.exact, "How a GPU rounds, see braid serve --help");
  add("--weights", flags->worker.weights, "On a GPU, see braid serve --help")->check(CLI::IsMember({"auto", "fp8"}));
  add("--threads", options.threads, "Threads that compute")->check(CLI::Range(1, 1024));
  add_list("--prompt", options.prompts, "Tokens of prompts, such as 512,8192; 0: none");
  add_list("--batch", options.batches, "Sequences that decode together, such as 1,8,32; 0: none");
  add_list("--context", options.contexts, "Tokens that each of them has behind it; every batch with every context");
  add("--chunk", options.chunk, "Tokens of a prompt in one step")->check(CLI::Range(1, kStepRowsMax));
  add("--steps", options.steps, "Decode steps of one sample")->check(CLI::Range(1, 100000));
  add("--repeat", options.repeat, "Samples of each; medians are shown")->check(CLI::Range(1, 1000));
  add("--seed", options.seed, "Of the random tokens");
  add("--kv-type", flags->worker.kv_type, "How keys and values are kept")->check(CLI::IsMember({"bf16", "int8"}));
  add("--kv-bytes", options.kv_bytes_max, "Memory for keys and values, such as 2G; what needs more is left out")
      ->transform(CLI::AsSizeValue(false));
  command->add_option("--json", flags->json,
                      "Write all figures to this file; - is standard output (the table goes to standard error then)");
  command->callback([flags, exit_code] {
    InitLogging("bench");
    const absl::Status status = BenchEngine(*flags);
    if (!status.ok()) fmt::print(stderr, "braid bench engine: {}\n", std::string(StdView(status.message())));
    *exit_code = status.ok() ? 0 : 1;
  });
}

}  // namespace braid
