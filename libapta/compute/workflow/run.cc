#include "compute/workflow/run.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

#include "absl/time/clock.h"
#include "compute/workflow/parser.h"
#include "fmt/format.h"

namespace apta::workflow {
namespace {

constexpr absl::Duration kRecordLag = absl::Milliseconds(50);
constexpr std::size_t kMaxRunNameBytes = 200;

std::uint64_t RandomSeed() {
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

std::string MakeRunName() {
  const std::string now = absl::FormatTime("%Y%m%dT%H%M%S", absl::Now(), absl::UTCTimeZone());
  return fmt::format("{}-{:016x}", now, RandomSeed());
}

absl::Status CheckRunOptions(const RunOptions& options) {
  const bool has_control = std::any_of(options.name.begin(), options.name.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  });
  if (options.name.size() > kMaxRunNameBytes || has_control) {
    return absl::InvalidArgumentError(
        fmt::format("a run's name has at most {} bytes, without control characters; this one has "
                    "{}",
                    kMaxRunNameBytes, options.name.size()));
  }
  if (options.max_transitions < 1) {
    return absl::InvalidArgumentError(
        fmt::format("max_transitions {}: must be above 0", options.max_transitions));
  }
  return absl::OkStatus();
}

std::string RecordKey(std::string_view name) { return fmt::format("{}{}", kRecordPrefix, name); }

// The code whose name the error has.
absl::StatusCode CodeOf(const RunError& error) {
  if (error.name == "States.Timeout") return absl::StatusCode::kDeadlineExceeded;
  for (int code = 1; code <= static_cast<int>(absl::StatusCode::kUnauthenticated); ++code) {
    const auto candidate = static_cast<absl::StatusCode>(code);
    if (absl::StatusCodeToString(candidate) == error.name) return candidate;
  }
  return absl::StatusCode::kAborted;
}

absl::StatusOr<RunInfo> ReadRecord(Client* client, std::string_view name) {
  const absl::StatusOr<Object> object = client->Get(RecordKey(name));
  if (absl::IsNotFound(object.status())) {
    return absl::NotFoundError(fmt::format("run {}: there is none of this name", name));
  }
  if (!object.ok()) return object.status();
  absl::StatusOr<RunInfo> run = ParseRecord(AsText(object->bytes()));
  if (run.ok()) {
    run->name = name;  // whatever the record says of itself
    return run;
  }
  return absl::Status(run.status().code(),
                      fmt::format("the object '{}' {}", object->key(), MessageOf(run.status())));
}

bool IsAttached(const std::vector<NodeInfo>& nodes, const RunInfo& run) {
  return std::any_of(nodes.begin(), nodes.end(), [&](const NodeInfo& node) {
    return node.name == run.node && node.pid == run.pid;
  });
}

}  // namespace

absl::Time RunClock::Now() const {
  return began_ + absl::FromChrono(std::chrono::steady_clock::now() - steady_began_);
}

Run::Run(Client* client, std::shared_ptr<compute::NodeRuntime> runtime, RunOptions options)
    : client_(client),
      runtime_(std::move(runtime)),
      options_(std::move(options)),
      record_({.name = options_.name,
               .node = client->node(),
               .pid = getpid(),
               .started = clock_.Now(),
               .updated = clock_.Now()}),
      record_written_(clock_.Now()) {}

absl::StatusOr<Bytes> Run::Make(const Definition& definition, BytesView input) {
  absl::StatusOr<Json> value = input.empty() ? Json::object() : ParseJson(AsText(input));
  if (!value.ok()) {
    return absl::InvalidArgumentError(
        fmt::format("the workflow's input is {}", MessageOf(value.status())));
  }
  if (absl::Status created = CreateRecord(); !created.ok()) return created;
  Execution execution(
      &definition, *std::move(value),
      {.name = options_.name, .seed = RandomSeed(), .max_transitions = options_.max_transitions},
      clock_.Now());
  {
    TaskRunners runners(runtime_, std::max<std::uint64_t>(1, RandomSeed()));
    while (!execution.has_ended()) Step(&execution, &runners);
  }
  Follow(&execution);
  return End(execution);
}

absl::Status Run::CreateRecord() {
  const absl::Status put =
      client_->Put(RecordKey(options_.name), AsBytes(RunAsJson(record_.info())), {.if_version = 0})
          .status();
  if (!absl::IsFailedPrecondition(put)) return put;
  return absl::AlreadyExistsError(
      fmt::format("run {}: there is a run of this name; apta rm '{}' makes the name free again",
                  options_.name, RecordKey(options_.name)));
}

void Run::Step(Execution* execution, TaskRunners* runners) {
  execution->Advance(clock_.Now());
  while (runners->has_room()) {
    std::optional<TaskCall> call = execution->TakeTask(clock_.Now());
    if (!call) break;
    runners->Start(*std::move(call));
  }
  Follow(execution);
  if (execution->has_ended()) return;
  const absl::Time now = clock_.Now();
  const absl::Time until = std::min(execution->next_deadline(), record_due_);
  for (auto& ended : runners->Await(std::max(until - now, absl::ZeroDuration()))) {
    if (ended.was_refused) {
      execution->OnTaskRefused(ended.id, ended.result.status(), clock_.Now());
    } else {
      execution->OnTaskEnded(ended.id, std::move(ended.result), clock_.Now());
    }
  }
}

// Says what happened: to the observer, and in the record.
void Run::Follow(Execution* execution) {
  for (const StateEvent& event : execution->TakeEvents()) {
    record_.Apply(event);
    if (options_.observer) options_.observer(event);
    record_due_ = std::min(record_due_, record_written_ + kRecordLag);
  }
  if (!execution->has_ended()) WriteRecordIfDue(clock_.Now());
}

absl::Status Run::WriteRecord() {
  return client_->Put(RecordKey(options_.name), AsBytes(RunAsJson(record_.info()))).status();
}

// What it does not say for want of room or of a memory server, it may say the next time.
void Run::WriteRecordIfDue(absl::Time now) {
  if (now < record_due_) return;
  WriteRecord().IgnoreError();
  record_written_ = clock_.Now();
  record_due_ = absl::InfiniteFuture();
}

absl::StatusOr<Bytes> Run::End(const Execution& execution) {
  record_.ApplyEnd(execution, clock_.Now());
  const RunInfo& info = record_.info();
  absl::Status written = WriteRecord();
  if (const std::optional<RunError>& error = execution.error()) {
    return absl::Status(CodeOf(*error),
                        fmt::format("run {}, state \"{}\": {}{}{}", info.name, info.failed_state,
                                    error->name, error->cause.empty() ? "" : ": ", error->cause));
  }
  Bytes output = info.output;
  if (!written.ok()) {  // for want of room, perhaps
    record_.LeaveOutputOut(fmt::format("the output, {} bytes, could not be kept: {}", output.size(),
                                       MessageOf(written)));
    written = WriteRecord();
  }
  if (written.ok()) return output;
  return absl::Status(written.code(),
                      fmt::format("run {} has succeeded, but its record cannot be written: {}",
                                  info.name, MessageOf(written)));
}

}  // namespace apta::workflow

namespace apta {

absl::StatusOr<Workflow> Workflow::FromJson(std::string_view amazon_states_language) {
  absl::StatusOr<workflow::Definition> definition =
      workflow::ParseDefinition(amazon_states_language);
  if (!definition.ok()) return definition.status();
  return Workflow(std::make_shared<const workflow::Definition>(*std::move(definition)));
}

absl::StatusOr<Bytes> Client::Run(const Workflow& workflow, BytesView input) {
  return Run(workflow, input, RunOptions());
}

absl::StatusOr<Bytes> Client::Run(const Workflow& workflow, BytesView input,
                                  const RunOptions& options) {
  if (absl::Status valid = workflow::CheckRunOptions(options); !valid.ok()) return valid;
  if (runtime_->is_forked()) return runtime_->WhyNot();
  RunOptions named = options;
  if (named.name.empty()) named.name = workflow::MakeRunName();
  return workflow::Run(this, runtime_, std::move(named)).Make(*workflow.definition_, input);
}

absl::StatusOr<RunInfo> Client::FindRun(std::string_view name) {
  absl::StatusOr<RunInfo> run = workflow::ReadRecord(this, name);
  if (!run.ok() || run->status != RunStatus::kRunning) return run;
  const absl::StatusOr<std::vector<NodeInfo>> nodes = Nodes();
  if (!nodes.ok()) return nodes.status();
  if (workflow::IsAttached(*nodes, *run)) return run;
  run = workflow::ReadRecord(this, name);  // it may have ended before its node left
  if (run.ok() && run->status == RunStatus::kRunning) run->status = RunStatus::kLost;
  return run;
}

absl::StatusOr<std::vector<RunInfo>> Client::Runs() {
  std::vector<RunInfo> runs;
  for (std::string after;;) {
    const auto page = List(workflow::kRecordPrefix, 1000, after);
    if (!page.ok()) return page.status();
    if (page->empty()) return runs;
    for (const ObjectInfo& object : *page) {
      absl::StatusOr<RunInfo> run =
          FindRun(std::string_view(object.key).substr(workflow::kRecordPrefix.size()));
      if (absl::IsNotFound(run.status()) || absl::IsDataLoss(run.status())) continue;
      if (!run.ok()) return run.status();
      run->output.clear();
      runs.push_back(*std::move(run));
    }
    after = page->back().key;
  }
}

}  // namespace apta
