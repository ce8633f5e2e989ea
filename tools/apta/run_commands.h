// The verbs of `apta` for workflows.
#pragma once

#include "absl/status/status.h"
#include "apta/client.h"
#include "apta/workflow.h"
#include "tools/apta/arguments.h"
#include "tools/apta/output.h"

namespace apta::tool {

absl::Status RunWorkflow(Client* client, const Workflow& workflow, BytesView input,
                         const Arguments& arguments, Output* output);
absl::Status ShowRun(Client* client, const Arguments& arguments, Output* output);
absl::Status ListRuns(Client* client, const Arguments& arguments, Output* output);

// What a file says. INVALID_ARGUMENT: names the file, the state and the field.
absl::StatusOr<Workflow> ReadWorkflow(std::string_view file, BytesView text);

}  // namespace apta::tool
