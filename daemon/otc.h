// OTC, the Object Tracking Controller: the directory of one home.
//
// For every object that some node may hold a copy of: its state and its sharers. Every get and put
// is ordered by the home that calls this; the OTC says who must be invalidated, the OIC does it.
//
// | state | Get(n)         | Put(n)                              | AckComplete | Evict  | Dead(n) |
// | ----- | -------------- | ----------------------------------- | ----------- | ------ |
// ---------- | | I     | sharers={n} →S | sharers={n} →S                      |             | | |
// | S     | sharers+=n     | invalidate, sharers={n} →SA or S    |             | →SI    | −n, →I if
// ∅ | | SA    | sharers+=n     | invalidate, sharers={n} →SA         | last: →S    |        | −n |
// | SI    | sharers+=n →SA | invalidate, sharers={n} →SA         | last: →I    |        | −n |
//
// (protocol.md, "Directory states".) I has no entry. SI keeps its old sharers, also when a get
// makes it SA again: they may still read the version in place, so that a later put must wait for
// them before it releases the extent. The set may always name too many.
//
// A pure state machine: one thread, but for sharers(); no system call, clock or allocation after
// construction. O(1) but for the slices of ForgetNode and PickVictim.
//
// Invariants
//   1. Inclusive: a node that may hold a copy is in the entry's sharers, or in an outstanding round
//      of the OIC. An object that finds no free entry is not tracked: its readers copy it, check
//      the copy and keep nothing.
//   2. SA and SI: `rounds` of the OIC that were reported here are outstanding; I and S: none.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "daemon/node_set.h"
#include "fabric/extent.h"
#include "fabric/lazy_array.h"

namespace apta::daemon {

class Otc {
 public:
  enum class State : std::uint8_t { kI, kS, kSA, kSI };

  // Room for exactly `entries` objects (64 bytes each, touched lazily).
  explicit Otc(std::uint64_t entries);

  // `node` gets a copy of the current version. False: there is no room, it must not keep one.
  bool Get(std::uint64_t key_hash, NodeId node);

  // What a commit finds.
  struct Superseded {
    NodeSet holders;       // of the old version; may contain the writer
    bool tracked = false;  // the writer is a sharer of the new version
    bool counts = false;   // AckComplete is expected when those of `holders` who answer have
  };
  static constexpr NodeId kNobody = fabric::kMaxNodes;
  // `writer` commits a new version and is its only sharer from now on. `answering`: the nodes that
  // can acknowledge, everybody but the dead and the fenced.
  Superseded Put(std::uint64_t key_hash, NodeId writer, const NodeSet& answering);
  // As Put, with no sharer afterwards. kNobody: whoever writes it is asked as all others are.
  Superseded Delete(std::uint64_t key_hash, NodeId writer, const NodeSet& answering);
  // A round that counted has been acknowledged by all. REQUIRES: paired.
  void AckComplete(std::uint64_t key_hash);

  // Eviction: while IsCrowded, the home picks a cold entry in S (looking at `entry_budget` of
  // them), and evicts it with as many rounds as it has extents to protect.
  bool IsCrowded() const { return live_entries_ - evicting_ > max_entries_ - spare_entries_; }
  // Its key's hash; never `spared`, which is being served.
  std::optional<std::uint64_t> PickVictim(std::uint64_t entry_budget, std::uint64_t spared = 0);
  // Returns the sharers to be invalidated; none of them is in `present`: it was freed at once.
  NodeSet Evict(std::uint64_t key_hash, std::uint32_t rounds, const NodeSet& present);

  // Removes a dead node from all sharer sets, looking at no more than `entry_budget` entries below
  // `position` (first call: kScanStart). Returns where to go on, 0 = done: the node's slot must
  // not be reused before. REQUIRES: the node's gets and puts have ended.
  static constexpr std::uint64_t kScanStart = ~std::uint64_t{0};
  std::uint64_t ForgetNode(NodeId node, std::uint64_t position, std::uint64_t entry_budget);

  State state(std::uint64_t key_hash) const;
  // Any thread. To another than the home's a hint: it may miss an entry that is being moved, and
  // see some words of a set before a change and others after it.
  NodeSet sharers(std::uint64_t key_hash) const;
  std::uint64_t live_entries() const { return live_entries_; }
  std::uint64_t max_entries() const { return max_entries_; }

 private:
  struct alignas(fabric::kCacheLineBytes) Entry {
    // What other threads may read. Relaxed, as it says nothing about anything else.
    std::atomic<std::uint64_t> hash;  // of the key; 0 = free
    std::array<std::atomic<std::uint64_t>, NodeSet::kWords> sharer_words;
    // The home's own.
    std::uint32_t rounds;  // outstanding (invariant 2)
    State state;
    bool visited;  // since PickVictim passed

    std::uint64_t key_hash() const { return hash.load(std::memory_order_relaxed); }
    NodeSet sharers() const;
    void SetSharers(const NodeSet& now);
    void MoveTo(Entry* other);
    void Clear();
  };
  static_assert(sizeof(Entry) == 64 || fabric::kMaxNodes > 256);

  // Linear probing from Slot(hash) without wrapping around: a tail of kTail entries follows the
  // table, and deletion shifts entries back, so an entry only ever moves to a lower position,
  // which is what lets ForgetNode scan downwards in slices while entries move.
  static constexpr std::uint64_t kTail = 64;

  std::uint64_t Slot(std::uint64_t key_hash) const { return key_hash >> shift_; }
  Entry* Find(std::uint64_t key_hash) const;
  Entry* FindOrInsert(std::uint64_t key_hash);  // nullptr = full
  void EraseIfIdle(Entry* entry);
  Superseded Replace(Entry* entry, const NodeSet& sharers, NodeId writer, const NodeSet& answering);
  void Share(Entry* entry, const NodeSet& before, const NodeSet& now);

  int shift_;  // of the hash, to a slot
  std::uint64_t max_entries_;
  std::uint64_t spare_entries_;
  std::uint64_t live_entries_ = 0;
  std::uint64_t evicting_ = 0;  // entries in SI
  std::uint64_t hand_ = 0;      // of PickVictim
  fabric::LazyArray<Entry> entry_;
  std::array<std::uint64_t, fabric::kMaxNodes> shared_entries_{};  // by node
};

}  // namespace apta::daemon
