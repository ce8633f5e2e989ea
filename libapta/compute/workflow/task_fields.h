// The fields of a Task's Parameters that are for the scheduler and not for the function:
//
//   "apta.reads"  keys of objects that the function reads: a text, or an array of texts; the
//                 criterion and the placement look at these alone (CallOptions::reads)
//   "apta.node"   the node to run on (CallOptions::node)
//
// each also as a path or call, "apta.reads.$". They are taken out of what the function gets; where
// Parameters says nothing else, that is the state's input as it is.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compute/workflow/template.h"

namespace apta::workflow {

struct TaskFields {
  std::optional<Template> reads;
  std::optional<Template> node;
  std::optional<Template> parameters;  // the rest
  bool uses_context = false;
};

// INVALID_ARGUMENT: names the field.
absl::StatusOr<TaskFields> SplitTaskFields(const Json& parameters);

// What the fields' values say. INVALID_ARGUMENT: nothing that can be right.
absl::StatusOr<std::vector<std::string>> ReadsOf(const Json& value);
absl::StatusOr<std::string> NodeOf(const Json& value);

}  // namespace apta::workflow
