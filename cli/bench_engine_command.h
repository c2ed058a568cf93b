#pragma once

#include <CLI/App.hpp>

namespace braid {

// `braid bench engine`: what the engine does on this machine, beside what the machine could do.
void AddBenchEngineCommand(CLI::App& bench, int* exit_code);

}  // namespace braid
