#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "expert_worker/exchange/peer_links.h"

namespace braid::gpu {

// What NCCL said of a call, with what can be done about it. `comm` may be null.
absl::Status NcclError(const char* call, ncclResult_t result, ncclComm_t comm);

// A communicator and the thread that watches it. It fails once, by whatever comes first, and is then aborted by that
// thread; from then on every call returns that failure. Thread-safe: NCCL's communicators are not, so every call of one
// is under the lock, and none of those blocks (`blocking` is 0), but for the last, when nobody else has it any more.
class NcclCommunicator : public std::enable_shared_from_this<NcclCommunicator> {
 public:
  // `links` have begun to reach the peers.
  NcclCommunicator(int device, std::unique_ptr<PeerLinks> links) : device_(device), links_(std::move(links)) {}

  // Joins the others; returns when all are there, or at the deadline. Called once.
  absl::Status Init(const ncclUniqueId& id, int size, int rank);
  // Ends it, in peace if it has not failed. Returns when that is done, or is not done after a few seconds: it may wait
  // for graphs that are still alive, or for peers that are not. Peers see the links close behind it. REQUIRES: no other
  // call has yet to return.
  void End();

  // Enqueues what `calls` does as one group. Returns once it is on its stream.
  absl::Status Group(absl::FunctionRef<ncclResult_t(ncclComm_t)> calls);

  // Fails with kDeadlineExceeded and `what`, and who may be at fault, at `deadline`.
  void SetDeadline(absl::Time deadline, std::string what);

  void Fail(const absl::Status& status, std::vector<int> suspects = {});
  // Looks once more, at everything that the thread looks at.
  absl::Status Check();
  // The failure; OK if there is none within `timeout`.
  absl::Status AwaitFailure(absl::Duration timeout) const;

  std::vector<int> suspects() const;
  // Ranks that are not heard, see PeerLinks.
  std::vector<int> Silent() const;

 private:
  bool Failed() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !failure_.ok(); }
  void SetFailure(const absl::Status& status, std::vector<int> suspects) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Fails if there is a reason to; else what the communicator does: ncclSuccess or ncclInProgress.
  ncclResult_t Look() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FailOf(const char* call, ncclResult_t result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether some are, or are found to be while `patience` lasts.
  bool FailOfGonePeers(absl::Duration patience) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Looks until `there`, which is told what the communicator does.
  absl::Status LookUntil(absl::FunctionRef<bool(ncclResult_t state)> there);
  absl::Status AwaitLinks();
  absl::Status AwaitSettled();
  void Watch();
  void Close(ncclComm_t comm, bool in_peace);

  const int device_;

  mutable absl::Mutex mutex_;
  std::unique_ptr<PeerLinks> links_ ABSL_GUARDED_BY(mutex_);  // null after End
  ncclComm_t comm_ ABSL_GUARDED_BY(mutex_) = nullptr;         // null before Init, and once its end has begun
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::vector<int> suspects_ ABSL_GUARDED_BY(mutex_);
  absl::Time deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  std::string late_ ABSL_GUARDED_BY(mutex_);     // what to say at the deadline
  bool making_ ABSL_GUARDED_BY(mutex_) = false;  // Init has yet to set comm_
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  bool watched_ ABSL_GUARDED_BY(mutex_) = false;  // the thread runs
};

}  // namespace braid::gpu
