#include <string>
#include <utility>
#include <vector>

#include "gateway/openai/format.h"
#include "gateway/openai/format_parts.h"

namespace braid {
namespace {

// `token` is for reading and may hold U+FFFD; `bytes` is exact.
void WriteToken(const TokenScore& score, JsonWriter* json) {
  json->Key("token").String(score.bytes).Key("logprob").Float(score.logprob).Key("bytes").BeginArray();
  for (unsigned char byte : score.bytes) json->Int(byte);
  json->EndArray();
}

void WriteScore(const TokenScore& score, JsonWriter* json) {
  json->BeginObject();
  WriteToken(score, json);
  json->Key("top_logprobs").BeginArray();
  for (const TokenScore& top : score.top) {
    json->BeginObject();
    WriteToken(top, json);
    json->EndObject();
  }
  json->EndArray().EndObject();
}

void WriteScores(const std::vector<TokenScore>& scores, JsonWriter* json) {
  json->Key("logprobs");
  if (scores.empty()) {
    json->Null();
    return;
  }
  json->BeginObject().Key("content").BeginArray();
  for (const TokenScore& score : scores) WriteScore(score, json);
  json->EndArray().Key("refusal").Null().EndObject();
}

class ChatStream : public FormatterBase {
 public:
  explicit ChatStream(AnswerShape shape) : FormatterBase(std::move(shape), "chat.completion.chunk") {}

 private:
  void OnEcho(const EchoedPrompt&, std::string*) override {}  // chats have no echo

  void OnDelta(const Delta& delta, std::string* out) override {
    const bool ids = shape().options.return_token_ids && !delta.tokens.empty();
    if (delta.text.empty() && delta.tool_name.empty() && delta.logprobs.empty() && !ids) return;
    Begin(delta.choice, out);
    AppendChunk(delta.choice, out, [&](JsonWriter* json) {
      json->Key("delta").BeginObject();
      WriteDelta(delta, json);
      json->EndObject();
      WriteScores(delta.logprobs, json);
      json->Key("finish_reason").Null();
      if (shape().options.return_token_ids) WriteTokenIds(delta.tokens, json);
    });
  }

  void OnFinished(const Finished& finished, std::string* out) override {
    Begin(finished.choice, out);
    AppendChunk(finished.choice, out, [&](JsonWriter* json) {
      json->Key("delta").BeginObject().EndObject().Key("logprobs").Null();
      json->Key("finish_reason").String(FinishReasonName(finished.reason));
    });
  }

  void OnDone(const Done& done, std::string* out) override { EndStream(done, out); }

  // A choice's first chunk says who speaks. It goes out with the first token, not before: it is no sign of progress.
  void Begin(int choice, std::string* out) {
    if (begun_.size() <= static_cast<size_t>(choice)) begun_.resize(choice + 1);
    if (begun_[choice]) return;
    begun_[choice] = true;
    AppendChunk(choice, out, [](JsonWriter* json) {
      json->Key("delta").BeginObject().Key("role").String("assistant").Key("content").String("").EndObject();
      json->Key("logprobs").Null().Key("finish_reason").Null();
    });
  }

  template <typename F>
  void AppendChunk(int choice, std::string* out, F&& write_choice) {
    AppendEvent(out, [&](JsonWriter* json) {
      WriteHead(json);
      json->Key("choices").BeginArray().BeginObject().Key("index").Int(choice);
      write_choice(json);
      json->EndObject().EndArray();
      if (shape().options.include_usage) json->Key("usage").Null();
    });
  }

  static void WriteDelta(const Delta& delta, JsonWriter* json) {
    switch (delta.kind) {
      case Delta::Kind::kReasoning:
        json->Key("reasoning_content").String(delta.text);
        return;
      case Delta::Kind::kContent:
        json->Key("content").String(delta.text);
        return;
      case Delta::Kind::kToolCall:
        WriteToolDelta(delta, json);
        return;
    }
  }

  static void WriteToolDelta(const Delta& delta, JsonWriter* json) {
    json->Key("tool_calls").BeginArray().BeginObject().Key("index").Int(delta.tool_index);
    if (!delta.tool_name.empty()) json->Key("id").String(delta.tool_id).Key("type").String("function");
    json->Key("function").BeginObject();
    if (!delta.tool_name.empty()) json->Key("name").String(delta.tool_name);
    json->Key("arguments").String(delta.text).EndObject().EndObject().EndArray();
  }

  std::vector<bool> begun_;  // by choice
};

struct ChatChoice {
  std::string content, reasoning;
  std::vector<MessageCall> calls;
  std::vector<TokenScore> scores;
  std::vector<TokenId> tokens;
  Finished::Reason reason = Finished::Reason::kStop;
};

class ChatWhole : public WholeAnswer<ChatChoice> {
 public:
  explicit ChatWhole(AnswerShape shape) : WholeAnswer(std::move(shape), "chat.completion") {}

 private:
  void OnEcho(const EchoedPrompt&, std::string*) override {}

  void OnDelta(const Delta& delta, std::string*) override {
    ChatChoice& choice = At(delta.choice);
    if (delta.kind == Delta::Kind::kContent) choice.content += delta.text;
    if (delta.kind == Delta::Kind::kReasoning) choice.reasoning += delta.text;
    if (delta.kind == Delta::Kind::kToolCall) AddToCall(delta, &choice);
    choice.scores.insert(choice.scores.end(), delta.logprobs.begin(), delta.logprobs.end());
    Keep(delta.tokens, &choice.tokens);
  }

  static void AddToCall(const Delta& delta, ChatChoice* choice) {
    if (choice->calls.size() <= static_cast<size_t>(delta.tool_index)) choice->calls.resize(delta.tool_index + 1);
    MessageCall& call = choice->calls[delta.tool_index];
    call.id += delta.tool_id;
    call.name += delta.tool_name;
    call.arguments += delta.text;
  }

  void WriteChoice(size_t index, ChatChoice& choice, JsonWriter* json) override {
    json->BeginObject().Key("index").Uint(index).Key("message");
    WriteMessage(choice, json);
    WriteScores(choice.scores, json);
    json->Key("finish_reason").String(FinishReasonName(choice.reason));
    if (shape().options.return_token_ids) WriteTokenIds(choice.tokens, json);
    json->EndObject();
  }

  static void WriteMessage(const ChatChoice& choice, JsonWriter* json) {
    json->BeginObject().Key("role").String("assistant").Key("content");
    choice.content.empty() && !choice.calls.empty() ? json->Null() : json->String(choice.content);
    json->Key("refusal").Null();
    if (!choice.reasoning.empty()) json->Key("reasoning_content").String(choice.reasoning);
    if (!choice.calls.empty()) WriteCalls(choice.calls, json);
    json->EndObject();
  }

  static void WriteCalls(const std::vector<MessageCall>& calls, JsonWriter* json) {
    json->Key("tool_calls").BeginArray();
    for (const MessageCall& call : calls) {
      json->BeginObject().Key("id").String(call.id).Key("type").String("function").Key("function").BeginObject();
      json->Key("name").String(call.name).Key("arguments").String(call.arguments).EndObject().EndObject();
    }
    json->EndArray();
  }
};

}  // namespace

std::unique_ptr<AnswerFormatter> MakeChatFormatter(AnswerShape shape) {
  if (shape.options.stream) return std::make_unique<ChatStream>(std::move(shape));
  return std::make_unique<ChatWhole>(std::move(shape));
}

}  // namespace braid
