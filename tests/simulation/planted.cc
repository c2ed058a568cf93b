// Tests the test: plants one bug after the other (base/planted_bug.h) and runs seeds until the simulation notices. A
// bug that no seed shows means that the simulation looks away somewhere.

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/planted_bug.h"
#include "tests/simulation/oracle.h"
#include "tests/simulation/simulation.h"

namespace {

using braid::Bug;
using braid::simulation::Result;
using braid::simulation::Simulate;

struct Plant {
  Bug bug;
  const char* name;
};
constexpr Plant kPlants[] = {
#define BRAID_PLANT(name) {Bug::name, #name},
    BRAID_FOR_EACH_PLANTED_BUG(BRAID_PLANT)
#undef BRAID_PLANT
};

// What a child tells its parent, also when a CHECK has killed it.
struct Report {
  uint64_t seed = 0;  // under way, or the one that showed the bug
  char failure[240] = "";
};

int Hunt(const Plant& plant, uint64_t seeds, Report* report) {
  braid::planted_bug = plant.bug;
  for (report->seed = 1; report->seed <= seeds; ++report->seed) {
    const Result result = Simulate(report->seed, false);
    if (result.failure.empty()) continue;
    std::snprintf(report->failure, sizeof(report->failure), "%s", result.failure.c_str());
    return 1;
  }
  return 0;
}

bool Print(const Plant& plant, const Report& report, int status, uint64_t seeds) {
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    fmt::print("{:<28} NOT CAUGHT in {} seeds\n", plant.name, seeds);
    return false;
  }
  std::string how = WIFEXITED(status) ? report.failure : "a CHECK failed, or the process crashed";
  std::replace(how.begin(), how.end(), '\n', ' ');
  fmt::print("{:<28} caught in 1 of {:>4} seeds: {}\n", plant.name, report.seed, how.substr(0, 130));
  std::fflush(stdout);
  return true;
}

// A process for each bug, a few at a time.
int HuntAll(uint64_t seeds, int processes) {
  // Right answers are worked out once, for all.
  for (int exam = 0; exam < braid::simulation::kExams; ++exam) braid::simulation::GetExam(exam);
  void* const shared =
      mmap(nullptr, sizeof(Report) * std::size(kPlants), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(shared != MAP_FAILED);
  Report* const reports = new (shared) Report[std::size(kPlants)];
  std::map<pid_t, size_t> running;
  int missed = 0;
  const auto reap = [&] {
    int status = 0;
    const pid_t pid = wait(&status);
    const size_t i = running.at(pid);
    running.erase(pid);
    missed += Print(kPlants[i], reports[i], status, seeds) ? 0 : 1;
  };
  for (size_t i = 0; i < std::size(kPlants); ++i) {
    if (kPlants[i].bug == Bug::kNone) continue;
    if (static_cast<int>(running.size()) >= processes) reap();
    std::fflush(stdout);
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
      if (std::freopen("/dev/null", "w", stderr) == nullptr) _exit(2);  // what a CHECK says
      _exit(Hunt(kPlants[i], seeds, &reports[i]));
    }
    running[pid] = i;
  }
  while (!running.empty()) reap();
  fmt::print("{} of {} planted bugs were caught\n", std::size(kPlants) - 1 - static_cast<size_t>(missed),
             std::size(kPlants) - 1);
  return missed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Plants bugs in the cluster's programs and checks that the simulation notices each."};
  std::string name;
  std::optional<uint64_t> seed;
  uint64_t seeds = 5000;  // the rarest shows once in some 2,700
  int processes = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  app.add_option("--bug", name, "This one alone");
  app.add_option("--seed", seed, "With --bug: this seed alone, with its story");
  app.add_option("--seeds", seeds, "In how many seeds at most each must show");
  app.add_option("--processes", processes, "Bugs at a time");
  CLI11_PARSE(app, argc, argv);
  spdlog::set_level(spdlog::level::off);
  if (name.empty()) return HuntAll(seeds, processes);
  for (const Plant& plant : kPlants) {
    if (name != plant.name) continue;
    if (!seed) {
      Report report;
      const int caught = Hunt(plant, seeds, &report);
      return Print(plant, report, caught << 8, seeds) ? 0 : 1;
    }
    braid::planted_bug = plant.bug;
    const Result result = Simulate(*seed, true);
    fmt::print("{}\n", result.failure.empty() ? "not caught" : result.failure);
    return 0;
  }
  fmt::print("there is no planted bug {}\n", name);
  return 2;
}
