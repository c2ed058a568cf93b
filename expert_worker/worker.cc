#include "expert_worker/worker.h"

#include <fmt/format.h>
#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "base/host.h"
#include "base/status.h"
#include "expert_worker/backend.h"
#include "expert_worker/compute_device.h"
#include "expert_worker/probe.h"
#include "expert_worker/router_link.h"
#include "expert_worker/step_runner.h"
#include "expert_worker/worker_threads.h"
#include "kernels/thread_pool.h"
#include "model/model_file.h"
#include "model/sequence_states.h"

namespace braid {
namespace {

// GPUs reach each other over NVLink where NCCL takes them for neighbours: it, too, goes by these two.
std::string NvlinkHost() { return fmt::format("{} {}", HostName(), BootId()); }

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
  if (!options.exchange.empty() && options.exchange != "ucx" && options.exchange != "inprocess" &&
      options.exchange != "nccl") {
    return InvalidArgument("exchange must be ucx, inprocess or nccl, not " + options.exchange);
  }
  if (options.exchange_timeout <= absl::ZeroDuration()) return InvalidArgument("exchange_timeout must be positive");
  return absl::OkStatus();
}

// A process cannot have a GPU that has failed back, but the next one can, if there is anything left of it. Ends without
// destroying anything: that would wait for the device. To the router this worker is dead from here on.
void EndProcess(const absl::Status& why) {
  spdlog::critical("this worker cannot go on, start it again: {}", why.ToString());
  spdlog::default_logger()->flush();
  std::_Exit(EXIT_FAILURE);
}

// What a CPU does not fail of.
std::function<absl::Status()> DeviceCheck(const ComputeDevice& device, std::function<absl::Status()> check) {
  return device.is_cuda() ? std::move(check) : nullptr;
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

v1::Hello MakeHello(const ModelFile& model, const WorkerOptions& options, const ComputeDevice& device,
                    const StateSizes& sizes, int ranks_max) {
  const ModelConfig& config = model.config();
  v1::Hello hello;
  hello.set_name(options.name.empty() ? fmt::format("{}:{}", HostName(), getpid()) : options.name);
  hello.set_model_digest(model.digest());
  hello.set_kv_blocks(static_cast<uint64_t>(sizes.blocks));
  hello.set_kv_block_tokens(kKvBlockTokens);
  hello.set_kv_type(options.kv_type);
  hello.set_sequences_max(static_cast<uint32_t>(sizes.sequences));
  hello.set_step_tokens_max(static_cast<uint32_t>(options.step_tokens_max));
  hello.set_arithmetic(device.Arithmetic());
  hello.set_exchange(device.exchange);
  hello.set_expert_count(static_cast<uint32_t>(config.experts));
  hello.set_context_tokens_max(
      static_cast<uint32_t>(std::min<int64_t>(config.context_tokens_max, int64_t{sizes.blocks} * kKvBlockTokens)));
  hello.set_vocab_size(static_cast<uint32_t>(config.vocab_size));
  hello.set_moe_layers(static_cast<uint32_t>(config.moe_layer_count()));
  hello.set_expert_slots(static_cast<uint32_t>(ExpertSlots(options, config)));
  hello.set_group(options.group);
  if (device.is_cuda()) hello.set_host(NvlinkHost());
  hello.set_snapshots_max(static_cast<uint32_t>(sizes.snapshots));
  hello.set_ranks_max(static_cast<uint32_t>(ranks_max));
  return hello;
}

// Members in the order in which they use each other; destruction runs the other way: the link lets go of the router,
// the threads stop, then what they used goes.
class WorkerImpl : public Worker {
 public:
  WorkerImpl(const ModelFile* model, const WorkerOptions& options, Metrics* metrics, const ComputeDevice& device,
             std::vector<TokenId> masked, std::unique_ptr<ThreadPool> pool, std::unique_ptr<Backend> backend)
      : config_(model->config()),
        probe_(metrics, config_.experts, options.expert_metrics),
        pool_(std::move(pool)),
        backend_(std::move(backend)),
        runner_(
            &config_, &backend_->states(), pool_.get(),
            [this](std::span<const Chunk> chunks, ExpertRunner& experts, std::vector<float>* logits) {
              return backend_->engine().Run(chunks, experts, logits);
            },
            {.step_tokens_max = options.step_tokens_max, .masked = std::move(masked)},
            [this](int begin, int end, std::vector<float>* logits) {
              return backend_->engine().Logits(begin, end, logits);
            },
            backend_->engine().draws() ? &backend_->engine() : nullptr),
        threads_(
            {.config = &config_,
             .exchanges = &backend_->exchanges(),
             .make_experts = [this](Exchange* exchange,
                                    EpochPlace place) { return backend_->MakeExperts(exchange, std::move(place)); },
             .message_bytes_max = backend_->message_bytes_max(),
             .load_experts =
                 [this](std::span<const ExpertRanks> placement, int rank, const std::function<bool()>& stop) {
                   return backend_->LoadExperts(placement, rank, stop);
                 },
             .check_device = DeviceCheck(device, [this] { return backend_->CheckDevice(); }),
             .recover = DeviceCheck(device, [this] { return backend_->engine().Recover(); }),
             .give_up = EndProcess,
             .step_tokens_max = options.step_tokens_max,
             .exchange_timeout = options.exchange_timeout},
            &runner_, &probe_),
        link_(options.channel ? options.channel : Dial(options.router),
              MakeHello(*model, options, device, backend_->states().sizes(), backend_->ranks_max()), &threads_,
              &probe_) {
    probe_.model_bytes.Set(static_cast<double>(model->weight_bytes()));
    probe_.ComputesOn(device.Name(), device.Arithmetic());
  }

  std::string NotReady() const override {
    std::string reason = link_.NotAttached();
    if (reason.empty() && threads_.serving_epoch() == 0) reason = "waiting for the router to begin an epoch";
    return reason;
  }

  void Shutdown(absl::Duration grace) override { link_.Leave(grace); }

 private:
  const ModelConfig& config_;
  WorkerProbe probe_;
  const std::unique_ptr<ThreadPool> pool_;
  const std::unique_ptr<Backend> backend_;
  StepRunner runner_;
  WorkerThreads threads_;
  RouterLink link_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Worker>> Worker::Start(const ModelFile* model, const WorkerOptions& options,
                                                      Metrics* metrics, const std::function<bool()>& stop) {
  RETURN_IF_ERROR(CheckOptions(options, model->config()));
  ASSIGN_OR_RETURN(const ComputeDevice device, ChooseDevice(options));
  RETURN_IF_ERROR(CheckModelFits(device, model->config()));
  RETURN_IF_ERROR(CheckPresent(device));
  std::vector<TokenId> masked = TokensToMask(*model);
  auto pool = std::make_unique<ThreadPool>(ComputeThreads(options));
  ASSIGN_OR_RETURN(
      std::unique_ptr<Backend> backend,
      MakeBackend(
          {.model = model, .options = &options, .device = device, .pool = pool.get(), .masked = masked, .stop = stop}));
  return std::make_unique<WorkerImpl>(model, options, metrics, device, std::move(masked), std::move(pool),
                                      std::move(backend));
}

}  // namespace braid
