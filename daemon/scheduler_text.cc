#include "daemon/scheduler_text.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace apta::daemon {

using scheduler::Candidate;
using scheduler::FailedAttempt;

std::string ExplanationAsJson(const scheduler::Explanation& explanation) {
  nlohmann::json all{{"policy", explanation.policy},
                     {"attempt", explanation.attempt},
                     {"queued_ns", explanation.queued_ns},
                     {"chosen", ""},
                     {"because", ""},
                     {"candidates", nlohmann::json::array()}};
  for (const auto& [name, candidate] : explanation.considered) {
    const scheduler::Verdict verdict = Judge(candidate);
    all["candidates"].push_back({{"node", name},
                                 {"eligible", verdict == scheduler::Verdict::kEligible},
                                 {"verdict", VerdictText(verdict)},
                                 {"local_bytes", candidate.local_bytes},
                                 {"predecessors", candidate.predecessors},
                                 {"active", candidate.active},
                                 {"threads", candidate.threads},
                                 {"running", candidate.running},
                                 {"max_concurrency", candidate.max_concurrency}});
  }
  if (explanation.chosen) {
    all["chosen"] = explanation.considered[*explanation.chosen].node;
    all["because"] = BecauseText(explanation.because);
  }
  return all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string HistoryText(absl::Span<const FailedAttempt> history) {
  std::string text;
  for (const FailedAttempt& attempt : history) {
    const bool is_gone = attempt.end == FailedAttempt::End::kNodeGone;
    text += fmt::format("{}attempt on {}: {}", text.empty() ? "" : "; ", attempt.node,
                        is_gone ? "its node died or left" : "past its deadline");
  }
  return text;
}

}  // namespace apta::daemon
