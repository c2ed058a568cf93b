#include "tests/cuda_emulator/fake_order.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#ifdef SIMT_TSAN
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
void AnnotateIgnoreSyncBegin(const char* file, int line);
void AnnotateIgnoreSyncEnd(const char* file, int line);
void __tsan_read_range(void* p, unsigned long bytes);
void __tsan_write_range(void* p, unsigned long bytes);
}
#endif

namespace fake {
namespace {

#ifdef SIMT_TSAN
void Hide() {
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
}
void Show() {
  AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}
#else
void Hide() {}
void Show() {}
#endif

constexpr size_t kLaneStackBytes = 1 << 20;

// Of the lane that runs on this thread, or of the thread itself.
thread_local int hidden_depth = 0;
// Who is switched to: a new fiber has no other way to know.
thread_local Lane* entered = nullptr;

}  // namespace

Hidden::Hidden() {
  if (hidden_depth++ == 0) Hide();
}
Hidden::~Hidden() {
  if (--hidden_depth == 0) Show();
}

Seen::Seen() : depth_(hidden_depth) {
  hidden_depth = 0;
  if (depth_ > 0) Show();
}
Seen::~Seen() {
  hidden_depth = depth_;
  if (depth_ > 0) Hide();
}

#ifdef SIMT_TSAN
void DeclareRead(const void* p, size_t bytes) {
  const Seen seen;
  if (bytes > 0) __tsan_read_range(const_cast<void*>(p), bytes);
}
void DeclareWrite(void* p, size_t bytes) {
  const Seen seen;
  if (bytes > 0) __tsan_write_range(p, bytes);
}
#else
void DeclareRead(const void*, size_t) {}
void DeclareWrite(void*, size_t) {}
#endif

void Copy(void* to, const void* from, size_t bytes) {
  DeclareRead(from, bytes);
  DeclareWrite(to, bytes);
  std::memmove(to, from, bytes);  // whoever checks it hides it, or sees the same
}

Lane::Lane() {
  if (!simt::kThreadSanitizer) return;
  void* mapped = mmap(nullptr, kLaneStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (mapped == MAP_FAILED) std::abort();
  const Seen seen;
  simt::Prepare(&fiber_, static_cast<char*>(mapped), kLaneStackBytes, Main);
}

Lane::~Lane() {
  if (!simt::kThreadSanitizer) return;
  simt::Abandon(&fiber_);
  munmap(fiber_.stack, kLaneStackBytes);
}

void Lane::Run(const std::function<void()>& work) {
  if (!simt::kThreadSanitizer) {
    work();
    return;
  }
  const int depth = hidden_depth;
  Lane* const outer = entered;
  hidden_depth = 0;
  entered = this;
  work_ = &work;
  caller_ = simt::AdoptThread();
  simt::Switch(&caller_, &fiber_);
  entered = outer;
  hidden_depth = depth;
}

// Another thread may go on here than the one that left, so nothing is kept over the switch but the lane.
void Lane::Main() {
  simt::EnterFiber();
  Lane* const lane = entered;
  for (;;) {
    (*lane->work_)();
    simt::Switch(&lane->fiber_, &lane->caller_);
  }
}

}  // namespace fake
