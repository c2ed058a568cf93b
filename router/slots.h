#pragma once

#include <atomic>
#include <optional>
#include <utility>

namespace braid {

// A number of places, each given back when its Slot is destroyed. Thread-safe; must outlive its slots.
class Slots {
 public:
  explicit Slots(int count) : count_(count), free_(count) {}

  class Slot {
   public:
    explicit Slot(Slots* slots) : slots_(slots) {}
    Slot(Slot&& other) noexcept : slots_(std::exchange(other.slots_, nullptr)) {}
    Slot& operator=(Slot&&) = delete;
    ~Slot() {
      if (slots_ != nullptr) slots_->free_.fetch_add(1);
    }

   private:
    Slots* slots_;
  };

  // nullopt if all are taken.
  std::optional<Slot> Take() {
    if (free_.fetch_sub(1) > 0) return std::optional<Slot>(std::in_place, this);
    free_.fetch_add(1);
    return std::nullopt;
  }

  bool all_free() const { return free_.load() == count_; }

 private:
  const int count_;
  std::atomic<int> free_;
};

}  // namespace braid
