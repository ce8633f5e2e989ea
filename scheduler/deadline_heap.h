// Which of many slots is due next. O(log n); allocates only when more slots are due than ever
// before. Not thread-safe.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "fabric/clock.h"

namespace apta::scheduler {

class DeadlineHeap {
 public:
  bool empty() const { return heap_.empty(); }
  // REQUIRES: not empty. Of equals, the lower slot.
  fabric::TimeNs next_ns() const { return heap_.front().at_ns; }
  std::uint32_t next_slot() const { return heap_.front().slot; }

  // Replaces what was set for the slot.
  void Set(std::uint32_t slot, fabric::TimeNs at_ns) {
    Clear(slot);
    if (slot >= position_.size()) position_.resize(slot + 1, kNone);
    heap_.push_back({at_ns, slot});
    position_[slot] = static_cast<std::uint32_t>(heap_.size() - 1);
    Up(heap_.size() - 1);
  }
  void Clear(std::uint32_t slot) {
    if (slot >= position_.size() || position_[slot] == kNone) return;
    const std::size_t at = position_[slot];
    position_[slot] = kNone;
    const Entry last = heap_.back();
    heap_.pop_back();
    if (at == heap_.size()) return;
    heap_[at] = last;
    position_[last.slot] = static_cast<std::uint32_t>(at);
    Down(Up(at));
  }

 private:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};
  struct Entry {
    fabric::TimeNs at_ns;
    std::uint32_t slot;
    auto operator<=>(const Entry&) const = default;
  };

  void Swap(std::size_t a, std::size_t b) {
    std::swap(heap_[a], heap_[b]);
    position_[heap_[a].slot] = static_cast<std::uint32_t>(a);
    position_[heap_[b].slot] = static_cast<std::uint32_t>(b);
  }
  std::size_t Up(std::size_t at) {
    for (; at > 0 && heap_[at] < heap_[(at - 1) / 2]; at = (at - 1) / 2) Swap(at, (at - 1) / 2);
    return at;
  }
  void Down(std::size_t at) {
    while (true) {
      std::size_t least = at;
      for (std::size_t child = 2 * at + 1; child <= 2 * at + 2 && child < heap_.size(); ++child) {
        if (heap_[child] < heap_[least]) least = child;
      }
      if (least == at) return;
      Swap(at, least);
      at = least;
    }
  }

  std::vector<Entry> heap_;
  std::vector<std::uint32_t> position_;  // by slot
};

}  // namespace apta::scheduler
