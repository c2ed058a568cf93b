#pragma once

#include <CLI/CLI.hpp>

namespace braid {

// Registers `braid inspect FILE`. The command leaves its exit status in `exit_code`, which must outlive the parse.
void AddInspectCommand(CLI::App& app, int* exit_code);

}  // namespace braid
