#include "expert_worker/worker.h"

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "braid/v1/worker.grpc.pb.h"
#include "expert_worker/memory.h"
#include "expert_worker/router_messages.h"
#include "expert_worker/tiny_model.h"
#include "model/sequence_states.h"

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
  // The next heartbeat of which `wanted` is true.
  v1::Heartbeat WaitForHeartbeat(
      int stream, const std::function<bool(const v1::Heartbeat&)>& wanted = [](const auto&) { return true; }) {
    absl::MutexLock lock(&mutex_);
    int seen = streams_[stream].beats;
    const auto beaten = [&] { return streams_[stream].beats > seen; };
    do {
      seen = streams_[stream].beats;
      EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&beaten), kPatience));
    } while (streams_[stream].beats > seen && !wanted(streams_[stream].beat));
    return streams_[stream].beat;
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
    v1::Heartbeat beat;  // the last one
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
        streams_[id].beat = message.heartbeat();
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
  plan->set_rows_max(plan->rows_max() + std::max<uint32_t>(1, tokens.size()));
  chunk->set_position(position);
  for (TokenId token : tokens) chunk->add_tokens(token);
  chunk->set_sample(true);
}

// A router, a model, and workers on streams 0, 1, ... in the order in which they are started.
class Cluster {
 public:
  using Answers = std::vector<std::vector<TokenId>>;  // of the sequences 1 and 2

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

  // Makes `size` workers ready for `epoch`, from `first_stream` on: expert e is at rank e % size, and at the next one,
  // too, if it is even.
  void SetUp(uint64_t epoch, int size, int first_stream = 0) {
    for (int rank = 0; rank < size; ++rank) router_.Send(first_stream + rank, Prepare(epoch, rank, size));
    v1::AttachResponse message;
    message.mutable_configure()->set_epoch(epoch);
    for (int rank = 0; rank < size; ++rank) {
      const v1::AttachRequest prepared = router_.Next(first_stream + rank);
      ASSERT_EQ(prepared.prepared().epoch(), epoch) << prepared.ShortDebugString();
      message.mutable_configure()->add_addresses(prepared.prepared().address());
    }
    for (int layer = 0; layer < model_.config().moe_layer_count(); ++layer) {
      v1::LayerPlacement* placement = message.mutable_configure()->add_placement();
      for (int e = 0; e < model_.config().experts; ++e) {
        std::set<int> ranks = {e % size};
        if (e % 2 == 0) ranks.insert((e + 1) % size);
        placement->add_replicas(static_cast<uint32_t>(ranks.size()));
        for (const int rank : ranks) placement->add_ranks(static_cast<uint32_t>(rank));
      }
    }
    for (int rank = 0; rank < size; ++rank) router_.Send(first_stream + rank, message);
    for (int rank = 0; rank < size; ++rank) {
      const v1::AttachRequest configured = router_.Next(first_stream + rank);
      ASSERT_EQ(configured.configured().epoch(), epoch) << configured.ShortDebugString();
    }
  }

  // Sets up and begins, keeping nothing.
  void BeginEpoch(uint64_t epoch, int size, int first_stream = 0) {
    SetUp(epoch, size, first_stream);
    for (int rank = 0; rank < size; ++rank) router_.Send(first_stream + rank, Begin(epoch));
    for (int rank = 0; rank < size; ++rank) {
      const v1::AttachRequest begun = router_.Next(first_stream + rank);
      ASSERT_EQ(begun.begun().epoch(), epoch) << begun.ShortDebugString();
    }
  }

  // Both sequences' next step, each on its worker (one for all if `size` is 1).
  static std::vector<v1::AttachResponse> Plans(uint64_t epoch, uint64_t step, int size, const Answers& answers) {
    std::vector<v1::AttachResponse> plans(size, Plan(epoch, step));
    for (int s = 0; s < 2; ++s) {
      v1::StepPlan* plan = plans[s % size].mutable_step_plan();
      if (answers[s].empty()) {
        AddStart(plan, s + 1, 3);
        AddChunk(plan, s + 1, 0, {4 + s, 7, 9});
      } else {
        AddChunk(plan, s + 1, Length(answers[s]), {answers[s].back()});
      }
    }
    return plans;
  }
  // Committed positions of a sequence that has said this much.
  static uint32_t Length(const std::vector<TokenId>& answer) { return 2 + static_cast<uint32_t>(answer.size()); }

  // The tokens of two sequences, after `tokens` more steps in an epoch of `size` workers.
  Answers Generate(uint64_t epoch, int size, int tokens, Answers answers = Answers(2)) {
    for (int step = 1; step <= tokens; ++step) {
      const std::vector<v1::AttachResponse> plans = Plans(epoch, step, size, answers);
      for (int rank = 0; rank < size; ++rank) router_.Send(rank, plans[rank]);
      for (int rank = 0; rank < size; ++rank) {
        const v1::AttachRequest done = router_.Next(rank);
        EXPECT_TRUE(done.has_step_done()) << done.ShortDebugString();
        EXPECT_EQ(done.step_done().step(), static_cast<uint64_t>(step));
        EXPECT_EQ(done.step_done().expert_rows_size(), model_.config().moe_layer_count() * model_.config().experts);
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
  EXPECT_EQ(hello.moe_layers(), 3u);
  EXPECT_EQ(hello.expert_slots(), 24u);
  EXPECT_EQ(hello.epoch(), 0u);
  EXPECT_EQ(hello.context_tokens_max(), 512u);
  EXPECT_EQ(hello.exchange(), "inprocess");
  EXPECT_EQ(hello.kv_blocks(), 512u);
  EXPECT_EQ(hello.kv_block_tokens(), 32u);
  EXPECT_EQ(hello.sequences_max(), 8u);
  EXPECT_EQ(hello.step_tokens_max(), 64u);
  EXPECT_NE(hello.name(), "");
  cluster.router().WaitForHeartbeat(0);
  EXPECT_NE(worker->NotReady(), "");
  cluster.BeginEpoch(1, 1);
  EXPECT_EQ(worker->NotReady(), "");
  EXPECT_NE(cluster.metrics()->Serialize().find("braid_worker_kv_blocks 512"), std::string::npos);
}

TEST(Worker, SaysWhereItBelongsAndHowManyExpertsFit) {
  Cluster cluster;
  WorkerOptions options = cluster.Options();
  options.group = "rack 7";
  options.expert_slots = 5;
  options.ranks_max = 3;
  auto worker = Worker::Start(&cluster.model(), options, cluster.metrics());
  ASSERT_TRUE(worker.ok()) << worker.status();
  const v1::Hello hello = cluster.router().Welcome(0);
  EXPECT_EQ(hello.group(), "rack 7");
  EXPECT_EQ(hello.host(), "") << "a CPU has no neighbours";
  EXPECT_EQ(hello.expert_slots(), 5u);
  EXPECT_EQ(hello.ranks_max(), 3u);
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
  cluster.router().Send(0, Begin(5));
  cluster.router().Send(0, Stop(4));
  EXPECT_EQ(cluster.Generate(5, 1, 2)[0].size(), 2u);
}

// What one worker alone says in so many steps.
Cluster::Answers Undisturbed(int steps) {
  Cluster calm;
  auto alone = calm.StartWorker();
  calm.BeginEpoch(1, 1);
  return calm.Generate(1, 1, steps);
}

TEST(Worker, ServesWhileTheNextEpochIsSetUpAndSequencesGoOnInIt) {
  for (const char* exchange : {"inprocess", "ucx"}) {
    const Cluster::Answers expected = Undisturbed(9);
    Cluster cluster(exchange);
    auto first = cluster.StartWorker(), second = cluster.StartWorker();
    cluster.BeginEpoch(1, 2);
    Cluster::Answers answers = cluster.Generate(1, 2, 3);
    for (int rank = 0; rank < 2; ++rank) cluster.router().Send(rank, Prepare(2, 1 - rank, 2));
    for (int rank = 0; rank < 2; ++rank) EXPECT_TRUE(cluster.router().Next(rank).has_prepared());
    // Epoch 2 never comes about; nobody minds.
    cluster.SetUp(3, 2);
    const auto plans = Cluster::Plans(1, 4, 2, answers);
    for (int rank = 0; rank < 2; ++rank) cluster.router().Send(rank, plans[rank]);
    for (int rank = 0; rank < 2; ++rank) {
      const v1::AttachRequest done = cluster.router().Next(rank);
      ASSERT_EQ(done.step_done().sampled_size(), 1) << done.ShortDebugString();
      answers[rank].push_back(done.step_done().sampled(0).token().token());
    }
    for (uint64_t rank = 0; rank < 2; ++rank) {
      cluster.router().Send(rank, Begin(3, {{rank + 1, Cluster::Length(answers[rank])}, {77, 5}}));
      const v1::AttachRequest begun = cluster.router().Next(rank);
      ASSERT_EQ(begun.begun().epoch(), 3u) << begun.ShortDebugString();
      ASSERT_EQ(begun.begun().missing_size(), 1);
      EXPECT_EQ(begun.begun().missing(0), 77u);
    }
    EXPECT_EQ(cluster.Generate(3, 2, 5, answers), expected) << exchange;
  }
}

// Rank 0 has run a part of the step when the epoch ends: it waits for rank 1, which has no plan.
TEST(Worker, AStepThatIsStoppedNeverHappened) {
  for (const char* exchange : {"inprocess", "ucx"}) {
    const Cluster::Answers expected = Undisturbed(9);
    Cluster cluster(exchange);
    auto first = cluster.StartWorker(), second = cluster.StartWorker();
    cluster.BeginEpoch(1, 2);
    Cluster::Answers answers = cluster.Generate(1, 2, 4);
    cluster.router().Send(0, Cluster::Plans(1, 5, 2, answers)[0]);
    const v1::Heartbeat waiting = cluster.router().WaitForHeartbeat(
        0, [](const v1::Heartbeat& beat) { return beat.waiting_for_size() == 1 && beat.waited_ms() > 0; });
    EXPECT_EQ(waiting.epoch(), 1u);
    EXPECT_EQ(waiting.waiting_for(0), 1u);
    const v1::Heartbeat idle =
        cluster.router().WaitForHeartbeat(1, [](const v1::Heartbeat& beat) { return beat.epoch() == 1; });
    EXPECT_LT(idle.phase(), waiting.phase());
    EXPECT_EQ(idle.waited_ms(), 0u);
    // One after the other: a rank whose peer stops first has lost it, and says so.
    for (int rank = 0; rank < 2; ++rank) {
      cluster.router().Send(rank, Stop(1));
      cluster.router().WaitForHeartbeat(rank, [](const v1::Heartbeat& beat) { return beat.epoch() == 0; });
    }
    cluster.SetUp(2, 2);
    for (uint64_t rank = 0; rank < 2; ++rank) {
      cluster.router().Send(rank, Begin(2, {{rank + 1, Cluster::Length(answers[rank])}}));
      const v1::AttachRequest begun = cluster.router().Next(rank);
      ASSERT_EQ(begun.begun().epoch(), 2u) << begun.ShortDebugString();
      EXPECT_EQ(begun.begun().missing_size(), 0);
    }
    EXPECT_EQ(cluster.Generate(2, 2, 5, answers), expected) << exchange;
  }
}

TEST(Worker, AStepThatWasDoneHereButNotEverywhereNeverHappened) {
  Cluster cluster;
  auto first = cluster.StartWorker(), second = cluster.StartWorker();
  cluster.BeginEpoch(1, 2);
  const Cluster::Answers expected = cluster.Generate(1, 2, 6);
  Cluster::Answers answers = expected;
  for (std::vector<TokenId>& answer : answers) answer.pop_back();
  cluster.SetUp(2, 2);
  for (uint64_t rank = 0; rank < 2; ++rank) {
    cluster.router().Send(rank, Begin(2, {{rank + 1, Cluster::Length(answers[rank])}}));
    EXPECT_EQ(cluster.router().Next(rank).begun().missing_size(), 0);
  }
  EXPECT_EQ(cluster.Generate(2, 2, 1, answers), expected);
}

TEST(Worker, BeginWakesAStepThatWaitsForAPeer) {
  for (const char* exchange : {"inprocess", "ucx"}) {
    Cluster cluster(exchange);
    auto first = cluster.StartWorker(), second = cluster.StartWorker();
    cluster.BeginEpoch(1, 2);
    cluster.router().Send(0, Plan(1, 1));  // the second one gets no plan, so the first waits for it
    cluster.BeginEpoch(2, 1);
    EXPECT_EQ(cluster.Generate(2, 1, 2)[0].size(), 2u) << exchange;
  }
}

TEST(Worker, APeerThatIsGoneIsAFaultThatNamesItAndTheSurvivorGoesOn) {
  Cluster cluster;
  auto first = cluster.StartWorker(), second = cluster.StartWorker();
  cluster.BeginEpoch(1, 2);
  Cluster::Answers answers = cluster.Generate(1, 2, 4);
  second.reset();
  cluster.router().Send(0, Cluster::Plans(1, 5, 2, answers)[0]);
  const v1::AttachRequest fault = cluster.router().Next(0);
  ASSERT_EQ(fault.fault().step(), 5u) << fault.ShortDebugString();
  ASSERT_EQ(fault.fault().suspect_ranks_size(), 1);
  EXPECT_EQ(fault.fault().suspect_ranks(0), 1u);
  cluster.SetUp(2, 1);
  cluster.router().Send(0, Begin(2, {{1, Cluster::Length(answers[0])}}));
  EXPECT_EQ(cluster.router().Next(0).begun().missing_size(), 0);
  v1::AttachResponse plan = Plan(2, 1);
  AddChunk(plan.mutable_step_plan(), 1, Cluster::Length(answers[0]), {answers[0].back()});
  cluster.router().Send(0, plan);
  EXPECT_EQ(cluster.router().Next(0).step_done().sampled_size(), 1);
}

TEST(Worker, AnAddressThatMakesNoSenseIsAFaultOfTheSetUpAlone) {
  Cluster cluster;
  auto worker = cluster.StartWorker();
  cluster.BeginEpoch(1, 1);
  cluster.router().Send(0, Prepare(2, 0, 2));
  const v1::AttachRequest prepared = cluster.router().Next(0);
  v1::AttachResponse message;
  message.mutable_configure()->set_epoch(2);
  message.mutable_configure()->add_addresses(prepared.prepared().address());
  message.mutable_configure()->add_addresses("junk");
  for (int layer = 0; layer < cluster.model().config().moe_layer_count(); ++layer) {
    v1::LayerPlacement* placement = message.mutable_configure()->add_placement();
    for (int e = 0; e < cluster.model().config().experts; ++e) {
      placement->add_replicas(1);
      placement->add_ranks(0);
    }
  }
  cluster.router().Send(0, message);
  const v1::AttachRequest fault = cluster.router().Next(0);
  EXPECT_EQ(fault.fault().epoch(), 2u) << fault.ShortDebugString();
  EXPECT_EQ(fault.fault().step(), 0u);
  EXPECT_EQ(worker->NotReady(), "");
  EXPECT_EQ(cluster.Generate(1, 1, 2)[0].size(), 2u);
}

TEST(Worker, AttachesAgainAfterTheStreamIsLostInTheMiddleOfAStep) {
  Cluster cluster;
  auto first = cluster.StartWorker(), second = cluster.StartWorker();
  cluster.BeginEpoch(9, 2);
  cluster.router().Send(0, Plan(9, 1));
  cluster.router().Close(0);
  EXPECT_EQ(cluster.router().Welcome(2).epoch(), 9u) << "so that another router begins above it";
  cluster.BeginEpoch(1, 1, /*first_stream=*/2);  // it need not
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
  EXPECT_EQ(refused([](auto& o) { o.expert_slots = -1; }), StatusCode::kInvalidArgument);
  EXPECT_EQ(refused([](auto& o) { o.kv_bytes = uint64_t{1} << 60; }), StatusCode::kResourceExhausted);
  EXPECT_EQ(refused([](auto& o) { o.kv_bytes = 1; }), StatusCode::kResourceExhausted);
}

TEST(ChooseKvBlocks, TakesAQuarterAndNoMoreThanIsUseful) {
  const TinyWorkerModel model;
  const uint64_t block = KvBlockBytes(model.config());
  const auto choose = [&](uint64_t kv_bytes, uint64_t available) {
    return *ChooseKvBlocks(model.config(), KvType::kBFloat16, kv_bytes, available);
  };
  EXPECT_EQ(choose(0, 400 * block), 100);
  EXPECT_EQ(choose(0, uint64_t{1} << 50), 64 * 16);  // 64 contexts of 512 tokens
  EXPECT_EQ(choose(50 * block + 1, 400 * block), 50);
}

}  // namespace
}  // namespace braid
