// Runs of an application on three compute servers, and the tables that show them.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/application.h"
#include "common/task.h"

namespace examples {

struct RunOptions {
  std::string socket;  // "" = a memory server of our own, in this process
  std::string data;    // as InputOptions
  std::string variant;
  bool pinned = false;  // the paper's schedule instead of the scheduler's
  int runs = 2;         // the last one counts; those before warm the processes
};

struct Measured {
  const Application* application;
  std::vector<Report> reports;
  std::int64_t total_ns;
  std::int64_t outside_ns;  // of it, no function ran: calls, commits, the workflow itself
  Outcome outcome;
  std::string run;                                             // prefix of its keys
  std::vector<std::pair<std::string, std::uint64_t>> objects;  // put before: key, bytes
};

// The last of options.runs.
absl::StatusOr<Measured> Run(const Application& application, const RunOptions& options);

// Runs under each policy, with a memory server and compute servers for each, in turns (A B A B):
// options.runs of each, after one that warms it.
struct Compared {
  std::string policy;
  std::vector<Measured> runs;
};
absl::StatusOr<std::vector<Compared>> Compare(const Application& application,
                                              const RunOptions& options,
                                              const std::vector<std::string>& policies);

std::string FunctionTable(const Measured& measured);                      // a line per invocation
std::string ApplicationTable(const std::vector<Measured>& applications);  // a line each
std::string PaperTable(const std::vector<Measured>& applications);        // beside Table IV
// A line for each application and policy: hits and misses of all runs, medians of their times.
std::string PolicyTable(const std::vector<Compared>& compared);
nlohmann::json ToJson(const Measured& measured);
// The gets, puts and times between them of each invocation, as tools/apta-sim replays them.
nlohmann::json TraceOf(const Measured& measured);

}  // namespace examples
