#include "cli/bench_serve/answer_chunk.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

namespace braid {
namespace {

// Reads a chunk without building it: this runs once for each token of each stream, on the thread that tells the time.
// `path_` names the value that comes next: "/choices/text" (arrays add no name).
class ChunkReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit ChunkReader(AnswerChunk* out) : out_(*out) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(int64_t value) override { return Number(value); }
  bool number_unsigned(uint64_t value) override {
    return Number(static_cast<int64_t>(std::min<uint64_t>(value, kMax)));
  }
  bool number_float(double, const std::string&) override { return true; }
  bool binary(nlohmann::json::binary_t&) override { return true; }

  bool string(std::string& value) override {
    if (path_ == "/choices/text" || path_ == "/choices/delta/content" || path_ == "/choices/delta/reasoning_content" ||
        path_ == "/choices/delta/reasoning") {
      out_.has_text = out_.has_text || !value.empty();
    } else if (path_ == "/choices/finish_reason") {
      out_.finish_reason = std::move(value);
    } else if (path_ == "/error" || path_ == "/error/message") {
      out_.error = std::move(value);
    }
    return true;
  }

  bool start_object(size_t) override {
    lengths_.push_back(path_.size());
    if (path_ == "/error" && !out_.error) out_.error = "";
    if (path_ == "/usage") out_.usage.emplace();
    return true;
  }
  bool key(std::string& name) override {
    path_.resize(lengths_.back());
    (path_ += '/') += name;
    return true;
  }
  bool end_object() override {
    path_.resize(lengths_.back());
    lengths_.pop_back();
    return true;
  }
  // A key stays in the path until the next one, so the elements of an array have the array's path.
  bool start_array(size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception&) override { return false; }

 private:
  static constexpr int64_t kMax = INT32_MAX;

  bool Number(int64_t value) {
    if (path_ == "/choices/token_ids") ++out_.token_ids;
    if (!out_.usage) return true;
    const int count = static_cast<int>(std::clamp<int64_t>(value, 0, kMax));
    if (path_ == "/usage/prompt_tokens") out_.usage->prompt_tokens = count;
    if (path_ == "/usage/completion_tokens") out_.usage->output_tokens = count;
    if (path_ == "/usage/prompt_tokens_details/cached_tokens") out_.usage->cached_tokens = count;
    return true;
  }

  AnswerChunk& out_;
  std::string path_;
  std::vector<size_t> lengths_;  // of the path outside each open object
};

}  // namespace

std::optional<AnswerChunk> ParseAnswerChunk(std::string_view data) {
  AnswerChunk chunk;
  ChunkReader reader(&chunk);
  if (!data.starts_with('{') || !nlohmann::json::sax_parse(data.begin(), data.end(), &reader)) return std::nullopt;
  return chunk;
}

std::string ErrorMessage(std::string_view body) {
  constexpr size_t kBytesMax = 200;
  if (const std::optional<AnswerChunk> chunk = ParseAnswerChunk(body); chunk && chunk->error) return *chunk->error;
  return std::string(body.substr(0, kBytesMax));
}

}  // namespace braid
