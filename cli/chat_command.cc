#include "cli/chat_command.h"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "base/logging.h"
#include "base/status.h"
#include "braid/v1/inference.grpc.pb.h"
#include "cli/local_stack.h"
#include "gateway/api_key.h"
#include "proto/status.h"

namespace braid {
namespace {

constexpr char kHelp[] =
    "  /reset         forget the conversation\n"
    "  /system TEXT   start again with this system prompt\n"
    "  /think         show or hide the reasoning\n"
    "  /quit          leave (so does Ctrl-D); Ctrl-C stops an answer\n";

struct ChatFlags {
  std::string server = "127.0.0.1:8001";
  std::string model_path, system, once, api_key_file;
  bool demo = false;
  bool hide_reasoning = false;
  int max_tokens = 0;  // 0: the server's default
};

// The call that Ctrl-C cancels. TryCancel is not async-signal-safe in general, so the handler only raises a flag that
// the reading loop looks at, between two messages; a second Ctrl-C ends the program.
std::atomic<int> interrupts{0};
void OnInterrupt(int) {
  if (interrupts.fetch_add(1) > 0) _exit(130);
}

class Conversation {
 public:
  Conversation(std::shared_ptr<grpc::Channel> channel, const ChatFlags& flags, std::string api_key)
      : stub_(v1::Inference::NewStub(std::move(channel))),
        api_key_(std::move(api_key)),
        colour_(isatty(STDOUT_FILENO)),
        show_reasoning_(!flags.hide_reasoning) {
    if (flags.max_tokens > 0) request_.mutable_options()->set_max_tokens(flags.max_tokens);
    Reset(flags.system);
  }

  void Reset(const std::string& system) {
    request_.clear_messages();
    if (!system.empty()) Append("system", system);
  }

  void ToggleReasoning() { show_reasoning_ = !show_reasoning_; }

  // One turn: prints the answer as it comes and remembers it. A turn that failed is taken back.
  absl::Status Say(const std::string& text) {
    Append("user", text);
    interrupts = 0;
    grpc::ClientContext context;
    if (!api_key_.empty()) context.AddMetadata("authorization", "Bearer " + api_key_);
    const absl::Time start = absl::Now();
    answer_.Clear();
    answer_.set_role("assistant");
    auto reader = stub_->Chat(&context, request_);
    int pieces = 0;
    absl::Time first = start;
    v1::ChatResponse event;
    while (reader->Read(&event)) {
      if (pieces++ == 0) first = absl::Now();
      Show(event);
      if (interrupts > 0) context.TryCancel();
    }
    Colour("0");
    fmt::print("\n");
    const grpc::Status status = reader->Finish();
    if (!status.ok() && interrupts == 0) {
      request_.mutable_messages()->RemoveLast();
      return FromGrpc(status);
    }
    *request_.add_messages() = answer_;
    Footer(start, first);
    return absl::OkStatus();
  }

 private:
  void Append(const std::string& role, const std::string& content) {
    v1::ChatMessage* message = request_.add_messages();
    message->set_role(role);
    message->set_content(content);
  }

  void Colour(const char* code) {
    if (colour_) fmt::print("\x1b[{}m", code);
  }

  void Show(const v1::ChatResponse& event) {
    switch (event.event_case()) {
      case v1::ChatResponse::kReasoning:
        answer_.mutable_reasoning()->append(event.reasoning());
        if (show_reasoning_) Print("2", event.reasoning());
        break;
      case v1::ChatResponse::kContent:
        answer_.mutable_content()->append(event.content());
        Print("0", event.content());
        break;
      case v1::ChatResponse::kToolCall:
        ShowCall(event.tool_call());
        break;
      case v1::ChatResponse::kUsage:
        usage_ = event.usage();
        break;
      default:
        break;
    }
  }

  void ShowCall(const v1::ToolCallDelta& delta) {
    if (!delta.name().empty()) {
      v1::ToolCall* call = answer_.add_tool_calls();
      call->set_id(delta.id());
      call->set_name(delta.name());
      Print("36", "\ncall " + delta.name() + " ");
    }
    if (answer_.tool_calls_size() == 0) return;
    answer_.mutable_tool_calls(answer_.tool_calls_size() - 1)->mutable_arguments()->append(delta.arguments());
    Print("36", delta.arguments());
  }

  void Print(const char* code, const std::string& text) {
    if (code != last_code_) Colour(code);
    last_code_ = code;
    fmt::print("{}", text);
    std::fflush(stdout);
  }

  void Footer(absl::Time start, absl::Time first) {
    if (!colour_) return;
    const double seconds = absl::ToDoubleSeconds(absl::Now() - first);
    const int tokens = static_cast<int>(usage_.completion_tokens());
    fmt::print("\x1b[2m{} tokens, first after {:.0f} ms, then {:.0f} tokens/s\x1b[0m\n", tokens,
               absl::ToDoubleMilliseconds(first - start), seconds > 0 ? std::max(0, tokens - 1) / seconds : 0.0);
    last_code_.clear();
  }

  std::unique_ptr<v1::Inference::Stub> stub_;
  const std::string api_key_;
  const bool colour_;
  bool show_reasoning_;
  std::string last_code_;
  v1::ChatRequest request_;
  v1::ChatMessage answer_;
  v1::Usage usage_;
};

// False: leave.
bool Command(const std::string& line, Conversation& conversation) {
  if (line == "/quit" || line == "/exit") return false;
  if (line == "/reset") {
    conversation.Reset("");
  } else if (line.rfind("/system ", 0) == 0) {
    conversation.Reset(line.substr(8));
  } else if (line == "/think") {
    conversation.ToggleReasoning();
  } else {
    fmt::print("{}", kHelp);
  }
  return true;
}

// Reads a line, with a prompt if a person is typing.
bool ReadLine(std::string* line) {
  if (isatty(STDIN_FILENO)) fmt::print("> ");
  std::fflush(stdout);
  return static_cast<bool>(std::getline(std::cin, *line));
}

void Talk(Conversation& conversation) {
  if (isatty(STDIN_FILENO)) fmt::print("Type a message, /help for commands.\n");
  for (std::string line; ReadLine(&line);) {
    if (line.empty()) continue;
    if (line[0] == '/') {
      if (!Command(line, conversation)) return;
      continue;
    }
    const absl::Status status = conversation.Say(line);
    if (!status.ok()) fmt::print(stderr, "{}\n", std::string(StdView(status.message())));
  }
}

absl::Status WaitUntilReady(const LocalStack& stack) {
  for (const absl::Time end = absl::Now() + absl::Minutes(5); absl::Now() < end; absl::SleepFor(absl::Milliseconds(10)))
    if (stack.gateway().NotReady().empty()) return absl::OkStatus();
  return absl::DeadlineExceededError("the model is not ready after five minutes: " + stack.gateway().NotReady());
}

absl::Status Chat(ChatFlags flags) {
  ASSIGN_OR_RETURN(const std::string api_key, ReadApiKey(flags.api_key_file));
  if (flags.demo) {
    ASSIGN_OR_RETURN(flags.model_path, FindDemoModel());
  }
  std::unique_ptr<LocalStack> stack;
  if (!flags.model_path.empty()) {
    LocalStackOptions options;
    options.model_path = flags.model_path;
    options.http_port = options.grpc_port = 0;
    ASSIGN_OR_RETURN(stack, LocalStack::Start(options, [] { return false; }));
    RETURN_IF_ERROR(WaitUntilReady(*stack));
    flags.server = "127.0.0.1:" + std::to_string(stack->gateway().grpc_port());
  }
  auto channel = grpc::CreateChannel(flags.server, grpc::InsecureChannelCredentials());
  if (!channel->WaitForConnected(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_seconds(5, GPR_TIMESPAN))))
    return absl::UnavailableError("no server at " + flags.server +
                                  "; start one with `braid serve`, or chat with --demo");
  std::signal(SIGINT, OnInterrupt);
  Conversation conversation(channel, flags, api_key);
  if (!flags.once.empty()) return conversation.Say(flags.once);
  Talk(conversation);
  return absl::OkStatus();
}

}  // namespace

void AddChatCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<ChatFlags>();
  CLI::App* chat = app.add_subcommand("chat", "Talk to a model in the terminal");
  chat->add_option("--server", flags->server, "gRPC address of a running server")->capture_default_str();
  chat->add_option("--model", flags->model_path, "Serve this GGUF file or Hugging Face directory for the conversation");
  chat->add_flag("--demo", flags->demo, "Serve the demo model for the conversation");
  chat->add_option("--system", flags->system, "A system prompt");
  chat->add_option("--once", flags->once, "Say this, print the answer, and leave");
  chat->add_option("--max-tokens", flags->max_tokens, "Longest answer; 0: the server's default")
      ->check(CLI::NonNegativeNumber);
  chat->add_flag("--hide-reasoning", flags->hide_reasoning, "Do not print what the model thinks");
  chat->add_option("--api-key-file", flags->api_key_file, "A file whose first line is the key to send");
  chat->callback([flags, exit_code] {
    InitLogging("braid");
    spdlog::set_level(spdlog::level::warn);  // the terminal belongs to the conversation
    const absl::Status status = Chat(*flags);
    if (!status.ok()) fmt::print(stderr, "braid chat: {}\n", std::string(StdView(status.message())));
    *exit_code = status.ok() ? 0 : 1;
  });
}

}  // namespace braid
