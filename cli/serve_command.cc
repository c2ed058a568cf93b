#include "cli/serve_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "base/logging.h"
#include "base/status.h"
#include "base/stop_signal.h"
#include "cli/local_stack.h"
#include "gateway/api_key.h"

namespace braid {
namespace {

struct ServeFlags {
  LocalStackOptions stack;
  bool demo = false;
  std::string api_key_file;
  int drain_seconds = 30;
};

void PrintBanner(const LocalStack& stack, const std::string& host) {
  const int http = stack.gateway().http_port();
  fmt::print(
      "\nBraid serves {} at\n  http://{}:{}/v1   OpenAI's API; /health, /metrics\n  {}:{}          gRPC, "
      "braid.v1.Inference"
      "\n\nTry it:\n  curl http://{}:{}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
      "    -d '{{\"messages\": [{{\"role\": \"user\", \"content\": \"Hello! Who are you?\"}}]}}'\n\nCtrl-C ends it.\n",
      stack.model().config().name, host, http, host, stack.gateway().grpc_port(), host, http);
  std::fflush(stdout);
}

absl::Status Serve(ServeFlags flags) {
  if (flags.demo == !flags.stack.model_path.empty())
    return InvalidArgument("give either --model PATH (a GGUF file or a Hugging Face directory) or --demo");
  if (flags.demo) {
    ASSIGN_OR_RETURN(flags.stack.model_path, FindDemoModel());
  }
  ASSIGN_OR_RETURN(flags.stack.api_key, ReadApiKey(flags.api_key_file));
  StopSignal stop;  // before any thread starts, so that all of them leave SIGTERM to us
  auto started = LocalStack::Start(flags.stack, [&stop] { return stop.Wait(absl::ZeroDuration()); });
  if (absl::IsCancelled(started.status())) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::unique_ptr<LocalStack> stack, std::move(started));
  std::string shown;
  bool ready = false;
  while (!stop.Wait(absl::Milliseconds(100))) {
    stack->Supervise(absl::Now());
    const std::string reason = stack->gateway().NotReady();
    if (reason.empty() && !ready) PrintBanner(*stack, flags.stack.host);
    if (!reason.empty() && reason != shown) spdlog::info("not ready: {}", reason);
    ready = ready || reason.empty();
    shown = reason;
  }
  spdlog::info("draining: running answers have {} s", flags.drain_seconds);
  stack->Shutdown(absl::Seconds(flags.drain_seconds));
  return absl::OkStatus();
}

}  // namespace

void AddServeCommand(CLI::App& app, int* exit_code) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* serve = app.add_subcommand("serve", "Serve a model on this machine: gateway, router and workers together");
  serve->add_option("--model", flags->stack.model_path, "A GGUF file or a Hugging Face directory");
  serve->add_flag("--demo", flags->demo, "Serve the small model that ships with Braid");
  serve->add_option("--workers", flags->stack.workers, "Worker processes; without it all runs in one process")
      ->check(CLI::Range(0, 64));
  serve->add_option("--threads", flags->stack.threads, "Compute threads over all workers; 0: one per core")
      ->check(CLI::Range(0, 1024));
  serve
      ->add_option("--device", flags->stack.device,
                   "What computes: cpu, cuda (with --workers a GPU for each), or cuda:N")
      ->envname("BRAID_WORKER_DEVICE")
      ->capture_default_str();
  serve->add_option(
      "--precision", flags->stack.precision,
      "Of activations on a GPU: bf16, the default; fp8, which is --weights fp8 and rounds alike what those "
      "weights are multiplied by; or float32, to compare with the CPU");
  serve->add_flag(
      "--exact,!--fast", flags->stack.exact,
      "On a GPU: the bits of an answer do not depend on what it is computed with (--exact, the default), or "
      "may (--fast)");
  serve
      ->add_option(
          "--overlap-rows", flags->stack.overlap_rows,
          "Between GPUs: steps in which some worker has at least so many rows go in halves, the exchange of one "
          "beside the computing of the other; 0: none do")
      ->check(CLI::Range(0, 1 << 16))
      ->capture_default_str();
  serve
      ->add_option(
          "--weights", flags->stack.weights,
          "On a GPU: as in the model's file, or fp8, half the bytes of those that are in floats there, at some "
          "distance from the model")
      ->check(CLI::IsMember({"auto", "fp8"}))
      ->capture_default_str();
  serve
      ->add_option("--kv-bytes", flags->stack.kv_bytes,
                   "Memory for keys and values over all workers, such as 2G; 0: chosen")
      ->transform(CLI::AsSizeValue(false));
  serve
      ->add_option("--kv-type", flags->stack.kv_type,
                   "How keys and values are kept: int8 takes half the memory of bf16, at some distance from the model")
      ->check(CLI::IsMember({"bf16", "int8"}))
      ->capture_default_str();
  serve
      ->add_option("--answer-tokens-default", flags->stack.answer_tokens_default,
                   "Longest answer of a request without max_tokens, which memory is reserved for; 0: what the context "
                   "has left")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  serve
      ->add_option("--draft-tokens-max", flags->stack.draft_tokens_max,
                   "Tokens of one answer that a step guesses and checks at once, where that pays; answers stay the "
                   "same. 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  serve->add_option("--host", flags->stack.host, "Address to listen on")->capture_default_str();
  serve->add_option("--port", flags->stack.http_port, "HTTP port; 0 picks one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  serve->add_option("--grpc-port", flags->stack.grpc_port, "gRPC port; 0 picks one, -1 for none")
      ->check(CLI::Range(-1, 65535))
      ->capture_default_str();
  serve->add_option("--model-name", flags->stack.model_name, "The name callers use; default: the file's");
  serve->add_option("--api-key-file", flags->api_key_file, "A file whose first line callers must send as Bearer token");
  serve
      ->add_option("--share-prefixes", flags->stack.share_prefixes,
                   "Whose prompts that begin alike share what is computed of that: user (callers who send the same "
                   "`user`, or none), all, none")
      ->check(CLI::IsMember({"user", "all", "none"}))
      ->capture_default_str();
  serve->add_option("--audit", flags->stack.audit_path, "Write one JSON line per request to this file");
  serve->add_option("--drain-seconds", flags->drain_seconds, "How long running answers may go on after SIGTERM")
      ->check(CLI::Range(0, 3600))
      ->capture_default_str();
  serve->callback([flags, exit_code] {
    InitLogging("braid");
    const absl::Status status = Serve(*flags);
    if (!status.ok()) fmt::print(stderr, "braid serve: {}\n", std::string(StdView(status.message())));
    *exit_code = status.ok() ? 0 : 1;
  });
}

}  // namespace braid
