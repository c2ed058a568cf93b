#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "braid/v1/sampling.pb.h"

// The choice of the next token: a pure function of logits, parameters, the tokens so far and the position.

namespace braid {

// kInvalidArgument naming the first parameter that is out of the range that sampling.proto states.
absl::Status CheckSampling(const v1::SamplingParams& params, int vocab_size);

// How often each token has occurred, as the penalties see it.
class TokenCounts {
 public:
  struct Count {
    int all = 0;  // in prompt and answer, at least one
    int answer = 0;
  };
  void Add(TokenId token, bool answer) {
    Count& count = counts_[token];
    ++count.all;
    count.answer += answer;
  }
  // Takes an Add back. REQUIRES: it was the same.
  void Remove(TokenId token, bool answer);

  const absl::flat_hash_map<TokenId, Count>& counts() const { return counts_; }

 private:
  absl::flat_hash_map<TokenId, Count> counts_;
};

// True if `params` asks for any penalty; without one no counts need to be kept.
bool UsesCounts(const v1::SamplingParams& params);

// Chooses the token at `position` of the sequence. `masked` ids are never chosen (vocabulary rows without a token).
// `logits` is changed on the way, and as before in the end. kInternal if a logit is not finite or nothing is left to
// choose from.
//
// The order: logit_bias; repetition penalty (divides positive, multiplies negative logits of every token so far),
// presence and frequency penalty (of the answer's tokens); at temperature 0 the best token; else temperature, top_k,
// top_p (the fewest best tokens that reach the mass), min_p (at least that share of the best token's probability), and
// one draw. Equal logits rank by lower id. The token depends on no instruction set, thread or other row.
absl::StatusOr<TokenId> SampleToken(std::span<float> logits, const v1::SamplingParams& params,
                                    const TokenCounts& counts, std::span<const TokenId> masked, uint64_t position);

}  // namespace braid
