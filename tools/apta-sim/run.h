// One scenario, run and reported.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "tools/apta-sim/metrics.h"
#include "tools/apta-sim/scenario.h"

namespace apta::perf {

struct Ran {
  Metrics metrics;
  std::uint64_t events = 0;
};
// `max_spans`: how much of the timeline is kept.
absl::StatusOr<Ran> Run(const Scenario& scenario, std::size_t max_spans = 0);

nlohmann::json ToJson(const Scenario& scenario, const Ran& ran);
std::string SummaryTable(const Scenario& scenario, const Ran& ran);
// chrome://tracing, or ui.perfetto.dev.
nlohmann::json Timeline(const Ran& ran);

}  // namespace apta::perf
