// Placement: which node runs an invocation. A pure function of a snapshot.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "fabric/message.h"

namespace apta::scheduler {

// A node that has the function, as the Executor Manager sees it at one instant.
struct Candidate {
  fabric::NodeId node;
  bool owes_acknowledgement;   // an invalidation that it has not acknowledged is outstanding
  std::uint32_t idle_workers;  // threads that wait for an invocation
  std::uint32_t running;       // invocations of this function
  std::uint32_t max_concurrency;
  std::uint32_t running_in_all;  // invocations of any function
};

// The scheduling correctness criterion (protocol.md) and capacity.
inline bool IsEligible(const Candidate& candidate) {
  return !candidate.owes_acknowledgement && candidate.idle_workers > 0 &&
         candidate.running < candidate.max_concurrency;
}

// The index of the eligible candidate that runs least, the first of equals; nullopt = none is
// eligible: the invocation waits, for acknowledgements and results, not for a timer.
inline std::optional<std::size_t> Place(absl::Span<const Candidate> candidates) {
  std::optional<std::size_t> best;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    if (!IsEligible(candidates[i])) continue;
    if (!best || candidates[i].running_in_all < candidates[*best].running_in_all) best = i;
  }
  return best;
}

}  // namespace apta::scheduler
