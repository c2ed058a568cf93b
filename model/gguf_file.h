#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/gguf_format.h"
#include "model/stored_tensor.h"

namespace braid {

// An array of scalars or strings, still encoded: `bytes` holds exactly `count` well-formed elements.
struct GgufArray {
  GgufType type = GgufType::kUint8;
  uint64_t count = 0;
  std::span<const std::byte> bytes;
};

// Integers that fit are int64_t whatever their width in the file; uint64_t is only what does not fit.
using GgufValue = std::variant<int64_t, uint64_t, double, bool, std::string_view, GgufArray>;

// The contents of a GGUF file, version 2 or 3, little endian. Views into the bytes it was parsed from.
class GgufFile {
 public:
  // Checks everything that does not need to know the model: counts, lengths, types, alignment, duplicate names,
  // offsets, overlaps, the version of a packed file. kInvalidArgument, naming the key or tensor. Allocates in
  // proportion to the entries that are really there.
  static absl::StatusOr<GgufFile> Parse(std::span<const std::byte> bytes);

  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }
  const std::vector<StoredTensor>& tensors() const { return tensors_; }

  // Metadata by key: nullopt if absent; kInvalidArgument, naming the key, if it is of another kind or out of range.
  absl::StatusOr<std::optional<int64_t>> Integer(std::string_view key, int64_t min, int64_t max) const;
  absl::StatusOr<std::optional<double>> Number(std::string_view key) const;
  absl::StatusOr<std::optional<bool>> Bool(std::string_view key) const;
  absl::StatusOr<std::optional<std::string_view>> String(std::string_view key) const;
  absl::StatusOr<std::optional<std::vector<int64_t>>> Integers(std::string_view key, uint64_t count_max) const;
  absl::StatusOr<std::optional<std::vector<std::string_view>>> Strings(std::string_view key, uint64_t count_max) const;

 private:
  const GgufValue* Find(std::string_view key) const;
  absl::StatusOr<const GgufArray*> FindArray(std::string_view key, uint64_t count_max) const;

  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::vector<StoredTensor> tensors_;
};

}  // namespace braid
