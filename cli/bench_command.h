#pragma once

#include <CLI/App.hpp>

namespace braid {

// `braid bench`: its subcommands measure.
void AddBenchCommand(CLI::App& app, int* exit_code);

}  // namespace braid
