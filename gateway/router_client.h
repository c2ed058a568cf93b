#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "braid/v1/router.grpc.pb.h"
#include "gateway/core/sequence_log.h"
#include "gateway/timers.h"

namespace braid {

// A channel to `address` with our time-outs instead of gRPC's: dead peers are noticed in seconds, reconnecting starts
// after 100 ms.
std::shared_ptr<grpc::Channel> ConnectToRouter(const std::string& address);

// What the last poll said of the router.
struct RouterStatus {
  std::string not_ready = "waiting for the router";  // empty: ready
  std::string unprotected;                           // what the next loss of a worker would cost; empty: a pause
  std::string model_digest;                          // empty until known
  std::string arithmetic, kv_type;                   // of the workers, alike
  int context_tokens_max = 0;                        // 0 until known
};

// Hears of one sequence. Called on gRPC's threads or the client's, one call at a time per sequence, never from inside
// Generate; must not block.
class SequenceListener {
 public:
  virtual ~SequenceListener() = default;
  virtual void OnUpdate(int choice, SequenceUpdate update) = 0;
  // The sequence is over without its end. `retry_after`: if the router said when to come again.
  virtual void OnFailed(int choice, const absl::Status& status, std::optional<absl::Duration> retry_after) = 0;
  virtual void OnResubmitted() = 0;
};

// The gateway's end of braid.v1.Router: sequences that survive the router's death, and its status. Thread-safe.
//
// When a stream breaks after the router accepted the sequence, the client waits a little (100 ms to 1 s) and submits it
// again with the tokens so far, until `deadline`: the listener notices nothing but the pause.
class RouterClient {
 public:
  // A running sequence. Destroying it cancels the sequence; its listener may still hear of what is under way.
  class Sequence {
   public:
    virtual ~Sequence() = default;
  };

  explicit RouterClient(std::shared_ptr<grpc::Channel> channel);
  // Cancels what is left and waits until no callback can come any more. Not from a callback.
  ~RouterClient();

  std::unique_ptr<Sequence> Generate(v1::GenerateSequenceRequest request, absl::Time deadline,
                                     std::weak_ptr<SequenceListener> listener, int choice);
  RouterStatus status() const;
  Timers& timers() { return timers_; }  // stopped at the very beginning of the destructor

 private:
  class Flow;
  class Attempt;
  struct Poll;

  // Every RPC under way is known here, so that the destructor can cancel it and wait for its end. False: shutting down.
  bool Register(uint64_t id, const std::shared_ptr<grpc::ClientContext>& context);
  void Unregister(uint64_t id);
  uint64_t NextId();

  void StartPoll();
  void OnPolled(const grpc::Status& status, const v1::GetStatusResponse& response);

  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Router::Stub> stub_;
  mutable absl::Mutex mutex_;
  std::map<uint64_t, std::weak_ptr<grpc::ClientContext>> rpcs_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  RouterStatus status_ ABSL_GUARDED_BY(mutex_);
  Timers timers_;
};

}  // namespace braid
