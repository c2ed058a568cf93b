#include "cli/convert_command.h"

#include <algorithm>
#include <cctype>
#include <iostream>
#include <memory>
#include <string>
#include <thread>

#include "base/human.h"
#include "base/progress_bar.h"
#include "base/status.h"
#include "model/convert.h"
#include "model/model_file.h"

namespace braid {
namespace {

struct Arguments {
  std::string source, destination;
  std::string type;    // empty: as it is
  std::string format;  // empty: by the destination's name
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
};

std::string UpperCase(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::toupper(c); });
  return text;
}

ModelFormat FormatOf(const Arguments& arguments) {
  if (arguments.format == "packed") return ModelFormat::kPacked;
  const bool gguf = arguments.format.empty() ? arguments.destination.ends_with(".gguf") : arguments.format == "gguf";
  return gguf ? ModelFormat::kGguf : ModelFormat::kHf;
}

absl::StatusOr<ConvertSummary> Convert(const Arguments& arguments) {
  ConvertOptions options;
  options.format = FormatOf(arguments);
  if (!arguments.type.empty()) options.type = DTypeFromName(UpperCase(arguments.type));
  options.threads = arguments.threads;
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> model, ModelFile::Open(arguments.source));
  ProgressBar bar("writing");
  options.progress = [&bar](uint64_t done, uint64_t total) { bar.Show(done, total); };
  return braid::Convert(*model, arguments.destination, options);
}

int Run(const Arguments& arguments) {
  const absl::StatusOr<ConvertSummary> summary = Convert(arguments);
  if (!summary.ok()) {
    std::cerr << "braid convert: " << summary.status().message() << "\n";
    return 1;
  }
  for (const std::string& note : summary->notes) std::cerr << "note: " << note << "\n";
  std::cout << arguments.destination << ": " << HumanBytes(summary->weight_bytes) << " of weights\n";
  return 0;
}

}  // namespace

void AddConvertCommand(CLI::App& app, int* exit_code) {
  CLI::App* command =
      app.add_subcommand("convert", "Write a model as GGUF, packed for this program, or as a Hugging Face directory");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("SRC", arguments->source, "A .gguf file or a Hugging Face directory")->required();
  command->add_option("DST", arguments->destination, "The new file or directory; must not exist")->required();
  command->add_option("--type", arguments->type, "What matrices become (default: what they are)")
      ->check(CLI::IsMember({"q4_0", "q8_0", "f16", "bf16", "f32"}, CLI::ignore_case));
  command
      ->add_option(
          "--format", arguments->format,
          "Default: gguf if DST ends in .gguf, else hf. packed: weights lie as the kernels read them, so that serving "
          "the file is a map")
      ->check(CLI::IsMember({"gguf", "hf", "packed"}));
  command->add_option("--threads", arguments->threads, "Default: as many as there are cores")
      ->check(CLI::Range(1, 1024));
  command->callback([=] { *exit_code = Run(*arguments); });
}

}  // namespace braid
