#include "scheduler/placement.h"

#include <algorithm>

namespace apta::scheduler {

std::string_view VerdictText(Verdict verdict) {
  switch (verdict) {
    case Verdict::kEligible:
      return "eligible";
    case Verdict::kOtherNode:
      return "another node is asked for";
    case Verdict::kStopping:
      return "takes no more work";
    case Verdict::kNoThread:
      return "no free thread";
    case Verdict::kStuckThreads:
      return "full of attempts past their deadline";
    case Verdict::kAtConcurrency:
      return "at max_concurrency";
    case Verdict::kOwes:
      return "owes an acknowledgement";
  }
  return "";
}

std::string_view BecauseText(Because because) {
  switch (because) {
    case Because::kOnlyOne:
      return "the only eligible node";
    case Because::kLocalBytes:
      return "caches most of the declared reads";
    case Because::kPredecessors:
      return "ran most of the workflow so far";
    case Because::kLoad:
      return "least load";
    case Because::kTurn:
      return "its turn";
    case Because::kChance:
      return "drawn at random";
  }
  return "";
}

// Model rule: SCHEDULE_ONLY_CLEAN
Verdict Judge(const Candidate& candidate) {
  if (!candidate.is_named) return Verdict::kOtherNode;
  if (!candidate.takes_work) return Verdict::kStopping;
  if (candidate.stuck >= fabric::kMaxStuckThreads) return Verdict::kStuckThreads;
  const bool has_room = candidate.threads == 0 || candidate.active < candidate.threads;
  if (candidate.idle_workers == 0 || !has_room) return Verdict::kNoThread;
  if (candidate.running >= candidate.max_concurrency) return Verdict::kAtConcurrency;
  return candidate.owes_acknowledgement ? Verdict::kOwes : Verdict::kEligible;
}

namespace {

// The candidate with the least of `key`, the first of equals.
template <typename Key>
std::size_t Least(absl::Span<const std::size_t> eligible, Key key) {
  return *std::min_element(eligible.begin(), eligible.end(),
                           [&](std::size_t a, std::size_t b) { return key(a) < key(b); });
}

std::size_t LeastLoad(const Snapshot& snapshot, absl::Span<const std::size_t> eligible) {
  return Least(eligible, [&](std::size_t i) {
    return snapshot.candidates[i].active + snapshot.candidates[i].stuck;
  });
}

}  // namespace

Choice CriterionLocality::Choose(const Snapshot& snapshot,
                                 absl::Span<const std::size_t> eligible) const {
  const auto most = [&](auto what, Because because) -> std::optional<Choice> {
    const std::size_t best = Least(eligible, [&](std::size_t i) {
      const Candidate& candidate = snapshot.candidates[i];
      return std::pair(~std::uint64_t{candidate.*what}, candidate.active + candidate.stuck);
    });
    if (snapshot.candidates[best].*what == 0) return std::nullopt;
    return Choice{best, because};
  };
  if (snapshot.declares_reads) {
    if (const auto choice = most(&Candidate::local_bytes, Because::kLocalBytes)) return *choice;
  }
  if (const auto choice = most(&Candidate::predecessors, Because::kPredecessors)) return *choice;
  return {LeastLoad(snapshot, eligible), Because::kLoad};
}

Choice Random::Choose(const Snapshot& snapshot, absl::Span<const std::size_t> eligible) const {
  // SplitMix64 of the turn, from another start for each function, or the n-th placements of all
  // would fall together: the same run makes the same choices.
  std::uint64_t x = snapshot.function * 0xbf58'476d'1ce4'e5b9;
  x = ((x ^ (x >> 31)) + snapshot.turn + 1) * 0x9e37'79b9'7f4a'7c15;
  x = (x ^ (x >> 30)) * 0xbf58'476d'1ce4'e5b9;
  x = (x ^ (x >> 27)) * 0x94d0'49bb'1331'11eb;
  return {eligible[(x ^ (x >> 31)) % eligible.size()], Because::kChance};
}

Choice RoundRobin::Choose(const Snapshot& snapshot, absl::Span<const std::size_t> eligible) const {
  const int last = snapshot.last_node ? *snapshot.last_node : -1;
  return {Least(eligible,
                [&](std::size_t i) {
                  const int node = snapshot.candidates[i].node;
                  return node > last ? node : node + fabric::kMaxNodes;
                }),
          Because::kTurn};
}

Choice LeastLoaded::Choose(const Snapshot& snapshot, absl::Span<const std::size_t> eligible) const {
  return {LeastLoad(snapshot, eligible), Because::kLoad};
}

const Policy* FindPolicy(std::string_view name) {
  static const CriterionLocality kCriterionLocality;
  static const Random kRandom;
  static const RoundRobin kRoundRobin;
  static const LeastLoaded kLeastLoaded;
  for (const Policy* policy : std::initializer_list<const Policy*>{&kCriterionLocality, &kRandom,
                                                                   &kRoundRobin, &kLeastLoaded}) {
    if (policy->name() == name) return policy;
  }
  return nullptr;
}

std::string WhyNone(absl::Span<const Candidate> candidates) {
  if (candidates.empty()) return "no node has it any more";
  std::array<std::size_t, kVerdicts> nodes{};
  for (const Candidate& candidate : candidates) {
    ++nodes[static_cast<std::size_t>(Judge(candidate))];
  }
  std::string why;
  for (std::size_t i = 0; i < kVerdicts; ++i) {
    if (nodes[i] == 0) continue;
    const auto verdict = static_cast<Verdict>(i);
    why += (why.empty() ? "" : ", ") + std::to_string(nodes[i]) +
           (nodes[i] == 1 ? " node: " : " nodes: ");
    why += verdict == Verdict::kEligible ? "others were before it" : VerdictText(verdict);
  }
  return why;
}

std::optional<Choice> Place(const Policy& policy, const Snapshot& snapshot) {
  std::array<std::size_t, fabric::kMaxNodes> eligible;
  std::size_t count = 0;
  for (const bool had_failure : {false, true}) {
    for (std::size_t i = 0; i < snapshot.candidates.size() && count < eligible.size(); ++i) {
      const Candidate& candidate = snapshot.candidates[i];
      if (candidate.has_failed_here == had_failure && Judge(candidate) == Verdict::kEligible) {
        eligible[count++] = i;
      }
    }
    if (count > 0) break;
  }
  if (count == 0) return std::nullopt;
  if (count == 1) return Choice{eligible[0], Because::kOnlyOne};
  return policy.Choose(snapshot, absl::MakeConstSpan(eligible.data(), count));
}

}  // namespace apta::scheduler
