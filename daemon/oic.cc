#include "daemon/oic.h"

#include <algorithm>

#include "fabric/check.h"
#include "fabric/coherence.h"

namespace apta::daemon {

using fabric::Rule;
using fabric::TimeNs;
using fabric::Upholds;

namespace {

constexpr std::uint64_t kRecords = fabric::InvalidationRing<>::kRecords;

// Invariant 5: so much of one node's acknowledgements, or of all held rounds, between two requests.
constexpr std::uint64_t kRecordsPerPoll = 64;
constexpr std::size_t kHeldPerPoll = 64;

}  // namespace

Oic::Oic(InvalidationGate* gate, RoundObserver* observer) : gate_(gate), observer_(observer) {
  round_.reserve(4096);
  held_.reserve(256);
}

void Oic::AttachNode(NodeId node) {
  APTA_CHECK(!present_.Contains(node));
  answering_.Add(node);
  present_.Add(node);
  node_[node] = Node{.round_of = std::move(node_[node].round_of)};
  node_[node].round_of.assign(kRecords, kNoRound);
}

// Model rule: FENCED_STAYS_QUARANTINED
void Oic::FenceNode(NodeId node) {
  answering_.Remove(node);
  owing_.Remove(node);
  observer_->OnOwesAll(node);  // nothing is to be started there before it is gone
  for (RoundIndex index = 0; index < round_.size(); ++index) {
    Round& round = round_[index];
    if (!round.live || !(round.waiting.Contains(node) || round.holding.Contains(node))) continue;
    round.waiting.Remove(node);
    EndHolding(&round, node);
    if (Upholds(Rule::kFencedStaysQuarantined)) round.quarantined.Add(node);
    AdvanceRound(index);
  }
  to_sweep_ = held_.size();
}

// Model rule: DEAD_OWES_NOTHING
void Oic::ForgetNode(NodeId node) {
  const NodeSet gone = NodeSet::Of(node);
  answering_.Remove(gone);
  present_.Remove(gone);
  OwesNothing(node);
  observer_->OnOwesNoKey(node);
  if (!Upholds(Rule::kDeadOwesNothing)) return;
  for (RoundIndex index = 0; index < round_.size(); ++index) {
    Round& round = round_[index];
    if (!round.live || !(round.waiting.Contains(node) || round.holding.Contains(node) ||
                         round.quarantined.Contains(node))) {
      continue;
    }
    round.waiting.Remove(gone);
    EndHolding(&round, node);
    round.quarantined.Remove(gone);
    AdvanceRound(index);
  }
  to_sweep_ = held_.size();
}

Oic::RoundIndex Oic::NewRound() {
  ++open_rounds_;
  if (free_round_ == kNoRound) {
    round_.emplace_back();
    return static_cast<RoundIndex>(round_.size() - 1);
  }
  const RoundIndex index = free_round_;
  free_round_ = round_[index].next_free;
  return index;
}

// Model rule: WRITER_GETS_RECORD
void Oic::IssueRound(const RoundSpec& spec, TimeNs now_ns) {
  const RoundIndex index = NewRound();
  Round& round = round_[index];
  round.spec = spec;
  round.live = true;
  round.holding = NodeSet();
  round.waiting = spec.holders;
  round.waiting.Keep(answering_);
  round.quarantined = spec.holders;
  round.quarantined.Remove(answering_);
  held_bytes_ += spec.extent_bytes;
  spec.holders.ForEach([&](NodeId node) {
    node_[node].held_bytes += spec.extent_bytes;
    if (answering_.Contains(node)) IssueTo(node, index, now_ns);
  });
}

void Oic::OwesNothing(NodeId node) {
  owing_.Remove(node);
  observer_->OnOwes(node, 0);
}

// Model rule: OVERFLOW_MARK
void Oic::IssueTo(NodeId node, RoundIndex index, TimeNs now_ns) {
  Node& state = node_[node];
  const RoundSpec& spec = round_[index].spec;
  if (state.issued == state.acked) state.owing_since_ns = now_ns;
  const std::uint64_t sequence = ++state.issued;
  owing_.Add(node);
  observer_->OnOwes(node, sequence);
  // Invariant 1; and once a mark is out, later records follow only when it was acknowledged, so
  // that "everything up to s" stays one mark.
  const bool room = sequence - state.acked <= kRecords && state.acked >= state.drop_all;
  if (room) {
    state.round_of[sequence % kRecords] = index;
    observer_->OnOwesKey(node, spec.key_hash, true);
    gate_->Issue(node, sequence,
                 {.key_hash = spec.key_hash,
                  .version = spec.version,
                  .old_extent = spec.extent,
                  .visible_at_ns = 0});
  } else {
    state.drop_all = sequence;
    observer_->OnOwesAll(node);
    gate_->IssueDropAll(node, sequence);
  }
}

int Oic::PollNodes(TimeNs now_ns) {
  int moved = 0;
  owing_.ForEach([&](NodeId node) {
    const std::uint64_t word = gate_->Acknowledged(node);
    const Node& state = node_[node];
    if (word == state.acked) return;
    if (word < state.acked || word > state.issued) return;  // invariant 4: a lie harms the liar
    moved += Acknowledge(node, std::min(word, state.acked + kRecordsPerPoll), now_ns);
  });
  if (!holding_.empty()) LookAtHolds(now_ns);
  return to_sweep_ > 0 ? moved + SweepHeld() : moved;
}

// Invariant 5.
void Oic::LookAtHolds(TimeNs now_ns) {
  holding_.ForEach([&](NodeId node) {
    Node& state = node_[node];
    if (now_ns < state.next_look_ns) return;
    const fabric::HoldTable& holds = gate_->Holds(node);
    // Acquire, before the table: what is taken off later is counted later (partner: Publish).
    const std::uint64_t changes = holds.changes.load(std::memory_order_acquire);
    if (changes == state.seen_changes) return;
    state.seen_changes = changes;
    state.next_look_ns = now_ns + kLookIntervalNs;
    state.lists_everything = holds.hold_everything.load(std::memory_order_acquire) != 0;
    holds.CopyTo(&state.listed);
    to_sweep_ = held_.size();
  });
}

// From the end to the beginning: what takes the place of one that ends has been looked at.
int Oic::SweepHeld() {
  int moved = 0;
  for (std::size_t left = kHeldPerPoll; to_sweep_ > 0 && left > 0; --left) {
    const std::size_t at = --to_sweep_;
    const RoundIndex index = held_[at];
    if (!PollHeld(index)) continue;
    round_[index].in_held_list = false;
    held_[at] = held_.back();
    held_.pop_back();
    AdvanceRound(index);
    ++moved;
  }
  return to_sweep_ > 0 ? moved + 1 : moved;  // there is more to do
}

// Whether nobody holds the round's extent any more.
// Model rule: HOLD_POLLED
bool Oic::PollHeld(RoundIndex index) {
  Round& round = round_[index];
  round.holding.ForEach([&](NodeId node) {
    const Node& state = node_[node];
    if (state.lists_everything) return;
    if (std::binary_search(state.listed.begin(), state.listed.end(), round.spec.extent)) return;
    EndHolding(&round, node);
    LetGo(&round, node);
  });
  return round.holding.empty();
}

void Oic::LetGo(Round* round, NodeId node) { node_[node].held_bytes -= round->spec.extent_bytes; }

// The node's table has just been seen to list the extent, or everything.
void Oic::BeginHolding(Round* round, NodeId node) {
  Node& state = node_[node];
  round->holding.Add(node);
  holding_.Add(node);
  if (++state.holding_rounds == 1) state.lists_everything = false, state.listed.clear();
  const std::uint64_t extent = round->spec.extent;
  state.listed.insert(std::upper_bound(state.listed.begin(), state.listed.end(), extent), extent);
}

void Oic::EndHolding(Round* round, NodeId node) {
  if (!round->holding.Contains(node)) return;
  round->holding.Remove(node);
  if (--node_[node].holding_rounds == 0) holding_.Remove(node);
}

// Model rule: POLL_ACKNOWLEDGED
int Oic::Acknowledge(NodeId node, std::uint64_t sequence, TimeNs now_ns) {
  Node& state = node_[node];
  const std::uint64_t first = state.acked + 1;
  const bool passed_mark = state.acked < state.drop_all && sequence >= state.drop_all;
  state.acked = sequence;
  state.owing_since_ns = now_ns;
  if (sequence == state.issued) OwesNothing(node);
  // For many records the table is read once.
  const fabric::HoldTable& table = gate_->Holds(node);
  const bool is_copied = passed_mark || sequence - first >= 8;
  const bool holds_all = is_copied && table.hold_everything.load(std::memory_order_acquire) != 0;
  if (is_copied) table.CopyTo(&copied_);
  const auto holds = [&](std::uint64_t extent) {
    if (!is_copied) return table.Holds(extent);
    return holds_all || std::binary_search(copied_.begin(), copied_.end(), extent);
  };
  int moved = 0;
  // The node has dropped its whole cache: it is out of every round whose record the mark replaced.
  if (passed_mark) {
    for (RoundIndex index = 0; index < round_.size(); ++index) {
      const Round& round = round_[index];
      if (!round.live || !round.waiting.Contains(node)) continue;
      AcknowledgeRound(index, node, round.spec.extent != 0 && holds(round.spec.extent));
      ++moved;
    }
    for (RoundIndex& index : state.round_of) index = kNoRound;
    observer_->OnOwesNoKey(node);  // what follows a mark before it was acknowledged is one too
    return moved;
  }
  for (std::uint64_t s = first; s <= sequence; ++s) {
    // A sequence that became a mark has no record: its slot was emptied kRecords sequences ago.
    RoundIndex& index = state.round_of[s % kRecords];
    if (index == kNoRound) continue;
    const std::uint64_t extent = round_[index].spec.extent;
    observer_->OnOwesKey(node, round_[index].spec.key_hash, false);
    AcknowledgeRound(index, node, extent != 0 && holds(extent));
    index = kNoRound;
    ++moved;
  }
  return moved;
}

// Model rule: RELEASE_AFTER_HOLD
void Oic::AcknowledgeRound(RoundIndex index, NodeId node, bool is_held) {
  Round& round = round_[index];
  APTA_CHECK(round.live);
  if (!round.waiting.Contains(node)) return;
  round.waiting.Remove(node);
  if (is_held && Upholds(Rule::kReleaseAfterHold)) {
    BeginHolding(&round, node);
    if (!round.in_held_list) {
      round.in_held_list = true;
      held_.push_back(index);
    }
  } else {
    LetGo(&round, node);
  }
  AdvanceRound(index);
}

// Reports what has become true of a round, and ends it when nothing is left to wait for.
// Model rule: RELEASE_AFTER_ACK
void Oic::AdvanceRound(RoundIndex index) {
  Round& round = round_[index];
  const bool is_over = round.waiting.empty() && round.holding.empty() &&
                       round.quarantined.empty() && !round.in_held_list;
  if (round.spec.counts) {
    NodeSet others = round.waiting;
    if (round.spec.writer != RoundSpec::kNoWriter) others.Remove(round.spec.writer);
    if (round.spec.is_eviction ? is_over : others.empty()) {
      round.spec.counts = false;
      observer_->OnAcknowledged(round.spec);
    }
  }
  if (!is_over) return;
  round.live = false;
  held_bytes_ -= round.spec.extent_bytes;
  --open_rounds_;
  if (round.spec.extent != 0 && !round.spec.is_eviction) {
    observer_->OnReleased(round.spec.extent);  // invariant 2
  }
  round.next_free = free_round_;
  free_round_ = index;
}

NodeSet Oic::WaitedFor(std::uint64_t key_hash) const {
  NodeSet nodes;
  for (const Round& round : round_) {
    if (!round.live || round.spec.key_hash != key_hash) continue;
    nodes.AddAll(round.waiting);
    nodes.AddAll(round.holding);
    nodes.AddAll(round.quarantined);
  }
  return nodes;
}

}  // namespace apta::daemon
