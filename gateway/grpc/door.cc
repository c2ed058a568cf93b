#include "gateway/grpc/door.h"

#include <fmt/format.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <random>
#include <string_view>
#include <utility>

#include "absl/time/clock.h"
#include "braid/v1/inference.grpc.pb.h"
#include "gateway/grpc/convert.h"
#include "gateway/grpc/stream.h"
#include "gateway/timers.h"
#include "gateway/work_pool.h"

namespace braid {
namespace {

constexpr char kServiceName[] = "braid.v1.Inference";
constexpr int kPoolThreads = 2;
constexpr size_t kPoolQueueMax = 1024;
constexpr absl::Duration kHealthPeriod = absl::Milliseconds(100);

// Takes as long for every wrong key, so that its time says nothing about the right one.
bool SameKey(std::string_view given, std::string_view expected) {
  unsigned difference = given.size() == expected.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i)
    difference |= static_cast<unsigned char>(given[i]) ^ static_cast<unsigned char>(expected[i % expected.size()]);
  return difference == 0;
}

std::string_view Metadata(const grpc::CallbackServerContext& context, const char* key) {
  const auto found = context.client_metadata().find(key);
  if (found == context.client_metadata().end()) return {};
  return {found->second.data(), found->second.size()};
}

bool IsRequestId(std::string_view id) {
  const auto allowed = [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_' || c == '.'; };
  return !id.empty() && id.size() <= 128 && std::ranges::all_of(id, allowed);
}

std::string RequestId(const grpc::CallbackServerContext& context) {
  const std::string_view given = Metadata(context, "x-request-id");
  if (IsRequestId(given)) return std::string(given);
  std::random_device random;
  return fmt::format("req-{:08x}{:08x}{:08x}", random(), random(), random());
}

const ApiError kBusy = {absl::StatusCode::kResourceExhausted, "rate_limit_exceeded", "",
                        "too many requests are waiting to be read; try again in a moment", absl::Seconds(1)};

class InferenceRpc final : public v1::Inference::CallbackService {
 public:
  InferenceRpc(Inference* inference, GrpcOptions options)
      : inference_(inference), options_(std::move(options)), pool_(kPoolThreads, kPoolQueueMax) {}

  grpc::ServerWriteReactor<v1::ChatResponse>* Chat(grpc::CallbackServerContext* context,
                                                   const v1::ChatRequest* request) override {
    return Stream<v1::ChatResponse>(context, "Chat", ToChatResponses,
                                    [this, request](const std::string& id, Inference::Sink sink) {
                                      return StartChat(*request, id, std::move(sink));
                                    });
  }

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(grpc::CallbackServerContext* context,
                                                           const v1::GenerateRequest* request) override {
    return Stream<v1::GenerateResponse>(context, "Generate", ToGenerateResponses,
                                        [this, request](const std::string& id, Inference::Sink sink) {
                                          return StartCompletion(*request, id, std::move(sink));
                                        });
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    return Unary(context, [this, request, response]() -> std::optional<ApiError> {
      auto tokens = TokenizeInput(*request);
      if (auto* error = std::get_if<ApiError>(&tokens)) return std::move(*error);
      const auto& ids = std::get<std::vector<TokenId>>(tokens);
      response->mutable_tokens()->Add(ids.begin(), ids.end());
      response->set_context_tokens_max(static_cast<uint32_t>(inference_->model().context_tokens_max));
      return std::nullopt;
    });
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context, const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override {
    return Unary(context, [this, request, response]() -> std::optional<ApiError> {
      auto text = inference_->Detokenize(request->model(), {request->tokens().begin(), request->tokens().end()});
      if (auto* error = std::get_if<ApiError>(&text)) return std::move(*error);
      response->set_text(std::get<std::string>(std::move(text)));
      return std::nullopt;
    });
  }

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context, const v1::ListModelsRequest*,
                                       v1::ListModelsResponse* response) override {
    return Unary(context, [this, response]() -> std::optional<ApiError> {
      const ModelInfo info = inference_->model();
      v1::Model* model = response->add_models();
      model->set_id(info.id);
      model->set_created_unix_s(info.created_unix_s);
      model->set_context_tokens_max(static_cast<uint32_t>(info.context_tokens_max));
      model->set_digest(info.digest);
      model->set_has_chat_template(info.has_chat_template);
      model->set_arithmetic(info.arithmetic);
      model->set_kv_type(info.kv_type);
      return std::nullopt;
    });
  }

 private:
  using Started = std::variant<ApiError, std::unique_ptr<Call>>;

  std::optional<ApiError> Refuse(const grpc::CallbackServerContext& context) const {
    if (options_.api_key.empty()) return std::nullopt;
    if (SameKey(Metadata(context, "authorization"), "Bearer " + options_.api_key)) return std::nullopt;
    return ApiError{absl::StatusCode::kUnauthenticated, "invalid_api_key", "",
                    "send the metadata 'authorization: Bearer KEY' with a valid key", std::nullopt};
  }

  // `start` refers to the request, which belongs to gRPC and lives until the stream has begun.
  template <typename Response, typename Start>
  EventStream<Response>* Stream(grpc::CallbackServerContext* context, const char* method,
                                typename EventStream<Response>::Convert convert, Start start) {
    const std::string id = RequestId(*context);
    context->AddInitialMetadata("x-request-id", id);
    CallRecord record(options_.audit, fmt::format("/{}/{}", kServiceName, method), id, inference_->model().digest);
    auto stream = EventStream<Response>::Create(context, convert, std::move(record));
    EventStream<Response>* const reactor = stream.get();
    if (auto refusal = Refuse(*context)) {
      stream->Refuse(*std::move(refusal));
    } else {
      const bool queued = pool_.TryRun(
          [stream, id, start] { stream->Begin([&](Inference::Sink sink) { return start(id, std::move(sink)); }); });
      if (!queued) stream->Refuse(kBusy);
    }
    return reactor;
  }

  Started StartChat(const v1::ChatRequest& request, const std::string& id, Inference::Sink sink) {
    auto chat = FromProto(request);
    if (auto* error = std::get_if<ApiError>(&chat)) return std::move(*error);
    return inference_->StartChat(std::get<ChatRequest>(std::move(chat)), id, std::move(sink));
  }

  Started StartCompletion(const v1::GenerateRequest& request, const std::string& id, Inference::Sink sink) {
    auto completion = FromProto(request);
    if (auto* error = std::get_if<ApiError>(&completion)) return std::move(*error);
    return inference_->StartCompletion(std::get<CompletionRequest>(std::move(completion)), id, std::move(sink));
  }

  std::variant<ApiError, std::vector<TokenId>> TokenizeInput(const v1::TokenizeRequest& request) {
    if (!request.has_chat()) {
      const bool add_bos = !request.has_add_special_tokens() || request.add_special_tokens();
      return inference_->Tokenize(request.model(), request.text(), add_bos);
    }
    auto chat = FromProto(request.chat());
    if (auto* error = std::get_if<ApiError>(&chat)) return std::move(*error);
    ChatRequest& read = std::get<ChatRequest>(chat);
    if (read.model.empty()) read.model = request.model();
    return inference_->TokenizeChat(read);
  }

  template <typename Work>
  grpc::ServerUnaryReactor* Unary(grpc::CallbackServerContext* context, Work work) {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    const auto finish = [context, reactor](const std::optional<ApiError>& error) {
      if (error) AddErrorTrailers(*error, context);
      reactor->Finish(error ? ToGrpcStatus(*error) : grpc::Status::OK);
    };
    if (const auto refusal = Refuse(*context)) {
      finish(refusal);
    } else if (!pool_.TryRun([finish, work] { finish(work()); })) {
      finish(kBusy);
    }
    return reactor;
  }

  Inference* const inference_;
  const GrpcOptions options_;
  WorkPool pool_;
};

class GrpcDoorImpl final : public GrpcDoor {
 public:
  GrpcDoorImpl(Inference* inference, const GrpcOptions& options) : inference_(inference), rpc_(inference, options) {}
  ~GrpcDoorImpl() override { Stop(absl::ZeroDuration()); }

  absl::Status Listen(const GrpcOptions& options) {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    const std::string address = fmt::format("{}:{}", options.host, options.port);
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // or two servers would share a port without a word
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 1024);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
    builder.SetMaxReceiveMessageSize(static_cast<int>(std::min<size_t>(options.body_bytes_max, INT32_MAX)));
    builder.RegisterService(&rpc_);
    server_ = builder.BuildAndStart();
    if (!server_ || port_ == 0)
      return absl::UnavailableError(fmt::format("cannot listen for gRPC on {}: is the port taken?", address));
    ShowHealth();
    return absl::OkStatus();
  }

  int port() const override { return port_; }

  void Stop(absl::Duration grace) override {
    health_.Stop();
    if (!server_) return;
    server_->GetHealthCheckService()->Shutdown();
    server_->Shutdown(absl::ToChronoTime(absl::Now() + grace));
    server_->Wait();
    server_ = nullptr;
  }

 private:
  void ShowHealth() {
    const bool serving = inference_->NotReady().empty();
    server_->GetHealthCheckService()->SetServingStatus("", serving);
    server_->GetHealthCheckService()->SetServingStatus(kServiceName, serving);
    health_.After(kHealthPeriod, [this] { ShowHealth(); });
  }

  Inference* const inference_;
  InferenceRpc rpc_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  Timers health_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcDoor>> GrpcDoor::Start(Inference* inference, const GrpcOptions& options) {
  auto door = std::make_unique<GrpcDoorImpl>(inference, options);
  if (absl::Status status = door->Listen(options); !status.ok()) return status;
  return door;
}

}  // namespace braid
