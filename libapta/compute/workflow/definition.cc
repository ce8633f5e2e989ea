#include "compute/workflow/definition.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace apta::workflow {

absl::Duration Retrier::Delay(std::int64_t retry, double share) const {
  constexpr double kLongest = 366.0 * 24 * 3600;
  double seconds =
      static_cast<double>(interval_s) * std::pow(backoff_rate, static_cast<double>(retry - 1));
  if (max_delay_s) seconds = std::min(seconds, static_cast<double>(*max_delay_s));
  seconds = std::min(seconds, kLongest);  // also what has become infinite
  return absl::Seconds(has_full_jitter ? seconds * share : seconds);
}

std::string_view State::type() const {
  constexpr std::array<std::string_view, 8> kTypes = {"Task",    "Pass", "Choice",   "Wait",
                                                      "Succeed", "Fail", "Parallel", "Map"};
  static_assert(std::variant_size_v<decltype(what)> == kTypes.size());
  return kTypes[what.index()];
}

std::vector<StateIndex> State::successors() const {
  std::vector<StateIndex> all;
  if (next) all.push_back(*next);
  for (const Catcher& catcher : catches) all.push_back(catcher.next);
  if (const auto* choice = std::get_if<Choice>(&what)) {
    for (const ChoiceRule& rule : choice->rules) all.push_back(rule.next);
    if (choice->otherwise) all.push_back(*choice->otherwise);
  }
  return all;
}

}  // namespace apta::workflow
