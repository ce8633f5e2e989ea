// OIC, the Object Invalidation Controller of one home: issues invalidations, counts
// acknowledgements, holds back the extents of old versions until nobody can read them, and answers
// the scheduler.
//
// Invalidations to one node are numbered from 1; the node acknowledges cumulatively. A commit that
// supersedes a version which nodes may hold begins a round: one record to each of them. The round
// is acknowledged when all have applied their record, and over when none of them still lists the
// old extent in its hold table; then the extent goes back to the object manager. The eviction of a
// directory entry is a round as well, whose extent stays.
//
// A pure state machine: one thread, no system call, no clock. Never waits and never blocks: a full
// ring becomes one "drop everything up to s" mark. Allocates only when more rounds are outstanding
// than ever before.
//
// Invariants
//   1. issued - acknowledged <= kRecords for every record that stands in a ring, so that no
//      record is overwritten before it was applied.
//   2. An extent is released only when its round's nodes have all acknowledged, none holds it, and
//      those that were fenced are gone.
//   3. A dead node owes nothing: it leaves every round. A fenced one owes nothing, and may read.
//   4. A node's word is believed only between what it acknowledged before and what was issued.
//   5. What a node holds, or says that it holds, costs a request of another one next to nothing:
//      hold tables are looked at again only when something was taken off, not more often than each
//      kLookIntervalNs, and rounds are walked in slices.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "daemon/node_set.h"
#include "fabric/clock.h"
#include "fabric/hold_table.h"
#include "fabric/message.h"
#include "fabric/ring.h"

namespace apta::daemon {

// What the OIC may do to nodes: shared-memory rings, or the simulator's links.
class InvalidationGate {
 public:
  virtual ~InvalidationGate() = default;
  virtual void Issue(NodeId node, std::uint64_t sequence,
                     const fabric::Invalidation& invalidation) = 0;
  virtual void IssueDropAll(NodeId node, std::uint64_t sequence) = 0;
  virtual std::uint64_t Acknowledged(NodeId node) = 0;  // hostile: any value
  // REQUIRES: present(). Hostile: says anything.
  virtual const fabric::HoldTable& Holds(NodeId node) = 0;
};

// "Whatever is older than `version` is stale."
struct RoundSpec {
  static constexpr NodeId kNoWriter = fabric::kMaxNodes;

  std::uint64_t key_hash = 0;
  std::uint64_t version = 0;
  std::uint64_t extent = 0;  // that holders may read; 0 = none
  std::uint64_t extent_bytes = 0;
  NodeSet holders;
  // Gets a record as well, so that it says when it has let go of the old extent, but no put waits
  // for its acknowledgement.
  NodeId writer = kNoWriter;
  bool counts = false;       // OnAcknowledged is to be called
  bool is_eviction = false;  // of a directory entry: the extent is current, and not ours to release
};

// Who hears of the end of a round.
class RoundObserver {
 public:
  virtual ~RoundObserver() = default;
  // A round that counts: all nodes but the writer and the fenced have acknowledged; of an eviction:
  // and nobody reads the extent any more. REQUIRES of the callee: issues no round.
  virtual void OnAcknowledged(const RoundSpec& round) = 0;
  // The node owes acknowledgements up to `sequence` to this home; 0 = none.
  virtual void OnOwes(NodeId node, std::uint64_t sequence) = 0;
  // For which keys: a record of one was issued, or (false) has been acknowledged; all, which also
  // goes for a fenced node until it is gone; none.
  virtual void OnOwesKey(NodeId node, std::uint64_t key_hash, bool owes) = 0;
  virtual void OnOwesAll(NodeId node) = 0;
  virtual void OnOwesNoKey(NodeId node) = 0;
  // Nobody can read the extent any more.
  virtual void OnReleased(std::uint64_t extent) = 0;
};

class Oic {
 public:
  Oic(InvalidationGate* gate, RoundObserver* observer);

  void AttachNode(NodeId node);
  // The node gets no more records and owes nothing, but what it may read stays until ForgetNode.
  void FenceNode(NodeId node);
  // Invariant 3. Rounds that waited for nobody else end here.
  void ForgetNode(NodeId node);

  // REQUIRES: holders is a part of present(), and not empty.
  void IssueRound(const RoundSpec& spec, fabric::TimeNs now_ns);

  // Looks for new acknowledgements of the nodes that owe some, and at rounds that wait for hold
  // tables; returns how many rounds moved on. Costs one load per owing node and one per node that
  // holds something.
  int Poll(fabric::TimeNs now_ns) { return IsQuiet() ? 0 : PollNodes(now_ns); }
  bool IsQuiet() const { return owing_.empty() && holding_.empty() && to_sweep_ == 0; }
  static constexpr fabric::TimeNs kLookIntervalNs = 1'000'000;

  std::uint64_t Issued(NodeId node) const { return node_[node].issued; }
  std::uint64_t Outstanding(NodeId node) const { return node_[node].issued - node_[node].acked; }
  // Whether the scheduler must wait for the node. Records of its own puts count as well: until the
  // put's reply has been processed there, the node may hit what the put superseded, while others
  // may have superseded the put, and told it nothing because it is a sharer no more.
  // Model rule: OWES
  bool Owes(NodeId node) const { return owing_.Contains(node); }
  const NodeSet& owing() const { return owing_; }
  // Since when the node owes without having acknowledged anything. REQUIRES: owing().
  fabric::TimeNs OwingSince(NodeId node) const { return node_[node].owing_since_ns; }
  // Bytes of old versions that wait for this node (and perhaps for others).
  std::uint64_t HeldBytesOf(NodeId node) const { return node_[node].held_bytes; }

  const NodeSet& answering() const { return answering_; }  // attached and not fenced
  // May read something: answering, or fenced and not gone. The directory may list others, dead
  // nodes that it has not forgotten yet: they hold nothing.
  const NodeSet& present() const { return present_; }
  std::uint64_t held_bytes() const { return held_bytes_; }
  std::uint64_t open_rounds() const { return open_rounds_; }
  // Nodes that an outstanding round of this object still waits for, in whatever way: for checks
  // from outside, costs a walk over all rounds.
  NodeSet WaitedFor(std::uint64_t key_hash) const;

 private:
  using RoundIndex = std::uint32_t;
  static constexpr RoundIndex kNoRound = ~RoundIndex{0};

  struct Round {
    RoundSpec spec;
    NodeSet waiting;      // have not acknowledged
    NodeSet holding;      // have, but list the extent in their hold table
    NodeSet quarantined;  // were fenced before they let go
    bool live = false;
    bool in_held_list = false;  // false in every round that is not live
    RoundIndex next_free = kNoRound;
  };

  struct Node {
    std::uint64_t issued = 0;
    std::uint64_t acked = 0;
    std::uint64_t drop_all = 0;  // records up to here were replaced by a mark
    std::uint64_t held_bytes = 0;
    fabric::TimeNs owing_since_ns = 0;
    std::vector<RoundIndex> round_of;  // by sequence % kRecords
    // What its hold table listed when we looked last, and what we found there since: sorted. Rounds
    // that it holds are judged by this, so nothing may be missing.
    std::vector<std::uint64_t> listed;
    bool lists_everything = false;
    std::uint64_t seen_changes = 0;
    fabric::TimeNs next_look_ns = 0;
    std::uint64_t holding_rounds = 0;
  };

  int PollNodes(fabric::TimeNs now_ns);
  void IssueTo(NodeId node, RoundIndex index, fabric::TimeNs now_ns);
  void OwesNothing(NodeId node);
  int Acknowledge(NodeId node, std::uint64_t sequence, fabric::TimeNs now_ns);
  void AcknowledgeRound(RoundIndex index, NodeId node, bool is_held);
  void LetGo(Round* round, NodeId node);
  void BeginHolding(Round* round, NodeId node);
  void EndHolding(Round* round, NodeId node);
  void LookAtHolds(fabric::TimeNs now_ns);
  int SweepHeld();
  bool PollHeld(RoundIndex index);
  void AdvanceRound(RoundIndex index);
  RoundIndex NewRound();

  InvalidationGate* gate_;
  RoundObserver* observer_;
  std::array<Node, fabric::kMaxNodes> node_;
  NodeSet answering_;
  NodeSet present_;
  NodeSet owing_;
  std::vector<Round> round_;
  RoundIndex free_round_ = kNoRound;
  std::vector<RoundIndex> held_;  // rounds with a non-empty `holding`
  std::vector<std::uint64_t> copied_;
  std::size_t to_sweep_ = 0;  // the first so many of held_ are to be looked at
  NodeSet holding_;           // nodes that hold rounds
  std::uint64_t held_bytes_ = 0;
  std::uint64_t open_rounds_ = 0;
};

}  // namespace apta::daemon
