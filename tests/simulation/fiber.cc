#include "tests/simulation/fiber.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <utility>
#include <vector>

#include "base/check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace braid::simulation {
namespace {

constexpr size_t kStackBytes = 256 << 10;

// Stacks are used again: making one costs more than a whole step.
class Stacks {
 public:
  ~Stacks() {
    for (void* stack : free_) munmap(stack, kStackBytes);
  }
  void* Take() {
    if (!free_.empty()) {
      void* const stack = free_.back();
      free_.pop_back();
      return stack;
    }
    void* const stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stack != MAP_FAILED);
    return stack;
  }
  void Give(void* stack) { free_.push_back(stack); }

 private:
  std::vector<void*> free_;
};

thread_local Stacks stacks;
thread_local Task* current_task = nullptr;

}  // namespace

struct Fiber::Context {
  ucontext_t inside, outside;
  void* stack = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  const void* outside_stack = nullptr;
  size_t outside_bytes = 0;
#endif
};

Fiber::Fiber(std::function<void()> body) : body_(std::move(body)), context_(new Context) {
  context_->stack = stacks.Take();
  getcontext(&context_->inside);
  context_->inside.uc_stack.ss_sp = context_->stack;
  context_->inside.uc_stack.ss_size = kStackBytes;
  context_->inside.uc_link = nullptr;
  const uint64_t self = reinterpret_cast<uint64_t>(this);
  makecontext(&context_->inside, reinterpret_cast<void (*)()>(&Fiber::Enter), 2, static_cast<unsigned>(self),
              static_cast<unsigned>(self >> 32));
}

Fiber::~Fiber() {
  CHECK(done_);
  stacks.Give(context_->stack);
}

void Fiber::Enter(unsigned low, unsigned high) {
  Fiber* const self = reinterpret_cast<Fiber*>(uint64_t{high} << 32 | low);
  Context& context = *self->context_;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &context.outside_stack, &context.outside_bytes);
#endif
  self->body_();
  self->done_ = true;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, context.outside_stack, context.outside_bytes);
#endif
  swapcontext(&context.inside, &context.outside);
}

void Fiber::Resume() {
  CHECK(!done_);
  Context& context = *context_;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, context.stack, kStackBytes);
#endif
  swapcontext(&context.outside, &context.inside);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void Fiber::Yield() {
  Context& context = *context_;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&context.fake_stack, context.outside_stack, context.outside_bytes);
#endif
  swapcontext(&context.inside, &context.outside);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(context.fake_stack, &context.outside_stack, &context.outside_bytes);
#endif
}

Task* Task::Current() { return current_task; }

Task::~Task() {
  cut_ = true;
  while (fiber_ != nullptr) Go();
}

void Task::Start(std::function<void()> body) {
  CHECK(!busy());
  fiber_ = std::make_unique<Fiber>(std::move(body));
  process_->After(absl::ZeroDuration(), [this] { Go(); });
}

void Task::Go() {
  waits_ = false;
  current_task = this;
  fiber_->Resume();
  current_task = nullptr;
  if (fiber_->done()) fiber_.reset();
}

void Task::Sleep(absl::Duration time) {
  if (cut_) return;
  const absl::Time end = process_->world()->now() + time;
  while (!cut_ && process_->world()->now() < end) Wait(end);
}

void Task::Wait(absl::Time deadline) {
  if (cut_) return;
  waits_ = true;
  const uint64_t wait = ++wait_;
  if (deadline != absl::InfiniteFuture()) {
    process_->After(deadline - process_->world()->now(), [this, wait] {
      if (waits_ && wait_ == wait) Go();
    });
  }
  fiber_->Yield();
}

void Task::Wake() {
  if (!waits_) return;
  process_->After(absl::ZeroDuration(), [this, wait = wait_] {
    if (waits_ && wait_ == wait) Go();
  });
}

}  // namespace braid::simulation
