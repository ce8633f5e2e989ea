#include "compute/cache.h"

#include <algorithm>
#include <bit>

#include "fabric/check.h"

namespace apta::compute {

using fabric::ExtentHeader;
using fabric::Invalidation;

namespace {

// Buckets for a byte limit: objects of 1 KiB fill the table, smaller ones are limited by it.
std::uint64_t BucketsFor(std::uint64_t limit_bytes) {
#ifdef APTA_CACHE_BUCKETS  // the simulator looks at all of them after each step
  if (limit_bytes > 0) return APTA_CACHE_BUCKETS;
#endif
  const std::uint64_t objects = std::clamp<std::uint64_t>(limit_bytes / 1024, 1 << 12, 1 << 22);
  return std::bit_ceil(objects / 3);
}

}  // namespace

Cache::Cache(const fabric::IndexView& view, fabric::Coherence mode, std::uint64_t limit_bytes,
             int shards, const fabric::Port* port, PinDomain* pins, bool emulates_link,
             fabric::LifeView life, bool clients_write)
    : view_(view),
      mode_(mode),
      limit_bytes_(limit_bytes),
      emulates_link_(emulates_link),
      life_(life),
      clients_write_(clients_write),
      holds_(port->holds()),
      pins_(pins),
      bucket_(BucketsFor(limit_bytes)),
      bucket_mask_(BucketsFor(limit_bytes) - 1),
      version_(BucketsFor(limit_bytes) * Bucket::kSlots),
      shards_(shards),
      eviction_(BucketsFor(limit_bytes) * Bucket::kSlots, limit_bytes) {
  for (int shard = 0; shard < shards; ++shard) {
    drains_[static_cast<std::size_t>(shard)].emplace(port->invalidations(shard));
  }
}

// Nothing is pinned any more: copies that are still listed have no readers.
Cache::~Cache() {
  Clear();
  for (const Place place : doomed_) PrivateCopy::At(place)->Drop();
}

// Model rule: PIN_THEN_LOOK
std::optional<PinnedExtent> Cache::Lookup(std::uint64_t key_hash, std::string_view key,
                                          PinTable* table) const {
  Bucket& bucket = BucketOf(key_hash);
  for (int slot = 0; slot < Bucket::kSlots; ++slot) {
    // Relaxed: only a hint until the pin stands.
    if (bucket.key_hash[slot].load(std::memory_order_relaxed) != key_hash) continue;
    const std::uint64_t word = bucket.word[slot].load(std::memory_order_relaxed);
    const std::uint64_t extent = word & ~kVisited;
    if (extent == 0) continue;
    PinSlot* pin = table->Pin(extent);
    // Sequentially consistent, after the pin: see pins.h. If the slot still says the same, the
    // extent was current after we had pinned it.
    if ((bucket.word[slot].load() & ~kVisited) == extent &&
        bucket.key_hash[slot].load() == key_hash) {
      const ExtentHeader* header = HeaderAt(extent);
      if (header != nullptr && header->key() == key) {
        // Written only when it is not set yet, so that a hot object's line stays shared.
        if ((word & kVisited) == 0) {
          std::uint64_t expected = word;
          bucket.word[slot].compare_exchange_strong(expected, word | kVisited);
        }
        return PinnedExtent{pin, header};
      }
    }
    pin->Drop();
  }
  return std::nullopt;
}

// ---------------------------------------------------------------------------------------------
// Invalidations.

void Cache::ApplyAll(fabric::TimeNs now_ns) {
  for (int shard = 0; shard < shards_; ++shard) Apply(shard, now_ns);
}

// Model rule: FENCED_WORD
void Cache::Apply(int shard, fabric::TimeNs now_ns) {
  std::lock_guard<std::mutex> lock(mutex_);
  ShardDrain& drain = *drains_[static_cast<std::size_t>(shard)];
  std::uint64_t applied = drain.applied.load(std::memory_order_relaxed);  // ours: under the lock
  const std::uint64_t issued = drain.ring.Issued();
  if (issued == applied) return;
  if (issued == fabric::kFenced) {
    if (fabric::Upholds(fabric::Rule::kFencedWord))
      is_fenced_.store(true, std::memory_order_release);
    return;
  }
  const std::uint64_t drop_all = drain.ring.DropAll();  // after Issued: see InvalidationDrain
  if (drop_all > applied && fabric::Upholds(fabric::Rule::kDropAllOnOverflow)) {
    DropAll(shard, applied + 1);
    applied = drop_all;
  }
  while (applied < issued) {
    const Invalidation invalidation = drain.ring.Record(applied + 1);
    if (emulates_link_ && invalidation.visible_at_ns > now_ns) break;
    ++applied;
    ApplyOne(applied, invalidation);
    ++counters_.invalidations_applied;
  }
  // Release: whoever sees that we are current finds the slots emptied; lookups check the slot
  // again anyway.
  drain.applied.store(applied, std::memory_order_release);
  Acknowledge(shard);
}

void Cache::DropOlder(std::uint64_t key_hash, std::uint64_t version) {
  Bucket& bucket = BucketOf(key_hash);
  for (int slot = 0; slot < Bucket::kSlots; ++slot) {
    const std::uint64_t extent = bucket.word[slot].load() & ~kVisited;
    if (extent == 0 || bucket.key_hash[slot].load() != key_hash) continue;
    // A newer version stays: our own put, or a later get.
    if (version_[SlotIndex(&bucket, slot)] < version) EmptySlot(&bucket, slot);
  }
}

// Model rule: APPLY_RECORD
void Cache::ApplyOne(std::uint64_t sequence, const Invalidation& invalidation) {
  DropOlder(invalidation.key_hash, invalidation.version);
  for (const std::shared_ptr<Fill>& fill : fills_) {
    if (fill->key_hash_ == invalidation.key_hash) fill->Overtake(invalidation.version, sequence);
  }
  // The object may have left the cache long ago and still be read.
  if (invalidation.old_extent != 0 && pins_->WatchIfPinned(invalidation.old_extent)) {
    Hold(invalidation.old_extent);
  }
}

// The ring has overflowed: from `first` on, not everything has a record that we could look at. Any
// of it may have superseded what a fill that is under way brings, so none of it is acknowledged
// before (invariant 2).
// Model rule: DROP_ALL_ON_OVERFLOW
void Cache::DropAll(int shard, std::uint64_t first) {
  for (std::uint64_t b = 0; b <= bucket_mask_; ++b) {
    for (int slot = 0; slot < Bucket::kSlots; ++slot) {
      if ((bucket_[b].word[slot].load() & ~kVisited) != 0) EmptySlot(&bucket_[b], slot);
    }
  }
  for (const std::shared_ptr<Fill>& fill : fills_) {
    if (fill->shard_ != shard) continue;
    fill->Overtake(~std::uint64_t{0}, first);  // by what, nobody knows
  }
  for (const Place place : pins_->WatchAll()) {
    if (!PrivateCopy::IsPlace(place)) Hold(place);
  }
}

// Invariant 2.
// Model rule: SYNC_ACKS_AT_ONCE, FILL_DELAYS_ACK
void Cache::Acknowledge(int shard) {
  ShardDrain& drain = *drains_[static_cast<std::size_t>(shard)];
  std::uint64_t sequence = drain.applied.load(std::memory_order_relaxed);  // under the lock
  for (const std::shared_ptr<Fill>& fill : fills_) {
    if (fill->shard_ != shard || !fill->delays_acknowledgement_) continue;
    if (!fabric::Upholds(fabric::Rule::kFillDelaysAck)) continue;
    sequence = std::min(sequence, fill->overtaken_at_sequence_ - 1);
  }
  if (sequence == drain.acknowledged) return;
  drain.acknowledged = sequence;
  drain.ring.Acknowledge(sequence);
}

// ---------------------------------------------------------------------------------------------
// Fills.

// Model rule: SYNC_OWN_PUT_NOT_FOLLOWED, FOLLOW_NOT_OVERTAKEN
Cache::Miss Cache::BeginGet(std::uint64_t key_hash) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const std::shared_ptr<Fill>& fill : fills_) {
    if (fill->key_hash_ != key_hash || !fill->is_get_ || fill->overtaken_by_version_ != 0) continue;
    if (!MayInsert(key_hash, nullptr)) break;  // invariant 4: a put of ours may have overtaken it
    ++fill->followers_;
    return {fill, false};
  }
  fills_.push_back(std::make_shared<Fill>(key_hash, static_cast<int>(view_.ShardOf(key_hash)),
                                          /*is_get=*/true, mode_ != fabric::Coherence::kSync));
  return {fills_.back(), true};
}

// Model rule: SYNC_OWN_PUT_DROPS
std::shared_ptr<Cache::Fill> Cache::BeginPut(std::uint64_t key_hash) {
  std::lock_guard<std::mutex> lock(mutex_);
  fills_.push_back(std::make_shared<Fill>(key_hash, static_cast<int>(view_.ShardOf(key_hash)),
                                          /*is_get=*/false, /*delays_acknowledgement=*/false));
  if (mode_ == fabric::Coherence::kSync) DropOlder(key_hash, ~std::uint64_t{0});  // invariant 4
  return fills_.back();
}

// Model rule: SYNC_OVERTAKEN_ASKS_AGAIN, OVERTAKEN_FILL_NOT_CACHED
std::optional<PinnedExtent> Cache::EndGet(const std::shared_ptr<Fill>& fill, std::uint64_t version,
                                          Place place, PinTable* table) {
  std::lock_guard<std::mutex> lock(mutex_);
  const bool is_overtaken = version < fill->overtaken_by_version_;
  // Readable: the acknowledgement that would free the extent waits for this fill (invariant 2), or
  // has not been given.
  const bool is_readable = !is_overtaken || fill->delays_acknowledgement_;
  const ExtentHeader* header = is_readable ? NewHeaderAt(place) : nullptr;
  std::optional<PinnedExtent> pinned;
  if (header != nullptr) {
    pinned = PinnedExtent{table->Pin(place), header};
    pinned->pin->Share(fill->followers_);  // each of them drops one
    fill->result_ = *pinned;
    const bool may_cache =
        (!is_overtaken || !fabric::Upholds(fabric::Rule::kOvertakenFillNotCached)) &&
        MayInsert(fill->key_hash_, fill.get());
    // Invariant 3: what is not cached its callers still read, although it may be acknowledged.
    if (!may_cache || !Insert(fill->key_hash_, version, place, header->payload_bytes)) {
      if (PrivateCopy::IsPlace(place)) {
        FreeCopy(place);
      } else if (is_overtaken && pins_->WatchIfPinned(place)) {
        Hold(place);
      }
    }
  } else if (PrivateCopy::IsPlace(place)) {
    FreeCopy(place);
  }
  fill->state_.store(pinned ? Fill::kFilled : Fill::kAbandoned);
  Resolve(fill);
  return pinned;
}

// Model rule: OWN_PUT_REPLACES
bool Cache::EndPut(const std::shared_ptr<Fill>& fill, const Written& written) {
  std::lock_guard<std::mutex> lock(mutex_);
  const std::uint64_t version = written.version;
  if (fabric::Upholds(fabric::Rule::kOwnPutReplaces)) {
    DropOlder(fill->key_hash_, version);
    for (const std::shared_ptr<Fill>& other : fills_) {
      // What it brings may be older than what this put's caller is about to rely on.
      if (other != fill && other->key_hash_ == fill->key_hash_) {
        other->Overtake(version, Fill::kNoSequence);
      }
    }
  }
  // Not overtaken: nothing that supersedes it has been acknowledged, and it is readable.
  if (written.extent != 0 && version >= fill->overtaken_by_version_ &&
      MayInsert(fill->key_hash_, fill.get()) && view_.IsInHeap(written.extent)) {
    Insert(fill->key_hash_, version, written.extent, written.payload_bytes);
  }
  ShardDrain& drain = *drains_[static_cast<std::size_t>(fill->shard_)];
  const std::uint64_t next = drain.applied.load(std::memory_order_relaxed) + 1;
  const bool is_next = written.own_sequence == next;
  if (is_next) {
    // Resolve acknowledges it: our fill is one that it has overtaken.
    ApplyOne(next, {.key_hash = fill->key_hash_,
                    .version = version,
                    .old_extent = written.old_extent,
                    .visible_at_ns = 0});
    ++counters_.invalidations_applied;
    drain.applied.store(next, std::memory_order_release);  // as in Apply
  }
  Resolve(fill);
  return is_next;
}

// Invariant 4.
// Model rule: SYNC_OWN_PUT_BLOCKS
bool Cache::MayInsert(std::uint64_t key_hash, const Fill* own) const {
  if (mode_ != fabric::Coherence::kSync) return true;
  return std::none_of(fills_.begin(), fills_.end(), [&](const std::shared_ptr<Fill>& other) {
    return other.get() != own && !other->is_get_ && other->key_hash_ == key_hash;
  });
}

void Cache::InsertCopy(std::uint64_t key_hash, std::uint64_t version, PrivateCopy::Owner copy) {
  std::lock_guard<std::mutex> lock(mutex_);
  const std::uint64_t bytes = copy->header()->payload_bytes;
  if (Insert(key_hash, version, copy->place(), bytes)) copy.release();
}

void Cache::AbandonFill(const std::shared_ptr<Fill>& fill) {
  std::lock_guard<std::mutex> lock(mutex_);
  fill->state_.store(Fill::kAbandoned);
  Resolve(fill);
}

// Model rule: FILL_RESOLVES
void Cache::Resolve(const std::shared_ptr<Fill>& fill) {
  fills_.erase(std::find(fills_.begin(), fills_.end(), fill));
  if (fill->overtaken_by_version_ != 0) Acknowledge(fill->shard_);
  if (fill->followers_ > 0) fill->state_.notify_all();
}

std::optional<PinnedExtent> Cache::Followed(const Fill& fill) const {
  if (fill.state_.load() != Fill::kFilled) return std::nullopt;
  return fill.result_;
}

// ---------------------------------------------------------------------------------------------
// Entries.

// 0 when the session is over and the extent has been given to somebody else.
std::uint64_t Cache::VersionAt(Place place) const {
  const ExtentHeader* header = HeaderAt(place);
  return header != nullptr ? header->version : 0;
}
std::uint64_t Cache::PayloadBytesAt(Place place) const {
  const ExtentHeader* header = HeaderAt(place);
  return header != nullptr ? header->payload_bytes : 0;
}

// False: it is not in the cache, and stays the caller's.
// Model rule: NEVER_BACK
bool Cache::Insert(std::uint64_t key_hash, std::uint64_t version, Place place,
                   std::uint64_t bytes) {
  if (is_closed_) return false;
  Bucket& bucket = BucketOf(key_hash);
  // The object's own slot, else an empty one, else one that nobody looked at, else any.
  int chosen = 0;
  int best_rank = 4;
  for (int slot = 0; slot < Bucket::kSlots; ++slot) {
    const std::uint64_t word = bucket.word[slot].load();
    const std::uint64_t other = word & ~kVisited;
    const bool is_same = other != 0 && bucket.key_hash[slot].load() == key_hash;
    // Somebody was faster.
    if (is_same && version_[SlotIndex(&bucket, slot)] >= version) return false;
    const int rank = is_same ? 0 : other == 0 ? 1 : (word & kVisited) == 0 ? 2 : 3;
    if (rank >= best_rank) continue;
    best_rank = rank;
    chosen = slot;
  }
  if (bytes > limit_bytes_) {
    if (best_rank == 0) EmptySlot(&bucket, chosen);  // it is old now, whatever replaces it
    return false;
  }
  if (best_rank != 1) EmptySlot(&bucket, chosen);
  if (best_rank >= 2) ++counters_.evictions;
  version_[SlotIndex(&bucket, chosen)] = version;
  bucket.key_hash[chosen].store(key_hash);
  bucket.word[chosen].store(place);
  eviction_.Insert(SlotIndex(&bucket, chosen), key_hash, bytes);
  if (eviction_.bytes() > limit_bytes_) EvictToLimit();
  return true;
}

void Cache::EmptySlot(Bucket* bucket, int slot) {
  // Sequentially consistent: after it we look for pins (pins.h).
  const Place place = bucket->word[slot].exchange(0) & ~kVisited;
  eviction_.Remove(SlotIndex(bucket, slot));
  if (PrivateCopy::IsPlace(place)) FreeCopy(place);
}

// A copy has left the cache, or did not get in: it goes with its last reader.
void Cache::FreeCopy(Place place) {
  if (pins_->WatchIfPinned(place)) {
    doomed_.push_back(place);
  } else {
    PrivateCopy::At(place)->Drop();
  }
}

// Silent: invariant 5.
void Cache::EvictToLimit() {
  const auto was_visited = [this](std::uint32_t index) {
    std::atomic<std::uint64_t>& word = bucket_[index / Bucket::kSlots].word[index % Bucket::kSlots];
    return (word.fetch_and(~kVisited) & kVisited) != 0;
  };
  while (eviction_.bytes() > limit_bytes_) {
    const std::optional<std::uint32_t> victim = eviction_.TakeVictim(was_visited);
    if (!victim) return;
    EmptySlot(&bucket_[*victim / Bucket::kSlots], static_cast<int>(*victim % Bucket::kSlots));
    ++counters_.evictions;
  }
}

// Headers may belong to others by now: nothing is read from the heap.
void Cache::Clear() {
  std::lock_guard<std::mutex> lock(mutex_);
  is_closed_ = true;
  for (std::uint64_t b = 0; b <= bucket_mask_; ++b) {
    for (int slot = 0; slot < Bucket::kSlots; ++slot) {
      if (bucket_[b].word[slot].load() != 0) EmptySlot(&bucket_[b], slot);
    }
  }
}

Cache::Counters Cache::counters() const {
  std::lock_guard<std::mutex> lock(mutex_);
  Counters counters = counters_;
  counters.objects = eviction_.objects();
  counters.bytes = eviction_.bytes();
  return counters;
}

// ---------------------------------------------------------------------------------------------
// Holds.

// Lists an extent, so that the home keeps it although we are about to acknowledge.
// Model rule: HOLD_BEFORE_ACK
void Cache::Hold(std::uint64_t extent) {
  if (!fabric::Upholds(fabric::Rule::kHoldBeforeAck)) return;
  const bool is_listed = std::any_of(held_.begin(), held_.end(),
                                     [&](const auto& held) { return held.first == extent; });
  if (is_listed) return;
  held_.emplace_back(extent, holds_->List(extent));
}

// Model rule: HOLD_ENDS
void Cache::ReleaseHolds() {
  std::lock_guard<std::mutex> lock(mutex_);
  std::erase_if(doomed_, [&](Place place) {
    if (pins_->WatchIfPinned(place)) return false;
    PrivateCopy::At(place)->Drop();
    return true;
  });
  constexpr std::uint64_t kNoSlot = fabric::HoldTable::kNoSlot;
  bool all_listed = true;
  const std::size_t ended = std::erase_if(held_, [&](const auto& held) {
    const auto& [extent, slot] = held;
    if (pins_->WatchIfPinned(extent)) {
      all_listed = all_listed && slot != kNoSlot;
      return false;
    }
    if (slot != kNoSlot) holds_->TakeOff(slot);
    return true;
  });
  if (ended > 0) holds_->Publish(all_listed);
}

}  // namespace apta::compute
