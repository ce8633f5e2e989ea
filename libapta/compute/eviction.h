// Which entry of the object cache leaves next: S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi, "FIFO queues
// are all you need for cache eviction", SOSP 2023). A new entry waits in a small FIFO queue and
// goes on to the main one only if it was hit there, so that a scan over objects that nobody asks
// for twice passes through a tenth of the cache and leaves the rest alone. Keys that fell out of
// the small queue are remembered for a while as ghosts: who returns in time goes straight to main.
//
// The paper counts up to three hits per entry; we have the one visited bit that the cache keeps in
// its slot word, because a second hit on a hot object must not write to a line that all cores read.
//
// Knows slots, sizes and key hashes, not objects. Not thread-safe: the cache's lock protects it.
// No clock and no randomness: the same calls give the same victims. No allocation after
// construction; every operation is O(1), a victim after at most kMaxSecondChances others.
//
// Invariants
//   1. A slot is in at most one queue; bytes() and objects() are the sums over both.
//   2. Oldest to newest, a queue is in the order in which its entries came or came back to it.
//   3. The newest entry is a victim only when it is alone: what is inserted and then evicted for is
//      not undone, however large it is beside the small queue's share.
//   4. A ghost is not in a queue when it is made, and is gone when its key has come back by it.
#pragma once

#include <cstdint>
#include <optional>

#include "fabric/lazy_array.h"

namespace apta::compute {

// The keys that left the small queue unvisited, each with the time of its leaving, counted in
// leavings: age tells whether a first-in-first-out queue of a given length would still hold it, so
// there is no queue to keep, and its length may change at any time. A full bucket forgets its
// oldest; 31 bits of fingerprint may mistake one key for another: both cost a wrong queue at worst.
class GhostTable {
 public:
  explicit GhostTable(std::uint64_t capacity);

  void Remember(std::uint64_t key_hash);
  // Whether the key is among the last `length` that were remembered. It is forgotten by that.
  bool Take(std::uint64_t key_hash, std::uint64_t length);

 private:
  struct Ghost {
    std::uint32_t fingerprint;  // 0 = empty
    // May wrap: a key that was forgotten 2^32 leavings ago then counts as a ghost once more.
    std::uint32_t left_at;
  };
  struct Bucket {
    static constexpr int kGhosts = 8;  // one cache line
    Ghost ghost[kGhosts];
  };
  static_assert(sizeof(Bucket) == 64);

  // The low bits choose the bucket, the high ones tell keys apart in it.
  static std::uint32_t FingerprintOf(std::uint64_t key_hash) {
    return static_cast<std::uint32_t>(key_hash >> 32) | 1;
  }
  Bucket& BucketOf(std::uint64_t key_hash) const { return bucket_[key_hash & bucket_mask_]; }

  fabric::LazyArray<Bucket> bucket_;
  const std::uint64_t bucket_mask_;
  std::uint32_t now_ = 0;
};

class Eviction {
 public:
  // For a table of `slots` slots. It does not evict by itself: the cache asks for victims until it
  // is content. `limit_bytes` only says how much the small queue's tenth is.
  explicit Eviction(std::uint64_t slots, std::uint64_t limit_bytes);

  // The slot is in no queue. Victims may be taken before or after it.
  void Insert(std::uint32_t slot, std::uint64_t key_hash, std::uint64_t bytes);

  // An entry left by invalidation or replacement: it was not evicted, so it makes no ghost. Nothing
  // happens if the slot is in no queue, so that the victim's slot may be emptied like any other.
  void Remove(std::uint32_t slot);

  // The slot's entry was updated where it is. REQUIRES: it is in a queue.
  void Resize(std::uint32_t slot, std::uint64_t bytes);

  // The slot to evict next, already off the queues and a ghost if it is to be one. `visited(slot)`
  // tells whether the entry was hit since it was last asked, and clears that; it is not asked about
  // a victim that comes after kMaxSecondChances others. nullopt: empty.
  template <typename TestAndClearVisited>
  std::optional<std::uint32_t> TakeVictim(TestAndClearVisited&& visited);

  // A slot that is in a queue; nullopt: there is none.
  std::optional<std::uint32_t> Any() const {
    if (objects() == 0) return std::nullopt;
    return small_.objects != 0 ? small_.oldest : main_.oldest;
  }
  // What the queues hold.
  std::uint64_t bytes() const { return small_.bytes + main_.bytes; }
  std::uint64_t objects() const { return small_.objects + main_.objects; }

 private:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};
  // Readers set the bit again while we clear it, and there may be millions of entries: without a
  // bound, one insertion could hold the cache's lock for as long as they like. On Zipf traces
  // the hit ratio with 64 is within 0.0001 of that without a bound.
  static constexpr int kMaxSecondChances = 256;

  enum class QueueName : std::uint64_t { kNowhere = 0, kSmall = 1, kMain = 2 };

  struct Entry {
    std::uint64_t key_hash;
    std::uint64_t bytes_and_queue;  // bytes << 2 | QueueName; 0 = in no queue
    std::uint32_t older;            // kNone = none
    std::uint32_t newer;

    QueueName queue() const { return static_cast<QueueName>(bytes_and_queue & 3); }
    std::uint64_t bytes() const { return bytes_and_queue >> 2; }
  };
  static_assert(sizeof(Entry) == 24);

  struct Queue {
    std::uint32_t oldest = kNone;
    std::uint32_t newest = kNone;
    std::uint64_t objects = 0;
    std::uint64_t bytes = 0;
  };

  Queue& QueueOf(QueueName name) { return name == QueueName::kSmall ? small_ : main_; }
  void Append(std::uint32_t slot, QueueName name, std::uint64_t bytes);
  void Unlink(std::uint32_t slot);
  void MoveToMain(std::uint32_t slot);
  bool SmallGivesNext() const;
  void Leave(std::uint32_t slot);

  fabric::LazyArray<Entry> entry_;  // zero = in no queue
  const std::uint64_t small_share_bytes_;
  Queue small_;
  Queue main_;
  std::uint32_t newest_ = kNone;  // the last that was inserted; may have left (invariant 3)
  GhostTable ghosts_;
};

template <typename TestAndClearVisited>
std::optional<std::uint32_t> Eviction::TakeVictim(TestAndClearVisited&& visited) {
  for (int chances = kMaxSecondChances; objects() != 0;) {
    const std::uint32_t slot = SmallGivesNext() ? small_.oldest : main_.oldest;
    if (slot == newest_ && objects() > 1) {
      MoveToMain(slot);  // invariant 3; the next in main is another one
      continue;
    }
    if (chances > 0 && visited(slot)) {
      MoveToMain(slot);
      --chances;
      continue;
    }
    Leave(slot);
    return slot;
  }
  return std::nullopt;
}

}  // namespace apta::compute
