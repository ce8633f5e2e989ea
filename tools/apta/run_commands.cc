#include "tools/apta/run_commands.h"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "tools/apta/json_text.h"
#include "tools/apta/run_view.h"

namespace apta::tool {
namespace {

std::string LocalTime(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%E3S", time, absl::LocalTimeZone());
}

std::string DescribeRun(const RunInfo& run) {
  std::string text = fmt::format("run {}\n", Printable(run.name));
  const auto line = [&text](std::string_view name, const std::string& value) {
    text += fmt::format("  {:<12}{}\n", name, value);
  };
  line("status", std::string(RunStatusName(run.status)));
  line("node", fmt::format("{}, process {}", Printable(run.node), run.pid));
  line("started", LocalTime(run.started));
  line(run.status == RunStatus::kSucceeded || run.status == RunStatus::kFailed ? "ended"
                                                                               : "last seen",
       LocalTime(run.updated));
  line("transitions", fmt::format("{}", run.transitions));
  if (run.status == RunStatus::kFailed) {
    line("error", Printable(fmt::format("state \"{}\": {}{}{}", run.failed_state, run.error,
                                        run.cause.empty() ? "" : ": ", run.cause)));
  }
  if (!run.note.empty()) line("note", Printable(run.note));
  Table table({"STATE", "TYPE", ">ENTERED", ">LEFT", ">RETRIED", ">CAUGHT", ">FAILED",
               "LAST CHANGED", "LAST ERROR"});
  for (const RunState& state : run.states) {
    table.Add({Printable(state.name), Printable(state.type), fmt::format("{}", state.entered),
               fmt::format("{}", state.left), fmt::format("{}", state.retries),
               fmt::format("{}", state.caught), fmt::format("{}", state.failed),
               LocalTime(state.last_changed), Printable(state.last_error)});
  }
  text += table.Render();
  if (run.status == RunStatus::kSucceeded) text += fmt::format("{}\n", AsText(run.output));
  return text;
}

}  // namespace

absl::StatusOr<Workflow> ReadWorkflow(std::string_view file, BytesView text) {
  absl::StatusOr<Workflow> workflow = Workflow::FromJson(AsText(text));
  if (workflow.ok()) return workflow;
  return absl::Status(workflow.status().code(),
                      fmt::format("{}: {}", file, std::string(workflow.status().message())));
}

absl::Status RunWorkflow(Client* client, const Workflow& workflow, BytesView input,
                         const Arguments& arguments, Output* output) {
  absl::StatusOr<Bytes> result;
  {
    RunView view(arguments.json);
    RunOptions options;
    options.name = arguments.run_name;
    options.observer = [&view](const StateEvent& event) { view.Add(event); };
    result = client->Run(workflow, input, options);
  }
  if (!result.ok()) return result.status();
  return output->Write(fmt::format("{}\n", AsText(*result)));
}

absl::Status ShowRun(Client* client, const Arguments& arguments, Output* output) {
  const absl::StatusOr<RunInfo> run = client->FindRun(arguments.shown_run);
  if (!run.ok()) return run.status();
  return output->Write(arguments.json ? Dump(ToJson(*run)) : DescribeRun(*run));
}

absl::Status ListRuns(Client* client, const Arguments& arguments, Output* output) {
  const absl::StatusOr<std::vector<RunInfo>> runs = client->Runs();
  if (!runs.ok()) return runs.status();
  if (arguments.json) {
    nlohmann::json list = nlohmann::json::array();
    for (const RunInfo& run : *runs) list.push_back(ToJson(run));
    return output->Write(Dump(list));
  }
  Table table({"NAME", "STATUS", "STARTED", "LAST CHANGED", ">TRANSITIONS", "NODE", "ERROR"});
  for (const RunInfo& run : *runs) {
    table.Add({Printable(run.name), std::string(RunStatusName(run.status)), LocalTime(run.started),
               LocalTime(run.updated), fmt::format("{}", run.transitions), Printable(run.node),
               Printable(run.error)});
  }
  return output->Write(table.Render());
}

}  // namespace apta::tool
