#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace braid::internal {

CheckFailure::CheckFailure(const char* file, int line, const char* condition) {
  stream_ << file << ":" << line << ": CHECK failed: " << condition << " ";
}

CheckFailure::~CheckFailure() {
  // Not through the logger: it may be what failed, and this must reach stderr whatever state we are in.
  std::fprintf(stderr, "%s\n", stream_.str().c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace braid::internal
