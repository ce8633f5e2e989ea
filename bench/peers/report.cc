#include "bench/peers/report.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include "bench/peers/measure.h"

namespace apta::peers {
namespace {

constexpr std::string_view kBase = "apta";

// Three significant digits: "31.2 ns", "1.23 µs", "456 µs".
std::string Time(double ns) {
  const std::pair<double, const char*> units[] = {{1e9, "s"}, {1e6, "ms"}, {1e3, "µs"}, {1, "ns"}};
  for (const auto& [unit, name] : units) {
    const double value = ns / unit;
    if (value < 0.9995 && unit > 1) continue;
    const int digits = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
    return fmt::format("{:.{}f} {}", value, digits, name);
  }
  return "";
}

std::string Ratio(double ratio) {
  if (ratio == 0) return "";
  if (ratio < 0.0095) return fmt::format("1/{:.0f}", 1 / ratio);
  if (ratio >= 9999.5) return fmt::format("{:.0f}k×", ratio / 1000);
  return fmt::format("{:.{}f}×", ratio, ratio < 9.95 ? 2 : ratio < 99.5 ? 1 : 0);
}

// The kind of operation that stands for a workload in the table.
std::string_view ShownOp(std::string_view workload) {
  return workload == "mix" ? "all" : workload == "read" ? "get" : workload;
}

bool IsShown(const Record& record) { return record.op == ShownOp(record.workload); }

bool IsSameCell(const Record& a, const Record& b) {
  return a.workload == b.workload && a.size == b.size && a.distribution == b.distribution &&
         a.clients == b.clients && a.op == b.op;
}

// "950", "12.3k", "1.05M": of operations per second.
std::string Rate(double per_s) {
  if (per_s >= 999'500) return fmt::format("{:.2f}M", per_s / 1e6);
  if (per_s >= 999.5) return fmt::format("{:.1f}k", per_s / 1e3);
  return fmt::format("{:.0f}", per_s);
}

std::string Field(const Record& record) {
  return fmt::format("{:>7}{} ±{:>2.0f}% {:>7} {:>6} {:>6}", Time(record.median_ns),
                     record.batch_ops > 1 ? '*' : ' ', std::min(record.cv * 100, 99.0),
                     Time(record.p99_ns), Ratio(record.ratio), Rate(record.ops_per_s));
}

nlohmann::json ToJson(const Record& record) {
  return {{"system", record.system},
          {"workload", record.workload},
          {"size", record.size},
          {"distribution", record.distribution},
          {"clients", record.clients},
          {"op", record.op},
          {"median_ns", record.median_ns},
          {"p99_ns", record.p99_ns},
          {"ops_per_s", record.ops_per_s},
          {"rounds", record.rounds},
          {"cv", record.cv},
          {"batch_ops", record.batch_ops},
          {"pipelined", record.pipelined},
          {"samples", record.samples},
          {"ratio_to_apta", record.ratio}};
}

nlohmann::json Machine() {
  utsname names = {};
  uname(&names);
  std::ifstream cpus("/proc/cpuinfo");
  std::string line, model;
  while (model.empty() && std::getline(cpus, line)) {
    if (line.starts_with("model name")) model = line.substr(line.find(": ") + 2);
  }
  return {{"cpu", model}, {"cpus", sysconf(_SC_NPROCESSORS_ONLN)}, {"kernel", names.release}};
}

}  // namespace

void PrintText(std::string_view text) {
  (void)!std::fwrite(text.data(), 1, text.size(), stdout);
  (void)std::fflush(stdout);
}

void Report::Add(std::vector<Record> cell) {
  for (Record& record : cell) {
    const auto base = std::ranges::find_if(cell, [&](const Record& other) {
      return other.system == kBase && IsSameCell(record, other);
    });
    if (base != cell.end()) record.ratio = record.median_ns / base->median_ns;
  }
  records_.insert(records_.end(), cell.begin(), cell.end());
}

Record MakeRecord(Record cell, std::string op, const Rounds& rounds) {
  cell.op = std::move(op);
  cell.median_ns = MedianOf(rounds.medians_ns);
  cell.p99_ns = MedianOf(rounds.p99s_ns);
  cell.ops_per_s = MedianOf(rounds.ops_per_s);
  cell.rounds = static_cast<int>(rounds.medians_ns.size());
  cell.cv = VariationOf(rounds.medians_ns);
  cell.samples = rounds.samples;
  return cell;
}

void Report::PrintBlock(std::string_view title,
                        absl::Span<const std::string_view> workloads) const {
  if (records_.empty()) return;
  const Record& last = records_.back();
  std::vector<std::string> systems;
  std::map<std::pair<std::string, std::string>, std::string> fields;
  for (const Record& record : records_) {
    if (record.size != last.size || record.distribution != last.distribution ||
        record.clients != last.clients || !IsShown(record)) {
      continue;
    }
    if (std::ranges::find(systems, record.system) == systems.end()) {
      systems.push_back(record.system);
    }
    fields[{record.system, record.workload}] = Field(record);
  }
  Print("\n{}\n{:<20}", title, "");
  for (const std::string_view workload : workloads) {
    Print("| {:<5}{:>3}  ±    {:>7} {:>6} {:>6} ", workload, "p50", "p99", "×Āpta", "per s");
  }
  Print("\n");
  for (const std::string& system : systems) {
    Print("{:<20}", system);
    for (const std::string_view workload : workloads) {
      const auto field = fields.find({system, std::string(workload)});
      Print("| {:<35} ", field != fields.end() ? field->second : "");
    }
    Print("\n");
  }
}

void Report::PrintSummary() const {
  struct Tally {
    double log_ratios = 0;
    int cells = 0, faster = 0;
  };
  std::map<std::pair<std::string, std::string>, Tally> tallies;
  std::vector<std::string> systems;
  for (const Record& record : records_) {
    if (record.system == kBase || record.ratio == 0 || !IsShown(record)) continue;
    Tally& tally = tallies[{record.system, record.workload}];
    tally.log_ratios += std::log(record.ratio);
    ++tally.cells;
    tally.faster += record.ratio < 1;
    if (std::ranges::find(systems, record.system) == systems.end()) {
      systems.push_back(record.system);
    }
  }
  if (systems.empty()) return;
  Print(
      "\nMedian as a multiple of Āpta's, geometric mean over all cells"
      " (cells in which it is faster than Āpta / cells)\n{:<20}",
      "");
  for (const Workload& workload : kWorkloads) Print(" {:>18}", workload.name);
  Print("\n");
  for (const std::string& system : systems) {
    Print("{:<20}", system);
    for (const Workload& workload : kWorkloads) {
      const auto entry = tallies.find({system, std::string(workload.name)});
      if (entry == tallies.end()) {
        Print(" {:>18}", "");
        continue;
      }
      const Tally& tally = entry->second;
      Print(" {:>18}", fmt::format("{} ({}/{})", Ratio(std::exp(tally.log_ratios / tally.cells)),
                                   tally.faster, tally.cells));
    }
    Print("\n");
  }
  Print("\nCells in which another system is faster than Āpta (median; Āpta's; ratio)\n");
  for (const Record& record : records_) {
    if (record.ratio == 0 || record.ratio >= 1 || record.system == kBase || !IsShown(record)) {
      continue;
    }
    Print("  {:<5} {:>6} {:<8} {} client{} {:<20} {:>8} {:>8} {:>6}\n", record.workload,
          record.size, record.distribution, record.clients, record.clients > 1 ? "s" : " ",
          record.system, Time(record.median_ns), Time(record.median_ns / record.ratio),
          Ratio(record.ratio));
  }
}

absl::Status Report::WriteJson(const std::string& path, const nlohmann::json& settings) const {
  nlohmann::json records = nlohmann::json::array();
  for (const Record& record : records_) records.push_back(ToJson(record));
  const nlohmann::json all = {
      {"schema", 1}, {"machine", Machine()}, {"settings", settings}, {"records", records}};
  // Nobody finds a half one.
  const std::string part = path + ".part";
  std::ofstream file(part);
  file << all.dump(1) << '\n';
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(part, path, error);
  if (!file || error) return absl::UnavailableError(fmt::format("{}: cannot be written", path));
  return absl::OkStatus();
}

}  // namespace apta::peers
