// The record of a run: what becomes, as JSON (RunAsJson), the object "apta.run/NAME".
//
// Not thread-safe. No clock: events say when they happened.
#pragma once

#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "apta/workflow.h"
#include "compute/workflow/execution.h"

namespace apta::workflow {

inline constexpr std::string_view kRecordPrefix = "apta.run/";

class Record {
 public:
  // Of a run that begins.
  explicit Record(RunInfo info) : info_(std::move(info)) {}

  void Apply(const StateEvent& event);
  // REQUIRES: execution.has_ended().
  void ApplyEnd(const Execution& execution, absl::Time now);
  // The output is to be no part of it. REQUIRES: the run has succeeded.
  void LeaveOutputOut(std::string note);
  const RunInfo& info() const { return info_; }

 private:
  RunInfo info_;
  absl::flat_hash_map<std::string, std::size_t> index_;  // of info_.states
};

// What an object's bytes say, whoever wrote them. DATA_LOSS: they are no record.
absl::StatusOr<RunInfo> ParseRecord(std::string_view json);

}  // namespace apta::workflow
