#pragma once

#include <CLI/App.hpp>

namespace braid {

// `braid bench quality`: how far the engine's int8 arithmetic takes a model from float32 arithmetic with the same
// weights; or how far weights in FP8 do. Exit status: 0, or 1 if nothing was measured.
void AddBenchQualityCommand(CLI::App& bench, int* exit_code);

}  // namespace braid
