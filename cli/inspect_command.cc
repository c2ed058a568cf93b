#include "cli/inspect_command.h"

#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <thread>

#include "base/progress_bar.h"
#include "base/status.h"
#include "kernels/thread_pool.h"
#include "model/inspect.h"
#include "model/model_file.h"
#include "model/packed_seal.h"

namespace braid {
namespace {

// 0 if every byte of the weights is what was packed.
int Verify(const std::string& path) {
  ThreadPool pool(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  ProgressBar bar("checking");
  const absl::Status status =
      VerifyPackedFile(path, &pool, [&bar](uint64_t done, uint64_t total) { bar.Show(done, total); });
  if (status.ok()) {
    std::cout << "verified          every tensor is what was packed\n";
  } else {
    std::cerr << "braid inspect: " << status.message() << "\n";
  }
  return status.ok() ? 0 : 1;
}

int Inspect(const std::string& path, bool verify) {
  const absl::StatusOr<std::unique_ptr<ModelFile>> model = ModelFile::Open(path);
  if (!model.ok()) {
    std::cerr << "braid inspect: " << model.status().message() << "\n";
    return 1;
  }
  std::cout << DescribeModel(**model) << std::flush;
  return verify ? Verify(path) : 0;
}

}  // namespace

void AddInspectCommand(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("inspect", "Describe a model: shape, weights, memory, tokenizer");
  const auto path = std::make_shared<std::string>();
  command->add_option("FILE", *path, "A .gguf file or a Hugging Face directory")->required();
  const auto verify = std::make_shared<bool>(false);
  command->add_flag("--verify", *verify, "Check every byte of a packed file's weights against the hashes it carries");
  command->callback([=] { *exit_code = Inspect(*path, *verify); });
}

}  // namespace braid
