#include "compute/eviction.h"

#include <bit>

#include "fabric/check.h"

namespace apta::compute {

// ---------------------------------------------------------------------------------------------
// Ghosts.

GhostTable::GhostTable(std::uint64_t capacity)
    : bucket_(std::bit_ceil(capacity / Bucket::kGhosts + 1)), bucket_mask_(bucket_.size() - 1) {}

void GhostTable::Remember(std::uint64_t key_hash) {
  const std::uint32_t fingerprint = FingerprintOf(key_hash);
  Ghost* chosen = nullptr;
  // The key's own, else an empty one, else the oldest.
  for (Ghost& ghost : BucketOf(key_hash).ghost) {
    if (ghost.fingerprint == fingerprint) {
      chosen = &ghost;
      break;
    }
    if (chosen != nullptr && chosen->fingerprint == 0) continue;
    const bool is_older = chosen == nullptr || now_ - ghost.left_at > now_ - chosen->left_at;
    if (ghost.fingerprint == 0 || is_older) chosen = &ghost;
  }
  *chosen = {fingerprint, now_++};
}

bool GhostTable::Take(std::uint64_t key_hash, std::uint64_t length) {
  if (now_ == 0) return false;  // nothing was evicted yet: the table's lines stay untouched
  const std::uint32_t fingerprint = FingerprintOf(key_hash);
  for (Ghost& ghost : BucketOf(key_hash).ghost) {
    if (ghost.fingerprint != fingerprint) continue;
    const std::uint32_t left_since = now_ - ghost.left_at - 1;
    ghost.fingerprint = 0;
    return left_since < length;
  }
  return false;
}

// ---------------------------------------------------------------------------------------------
// Queues.

Eviction::Eviction(std::uint64_t slots, std::uint64_t limit_bytes)
    : entry_(slots), small_share_bytes_(limit_bytes / 10), ghosts_(slots) {
  APTA_CHECK(slots <= kNone);
}

void Eviction::Insert(std::uint32_t slot, std::uint64_t key_hash, std::uint64_t bytes) {
  APTA_CHECK(slot < entry_.size());
  APTA_CHECK(entry_[slot].queue() == QueueName::kNowhere);  // invariant 1
  // As many ghosts as the main queue's share of the objects. Not as many as it holds just now: at
  // first it holds nothing, and what falls out of the small queue would never be remembered.
  const bool returns = ghosts_.Take(key_hash, objects() - objects() / 10);
  entry_[slot].key_hash = key_hash;
  Append(slot, returns ? QueueName::kMain : QueueName::kSmall, bytes);
  newest_ = slot;
}

void Eviction::Remove(std::uint32_t slot) {
  APTA_CHECK(slot < entry_.size());
  if (entry_[slot].queue() != QueueName::kNowhere) Unlink(slot);
}

// Invariant 3.
void Eviction::Resize(std::uint32_t slot, std::uint64_t bytes) {
  APTA_CHECK(slot < entry_.size() && bytes < std::uint64_t{1} << 62);
  Entry& entry = entry_[slot];
  APTA_CHECK(entry.queue() != QueueName::kNowhere);
  Queue& queue = QueueOf(entry.queue());
  queue.bytes += bytes - entry.bytes();
  entry.bytes_and_queue = bytes << 2 | static_cast<std::uint64_t>(entry.queue());
  newest_ = slot;
}

// Invariant 2.
void Eviction::Append(std::uint32_t slot, QueueName name, std::uint64_t bytes) {
  APTA_CHECK(bytes < std::uint64_t{1} << 62);
  Queue& queue = QueueOf(name);
  Entry& entry = entry_[slot];
  entry.bytes_and_queue = bytes << 2 | static_cast<std::uint64_t>(name);
  entry.older = queue.newest;
  entry.newer = kNone;
  (queue.newest != kNone ? entry_[queue.newest].newer : queue.oldest) = slot;
  queue.newest = slot;
  ++queue.objects;
  queue.bytes += bytes;
}

void Eviction::Unlink(std::uint32_t slot) {
  Entry& entry = entry_[slot];
  Queue& queue = QueueOf(entry.queue());
  (entry.older != kNone ? entry_[entry.older].newer : queue.oldest) = entry.newer;
  (entry.newer != kNone ? entry_[entry.newer].older : queue.newest) = entry.older;
  --queue.objects;
  queue.bytes -= entry.bytes();
  entry.bytes_and_queue = 0;
}

void Eviction::MoveToMain(std::uint32_t slot) {
  const std::uint64_t bytes = entry_[slot].bytes();
  Unlink(slot);
  Append(slot, QueueName::kMain, bytes);
}

// The small queue gives while it is over its share, main otherwise; but not the newest entry while
// there is another (invariant 3).
bool Eviction::SmallGivesNext() const {
  if (small_.objects == 0) return false;
  if (main_.objects == 0) return true;
  if (small_.oldest == newest_) return false;
  if (main_.oldest == newest_) return true;
  return small_.bytes > small_share_bytes_;
}

// Main's victims make no ghosts: they had their chances. Invariant 4.
void Eviction::Leave(std::uint32_t slot) {
  if (entry_[slot].queue() == QueueName::kSmall) ghosts_.Remember(entry_[slot].key_hash);
  Unlink(slot);
}

}  // namespace apta::compute
