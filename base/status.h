#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Expected failures are absl::Status; the code says what the caller should do: kInvalidArgument fix it, kUnavailable
// try elsewhere, kResourceExhausted back off, kDeadlineExceeded give up. Debian's Abseil (20220623) has no status
// macros and its string_view is not std::string_view; this header fills both gaps.

#define BRAID_CONCAT_INNER(a, b) a##b
#define BRAID_CONCAT(a, b) BRAID_CONCAT_INNER(a, b)

// Returns the status of `expr` from the enclosing function unless it is OK.
#define RETURN_IF_ERROR(expr)                                                          \
  do {                                                                                 \
    if (::absl::Status status_macro = (expr); !status_macro.ok()) return status_macro; \
  } while (false)

// ASSIGN_OR_RETURN(Blob blob, Read(path)): declares or assigns the left side, or returns the error.
#define ASSIGN_OR_RETURN(lhs, expr) ASSIGN_OR_RETURN_INNER(BRAID_CONCAT(status_or_, __COUNTER__), lhs, expr)
#define ASSIGN_OR_RETURN_INNER(tmp, lhs, expr)   \
  auto tmp = (expr);                             \
  if (!tmp.ok()) return std::move(tmp).status(); \
  lhs = *std::move(tmp)

namespace braid {

inline absl::string_view AbslView(std::string_view s) { return {s.data(), s.size()}; }
inline std::string_view StdView(absl::string_view s) { return {s.data(), s.size()}; }

inline absl::Status InvalidArgument(const std::string& message) { return absl::InvalidArgumentError(message); }

// The same error with "context: " before its message. Add context once, where it is known.
absl::Status Annotate(const absl::Status& status, std::string_view context);

}  // namespace braid
