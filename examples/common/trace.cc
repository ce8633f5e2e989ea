#include <string>

#include "common/run.h"

namespace examples {

using nlohmann::json;

json TraceOf(const Measured& measured) {
  // Keys without what is different in each run.
  const auto plain = [&](const std::string& key) {
    return key.starts_with(measured.run + "/") ? key.substr(measured.run.size() + 1) : key;
  };
  json objects = json::array();
  for (const auto& [key, bytes] : measured.objects) objects.push_back({plain(key), bytes});
  json invocations = json::array();
  for (const Report& report : measured.reports) {
    json after = json::array();  // whatever had ended when it began
    for (std::size_t i = 0; i < measured.reports.size(); ++i) {
      if (measured.reports[i].end_ns <= report.begin_ns) after.push_back(i);
    }
    json phases = json::array();
    std::int64_t until_ns = report.begin_ns;
    const auto compute_up_to = [&](std::int64_t ns) {
      if (ns > until_ns) phases.push_back({"compute", ns - until_ns});
    };
    for (const Access& access : report.accesses) {
      compute_up_to(access.begin_ns);
      phases.push_back({access.what, plain(access.key), access.bytes});
      until_ns = access.end_ns;
    }
    compute_up_to(report.end_ns);
    invocations.push_back({{"function", report.function},
                           {"node", report.node},
                           {"after", after},
                           {"phases", phases}});
  }
  return {{"application", measured.application->name},
          {"objects", objects},
          {"invocations", invocations}};
}

}  // namespace examples
