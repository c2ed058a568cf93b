#pragma once

#include <cstdint>
#include <deque>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "braid/v1/router.pb.h"

namespace braid {

// Requests that crashed the workers which ran them. A client that tries again, as clients do by themselves, would crash
// some more: for a while the same request is refused. Bounded; the oldest is forgotten first. Thread-compatible.
class Quarantine {
 public:
  static constexpr absl::Duration kDuration = absl::Minutes(10);
  static constexpr size_t kEntriesMax = 1024;

  // What makes two requests the same here: prompt and sampling, but not the seed, which may be the server's choice.
  static uint64_t Fingerprint(const v1::GenerateSequenceRequest& request);

  void Add(uint64_t fingerprint, absl::Time now);
  bool Holds(uint64_t fingerprint, absl::Time now);

 private:
  void Forget(absl::Time now);

  std::deque<std::pair<absl::Time, uint64_t>> entries_;  // in the order of their ends
  absl::flat_hash_set<uint64_t> fingerprints_;
};

}  // namespace braid
