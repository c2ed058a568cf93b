#pragma once

#include <CLI/App.hpp>

namespace braid {

// `braid chat`: a conversation in the terminal, with a running server or with a model served just for it.
void AddChatCommand(CLI::App& app, int* exit_code);

}  // namespace braid
