#include <CLI/CLI.hpp>

#include "cli/bench_command.h"
#include "cli/chat_command.h"
#include "cli/convert_command.h"
#include "cli/inspect_command.h"
#include "cli/serve_command.h"

int main(int argc, char** argv) {
  CLI::App app{"Braid serves sparse mixture-of-experts language models"};
  app.set_version_flag("--version", "braid " BRAID_VERSION);
  app.require_subcommand(1);
  int exit_code = 0;
  braid::AddServeCommand(app, &exit_code);
  braid::AddChatCommand(app, &exit_code);
  braid::AddInspectCommand(app, &exit_code);
  braid::AddConvertCommand(app, &exit_code);
  braid::AddBenchCommand(app, &exit_code);
  CLI11_PARSE(app, argc, argv);
  return exit_code;
}
