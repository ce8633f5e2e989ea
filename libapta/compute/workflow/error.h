// What can go wrong in a run, by the names that Retry and Catch know.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"

namespace apta::workflow {

struct RunError {
  std::string name;          // "States.Timeout", "NOT_FOUND", a Fail state's own, …
  std::string cause;         // for people
  bool from_task = false;    // a function failed
  bool from_branch = false;  // of a Parallel or Map state
  bool is_final = false;     // the run is over: nothing may retry or catch it

  // Whether ErrorEquals with `wanted` means this error.
  bool Matches(std::string_view wanted) const {
    if (wanted == name || wanted == "States.ALL") return true;
    if (wanted == "States.TaskFailed") return from_task && name != "States.Timeout";
    if (wanted == "States.BranchFailed") return from_branch;
    return wanted == "DEADLINE_EXCEEDED" && name == "States.Timeout";
  }
};

inline std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

// What a function returned, or what kept it from running.
inline RunError TaskError(const absl::Status& status) {
  return {.name = status.code() == absl::StatusCode::kDeadlineExceeded
                      ? "States.Timeout"
                      : absl::StatusCodeToString(status.code()),
          .cause = MessageOf(status),
          .from_task = true};
}

// Of an evaluation (expression.h); `path_error` is what a path that means nothing is called.
inline RunError EvaluationError(const absl::Status& status, std::string_view path_error) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return {.name = std::string(path_error), .cause = MessageOf(status)};
    case absl::StatusCode::kResourceExhausted:
      return {.name = "States.DataLimitExceeded", .cause = MessageOf(status)};
    case absl::StatusCode::kFailedPrecondition:
      return {.name = "States.ResultPathMatchFailure", .cause = MessageOf(status)};
    default:
      return {.name = "States.IntrinsicFailure", .cause = MessageOf(status)};
  }
}

}  // namespace apta::workflow
