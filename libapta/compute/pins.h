// Pins: which extents this process is reading right now.
//
// A pin is what keeps an extent from being reused while somebody reads it in place. Every thread
// pins in a table of its own, so that threads that read the same object share no cache line
// (a hazard-pointer scheme). The order that makes it safe, with the cache's slots:
//
//   reader                               drain (applies an invalidation)
//   pin the extent        (seq_cst)      empty the cache's slot       (seq_cst)
//   look at the slot again (seq_cst)     look for pins of the extent  (seq_cst)
//   changed: unpin, miss                 found: list it in the hold table before acknowledging
//
// One of the two sees the other. Neither takes a lock. Tables and domains are type-stable: once
// made they are only ever used for the same purpose again, so that a pin may be dropped from any
// thread at any time, also while its session ends.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "fabric/extent.h"

namespace apta::compute {

class PinDomain;

// [extent / 64 : 43 | watched : 1 | references : 20]. Pinned while references > 0.
class PinSlot {
 public:
  static constexpr std::uint64_t kReference = 1;
  static constexpr std::uint64_t kReferences = (1 << 20) - 1;
  static constexpr std::uint64_t kWatched = 1 << 20;
  static constexpr int kExtentShift = 21;
  // Beyond so many references a copy takes another slot.
  static constexpr std::uint64_t kMaxReferences = kReferences / 2;

  static std::uint64_t Pinned(std::uint64_t extent) {
    return extent / fabric::kCacheLineBytes << kExtentShift | kReference;
  }
  static std::uint64_t ExtentOf(std::uint64_t word) {
    return (word >> kExtentShift) * fabric::kCacheLineBytes;
  }
  static bool IsPinned(std::uint64_t word) { return (word & kReferences) != 0; }
  static bool Pins(std::uint64_t word, std::uint64_t extent) {
    return word >> kExtentShift == extent / fabric::kCacheLineBytes && IsPinned(word);
  }

  // One more reference to what the caller holds one of. False: there are too many.
  bool TryShare();
  // References for other threads to a fresh pin; fewer than kMaxReferences.
  void Share(std::uint64_t references);
  // A pin of the same extent in the calling thread's table; for holders of a reference.
  PinSlot* PinAgain();
  // Any thread. The last drop of a watched slot tells the domain.
  void Drop();

  std::uint64_t extent() const { return ExtentOf(word_.load(std::memory_order_relaxed)); }

 private:
  friend class PinTable;
  friend class PinDomain;

  // Sequentially consistent, both.
  bool Pins(std::uint64_t extent) const { return Pins(word_.load(), extent); }
  bool WatchIfPinned(std::uint64_t extent);

  std::atomic<std::uint64_t> word_{0};
};

// A thread's pins in one domain: a block of slots, hashed by extent, with further blocks behind
// it when it gets crowded.
class alignas(fabric::kPageBytes) PinTable {
 public:
  // Owner thread. Pins `extent`; sequentially consistent.
  PinSlot* Pin(std::uint64_t extent);

  // What its thread does in the domain's session. Counted by the owner, read by anybody.
  enum Count { kHits, kMisses, kCounts };
  void Add(Count count) {
    std::atomic<std::uint64_t>& sum = count_[count];
    sum.store(sum.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }

  PinDomain* domain() const { return domain_.load(std::memory_order_relaxed); }

 private:
  friend class PinSlot;
  friend class PinDomain;
  friend struct ThreadTables;
  static constexpr std::size_t kWindow = 8;
  static constexpr std::size_t kSlots =
      (fabric::kPageBytes - fabric::kCacheLineBytes) / sizeof(PinSlot);

  static std::size_t WindowOf(std::uint64_t extent) {
    // Multiplicative hashing; the product's upper bits, scaled to the number of windows.
    const std::uint64_t mixed = extent * 0x9e37'79b9'7f4a'7c15u;
    return (mixed >> 32) * (kSlots - kWindow + 1) >> 32;
  }
  template <typename Visit>
  void ForEachSlot(Visit&& visit);
  bool WatchIfPinned(std::uint64_t extent);

  std::atomic<PinDomain*> domain_{nullptr};
  std::atomic<PinTable*> next_{nullptr};  // block of the same thread
  std::atomic<PinTable*> next_thread_{nullptr};
  std::array<std::atomic<std::uint64_t>, kCounts> count_{};
  bool is_owned_ = false;  // by a live thread; under the domain's lock
  alignas(fabric::kCacheLineBytes) std::array<PinSlot, kSlots> slot_;
};
static_assert(sizeof(PinTable) == fabric::kPageBytes);

// The pins of one session.
class PinDomain {
 public:
  static PinDomain* Acquire();
  // REQUIRES: nothing is pinned.
  static void Return(PinDomain* domain);

  // The calling thread's table. Costs one comparison when the thread used this domain last.
  PinTable* ThreadTable() { return t_last.id == id_ ? t_last.table : FindThreadTable(); }

  // Whether anybody pins `extent`; from then on the last drop of it rings wake_fd(). Sequentially
  // consistent with Pin.
  bool WatchIfPinned(std::uint64_t extent);
  // The extents that are pinned now; watches all of them.
  std::vector<std::uint64_t> WatchAll();
  bool AnythingPinned();

  std::uint64_t Sum(PinTable::Count count) const;
  template <typename Visit>
  void ForEachPinned(Visit&& visit);  // visit(extent)

  // Becomes readable when a watched pin was dropped, or by Wake.
  int wake_fd() const { return wake_fd_; }
  void Wake() const;

 private:
  friend class PinSlot;
  friend struct ThreadTables;

  // What the thread used last. Without a constructor: nothing is checked before it is read.
  struct LastTable {
    std::uint64_t id;
    PinTable* table;
  };
  static inline constinit thread_local LastTable t_last{0, nullptr};

  PinDomain();
  PinTable* FindThreadTable();
  PinTable* AdoptTable();

  template <typename Visit>
  void ForEachTable(Visit&& visit) const;

  const int wake_fd_;
  std::uint64_t id_ = 0;  // unlike any other use of any domain
  std::mutex mutex_;      // of those who adopt tables, and give them back
  // Grows at its head until the domain is returned. Sequentially consistent with pins: a table is
  // found by whoever might miss a pin in it.
  std::atomic<PinTable*> first_table_{nullptr};
  // Pins that were taken by PinAgain: a search that one of them fell into may have passed the new
  // slot too early, and the old one too late.
  std::atomic<std::uint64_t> pinned_again_{0};
};

template <typename Visit>
void PinTable::ForEachSlot(Visit&& visit) {
  // Acquire: a block is linked after it was cleared; partner of the release in Pin.
  for (PinTable* block = this; block != nullptr;
       block = block->next_.load(std::memory_order_acquire)) {
    for (PinSlot& slot : block->slot_) visit(slot);
  }
}

template <typename Visit>
void PinDomain::ForEachTable(Visit&& visit) const {
  for (PinTable* table = first_table_.load(); table != nullptr;
       table = table->next_thread_.load(std::memory_order_acquire)) {  // as next_
    visit(table);
  }
}

template <typename Visit>
void PinDomain::ForEachPinned(Visit&& visit) {
  ForEachTable([&](PinTable* table) {
    table->ForEachSlot([&](PinSlot& slot) {
      const std::uint64_t word = slot.word_.load();
      if (PinSlot::IsPinned(word)) visit(PinSlot::ExtentOf(word));
    });
  });
}

}  // namespace apta::compute
