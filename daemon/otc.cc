#include "daemon/otc.h"

#include <algorithm>
#include <bit>

namespace apta::daemon {

Otc::Otc(std::uint64_t entries)
    : shift_(64 - std::countr_zero(std::bit_ceil(std::max<std::uint64_t>(entries, 64)))),
      max_entries_((std::uint64_t{1} << (64 - shift_)) / 8 * 7),
      entry_((std::uint64_t{1} << (64 - shift_)) + kTail) {}

Otc::Entry* Otc::Find(std::uint64_t key_hash) const {
  for (std::uint64_t i = Slot(key_hash); i < entry_.size(); ++i) {
    if (entry_[i].key_hash == key_hash) return &entry_[i];
    if (entry_[i].key_hash == 0) return nullptr;
  }
  return nullptr;
}

Otc::Entry* Otc::FindOrInsert(std::uint64_t key_hash) {
  for (std::uint64_t i = Slot(key_hash); i < entry_.size(); ++i) {
    Entry& entry = entry_[i];
    if (entry.key_hash == key_hash) return &entry;
    if (entry.key_hash != 0) continue;
    // The last entry stays free, so that every probe ends.
    if (live_entries_ >= max_entries_ || i + 1 == entry_.size()) return nullptr;
    ++live_entries_;
    entry = Entry{};
    entry.key_hash = key_hash;
    entry.state = State::kI;
    return &entry;
  }
  return nullptr;
}

// I has no entry. Entries behind the hole are shifted back as far as their slot allows.
void Otc::EraseIfIdle(Entry* entry) {
  if (!entry->sharers.empty() || entry->rounds != 0) return;
  --live_entries_;
  auto hole = static_cast<std::uint64_t>(entry - &entry_[0]);
  for (std::uint64_t i = hole + 1; i < entry_.size() && entry_[i].key_hash != 0; ++i) {
    if (Slot(entry_[i].key_hash) > hole) continue;
    entry_[hole] = entry_[i];
    hole = i;
  }
  entry_[hole] = Entry{};
}

void Otc::SetSharers(NodeSet* sharers, const NodeSet& now) {
  NodeSet gone = *sharers;
  gone.Remove(now);
  gone.ForEach([&](NodeId node) { --shared_entries_[node]; });
  NodeSet come = now;
  come.Remove(*sharers);
  come.ForEach([&](NodeId node) { ++shared_entries_[node]; });
  *sharers = now;
}

void Otc::Get(std::uint64_t key_hash, NodeId node) {
  Entry* entry = FindOrInsert(key_hash);
  if (entry == nullptr) {
    untracked_.Add(node);  // invariant 3
    return;
  }
  switch (entry->state) {
    case State::kI:
      entry->state = State::kS;
      [[fallthrough]];
    case State::kS:
    case State::kSA:
      if (!entry->sharers.Contains(node)) {
        entry->sharers.Add(node);
        ++shared_entries_[node];
      }
      return;
  }
}

NodeSet Otc::ReplaceSharers(std::uint64_t key_hash, const NodeSet& sharers) {
  Entry* entry = sharers.empty() ? Find(key_hash) : FindOrInsert(key_hash);
  if (entry == nullptr) {
    // No entry, and perhaps no room for one: whoever is untracked may hold a copy.
    const NodeSet old = untracked_;
    untracked_.AddAll(sharers);
    return old;
  }
  NodeSet old = entry->sharers;
  // The entry may be new, and sharers from a time when there was no room for it untracked.
  old.AddAll(untracked_);
  SetSharers(&entry->sharers, sharers);
  if (entry->state == State::kI) entry->state = State::kS;
  EraseIfIdle(entry);
  return old;
}

NodeSet Otc::Put(std::uint64_t key_hash, NodeId writer) {
  return ReplaceSharers(key_hash, NodeSet::Of(writer));
}

NodeSet Otc::Delete(std::uint64_t key_hash) { return ReplaceSharers(key_hash, NodeSet()); }

void Otc::RoundIssued(std::uint64_t key_hash) {
  Entry* entry = FindOrInsert(key_hash);
  if (entry == nullptr) return;  // no entry to protect; the OIC's books are enough
  entry->state = State::kSA;
  ++entry->rounds;
}

void Otc::AckComplete(std::uint64_t key_hash) {
  Entry* entry = Find(key_hash);
  // An entry that found no room when the round was issued has not counted it.
  if (entry == nullptr || entry->rounds == 0) return;
  switch (entry->state) {
    case State::kI:
    case State::kS:
      return;
    case State::kSA:
      if (--entry->rounds == 0) entry->state = State::kS;
      EraseIfIdle(entry);
      return;
  }
}

std::uint64_t Otc::ForgetNode(NodeId node, std::uint64_t position, std::uint64_t entry_budget) {
  untracked_.Remove(node);
  position = std::min<std::uint64_t>(position, entry_.size());
  while (position > 0 && entry_budget-- > 0 && shared_entries_[node] > 0) {
    Entry& entry = entry_[--position];
    if (entry.key_hash == 0 || !entry.sharers.Contains(node)) continue;
    entry.sharers.Remove(node);
    --shared_entries_[node];
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
  NodeSet sharers = untracked_;
  if (entry != nullptr) sharers.AddAll(entry->sharers);
  return sharers;
}

}  // namespace apta::daemon
