#include "router/quarantine.h"

#include <string>

namespace braid {

uint64_t Quarantine::Fingerprint(const v1::GenerateSequenceRequest& request) {
  v1::SamplingParams sampling = request.sampling();
  sampling.clear_seed();
  uint64_t hash = 14695981039346656037u;
  for (int32_t token : request.prompt()) hash = (hash ^ static_cast<uint32_t>(token)) * 1099511628211u;
  for (char byte : sampling.SerializeAsString()) hash = (hash ^ static_cast<uint8_t>(byte)) * 1099511628211u;
  return hash;
}

void Quarantine::Add(uint64_t fingerprint, absl::Time now) {
  Forget(now);
  if (!fingerprints_.insert(fingerprint).second) return;
  entries_.emplace_back(now + kDuration, fingerprint);
}

bool Quarantine::Holds(uint64_t fingerprint, absl::Time now) {
  Forget(now);
  return fingerprints_.contains(fingerprint);
}

void Quarantine::Forget(absl::Time now) {
  while (!entries_.empty() && (entries_.front().first <= now || entries_.size() >= kEntriesMax)) {
    fingerprints_.erase(entries_.front().second);
    entries_.pop_front();
  }
}

}  // namespace braid
