#pragma once

#include <CLI/App.hpp>

namespace braid {

// `braid serve`: the whole server on one machine. *exit_code is set when the command ran.
void AddServeCommand(CLI::App& app, int* exit_code);

}  // namespace braid
