#pragma once

namespace CLI {
class App;
}

namespace braid {

// `braid bench exchange`, of programs that run on GPUs.
void AddBenchExchangeCommand(CLI::App& bench, int* exit_code);

}  // namespace braid
