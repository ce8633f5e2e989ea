#include "daemon/scheduler_text.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace apta::daemon {

using scheduler::Candidate;
using scheduler::FailedAttempt;

namespace {

std::string EndText(const FailedAttempt& attempt) {
  switch (attempt.end) {
    case FailedAttempt::End::kNodeGone:
      return "its node died or left";
    case FailedAttempt::End::kDeadline:
      return "past its deadline";
    case FailedAttempt::End::kError:
      return absl::StatusCodeToString(attempt.code);
  }
  return "";
}

}  // namespace

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

std::string HistoryText(const scheduler::Outcome& outcome) {
  std::string text;
  for (const FailedAttempt& attempt : outcome.history) {
    text += fmt::format("{}attempt on {}: {}", text.empty() ? "" : "; ", attempt.node,
                        EndText(attempt));
  }
  if (!outcome.waited_for.empty()) {
    text += fmt::format("{}waited for a node: {}", text.empty() ? "" : "; ", outcome.waited_for);
  }
  return text;
}

}  // namespace apta::daemon
