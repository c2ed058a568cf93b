#pragma once

#include <CLI/App.hpp>

namespace braid {

// `braid bench serve`: puts a load on any server with OpenAI's API and says how it fares. Exit status: 0 if every
// request was answered in full, 2 if some were not or it was interrupted, 1 if there was nothing to measure.
void AddBenchServeCommand(CLI::App& bench, int* exit_code);

}  // namespace braid
