#include "gateway/core/output_parser.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "gateway/core/call_syntax.h"

namespace braid {
namespace {

using Kind = OutputEvent::Kind;

constexpr std::string_view kThink = "<think>", kEndThink = "</think>";
constexpr std::string_view kBlockStart = "<|tool_call_start|>", kBlockEnd = "<|tool_call_end|>";
// Longer blocks are not looked for again: the comparison starts anew with every piece of text.
constexpr size_t kEchoBytesMax = 16 << 10;
constexpr std::string_view kBlank = " \t\n\v\f\r";

bool IsStop(std::string_view token) { return token == "<|im_end|>" || token == "<|endoftext|>"; }

std::string_view TrimLeft(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of(kBlank), text.size()));
}

std::string_view Trim(std::string_view text) {
  text = TrimLeft(text);
  return text.substr(0, text.find_last_not_of(kBlank) + 1);
}

// How many of the last bytes of `text` could be the beginning of `marker`.
size_t PartialMarker(std::string_view text, std::string_view marker) {
  for (size_t bytes = std::min(text.size(), marker.size() - 1); bytes > 0; --bytes) {
    if (marker.starts_with(text.substr(text.size() - bytes))) return bytes;
  }
  return 0;
}

}  // namespace

void OutputParser::Emit(Kind kind, std::string_view text) {
  if (text.empty()) return;
  if (events_.empty() || events_.back().kind != kind) events_.push_back({kind, 0, ""});
  events_.back().text += text;
}

std::vector<OutputEvent> OutputParser::OnText(std::string_view utf8) {
  switch (state_) {
    case State::kStart:
      Start(utf8);
      break;
    case State::kReasoning:
      Reason(utf8);
      break;
    case State::kContent:
      Emit(Kind::kContent, utf8);
      break;
    case State::kBlock:
      Block(utf8);
      break;
    case State::kAfterBlock:
      Echo(utf8);
      break;
  }
  return std::exchange(events_, {});
}

void OutputParser::Start(std::string_view text) {
  held_ += text;
  const std::string_view begun = TrimLeft(held_);
  if (begun.starts_with(kThink)) {
    const std::string rest(begun.substr(kThink.size()));
    Emit(Kind::kContent, std::string_view(held_).substr(0, held_.size() - begun.size()));
    held_.clear();
    state_ = State::kReasoning;
    spelled_think_ = true;
    Reason(rest);
  } else if (!kThink.starts_with(begun)) {
    Release();
  }
}

void OutputParser::Reason(std::string_view text) {
  if (!spelled_think_) return Emit(Kind::kReasoning, text);
  held_ += text;
  if (const size_t end = held_.find(kEndThink); end != std::string::npos) {
    Emit(Kind::kReasoning, std::string_view(held_).substr(0, end));
    Emit(Kind::kContent, std::string_view(held_).substr(end + kEndThink.size()));
    held_.clear();
    state_ = State::kContent;
    return;
  }
  const size_t sure = held_.size() - PartialMarker(held_, kEndThink);
  Emit(Kind::kReasoning, std::string_view(held_).substr(0, sure));
  held_.erase(0, sure);
}

void OutputParser::Block(std::string_view text) {
  held_ += text;
  if (held_.size() <= kBlockBytesMax) return;
  Emit(Kind::kContent, kBlockStart);
  Emit(Kind::kContent, held_);
  held_.clear();
  state_ = State::kContent;
}

void OutputParser::Echo(std::string_view text) {
  held_ += text;
  const std::string_view begun = TrimLeft(held_);
  const bool may_repeat =
      begun.size() <= last_block_.size() ? last_block_.starts_with(begun) : Trim(begun) == last_block_;
  // What comes behind a whole repetition can only be space, and a little of it.
  if (!may_repeat || held_.size() > 2 * last_block_.size() + 64) Release();
}

void OutputParser::Release() {
  switch (state_) {
    case State::kReasoning:
      Emit(Kind::kReasoning, held_);
      break;
    case State::kBlock:
      CloseBlock(/*complete=*/true, "");
      return;
    default:
      Emit(Kind::kContent, held_);
      break;
  }
  held_.clear();
  state_ = State::kContent;
}

void OutputParser::CloseBlock(bool complete, std::string_view end_marker) {
  const std::string body = std::exchange(held_, "");
  const std::vector<BlockItem> items = ParseCallBlock(body, complete);
  state_ = State::kContent;
  const auto is_call = [](const BlockItem& item) { return std::holds_alternative<ModelCall>(item); };
  if (std::ranges::none_of(items, is_call)) {
    if (items.empty() && complete) return;  // an empty list
    Emit(Kind::kContent, kBlockStart);
    Emit(Kind::kContent, body);
    Emit(Kind::kContent, end_marker);
    return;
  }
  for (const BlockItem& item : items) {
    if (const auto* call = std::get_if<ModelCall>(&item)) {
      events_.push_back({Kind::kToolCallBegin, calls_, call->name});
      events_.push_back({Kind::kToolCallArguments, calls_, call->arguments});
      events_.push_back({Kind::kToolCallEnd, calls_, ""});
      ++calls_;
    } else {
      Emit(Kind::kContent, std::get<std::string>(item));
    }
  }
  last_block_ = Trim(body);
  if (last_block_.size() <= kEchoBytesMax) state_ = State::kAfterBlock;
}

std::vector<OutputEvent> OutputParser::OnControl(std::string_view token) {
  if (token == kThink && state_ != State::kBlock) {
    Release();
    state_ = State::kReasoning;
    spelled_think_ = false;
  } else if (token == kEndThink && state_ != State::kBlock) {
    if (state_ == State::kReasoning) Release();
  } else if (token == kBlockStart || token == kBlockEnd) {
    OnBlockMarker(token);
  } else if (state_ == State::kBlock && IsStop(token)) {
    Release();
  } else if (state_ == State::kBlock) {
    Block(token);
  }
  return std::exchange(events_, {});
}

void OutputParser::OnBlockMarker(std::string_view token) {
  if (!parse_calls_) {
    Release();
    Emit(Kind::kContent, token);
  } else if (token == kBlockStart) {
    Release();
    state_ = State::kBlock;
  } else if (state_ == State::kBlock) {
    CloseBlock(/*complete=*/true, kBlockEnd);
  } else if (state_ == State::kAfterBlock && Trim(held_) == last_block_) {
    held_.clear();
  }
}

std::vector<OutputEvent> OutputParser::Finish(bool complete) {
  if (state_ == State::kBlock) {
    CloseBlock(complete, "");
  } else {
    Release();
  }
  return std::exchange(events_, {});
}

}  // namespace braid
