#include "gateway/work_pool.h"

namespace braid {

WorkPool::WorkPool(int threads, size_t queue_max) : queue_(queue_max) {
  for (int i = 0; i < threads; ++i)
    threads_.emplace_back([this] {
      while (auto work = queue_.Pop()) (*work)();
    });
}

WorkPool::~WorkPool() {
  queue_.Close();
  for (std::thread& thread : threads_) thread.join();
}

}  // namespace braid
