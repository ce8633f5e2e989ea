// The part of Amazon States Language that the applications use: Task, Parallel and Map states with
// InputPath, ItemsPath, Parameters, ResultSelector and ResultPath, and paths like $.a[0].b. Each
// branch and each item runs in a thread of its own.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "apta/apta.h"

namespace examples {

// Runs the workflow's functions on the nodes that have them; a Task whose Parameters name an
// "apta.node" runs there. Thread-safe.
absl::StatusOr<nlohmann::json> RunStates(apta::Client& client, const nlohmann::json& machine,
                                         const nlohmann::json& input);

}  // namespace examples
