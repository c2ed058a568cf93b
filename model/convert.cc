#include "model/convert.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "base/status.h"
#include "kernels/thread_pool.h"
#include "model/conversion_plan.h"
#include "model/gguf_writer.h"
#include "model/hf_export.h"
#include "model/output_file.h"
#include "model/packed_seal.h"
#include "model/quantize.h"
#include "model/tensor_writer.h"

namespace braid {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

// What a directory has beside config.json and the weights.
constexpr std::array<const char*, 6> kCompanions = {"generation_config.json", "tokenizer.json",
                                                    "tokenizer_config.json",  "special_tokens_map.json",
                                                    "chat_template.jinja",    "LICENSE"};

// A path that vanishes again unless it is kept.
class PartialPath {
 public:
  explicit PartialPath(const std::string& destination) : destination_(destination), path_(destination + ".partial") {}
  ~PartialPath() {
    std::error_code error;
    if (ours_) fs::remove_all(path_, error);
  }

  // kAlreadyExists if the destination is there, or another conversion is under way.
  absl::Status Claim() {
    for (const std::string& path : {destination_, path_})
      if (fs::exists(fs::symlink_status(path)))
        return absl::AlreadyExistsError(path + " exists already; remove it or choose another name");
    ours_ = true;
    return absl::OkStatus();
  }

  absl::Status MoveIntoPlace() {
    std::error_code error;
    fs::rename(path_, destination_, error);
    if (error) return absl::UnavailableError(destination_ + ": " + error.message());
    ours_ = false;
    return absl::OkStatus();
  }

  const std::string& path() const { return path_; }

 private:
  std::string destination_, path_;
  bool ours_ = false;
};

class Conversion {
 public:
  Conversion(const ModelFile& source, const ConvertOptions& options)
      : source_(source), options_(options), pool_(options.threads) {}

  absl::Status Write(const std::string& path) {
    switch (options_.format) {
      case ModelFormat::kGguf:
        return WriteGguf(path);
      case ModelFormat::kHf:
        return WriteHf(path);
      case ModelFormat::kPacked:
        return WritePacked(path);
    }
    return absl::OkStatus();
  }

  ConvertSummary Summary() const { return {TotalBytes(), plan_.notes}; }

 private:
  absl::Status WriteGguf(const std::string& path) {
    std::vector<float> zeros;
    plan_ = PlanGguf(source_, options_.type, &zeros);
    ASSIGN_OR_RETURN(const GgufMetadata metadata, DescribeForGguf(source_, plan_));
    return WriteGguf(path, metadata, kGgufAlignment);
  }

  absl::Status WritePacked(const std::string& path) {
    plan_ = PlanPacked(source_, options_.type);
    if (std::none_of(plan_.tensors.begin(), plan_.tensors.end(),
                     [](const PlannedTensor& tensor) { return tensor.layout == Layout::kPanels; }))
      plan_.notes.push_back("no matrix is of a block type, which is what packing is for; --type makes them so");
    ASSIGN_OR_RETURN(GgufMetadata metadata, DescribeForGguf(source_, plan_));
    AddPackedKeys(plan_, &metadata);
    RETURN_IF_ERROR(WriteGguf(path, metadata, kPackedAlignment));
    return SealPackedFile(path, &pool_);
  }

  absl::Status WriteHf(const std::string& directory) {
    std::error_code error;
    if (!fs::create_directory(directory, error)) return absl::UnavailableError(directory + ": " + error.message());
    plan_ = PlanHf(source_, options_.type);
    RETURN_IF_ERROR(fs::is_directory(source_.path()) ? CopyCompanions(directory) : GenerateCompanions(directory));
    ASSIGN_OR_RETURN(const std::unique_ptr<OutputFile> file, OutputFile::Create(directory + "/model.safetensors"));
    RETURN_IF_ERROR(file->Write(EncodeSafetensorsHeader(plan_)));
    return WriteTensors(1, file.get());
  }

  absl::Status WriteGguf(const std::string& path, const GgufMetadata& metadata, uint64_t alignment) {
    ASSIGN_OR_RETURN(const std::unique_ptr<OutputFile> file, OutputFile::Create(path));
    RETURN_IF_ERROR(file->Write(EncodeGgufHeader(metadata, plan_, alignment)));
    return WriteTensors(alignment, file.get());
  }

  uint64_t TotalBytes() const {
    uint64_t total = 0;
    for (const PlannedTensor& tensor : plan_.tensors) total += tensor.bytes();
    return total;
  }

  absl::Status WriteTensors(uint64_t alignment, OutputFile* file) {
    const uint64_t total = TotalBytes();
    uint64_t done = 0;
    const auto progress = [&](uint64_t bytes) { options_.progress(done += bytes, total); };
    for (const PlannedTensor& tensor : plan_.tensors) {
      RETURN_IF_ERROR(WriteTensorData(tensor, &pool_, file, progress));
      const uint64_t padding = (alignment - file->bytes_written() % alignment) % alignment;
      RETURN_IF_ERROR(file->Write(std::string(padding, '\0')));
    }
    return file->Close();
  }

  static absl::Status WriteText(const fs::path& path, const std::string& text) {
    ASSIGN_OR_RETURN(const std::unique_ptr<OutputFile> file, OutputFile::Create(path.string()));
    RETURN_IF_ERROR(file->Write(text));
    return file->Close();
  }

  static absl::Status WriteJson(const fs::path& path, const ordered_json& document) {
    return WriteText(path, document.dump(2) + "\n");
  }

  // The type of most matrices, for config.json.
  DType MatrixType() const { return plan_.tensors.front().dtype; }

  // The source's own files, word for word; only the dtype in config.json follows the weights.
  absl::Status CopyCompanions(const fs::path& directory) {
    const fs::path source(source_.path());
    for (const char* name : kCompanions) {
      std::error_code error;
      if (!fs::exists(source / name, error)) continue;
      if (!fs::copy_file(source / name, directory / name, error))
        return absl::UnavailableError((directory / name).string() + ": " + error.message());
    }
    std::ostringstream text;
    text << std::ifstream(source / "config.json").rdbuf();
    ordered_json config = ordered_json::parse(text.str(), nullptr, /*allow_exceptions=*/false);
    if (!config.is_object()) return absl::AbortedError((source / "config.json").string() + " changed while being read");
    config[config.contains("torch_dtype") ? "torch_dtype" : "dtype"] = HfDTypeName(MatrixType());
    return WriteJson(directory / "config.json", config);
  }

  absl::Status GenerateCompanions(const fs::path& directory) {
    if (!source_.tokenizer().ok()) return Annotate(source_.tokenizer().status(), "the tokenizer cannot be converted");
    const TokenizerSpec& tokenizer = *source_.tokenizer();
    const bool tied = source_.tensors().head.data == source_.tensors().embedding.data;
    ASSIGN_OR_RETURN(const ordered_json tokenizer_json, HfTokenizerJson(tokenizer));
    RETURN_IF_ERROR(
        WriteJson(directory / "config.json", HfConfigJson(source_.config(), tokenizer, tied, MatrixType())));
    RETURN_IF_ERROR(WriteJson(directory / "tokenizer.json", tokenizer_json));
    RETURN_IF_ERROR(WriteJson(directory / "tokenizer_config.json", HfTokenizerConfigJson(source_.config(), tokenizer)));
    RETURN_IF_ERROR(WriteJson(directory / "generation_config.json", HfGenerationConfigJson(tokenizer)));
    if (!source_.chat_template()) return absl::OkStatus();
    return WriteText(directory / "chat_template.jinja", *source_.chat_template());
  }

  const ModelFile& source_;
  const ConvertOptions& options_;
  ThreadPool pool_;
  ConversionPlan plan_;
};

absl::Status CheckOptions(const ConvertOptions& options) {
  if (options.threads < 1)
    return InvalidArgument("threads is " + std::to_string(options.threads) + ", must be at least 1");
  if (!options.type) return absl::OkStatus();
  const std::string name(Name(*options.type));
  if (!CanQuantize(*options.type)) return InvalidArgument("writing " + name + " is not supported");
  if (options.format == ModelFormat::kHf && Info(*options.type).elements != 1)
    return InvalidArgument("safetensors has no " + name + "; choose F32, F16 or BF16, or GGUF");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ConvertSummary> Convert(const ModelFile& source, const std::string& destination,
                                       const ConvertOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  if (source.config().architecture == "checksum")
    return InvalidArgument(source.path() + ": a checksum model has no weights to convert");
  PartialPath partial(destination);
  RETURN_IF_ERROR(partial.Claim());
  Conversion conversion(source, options);
  RETURN_IF_ERROR(conversion.Write(partial.path()));
  RETURN_IF_ERROR(partial.MoveIntoPlace());
  return conversion.Summary();
}

}  // namespace braid
