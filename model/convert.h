#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/dtype.h"
#include "model/model_file.h"

namespace braid {

// A packed file (model/gguf_format.h) is for this program alone: its weights lie as the kernels read them.
enum class ModelFormat { kGguf, kHf, kPacked };

struct ConvertOptions {
  ModelFormat format = ModelFormat::kGguf;
  // What matrices become: F32, F16, BF16, Q8_0 or Q4_0, a float type in a Hugging Face directory. nullopt: what they
  // are, where the format has it. See conversion_plan.h for the tensors that stay as they are.
  std::optional<DType> type;
  int threads = 1;
  // Called from the calling thread after each few megabytes; bytes are those of the new file's tensors.
  std::function<void(uint64_t done, uint64_t total)> progress = [](uint64_t, uint64_t) {};
};

struct ConvertSummary {
  uint64_t weight_bytes = 0;
  std::vector<std::string> notes;  // matrices that did not become `type`, and why
};

// Writes `source` anew at `destination`, a file or a directory, which must not exist: it appears only once it is
// complete (until then it is `destination` with ".partial"). The GGUF loads in llama.cpp, the directory in
// transformers. A packed file has the digest of the GGUF it was packed from, if no type was given; unpacked again it is
// that GGUF. kInvalidArgument: the type does not go with the format, the tokenizer cannot be written in it, a value
// cannot be written in the type (naming the tensor). kAlreadyExists: the destination does.
absl::StatusOr<ConvertSummary> Convert(const ModelFile& source, const std::string& destination,
                                       const ConvertOptions& options);

}  // namespace braid
