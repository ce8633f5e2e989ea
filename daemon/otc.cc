#include "daemon/otc.h"

#include <algorithm>
#include <bit>

#include "fabric/check.h"
#include "fabric/coherence.h"

namespace apta::daemon {

using fabric::Asked;
using fabric::Witness;

namespace {

// At most 7 of 8 slots are taken.
std::uint64_t SlotsFor(std::uint64_t entries) {
  return std::bit_ceil(std::max<std::uint64_t>(entries + entries / 7 + 1, 64));
}

}  // namespace

Otc::Otc(std::uint64_t entries)
    : shift_(64 - std::countr_zero(SlotsFor(entries))),
      max_entries_(std::max<std::uint64_t>(entries, 1)),
      spare_entries_(std::max<std::uint64_t>(max_entries_ / 16, 1)),
      entry_(SlotsFor(entries) + kTail) {}

NodeSet Otc::Entry::sharers() const {
  NodeSet set;
#pragma GCC unroll 4
  for (std::size_t i = 0; i < NodeSet::kWords; ++i) {
    set.word(i) = sharer_words[i].load(std::memory_order_relaxed);
  }
  return set;
}

void Otc::Entry::SetSharers(const NodeSet& now) {
#pragma GCC unroll 4
  for (std::size_t i = 0; i < NodeSet::kWords; ++i) {
    sharer_words[i].store(now.word(i), std::memory_order_relaxed);
  }
}

void Otc::Entry::MoveTo(Entry* other) {
  other->SetSharers(sharers());
  other->rounds = rounds;
  other->state = state;
  other->visited = visited;
  other->hash.store(key_hash(), std::memory_order_relaxed);
}

void Otc::Entry::Clear() {
  hash.store(0, std::memory_order_relaxed);
  SetSharers(NodeSet());
  rounds = 0;
  state = State::kI;
  visited = false;
}

Otc::Entry* Otc::Find(std::uint64_t key_hash) const {
  for (std::uint64_t i = Slot(key_hash); i < entry_.size(); ++i) {
    const std::uint64_t found = entry_[i].key_hash();
    if (found == key_hash) return &entry_[i];
    if (found == 0) return nullptr;
  }
  return nullptr;
}

Otc::Entry* Otc::FindOrInsert(std::uint64_t key_hash) {
  for (std::uint64_t i = Slot(key_hash); i < entry_.size(); ++i) {
    Entry& entry = entry_[i];
    if (entry.key_hash() == key_hash) return &entry;
    if (entry.key_hash() != 0) continue;
    // The last entry stays free, so that every probe ends.
    if (live_entries_ >= max_entries_ || i + 1 == entry_.size()) return nullptr;
    ++live_entries_;
    entry.Clear();
    entry.hash.store(key_hash, std::memory_order_relaxed);
    return &entry;
  }
  return nullptr;
}

// I has no entry. Entries behind the hole are shifted back as far as their slot allows.
void Otc::EraseIfIdle(Entry* entry) {
  if (entry->rounds != 0 || !entry->sharers().empty()) return;
  --live_entries_;
  auto hole = static_cast<std::uint64_t>(entry - &entry_[0]);
  for (std::uint64_t i = hole + 1; i < entry_.size() && entry_[i].key_hash() != 0; ++i) {
    if (Slot(entry_[i].key_hash()) > hole) continue;
    entry_[i].MoveTo(&entry_[hole]);
    hole = i;
  }
  entry_[hole].Clear();
}

void Otc::Share(Entry* entry, const NodeSet& before, const NodeSet& now) {
  NodeSet gone = before;
  gone.Remove(now);
  gone.ForEach([&](NodeId node) { --shared_entries_[node]; });
  NodeSet come = now;
  come.Remove(before);
  come.ForEach([&](NodeId node) { ++shared_entries_[node]; });
  entry->SetSharers(now);
}

// Model rule: GET_NEVER_WAITS
bool Otc::Get(std::uint64_t key_hash, NodeId node) {
  [[maybe_unused]] const Witness witness(Asked::kGet, key_hash, node);
  Entry* entry = FindOrInsert(key_hash);
  if (entry == nullptr) return false;
  switch (entry->state) {
    case State::kI:
      entry->state = State::kS;
      break;
    case State::kS:
    case State::kSA:
      break;
    case State::kSI:  // served at once, where the paper stalls
      entry->state = State::kSA;
      --evicting_;
      break;
  }
  entry->visited = true;
  std::atomic<std::uint64_t>& word = entry->sharer_words[NodeSet::WordOf(node)];
  const std::uint64_t sharers = word.load(std::memory_order_relaxed);
  if ((sharers & NodeSet::BitOf(node)) == 0) {
    word.store(sharers | NodeSet::BitOf(node), std::memory_order_relaxed);
    ++shared_entries_[node];
  }
  return true;
}

// Model rule: PUT_REPLACES_SHARERS
Otc::Superseded Otc::Replace(Entry* entry, const NodeSet& sharers, NodeId writer,
                             const NodeSet& answering) {
  const NodeSet before = entry->sharers();
  Superseded superseded{.holders = before, .tracked = true};
  NodeSet owing = before;
  owing.Keep(answering);
  if (writer != kNobody) owing.Remove(writer);
  superseded.counts = !owing.empty();
  switch (entry->state) {
    case State::kI:
    case State::kS:
      entry->state = superseded.counts ? State::kSA : State::kS;
      break;
    case State::kSA:
      break;
    case State::kSI:
      entry->state = State::kSA;
      --evicting_;
      break;
  }
  entry->rounds += superseded.counts ? 1 : 0;
  entry->visited = true;
  if (before != sharers) Share(entry, before, sharers);
  EraseIfIdle(entry);
  return superseded;
}

Otc::Superseded Otc::Put(std::uint64_t key_hash, NodeId writer, const NodeSet& answering) {
  [[maybe_unused]] const Witness witness(Asked::kPut, key_hash, writer);
  Entry* entry = FindOrInsert(key_hash);
  if (entry == nullptr) return {};
  return Replace(entry, NodeSet::Of(writer), writer, answering);
}

Otc::Superseded Otc::Delete(std::uint64_t key_hash, NodeId writer, const NodeSet& answering) {
  [[maybe_unused]] const Witness witness(Asked::kDelete, key_hash, writer);
  Entry* entry = Find(key_hash);
  if (entry == nullptr) return {};
  return Replace(entry, NodeSet(), writer, answering);
}

// Model rule: ACK_COMPLETE
void Otc::AckComplete(std::uint64_t key_hash) {
  [[maybe_unused]] const Witness witness(Asked::kAckComplete, key_hash);
  Entry* entry = Find(key_hash);
  APTA_CHECK(entry != nullptr && entry->rounds > 0);
  if (--entry->rounds > 0) return;
  switch (entry->state) {
    case State::kI:
    case State::kS:
      APTA_CHECK(false);  // invariant 2
      return;
    case State::kSA:
      entry->state = State::kS;
      break;
    case State::kSI:
      --evicting_;
      Share(entry, entry->sharers(), NodeSet());
      break;
  }
  EraseIfIdle(entry);
}

// A sweep that gives visited entries a second chance (CLOCK).
std::optional<std::uint64_t> Otc::PickVictim(std::uint64_t entry_budget, std::uint64_t spared) {
  for (; entry_budget > 0; --entry_budget) {
    hand_ = (hand_ == 0 ? entry_.size() : hand_) - 1;
    Entry& entry = entry_[hand_];
    const std::uint64_t found = entry.key_hash();
    if (found == 0 || entry.state != State::kS || found == spared) continue;
    if (!entry.visited) return found;
    entry.visited = false;
  }
  return std::nullopt;
}

// Model rule: EVICTION_KEEPS_SHARERS
NodeSet Otc::Evict(std::uint64_t key_hash, std::uint32_t rounds, const NodeSet& present) {
  [[maybe_unused]] const Witness witness(Asked::kEvict, key_hash);
  Entry* entry = Find(key_hash);
  APTA_CHECK(entry != nullptr && entry->state == State::kS);
  const NodeSet before = entry->sharers();
  NodeSet sharers = before;
  sharers.Keep(present);
  if (sharers.empty()) {
    Share(entry, before, sharers);
    EraseIfIdle(entry);
    return sharers;
  }
  entry->state = State::kSI;
  entry->rounds = rounds;
  ++evicting_;
  return sharers;
}

// Model rule: DEAD_LEAVES_SHARERS
std::uint64_t Otc::ForgetNode(NodeId node, std::uint64_t position, std::uint64_t entry_budget) {
  position = std::min<std::uint64_t>(position, entry_.size());
  while (position > 0 && entry_budget-- > 0 && shared_entries_[node] > 0) {
    Entry& entry = entry_[--position];
    const NodeSet before = entry.sharers();
    if (entry.key_hash() == 0 || !before.Contains(node)) continue;
    [[maybe_unused]] const Witness witness(Asked::kDead, entry.key_hash(), node);
    NodeSet sharers = before;
    sharers.Remove(node);
    Share(&entry, before, sharers);
    EraseIfIdle(&entry);
    // Erasing may have shifted another entry to this position.
    ++position;
  }
  return shared_entries_[node] > 0 ? position : 0;
}

Otc::State Otc::state(std::uint64_t key_hash) const {
  const Entry* entry = Find(key_hash);
  return entry != nullptr ? entry->state : State::kI;
}

NodeSet Otc::sharers(std::uint64_t key_hash) const {
  const Entry* entry = Find(key_hash);
  return entry != nullptr ? entry->sharers() : NodeSet();
}

}  // namespace apta::daemon
