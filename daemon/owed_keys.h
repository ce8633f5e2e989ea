// Which keys a node owes acknowledgements for, to one home: what the scheduler asks when a call has
// declared what it reads. Of fixed size, and it errs to the safe side: a node may seem to owe for a
// key because of another one with which it shares a bucket, or because what it owes has become one
// "drop everything" mark; never the other way round.
//
// One home writes; any thread reads. Race-free, because a record is counted before the put that it
// belongs to is answered (stores with release), and a call that follows that answer looks with
// acquire: it finds the record, unless the node has acknowledged it meanwhile.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "fabric/message.h"
#include "fabric/ring.h"

namespace apta::daemon {

class OwedKeys {
 public:
  // A record of this key has been issued / acknowledged.
  void Add(fabric::NodeId node, std::uint64_t key_hash) { Change(node, key_hash, 1); }
  void Remove(fabric::NodeId node, std::uint64_t key_hash) { Change(node, key_hash, ~Count{0}); }
  void AddAll(fabric::NodeId node) { all_[node].store(true, std::memory_order_release); }
  void Clear(fabric::NodeId node) {
    for (std::atomic<Count>& count : count_[node]) count.store(0, std::memory_order_release);
    all_[node].store(false, std::memory_order_release);
  }

  bool MayOwe(fabric::NodeId node, std::uint64_t key_hash) const {
    return all_[node].load(std::memory_order_acquire) ||
           count_[node][Bucket(key_hash)].load(std::memory_order_acquire) != 0;
  }

 private:
  static constexpr std::size_t kBuckets = 256;
  using Count = std::uint16_t;
  static_assert(fabric::InvalidationRing<>::kRecords < 65'536);

  // Not the bits that choose the shard and the bucket of the index.
  static std::size_t Bucket(std::uint64_t key_hash) { return key_hash >> 20 & (kBuckets - 1); }
  void Change(fabric::NodeId node, std::uint64_t key_hash, Count by) {
    std::atomic<Count>& count = count_[node][Bucket(key_hash)];
    // Relaxed: nobody else writes it.
    const auto now = static_cast<Count>(count.load(std::memory_order_relaxed) + by);
    count.store(now, std::memory_order_release);
  }

  std::array<std::array<std::atomic<Count>, kBuckets>, fabric::kMaxNodes> count_{};
  std::array<std::atomic<bool>, fabric::kMaxNodes> all_{};
};

}  // namespace apta::daemon
