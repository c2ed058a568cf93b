#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/conversion_plan.h"
#include "model/gguf_format.h"
#include "model/model_file.h"

namespace braid {

// Metadata being encoded: each call appends one key.
class GgufMetadata {
 public:
  void Add(std::string_view key, uint32_t value);
  void Add(std::string_view key, float value);
  void Add(std::string_view key, bool value);
  void Add(std::string_view key, std::string_view value);
  void Add(std::string_view key, const std::vector<std::string>& values);
  void Add(std::string_view key, const std::vector<int32_t>& values);

  uint64_t count() const { return count_; }
  const std::string& bytes() const { return bytes_; }

 private:
  void AddKey(std::string_view key, GgufType type);
  void AddArray(std::string_view key, GgufType type, uint64_t count);
  uint64_t count_ = 0;
  std::string bytes_;
};

// The metadata of `model` with the keys llama.cpp reads. kInvalidArgument if the tokenizer has something that GGUF has
// no key for. `plan` says which type most of the file has.
absl::StatusOr<GgufMetadata> DescribeForGguf(const ModelFile& model, const ConversionPlan& plan);

// What a packed file has besides: its alignment, the version of its layout, and room for what SealPackedFile fills in.
void AddPackedKeys(const ConversionPlan& plan, GgufMetadata* metadata);

// Everything before the tensor data, padded to where it begins. The data of each tensor follows in order, each padded
// to `alignment`, which the metadata must name if it is not kGgufAlignment.
std::string EncodeGgufHeader(const GgufMetadata& metadata, const ConversionPlan& plan, uint64_t alignment);

}  // namespace braid
