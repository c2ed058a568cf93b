#include "model/chat_template.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "model/python_text.h"

namespace braid {
namespace {

using Variant = ChatTemplate::Variant;

constexpr std::string_view kThink = "<think>", kEndThink = "</think>";

bool Has(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

// Pieces under construction. Ordinary text between two control tokens stays one piece, so that it is tokenized as one,
// as it would be in the rendered text.
class Prompt {
 public:
  void Control(std::string_view text) { Append(text, true); }
  void Text(std::string_view text) { Append(text, false); }
  std::vector<ChatTemplate::Piece> Take() { return std::move(pieces_); }

 private:
  void Append(std::string_view text, bool control) {
    if (text.empty()) return;
    if (pieces_.empty() || pieces_.back().control != control) pieces_.push_back({"", control});
    pieces_.back().text += text;
  }
  std::vector<ChatTemplate::Piece> pieces_;
};

// What one rendering needs to know; the turns are those after the system turn.
class Renderer {
 public:
  Renderer(Variant variant, const ChatInput& input) : variant_(variant), input_(input) {}

  std::vector<ChatTemplate::Piece> Run() {
    prompt_.Control("<|startoftext|>");
    const auto& turns = input_.turns;
    first_ = !turns.empty() && turns[0].role == "system" ? 1 : 0;
    for (size_t i = first_; i < turns.size(); ++i) {
      if (turns[i].role == "user") after_last_user_ = i + 1;
      if (turns[i].role == "assistant") last_assistant_ = i;
    }
    System(first_ == 1 ? turns[0].content : "");
    for (size_t i = first_; i < turns.size(); ++i) Turn(turns[i], KeepsThinking(i));
    if (input_.add_generation_prompt) Begin("assistant");
    return prompt_.Take();
  }

 private:
  bool PrintsDate() const { return variant_ == Variant::kLfm25Release; }
  bool IsLfm25() const { return variant_ == Variant::kLfm25 || variant_ == Variant::kLfm25Release; }

  // Whether a turn is shown with its reasoning. LFM2.5-8B-A1B drops it once a user has spoken again, which keeps it
  // within an agent's loop; the dense models keep the last assistant turn's only.
  bool KeepsThinking(size_t turn) const {
    if (input_.preserve_thinking || variant_ == Variant::kLfm2) return true;
    return IsLfm25() ? turn >= after_last_user_ : turn == last_assistant_;
  }

  void Begin(std::string_view role) {
    prompt_.Control("<|im_start|>");
    prompt_.Text(role);
    prompt_.Text("\n");
  }

  void End() {
    prompt_.Control("<|im_end|>");
    prompt_.Text("\n");
  }

  void System(std::string_view content) {
    if (content.empty() && input_.tools.empty()) return;
    Begin("system");
    prompt_.Text(content);
    if (!input_.tools.empty()) {
      if (!content.empty()) prompt_.Text(PrintsDate() ? "\n\n" : "\n");
      Tools();
    }
    End();
  }

  void Tools() {
    if (PrintsDate()) prompt_.Text(absl::StrCat("Today's date: ", input_.date, "\n\n"));
    prompt_.Text("List of tools: ");
    if (variant_ == Variant::kLfm2) prompt_.Control("<|tool_list_start|>");
    prompt_.Text("[");
    for (size_t i = 0; i < input_.tools.size(); ++i) {
      if (i > 0) prompt_.Text(", ");
      prompt_.Text(ToPythonJson(input_.tools[i]));
    }
    prompt_.Text("]");
    if (variant_ == Variant::kLfm2) prompt_.Control("<|tool_list_end|>");
  }

  void Turn(const ChatTurn& turn, bool keep_thinking) {
    Begin(turn.role);
    if (turn.role == "assistant") {
      IsLfm25() ? AssistantLfm25(turn, keep_thinking) : AssistantLfm2(turn, keep_thinking);
    } else if (turn.role == "tool" && variant_ == Variant::kLfm2) {
      prompt_.Control("<|tool_response_start|>");
      prompt_.Text(turn.content);
      prompt_.Control("<|tool_response_end|>");
    } else {
      prompt_.Text(turn.content);
    }
    End();
  }

  void AssistantLfm25(const ChatTurn& turn, bool keep_thinking) {
    if (keep_thinking) {
      if (turn.thinking) Thinking(*turn.thinking);
      ContentWithThinking(turn.content);
    } else {
      prompt_.Text(WithoutThinking(turn.content));
    }
    Calls(turn.tool_calls);
  }

  // The LFM2 templates leave out calls and the thinking field; we show them in the form these models write them
  // themselves, so that nothing a caller sends is lost. LFM2 of 2025 does not reason and has no form for thinking.
  void AssistantLfm2(const ChatTurn& turn, bool keep_thinking) {
    if (turn.thinking && keep_thinking && variant_ == Variant::kLfm2Updated) {
      prompt_.Text(absl::StrCat("<think>", *turn.thinking, "</think>"));  // no control tokens in this vocabulary
    }
    Calls(turn.tool_calls);
    prompt_.Text(keep_thinking ? std::string_view(turn.content) : WithoutThinking(turn.content));
  }

  void Thinking(std::string_view text) {
    prompt_.Control(kThink);
    prompt_.Text(text);
    prompt_.Control(kEndThink);
  }

  // Reasoning that a caller sends back inside the content gets its control tokens back; only at the very start, and
  // only in an assistant turn, where the caller may put reasoning anyway.
  void ContentWithThinking(std::string_view content) {
    if (const size_t end = content.find(kEndThink); content.starts_with(kThink) && end != std::string_view::npos) {
      Thinking(content.substr(kThink.size(), end - kThink.size()));
      content.remove_prefix(end + kEndThink.size());
    }
    prompt_.Text(content);
  }

  static std::string_view WithoutThinking(std::string_view content) {
    const size_t end = content.rfind(kEndThink);
    return end == std::string_view::npos ? content : PythonStrip(content.substr(end + kEndThink.size()));
  }

  void Calls(const std::vector<ChatCall>& calls) {
    if (calls.empty()) return;
    prompt_.Control("<|tool_call_start|>");
    for (size_t i = 0; i < calls.size(); ++i) {
      prompt_.Text(i == 0 ? "[" : ", ");
      prompt_.Text(absl::StrCat(calls[i].name, "("));
      bool first = true;
      for (const auto& [name, value] : calls[i].arguments.items()) {
        prompt_.Text(absl::StrCat(std::exchange(first, false) ? "" : ", ", name, "=", Argument(value)));
      }
      prompt_.Text(")");
    }
    prompt_.Text("]");
    prompt_.Control("<|tool_call_end|>");
  }

  // LFM2.5 puts strings between single quotes as they are; LFM2 writes double-quoted Python strings.
  std::string Argument(const nlohmann::ordered_json& value) const {
    if (value.is_object()) return ToPythonJson(value);
    if (!value.is_string()) return ToPythonStr(value);
    return IsLfm25() ? absl::StrCat("'", value.get_ref<const std::string&>(), "'") : ToPythonJson(value);
  }

  const Variant variant_;
  const ChatInput& input_;
  size_t first_ = 0;
  size_t after_last_user_ = 0;
  size_t last_assistant_ = SIZE_MAX;
  Prompt prompt_;
};

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Recognize(std::string_view text) {
  if (!Has(text, "<|im_start|>") || !Has(text, "<|im_end|>") || !Has(text, "List of tools: ")) {
    return absl::UnimplementedError(
        "the chat template is not one of the LFM2 family: looked for <|im_start|>, <|im_end|> and \"List of tools: \"");
  }
  const bool by_user = Has(text, "preserve_thinking"), by_assistant = Has(text, "keep_past_thinking");
  if (Has(text, "<|tool_list_start|>")) return Of(Variant::kLfm2);
  if (Has(text, "strftime_now") && by_user && !by_assistant) return Of(Variant::kLfm25Release);
  if (Has(text, "strftime_now")) {
    return absl::UnimplementedError(
        "the chat template prints the date but does not know preserve_thinking; no such variant is supported");
  }
  if (by_user) return Of(Variant::kLfm25);
  if (by_assistant) return Of(Variant::kLfm2Updated);
  return absl::UnimplementedError(
      "the chat template is none of the LFM2 family's: looked for <|tool_list_start|> (LFM2), keep_past_thinking (LFM2 "
      "updated, dense LFM2.5), preserve_thinking (LFM2.5-8B-A1B)");
}

ChatTemplate ChatTemplate::Of(Variant variant) { return ChatTemplate(variant); }

std::vector<ChatTemplate::Piece> ChatTemplate::Render(const ChatInput& input) const {
  return Renderer(variant_, input).Run();
}

std::string ChatTemplate::RenderText(const ChatInput& input) const {
  std::string text;
  for (const Piece& piece : Render(input)) text += piece.text;
  return text;
}

std::vector<TokenId> ChatTemplate::Encode(const ChatInput& input, const Tokenizer& tokenizer) const {
  std::vector<TokenId> ids;
  for (const Piece& piece : Render(input)) {
    const auto specials = piece.control ? Tokenizer::Specials::kParse : Tokenizer::Specials::kPlain;
    const std::vector<TokenId> run = tokenizer.Encode(piece.text, specials);
    ids.insert(ids.end(), run.begin(), run.end());
  }
  return ids;
}

}  // namespace braid
