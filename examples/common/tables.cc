#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "common/run.h"

namespace examples {

using nlohmann::json;

namespace {

double Ms(std::int64_t ns) { return static_cast<double>(ns) * 1e-6; }
std::int64_t ComputeNs(const Report& report) {
  return report.end_ns - report.begin_ns - report.get_ns - report.put_ns;
}

template <typename Field>
auto Sum(const Measured& measured, Field&& field) {
  using Value = decltype(field(Report()));
  return std::accumulate(
      measured.reports.begin(), measured.reports.end(), Value{},
      [&](Value sum, const Report& report) { return static_cast<Value>(sum + field(report)); });
}

PaperCounts Counts(const Measured& measured) {
  return {Sum(measured, [](const Report& r) { return r.hits; }),
          Sum(measured, [](const Report& r) { return r.misses; }),
          Sum(measured, [](const Report& r) { return r.puts; }),
          Sum(measured, [](const Report& r) { return r.invalidating_puts; })};
}

// Where the functions ran, in the order of the application's functions: "c1 c1 (c1 c2) c3".
std::string Placements(const Measured& measured) {
  std::string text;
  for (const Step& step : measured.application->steps) {
    std::vector<std::string> nodes;
    for (const Report& report : measured.reports) {
      if (report.function == step.function) nodes.push_back(report.node);
    }
    std::sort(nodes.begin(), nodes.end());
    const std::string joined = fmt::format("{}", fmt::join(nodes, " "));
    text += (text.empty() ? "" : " ") + (nodes.size() > 1 ? "(" + joined + ")" : joined);
  }
  return text;
}

}  // namespace

std::string FunctionTable(const Measured& measured) {
  std::string text = fmt::format("{:18} {:5} {:>9} {:>11} {:>9} {:>5} {:>7} {:>5} {:>12}\n",  //
                                 "function", "node", "get ms", "compute ms", "put ms", "hits",
                                 "misses", "puts", "invalidating");
  for (const Report& report : measured.reports) {
    text +=
        fmt::format("{:18} {:5} {:9.3f} {:11.3f} {:9.3f} {:5} {:7} {:5} {:12}\n", report.function,
                    report.node, Ms(report.get_ns), Ms(ComputeNs(report)), Ms(report.put_ns),
                    report.hits, report.misses, report.puts, report.invalidating_puts);
  }
  return text + fmt::format("{:.3f} ms in all, {:.3f} ms of it outside functions\n",
                            Ms(measured.total_ns), Ms(measured.outside_ns));
}

std::string ApplicationTable(const std::vector<Measured>& applications) {
  std::string text = fmt::format("{:11} {:>8} {:>11} {:>8} {:>11} {:>9} {:>5} {:>7} {:>9}  {}\n",
                                 "application", "get ms", "compute ms", "put ms", "outside ms",
                                 "total ms", "hits", "misses", "hit rate", "placements");
  for (const Measured& measured : applications) {
    const PaperCounts counts = Counts(measured);
    const int gets = counts.hits + counts.misses;
    text += fmt::format(
        "{:11} {:8.3f} {:11.3f} {:8.3f} {:11.3f} {:9.3f} {:5} {:7} {:7} %  {}\n",
        measured.application->name, Ms(Sum(measured, [](const Report& r) { return r.get_ns; })),
        Ms(Sum(measured, ComputeNs)), Ms(Sum(measured, [](const Report& r) { return r.put_ns; })),
        Ms(measured.outside_ns), Ms(measured.total_ns), counts.hits, counts.misses,
        gets == 0 ? 0 : 100 * counts.hits / gets, Placements(measured));
  }
  return text;
}

std::string PolicyTable(const std::vector<Compared>& compared) {
  std::string text = fmt::format("{:11} {:18} {:>5} {:>5} {:>7} {:>9} {:>9} {:>9}\n",  //
                                 "application", "policy", "runs", "hits", "misses", "hit rate",
                                 "get ms", "total ms");
  for (const Compared& each : compared) {
    int hits = 0, misses = 0;
    std::vector<std::int64_t> get_ns, total_ns;
    for (const Measured& run : each.runs) {
      const PaperCounts counts = Counts(run);
      hits += counts.hits;
      misses += counts.misses;
      get_ns.push_back(Sum(run, [](const Report& report) { return report.get_ns; }));
      total_ns.push_back(run.total_ns);
    }
    const auto median_ms = [](std::vector<std::int64_t>& ns) {
      const auto middle = ns.begin() + static_cast<std::ptrdiff_t>(ns.size() / 2);
      std::nth_element(ns.begin(), middle, ns.end());
      return Ms(*middle);
    };
    text += fmt::format("{:11} {:18} {:5} {:5} {:7} {:7} % {:9.3f} {:9.3f}\n",
                        each.runs[0].application->name, each.policy, each.runs.size(), hits, misses,
                        hits + misses == 0 ? 0 : 100 * hits / (hits + misses), median_ms(get_ns),
                        median_ms(total_ns));
  }
  return text;
}

std::string PaperTable(const std::vector<Measured>& applications) {
  std::string text = fmt::format("{:11} {:>24} {:>30}   {}\n", "", "gets (hit, miss)",
                                 "puts (without, with inval.)", "");
  text += fmt::format("{:11} {:>12} {:>12} {:>15} {:>15}  {}\n", "application", "here", "paper",
                      "here", "paper", "placements");
  const auto pair = [](int a, int b) { return fmt::format("({}, {})", a, b); };
  for (const Measured& measured : applications) {
    const PaperCounts here = Counts(measured);
    const PaperCounts paper = measured.application->paper;
    text += fmt::format("{:11} {:>12} {:>12} {:>15} {:>15}  {}\n", measured.application->name,
                        pair(here.hits, here.misses), pair(paper.hits, paper.misses),
                        pair(here.puts, here.invalidating_puts),
                        pair(paper.puts, paper.invalidating_puts), Placements(measured));
  }
  return text;
}

json ToJson(const Measured& measured) {
  const PaperCounts counts = Counts(measured);
  return {{"application", measured.application->name},
          {"gets", {counts.hits, counts.misses}},
          {"puts", {counts.puts, counts.invalidating_puts}},
          {"placements", Placements(measured)},
          {"total_ns", measured.total_ns},
          {"outside_ns", measured.outside_ns},
          {"invocations", measured.reports}};
}

}  // namespace examples
