#include "compute/workflow/record.h"

#include <algorithm>
#include <array>

#include "compute/workflow/timestamp.h"
#include "fmt/format.h"

namespace apta::workflow {
namespace {

constexpr std::array<std::string_view, 4> kStatusNames = {"RUNNING", "SUCCEEDED", "FAILED", "LOST"};

// Fields of a record that somebody else may have written.
std::string TextField(const Json& object, const char* name) {
  const auto field = object.find(name);
  return field != object.end() && field->is_string() ? field->get<std::string>() : "";
}
std::int64_t CountField(const Json& object, const char* name) {
  const auto field = object.find(name);
  return field != object.end() && field->is_number_integer() ? field->get<std::int64_t>() : 0;
}
absl::Time TimeField(const Json& object, const char* name) {
  return ParseTimestamp(TextField(object, name)).value_or(absl::InfinitePast());
}

RunState ParseRunState(const Json& json) {
  return {.name = TextField(json, "name"),
          .type = TextField(json, "type"),
          .entered = CountField(json, "entered"),
          .left = CountField(json, "left"),
          .retries = CountField(json, "retries"),
          .caught = CountField(json, "caught"),
          .failed = CountField(json, "failed"),
          .first_entered = TimeField(json, "first_entered"),
          .last_changed = TimeField(json, "last_changed"),
          .last_error = TextField(json, "last_error")};
}

}  // namespace

void Record::Apply(const StateEvent& event) {
  const auto [entry, is_new] = index_.emplace(std::string(event.state), info_.states.size());
  if (is_new) {
    info_.states.push_back({.name = std::string(event.state),
                            .type = std::string(event.type),
                            .first_entered = event.at});
  }
  RunState& state = info_.states[entry->second];
  state.last_changed = event.at;
  info_.updated = event.at;
  if (!event.error.empty()) state.last_error = fmt::format("{}: {}", event.error, event.cause);
  switch (event.kind) {
    case StateEvent::Kind::kEntered:
      ++state.entered;
      ++info_.transitions;
      break;
    case StateEvent::Kind::kRetrying:
      ++state.retries;
      ++info_.transitions;
      break;
    case StateEvent::Kind::kCaught:
      ++state.caught;
      break;
    case StateEvent::Kind::kFailed:
      ++state.failed;
      break;
    case StateEvent::Kind::kLeft:
      ++state.left;
      break;
  }
}

void Record::ApplyEnd(const Execution& execution, absl::Time now) {
  info_.updated = now;
  if (execution.error()) {
    info_.status = RunStatus::kFailed;
    info_.error = execution.error()->name;
    info_.cause = execution.error()->cause;
    info_.failed_state = execution.failed_state();
    return;
  }
  info_.status = RunStatus::kSucceeded;
  const std::string output = ToText(execution.output());
  const BytesView bytes = AsBytes(output);
  info_.output.assign(bytes.begin(), bytes.end());
}

void Record::LeaveOutputOut(std::string note) {
  info_.output.clear();
  info_.note = std::move(note);
}

absl::StatusOr<RunInfo> ParseRecord(std::string_view json) {
  const absl::StatusOr<Json> record = ParseJson(json, kMaxDataDepth + 1);
  const std::string status = record.ok() && record->is_object() ? TextField(*record, "status") : "";
  const auto* found = std::find(kStatusNames.begin(), kStatusNames.end(), status);
  if (found == kStatusNames.end()) return absl::DataLossError("is no record of a run");
  RunInfo info{.name = TextField(*record, "name"),
               .status = static_cast<RunStatus>(found - kStatusNames.begin()),
               .node = TextField(*record, "node"),
               .pid = CountField(*record, "pid"),
               .started = TimeField(*record, "started"),
               .updated = TimeField(*record, "updated"),
               .transitions = CountField(*record, "transitions"),
               .note = TextField(*record, "note"),
               .error = TextField(*record, "error"),
               .cause = TextField(*record, "cause"),
               .failed_state = TextField(*record, "failed_state")};
  if (const auto states = record->find("states"); states != record->end() && states->is_array()) {
    for (const Json& state : *states) {
      if (state.is_object()) info.states.push_back(ParseRunState(state));
    }
  }
  if (const auto output = record->find("output"); output != record->end()) {
    const std::string text = ToText(*output);
    const BytesView bytes = AsBytes(text);
    info.output.assign(bytes.begin(), bytes.end());
  }
  return info;
}

}  // namespace apta::workflow

namespace apta {

std::string RunAsJson(const RunInfo& run) {
  using workflow::FormatTimestamp;
  using workflow::Json;
  Json states = Json::array();
  for (const RunState& state : run.states) {
    states.push_back({{"name", state.name},
                      {"type", state.type},
                      {"entered", state.entered},
                      {"left", state.left},
                      {"retries", state.retries},
                      {"caught", state.caught},
                      {"failed", state.failed},
                      {"first_entered", FormatTimestamp(state.first_entered)},
                      {"last_changed", FormatTimestamp(state.last_changed)}});
    if (!state.last_error.empty()) states.back()["last_error"] = state.last_error;
  }
  Json record = {{"name", run.name},
                 {"status", RunStatusName(run.status)},
                 {"node", run.node},
                 {"pid", run.pid},
                 {"started", FormatTimestamp(run.started)},
                 {"updated", FormatTimestamp(run.updated)},
                 {"transitions", run.transitions},
                 {"states", std::move(states)}};
  if (run.status == RunStatus::kFailed) {
    record["error"] = run.error;
    record["cause"] = run.cause;
    record["failed_state"] = run.failed_state;
  }
  if (!run.note.empty()) record["note"] = run.note;
  std::string text = workflow::ToText(record);
  if (!run.output.empty()) {  // JSON already
    text.pop_back();
    text.append(",\"output\":").append(AsText(run.output)).append("}");
  }
  return text;
}

std::string_view RunStatusName(RunStatus status) {
  return workflow::kStatusNames[static_cast<std::size_t>(status)];
}

}  // namespace apta
