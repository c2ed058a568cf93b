#include "expert_worker/worker.h"

#include <fmt/format.h>
#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>
#include <sched.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/status.h"
#include "expert_worker/dispatch.h"
#include "expert_worker/exchange/in_process.h"
#include "expert_worker/exchange/ucx.h"
#include "expert_worker/expert_parallel.h"
#include "expert_worker/load_weights.h"
#include "expert_worker/memory.h"
#include "expert_worker/probe.h"
#include "expert_worker/router_link.h"
#include "expert_worker/step_runner.h"
#include "expert_worker/worker_threads.h"
#include "kernels/thread_pool.h"
#include "model/engine.h"
#include "model/experts.h"
#include "model/host_states.h"
#include "model/model_file.h"

namespace braid {
namespace {

int CoresOfThisProcess() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) return 1;
  return std::max(1, CPU_COUNT(&cores));
}

int Threads(const WorkerOptions& options) { return options.threads > 0 ? options.threads : CoresOfThisProcess(); }

constexpr uint64_t kSnapshotBytesDefault = 64 << 20;
constexpr uint64_t kSnapshotsDefaultMax = 4096;  // where they are small

int SnapshotsMax(const WorkerOptions& options, const ModelConfig& config) {
  if (options.snapshots_max >= 0) return options.snapshots_max;
  const uint64_t bytes = std::max<uint64_t>(ConvCopyBytes(config), 1);
  return static_cast<int>(std::min(kSnapshotBytesDefault / bytes, kSnapshotsDefaultMax));
}

int AllExperts(const ModelConfig& config) { return config.moe_layer_count() * config.experts; }

std::string HostAndPid() {
  char host[256] = "worker";
  gethostname(host, sizeof(host) - 1);
  return fmt::format("{}:{}", host, getpid());
}

absl::Status CheckOptions(const WorkerOptions& options, const ModelConfig& config) {
  if (options.threads < 0 || options.threads > 1024) return InvalidArgument("threads must be in [0, 1024]");
  if (options.step_tokens_max < 1 || options.step_tokens_max > kStepRowsMax) {
    return InvalidArgument(fmt::format("step_tokens_max must be in [1, {}]", kStepRowsMax));
  }
  if (!KvTypeNamed(options.kv_type)) return InvalidArgument("kv_type must be bf16 or int8, not " + options.kv_type);
  if (config.architecture == "checksum" && options.kv_type != "bf16")
    return InvalidArgument("kv_type is " + options.kv_type +
                           ": this is a checksum model, whose numbers cannot be rounded");
  if (options.sequences_max < 1) return InvalidArgument("sequences_max must be at least 1");
  if (options.snapshots_max < -1) return InvalidArgument("snapshots_max must be at least 0, or -1 for the default");
  if (options.expert_slots < 0) return InvalidArgument("expert_slots must not be negative");
  if (options.exchange != "ucx" && options.exchange != "inprocess") {
    return InvalidArgument("exchange must be ucx or inprocess, not " + options.exchange);
  }
  if (options.exchange_timeout <= absl::ZeroDuration()) return InvalidArgument("exchange_timeout must be positive");
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ExchangeFactory>> MakeExchangeFactory(const WorkerOptions& options) {
  if (options.exchange == "inprocess") return MakeInProcessExchangeFactory();
  return MakeUcxExchangeFactory({.transports = options.ucx_transports, .spin = options.exchange_spin});
}

// Rows of the vocabulary that stand for no token.
std::vector<TokenId> TokensToMask(const ModelFile& model) {
  std::vector<TokenId> masked;
  if (!model.tokenizer().ok()) return masked;
  const TokenizerSpec& spec = *model.tokenizer();
  std::vector<bool> known(model.config().vocab_size);
  const auto mark = [&](size_t id, const std::string& text) {
    if (id < known.size() && !text.empty()) known[id] = true;
  };
  for (size_t id = 0; id < spec.tokens.size(); ++id) mark(id, spec.tokens[id]);
  for (const TokenizerSpec::AddedToken& added : spec.added) mark(static_cast<size_t>(added.id), added.text);
  for (size_t id = 0; id < known.size(); ++id) {
    if (!known[id]) masked.push_back(static_cast<TokenId>(id));
  }
  return masked;
}

std::shared_ptr<grpc::Channel> Dial(const std::string& router) {
  grpc::ChannelArguments arguments;
  // gRPC's own pauses grow to two minutes; a router that comes back is to be found at once.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);  // also how long one attempt to connect may take
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetMaxReceiveMessageSize(64 << 20);
  return grpc::CreateCustomChannel(router, grpc::InsecureChannelCredentials(), arguments);
}

v1::Hello MakeHello(const ModelFile& model, const WorkerOptions& options, int kv_blocks) {
  const ModelConfig& config = model.config();
  v1::Hello hello;
  hello.set_name(options.name.empty() ? HostAndPid() : options.name);
  hello.set_model_digest(model.digest());
  hello.set_kv_blocks(static_cast<uint64_t>(kv_blocks));
  hello.set_kv_block_tokens(kKvBlockTokens);
  hello.set_kv_type(options.kv_type);
  hello.set_sequences_max(static_cast<uint32_t>(options.sequences_max));
  hello.set_step_tokens_max(static_cast<uint32_t>(options.step_tokens_max));
  hello.set_exchange(options.exchange);
  hello.set_expert_count(static_cast<uint32_t>(config.experts));
  hello.set_context_tokens_max(
      static_cast<uint32_t>(std::min<int64_t>(config.context_tokens_max, int64_t{kv_blocks} * kKvBlockTokens)));
  hello.set_vocab_size(static_cast<uint32_t>(config.vocab_size));
  hello.set_moe_layers(static_cast<uint32_t>(config.moe_layer_count()));
  hello.set_expert_slots(static_cast<uint32_t>(ExpertSlots(options, config)));
  hello.set_group(options.group);
  hello.set_snapshots_max(static_cast<uint32_t>(SnapshotsMax(options, config)));
  return hello;
}

// Experts in pages that all processes share are read in ahead, if there is memory for all. Those in memory of our own
// only if they will be placed here: that is known of a worker without peers in other processes.
WorkerWeights::What WhatToLoad(const WorkerWeights& weights, const WorkerOptions& options, const ModelConfig& config) {
  const bool all =
      weights.packs() ? options.exchange == "inprocess" : ExpertSlots(options, config) == AllExperts(config);
  return all ? WorkerWeights::What::kAll : WorkerWeights::What::kAllButExperts;
}

// Members in the order in which they use each other; destruction runs the other way: the link lets go of the router,
// the threads stop, then what they used goes.
class WorkerImpl : public Worker {
 public:
  WorkerImpl(const ModelFile* model, std::unique_ptr<WorkerWeights> weights, const WorkerOptions& options,
             Metrics* metrics, int kv_blocks, std::unique_ptr<ExchangeFactory> exchanges)
      : config_(model->config()),
        weights_(std::move(weights)),
        probe_(metrics, config_.experts, options.expert_metrics),
        pool_(Threads(options)),
        states_(config_,
                {.blocks = kv_blocks, .sequences = options.sequences_max, .snapshots = SnapshotsMax(options, config_)},
                *KvTypeNamed(options.kv_type)),
        engine_(MakeEngine(&config_, &weights_->tensors(), &states_, &pool_)),
        exchanges_(std::move(exchanges)),
        runner_(
            &config_, &states_, &pool_,
            [this](std::span<const Chunk> chunks, ExpertRunner& experts, std::vector<float>* logits) {
              return engine_->Run(chunks, experts, logits);
            },
            {.step_tokens_max = options.step_tokens_max, .masked = TokensToMask(*model)},
            [this](int begin, int end, std::vector<float>* logits) { return engine_->Logits(begin, end, logits); }),
        threads_({.config = &config_,
                  .exchanges = exchanges_.get(),
                  .make_experts = ExpertParallelMaker(&config_, &engine_->experts(), &pool_),
                  .message_bytes_max =
                      MoeMessageBytesMax(options.step_tokens_max, config_.experts_per_token, config_.model_dim),
                  .load_experts =
                      [this](std::span<const ExpertRanks> placement, int rank, const std::function<bool()>& stop) {
                        return weights_->LoadExperts(placement, rank, stop);
                      },
                  .step_tokens_max = options.step_tokens_max,
                  .exchange_timeout = options.exchange_timeout},
                 &runner_, &probe_),
        link_(options.channel ? options.channel : Dial(options.router), MakeHello(*model, options, kv_blocks),
              &threads_, &probe_) {
    probe_.model_bytes.Set(static_cast<double>(model->weight_bytes()));
  }

  std::string NotReady() const override {
    std::string reason = link_.NotAttached();
    if (reason.empty() && threads_.serving_epoch() == 0) reason = "waiting for the router to begin an epoch";
    return reason;
  }

  void Shutdown(absl::Duration grace) override { link_.Leave(grace); }

 private:
  const ModelConfig& config_;
  const std::unique_ptr<WorkerWeights> weights_;
  WorkerProbe probe_;
  ThreadPool pool_;
  HostStates states_;
  const std::unique_ptr<Engine> engine_;
  const std::unique_ptr<ExchangeFactory> exchanges_;
  StepRunner runner_;
  WorkerThreads threads_;
  RouterLink link_;
};

}  // namespace

int ExpertSlots(const WorkerOptions& options, const ModelConfig& config) {
  const int all = AllExperts(config);
  return options.expert_slots > 0 ? std::min(options.expert_slots, all) : all;
}

absl::StatusOr<std::unique_ptr<Worker>> Worker::Start(const ModelFile* model, const WorkerOptions& options,
                                                      Metrics* metrics, const std::function<bool()>& stop) {
  RETURN_IF_ERROR(CheckOptions(options, model->config()));
  const KvType kv_type = *KvTypeNamed(options.kv_type);
  ASSIGN_OR_RETURN(std::unique_ptr<WorkerWeights> weights, WorkerWeights::Create(model, Threads(options)));
  RETURN_IF_ERROR(weights->Load(WhatToLoad(*weights, options, model->config()), stop));
  ASSIGN_OR_RETURN(const int kv_blocks,
                   ChooseKvBlocks(model->config(), kv_type, options.kv_bytes, AvailableMemoryBytes()));
  ASSIGN_OR_RETURN(std::unique_ptr<ExchangeFactory> exchanges, MakeExchangeFactory(options));
  spdlog::info("KV cache: {} blocks of {} tokens in {}, {} MiB when full", kv_blocks, kKvBlockTokens, options.kv_type,
               (KvBlockBytes(model->config(), kv_type) * static_cast<uint64_t>(kv_blocks)) >> 20);
  return std::make_unique<WorkerImpl>(model, std::move(weights), options, metrics, kv_blocks, std::move(exchanges));
}

}  // namespace braid
