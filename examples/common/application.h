// What the runner must know of an application: its functions, its workflow, where the paper placed
// them, an input, and what came out. One per folder; see README.md there.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "apta/apta.h"

namespace examples {

class Task;  // task.h

// The body of a function: JSON with keys in, JSON with keys out, objects by Task::Get and Put. It
// may throw nlohmann's exceptions on JSON that is not as it must be.
using Body = absl::StatusOr<nlohmann::json> (*)(Task& task, const nlohmann::json& input);

struct Step {
  std::string function;
  Body body;
  std::vector<std::string> pinned;  // the paper's Table III: one node, or one per item of a Map
};

// The paper's Table IV.
struct PaperCounts {
  int hits, misses, puts, invalidating_puts;
};

struct InputOptions {
  std::string data;     // folder with inputs of the paper's size; "" = what the example has itself
  std::string variant;  // of applications that have some
  std::string run;      // prefix of this run's keys; new for each run
  std::string scratch;  // folder for files that functions read or write
};

struct Input {
  std::map<std::string, std::string> objects;  // put before the workflow begins
  nlohmann::json json;                         // the workflow's input
};

struct Outcome {
  std::string summary;                       // for the screen
  std::map<std::string, std::string> files;  // for --output: name and content
};

struct Application {
  std::string name;
  std::string folder;  // holds workflow.json
  std::string pattern;
  std::vector<Step> steps;
  PaperCounts paper;
  absl::StatusOr<Input> (*make_input)(const InputOptions& options);
  // `result` is the workflow's output.
  absl::StatusOr<Outcome> (*collect)(apta::Client& client, const nlohmann::json& result);
  std::vector<std::string> variants = {};  // "" is always one
};

absl::StatusOr<std::string> ReadFile(const std::string& path);
absl::Status WriteFile(const std::string& path, std::string_view content);

}  // namespace examples
