#include "cli/bench_exchange_command.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "base/human.h"
#include "base/logging.h"
#include "base/status.h"
#include "cli/bench_exchange/exchange_bench.h"
#include "cli/bench_report.h"
#include "cli/child_process.h"
#include "expert_worker/compute_device.h"
#include "expert_worker/cuda_backend.h"

namespace braid {
namespace {

struct BenchExchangeFlags {
  ExchangeBenchOptions bench;
  int rank = -1;
  std::string json;
};

double BytesPerSecond(const ExchangeBenchOptions& options, const ExchangeFigures& of) {
  return static_cast<double>(of.slot_bytes) * (options.ranks - 1) / of.graph_seconds;
}

absl::Status Report(const BenchExchangeFlags& flags, const std::vector<ExchangeFigures>& figures) {
  ASSIGN_OR_RETURN(const CudaDevice gpu, DescribeCudaDevice(flags.bench.device));
  nlohmann::ordered_json json = {{"gpus", flags.bench.ranks},
                                 {"device_name", gpu.name},
                                 {"rounds", flags.bench.rounds},
                                 {"repeat", flags.bench.repeat},
                                 {"all_to_alls", nlohmann::ordered_json::array()}};
  std::string table =
      fmt::format("{} of {}: an all-to-all with slots of so many bytes, us\n\n{:>12} {:>10} {:>10} {:>10}\n",
                  flags.bench.ranks, gpu.name, "bytes", "launched", "in a graph", "GB/s out");
  for (const ExchangeFigures& of : figures) {
    table += fmt::format("{:>12} {:>10.1f} {:>10.1f} {:>10.1f}\n", of.slot_bytes, 1e6 * of.plain_seconds,
                         1e6 * of.graph_seconds, 1e-9 * BytesPerSecond(flags.bench, of));
    json["all_to_alls"].push_back({{"slot_bytes", of.slot_bytes},
                                   {"plain_seconds", of.plain_seconds},
                                   {"graph_seconds", of.graph_seconds},
                                   {"bytes_per_second", BytesPerSecond(flags.bench, of)}});
  }
  const uint64_t taken = figures.back().nccl_bytes, planned = figures.back().nccl_bytes_planned;
  json["nccl_bytes"] = taken;
  json["nccl_bytes_planned"] = planned;
  table += fmt::format("\nNCCL has taken {} of each GPU's memory; workers set {} aside for it{}\n", HumanBytes(taken),
                       HumanBytes(planned), taken > planned ? ": TOO LITTLE" : "");
  return WriteBenchReport(table, json.dump(1) + "\n", flags.json);
}

absl::Status RunRank(const BenchExchangeFlags& flags) {
  ASSIGN_OR_RETURN(const std::vector<ExchangeFigures> figures, BenchExchange(flags.bench));
  return flags.bench.rank == 0 ? Report(flags, figures) : absl::OkStatus();
}

// Waits for all of them, and ends the others once one has failed: they would wait for it.
absl::Status WaitForAll(std::vector<std::unique_ptr<ChildProcess>>& ranks) {
  for (size_t running = ranks.size(); running > 0;) {
    running = 0;
    for (size_t rank = 0; rank < ranks.size(); ++rank) {
      if (ranks[rank]->Running()) {
        ++running;
      } else if (ranks[rank]->HowItEnded() != "exited with 0") {
        return absl::AbortedError(fmt::format("rank {} {}", rank, ranks[rank]->HowItEnded()));
      }
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return absl::OkStatus();
}

// A process for each GPU, as workers are. This one does not touch any.
absl::Status RunAll(const BenchExchangeFlags& flags) {
  std::string place = std::filesystem::temp_directory_path() / "braid-exchange-XXXXXX";
  if (mkdtemp(place.data()) == nullptr) return absl::UnavailableError("cannot make a folder in " + place);
  std::vector<std::unique_ptr<ChildProcess>> ranks;
  absl::Status status;
  for (int rank = 0; rank < flags.bench.ranks && status.ok(); ++rank) {
    std::vector<std::string> arguments = {"bench",    "exchange",
                                          "--gpus",   std::to_string(flags.bench.ranks),
                                          "--rank",   std::to_string(rank),
                                          "--meet",   place,
                                          "--rounds", std::to_string(flags.bench.rounds),
                                          "--repeat", std::to_string(flags.bench.repeat)};
    for (const size_t bytes : flags.bench.slot_bytes) {
      arguments.push_back("--slot-bytes");
      arguments.push_back(std::to_string(bytes));
    }
    if (!flags.json.empty()) arguments.insert(arguments.end(), {"--json", flags.json});
    absl::StatusOr<std::unique_ptr<ChildProcess>> child =
        ChildProcess::Spawn(std::filesystem::read_symlink("/proc/self/exe"), arguments);
    status = child.status();
    if (status.ok()) ranks.push_back(*std::move(child));
  }
  if (status.ok()) status = WaitForAll(ranks);
  ranks.clear();
  std::error_code ignored;
  std::filesystem::remove_all(place, ignored);
  return status;
}

}  // namespace

void AddBenchExchangeCommand(CLI::App& bench, int* exit_code) {
  const auto flags = std::make_shared<BenchExchangeFlags>();
  ExchangeBenchOptions& options = flags->bench;
  options.slot_bytes = {4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20};
  CLI::App* command = bench.add_subcommand("exchange", "Time all-to-alls between the GPUs of this machine");
  const auto add = [command](const char* name, auto& value, const char* help) {
    return command->add_option(name, value, help)->capture_default_str();
  };
  add("--gpus", options.ranks, "How many, from cuda:0 on; a process each")->check(CLI::Range(2, 64));
  add("--slot-bytes", options.slot_bytes, "What goes from each GPU to each other one")
      ->delimiter(',')
      ->check(CLI::Range(size_t{1}, size_t{1} << 30));
  add("--rounds", options.rounds, "All-to-alls of one sample")->check(CLI::Range(1, 10000));
  add("--repeat", options.repeat, "Samples; medians are shown")->check(CLI::Range(1, 1000));
  command->add_option("--json", flags->json, "Write all figures to this file");
  command->add_option("--rank", flags->rank, "Be one of them: cuda:RANK")->group("");
  command->add_option("--meet", options.meeting_place, "Where they find each other, a folder")->group("");
  command->callback([flags, exit_code] {
    InitLogging("bench");
    flags->bench.rank = flags->bench.device = flags->rank;
    const absl::Status status = flags->rank < 0 ? RunAll(*flags) : RunRank(*flags);
    if (!status.ok()) fmt::print(stderr, "braid bench exchange: {}\n", std::string(StdView(status.message())));
    *exit_code = status.ok() ? 0 : 1;
  });
}

}  // namespace braid
