#include "cli/bench_command.h"

#include <CLI/CLI.hpp>

#include "cli/bench_engine_command.h"
#ifdef BRAID_CUDA
#include "cli/bench_exchange_command.h"
#endif
#include "cli/bench_quality_command.h"
#include "cli/bench_serve_command.h"

namespace braid {

void AddBenchCommand(CLI::App& app, int* exit_code) {
  CLI::App* bench = app.add_subcommand("bench", "Measure");
  bench->require_subcommand(1);
  AddBenchEngineCommand(*bench, exit_code);
#ifdef BRAID_CUDA
  AddBenchExchangeCommand(*bench, exit_code);
#endif
  AddBenchQualityCommand(*bench, exit_code);
  AddBenchServeCommand(*bench, exit_code);
}

}  // namespace braid
