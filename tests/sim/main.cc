// The simulator as a command: many seeds, or one with its trace.

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>

#include "CLI/CLI.hpp"
#include "fmt/format.h"
#include "tests/sim/world.h"

namespace apta::sim {
namespace {

struct Arguments {
  std::int64_t seeds = 2'000;
  std::int64_t first = 1;
  double minutes = 60;
  std::string mode_name;
  std::optional<Coherence> mode;
  bool trace = false;
  bool no_shrink = false;
  std::map<std::string, double> knobs;  // those that were given
};

void PrintTrace(const Outcome& outcome) {
  for (const std::string& line : outcome.trace) fmt::print("{}\n", line);
}

Profile ProfileFor(const Arguments& arguments, std::uint64_t seed) {
  Profile profile = ProfileOf(seed, arguments.mode);
  VisitKnobs(profile, [&](const char* name, const char*, auto& field) {
    const auto given = arguments.knobs.find(name);
    if (given == arguments.knobs.end()) return;
    field = static_cast<std::remove_reference_t<decltype(field)>>(given->second);
  });
  return profile;
}

void Report(const Arguments& arguments, const Profile& profile, const Outcome& outcome) {
  fmt::print("FAILED {}\nagain: tools/sim {}\n", outcome.failure, profile.Describe());
  if (arguments.no_shrink) return;
  fmt::print("shrinking …\n");
  const Profile small = Shrink(profile);
  const Outcome again = sim::Run(small, 200);
  PrintTrace(again);
  fmt::print("FAILED {}\nagain: tools/sim {} --no-shrink --trace\n", again.failure,
             small.Describe());
}

int RunSeeds(const Arguments& arguments) {
  const auto began = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  };
  Outcome sum;
  std::int64_t done = 0;
  for (; done < arguments.seeds && seconds() < arguments.minutes * 60; ++done) {
    const Profile profile =
        ProfileFor(arguments, static_cast<std::uint64_t>(arguments.first + done));
    const Outcome outcome = sim::Run(profile, arguments.trace ? 1'000'000 : 0);
    PrintTrace(outcome);
    if (!outcome.failure.empty()) {
      Report(arguments, profile, outcome);
      return 1;
    }
    sum.Add(outcome);
  }
  fmt::print("{} seeds in {:.1f} s ({:.0f} a second): {}: every check held\n", done, seconds(),
             static_cast<double>(done) / seconds(), sum.Describe());
  return 0;
}

int Main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app(
      "Runs the coherence protocol's controllers in virtual time, one run per seed. The seed draws "
      "what the run is made of; the flags in the second group fix parts of it.");
  const auto above_0 = [](const std::string& text) -> std::string {
    return std::atof(text.c_str()) > 0 ? "" : text + " is not above 0";
  };
  app.add_option("--seeds", arguments.seeds, "how many")->capture_default_str()->check(above_0);
  app.add_option("--first", arguments.first, "the first one")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--minutes", arguments.minutes, "stop after so long")
      ->capture_default_str()
      ->check(above_0);
  app.add_option("--mode", arguments.mode_name,
                 "strict, lazy, sync, versioned or uncached; else by seed");
  app.add_flag("--trace", arguments.trace, "print each message and what each operation returned");
  app.add_flag("--no-shrink", arguments.no_shrink, "leave a failing run as it is");
  const Profile any;
  VisitKnobs(any, [&](const char* name, const char* meaning, auto) {
    app.add_option_function<double>(
           std::string("--") + name, [&, name](double value) { arguments.knobs[name] = value; },
           meaning)
        ->check(CLI::NonNegativeNumber)
        ->group("The run");
  });
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (!arguments.mode_name.empty()) {
    arguments.mode = fabric::ParseCoherence(arguments.mode_name);
    if (!arguments.mode) {
      fmt::print(stderr, "sim: --mode {} is none of strict, lazy, sync, versioned, uncached\n",
                 arguments.mode_name);
      return 2;
    }
  }
  for (const char* name : {"nodes", "threads", "keys"}) {
    if (!arguments.knobs.contains(name) || arguments.knobs[name] >= 1) continue;
    fmt::print(stderr, "sim: --{} must be at least 1\n", name);
    return 2;
  }
  return RunSeeds(arguments);
}

}  // namespace
}  // namespace apta::sim

int main(int argc, char** argv) { return apta::sim::Main(argc, argv); }
