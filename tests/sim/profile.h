// What a run of the simulator is made of, and how to say it on a command line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "apta/server.h"
#include "fabric/coherence.h"

namespace apta::sim {

using fabric::Coherence;

// Everything follows from the seed unless a test says otherwise.
struct Profile {
  std::uint64_t seed = 0;
  Coherence mode = Coherence::kStrict;
  std::uint64_t nodes = 3;
  std::uint64_t threads = 2;  // of each node
  std::uint64_t keys = 4;
  std::uint64_t operations = 400;
  LinkOptions link;
  bool copies = false;  // Placement::kLocalCopy
  std::uint64_t cache_bytes = 1 << 20;
  std::uint64_t directory_entries = 0;
  std::uint64_t ack_deadline_ms = 2;
  std::uint64_t node_quota_bytes = 0;  // 0 = the default
  // Agents act only when they are nudged or a watched pin was dropped, and the home asks of its own
  // accord only when all threads have come to rest.
  bool agents_sleep = false;
  bool functions = false;
  bool declared_reads = false;
  bool errors = false;
  std::uint64_t policy = 0;  // of scheduler::kPolicyNames
  // One in so many operations; 0 = never.
  std::uint64_t kill_every = 0;
  std::uint64_t stall_every = 0;
  std::uint64_t restart_every = 0;
  bool logged = false;  // durability `log`
  std::uint64_t disk_fault_every = 0;

  // The flags of tools/sim that make this run, whatever the seed would have drawn.
  std::string Describe() const;
};
// `may_log`: some pools have logs.
Profile ProfileOf(std::uint64_t seed, std::optional<Coherence> mode = std::nullopt,
                  bool may_log = true);

// Calls visit(name, meaning, field) for each field but seed and mode.
template <typename SomeProfile, typename Visit>
void VisitKnobs(SomeProfile& profile, Visit&& visit) {
  visit("nodes", "compute servers", profile.nodes);
  visit("threads", "of each node", profile.threads);
  visit("keys", "objects", profile.keys);
  visit("operations", "of all threads together", profile.operations);
  visit("latency", "of a link, ns", profile.link.latency_ns);
  visit("jitter", "of a link, ns", profile.link.jitter_ns);
  visit("bandwidth", "of a link, Gbit/s; 0 = unlimited", profile.link.bandwidth_gbps);
  visit("copies", "1: versions are read from private copies", profile.copies);
  visit("cache", "of a node, bytes", profile.cache_bytes);
  visit("directory", "entries; 0 = enough", profile.directory_entries);
  visit("deadline", "for acknowledgements, ms", profile.ack_deadline_ms);
  visit("quota", "of old versions held for a node, bytes; 0 = half the pool",
        profile.node_quota_bytes);
  visit("sleepy", "1: agents sleep until they are nudged", profile.agents_sleep);
  visit("functions", "1: one thread of each node runs them", profile.functions);
  visit("declared", "1: half of the calls declare what they read", profile.declared_reads);
  visit("errors", "1: functions may return errors", profile.errors);
  visit("policy", "of the scheduler: 0 the default, to 3", profile.policy);
  visit("kill", "one in so many operations; 0 = never", profile.kill_every);
  visit("stall", "one in so many operations", profile.stall_every);
  visit("restart", "of the memory server, one in so many operations", profile.restart_every);
  visit("logged", "1: the pool is of durability log", profile.logged);
  visit("diskfault", "one in so many operations", profile.disk_fault_every);
}

}  // namespace apta::sim
