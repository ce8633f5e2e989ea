#include "common/run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>

#include "common/crew.h"
#include "common/pin.h"
#include "common/stage.h"

namespace examples {

using apta::AsBytes;
using nlohmann::json;

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(fmt::format("{}: {}", path, strerror(errno)));
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad()) return absl::DataLossError(fmt::format("{}: cannot be read", path));
  return text;
}

absl::Status WriteFile(const std::string& path, std::string_view content) {
  std::ofstream file(path, std::ios::binary);
  file << content;
  file.close();
  return file ? absl::OkStatus() : absl::UnknownError(fmt::format("{}: cannot be written", path));
}

namespace {

// How long no invocation was running between begin and end.
std::int64_t OutsideNs(const std::vector<Report>& reports, std::int64_t begin_ns,
                       std::int64_t end_ns) {
  std::int64_t outside = 0;
  std::int64_t covered_until = begin_ns;
  for (const Report& report : reports) {  // by their beginnings
    outside += std::max<std::int64_t>(0, report.begin_ns - covered_until);
    covered_until = std::max(covered_until, report.end_ns);
  }
  return outside + std::max<std::int64_t>(0, end_ns - covered_until);
}

absl::StatusOr<apta::Workflow> LoadWorkflow(const Application& application, bool pinned) {
  const std::string path = application.folder + "/workflow.json";
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return text.status();
  json workflow = json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (workflow.is_discarded()) return absl::InvalidArgumentError(path + " is not JSON");
  if (!pinned) return apta::Workflow::FromJson(*text);
  std::map<std::string, std::vector<std::string>> nodes_of;
  for (const Step& step : application.steps) nodes_of[step.function] = step.pinned;
  return apta::Workflow::FromJson(Pin(std::move(workflow), nodes_of).dump());
}

absl::Status Forget(apta::Client& client, const std::string& run) {
  const absl::StatusOr<std::vector<apta::ObjectInfo>> objects = client.List(run + "/");
  if (!objects.ok()) return objects.status();
  for (const apta::ObjectInfo& object : *objects) {
    const absl::StatusOr<apta::Version> deleted = client.Delete(object.key);
    if (!deleted.ok()) return deleted.status();
  }
  return client.Delete("apta.run/" + run).status();
}

absl::StatusOr<Measured> RunOnce(const Application& application, const apta::Workflow& workflow,
                                 const InputOptions& input_options, apta::Client& client,
                                 Crew& crew) {
  absl::StatusOr<Input> input = application.make_input(input_options);
  if (!input.ok()) return input.status();
  for (const auto& [key, value] : input->objects) {
    const absl::StatusOr<apta::Version> put = client.Put(key, AsBytes(value));
    if (!put.ok()) return put.status();
  }
  const auto now_ns = [] {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  };
  const std::int64_t begin_ns = now_ns();
  const absl::StatusOr<apta::Bytes> output =
      client.Run(workflow, AsBytes(input->json.dump()), {.name = input_options.run});
  const std::int64_t end_ns = now_ns();
  if (!output.ok()) return output.status();
  absl::StatusOr<std::vector<Report>> reports = crew.TakeReports();
  if (!reports.ok()) return reports.status();
  absl::StatusOr<Outcome> outcome = application.collect(client, json::parse(apta::AsText(*output)));
  if (!outcome.ok()) return outcome.status();
  if (absl::Status forgotten = Forget(client, input_options.run); !forgotten.ok()) return forgotten;
  Measured measured{.application = &application,
                    .reports = *std::move(reports),
                    .total_ns = end_ns - begin_ns,
                    .outside_ns = 0,
                    .outcome = *std::move(outcome),
                    .run = input_options.run,
                    .objects = {}};
  for (const auto& [key, value] : input->objects) measured.objects.emplace_back(key, value.size());
  measured.outside_ns = OutsideNs(measured.reports, begin_ns, end_ns);
  return measured;
}

// All that runs of an application need.
class Ensemble {
 public:
  Ensemble(const Application& application, const RunOptions& options)
      : application_(application), options_(options) {}

  // Once, before Run.
  absl::Status Start(const std::string& policy) {
    absl::StatusOr<Stage> stage = Stage::Open(options_.socket, policy);
    if (!stage.ok()) return stage.status();
    stage_.emplace(*std::move(stage));
    absl::StatusOr<apta::Workflow> workflow = LoadWorkflow(application_, options_.pinned);
    if (!workflow.ok()) return workflow.status();
    workflow_.emplace(*std::move(workflow));
    absl::StatusOr<apta::Client> client = apta::Client::Connect(
        {.socket = stage_->socket(), .node = fmt::format("driver/{}", getpid())});
    if (!client.ok()) return client.status();
    client_.emplace(*std::move(client));
    return crew_.Start({&application_}, stage_->socket(), *client_, Crew::Reports::kEach);
  }
  absl::StatusOr<Measured> Run() {
    return RunOnce(application_, *workflow_,
                   {.data = options_.data,
                    .variant = options_.variant,
                    .run = fmt::format("{}/{}-{}", application_.name, getpid(), ++runs_),
                    .scratch = stage_->scratch()},
                   *client_, crew_);
  }

 private:
  const Application& application_;
  const RunOptions& options_;
  std::optional<Stage> stage_;
  std::optional<apta::Workflow> workflow_;
  std::optional<apta::Client> client_;
  Crew crew_;
  int runs_ = 0;
};

absl::StatusOr<std::vector<Compared>> RunInTurns(const Application& application,
                                                 const RunOptions& options,
                                                 const std::vector<std::string>& policies) {
  std::vector<std::unique_ptr<Ensemble>> ensembles;
  std::vector<Compared> compared;
  for (const std::string& policy : policies) {
    ensembles.push_back(std::make_unique<Ensemble>(application, options));
    if (absl::Status started = ensembles.back()->Start(policy); !started.ok()) return started;
    compared.push_back({policy, {}});
  }
  for (int run = 0; run <= options.runs; ++run) {
    for (std::size_t i = 0; i < ensembles.size(); ++i) {
      absl::StatusOr<Measured> measured = ensembles[i]->Run();
      if (!measured.ok()) return measured.status();
      if (run > 0) compared[i].runs.push_back(*std::move(measured));
    }
  }
  return compared;
}

}  // namespace

absl::StatusOr<Measured> Run(const Application& application, const RunOptions& options) {
  try {
    Ensemble ensemble(application, options);
    if (absl::Status started = ensemble.Start(""); !started.ok()) return started;
    absl::StatusOr<Measured> measured = absl::InvalidArgumentError("no run was asked for");
    for (int run = 0; run < options.runs; ++run) {
      measured = ensemble.Run();
      if (!measured.ok()) break;
    }
    return measured;
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(error.what());
  }
}

absl::StatusOr<std::vector<Compared>> Compare(const Application& application,
                                              const RunOptions& options,
                                              const std::vector<std::string>& policies) {
  try {
    return RunInTurns(application, options, policies);
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(error.what());
  }
}

}  // namespace examples
