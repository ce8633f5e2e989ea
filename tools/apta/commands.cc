#include "tools/apta/commands.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "apta/client.h"
#include "tools/apta/doctor.h"
#include "tools/apta/exec.h"
#include "tools/apta/file_io.h"
#include "tools/apta/json_text.h"
#include "tools/apta/progress.h"
#include "tools/apta/run_commands.h"
#include "tools/apta/stored_commands.h"

namespace apta::tool {
namespace {

constexpr std::size_t kSliceBytes = std::size_t{1} << 20;
constexpr std::size_t kPageObjects = 1000;
const std::string kSharedPrefix = "shm/";  // of the objects that are segments of libapta_shmem.so

void Report(std::string_view what, const absl::Status& status) {
  Tell(fmt::format("apta: {}{}\n", what, Printable(status.ToString())));
}

absl::StatusOr<Client> Connect(const Arguments& arguments) {
  ClientOptions options = arguments.client;
  options.node = fmt::format("apta/{}", getpid());  // by which `nodes` leaves itself out
  return Client::Connect(options);
}

absl::StatusOr<Bytes> ReadAll(Source* source, Progress* progress) {
  Bytes bytes;
  std::size_t filled = 0;
  while (true) {
    if (bytes.size() - filled < kSliceBytes) {
      bytes.resize(std::max(2 * bytes.size(), filled + kSliceBytes));
    }
    const auto got = source->Read(absl::MakeSpan(bytes).subspan(filled));
    if (!got.ok()) return got.status();
    filled += *got;
    progress->Set(filled);
    if (*got == 0) break;
  }
  bytes.resize(filled);
  return bytes;
}

// A file may change while it is read: an object is all of one size, so that is a failure.
absl::Status Fill(Source* source, absl::Span<std::byte> bytes, Progress* progress) {
  for (std::size_t filled = 0; filled < bytes.size();) {
    const auto got = source->Read(bytes.subspan(filled, kSliceBytes));
    if (!got.ok()) return got.status();
    if (*got == 0) return absl::AbortedError(source->name() + " shrank while it was read");
    filled += *got;
    progress->Set(filled);
  }
  std::byte beyond{};
  const auto more = source->Read(absl::MakeSpan(&beyond, 1));
  if (!more.ok()) return more.status();
  if (*more != 0) return absl::AbortedError(source->name() + " grew while it was read");
  return absl::OkStatus();
}

absl::Status Put(const Arguments& arguments) {
  auto source = Source::Open(arguments.file);
  if (!source.ok()) return source.status();
  auto client = Connect(arguments);
  if (!client.ok()) return client.status();

  Progress progress("reading", source->size_bytes().value_or(0));
  if (!source->size_bytes().has_value()) {
    const auto bytes = ReadAll(&*source, &progress);
    if (!bytes.ok()) return bytes.status();
    progress.SetPhase("committing");
    return client->Put(*arguments.key, *bytes).status();
  }
  auto draft = client->Create(*arguments.key, *source->size_bytes());
  if (!draft.ok()) return draft.status();
  if (absl::Status status = Fill(&*source, draft->bytes(), &progress); !status.ok()) return status;
  progress.SetPhase("committing");
  return draft->Commit().status();
}

absl::Status WriteObject(const Object& object, Output* output) {
  Progress progress("writing", object.size(), !output->on_terminal());
  for (std::string_view rest = AsText(object.bytes()); !rest.empty();) {
    const std::string_view slice = rest.substr(0, kSliceBytes);
    if (absl::Status status = output->Write(slice); !status.ok()) return status;
    rest.remove_prefix(slice.size());
    progress.Set(object.size() - rest.size());
  }
  return absl::OkStatus();
}

absl::Status Get(const Arguments& arguments, Output* output) {
  auto client = Connect(arguments);
  if (!client.ok()) return client.status();
  const auto object = client->Get(*arguments.key);
  if (!object.ok()) return object.status();
  if (arguments.file == "-") return WriteObject(*object, output);

  auto file = FileReplacement::Create(arguments.file);
  if (!file.ok()) return file.status();
  Output to_file(file->fd());
  if (absl::Status status = WriteObject(*object, &to_file); !status.ok()) return status;
  return file->Commit();
}

absl::StatusOr<std::vector<ObjectInfo>> ListAll(Client* client, const std::string& prefix) {
  std::vector<ObjectInfo> objects;
  Progress progress("listing", 0);
  while (true) {
    const std::string after = objects.empty() ? "" : objects.back().key;
    auto page = client->List(prefix, kPageObjects, after);
    if (!page.ok()) return page.status();
    if (page->empty()) return objects;  // a page may be short without being the last
    std::ranges::move(*page, std::back_inserter(objects));
  }
}

absl::Status List(const Arguments& arguments, Output* output) {
  auto client = Connect(arguments);
  if (!client.ok()) return client.status();
  const bool shared = arguments.verb == Verb::kListShared;
  auto objects = ListAll(&*client, shared ? kSharedPrefix : arguments.prefix);
  if (!objects.ok()) return objects.status();
  if (shared) {
    for (ObjectInfo& object : *objects) object.key.erase(0, kSharedPrefix.size());
  }

  if (arguments.json) {
    nlohmann::json list = nlohmann::json::array();
    for (const ObjectInfo& object : *objects) list.push_back(ToJson(object));
    return output->Write(Dump(list));
  }
  if (arguments.details || shared) {
    Table table({">SIZE", ">VERSION", ">SHARERS", shared ? "NAME" : "KEY"});
    for (const ObjectInfo& object : *objects) {
      table.Add({FormatBytes(object.size), fmt::format("{}", object.version),
                 fmt::format("{}", object.sharers), Printable(object.key)});
    }
    return output->Write(table.Render());
  }
  std::string text;
  for (const ObjectInfo& object : *objects) {
    text += output->on_terminal() ? Printable(object.key) : object.key;
    text += '\n';
  }
  return output->Write(text);
}

int Remove(const Arguments& arguments) {
  auto client = Connect(arguments);
  if (!client.ok()) {
    Report("", client.status());
    return 1;
  }
  Progress progress("deleting", 0);
  int exit_code = 0;
  for (const std::string& key : arguments.keys) {
    const auto deleted = client->Delete(key);
    if (deleted.ok()) continue;
    Report(Printable(key) + ": ", deleted.status());
    exit_code = 1;
  }
  return exit_code;
}

std::string DescribeLog(const PoolInfo& pool) {
  const double writes = static_cast<double>(std::max<std::uint64_t>(pool.log_writes, 1));
  return fmt::format(
      "{} in {} writes, of {:.1f} commits and {:.0f} us each; {} checkpoints, {} since",
      FormatBytes(pool.log_bytes), pool.log_writes, static_cast<double>(pool.log_records) / writes,
      static_cast<double>(pool.log_write_ns) / writes * 1e-3, pool.log_checkpoints,
      FormatBytes(pool.log_bytes_since_checkpoint));
}

std::string DescribePool(const PoolInfo& pool) {
  std::string text = fmt::format("pool {}\n", pool.name);
  const auto line = [&text](std::string_view name, const std::string& value) {
    text += fmt::format("  {:<14}{}\n", name, value);
  };
  line("region", fmt::format("{}, {}", FormatBytes(pool.bytes), pool.backing));
  // Known once the first pages have been populated.
  line("pages", pool.page_bytes == 0 ? "not known yet" : FormatBytes(pool.page_bytes));
  line("populated", pool.bytes_populated < pool.bytes
                        ? FormatBytes(pool.bytes_populated) + " so far, in the background"
                        : "whole");
  line("NUMA nodes",
       pool.numa.empty() ? "not known yet" : pool.numa + ", as the kernel says of sample pages");
  line("used", fmt::format("{} in {} objects", FormatBytes(pool.bytes_used), pool.objects));
  line("held", FormatBytes(pool.bytes_held) + " in old versions that a node has not released");
  line("free", FormatBytes(pool.bytes_free));
  line("last version", fmt::format("{}", pool.last_version));
  line("scrub", fmt::format("{} objects damaged; {} rounds, {} compared", pool.objects_damaged,
                            pool.scrubs, FormatBytes(pool.bytes_scrubbed)));
  if (pool.durability == "log") line("log", DescribeLog(pool));
  line("rules", fmt::format("coherence={} access={} durability={}", pool.coherence, pool.access,
                            pool.durability));
  return text;
}

// The nodes that are attached, but for this process.
absl::StatusOr<std::vector<NodeInfo>> OtherNodes(const Client& client) {
  auto nodes = client.Nodes();
  if (!nodes.ok()) return nodes.status();
  std::erase_if(*nodes, [&](const NodeInfo& node) { return node.name == client.node(); });
  return nodes;
}

absl::Status StatServer(const Client& client, bool as_json, Output* output) {
  const auto pools = client.Pools();
  if (!pools.ok()) return pools.status();
  const auto nodes = OtherNodes(client);
  if (!nodes.ok()) return nodes.status();
  if (as_json) {
    nlohmann::json server = {{"pools", nlohmann::json::array()}, {"node_count", nodes->size()}};
    for (const PoolInfo& pool : *pools) server["pools"].push_back(ToJson(pool));
    return output->Write(Dump(server));
  }
  std::string text;
  for (const PoolInfo& pool : *pools) text += DescribePool(pool);
  return output->Write(text + fmt::format("nodes           {}\n", nodes->size()));
}

absl::Status Stat(const Arguments& arguments, bool whole_server, Output* output) {
  auto client = Connect(arguments);
  if (!client.ok()) return client.status();
  if (whole_server) return StatServer(*client, arguments.json, output);
  const auto object = client->Stat(*arguments.key);
  if (!object.ok()) return object.status();
  if (arguments.json) return output->Write(Dump(ToJson(*object)));
  return output->Write(fmt::format(
      "key      {}\nversion  {}\nsize     {} ({} bytes)\nsharers  {}\n", Printable(object->key),
      object->version, FormatBytes(object->size), object->size, object->sharers));
}

// "3 (1 waiting, 1 stuck)".
std::string RunningThere(const NodeInfo& node) {
  std::vector<std::string> parts;
  if (node.waiting > 0) parts.push_back(fmt::format("{} waiting", node.waiting));
  if (node.stuck > 0) parts.push_back(fmt::format("{} stuck", node.stuck));
  if (parts.empty()) return fmt::format("{}", node.running);
  return fmt::format("{} ({})", node.running, fmt::join(parts, ", "));
}

absl::Status Nodes(const Arguments& arguments, Output* output) {
  const auto client = Connect(arguments);
  if (!client.ok()) return client.status();
  const auto nodes = OtherNodes(*client);
  if (!nodes.ok()) return nodes.status();
  if (arguments.json) {
    nlohmann::json list = nlohmann::json::array();
    for (const NodeInfo& node : *nodes) list.push_back(ToJson(node));
    return output->Write(Dump(list));
  }
  Table table({">ID", "NAME", ">PID", "POOL", ">OWES", ">HELD", ">RUNNING", ">THREADS", "STATE",
               "FUNCTIONS"});
  for (const NodeInfo& node : *nodes) {
    table.Add({fmt::format("{}", node.id), Printable(node.name), fmt::format("{}", node.pid),
               node.pool, fmt::format("{}", node.outstanding), FormatBytes(node.held_bytes),
               RunningThere(node), fmt::format("{}", node.threads), node.fenced ? "fenced" : "ok",
               Printable(fmt::format("{}", fmt::join(node.functions, " ")))});
  }
  return output->Write(table.Render());
}

absl::Status Pools(const Arguments& arguments, Output* output) {
  const auto client = Connect(arguments);
  if (!client.ok()) return client.status();
  const auto pools = client->Pools();
  if (!pools.ok()) return pools.status();
  if (arguments.json) {
    nlohmann::json list = nlohmann::json::array();
    for (const PoolInfo& pool : *pools) list.push_back(ToJson(pool));
    return output->Write(Dump(list));
  }
  Table table({"NAME", ">SIZE", ">USED", ">HELD", ">FREE", ">OBJECTS", ">VERSION", ">DAMAGED",
               ">SCRUBS", "BACKING", ">PAGES", "NUMA", "COHERENCE", "ACCESS", "DURABILITY"});
  for (const PoolInfo& pool : *pools) {
    table.Add({pool.name, FormatBytes(pool.bytes), FormatBytes(pool.bytes_used),
               FormatBytes(pool.bytes_held), FormatBytes(pool.bytes_free),
               fmt::format("{}", pool.objects), fmt::format("{}", pool.last_version),
               fmt::format("{}", pool.objects_damaged), fmt::format("{}", pool.scrubs),
               pool.backing, pool.page_bytes == 0 ? "?" : FormatBytes(pool.page_bytes),
               pool.numa.empty() ? "?" : pool.numa, pool.coherence, pool.access, pool.durability});
  }
  return output->Write(table.Render());
}

absl::StatusOr<Bytes> CallInput(const std::string& input) {
  if (input != "-" && !input.starts_with('@')) {
    const BytesView text = AsBytes(input);
    return Bytes(text.begin(), text.end());
  }
  auto source = Source::Open(input == "-" ? input : input.substr(1));
  if (!source.ok()) return source.status();
  Progress progress("reading", source->size_bytes().value_or(0));
  return ReadAll(&*source, &progress);
}

std::string DescribePlacement(const Explanation& explanation) {
  Table table(
      {"NODE", ">LOCAL", ">BEFORE", ">ACTIVE", ">THREADS", ">RUNNING", ">LIMIT", "VERDICT"});
  for (const Explanation::Candidate& each : explanation.candidates) {
    table.Add({Printable(each.node), FormatBytes(each.local_bytes),
               fmt::format("{}", each.predecessors), fmt::format("{}", each.active),
               fmt::format("{}", each.threads), fmt::format("{}", each.running),
               fmt::format("{}", each.max_concurrency),
               each.node == explanation.chosen && each.eligible ? "chosen" : each.verdict});
  }
  const std::string chosen =
      explanation.chosen.empty()
          ? "not placed"
          : fmt::format("on {}: {}", Printable(explanation.chosen), explanation.because);
  return fmt::format("{}{}; attempt {}, {} in the queue, policy {}\n", table.Render(), chosen,
                     explanation.attempt, absl::FormatDuration(explanation.queued),
                     explanation.policy);
}

// How the invocation was placed, to standard error: the result alone goes to the output.
void ReportPlacement(const Pending& pending, bool as_json) {
  const auto explanation = pending.Explain();
  if (!explanation.ok()) {
    Report("explain: ", explanation.status());
  } else {
    Tell(as_json ? Dump(ToJson(*explanation)) : DescribePlacement(*explanation));
  }
}

absl::Status Call(const Arguments& arguments, Output* output) {
  const auto input = CallInput(arguments.input);
  if (!input.ok()) return input.status();
  auto client = Connect(arguments);
  if (!client.ok()) return client.status();
  absl::StatusOr<Bytes> result;
  {
    const Progress progress("running", 0);
    auto pending = client->Start(arguments.function, *input, arguments.call);
    if (!pending.ok()) return pending.status();
    result = pending->Wait();
    if (arguments.call.explain) ReportPlacement(*pending, arguments.json);
  }
  if (!result.ok()) return result.status();
  const std::string_view text = AsText(*result);
  const absl::Status status = output->Write(text);
  const bool needs_newline = output->on_terminal() && !text.empty() && text.back() != '\n';
  return status.ok() && needs_newline ? output->Write("\n") : status;
}

absl::Status Run(const Arguments& arguments, Output* output) {
  if (!arguments.shown_run.empty()) {
    auto client = Connect(arguments);
    return client.ok() ? ShowRun(&*client, arguments, output) : client.status();
  }
  if (arguments.file == "-" && arguments.input == "-") {
    return absl::InvalidArgumentError("standard input cannot be both workflow and input");
  }
  auto source = Source::Open(arguments.file);
  if (!source.ok()) return source.status();
  absl::StatusOr<Bytes> text;
  {
    Progress progress("reading", source->size_bytes().value_or(0));
    text = ReadAll(&*source, &progress);
  }
  if (!text.ok()) return text.status();
  const auto workflow = ReadWorkflow(source->name(), *text);
  if (!workflow.ok()) return workflow.status();
  const auto input = CallInput(arguments.input);
  if (!input.ok()) return input.status();
  auto client = Connect(arguments);
  if (!client.ok()) return client.status();
  return RunWorkflow(&*client, *workflow, *input, arguments, output);
}

absl::Status Runs(const Arguments& arguments, Output* output) {
  auto client = Connect(arguments);
  return client.ok() ? ListRuns(&*client, arguments, output) : client.status();
}

absl::Status DumpObjects(const Arguments& arguments) {
  auto client = Connect(arguments);
  return client.ok() ? DumpPool(&*client, arguments) : client.status();
}

absl::Status RestoreObjects(const Arguments& arguments) {
  auto client = Connect(arguments);
  return client.ok() ? RestorePool(&*client, arguments) : client.status();
}

int RunFsck(const Arguments& arguments, Output* output) {
  const auto is_damaged = Fsck(arguments, output);
  if (is_damaged.ok()) return *is_damaged ? 1 : 0;
  if (output->reader_gone()) return 1;
  Report("", is_damaged.status());
  return 1;
}

int RunDoctor(const Arguments& arguments, Output* output) {
  const std::vector<Finding> findings =
      Examine(Machine(arguments.root), arguments.root == "/" ? TryIoUring() : std::nullopt);
  const absl::Status status =
      output->Write(arguments.json ? Dump(ToJson(findings)) : RenderFindings(findings));
  if (!status.ok() && !output->reader_gone()) {
    Report("", status);
    return 1;
  }
  return std::ranges::any_of(findings, [](auto& f) { return f.level == Level::kBroken; }) ? 1 : 0;
}

}  // namespace

int RunCommand(const Arguments& arguments, Output* output) {
  absl::Status status;
  switch (arguments.verb) {
    case Verb::kPut:
      status = Put(arguments);
      break;
    case Verb::kGet:
      status = Get(arguments, output);
      break;
    case Verb::kExec:
      status = Exec(arguments);
      break;
    case Verb::kListShared:
    case Verb::kList:
      status = List(arguments, output);
      break;
    case Verb::kRemove:
      return Remove(arguments);
    case Verb::kStat:
      status = Stat(arguments, !arguments.key.has_value(), output);
      break;
    case Verb::kNodes:
      status = Nodes(arguments, output);
      break;
    case Verb::kPools:
      status = Pools(arguments, output);
      break;
    case Verb::kCall:
      status = Call(arguments, output);
      break;
    case Verb::kRun:
      status = Run(arguments, output);
      break;
    case Verb::kRuns:
      status = Runs(arguments, output);
      break;
    case Verb::kDoctor:
      return RunDoctor(arguments, output);
    case Verb::kFsck:
      return RunFsck(arguments, output);
    case Verb::kDump:
      status = DumpObjects(arguments);
      break;
    case Verb::kRestore:
      status = RestoreObjects(arguments);
      break;
  }
  if (status.ok() || output->reader_gone()) return 0;
  Report("", status);
  return 1;
}

}  // namespace apta::tool
