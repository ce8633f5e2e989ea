// OTC, the Object Tracking Controller: the directory of one home.
//
// For every object that some node may hold a copy of: its state and its sharers. Every get and put
// is ordered by the home that calls this; the OTC says who must be invalidated, the OIC does it.
//
//   state | Get(n)          | Put(n)                                      | AckComplete | Dead(n)
//   I     | sharers={n} → S | sharers={n} → S                             | –           | –
//   S     | sharers+=n      | invalidate sharers; sharers={n} → SA or S   | –           |
//   sharers−=n SA    | sharers+=n      | invalidate sharers; sharers={n}; stay SA    | last: → S |
//   sharers−=n
// (protocol.md, "Directory states"; SI, the eviction of entries, is not needed yet: an object that
// finds no free entry is tracked coarsely, see invariant 3.) I has no entry.
//
// A pure state machine: one thread; no system call, clock or allocation after construction. O(1)
// but for the slices of ForgetNode.
//
// Invariants
//   1. Inclusive: a node that may hold a copy is in the entry's sharers, or in an outstanding round
//      of the OIC, or, for an object without an entry, in untracked_.
//   2. An entry in SA counts the rounds that are outstanding for its object; in S there are none.
//   3. When the directory is full, sharers of objects without an entry are gathered in one set,
//      untracked_: puts to such an object invalidate all of them. A node leaves the set only when
//      it dies. Correct, merely less precise.
#pragma once

#include <array>
#include <cstdint>

#include "daemon/node_set.h"
#include "fabric/lazy_array.h"

namespace apta::daemon {

class Otc {
 public:
  enum class State : std::uint8_t { kI, kS, kSA };

  // Room for about 7/8 of `entries` (rounded up to a power of two, 64 bytes each, touched lazily).
  explicit Otc(std::uint64_t entries);

  // `node` gets a copy of the current version.
  void Get(std::uint64_t key_hash, NodeId node);

  // `writer` commits a new version and is its only sharer from now on. Returns who held the old
  // one: the OIC must issue a round to them (it may contain `writer`) and, if any other node is
  // among them, report RoundIssued.
  NodeSet Put(std::uint64_t key_hash, NodeId writer);
  // As Put, with no sharer afterwards.
  NodeSet Delete(std::uint64_t key_hash);

  // A round for this object was issued to nodes other than its writer / has been acknowledged by
  // all of them. REQUIRES: paired.
  void RoundIssued(std::uint64_t key_hash);
  void AckComplete(std::uint64_t key_hash);

  // Removes a dead node from all sharer sets, looking at no more than `entry_budget` entries below
  // `position` (first call: kScanStart). Returns where to go on, 0 = done: the node's slot must
  // not be reused before. REQUIRES: the node's gets and puts have ended.
  static constexpr std::uint64_t kScanStart = ~std::uint64_t{0};
  std::uint64_t ForgetNode(NodeId node, std::uint64_t position, std::uint64_t entry_budget);

  State state(std::uint64_t key_hash) const;
  NodeSet sharers(std::uint64_t key_hash) const;
  std::uint64_t live_entries() const { return live_entries_; }

 private:
  struct Entry {
    std::uint64_t key_hash;  // 0 = free
    NodeSet sharers;
    std::uint32_t rounds;  // outstanding (invariant 2)
    State state;
    std::uint64_t unused[2];
  };
  static_assert(sizeof(Entry) == 64);

  // Linear probing from Slot(hash) without wrapping around: a tail of kTail entries follows the
  // table, and deletion shifts entries back, so an entry only ever moves to a lower position,
  // which is what lets ForgetNode scan downwards in slices while entries move.
  static constexpr std::uint64_t kTail = 64;

  std::uint64_t Slot(std::uint64_t key_hash) const { return key_hash >> shift_; }
  Entry* Find(std::uint64_t key_hash) const;
  Entry* FindOrInsert(std::uint64_t key_hash);  // nullptr = full
  void EraseIfIdle(Entry* entry);
  NodeSet ReplaceSharers(std::uint64_t key_hash, const NodeSet& sharers);
  void SetSharers(NodeSet* sharers, const NodeSet& now);

  int shift_;  // of the hash, to a slot
  std::uint64_t max_entries_;
  std::uint64_t live_entries_ = 0;
  fabric::LazyArray<Entry> entry_;
  NodeSet untracked_;
  std::array<std::uint64_t, fabric::kMaxNodes> shared_entries_{};  // by node
};

}  // namespace apta::daemon
