// One run of an application on three compute servers, and the tables that show it.
#pragma once

#include <cstdint>
#include <string>
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
};

absl::StatusOr<Measured> Run(const Application& application, const RunOptions& options);

std::string FunctionTable(const Measured& measured);                      // a line per invocation
std::string ApplicationTable(const std::vector<Measured>& applications);  // a line each
std::string PaperTable(const std::vector<Measured>& applications);        // beside Table IV
nlohmann::json ToJson(const Measured& measured);

}  // namespace examples
