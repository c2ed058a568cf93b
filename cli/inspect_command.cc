#include "cli/inspect_command.h"

#include <iostream>
#include <memory>
#include <string>

#include "base/status.h"
#include "model/inspect.h"
#include "model/model_file.h"

namespace braid {
namespace {

int Inspect(const std::string& path) {
  const absl::StatusOr<std::unique_ptr<ModelFile>> model = ModelFile::Open(path);
  if (!model.ok()) {
    std::cerr << "braid inspect: " << model.status().message() << "\n";
    return 1;
  }
  std::cout << DescribeModel(**model);
  return 0;
}

}  // namespace

void AddInspectCommand(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("inspect", "Describe a model: shape, weights, memory, tokenizer");
  const auto path = std::make_shared<std::string>();
  command->add_option("FILE", *path, "A .gguf file or a Hugging Face directory")->required();
  command->callback([=] { *exit_code = Inspect(*path); });
}

}  // namespace braid
