// What runs are made of, and how a failing one is made smaller.

#include "tests/sim/profile.h"

#include <algorithm>
#include <random>

#include "fmt/format.h"
#include "tests/sim/world.h"

namespace apta::sim {

std::string Profile::Describe() const {
  std::string flags = fmt::format("--first {} --seeds 1 --mode {}", seed,
                                  fabric::kCoherenceNames[static_cast<std::size_t>(mode)]);
  VisitKnobs(*this, [&](const char* name, const char*, auto field) {
    if constexpr (std::is_same_v<decltype(field), bool>) {
      flags += fmt::format(" --{} {:d}", name, field);
    } else {
      flags += fmt::format(" --{} {}", name, field);
    }
  });
  return flags;
}

Profile ProfileOf(std::uint64_t seed, std::optional<Coherence> mode, bool may_log) {
  std::mt19937_64 random(seed ^ 0x5eed);
  const auto pick = [&](std::initializer_list<std::uint64_t> values) {
    return *(values.begin() + random() % values.size());
  };
  Profile profile;
  profile.seed = seed;
  profile.mode = mode.value_or(static_cast<Coherence>(random() % 5));
  // Most runs are small: what goes wrong goes wrong among few.
  profile.nodes = pick({2, 3, 3, 3, 4, 5, 8, 3});
  profile.threads = 1 + random() % 3;
  profile.keys = pick({1, 2, 4, 8, 40});
  profile.operations = pick({200, 400, 800});
  if (random() % 2 == 0) {
    profile.link.latency_ns = pick({300, 1'000, 10'000});
    profile.link.jitter_ns = pick({0, 1'000, 100'000});
    profile.link.bandwidth_gbps = random() % 2 == 0 ? 10 : 0;
  }
  profile.copies = random() % 4 == 0;
  profile.cache_bytes = pick({1'000, 100'000, 1 << 20});
  profile.directory_entries = pick({0, 0, 2, 6, 20});
  profile.ack_deadline_ms = pick({1, 3, 1'000});
  profile.kill_every = pick({0, 20, 60, 200});
  profile.stall_every = pick({0, 15, 50, 200});
  profile.restart_every = random() % 10 == 0 ? 40 : 0;
  profile.functions = random() % 2 == 0;
  if (profile.functions) ++profile.threads;  // a worker runs nothing else
  profile.node_quota_bytes = pick({0, 0, 0, 2'000, 20'000});
  profile.agents_sleep = random() % 4 == 0;
  if (random() % 32 == 0) profile.nodes = 64;
  profile.declared_reads = random() % 2 == 0;
  profile.errors = random() % 2 == 0;
  profile.policy = random() % scheduler::kPolicyNames.size();
  profile.logged = may_log && random() % 4 == 0;
  if (profile.logged) {
    profile.restart_every = pick({0, 25, 60, 200});
    profile.disk_fault_every = pick({0, 0, 30, 100});
  }
  return profile;
}

// Greedy: takes each simplification after which the run still fails.
Profile Shrink(const Profile& failing) {
  Profile smallest = failing;
  for (bool progress = true; progress;) {
    progress = false;
    const auto change = [&](auto&& edit) {
      Profile candidate = smallest;
      edit(&candidate);
      if (candidate.Describe() == smallest.Describe() || Run(candidate).failure.empty()) return;
      smallest = candidate;
      progress = true;
    };
    change([](Profile* p) { p->operations = std::max<std::uint64_t>(4, p->operations / 2); });
    change([](Profile* p) {
      p->operations = std::max<std::uint64_t>(4, p->operations - 1 - p->operations / 10);
    });
    change([](Profile* p) { p->nodes = std::max<std::uint64_t>(2, p->nodes / 2); });
    change([](Profile* p) { p->nodes = std::max<std::uint64_t>(2, p->nodes - 1); });
    change([](Profile* p) { p->threads = p->functions ? 2 : 1; });
    change([](Profile* p) { p->keys = std::max<std::uint64_t>(1, p->keys / 2); });
    change([](Profile* p) { p->kill_every = 0; });
    change([](Profile* p) { p->stall_every = 0; });
    change([](Profile* p) { p->restart_every = 0; });
    change([](Profile* p) { p->disk_fault_every = 0; });
    change([](Profile* p) {
      p->disk_fault_every = 0;
      p->logged = false;
    });
    change([](Profile* p) {
      if (p->functions) --p->threads;
      p->functions = false;
    });
    change([](Profile* p) { p->declared_reads = false; });
    change([](Profile* p) { p->errors = false; });
    change([](Profile* p) { p->policy = 0; });
    change([](Profile* p) { p->copies = false; });
    change([](Profile* p) { p->directory_entries = 0; });
    change([](Profile* p) { p->node_quota_bytes = 0; });
    change([](Profile* p) { p->agents_sleep = false; });
    change([](Profile* p) { p->link = {}; });
  }
  return smallest;
}

}  // namespace apta::sim
