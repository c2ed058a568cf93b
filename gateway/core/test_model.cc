#include "gateway/core/test_model.h"

#include <utility>

#include "base/check.h"
#include "model/byte_spelling.h"

namespace braid {
namespace {

TokenizerSpec ByteSpec() {
  TokenizerSpec spec;
  for (int byte = 0; byte < 256; ++byte) spec.tokens.push_back(SpellBytes(std::string(1, static_cast<char>(byte))));
  for (const char* text : {"<|startoftext|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>",
                           "<|tool_call_start|>", "<|tool_call_end|>"}) {
    TokenizerSpec::AddedToken added;
    added.id = static_cast<TokenId>(spec.tokens.size());
    added.text = text;
    spec.tokens.push_back(text);
    spec.added.push_back(std::move(added));
  }
  spec.bos = kBos;
  spec.eos = kImEnd;
  return spec;
}

}  // namespace

ServedModel MakeTestModel(int context_tokens_max) {
  ServedModel model;
  model.id = "test-model";
  model.digest = "test-digest";
  model.created_unix_s = 1'700'000'000;
  model.context_tokens_max = context_tokens_max;
  model.vocab_size = kTestVocabSize;
  auto tokenizer = Tokenizer::Create(ByteSpec());
  CHECK(tokenizer.ok()) << tokenizer.status();
  model.tokenizer = *std::move(tokenizer);
  model.chat_template = ChatTemplate::Of(ChatTemplate::Variant::kLfm25);
  model.defaults = {.temperature = 0.25f, .top_k = 80, .repetition_penalty = 1.0625f};
  return model;
}

std::vector<TokenId> ByteTokens(std::string_view text) {
  std::vector<TokenId> tokens;
  for (unsigned char byte : text) tokens.push_back(byte);
  return tokens;
}

std::vector<TokenId> AnswerTokens(const ServedModel& model, std::string_view text) {
  return model.tokenizer->Encode(text, Tokenizer::Specials::kParse);
}

}  // namespace braid
