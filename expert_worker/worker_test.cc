#include "expert_worker/worker.h"

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "braid/v1/worker.grpc.pb.h"
#include "expert_worker/memory.h"
#include "expert_worker/tiny_model.h"
#include "model/kv_cache.h"

// Whole workers against a router that does what the test says.

namespace braid {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(30);

// Everything a worker said, and a way to answer. Streams are numbered as they come.
class FakeRouter : public v1::WorkerControl::Service {
 public:
  FakeRouter() {
    grpc::ServerBuilder builder;
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeRouter() override {
    {
      absl::MutexLock lock(&mutex_);
      for (auto& [id, stream] : streams_) {
        if (stream.context) stream.context->TryCancel();
      }
    }
    server_->Shutdown();
  }

  std::shared_ptr<grpc::Channel> Channel() { return server_->InProcessChannel({}); }

  // The next message of `stream` that is not a heartbeat; a message without a case if none came in time.
  v1::AttachRequest Next(int stream) {
    absl::MutexLock lock(&mutex_);
    const auto ready = [&] { return !streams_[stream].said.empty(); };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&ready), kPatience)) return {};
    v1::AttachRequest message = std::move(streams_[stream].said.front());
    streams_[stream].said.pop_front();
    return message;
  }
  void Send(int stream, const v1::AttachResponse& message) {
    absl::MutexLock lock(&mutex_);
    streams_[stream].stream->Write(message);
  }
  void WaitForHeartbeat(int stream) {
    absl::MutexLock lock(&mutex_);
    const int before = streams_[stream].beats;
    const auto beaten = [&] { return streams_[stream].beats > before; };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&beaten), kPatience));
  }
  // Ends the stream from the router's side.
  void Close(int stream) {
    absl::MutexLock lock(&mutex_);
    streams_[stream].context->TryCancel();
  }
  // Says Welcome to the Hello of `stream` and returns that.
  v1::Hello Welcome(int stream, int timeout_ms = 60000) {
    v1::AttachRequest hello = Next(stream);
    EXPECT_TRUE(hello.has_hello()) << hello.ShortDebugString();
    v1::AttachResponse message;
    message.mutable_welcome()->set_worker_id(stream + 1);
    message.mutable_welcome()->set_heartbeat_ms(20);
    message.mutable_welcome()->set_heartbeat_timeout_ms(timeout_ms);
    Send(stream, message);
    return hello.hello();
  }

 private:
  using Stream = grpc::ServerReaderWriter<v1::AttachResponse, v1::AttachRequest>;
  struct Peer {
    grpc::ServerContext* context = nullptr;
    Stream* stream = nullptr;
    std::deque<v1::AttachRequest> said;
    int beats = 0;
  };

  grpc::Status Attach(grpc::ServerContext* context, Stream* stream) override {
    int id = 0;
    {
      absl::MutexLock lock(&mutex_);
      id = attached_++;
      streams_[id].context = context;
      streams_[id].stream = stream;
    }
    v1::AttachRequest message;
    while (stream->Read(&message)) {
      absl::MutexLock lock(&mutex_);
      const bool leaving = message.has_leaving();
      if (message.has_heartbeat()) {
        ++streams_[id].beats;
      } else {
        streams_[id].said.push_back(message);
      }
      if (leaving) break;  // let it go
    }
    absl::MutexLock lock(&mutex_);
    streams_[id].context = nullptr;
    return grpc::Status::OK;
  }

  absl::Mutex mutex_;
  std::map<int, Peer> streams_;
  int attached_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

v1::AttachResponse Prepare(uint64_t epoch, int rank, int size) {
  v1::AttachResponse message;
  message.mutable_prepare()->set_epoch(epoch);
  message.mutable_prepare()->set_rank(rank);
  message.mutable_prepare()->set_size(size);
  return message;
}

v1::AttachResponse Plan(uint64_t epoch, uint64_t step) {
  v1::AttachResponse message;
  message.mutable_step_plan()->set_epoch(epoch);
  message.mutable_step_plan()->set_step(step);
  return message;
}

void AddStart(v1::StepPlan* plan, uint64_t id, uint32_t prompt_tokens) {
  v1::SequenceStart* start = plan->add_start();
  start->set_sequence(id);
  start->set_prompt_tokens(prompt_tokens);
  start->set_kv_blocks(2);
  start->mutable_sampling()->set_temperature(1);
  start->mutable_sampling()->set_top_p(1);
  start->mutable_sampling()->set_repetition_penalty(1);
  start->mutable_sampling()->set_seed(id);
}

void AddChunk(v1::StepPlan* plan, uint64_t id, uint32_t position, const std::vector<TokenId>& tokens) {
  v1::SequenceChunk* chunk = plan->add_chunks();
  chunk->set_sequence(id);
  chunk->set_position(position);
  for (TokenId token : tokens) chunk->add_tokens(token);
  chunk->set_sample(true);
}

// A router, a model, and workers on streams 0, 1, ... in the order in which they are started.
class Cluster {
 public:
  explicit Cluster(std::string exchange = "inprocess") : exchange_(std::move(exchange)) {}

  WorkerOptions Options() {
    WorkerOptions options;
    options.channel = router_.Channel();
    options.exchange = exchange_;
    options.threads = 1;
    options.kv_bytes = 4 << 20;
    options.step_tokens_max = 64;
    options.sequences_max = 8;
    return options;
  }

  std::unique_ptr<Worker> StartWorker() {
    auto worker = Worker::Start(&model_, Options(), &metrics_);
    EXPECT_TRUE(worker.ok()) << worker.status();
    hello_ = router_.Welcome(streams_++);
    return *std::move(worker);
  }

  // Prepare and Configure on the first `size` streams, expert e at rank e % size.
  void BeginEpoch(uint64_t epoch, int size, int first_stream = 0) {
    std::vector<std::string> addresses;
    for (int rank = 0; rank < size; ++rank) router_.Send(first_stream + rank, Prepare(epoch, rank, size));
    for (int rank = 0; rank < size; ++rank) {
      const v1::AttachRequest prepared = router_.Next(first_stream + rank);
      ASSERT_EQ(prepared.prepared().epoch(), epoch) << prepared.ShortDebugString();
      addresses.push_back(prepared.prepared().address());
    }
    v1::AttachResponse message;
    message.mutable_configure()->set_epoch(epoch);
    for (const std::string& address : addresses) message.mutable_configure()->add_addresses(address);
    for (int e = 0; e < model_.config().experts; ++e) message.mutable_configure()->add_expert_rank(e % size);
    for (int rank = 0; rank < size; ++rank) router_.Send(first_stream + rank, message);
    for (int rank = 0; rank < size; ++rank) {
      const v1::AttachRequest configured = router_.Next(first_stream + rank);
      ASSERT_EQ(configured.configured().epoch(), epoch) << configured.ShortDebugString();
    }
  }

  // The tokens of one sequence per rank, with an epoch of `size` workers.
  std::vector<std::vector<TokenId>> Generate(uint64_t epoch, int size, int tokens) {
    std::vector<std::vector<TokenId>> answers(2);
    for (int step = 1; step <= tokens; ++step) {
      std::vector<v1::AttachResponse> plans(size, Plan(epoch, step));
      for (int s = 0; s < 2; ++s) {
        v1::StepPlan* plan = plans[s % size].mutable_step_plan();
        if (step == 1) {
          AddStart(plan, s + 1, 3);
          AddChunk(plan, s + 1, 0, {4 + s, 7, 9});
        } else {
          AddChunk(plan, s + 1, 1 + step, {answers[s].back()});
        }
      }
      for (int rank = 0; rank < size; ++rank) router_.Send(rank, plans[rank]);
      for (int rank = 0; rank < size; ++rank) {
        const v1::AttachRequest done = router_.Next(rank);
        EXPECT_TRUE(done.has_step_done()) << done.ShortDebugString();
        EXPECT_EQ(done.step_done().step(), step);
        for (const v1::Sampled& sampled : done.step_done().sampled()) {
          answers[sampled.sequence() - 1].push_back(sampled.token().token());
        }
      }
    }
    return answers;
  }

  FakeRouter& router() { return router_; }
  const TinyWorkerModel& model() const { return model_; }
  Metrics* metrics() { return &metrics_; }
  const v1::Hello& hello() const { return hello_; }  // of the last worker started

 private:
  const std::string exchange_;
  const TinyWorkerModel model_;
  Metrics metrics_;
  FakeRouter router_;  // goes after the workers, which the tests hold
  int streams_ = 0;
  v1::Hello hello_;
};

TEST(Worker, SaysWhatItCanDo) {
  Cluster cluster;
  auto worker = cluster.StartWorker();
  const v1::Hello& hello = cluster.hello();
  EXPECT_EQ(hello.model_digest(), cluster.model().digest());
  EXPECT_EQ(hello.vocab_size(), static_cast<uint32_t>(TinyWorkerModel::kVocab));
  EXPECT_EQ(hello.expert_count(), 8u);
  EXPECT_EQ(hello.context_tokens_max(), 512u);
  EXPECT_EQ(hello.exchange(), "inprocess");
  EXPECT_EQ(hello.kv_blocks(), 256u);
  EXPECT_EQ(hello.kv_block_tokens(), 32u);
  EXPECT_EQ(hello.sequences_max(), 8u);
  EXPECT_EQ(hello.step_tokens_max(), 64u);
  EXPECT_NE(hello.name(), "");
  cluster.router().WaitForHeartbeat(0);
  EXPECT_NE(worker->NotReady(), "");
  cluster.BeginEpoch(1, 1);
  EXPECT_EQ(worker->NotReady(), "");
  EXPECT_NE(cluster.metrics()->Serialize().find("braid_worker_kv_blocks 256"), std::string::npos);
}

TEST(Worker, TwoGiveTheTokensOfOneOverEveryTransport) {
  Cluster one;
  auto alone = one.StartWorker();
  one.BeginEpoch(1, 1);
  const auto expected = one.Generate(1, 1, 12);
  ASSERT_EQ(expected[0].size(), 12u);
  for (const char* exchange : {"inprocess", "ucx"}) {
    Cluster two(exchange);
    auto first = two.StartWorker(), second = two.StartWorker();
    two.BeginEpoch(1, 2);
    EXPECT_EQ(two.Generate(1, 2, 12), expected) << exchange;
    two.BeginEpoch(2, 1);
    EXPECT_EQ(two.Generate(2, 1, 12), expected) << "the survivor alone after " << exchange;
  }
}

TEST(Worker, ABadPlanIsAFaultAndTheNextEpochGoesOn) {
  Cluster cluster;
  auto worker = cluster.StartWorker();
  cluster.BeginEpoch(1, 1);
  v1::AttachResponse plan = Plan(1, 1);
  AddChunk(plan.mutable_step_plan(), 77, 0, {1});
  cluster.router().Send(0, plan);
  cluster.router().Send(0, Plan(1, 2));  // the epoch has failed here: no answer
  const v1::AttachRequest fault = cluster.router().Next(0);
  ASSERT_TRUE(fault.has_fault()) << fault.ShortDebugString();
  EXPECT_EQ(fault.fault().epoch(), 1u);
  EXPECT_EQ(fault.fault().step(), 1u);
  EXPECT_NE(fault.fault().message().find("77"), std::string::npos);
  cluster.BeginEpoch(2, 1);
  EXPECT_EQ(cluster.Generate(2, 1, 3)[0].size(), 3u);
}

TEST(Worker, ASkippedStepIsAFault) {
  Cluster cluster;
  auto worker = cluster.StartWorker();
  cluster.BeginEpoch(1, 1);
  cluster.router().Send(0, Plan(1, 2));
  EXPECT_TRUE(cluster.router().Next(0).has_fault());
}

TEST(Worker, IgnoresMessagesOfOtherEpochs) {
  Cluster cluster;
  auto worker = cluster.StartWorker();
  cluster.router().Send(0, Plan(3, 1));
  cluster.BeginEpoch(5, 1);
  cluster.router().Send(0, Plan(4, 1));
  cluster.router().Send(0, Prepare(5, 0, 1));
  cluster.router().Send(0, Prepare(2, 0, 1));
  EXPECT_EQ(cluster.Generate(5, 1, 2)[0].size(), 2u);
}

TEST(Worker, AHigherEpochWakesAStepThatWaitsForAPeer) {
  for (const char* exchange : {"inprocess", "ucx"}) {
    Cluster cluster(exchange);
    auto first = cluster.StartWorker(), second = cluster.StartWorker();
    cluster.BeginEpoch(1, 2);
    cluster.router().Send(0, Plan(1, 1));  // the second one gets no plan, so the first waits for it
    cluster.BeginEpoch(2, 1);
    EXPECT_EQ(cluster.Generate(2, 1, 2)[0].size(), 2u) << exchange;
  }
}

TEST(Worker, AttachesAgainAfterTheStreamIsLostInTheMiddleOfAStep) {
  Cluster cluster;
  auto first = cluster.StartWorker(), second = cluster.StartWorker();
  cluster.BeginEpoch(9, 2);
  cluster.router().Send(0, Plan(9, 1));
  cluster.router().Close(0);
  cluster.router().Welcome(2);
  cluster.BeginEpoch(1, 1, /*first_stream=*/2);  // another router may count from the beginning
  EXPECT_EQ(first->NotReady(), "");
}

TEST(Worker, GivesUpARouterThatIsSilent) {
  Cluster cluster;
  auto worker = Worker::Start(&cluster.model(), cluster.Options(), cluster.metrics());
  ASSERT_TRUE(worker.ok());
  cluster.router().Welcome(0, /*timeout_ms=*/100);
  cluster.router().Welcome(1);
}

TEST(Worker, SaysThatItLeaves) {
  Cluster cluster;
  auto worker = cluster.StartWorker();
  cluster.BeginEpoch(1, 1);
  worker->Shutdown(kPatience);
  EXPECT_TRUE(cluster.router().Next(0).has_leaving());
  EXPECT_NE(worker->NotReady(), "");
}

TEST(Worker, StopsWithoutARouter) {
  Cluster cluster;
  WorkerOptions options = cluster.Options();
  options.channel = nullptr;
  options.router = "127.0.0.1:1";
  auto worker = Worker::Start(&cluster.model(), options, cluster.metrics());
  ASSERT_TRUE(worker.ok());
  EXPECT_NE((*worker)->NotReady(), "");
  (*worker)->Shutdown(kPatience);
}

TEST(Worker, RefusesOptionsThatCannotWork) {
  Cluster cluster;
  const auto refused = [&](auto change) {
    WorkerOptions options = cluster.Options();
    change(options);
    return Worker::Start(&cluster.model(), options, cluster.metrics()).status().code();
  };
  using absl::StatusCode;
  EXPECT_EQ(refused([](auto& o) { o.exchange = "pigeon"; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(refused([](auto& o) { o.threads = -1; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(refused([](auto& o) { o.step_tokens_max = 0; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(refused([](auto& o) { o.sequences_max = 0; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(refused([](auto& o) { o.kv_bytes = uint64_t{1} << 60; }), StatusCode::kResourceExhausted);
  EXPECT_EQ(refused([](auto& o) { o.kv_bytes = 1; }), StatusCode::kResourceExhausted);
}

TEST(ChooseKvBlocks, TakesAQuarterAndNoMoreThanIsUseful) {
  const TinyWorkerModel model;
  const uint64_t block = KvPool::BlockBytes(model.config());
  EXPECT_EQ(*ChooseKvBlocks(model.config(), 0, 400 * block), 100);
  EXPECT_EQ(*ChooseKvBlocks(model.config(), 0, uint64_t{1} << 50), 64 * 16);  // 64 contexts of 512 tokens
  EXPECT_EQ(*ChooseKvBlocks(model.config(), 50 * block + 1, 400 * block), 50);
}

}  // namespace
}  // namespace braid
