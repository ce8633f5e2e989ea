// The simulator as a command: many seeds, or one with its trace.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "CLI/CLI.hpp"
#include "fmt/format.h"
#include "tests/sim/world.h"

int main(int argc, char** argv) {
  using apta::sim::Profile;
  std::uint64_t seeds = 2'000;
  std::uint64_t first = 1;
  double minutes = 60;
  std::string mode_name;
  bool trace = false;
  CLI::App app("Runs the coherence protocol's controllers in virtual time, one run per seed.");
  app.add_option("--seeds", seeds, "how many")->capture_default_str();
  app.add_option("--first", first, "the first one")->capture_default_str();
  app.add_option("--minutes", minutes, "stop after so long")->capture_default_str();
  app.add_option("--mode", mode_name, "strict, lazy, sync, versioned or uncached; else by seed");
  app.add_flag("--trace", trace, "print the last messages of each run");
  CLI11_PARSE(app, argc, argv);
  std::optional<apta::fabric::Coherence> mode;
  if (!mode_name.empty()) {
    mode = apta::fabric::ParseCoherence(mode_name);
    if (!mode) {
      fmt::print(stderr, "sim: --mode {} is none of strict, lazy, sync, versioned, uncached\n",
                 mode_name);
      return 2;
    }
  }
  const auto began = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  };
  apta::sim::Outcome sum;
  std::uint64_t done = 0;
  for (; done < seeds && seconds() < minutes * 60; ++done) {
    const Profile profile = apta::sim::ProfileOf(first + done, mode);
    const apta::sim::Outcome outcome = apta::sim::Run(profile, trace ? 100000 : 0);
    for (const std::string& line : outcome.trace) fmt::print("{}\n", line);
    if (!outcome.failure.empty()) {
      fmt::print("{}\nFAILED {}\nshrinking …\n", profile.Describe(), outcome.failure);
      const Profile small = apta::sim::Shrink(profile);
      const apta::sim::Outcome again = apta::sim::Run(small, 80);
      for (const std::string& line : again.trace) fmt::print("{}\n", line);
      fmt::print("{}\nFAILED {}\n", small.Describe(), again.failure);
      return 1;
    }
    sum.operations += outcome.operations;
    sum.stale_gets += outcome.stale_gets;
    sum.scheduled_gets += outcome.scheduled_gets;
    sum.kills += outcome.kills;
    sum.stalls += outcome.stalls;
    sum.fenced += outcome.fenced;
    sum.restarts += outcome.restarts;
    sum.evictions += outcome.evictions;
    sum.untracked += outcome.untracked;
    sum.overflows += outcome.overflows;
  }
  fmt::print(
      "{} seeds in {:.1f} s ({:.0f} a second): {} operations, {} gets in functions, {} stale gets "
      "outside them;\n{} kills, {} stalls, {} fenced, {} restarts, {} directory evictions, {} "
      "untracked, {} ring overflows: every check held\n",
      done, seconds(), static_cast<double>(done) / seconds(), sum.operations, sum.scheduled_gets,
      sum.stale_gets, sum.kills, sum.stalls, sum.fenced, sum.restarts, sum.evictions, sum.untracked,
      sum.overflows);
  return 0;
}
