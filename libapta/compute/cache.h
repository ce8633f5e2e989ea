// The object cache of a node, with its miss-status entries (MSHRs): the compute side's half of the
// coherence protocol (GETC, PUTC and the invalidation agent all act on it).
//
// An entry says where an object's version is: in place, in the heap, or in a private copy. Lookups
// are lock-free and write nothing that other keys' lookups read; everything that changes
// the cache takes its lock. A state machine without threads, clocks and system calls of its own:
// time and the invalidation rings are handed in.
//
// Invariants
//   1. An entry's extent is readable: the home reuses an extent only after this node has
//      acknowledged the invalidation that superseded it, and by then the entry is gone and every
//      pin of the extent is in the hold table.
//   2. A sequence number is acknowledged only when it, and all before it, have been applied, and no
//      get that one of them has overtaken is unresolved (protocol.md, MSHR). Puts need not be
//      waited for: they read nothing, and insert only while no record has been applied that was
//      issued after their commit. Nor gets in mode `sync`, where the home waits for
//      acknowledgements itself: there an overtaken get asks again.
//   3. A fill that is older than an invalidation which it met is not cached; a get hands it to its
//      callers.
//   4. In mode `sync`, nothing of an object is found while a put of this node's is under way: other
//      nodes may read what it wrote before its reply has been processed here, and nobody looks.
//   5. Eviction is silent: the directory may list this node longer than it caches.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string_view>
#include <vector>

#include "compute/eviction.h"
#include "compute/pins.h"
#include "compute/private_copy.h"
#include "fabric/clock.h"
#include "fabric/coherence.h"
#include "fabric/index.h"
#include "fabric/lazy_array.h"
#include "fabric/life.h"
#include "fabric/port.h"

namespace apta::compute {

// A version that the caller has pinned.
struct PinnedExtent {
  PinSlot* pin = nullptr;
  const fabric::ExtentHeader* header = nullptr;
};

// What a home has answered to a put or a delete.
struct Written {
  std::uint64_t version = 0;
  std::uint64_t extent = 0;  // 0: a delete, or it is not to be cached
  std::uint64_t payload_bytes = 0;
  std::uint64_t issued = 0;  // by the home to this node, up to the commit
  // The last of them is the node's own record of the put; this is its extent.
  bool has_own_record = false;
  std::uint64_t old_extent = 0;
};

class Cache {
 public:
  // `region` is mapped as long as the cache lives; `limit_bytes`: of payloads; `life`: of the
  // memory server; `clients_write`: to the heap (trusted pools).
  Cache(const fabric::IndexView& view, fabric::Coherence mode, std::uint64_t limit_bytes,
        int shards, const fabric::Port* port, PinDomain* pins, bool emulates_link,
        fabric::LifeView life = {}, bool clients_write = false);
  ~Cache();

  // --- any thread, lock-free

  // Where a version is: an offset into the heap, or PrivateCopy::place.
  using Place = std::uint64_t;

  // The cached version, pinned by `table`'s thread, or nullopt = miss. Before it, strict gets see
  // that IsCurrent, or Apply.
  std::optional<PinnedExtent> Lookup(std::uint64_t key_hash, std::string_view key,
                                     PinTable* table) const;
  // The look at the invalidation word: nothing was invalidated since Apply.
  bool IsCurrent(int shard) const {
    // Relaxed: a smaller value than the last one merely costs a needless Apply.
    const ShardDrain& drain = *drains_[static_cast<std::size_t>(shard)];
    return drain.ring.Issued() == drain.applied.load(std::memory_order_relaxed);
  }
  // Its running sequence number, or nullopt: something is issued that has not been applied.
  std::optional<std::uint64_t> AllApplied(int shard) const {
    // Acquire: what was found before the look is read as it was then; partner: Apply's release.
    const ShardDrain& drain = *drains_[static_cast<std::size_t>(shard)];
    const std::uint64_t applied = drain.applied.load(std::memory_order_acquire);
    if (drain.ring.Issued() != applied) return std::nullopt;
    return applied;
  }
  std::uint64_t Issued(int shard) const {
    return drains_[static_cast<std::size_t>(shard)]->ring.Issued();
  }
  int shards() const { return shards_; }
  // Whether a hit may be served now: strict only while current; sync unless fenced, because puts go
  // on without a fenced node; versioned and uncached never.
  bool MayHit(int shard) const {
    switch (mode_) {
      case fabric::Coherence::kStrict:
        return IsCurrent(shard) || !fabric::Upholds(fabric::Rule::kStrictLook);
      case fabric::Coherence::kLazy:
        return true;
      case fabric::Coherence::kSync:
        return drains_[static_cast<std::size_t>(shard)]->ring.Issued() != fabric::kFenced;
      case fabric::Coherence::kVersioned:
      case fabric::Coherence::kUncached:
        return false;
    }
    return false;
  }
  fabric::Coherence mode() const { return mode_; }
  // Looked at after something was found, in every mode: what a dead memory server's memory says
  // may have been superseded by the next one.
  const fabric::LifeView& life() const { return life_; }
  // Of a version that the caller knows to be pinned. 0: the session's memory is retired.
  std::uint64_t PayloadBytesAt(Place place) const;
  const fabric::IndexView& view() const { return view_; }
  // A home has fenced this node: the session is over, and nothing is found any more.
  bool is_fenced() const { return is_fenced_.load(std::memory_order_acquire); }

  // --- under the lock

  // Applies and acknowledges what has been issued by shard's home and may be seen at `now_ns`.
  void Apply(int shard, fabric::TimeNs now_ns);
  void ApplyAll(fabric::TimeNs now_ns);

  // A miss-status entry: an outstanding get of one object. Made by BeginGet; the leader ends it by
  // EndGet or AbandonFill, each follower by Followed or LeaveFill, and then it is another get's.
  class Fill;
  // A get: the caller leads a new fill (leads == true) and asks the home, or follows one that is
  // under way and waits for it. A fill that has been overtaken is not followed: what it brings may
  // be older than what the caller must see.
  struct Miss {
    Fill* fill;
    bool leads;
  };
  // `follows`: whether it may wait for another's.
  Miss BeginGet(std::uint64_t key_hash, bool follows = true);
  // A get of a mode with sharers that has looked in vain: applies what has been issued, where hits
  // wait for that, looks again, and begins, if `may_begin`. Not before it was seen that nothing
  // is_fenced: then there is no hit. A hit has no fill.
  struct Looked {
    std::optional<PinnedExtent> hit;
    Miss miss{nullptr, false};
  };
  struct Wanted {
    std::uint64_t key_hash;
    std::string_view key;
    PinTable* table;
  };
  Looked LookAgain(const Wanted& wanted, bool may_begin, bool follows, fabric::TimeNs now_ns);
  // What the home answered to a get: `place` holds the version. Caches it, unless overtaken, and
  // returns it pinned for the leader; followers get pins of their own. No pin: the version cannot
  // be handed out (in `sync`, when it was overtaken), and the get must ask again.
  struct Ended {
    std::optional<PinnedExtent> pinned;
    // The fill has held an acknowledgement back until now: the home may be waiting for it.
    bool was_overtaken;
  };
  Ended EndGet(Fill* fill, std::uint64_t version, Place place, PinTable* table);
  // The home had nothing, or the session is over. Followers ask for themselves. Whether the fill
  // was overtaken, as in Ended.
  bool AbandonFill(Fill* fill);
  // The follower's share of a fill that has ended; nullopt: it must ask for itself.
  std::optional<PinnedExtent> Followed(Fill* fill);
  // A follower asks no more; it need not have waited.
  void LeaveFill(Fill* fill);

  // A put or a delete is about to be sent; EndPut or AbandonPut follows with what this returned.
  // Costs nothing but in `sync` (invariant 4), and over an emulated link, where a later put's reply
  // may be processed before an earlier one's, and before the record of either.
  using PutId = std::uint64_t;
  PutId BeginPut(std::uint64_t key_hash) { return notes_puts_ ? NotePut(key_hash) : 0; }
  // Nothing older is found from here on, also where an emulated link still delays the node's own
  // record. Otherwise that has been applied, with all that came before it; if nothing did, from the
  // reply, without a look at the ring. Reads nothing of the heap: its lines are the home's, which
  // has just written them.
  void EndPut(PutId id, std::uint64_t key_hash, const Written& written, fabric::TimeNs now_ns);
  void AbandonPut(PutId id);

  // Puts a copy of `version` in the cache without a fill (versioned: hits are checked anyway).
  void InsertCopy(std::uint64_t key_hash, std::uint64_t version, PrivateCopy::Owner copy);

  // A watched pin was dropped: takes off the hold table, and frees, what nobody reads any more.
  void ReleaseHolds();
  // Visits each entry (key's hash, version, place): for checks from outside, under the lock.
  template <typename Visit>
  void ForEachEntry(Visit&& visit) const;

  // The node is no longer registered anywhere: nothing may be found from here on.
  void Clear();

  struct Counters {
    std::uint64_t objects = 0;
    std::uint64_t bytes = 0;
    std::uint64_t puts = 0;  // that have ended
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

  struct Put {
    PutId id;
    std::uint64_t key_hash;
    std::uint64_t overtaken_by_version;  // another put's of this node; 0 = none
  };

  Bucket& BucketOf(std::uint64_t key_hash) const { return bucket_[key_hash & bucket_mask_]; }
  // Of a version that the home has just named; nullptr: not in the heap, or it claims what is not.
  const fabric::ExtentHeader* NewHeaderAt(Place place) const {
    const bool is_readable = PrivateCopy::IsPlace(place) || view_.IsInHeap(place);
    return is_readable ? HeaderAt(place) : nullptr;
  }
  // The home has written it, checks it before it names it, and does not change it before the extent
  // is reused (invariant 1), unless clients may write to the heap.
  const fabric::ExtentHeader* HeaderAt(Place place) const {
    if (PrivateCopy::IsPlace(place)) return PrivateCopy::At(place)->header();
    return clients_write_ ? view_.HeaderAt(place) : view_.UncheckedHeaderAt(place);
  }
  std::uint64_t VersionAt(Place place) const;
  void ApplyIssued(int shard, fabric::TimeNs now_ns);
  Miss BeginFill(std::uint64_t key_hash, bool follows);
  void ApplyOne(std::uint64_t sequence, const fabric::Invalidation& invalidation);
  void DropOlder(std::uint64_t key_hash, std::uint64_t version);
  bool MayInsert(std::uint64_t key_hash) const;
  PutId NotePut(std::uint64_t key_hash);
  bool ForgetPut(PutId id, std::uint64_t key_hash, std::uint64_t version);
  void DropAll(int shard, std::uint64_t first);
  void Acknowledge(int shard);
  bool Insert(std::uint64_t key_hash, std::uint64_t version, Place place, std::uint64_t bytes);
  std::uint32_t SlotIndex(const Bucket* bucket, int slot) const {
    return static_cast<std::uint32_t>((bucket - &bucket_[0]) * Bucket::kSlots + slot);
  }
  void EmptySlot(Bucket* bucket, int slot);
  void EmptyAllSlots();
  void EvictToLimit();
  void Hold(std::uint64_t extent);
  void HoldIfPinned(std::uint64_t extent);
  void FreeCopy(Place place);
  bool Resolve(Fill* fill, bool is_filled);
  void Leave(Fill* fill);  // under the lock

  const fabric::IndexView view_;
  const fabric::Coherence mode_;
  const std::uint64_t limit_bytes_;
  const bool emulates_link_;
  const bool notes_puts_;
  const fabric::LifeView life_;
  const bool clients_write_;
  fabric::HoldTable* const holds_;
  PinDomain* const pins_;
  fabric::LazyArray<Bucket> bucket_;  // zero = empty; its pages cost nothing until they are used
  const std::uint64_t bucket_mask_;
  fabric::LazyArray<std::uint64_t> version_;  // by slot; under the lock

  std::array<std::optional<ShardDrain>, fabric::kMaxShards> drains_;
  const int shards_;

  mutable std::mutex mutex_;

  std::deque<Fill> fill_pool_;  // all that there ever were, each in one of two lists
  Fill* fills_ = nullptr;       // unresolved
  Fill* free_fills_ = nullptr;  // or resolved, with users
  std::vector<Put> puts_;       // noted, under way
  PutId last_put_ = 0;
  Eviction eviction_;                                          // of the slots, by bytes
  std::vector<std::pair<std::uint64_t, std::uint64_t>> held_;  // extent, slot of the hold table
  std::vector<Place> doomed_;  // copies that have left the cache and are still read
  std::atomic<bool> is_fenced_{false};
  bool is_closed_ = false;  // since Clear
  Counters counters_;
};

class Cache::Fill {
 public:
  // Blocks until it has ended; a follower's Followed comes next.
  void Await() const { state_.wait(kOutstanding); }
  bool has_ended() const { return state_.load() != kOutstanding; }

 private:
  friend class Cache;
  enum State : std::uint32_t { kOutstanding, kFilled, kAbandoned };
  static constexpr std::uint64_t kNoSequence = ~std::uint64_t{0};

  void Begin(std::uint64_t key_hash, int shard) {
    key_hash_ = key_hash;
    shard_ = shard;
    overtaken_by_version_ = 0;
    overtaken_at_sequence_ = kNoSequence;
    followers_ = 0;
    users_ = 1;
    state_.store(kOutstanding, std::memory_order_relaxed);  // nobody else has it yet
  }
  void End(State state) {
    // Relaxed where nobody waits: others look at it under the cache's lock.
    if (followers_ == 0) return state_.store(state, std::memory_order_relaxed);
    state_.store(state);
    state_.notify_all();
  }
  void Overtake(std::uint64_t version, std::uint64_t sequence) {
    overtaken_by_version_ = std::max(overtaken_by_version_, version);
    overtaken_at_sequence_ = std::min(overtaken_at_sequence_, sequence);
  }

  std::uint64_t key_hash_ = 0;
  int shard_ = 0;
  std::uint64_t overtaken_by_version_ = 0;  // 0 = not overtaken
  // The first that must not be acknowledged before we are resolved. None for an own put's version.
  std::uint64_t overtaken_at_sequence_ = kNoSequence;
  std::uint64_t followers_ = 0;
  std::uint64_t users_ = 0;  // the leader, and followers that have not left; 0 = free
  Fill* next_ = nullptr;     // in the cache's list
  PinnedExtent result_;
  std::atomic<std::uint32_t> state_{kOutstanding};
};

template <typename Visit>
void Cache::ForEachEntry(Visit&& visit) const {
  std::lock_guard<std::mutex> lock(mutex_);
  for (std::uint64_t b = 0; b <= bucket_mask_; ++b) {
    for (int slot = 0; slot < Bucket::kSlots; ++slot) {
      const Place place = bucket_[b].word[slot].load() & ~kVisited;
      if (place != 0) visit(bucket_[b].key_hash[slot].load(), VersionAt(place), place);
    }
  }
}

}  // namespace apta::compute
