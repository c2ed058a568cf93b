#pragma once

#include <CLI/CLI.hpp>

namespace braid {

// Registers `braid convert SRC DST`. The command leaves its exit status in `exit_code`, which must outlive the parse.
void AddConvertCommand(CLI::App& app, int* exit_code);

}  // namespace braid
