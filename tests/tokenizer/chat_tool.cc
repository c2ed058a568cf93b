// chat_tool TEMPLATE TOKENIZER_JSON   answers each line of stdin, a JSON object with messages, tools,
// add_generation_prompt, preserve_thinking and date, with {"text": ..., "ids": [...]}. TEMPLATE is a file with a chat
// template. For tests/chat_template_oracle_test.py.

#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "model/chat_template.h"
#include "tests/tokenizer/load_tokenizer.h"

namespace {

using Json = nlohmann::ordered_json;

braid::ChatTurn ReadTurn(const Json& message) {
  braid::ChatTurn turn;
  turn.role = message.at("role").get<std::string>();
  turn.content = message.value("content", "");
  if (message.contains("thinking")) turn.thinking = message["thinking"].get<std::string>();
  for (const Json& call : message.value("tool_calls", Json::array())) {
    turn.tool_calls.push_back({call.at("function").at("name").get<std::string>(), call["function"].at("arguments")});
  }
  return turn;
}

braid::ChatInput ReadInput(const Json& json) {
  braid::ChatInput input;
  for (const Json& message : json.at("messages")) input.turns.push_back(ReadTurn(message));
  for (const Json& tool : json.value("tools", Json::array())) input.tools.push_back(tool);
  input.add_generation_prompt = json.value("add_generation_prompt", true);
  input.preserve_thinking = json.value("preserve_thinking", false);
  input.date = json.value("date", "");
  return input;
}

int Fail(const std::string& message) {
  std::cerr << message << "\n";
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return Fail("usage: chat_tool TEMPLATE TOKENIZER_JSON");
  const auto chat = braid::ChatTemplate::Recognize(braid::ReadTextFile(argv[1]));
  if (!chat.ok()) return Fail(chat.status().ToString());
  auto spec = braid::LoadTokenizerSpec(argv[2]);
  if (!spec.ok()) return Fail(spec.status().ToString());
  const auto tokenizer = braid::Tokenizer::Create(*std::move(spec));
  if (!tokenizer.ok()) return Fail(tokenizer.status().ToString());
  for (std::string line; std::getline(std::cin, line);) {
    const braid::ChatInput input = ReadInput(Json::parse(line));
    Json answer = {{"text", chat->RenderText(input)}, {"ids", chat->Encode(input, **tokenizer)}};
    std::cout << answer.dump() << '\n';
  }
  return 0;
}
