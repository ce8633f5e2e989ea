// What must hold after every turn, at the end of a run, and what runs are made of.

#include <algorithm>

#include "fmt/format.h"
#include "tests/sim/authors_otc.h"
#include "tests/sim/world.h"

namespace apta::sim {

// protocol.md's invariants 4, 5 and 6, from outside.
void World::CheckInvariants() {
  const fabric::IndexView& view = pool_->share(0).index.view();
  for (const auto& node : nodes_) {
    if (!node->attached) continue;
    CheckHeld(node.get());
    if (node->fenced) continue;
    node->cache->ForEachEntry(
        [&](std::uint64_t hash, std::uint64_t version, compute::Cache::Place place) {
          if (!fabric::TracksSharers(profile_.mode)) return;
          daemon::NodeSet known = home_->otc().sharers(hash);
          known.AddAll(home_->oic().WaitedFor(hash));
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
    for (const Held& held : node->held) {
      if (!held.got.pinned) continue;
      const std::uint64_t place = held.got.pinned->pin->extent();
      if (compute::PrivateCopy::IsPlace(place)) continue;
      if (pool_->share(0).objects.LiveBytes(place) == 0) {
        Fail(fmt::format("n{} reads an extent that was given away", node->index));
      }
    }
  }
  for (NodeId slot = 0; slot < fabric::kMaxNodes; ++slot) {
    if (slots_[slot].port != nullptr || !home_->oic().present().Contains(slot)) continue;
    Fail(fmt::format("slot {} is forgotten and still waited for", slot));
  }
}

// --- the directory's transitions, against the authors' (authors_otc.h)

void World::NoteStates() {
  issued_to_others_ = 0;
  for (std::size_t key = 0; key < key_hash_.size(); ++key) {
    state_before_[key] = static_cast<int>(home_->otc().state(key_hash_[key]));
  }
}

void World::CheckTransitions(const char* where) {
  if (profile_.mode != Coherence::kStrict && profile_.mode != Coherence::kLazy) return;
  for (std::size_t key = 0; key < key_hash_.size(); ++key) {
    const auto from = static_cast<OtcState>(state_before_[key]);
    const auto to = static_cast<OtcState>(home_->otc().state(key_hash_[key]));
    if (from == to) continue;
    // Seen from outside: which of the events that can happen here leads there? A delete is a put
    // that leaves no sharer.
    using enum OtcEvent;
    static constexpr OtcEvent kInStep[] = {kGet, kPutNoOthers, kPutInvalidatesOthers, kEvict};
    static constexpr OtcEvent kElsewhere[] = {
        kLastAck,     kLastAckNoSharers,     kNodeDead, kNodeDeadLast, kNodeDeadNoSharers,
        kPutNoOthers, kPutInvalidatesOthers, kEvict};
    const auto leads = [](auto& events, OtcState before, OtcState after) {
      return std::any_of(std::begin(events), std::end(events), [&](OtcEvent event) {
        return TheirsAllows(before, event, after) ||
               IntendedDifference(before, event, after) != nullptr;
      });
    };
    const bool in_step = where[0] == 's';
    bool is_allowed = from == OtcState::kS && to == OtcState::kI;  // a delete
    if (in_step) {
      is_allowed = is_allowed || leads(kInStep, from, to);
    } else {
      // One poll may do several things, an upload's put and the last acknowledgement among them.
      for (const OtcState between : {OtcState::kI, OtcState::kS, OtcState::kSA, OtcState::kSI}) {
        is_allowed = is_allowed || ((from == between || leads(kElsewhere, from, between)) &&
                                    (between == to || leads(kElsewhere, between, to)));
      }
    }
    if (!is_allowed) {
      Fail(fmt::format(
          "{}: the directory went from state {} to {}, which neither the authors' model "
          "nor our list of differences has",
          where, static_cast<int>(from), static_cast<int>(to)));
    }
  }
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
  if (pool_->share(0).objects.live_extents() > pool_->share(0).live_objects.load() + 64) {
    Fail("extents have leaked");
  }
  outcome_.evictions = home_->counters().directory_evictions;
  outcome_.untracked = home_->counters().untracked;

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
  CheckOwnWrites(history);
}

// A process reads its own writes, in every mode: a get that begins after a put of the same node has
// returned brings that put or a newer one.
void World::CheckOwnWrites(const std::vector<Operation>& history) {
  constexpr std::uint32_t kLanes = 16;
  for (const Operation& put : history) {
    if (put.kind == Operation::Kind::kGet || put.failed || put.end_ns == kNever) continue;
    for (const Operation& get : history) {
      if (get.kind != Operation::Kind::kGet || get.key != put.key || get.begin_ns <= put.end_ns ||
          get.client / kLanes != put.client / kLanes || get.value == 0) {
        continue;
      }
      if (get.version < put.version) {
        Fail(fmt::format("a node does not read its own write: {}, after {}", sim::Describe(get),
                         sim::Describe(put)));
        return;
      }
    }
  }
}

// --- profiles

std::string Profile::Describe() const {
  return fmt::format(
      "seed={} mode={} nodes={} threads={} keys={} operations={} link={}ns±{} copies={} cache={} "
      "directory={} deadline={}ms kill=1/{} stall=1/{} restart=1/{} functions={}",
      seed, fabric::kCoherenceNames[static_cast<std::size_t>(mode)], nodes, threads, keys,
      operations, link.latency_ns, link.jitter_ns, copies, cache_bytes, directory_entries,
      ack_deadline_ms, kill_every, stall_every, restart_every, functions);
}

Profile ProfileOf(std::uint64_t seed, std::optional<Coherence> mode) {
  std::mt19937_64 random(seed ^ 0x5eed);
  const auto pick = [&](std::initializer_list<std::uint64_t> values) {
    return *(values.begin() + random() % values.size());
  };
  Profile profile;
  profile.seed = seed;
  profile.mode = mode.value_or(static_cast<Coherence>(random() % 5));
  // Most runs are small: what goes wrong goes wrong among few.
  profile.nodes = static_cast<int>(pick({2, 3, 3, 3, 4, 5, 8, random() % 16 == 0 ? 64u : 3u}));
  profile.threads = static_cast<int>(1 + random() % 3);
  profile.keys = pick({1, 2, 4, 8, 40});
  profile.operations = static_cast<int>(pick({200, 400, 800}));
  if (random() % 2 == 0) {
    profile.link.latency_ns = pick({300, 1'000, 10'000});
    profile.link.jitter_ns = pick({0, 1'000, 100'000});
    profile.link.bandwidth_gbps = random() % 2 == 0 ? 10 : 0;
  }
  profile.copies = random() % 4 == 0;
  profile.cache_bytes = pick({1'000, 100'000, 1 << 20});
  profile.directory_entries = pick({0, 0, 2, 6, 20});
  profile.ack_deadline_ms = pick({1, 3, 1'000});
  profile.kill_every = static_cast<int>(pick({0, 20, 60, 200}));
  profile.stall_every = static_cast<int>(pick({0, 15, 50, 200}));
  profile.restart_every = random() % 10 == 0 ? 150 : 0;
  profile.functions = random() % 2 == 0;
  if (profile.functions) ++profile.threads;  // a worker runs nothing else
  return profile;
}

Outcome Run(const Profile& profile, std::size_t trace_lines) {
  return World(profile, trace_lines).Run();
}

// Greedy: takes each simplification after which the run still fails.
Profile Shrink(const Profile& failing) {
  Profile smallest = failing;
  const auto try_it = [&](const Profile& candidate) {
    if (Run(candidate).failure.empty()) return false;
    smallest = candidate;
    return true;
  };
  for (bool progress = true; progress;) {
    progress = false;
    const auto change = [&](auto&& edit) {
      Profile candidate = smallest;
      edit(&candidate);
      if (candidate.Describe() != smallest.Describe()) progress = try_it(candidate) || progress;
    };
    change([](Profile* p) { p->operations = std::max(4, p->operations / 2); });
    change([](Profile* p) { p->operations = std::max(4, p->operations - 1 - p->operations / 10); });
    change([](Profile* p) { p->nodes = std::max(2, p->nodes - 1); });
    change([](Profile* p) { p->threads = p->functions ? 2 : 1; });
    change([](Profile* p) { p->keys = std::max<std::uint64_t>(1, p->keys / 2); });
    change([](Profile* p) { p->kill_every = 0; });
    change([](Profile* p) { p->stall_every = 0; });
    change([](Profile* p) { p->restart_every = 0; });
    change([](Profile* p) {
      if (p->functions) --p->threads;
      p->functions = false;
    });
    change([](Profile* p) { p->copies = false; });
    change([](Profile* p) { p->directory_entries = 0; });
    change([](Profile* p) { p->link = {}; });
  }
  return smallest;
}

}  // namespace apta::sim
