// What must hold after every step of the home, and at the end of a run.

#include <algorithm>
#include <cstring>

#include "fmt/format.h"
#include "tests/sim/authors_otc.h"
#include "tests/sim/world.h"

namespace apta::sim {

// protocol.md's invariants 4, 5 and 6, from outside, after every step of the home.
void World::CheckInvariants() {
  if (!outcome_.failure.empty()) return;
  for (const auto& node : nodes_) {
    if (!node->attached || node->is_orphan) continue;
    CheckReaders(*node);
    if (node->fenced) continue;
    CheckCaches(node.get());
    CheckDebtsOf(*node);
  }
  home_->oic().present().ForEach([&](NodeId slot) {
    if (slots_[slot].port == nullptr) {
      Fail(fmt::format("slot {} is forgotten and still waited for", slot));
    }
  });
}

void World::CheckCaches(Node* node) {
  if (!fabric::TracksSharers(profile_.mode)) return;
  const fabric::IndexView& view = pool_->share(0).index.view();
  node->cache->ForEachEntry(
      [&](std::uint64_t hash, std::uint64_t version, compute::Cache::Place place) {
        daemon::NodeSet known = home_->otc().sharers(hash);
        if (!known.Contains(node->slot)) known = home_->oic().WaitedFor(hash);
        if (!known.Contains(node->slot)) {
          Fail(fmt::format("n{} caches version {} and the directory does not know", node->index,
                           version));
        }
        if (compute::PrivateCopy::IsPlace(place)) return;
        const fabric::ExtentHeader* header = view.HeaderAt(place);
        if (header == nullptr || header->key_hash != hash ||
            pool_->share(0).objects.LiveBytes(place) == 0) {
          Fail(fmt::format("n{} caches an extent that was given away", node->index));
        }
      });
}

// Whether what it reads is still there; all of its bytes are looked at when it lets go.
void World::CheckReaders(const Node& node) {
  for (const Held& held : node.held) {
    if (!held.got.pinned) continue;
    const std::uint64_t place = held.got.pinned->pin->extent();
    if (compute::PrivateCopy::IsPlace(place)) continue;
    std::uint64_t first_word = 0;
    std::memcpy(&first_word, held.got.pinned->header->payload(), sizeof(first_word));
    if (pool_->share(0).objects.LiveBytes(place) == 0 || first_word != held.value) {
      Fail(fmt::format("n{} reads an extent that was given away", node.index));
    }
  }
}

// --- deadlines and quotas

namespace {

// How often the home looks at debts, twice, at hold tables, and its turns.
TimeNs Tolerance(const Profile& profile) {
  const TimeNs check_ns = profile.ack_deadline_ms * 1'000'000 / 16;
  return 2 * std::clamp<TimeNs>(check_ns, 1'000'000, 50'000'000) + daemon::Oic::kLookIntervalNs +
         100'000;
}

}  // namespace

// That a node which does not answer, or makes the home hold too much, is fenced in time.
void World::CheckDebtsOf(const Node& node) {
  Slot& slot = slots_[node.slot];
  const daemon::Oic& oic = home_->oic();
  const std::uint64_t acknowledged = Acknowledged(node.slot);
  if (oic.Outstanding(node.slot) == 0 || acknowledged != slot.acknowledged) {
    slot.answered_ns = now_ns_;
    slot.acknowledged = acknowledged;
  }
  const fabric::HoldTable& holds = *node.port->holds();
  outcome_.hold_everything += holds.hold_everything.load() > slot.holds_everything;
  slot.holds_everything = holds.hold_everything.load();
  for (const std::atomic<std::uint64_t>& extent : holds.extent_offset) {
    if (extent.load() != 0 && deferred_.emplace(node.slot, extent.load()).second) {
      ++outcome_.deferred_holds;
    }
  }
  const std::uint64_t quota_bytes =
      profile_.node_quota_bytes != 0 ? profile_.node_quota_bytes : kPoolBytes / 2;
  if (oic.HeldBytesOf(node.slot) <= quota_bytes) {
    slot.over_quota_ns = 0;
  } else if (slot.over_quota_ns == 0) {
    slot.over_quota_ns = now_ns_;
  }
  const TimeNs silent_ns = now_ns_ - slot.answered_ns;
  if (silent_ns > profile_.ack_deadline_ms * 1'000'000 + Tolerance(profile_)) {
    Fail(fmt::format("n{} has been silent for {} ns and is not fenced", node.index, silent_ns));
  }
  if (slot.over_quota_ns != 0 &&
      now_ns_ - slot.over_quota_ns > APTA_QUOTA_GRACE_NS + Tolerance(profile_)) {
    Fail(fmt::format("n{} is over its quota with {} bytes and is not fenced", node.index,
                     oic.HeldBytesOf(node.slot)));
  }
}

// That it is fenced for a reason. The home looks at quotas now and then: whether the node was below
// its own in between, it doesn't know.
void World::CheckFence(NodeId id) {
  constexpr TimeNs kTurnNs = 10'000;  // our books are kept after the home's turns
  const Slot& slot = slots_[id];
  if (now_ns_ - slot.answered_ns + kTurnNs >= profile_.ack_deadline_ms * 1'000'000) {
    ++outcome_.fenced_silent;
  } else if (slot.over_quota_ns != 0) {
    ++outcome_.fenced_over_quota;
  } else {
    Fail(fmt::format("slot {} is fenced, and owes too much neither in time nor in bytes", id));
  }
}

// --- the directory's transitions, against the authors' (authors_otc.h)

void World::WitnessOtc(fabric::Asked asked, std::uint64_t key_hash, NodeId node,
                       bool has_answered) {
  if (!has_answered) {
    state_before_ = static_cast<OtcState>(home_->otc().state(key_hash));
    sharers_before_ = home_->otc().sharers(key_hash);
    return;
  }
  const auto after = static_cast<OtcState>(home_->otc().state(key_hash));
  const OtcTransition taken{state_before_, EventOf(asked, key_hash, node), after};
  const std::size_t row = OtcRowOf(taken);
  if (row < kOtcRows) {
    ++outcome_.otc[row];
    return;
  }
  Fail(
      fmt::format("{}: event {} took the directory from state {} to {}, which neither the "
                  "authors' model nor our list of differences has",
                  NameOf(key_hash), static_cast<int>(taken.event), static_cast<int>(taken.from),
                  static_cast<int>(taken.to)));
}

// What the directory was asked, as the authors' table says it; by our own count of rounds.
OtcEvent World::EventOf(fabric::Asked asked, std::uint64_t key_hash, NodeId node) {
  using fabric::Asked;
  int& rounds = rounds_[key_hash];
  daemon::NodeSet others = sharers_before_;
  others.Keep(home_->oic().answering());
  if (node != daemon::Otc::kNobody) others.Remove(node);
  const bool has_sharers = !home_->otc().sharers(key_hash).empty();
  const auto acknowledged = [&] {
    if (--rounds < 0) Fail("a round has ended that never began");
    if (rounds > 0) return a_node_dies_ ? OtcEvent::kNodeDead : OtcEvent::kAck;
    const bool is_last_reader_gone = state_before_ == OtcState::kSA && sharers_before_.empty();
    if (a_node_dies_) {
      return is_last_reader_gone ? OtcEvent::kNodeDeadNoSharers : OtcEvent::kNodeDeadLast;
    }
    return is_last_reader_gone ? OtcEvent::kLastAckNoSharers : OtcEvent::kLastAck;
  };
  switch (asked) {
    case Asked::kGet:
      return has_sharers ? OtcEvent::kGet : OtcEvent::kGetUntracked;
    case Asked::kPut:
      if (!has_sharers) return OtcEvent::kPutUntracked;
      if (others.empty()) return OtcEvent::kPutNoOthers;
      ++rounds;
      return OtcEvent::kPutInvalidatesOthers;
    case Asked::kDelete:
      if (others.empty()) return OtcEvent::kDeleteNoOthers;
      ++rounds;
      return OtcEvent::kDeleteInvalidatesOthers;
    case Asked::kAckComplete:
      return acknowledged();
    case Asked::kEvict: {
      daemon::NodeSet asked_nodes = sharers_before_;
      asked_nodes.Keep(home_->oic().present());
      if (asked_nodes.empty()) return OtcEvent::kEvictNoSharers;
      ++rounds;  // no two of our keys share a hash
      return OtcEvent::kEvict;
    }
    case Asked::kDead:
      return rounds == 0 && !has_sharers ? OtcEvent::kNodeDeadNoSharers : OtcEvent::kNodeDead;
  }
  return OtcEvent::kGet;
}

// --- the end

void World::CheckEnd() {
  CheckInvariants();
  if (home_->oic().open_rounds() != 0) {
    std::string who;
    for (const auto& node : nodes_) {
      who += fmt::format("; n{}: issued {}, owes {}, holds {}, current {}", node->index,
                         home_->oic().Issued(node->slot), home_->oic().Outstanding(node->slot),
                         node->port->holds()->end.load(), node->cache->IsCurrent(0));
    }
    Fail(fmt::format("{} rounds are open, and everybody is quiet{}", home_->oic().open_rounds(),
                     who));
  }
  const std::uint64_t held = home_->oic().held_bytes();
  if (held != 0) Fail(fmt::format("{} bytes are held, and nobody reads them", held));
  if (pool_->share(0).objects.live_extents() != pool_->share(0).live_objects.load()) {
    Fail(fmt::format("{} extents are live, and {} objects", pool_->share(0).objects.live_extents(),
                     pool_->share(0).live_objects.load()));
  }
  outcome_.evictions += home_->counters().directory_evictions;
  outcome_.untracked += home_->counters().untracked;
  if (disk_) CheckLogRecovers();
  CheckHistory();
}

void World::CheckHistory() {
  // Gets that never returned say nothing.
  std::vector<Operation> history;
  std::vector<Operation> writes;
  for (std::size_t i = 0; i < history_.size(); ++i) {
    const bool is_get = history_[i].kind == Operation::Kind::kGet;
    if (is_void_[i] || (is_get && history_[i].end_ns == kNever)) continue;
    history.push_back(history_[i]);
    if (!is_get && !history_[i].failed) writes.push_back(history_[i]);
  }
  const auto report = [&](const char* check, const std::optional<Violation>& violation) {
    if (violation) Fail(fmt::format("{}: {}", check, violation->message));
  };
  outcome_.stale_gets = CountStale(history);
  report("integrity", CheckIntegrity(history));
  const bool is_linearizable = profile_.mode == Coherence::kStrict
                                   ? !profile_.link.enabled()
                                   : profile_.mode != Coherence::kLazy;
  report("linearizability", CheckLinearizable(is_linearizable ? history : writes));
  report("lazy linearizability", CheckLazy(writes, scheduled_));
  report("own writes",
         CheckOwnWrites(history, [](std::uint32_t client) { return client / kClientsPerNode; }));
  CheckGroups();
}

void Outcome::Add(const Outcome& other) {
  operations += other.operations;
  hits += other.hits;
  stale_gets += other.stale_gets;
  scheduled_gets += other.scheduled_gets;
  declared_gets += other.declared_gets;
  failed_attempts += other.failed_attempts;
  transactions += other.transactions;
  effects += other.effects;
  cuts += other.cuts;
  cuts_by_words += other.cuts_by_words;
  kills += other.kills;
  stalls += other.stalls;
  restarts += other.restarts;
  checkpoints += other.checkpoints;
  disk_faults += other.disk_faults;
  refused_by_log += other.refused_by_log;
  recovered += other.recovered;
  orphans += other.orphans;
  fenced_silent += other.fenced_silent;
  fenced_over_quota += other.fenced_over_quota;
  evictions += other.evictions;
  untracked += other.untracked;
  overflows += other.overflows;
  deferred_holds += other.deferred_holds;
  hold_everything += other.hold_everything;
  for (std::size_t row = 0; row < kOtcRows; ++row) otc[row] += other.otc[row];
}

std::string Outcome::Describe() const {
  return fmt::format(
      "{} operations, {} hits, {} gets in functions ({} of declared keys), {} stale gets outside "
      "them;\n{} transactions, {} invocations that wrote, {} attempts that failed, {} cuts, {} of "
      "them by words;\n{} kills, {} "
      "stalls, {} fenced for silence, {} for their quota, {} restarts beside {} stopped nodes, {} "
      "directory evictions, {} "
      "untracked,\n{} ring overflows, {} deferred holds, {} times everything was held;\n{} "
      "checkpoints, {} disk faults, {} records refused, {} objects recovered from logs",
      operations, hits, scheduled_gets, declared_gets, stale_gets, transactions, effects,
      failed_attempts, cuts, cuts_by_words, kills, stalls, fenced_silent, fenced_over_quota,
      restarts, orphans, evictions, untracked, overflows, deferred_holds, hold_everything,
      checkpoints, disk_faults, refused_by_log, recovered);
}

Outcome Run(const Profile& profile, std::size_t trace_lines) {
  return World(profile, trace_lines).Run();
}

}  // namespace apta::sim
