#include "daemon/oic.h"

#include "fabric/check.h"

namespace apta::daemon {
namespace {

constexpr std::uint64_t kRecords = fabric::InvalidationRing<>::kRecords;

}  // namespace

Oic::Oic(InvalidationGate* gate, RoundObserver* observer) : gate_(gate), observer_(observer) {
  round_.reserve(4096);
  held_.reserve(256);
}

void Oic::AttachNode(NodeId node) {
  Node& state = node_[node];
  APTA_CHECK(!attached_.Contains(node));
  attached_.Add(node);
  state.issued = state.acked = state.last_of_others = state.drop_all = 0;
  state.round_of.assign(kRecords, kNoRound);
}

void Oic::ForgetNode(NodeId node) {
  owing_.Remove(node);
  attached_.Remove(node);
  for (RoundIndex index = 0; index < round_.size(); ++index) {
    Round& round = round_[index];
    if (!round.live || !(round.waiting.Contains(node) || round.holding.Contains(node))) continue;
    round.waiting.Remove(node);
    round.holding.Remove(node);
    AdvanceRound(index);
  }
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

void Oic::IssueRound(std::uint64_t key_hash, std::uint64_t version, const NodeSet& holders,
                     NodeId writer, std::uint64_t extent, std::uint64_t extent_bytes) {
  const RoundIndex index = NewRound();
  round_[index] = {.key_hash = key_hash,
                   .extent = extent,
                   .extent_bytes = extent_bytes,
                   .waiting = holders,
                   .live = true,
                   .writer = writer};
  NodeSet others = holders;
  others.Remove(writer);
  round_[index].others_waited = !others.empty();
  held_bytes_ += extent_bytes;
  holders.ForEach([&](NodeId node) { IssueTo(node, index, version); });
}

void Oic::IssueTo(NodeId node, RoundIndex index, std::uint64_t version) {
  Node& state = node_[node];
  const std::uint64_t sequence = ++state.issued;
  owing_.Add(node);
  if (node != round_[index].writer) state.last_of_others = sequence;
  // Invariant 1; and once a mark is out, later records follow only when it was acknowledged, so
  // that "everything up to s" stays one mark.
  const bool room = sequence - state.acked <= kRecords && state.acked >= state.drop_all;
  if (room) {
    state.round_of[sequence % kRecords] = index;
    gate_->Issue(node, sequence,
                 {.key_hash = round_[index].key_hash,
                  .version = version,
                  .old_extent = round_[index].extent,
                  .visible_at_ns = 0});
  } else {
    state.drop_all = sequence;
    gate_->IssueDropAll(node, sequence);
  }
}

int Oic::Poll() {
  int moved = 0;
  owing_.ForEach([&](NodeId node) {
    const std::uint64_t word = gate_->Acknowledged(node);
    const Node& state = node_[node];
    if (word == state.acked) return;
    if (word < state.acked || word > state.issued) return;  // invariant 4: a lie harms the liar
    moved += Acknowledge(node, word);
  });
  for (std::size_t i = 0; i < held_.size();) {
    const RoundIndex index = held_[i];
    Round& round = round_[index];
    NodeSet released;
    round.holding.ForEach([&](NodeId node) {
      if (!gate_->Holds(node, round.extent)) released.Add(node);
    });
    round.holding.Remove(released);
    if (!round.holding.empty()) {
      ++i;
      continue;
    }
    round.in_held_list = false;
    held_[i] = held_.back();
    held_.pop_back();
    AdvanceRound(index);
    ++moved;
  }
  return moved;
}

int Oic::Acknowledge(NodeId node, std::uint64_t sequence) {
  Node& state = node_[node];
  const std::uint64_t first = state.acked + 1;
  const bool passed_mark = state.acked < state.drop_all && sequence >= state.drop_all;
  state.acked = sequence;
  if (sequence == state.issued) owing_.Remove(node);
  int moved = 0;
  // The node has dropped its whole cache: it is out of every round whose record the mark replaced.
  if (passed_mark) {
    for (RoundIndex index = 0; index < round_.size(); ++index) {
      if (!round_[index].live || !round_[index].waiting.Contains(node)) continue;
      AcknowledgeRound(index, node);
      ++moved;
    }
    for (RoundIndex& index : state.round_of) index = kNoRound;
    return moved;
  }
  for (std::uint64_t s = first; s <= sequence; ++s) {
    // A sequence that became a mark has no record: its slot was emptied kRecords sequences ago.
    RoundIndex& index = state.round_of[s % kRecords];
    if (index == kNoRound) continue;
    AcknowledgeRound(index, node);
    index = kNoRound;
    ++moved;
  }
  return moved;
}

void Oic::AcknowledgeRound(RoundIndex index, NodeId node) {
  Round& round = round_[index];
  APTA_CHECK(round.live);
  if (!round.waiting.Contains(node)) return;
  round.waiting.Remove(node);
  if (round.extent != 0 && gate_->Holds(node, round.extent)) {
    round.holding.Add(node);
    if (!round.in_held_list) {
      round.in_held_list = true;
      held_.push_back(index);
    }
  }
  AdvanceRound(index);
}

// Reports what has become true of a round, and ends it when nothing is left to wait for.
void Oic::AdvanceRound(RoundIndex index) {
  Round& round = round_[index];
  NodeSet others = round.waiting;
  others.Remove(round.writer);
  if (round.others_waited && others.empty()) {
    round.others_waited = false;
    observer_->OnAcknowledged(round.key_hash);
  }
  if (!round.waiting.empty() || !round.holding.empty() || round.in_held_list) return;
  round.live = false;
  held_bytes_ -= round.extent_bytes;
  --open_rounds_;
  if (round.extent != 0) observer_->OnReleased(round.extent);  // invariant 2
  round_[index].next_free = free_round_;
  free_round_ = index;
}

}  // namespace apta::daemon
