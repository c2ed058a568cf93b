#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "gateway/openai/format.h"
#include "gateway/openai/format_parts.h"

namespace braid {
namespace {

// A token that is no whole text is spelled "bytes:\xe2\x80", so that two of them stay two keys.
std::string TokenText(const TokenScore& score) {
  if (IsUtf8(score.bytes)) return score.bytes;
  constexpr char kHex[] = "0123456789abcdef";
  std::string out = "bytes:";
  for (unsigned char byte : score.bytes) (out += "\\x") += {kHex[byte >> 4], kHex[byte & 15]};
  return out;
}

// The legacy format of one choice's logprobs: four lists in step, kept here as JSON until they are written.
class LegacyScores {
 public:
  void Add(const TokenScore& score) {
    AppendTo(&tokens_).String(TokenText(score));
    AppendTo(&logprobs_).Float(score.logprob);  // NaN, the prompt's first token: null
    AppendTo(&offsets_).Int(offset_);
    AddTop(score);
    for (unsigned char byte : score.bytes) offset_ += (byte & 0xC0) != 0x80;
  }

  // The member "logprobs": what was added since the last time, or null.
  void WriteAndClear(JsonWriter* json) {
    json->Key("logprobs");
    if (tokens_.empty()) {
      json->Null();
      return;
    }
    json->BeginObject();
    WriteList("tokens", &tokens_, json);
    WriteList("token_logprobs", &logprobs_, json);
    WriteList("top_logprobs", &tops_, json);
    WriteList("text_offset", &offsets_, json);
    json->EndObject();
  }

 private:
  static JsonWriter AppendTo(std::string* list) {
    if (!list->empty()) *list += ',';
    return JsonWriter(list);
  }

  static void WriteList(const char* name, std::string* list, JsonWriter* json) {
    json->Key(name).Raw("[" + *list + "]");
    list->clear();
  }

  // The most likely tokens and, as the API promises, the chosen one, each text once.
  void AddTop(const TokenScore& score) {
    JsonWriter json = AppendTo(&tops_);
    if (std::isnan(score.logprob)) {
      json.Null();
      return;
    }
    absl::flat_hash_set<std::string> seen;
    json.BeginObject();
    const auto add = [&](const TokenScore& one) {
      std::string text = TokenText(one);
      if (seen.insert(text).second) json.Key(text).Float(one.logprob);
    };
    for (const TokenScore& top : score.top) add(top);
    add(score);
    json.EndObject();
  }

  std::string tokens_, logprobs_, tops_, offsets_;
  int64_t offset_ = 0;  // in code points, from the start of the choice's text
};

class CompletionStream : public FormatterBase {
 public:
  explicit CompletionStream(AnswerShape shape) : FormatterBase(std::move(shape), "text_completion") {}

 private:
  void OnEcho(const EchoedPrompt& echo, std::string* out) override {
    AppendChunk(echo.choice, echo.text, echo.logprobs, {}, "", out);
  }

  void OnDelta(const Delta& delta, std::string* out) override {
    const bool ids = shape().options.return_token_ids && !delta.tokens.empty();
    if (delta.text.empty() && delta.logprobs.empty() && !ids) return;
    AppendChunk(delta.choice, delta.text, delta.logprobs, delta.tokens, "", out);
  }

  void OnFinished(const Finished& finished, std::string* out) override {
    AppendChunk(finished.choice, "", {}, {}, FinishReasonName(finished.reason), out);
  }

  void OnDone(const Done& done, std::string* out) override { EndStream(done, out); }

  void AppendChunk(int choice, const std::string& text, const std::vector<TokenScore>& scores,
                   const std::vector<TokenId>& tokens, const std::string& reason, std::string* out) {
    if (scores_.size() <= static_cast<size_t>(choice)) scores_.resize(choice + 1);
    for (const TokenScore& score : scores) scores_[choice].Add(score);
    AppendEvent(out, [&](JsonWriter* json) {
      WriteHead(json);
      json->Key("choices").BeginArray().BeginObject().Key("index").Int(choice).Key("text").String(text);
      scores_[choice].WriteAndClear(json);
      json->Key("finish_reason");
      reason.empty() ? json->Null() : json->String(reason);
      if (shape().options.return_token_ids) WriteTokenIds(tokens, json);
      json->EndObject().EndArray();
      if (shape().options.include_usage) json->Key("usage").Null();
    });
  }

  std::vector<LegacyScores> scores_;  // by choice
};

struct CompletionChoice {
  std::string text;
  LegacyScores scores;
  std::vector<TokenId> tokens;
  Finished::Reason reason = Finished::Reason::kStop;
};

class CompletionWhole : public WholeAnswer<CompletionChoice> {
 public:
  explicit CompletionWhole(AnswerShape shape) : WholeAnswer(std::move(shape), "text_completion") {}

 private:
  void OnEcho(const EchoedPrompt& echo, std::string*) override {
    CompletionChoice& choice = At(echo.choice);
    choice.text += echo.text;
    for (const TokenScore& score : echo.logprobs) choice.scores.Add(score);
  }

  void OnDelta(const Delta& delta, std::string*) override {
    CompletionChoice& choice = At(delta.choice);
    choice.text += delta.text;
    for (const TokenScore& score : delta.logprobs) choice.scores.Add(score);
    Keep(delta.tokens, &choice.tokens);
  }

  void WriteChoice(size_t index, CompletionChoice& choice, JsonWriter* json) override {
    json->BeginObject().Key("index").Uint(index).Key("text").String(choice.text);
    choice.scores.WriteAndClear(json);
    json->Key("finish_reason").String(FinishReasonName(choice.reason));
    if (shape().options.return_token_ids) WriteTokenIds(choice.tokens, json);
    json->EndObject();
  }
};

}  // namespace

std::unique_ptr<AnswerFormatter> MakeCompletionFormatter(AnswerShape shape) {
  if (shape.options.stream) return std::make_unique<CompletionStream>(std::move(shape));
  return std::make_unique<CompletionWhole>(std::move(shape));
}

}  // namespace braid
