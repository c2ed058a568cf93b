#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace braid {

// One typed piece of an answer. A call is Begin (its name), Arguments (pieces that join to one JSON object), End.
struct OutputEvent {
  enum class Kind { kReasoning, kContent, kToolCallBegin, kToolCallArguments, kToolCallEnd };
  Kind kind = Kind::kContent;
  int index = 0;     // of the call within the answer, from 0; 0 for text
  std::string text;  // for kToolCallBegin the name, for kToolCallEnd empty
  friend bool operator==(const OutputEvent&, const OutputEvent&) = default;
};

// Splits one choice's output into reasoning, content and tool calls: a pure fold, so the same output cut into other
// pieces gives the same text per kind and the same calls. What the rules are:
//
// * Reasoning stands between <think> and </think>. Where these are control tokens they count anywhere; spelled out as
//   text (the dense models have no such tokens) <think> counts only as the first thing of the answer.
// * A block stands between <|tool_call_start|> and <|tool_call_end|>; these are control tokens only. It holds a list of
//   calls, Pythonic or JSON (call_syntax.h). Calls are reported when their block ends, each with its arguments whole:
//   only then is it sure that they are calls. Calls of tools the request did not offer are reported as well; the
//   caller asked for the model's answer, not for our opinion of it. Reasoning left open is ended by a block.
// * Text is passed on as it is, white space included. What looks like a block but cannot be understood becomes content,
//   spelled as the model wrote it, markers included; good calls beside a bad one survive. An empty list is no call. A
//   block repeated word for word, without its start marker, is an echo of the model's and is left out.
// * Other control tokens are not text and leave no trace.
//
// Memory is bounded: a block of more than kBlockBytesMax is given back as content.
// Not thread-safe; copyable, so that a choice can be forked.
class OutputParser {
 public:
  static constexpr size_t kBlockBytesMax = 1 << 20;

  // With parse_calls false (the caller wants none) blocks become content.
  explicit OutputParser(bool parse_calls = true) : parse_calls_(parse_calls) {}

  // `utf8` holds whole characters.
  std::vector<OutputEvent> OnText(std::string_view utf8);
  // A special token by its text. A stop token, if it is passed on at all, ends an open block.
  std::vector<OutputEvent> OnControl(std::string_view token);
  // No more to come. `complete`: the model ended its answer itself. Otherwise it was cut off, and a call without a
  // following "," or "]" may be half a call: it becomes content.
  std::vector<OutputEvent> Finish(bool complete);

  int calls() const { return calls_; }  // reported so far; finish_reason is "tool_calls" if any
  bool in_reasoning() const { return state_ == State::kReasoning; }

 private:
  enum class State {
    kStart,      // nothing but white space so far: <think> may come
    kReasoning,  // until </think>
    kContent,
    kBlock,      // until <|tool_call_end|>
    kAfterBlock  // content, unless it repeats the block just closed
  };

  void Emit(OutputEvent::Kind kind, std::string_view text);
  void Start(std::string_view text);
  void Reason(std::string_view text);
  void Echo(std::string_view text);
  void Block(std::string_view text);
  void OnBlockMarker(std::string_view token);
  void CloseBlock(bool complete, std::string_view end_marker);
  void Release();  // gives out what was held back, as what it then is

  bool parse_calls_;
  State state_ = State::kStart;
  bool spelled_think_ = false;  // reasoning was opened by text, so text closes it
  std::string held_;            // not yet decided: at most a marker's length, or the block
  std::string last_block_;      // that gave calls; for kAfterBlock
  int calls_ = 0;
  std::vector<OutputEvent> events_;
};

}  // namespace braid
