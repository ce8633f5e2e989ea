// Reads Amazon States Language and checks all that can be checked before a run.
//
// Thread-safe: a function without state. Nothing is thrown.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "compute/workflow/definition.h"

namespace apta::workflow {

// INVALID_ARGUMENT: names the state and the field.
absl::StatusOr<Definition> ParseDefinition(std::string_view amazon_states_language);

}  // namespace apta::workflow
