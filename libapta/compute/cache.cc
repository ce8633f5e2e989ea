#include "compute/cache.h"

#include <algorithm>
#include <bit>
#include <utility>

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
      notes_puts_(mode == fabric::Coherence::kSync || emulates_link),
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

void Cache::Apply(int shard, fabric::TimeNs now_ns) {
  std::lock_guard<std::mutex> lock(mutex_);
  ApplyIssued(shard, now_ns);
}

// Model rule: FENCED_WORD
void Cache::ApplyIssued(int shard, fabric::TimeNs now_ns) {
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
    // Relaxed: nobody else writes, under the lock.
    if (bucket.key_hash[slot].load(std::memory_order_relaxed) != key_hash) continue;
    if ((bucket.word[slot].load(std::memory_order_relaxed) & ~kVisited) == 0) continue;
    // A newer version stays: our own put, or a later get.
    if (version_[SlotIndex(&bucket, slot)] < version) EmptySlot(&bucket, slot);
    return;  // there is no other
  }
}

// Model rule: APPLY_RECORD
void Cache::ApplyOne(std::uint64_t sequence, const Invalidation& invalidation) {
  DropOlder(invalidation.key_hash, invalidation.version);
  for (Fill* fill = fills_; fill != nullptr; fill = fill->next_) {
    if (fill->key_hash_ == invalidation.key_hash) fill->Overtake(invalidation.version, sequence);
  }
  if (invalidation.old_extent != 0) HoldIfPinned(invalidation.old_extent);
}

// The ring has overflowed: from `first` on, not everything has a record that we could look at. Any
// of it may have superseded what a fill that is under way brings, so none of it is acknowledged
// before (invariant 2).
// Model rule: DROP_ALL_ON_OVERFLOW
void Cache::DropAll(int shard, std::uint64_t first) {
  EmptyAllSlots();
  for (Fill* fill = fills_; fill != nullptr; fill = fill->next_) {
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
  for (Fill* fill = fills_; fill != nullptr; fill = fill->next_) {
    if (fill->shard_ != shard || mode_ == fabric::Coherence::kSync) continue;
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
Cache::Miss Cache::BeginFill(std::uint64_t key_hash, bool follows) {
  for (Fill* fill = fills_; fill != nullptr; fill = fill->next_) {
    if (!follows) break;
    if (fill->key_hash_ != key_hash || fill->overtaken_by_version_ != 0) continue;
    if (!MayInsert(key_hash)) break;  // invariant 4: a put of ours may have overtaken it
    ++fill->followers_;
    ++fill->users_;
    return {fill, false};
  }
  if (free_fills_ == nullptr) free_fills_ = &fill_pool_.emplace_back();
  Fill* fill = std::exchange(free_fills_, free_fills_->next_);
  fill->Begin(key_hash, static_cast<int>(view_.ShardOf(key_hash)));
  fill->next_ = std::exchange(fills_, fill);
  return {fill, true};
}

Cache::Miss Cache::BeginGet(std::uint64_t key_hash, bool follows) {
  std::lock_guard<std::mutex> lock(mutex_);
  return BeginFill(key_hash, follows);
}

Cache::Looked Cache::LookAgain(const Wanted& wanted, bool may_begin, bool follows,
                               fabric::TimeNs now_ns) {
  const int shard = static_cast<int>(view_.ShardOf(wanted.key_hash));
  std::lock_guard<std::mutex> lock(mutex_);
  if (!MayHit(shard)) ApplyIssued(shard, now_ns);
  Looked looked;
  if (!is_fenced()) looked.hit = Lookup(wanted.key_hash, wanted.key, wanted.table);
  if (!looked.hit && may_begin) looked.miss = BeginFill(wanted.key_hash, follows);
  return looked;
}

// Model rule: SYNC_OVERTAKEN_ASKS_AGAIN, OVERTAKEN_FILL_NOT_CACHED
Cache::Ended Cache::EndGet(Fill* fill, std::uint64_t version, Place place, PinTable* table) {
  std::lock_guard<std::mutex> lock(mutex_);
  const bool is_overtaken = version < fill->overtaken_by_version_;
  // Readable: the acknowledgement that would free the extent waits for this fill (invariant 2), or
  // has not been given.
  const bool is_readable = !is_overtaken || mode_ != fabric::Coherence::kSync;
  const ExtentHeader* header = is_readable ? NewHeaderAt(place) : nullptr;
  std::optional<PinnedExtent> pinned;
  if (header != nullptr) {
    pinned = PinnedExtent{table->Pin(place), header};
    if (fill->followers_ > 0) pinned->pin->Share(fill->followers_);  // each of them drops one
    fill->result_ = *pinned;
    const bool may_cache =
        (!is_overtaken || !fabric::Upholds(fabric::Rule::kOvertakenFillNotCached)) &&
        MayInsert(fill->key_hash_);
    // Invariant 3: what is not cached its callers still read, although it may be acknowledged.
    if (!may_cache || !Insert(fill->key_hash_, version, place, header->payload_bytes)) {
      if (PrivateCopy::IsPlace(place)) {
        FreeCopy(place);
      } else if (is_overtaken) {
        HoldIfPinned(place);
      }
    }
  } else if (PrivateCopy::IsPlace(place)) {
    FreeCopy(place);
  }
  return {pinned, Resolve(fill, pinned.has_value())};
}

bool Cache::AbandonFill(Fill* fill) {
  std::lock_guard<std::mutex> lock(mutex_);
  return Resolve(fill, false);
}

// Whether it was overtaken.
// Model rule: FILL_RESOLVES
bool Cache::Resolve(Fill* fill, bool is_filled) {
  Fill** link = &fills_;
  while (*link != fill) link = &(*link)->next_;
  *link = fill->next_;
  const bool was_overtaken = fill->overtaken_by_version_ != 0;
  if (was_overtaken) Acknowledge(fill->shard_);
  fill->End(is_filled ? Fill::kFilled : Fill::kAbandoned);
  Leave(fill);
  return was_overtaken;
}

void Cache::Leave(Fill* fill) {
  if (--fill->users_ == 0) fill->next_ = std::exchange(free_fills_, fill);
}

std::optional<PinnedExtent> Cache::Followed(Fill* fill) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::optional<PinnedExtent> pinned;
  if (fill->state_.load() == Fill::kFilled) pinned = fill->result_;
  Leave(fill);
  return pinned;
}

void Cache::LeaveFill(Fill* fill) {
  std::lock_guard<std::mutex> lock(mutex_);
  // It may get a pin, or have got one.
  if (fill->state_.load() == Fill::kFilled) fill->result_.pin->Drop();
  if (fill->state_.load() == Fill::kOutstanding) --fill->followers_;
  Leave(fill);
}

// ---------------------------------------------------------------------------------------------
// Puts.

// Model rule: SYNC_OWN_PUT_DROPS
Cache::PutId Cache::NotePut(std::uint64_t key_hash) {
  std::lock_guard<std::mutex> lock(mutex_);
  puts_.push_back({++last_put_, key_hash, 0});
  if (mode_ == fabric::Coherence::kSync) DropOlder(key_hash, ~std::uint64_t{0});  // invariant 4
  return last_put_;
}

// Whether a later put of ours has ended before it. Those that are still under way learn of it.
bool Cache::ForgetPut(PutId id, std::uint64_t key_hash, std::uint64_t version) {
  const auto own =
      std::find_if(puts_.begin(), puts_.end(), [id](const Put& put) { return put.id == id; });
  const bool was_overtaken = own->overtaken_by_version > version;
  puts_.erase(own);
  for (Put& other : puts_) {
    if (other.key_hash != key_hash) continue;
    other.overtaken_by_version = std::max(other.overtaken_by_version, version);
  }
  return was_overtaken;
}

void Cache::AbandonPut(PutId id) {
  if (id == 0) return;
  std::lock_guard<std::mutex> lock(mutex_);
  std::erase_if(puts_, [id](const Put& put) { return put.id == id; });
}

// Invariant 4.
// Model rule: SYNC_OWN_PUT_BLOCKS
bool Cache::MayInsert(std::uint64_t key_hash) const {
  return mode_ != fabric::Coherence::kSync ||
         std::none_of(puts_.begin(), puts_.end(),
                      [&](const Put& put) { return put.key_hash == key_hash; });
}

// Model rule: OWN_PUT_REPLACES
void Cache::EndPut(PutId id, std::uint64_t key_hash, const Written& written,
                   fabric::TimeNs now_ns) {
  std::lock_guard<std::mutex> lock(mutex_);
  ++counters_.puts;
  const bool was_overtaken = id != 0 && ForgetPut(id, key_hash, written.version);
  const int shard = static_cast<int>(view_.ShardOf(key_hash));
  ShardDrain& drain = *drains_[static_cast<std::size_t>(shard)];
  const std::uint64_t applied = drain.applied.load(std::memory_order_relaxed);  // under the lock
  const bool is_own_next = written.has_own_record && written.issued == applied + 1;
  const bool replaces = fabric::Upholds(fabric::Rule::kOwnPutReplaces);
  if (is_own_next || replaces) {
    for (Fill* fill = fills_; fill != nullptr; fill = fill->next_) {
      // What it brings may be older than what this put's caller is about to rely on.
      if (fill->key_hash_ != key_hash) continue;
      fill->Overtake(written.version, is_own_next ? written.issued : Fill::kNoSequence);
    }
  }
  // Whatever supersedes it has a record that was issued later, and none of those has been applied:
  // it is readable until one is.
  const bool is_cached = written.extent != 0 && applied <= written.issued && !was_overtaken &&
                         MayInsert(key_hash) && view_.IsInHeap(written.extent) &&
                         Insert(key_hash, written.version, written.extent, written.payload_bytes);
  if (!is_cached && (is_own_next || replaces)) DropOlder(key_hash, written.version);
  if (!is_own_next) {
    // Of this node's puts, earlier ones whose replies come later must see that they are old.
    ApplyIssued(shard, now_ns);
    return;
  }
  if (written.old_extent != 0) HoldIfPinned(written.old_extent);
  ++counters_.invalidations_applied;
  drain.applied.store(written.issued, std::memory_order_release);  // as in ApplyIssued
  Acknowledge(shard);
}

void Cache::InsertCopy(std::uint64_t key_hash, std::uint64_t version, PrivateCopy::Owner copy) {
  std::lock_guard<std::mutex> lock(mutex_);
  const std::uint64_t bytes = copy->header()->payload_bytes;
  if (Insert(key_hash, version, copy->place(), bytes)) copy.release();
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
    if (other != 0 && bucket.key_hash[slot].load(std::memory_order_relaxed) == key_hash) {
      // Somebody was faster.
      if (version_[SlotIndex(&bucket, slot)] >= version) return false;
      best_rank = 0;
      chosen = slot;
      break;
    }
    const int rank = other == 0 ? 1 : (word & kVisited) == 0 ? 2 : 3;
    if (rank >= best_rank) continue;
    best_rank = rank;
    chosen = slot;
  }
  if (bytes > limit_bytes_) {
    if (best_rank == 0) EmptySlot(&bucket, chosen);  // it is old now, whatever replaces it
    return false;
  }
  const std::uint32_t index = SlotIndex(&bucket, chosen);
  version_[index] = version;
  if (best_rank == 0) {
    // An update counts as a hit. Sequentially consistent: after it we look for pins (pins.h).
    const Place old = bucket.word[chosen].exchange(place | kVisited) & ~kVisited;
    eviction_.Resize(index, bytes);
    if (PrivateCopy::IsPlace(old)) FreeCopy(old);
  } else {
    if (best_rank >= 2) {
      EmptySlot(&bucket, chosen);
      ++counters_.evictions;
    }
    // Release: a lookup that finds this word finds the hash, or a later one, when it looks again.
    // That an entry is new need not be seen at once.
    bucket.key_hash[chosen].store(key_hash, std::memory_order_relaxed);
    bucket.word[chosen].store(place, std::memory_order_release);
    eviction_.Insert(index, key_hash, bytes);
  }
  if (eviction_.bytes() > limit_bytes_) EvictToLimit();
  return true;
}

void Cache::EmptySlot(Bucket* bucket, int slot) {
  // Sequentially consistent: after it we look for pins (pins.h).
  const Place place = bucket->word[slot].exchange(0) & ~kVisited;
  eviction_.Remove(SlotIndex(bucket, slot));
  if (PrivateCopy::IsPlace(place)) FreeCopy(place);
}

// By the queues, which know every entry: the table's pages that were never used stay so.
void Cache::EmptyAllSlots() {
  while (const std::optional<std::uint32_t> index = eviction_.Any()) {
    EmptySlot(&bucket_[*index / Bucket::kSlots], static_cast<int>(*index % Bucket::kSlots));
  }
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
  EmptyAllSlots();
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

// The object may have left the cache long ago and still be read.
void Cache::HoldIfPinned(std::uint64_t extent) {
  if (pins_->WatchIfPinned(extent)) Hold(extent);
}

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
