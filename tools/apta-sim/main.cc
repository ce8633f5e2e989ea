// apta-sim: what a cluster of compute servers would do, from the controllers that ship.

#include <CLI/CLI.hpp>
#include <chrono>
#include <fstream>
#include <string>

#include "fmt/format.h"
#include "tools/apta-sim/run.h"

namespace {

struct Options {
  std::string scenario, json, timeline;
  std::uint64_t seed = 0;
  bool has_seed = false;
};

absl::Status Write(const std::string& path, const std::string& text) {
  if (path.empty()) return absl::OkStatus();
  std::ofstream file(path);
  file << text << '\n';
  file.close();
  return file ? absl::OkStatus() : absl::UnknownError(fmt::format("{}: cannot be written", path));
}

absl::Status Main(const Options& options) {
  absl::StatusOr<apta::perf::Scenario> scenario = apta::perf::ReadScenario(options.scenario);
  if (!scenario.ok()) return scenario.status();
  if (options.has_seed) scenario->seed = options.seed;
  const auto begin = std::chrono::steady_clock::now();
  const absl::StatusOr<apta::perf::Ran> ran =
      apta::perf::Run(*scenario, options.timeline.empty() ? 0 : 100'000);
  if (!ran.ok()) return ran.status();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::size_t operations = 0;
  for (const apta::perf::Series& series : ran->metrics.operations) operations += series.count();
  fmt::print("{}{} operations in {:.2f} s: {:.0f} a second of real time\n",
             apta::perf::SummaryTable(*scenario, *ran), operations, took.count(),
             static_cast<double>(operations) / took.count());
  absl::Status written = Write(options.json, apta::perf::ToJson(*scenario, *ran).dump(2));
  if (options.timeline.empty()) return written;
  written.Update(Write(options.timeline, apta::perf::Timeline(*ran).dump()));
  return written;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app(
      "Runs a scenario in virtual time with the controllers that ship, and tells how long "
      "everything took. What a scenario may say: README.md beside the source, and the error for "
      "what it may not.");
  app.add_option("scenario", options.scenario, "a TOML file")->required();
  app.add_option("--json", options.json, "file for everything that was measured");
  app.add_option("--timeline", options.timeline,
                 "file for what happened when (Chrome's trace format): the first 100,000 spans");
  CLI::Option* seed = app.add_option("--seed", options.seed, "instead of the scenario's");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  options.has_seed = seed->count() > 0;
  const absl::Status done = Main(options);
  if (done.ok()) return 0;
  fmt::print(stderr, "apta-sim: {}\n", std::string(done.message()));
  return 1;
}
