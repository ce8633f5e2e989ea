// OM, the Object Manager: hands out extents of one shard's share of a pool's heap.
//
// Fixed size buckets, cache-line aligned, with at most 25 % of an extent wasted (paper, section
// on the memory server; like a slab allocator). Up to 16 KiB extents come from 64 KiB slabs;
// above, from runs of pages. Extents that were freed are handed out again before memory that was
// never used, most recent first where there is a choice, so that pages and lines are warm.
//
// All state is private to the memory server and rebuilt from the index (Adopt). A pure state
// machine: one thread, no system call, no allocation after construction; O(1) but for Adopt.
//
// Invariants
//   1. Live extents never overlap and lie within [begin, end).
//   2. Free neighbours are always merged; a slab without extents is a free run (one per size
//      bucket may be kept until its memory is needed).
//   3. An extent of kPageAlignedPayloadBytes and more starts on a page.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace apta::daemon {

class ObjectManager {
 public:
  static constexpr std::uint64_t kSlabBytes = 64 << 10;
  static constexpr std::uint64_t kMaxSlabExtentBytes = 16 << 10;

  // Manages [begin_offset, end_offset) of a region; both are rounded inwards to 64 KiB.
  ObjectManager(std::uint64_t begin_offset, std::uint64_t end_offset);
  ~ObjectManager();

  // The extent's offset, or 0 when no run is large enough. `bytes` >= 1.
  std::uint64_t Allocate(std::uint64_t bytes);
  // False, and nothing changes, when no live extent begins at `offset`: in a trusted pool the
  // offset may come from memory that clients write.
  bool Free(std::uint64_t offset);
  // What the live extent at `offset` takes, a size bucket; 0 = there is none.
  std::uint64_t LiveBytes(std::uint64_t offset) const;

  // Marks an extent as live while state is rebuilt, before the first Allocate. Returns false, and
  // changes nothing, when it cannot be one: outside, misaligned for its size, or overlapping.
  bool Adopt(std::uint64_t offset, std::uint64_t bytes);
  // After the last Adopt.
  void FinishAdopting();

  // What Allocate(bytes) really takes.
  static std::uint64_t BucketBytes(std::uint64_t bytes);

  std::uint64_t capacity_bytes() const;
  std::uint64_t used_bytes() const;          // in live extents, by BucketBytes
  std::uint64_t largest_free_bytes() const;  // what Allocate would surely find
  std::uint64_t live_extents() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace apta::daemon
