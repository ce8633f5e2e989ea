// Checks of a machine's graph: that every state can be reached, and that a run can end.
#pragma once

#include "absl/status/status.h"
#include "compute/workflow/definition.h"

namespace apta::workflow {

// INVALID_ARGUMENT: names the state. Of this machine alone, not of those inside its states.
absl::Status CheckGraph(const StateMachine& machine);

}  // namespace apta::workflow
