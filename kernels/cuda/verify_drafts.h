#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"

namespace braid::gpu {

// What became of guessed tokens. A sequence's rows are its last sure token's and then one for each draft; a draft is
// right if it is the token that was drawn behind the row before it, and all drafts before it are right. One whose own
// row has no token (-1) does not count: the next step finds that out, when the tokens before it are delivered.
struct VerifyDrafts {
  int S = 0;
  const int32_t* first_rows =
      nullptr;                      // (S + 1), ascending: sequence s has the rows [first_rows[s], first_rows[s + 1])
  const int32_t* inputs = nullptr;  // (rows), the token that each row was made of
  const int32_t* drawn = nullptr;   // (rows), DrawTokens' choice behind each row
  int32_t* right = nullptr;         // (S) out: how many drafts; 0 also for a sequence without rows
  int32_t* last = nullptr;          // (S) out: the token drawn behind the last right one; -1 if there is none
};
absl::Status Check(const VerifyDrafts& op);
cudaError_t Run(const VerifyDrafts& op, cudaStream_t stream);

}  // namespace braid::gpu
