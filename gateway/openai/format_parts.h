#pragma once

#include <string>
#include <vector>

#include "gateway/json/writer.h"
#include "gateway/openai/format.h"

namespace braid {

// What the chat and completion formats have in common. A format says what its events look like; this class sorts them.
class FormatterBase : public AnswerFormatter {
 public:
  FormatterBase(AnswerShape shape, const char* object) : shape_(std::move(shape)), object_(object) {}
  void Add(const CallEvent& event, std::string* out) final;

 protected:
  virtual void OnEcho(const EchoedPrompt& echo, std::string* out) = 0;
  virtual void OnDelta(const Delta& delta, std::string* out) = 0;
  virtual void OnFinished(const Finished& finished, std::string* out) = 0;
  virtual void OnDone(const Done& done, std::string* out) = 0;

  const AnswerShape& shape() const { return shape_; }
  // id, object, created, model, system_fingerprint: the members every chunk and every whole answer begins with.
  void WriteHead(JsonWriter* json) const;
  // "choices": [] , usage and seed: what ends a stream, if asked for; then [DONE].
  void EndStream(const Done& done, std::string* out) const;

 private:
  AnswerShape shape_;
  const char* object_;
};

void WriteUsage(const Done& done, JsonWriter* json);                       // the members "usage" and "seed"
void WriteTokenIds(const std::vector<TokenId>& tokens, JsonWriter* json);  // the member "token_ids"

// An answer that is told at its end. `Choice` gathers one choice and has at least a Finished::Reason `reason`.
template <typename Choice>
class WholeAnswer : public FormatterBase {
 public:
  using FormatterBase::FormatterBase;

 protected:
  virtual void WriteChoice(size_t index, Choice& choice, JsonWriter* json) = 0;

  Choice& At(int choice) {
    if (choices_.size() <= static_cast<size_t>(choice)) choices_.resize(choice + 1);
    return choices_[choice];
  }

  void Keep(const std::vector<TokenId>& tokens, std::vector<TokenId>* kept) const {
    if (shape().options.return_token_ids) kept->insert(kept->end(), tokens.begin(), tokens.end());
  }

 private:
  void OnFinished(const Finished& finished, std::string*) final { At(finished.choice).reason = finished.reason; }

  void OnDone(const Done& done, std::string* out) final {
    JsonWriter json(out);
    json.BeginObject();
    WriteHead(&json);
    json.Key("choices").BeginArray();
    for (size_t i = 0; i < choices_.size(); ++i) WriteChoice(i, choices_[i], &json);
    json.EndArray();
    WriteUsage(done, &json);
    json.EndObject();
  }

  std::vector<Choice> choices_;
};

// One server-sent event around what `write(JsonWriter*)` puts into an object.
template <typename F>
void AppendEvent(std::string* out, F&& write) {
  *out += "data: ";
  JsonWriter json(out);
  json.BeginObject();
  write(&json);
  json.EndObject();
  *out += "\n\n";
}

}  // namespace braid
