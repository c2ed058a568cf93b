// braid-gateway: the front door of a cluster. Speaks HTTP and gRPC with callers, token ids with the router.

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <memory>
#include <string>

#include "base/logging.h"
#include "base/status.h"
#include "base/stop_signal.h"
#include "gateway/api_key.h"
#include "gateway/gateway.h"
#include "model/model_file.h"
#include "monitoring/metrics.h"

namespace braid {
namespace {

struct Flags {
  GatewayOptions gateway;
  std::string model;
  std::string api_key_file;
  int request_timeout_s = 3600;
  int drain_s = 30;
};

void AddFlags(CLI::App& app, Flags& flags) {
  GatewayOptions& gateway = flags.gateway;
  auto add = [&app](const char* name, auto& value, const char* help, const char* variable) {
    return app.add_option(name, value, help)->capture_default_str()->envname(variable);
  };
  add("--model", flags.model, "a .gguf file or a Hugging Face directory; the workers' model", "BRAID_MODEL")
      ->required();
  add("--router", gateway.router, "host:port of the router", "BRAID_ROUTER");
  add("--host", gateway.host, "address to listen on", "BRAID_GATEWAY_HOST");
  // Not BRAID_GATEWAY_PORT: Kubernetes sets that one, to an address, where a Service is called braid-gateway.
  add("--port", gateway.http_port, "HTTP port; 0 picks one", "BRAID_HTTP_PORT");
  add("--grpc-port", gateway.grpc_port, "gRPC port; 0 picks one, -1: none", "BRAID_GRPC_PORT");
  add("--api-key-file", flags.api_key_file, "file whose first line callers must send as Bearer token; empty: none",
      "BRAID_API_KEY_FILE");
  add("--model-name", gateway.model_name, "name that callers use; empty: the file's", "BRAID_MODEL_NAME");
  add("--audit", gateway.audit_path, "file that gets one JSON line per request; empty: none", "BRAID_AUDIT");
  add("--body-bytes-max", gateway.body_bytes_max, "largest request", "BRAID_GATEWAY_BODY_BYTES_MAX");
  add("--connections-max", gateway.connections_max, "HTTP connections at once", "BRAID_GATEWAY_CONNECTIONS_MAX");
  add("--requests-max", gateway.requests_max, "requests in progress; more are refused with a retry hint",
      "BRAID_GATEWAY_REQUESTS_MAX");
  add("--answer-tokens-default", gateway.answer_tokens_default,
      "longest answer of a request without max_tokens, which memory is reserved for; 0: what the context has left",
      "BRAID_GATEWAY_ANSWER_TOKENS_DEFAULT");
  add("--share-prefixes", gateway.share_prefixes,
      "whose prompts that begin alike share what is computed of that: user (the same API key and `user`), all, none",
      "BRAID_GATEWAY_SHARE_PREFIXES");
  add("--request-timeout-s", flags.request_timeout_s, "seconds after which a request is ended",
      "BRAID_GATEWAY_REQUEST_TIMEOUT_S");
  add("--drain-s", flags.drain_s, "seconds that requests get to finish after SIGTERM", "BRAID_GATEWAY_DRAIN_S");
}

absl::Status Run(Flags& flags, StopSignal& stop) {
  ASSIGN_OR_RETURN(flags.gateway.api_key, ReadApiKey(flags.api_key_file));
  flags.gateway.request_timeout = absl::Seconds(flags.request_timeout_s);
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelFile> model, ModelFile::Open(flags.model));
  Metrics metrics;
  ASSIGN_OR_RETURN(const std::unique_ptr<Gateway> gateway, Gateway::Start(model.get(), flags.gateway, &metrics));
  spdlog::info("listening on http://{}:{}", flags.gateway.host, gateway->http_port());
  if (gateway->grpc_port() > 0) spdlog::info("listening for gRPC on {}:{}", flags.gateway.host, gateway->grpc_port());
  while (!stop.Wait(absl::Hours(1))) {
  }
  spdlog::info("draining, at most {} s", flags.drain_s);
  gateway->Shutdown(absl::Seconds(flags.drain_s));
  return absl::OkStatus();
}

}  // namespace
}  // namespace braid

int main(int argc, char** argv) {
  braid::StopSignal stop;
  CLI::App app("braid-gateway: the HTTP and gRPC front door of a Braid cluster");
  braid::Flags flags;
  braid::AddFlags(app, flags);
  CLI11_PARSE(app, argc, argv);
  braid::InitLogging("gateway");
  const absl::Status status = braid::Run(flags, stop);
  if (status.ok()) return EXIT_SUCCESS;
  spdlog::error("{}", braid::StdView(status.message()));
  return EXIT_FAILURE;
}
