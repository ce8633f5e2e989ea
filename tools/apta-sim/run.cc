#include "tools/apta-sim/run.h"

#include <utility>

#include "fmt/format.h"
#include "tools/apta-sim/cluster.h"
#include "tools/apta-sim/workload.h"

namespace apta::perf {

using nlohmann::json;

absl::StatusOr<Ran> Run(const Scenario& scenario, std::size_t max_spans) {
  Ran ran;
  ran.metrics.max_spans = max_spans;
  EventQueue events(/*now_ns=*/1'000'000);
  Cluster cluster(scenario, &events, &ran.metrics);
  if (absl::Status open = cluster.Open(); !open.ok()) return open;
  std::unique_ptr<Workload> workload;
  if (scenario.workload.trace.empty()) {
    workload = MakeSynthetic(scenario, &cluster);
  } else {
    auto replay = MakeReplay(scenario, &cluster, &ran.metrics);
    if (!replay.ok()) return replay.status();
    workload = *std::move(replay);
  }
  if (absl::Status loaded = workload->Load(); !loaded.ok()) return loaded;
  cluster.EndLoading();
  workload->Start();
  while (!workload->IsDone()) events.RunNext();  // never empty: homes are polled
  cluster.FillMetrics();
  ran.events = events.done();
  return ran;
}

namespace {

json ToJson(const Series& series) {
  return {{"count", series.count()},          {"mean_ns", series.mean()},
          {"p50_ns", series.Percentile(50)},  {"p99_ns", series.Percentile(99)},
          {"max_ns", series.Percentile(100)}, {"sum_ns", series.sum()}};
}

double Gbps(double bytes, double ns) { return ns > 0 ? bytes * 8 / ns : 0; }

}  // namespace

json ToJson(const Scenario& scenario, const Ran& ran) {
  const Metrics& m = ran.metrics;
  const double run_ns = static_cast<double>(m.end_ns - m.begin_ns);
  json operations = json::object();
  for (std::size_t i = 0; i < kKindNames.size(); ++i) {
    operations[std::string(kKindNames[i])] = ToJson(m.operations[i]);
  }
  const double looks = static_cast<double>(m.owing_looks);
  return {{"mode", scenario.mode},
          {"policy", scenario.policy},
          {"seed", scenario.seed},
          {"compute_servers", scenario.servers.compute},
          {"shards", scenario.servers.shards},
          {"virtual_ns", run_ns},
          {"events", ran.events},
          {"operations", operations},
          {"runs", ToJson(m.runs)},
          {"invalidations", m.invalidations},
          {"invalidating_puts", m.invalidating_puts},
          {"invalidation_outstanding", ToJson(m.outstanding)},
          {"owing_nodes_share", looks == 0 ? 0
                                           : static_cast<double>(m.owing_nodes) / looks /
                                                 static_cast<double>(scenario.servers.compute)},
          {"ring_overflows", m.overflows},
          {"directory_evictions", m.directory_evictions},
          {"untracked", m.untracked},
          {"failed_operations", m.failed},
          {"node_failures", m.failures},
          {"fenced", m.fenced},
          {"home_busy_share", m.max_home_busy_ns / run_ns},
          {"gbps_to_home", Gbps(m.bytes_to_home, run_ns)},
          {"gbps_to_nodes", Gbps(m.bytes_to_nodes, run_ns)}};
}

std::string SummaryTable(const Scenario& scenario, const Ran& ran) {
  const Metrics& m = ran.metrics;
  const double run_ns = static_cast<double>(m.end_ns - m.begin_ns);
  std::string text =
      fmt::format("{} compute servers, {} shards, {}: {:.3f} ms of virtual time\n",
                  scenario.servers.compute, scenario.servers.shards, scenario.mode, run_ns / 1e6);
  text += fmt::format("{:12} {:>10} {:>12} {:>10} {:>10} {:>10}\n", "", "count", "mean ns", "p50",
                      "p99", "max");
  const auto line = [&](std::string_view name, const Series& series) {
    if (series.count() == 0) return;
    text += fmt::format("{:12} {:>10} {:>12.1f} {:>10} {:>10} {:>10}\n", name, series.count(),
                        series.mean(), series.Percentile(50), series.Percentile(99),
                        series.Percentile(100));
  };
  for (std::size_t i = 0; i < kKindNames.size(); ++i) line(kKindNames[i], m.operations[i]);
  line("run", m.runs);
  line("outstanding", m.outstanding);
  text += fmt::format(
      "{} invalidations, {} puts made some; the busiest home {:.1f} % of the time; {:.2f} Gbit/s "
      "to "
      "homes, {:.2f} to nodes; {} directory evictions, {} failures, {} operations failed\n",
      m.invalidations, m.invalidating_puts, 100 * m.max_home_busy_ns / run_ns,
      Gbps(m.bytes_to_home, run_ns), Gbps(m.bytes_to_nodes, run_ns), m.directory_evictions,
      m.failures, m.failed);
  return text;
}

json Timeline(const Ran& ran) {
  json events = json::array();
  for (const Span& span : ran.metrics.spans) {
    events.push_back(
        {{"name", fmt::format("{} {}", kKindNames[static_cast<std::size_t>(span.kind)], span.what)},
         {"cat", kKindNames[static_cast<std::size_t>(span.kind)]},
         {"ph", "X"},
         {"ts", static_cast<double>(span.begin_ns - ran.metrics.begin_ns) / 1e3},
         {"dur", static_cast<double>(span.end_ns - span.begin_ns) / 1e3},
         {"pid", span.node + 1},
         {"tid", span.lane}});
  }
  return {{"displayTimeUnit", "ns"}, {"traceEvents", events}};
}

}  // namespace apta::perf
