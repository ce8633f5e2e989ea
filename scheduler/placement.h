// Placement: which node runs an invocation. A pure function of a snapshot, with its reasons.
//
// The scheduling correctness criterion (protocol.md) and capacity decide who is eligible, whatever
// the policy; a policy chooses among those who are.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/types/span.h"
#include "fabric/message.h"

namespace apta::scheduler {

// Whether a node may run an invocation now, or why not: the first of these that applies.
enum class Verdict : std::uint8_t {
  kEligible,
  kOtherNode,      // the call names another node
  kStopping,       // its host takes no more work
  kNoThread,       // no thread of it waits for work, or as many run as it has
  kStuckThreads,   // too many of its threads run attempts that are past their deadline
  kAtConcurrency,  // as many invocations of this function run there as it allows
  kOwes,           // it owes an acknowledgement: what it reads may be stale
};
inline constexpr std::size_t kVerdicts = 7;
std::string_view VerdictText(Verdict verdict);

// A node that has the function, as the Executor Manager sees it at one instant.
struct Candidate {
  fabric::NodeId node = 0;
  bool is_named = true;  // the call names no node, or this one
  bool takes_work = true;
  bool owes_acknowledgement = false;  // of a declared read; of anything, if none are declared
  bool has_failed_here = false;       // an earlier attempt of this invocation ended there
  std::uint32_t idle_workers = 0;     // threads that wait for an invocation
  std::uint32_t threads = 0;          // that it says it has; 0 = as many as wait
  std::uint32_t active = 0;           // invocations of any function that run, and do not wait
  std::uint32_t stuck = 0;            // attempts past their deadline that still run
  std::uint32_t running = 0;          // invocations of this function
  std::uint32_t max_concurrency = 1;  // of this function
  std::uint64_t local_bytes = 0;      // of the declared reads, cached there
  std::uint32_t predecessors = 0;     // invocations of the same workflow that were placed there
};

Verdict Judge(const Candidate& candidate);

struct Snapshot {
  absl::Span<const Candidate> candidates;  // by node
  bool declares_reads = false;
  std::uint64_t function = 0;               // which one
  std::uint64_t turn = 0;                   // placements of this function so far
  std::optional<fabric::NodeId> last_node;  // that was chosen for this function
};

// What decided among the eligible.
enum class Because : std::uint8_t { kOnlyOne, kLocalBytes, kPredecessors, kLoad, kTurn, kChance };
std::string_view BecauseText(Because because);

struct Choice {
  std::size_t index;  // of the candidate
  Because because;
};

// A policy: pure, without state. REQUIRES of Choose: `eligible`, indices of candidates, ascending,
// is not empty.
class Policy {
 public:
  virtual ~Policy() = default;
  virtual std::string_view name() const = 0;
  virtual Choice Choose(const Snapshot& snapshot, absl::Span<const std::size_t> eligible) const = 0;
};

// Most bytes of the declared reads, else (nothing is declared, or nobody has any) most
// predecessors of the workflow; then least load.
class CriterionLocality final : public Policy {
 public:
  std::string_view name() const override { return "criterion+locality"; }
  Choice Choose(const Snapshot& snapshot, absl::Span<const std::size_t> eligible) const override;
};
// Any of them, by a generator of fixed seed.
class Random final : public Policy {
 public:
  std::string_view name() const override { return "random"; }
  Choice Choose(const Snapshot& snapshot, absl::Span<const std::size_t> eligible) const override;
};
// The next node after the one that ran this function last.
class RoundRobin final : public Policy {
 public:
  std::string_view name() const override { return "round-robin"; }
  Choice Choose(const Snapshot& snapshot, absl::Span<const std::size_t> eligible) const override;
};
class LeastLoaded final : public Policy {
 public:
  std::string_view name() const override { return "least-loaded"; }
  Choice Choose(const Snapshot& snapshot, absl::Span<const std::size_t> eligible) const override;
};

inline constexpr std::array<std::string_view, 4> kPolicyNames = {"criterion+locality", "random",
                                                                 "round-robin", "least-loaded"};
// nullptr: there is none of this name. Never deleted.
const Policy* FindPolicy(std::string_view name);

// Nullopt: nobody is eligible. Nodes where an attempt of the same invocation has ended come last.
std::optional<Choice> Place(const Policy& policy, const Snapshot& snapshot);

// Why an invocation waits: how many nodes have which verdict.
std::string WhyNone(absl::Span<const Candidate> candidates);

}  // namespace apta::scheduler
