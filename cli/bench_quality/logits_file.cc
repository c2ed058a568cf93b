#include "cli/bench_quality/logits_file.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "base/status.h"

namespace braid {

absl::StatusOr<std::unique_ptr<LogitsFile>> LogitsFile::Create(const std::string& path, const TokenSequences& sequences,
                                                               int vocab_size) {
  std::vector<int32_t> tokens, lengths;
  for (const std::vector<TokenId>& sequence : sequences) {
    tokens.insert(tokens.end(), sequence.begin(), sequence.end());
    lengths.push_back(static_cast<int32_t>(sequence.size()));
  }
  nlohmann::ordered_json header;
  uint64_t end = 0;
  const auto place = [&](const char* name, const char* type, std::vector<uint64_t> shape) {
    const uint64_t begin = end;
    end += 4;
    for (const uint64_t n : shape) end = begin + (end - begin) * n;
    header[name] = {{"dtype", type}, {"shape", shape}, {"data_offsets", {begin, end}}};
    return begin;
  };
  place("tokens", "I32", {tokens.size()});
  place("lengths", "I32", {lengths.size()});
  const uint64_t V = static_cast<uint64_t>(vocab_size);
  const uint64_t reference = place("reference", "F32", {tokens.size(), V});
  const uint64_t candidate = place("candidate", "F32", {tokens.size(), V});
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the tensors are aligned

  std::unique_ptr<LogitsFile> file(new LogitsFile(path));
  const uint64_t text_bytes = text.size(), data = sizeof text_bytes + text_bytes;
  file->file_.write(reinterpret_cast<const char*>(&text_bytes), sizeof text_bytes);
  file->file_ << text;
  for (const auto* numbers : {&tokens, &lengths})
    file->file_.write(reinterpret_cast<const char*>(numbers->data()),
                      static_cast<std::streamsize>(numbers->size() * sizeof(int32_t)));
  file->reference_offset_ = data + reference;
  file->candidate_offset_ = data + candidate;
  RETURN_IF_ERROR(file->Outcome());
  return file;
}

absl::Status LogitsFile::Append(std::span<const float> reference, std::span<const float> candidate) {
  Write(reference, reference_offset_);
  Write(candidate, candidate_offset_);
  reference_offset_ += reference.size_bytes();
  candidate_offset_ += candidate.size_bytes();
  return Outcome();
}

absl::Status LogitsFile::Close() {
  file_.close();
  return Outcome();
}

void LogitsFile::Write(std::span<const float> rows, uint64_t offset) {
  file_.seekp(static_cast<std::streamoff>(offset));
  file_.write(reinterpret_cast<const char*>(rows.data()), static_cast<std::streamsize>(rows.size_bytes()));
}

absl::Status LogitsFile::Outcome() const {
  return file_.good() ? absl::OkStatus() : absl::PermissionDeniedError("cannot write " + path_);
}

}  // namespace braid
