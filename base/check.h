#pragma once

#include <sstream>
#include <string>

// CHECK(condition) << "why": an impossible state (our bug) ends the process, also in release builds.
// Bad input is never a CHECK; it is an absl::Status.

namespace braid::internal {

class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  [[noreturn]] ~CheckFailure();  // logs the message and aborts
  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};

// Lets the macro be one expression of type void on both branches.
struct Voidify {
  void operator&(std::ostream&) {}
};

}  // namespace braid::internal

#define CHECK(condition)               \
  (__builtin_expect(!!(condition), 1)) \
      ? (void)0                        \
      : ::braid::internal::Voidify() & ::braid::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()

#define BRAID_CHECK_OP(a, op, b) CHECK((a)op(b)) << "(" << (a) << " vs " << (b) << ") "
#define CHECK_EQ(a, b) BRAID_CHECK_OP(a, ==, b)
#define CHECK_NE(a, b) BRAID_CHECK_OP(a, !=, b)
#define CHECK_LT(a, b) BRAID_CHECK_OP(a, <, b)
#define CHECK_LE(a, b) BRAID_CHECK_OP(a, <=, b)
#define CHECK_GT(a, b) BRAID_CHECK_OP(a, >, b)
#define CHECK_GE(a, b) BRAID_CHECK_OP(a, >=, b)
#define CHECK_OK(expr)                        \
  do {                                        \
    auto status_check = (expr);               \
    CHECK(status_check.ok()) << status_check; \
  } while (false)
