#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer.h"

namespace braid {

struct ChatCall {
  std::string name;
  nlohmann::ordered_json arguments;  // an object
};

struct ChatTurn {
  std::string role;  // system, user, assistant, tool
  std::string content;
  std::optional<std::string> thinking;  // assistant only; kLfm2, whose models do not reason, has no place for it
  std::vector<ChatCall> tool_calls;     // assistant only
};

struct ChatInput {
  std::vector<ChatTurn> turns;
  std::vector<nlohmann::ordered_json> tools;  // {"type": "function", "function": {...}}, key order as received
  bool add_generation_prompt = true;
  bool preserve_thinking = false;  // keep the reasoning of earlier turns
  std::string date;                // YYYY-MM-DD, for the variant that prints it
};

// The chat templates of the LFM2 family. Which one a model uses follows from its template's text; we do not run the
// text itself. What is rendered is what the template renders, but for one thing: the two LFM2 templates leave out an
// assistant's calls, which we show in the form these models write them. Immutable and thread-safe.
class ChatTemplate {
 public:
  enum class Variant {
    kLfm2,          // October 2025: tool list between special tokens, tool results wrapped
    kLfm2Updated,   // dense LFM2.5, LFM2-24B: plain tool list; thinking kept in the last assistant turn only
    kLfm25Release,  // LFM2.5-8B-A1B as released: prints the date
    kLfm25,         // LFM2.5-8B-A1B now
  };

  // kUnimplemented, with what was looked for, if the text is none of the family's templates.
  static absl::StatusOr<ChatTemplate> Recognize(std::string_view template_text);
  static ChatTemplate Of(Variant variant);

  // A run of the rendered prompt. Text that came from a caller is never `control`: encode it with kPlain.
  struct Piece {
    std::string text;
    bool control = false;
  };
  std::vector<Piece> Render(const ChatInput& input) const;
  std::string RenderText(const ChatInput& input) const;  // the pieces, joined
  // The prompt's ids: control pieces with specials parsed, the others without. No BOS is added: the template has one.
  std::vector<TokenId> Encode(const ChatInput& input, const Tokenizer& tokenizer) const;

  Variant variant() const { return variant_; }

 private:
  explicit ChatTemplate(Variant variant) : variant_(variant) {}
  Variant variant_;
};

}  // namespace braid
