#pragma once

#include <string>
#include <vector>

#include "gateway/json_writer.h"
#include "gateway/openai_format.h"

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
