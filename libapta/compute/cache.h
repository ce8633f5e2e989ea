// The object cache of a node, with its miss-status entries (MSHRs): the compute side's half of the
// coherence protocol (GETC, PUTC and the invalidation agent all act on it).
//
// In place: an entry says where in the heap an object's current version is; the bytes stay there.
// Lookups are lock-free and write nothing that other keys' lookups read; everything that changes
// the cache takes its lock. A state machine without threads, clocks and system calls of its own:
// time and the invalidation rings are handed in.
//
// Invariants
//   1. An entry's extent is readable: the home reuses an extent only after this node has
//      acknowledged the invalidation that superseded it, and by then the entry is gone and every
//      pin of the extent is in the hold table.
//   2. A sequence number is acknowledged only when it, and all before it, have been applied, and no
//      fill that one of them has overtaken is unresolved (protocol.md, MSHR).
//   3. A fill that is older than an invalidation which it met is handed to its callers and not
//      cached.
//   4. Eviction is silent: the directory may list this node longer than it caches.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <vector>

#include "compute/pins.h"
#include "fabric/clock.h"
#include "fabric/index.h"
#include "fabric/lazy_array.h"
#include "fabric/port.h"

namespace apta::compute {

// A version that the caller has pinned.
struct PinnedExtent {
  PinSlot* pin = nullptr;
  const fabric::ExtentHeader* header = nullptr;
};

class Cache {
 public:
  // `region` is mapped as long as the cache lives; `limit_bytes`: of payloads.
  Cache(const fabric::IndexView& view, std::uint64_t limit_bytes, int shards,
        const fabric::Port* port, PinDomain* pins, bool emulates_link);

  // --- any thread, lock-free

  // The cached version, pinned by `table`'s thread, or nullopt = miss. Strict callers have seen
  // IsCurrent first.
  std::optional<PinnedExtent> Lookup(std::uint64_t key_hash, std::string_view key,
                                     PinTable* table) const;
  // The look at the invalidation word: nothing was invalidated since Apply.
  bool IsCurrent(int shard) const {
    // Relaxed: a smaller value than the last one merely costs a needless Apply.
    const ShardDrain& drain = *drains_[static_cast<std::size_t>(shard)];
    return drain.ring.Issued() == drain.applied.load(std::memory_order_relaxed);
  }

  // --- under the lock

  // Applies and acknowledges what has been issued by shard's home and may be seen at `now_ns`.
  void Apply(int shard, fabric::TimeNs now_ns);
  void ApplyAll(fabric::TimeNs now_ns);

  // An outstanding get or put of one object. Made by BeginGet or BeginPut, ended by exactly one of
  // the functions below. One that was overtaken has held an acknowledgement back until it ended:
  // the home may be waiting for it.
  class Fill;
  // A get: the caller leads a new fill (leads == true) and asks the home, or follows one that is
  // under way and waits for it. A fill that has been overtaken is not followed: what it brings may
  // be older than what the caller must see.
  struct Miss {
    std::shared_ptr<Fill> fill;
    bool leads;
  };
  Miss BeginGet(std::uint64_t key_hash);
  std::shared_ptr<Fill> BeginPut(std::uint64_t key_hash);

  // What the home answered to a get: `extent` holds the version. Caches it, unless overtaken, and
  // returns it pinned for the leader; followers get pins of their own.
  std::optional<PinnedExtent> EndGet(const std::shared_ptr<Fill>& fill, std::uint64_t version,
                                     std::uint64_t extent, PinTable* table);
  // What the home answered to a put: nothing older is found from here on, although the node's own
  // record of it may still be under way. `extent` 0: a delete.
  void EndPut(const std::shared_ptr<Fill>& fill, std::uint64_t version, std::uint64_t extent);
  // The home had nothing, or the session is over. Followers ask for themselves.
  void AbandonFill(const std::shared_ptr<Fill>& fill);
  // Blocks until the fill has ended; nullopt: abandoned.
  std::optional<PinnedExtent> Follow(const std::shared_ptr<Fill>& fill);

  // A watched pin was dropped: takes off the hold table what nobody reads any more.
  void ReleaseHolds();

  // The node is no longer registered anywhere: nothing may be found from here on.
  void Clear();

  struct Counters {
    std::uint64_t objects = 0;
    std::uint64_t bytes = 0;
    std::uint64_t invalidations_applied = 0;
    std::uint64_t evictions = 0;
  };
  Counters counters() const;

 private:
  // One line. A slot is (hash, word); word = extent | kVisited, 0 = empty.
  struct alignas(fabric::kCacheLineBytes) Bucket {
    static constexpr int kSlots = 4;
    std::atomic<std::uint64_t> key_hash[kSlots];
    std::atomic<std::uint64_t> word[kSlots];
  };
  static_assert(sizeof(Bucket) == fabric::kCacheLineBytes);
  static constexpr std::uint64_t kVisited = 1;  // extents are cache-line aligned

  // Read by every strict hit; written when something is applied.
  struct alignas(fabric::kCacheLineBytes) ShardDrain {
    explicit ShardDrain(fabric::InvalidationRing<>* its_ring) : ring(its_ring) {}
    fabric::InvalidationDrain<> ring;
    std::atomic<std::uint64_t> applied{0};
    std::uint64_t acknowledged = 0;
  };

  Bucket& BucketOf(std::uint64_t key_hash) const { return bucket_[key_hash & bucket_mask_]; }
  std::uint64_t VersionAt(std::uint64_t extent) const;
  std::uint64_t PayloadBytesAt(std::uint64_t extent) const;
  void ApplyOne(std::uint64_t sequence, const fabric::Invalidation& invalidation);
  void DropOlder(std::uint64_t key_hash, std::uint64_t version);
  void DropAll(int shard, std::uint64_t first);
  void Acknowledge(int shard);
  void Insert(std::uint64_t key_hash, std::uint64_t version, std::uint64_t extent);
  void EmptySlot(Bucket* bucket, int slot);
  void EvictToLimit();
  void Hold(std::uint64_t extent);
  void Resolve(const std::shared_ptr<Fill>& fill);

  const fabric::IndexView view_;
  const std::uint64_t limit_bytes_;
  const bool emulates_link_;
  fabric::HoldTable* const holds_;
  PinDomain* const pins_;
  fabric::LazyArray<Bucket> bucket_;  // zero = empty; its pages cost nothing until they are used
  const std::uint64_t bucket_mask_;

  std::array<std::optional<ShardDrain>, fabric::kMaxShards> drains_;
  const int shards_;

  mutable std::mutex mutex_;

  std::list<std::shared_ptr<Fill>> fills_;           // unresolved
  std::uint64_t hand_ = 0;                           // of the eviction's sweep over the buckets
  std::vector<std::pair<std::uint64_t, int>> held_;  // extent, slot of the hold table
  Counters counters_;
};

class Cache::Fill {
 public:
  explicit Fill(std::uint64_t key_hash, int shard, bool is_get)
      : key_hash_(key_hash), shard_(shard), is_get_(is_get) {}

  int shard() const { return shard_; }
  // After its end.
  bool was_overtaken() const { return overtaken_by_version_ != 0; }

 private:
  friend class Cache;
  enum State : std::uint32_t { kOutstanding, kFilled, kAbandoned };
  static constexpr std::uint64_t kNoSequence = ~std::uint64_t{0};

  const std::uint64_t key_hash_;
  const int shard_;
  const bool is_get_;  // may be followed
  void Overtake(std::uint64_t version, std::uint64_t sequence) {
    overtaken_by_version_ = std::max(overtaken_by_version_, version);
    overtaken_at_sequence_ = std::min(overtaken_at_sequence_, sequence);
  }

  std::uint64_t overtaken_by_version_ = 0;  // 0 = not overtaken
  // The first that must not be acknowledged before we are resolved. None for an own put's version.
  std::uint64_t overtaken_at_sequence_ = kNoSequence;
  std::uint64_t followers_ = 0;
  PinnedExtent result_;
  std::atomic<std::uint32_t> state_{kOutstanding};
};

}  // namespace apta::compute
