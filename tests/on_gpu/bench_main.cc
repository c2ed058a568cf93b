// `braid bench engine` and `braid bench exchange` alone, to be linked with emulated kernels and fakes of CUDA.

#include <CLI/CLI.hpp>

#include "cli/bench_engine_command.h"
#include "cli/bench_exchange_command.h"

int main(int argc, char** argv) {
  CLI::App app("What braid measures on GPUs, on emulated ones");
  CLI::App* bench = app.add_subcommand("bench", "Measure");
  int exit_code = 0;
  braid::AddBenchEngineCommand(*bench, &exit_code);
  braid::AddBenchExchangeCommand(*bench, &exit_code);
  CLI11_PARSE(app, argc, argv);
  return exit_code;
}
