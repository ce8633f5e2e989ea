// The hold table of a node: extents that it still reads although it has acknowledged, or is about
// to acknowledge, their invalidation (protocol.md, "Reclamation"). Normally empty.
//
// In the port: the node writes, the homes read, and believe nothing beyond "this node reads that".
//
// Invariants
//   1. Whatever is listed stands below `end`: a home that has read `end` and looks at all slots
//   below
//      misses nothing that was listed before.
//   2. An extent is listed before its acknowledgement is published, and `changes` counts whenever
//      some have been taken off: a home looks again only then.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "fabric/extent.h"

namespace apta::fabric {

struct HoldTable {
#ifdef APTA_HOLD_SLOTS  // the simulator's tables are soon full
  static constexpr std::uint64_t kSlots = APTA_HOLD_SLOTS;
#else
  static constexpr std::uint64_t kSlots = 1021;
#endif
  static constexpr std::uint64_t kNoSlot = ~std::uint64_t{0};

  alignas(kCacheLineBytes) std::atomic<std::uint64_t> end;  // 0 = nothing is listed
  std::atomic<std::uint64_t> hold_everything;               // 1: the table was too small
  std::atomic<std::uint64_t> changes;
  std::atomic<std::uint64_t> extent_offset[kSlots];  // 0 = free slot

  // --- The node's end; one thread at a time. Sequentially consistent throughout: rare, and ordered
  // before the acknowledgement that follows.

  // The slot that lists `extent` from here on, or kNoSlot: full, and everything is held.
  std::uint64_t List(std::uint64_t extent) {
    for (std::uint64_t slot = 0; slot < kSlots; ++slot) {
      if (extent_offset[slot].load(std::memory_order_relaxed) != 0) continue;  // ours
      if (slot >= end.load(std::memory_order_relaxed)) end.store(slot + 1);    // invariant 1
      extent_offset[slot].store(extent);
      return slot;
    }
    hold_everything.store(1);
    return kNoSlot;
  }
  void TakeOff(std::uint64_t slot) { extent_offset[slot].store(0); }
  // After some were taken off. `all_listed`: nothing is held that has no slot.
  void Publish(bool all_listed) {
    std::uint64_t last = end.load(std::memory_order_relaxed);
    while (last > 0 && extent_offset[last - 1].load(std::memory_order_relaxed) == 0) --last;
    end.store(last);
    if (all_listed) hold_everything.store(0);
    changes.fetch_add(1);
  }

  // --- A home's end. Acquire loads: what was listed before the acknowledgement that the home has
  // read is there (partner: the release in InvalidationDrain::Acknowledge).

  // Costs one load when nothing is held, else up to `end`.
  bool Holds(std::uint64_t extent) const {
    if (hold_everything.load(std::memory_order_acquire) != 0) return true;
    for (std::uint64_t slot = 0, n = Listed(); slot < n; ++slot) {
      if (extent_offset[slot].load(std::memory_order_acquire) == extent) return true;
    }
    return false;
  }
  // Everything that is listed, sorted.
  void CopyTo(std::vector<std::uint64_t>* extents) const {
    extents->clear();
    for (std::uint64_t slot = 0, n = Listed(); slot < n; ++slot) {
      const std::uint64_t extent = extent_offset[slot].load(std::memory_order_acquire);
      if (extent != 0) extents->push_back(extent);
    }
    std::sort(extents->begin(), extents->end());
  }

 private:
  std::uint64_t Listed() const {  // hostile
    return std::min(end.load(std::memory_order_acquire), kSlots);
  }
};
#ifndef APTA_HOLD_SLOTS
static_assert(sizeof(HoldTable) == 2 * kPageBytes);
#endif

}  // namespace apta::fabric
