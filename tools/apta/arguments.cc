#include "tools/apta/arguments.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/status/status.h"

namespace apta::tool {
namespace {

constexpr std::string_view kFooter = R"(
Exit codes: 0 done, 1 the operation failed (one line on standard error says why), 2 wrong usage.
A key or file that begins with '-' goes behind '--'.)";

// In front of an argument, keeps CLI11 from taking it for more than a text: no option or command
// begins with it.
constexpr char kTextMark = '\x01';

// CLI11 would split a key such as "[a,b]", one of several, at its comma; and lets "--" end the
// command itself once it has its first key.
std::vector<std::string> MarkTexts(int argc, const char* const* argv) {
  std::vector<std::string> arguments;
  bool only_texts = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (!only_texts && argument == "--") {
      only_texts = true;
      continue;
    }
    const bool is_marked = argument.starts_with(kTextMark);
    const bool is_bracketed = argument.starts_with('[') && argument.ends_with(']');
    const bool needs_mark = only_texts || is_marked || is_bracketed;
    arguments.push_back((needs_mark ? std::string(1, kTextMark) : "") + std::string(argument));
  }
  std::ranges::reverse(arguments);  // as CLI11 wants them
  return arguments;
}

std::string Unmark(std::string value) {
  if (!value.empty() && value.front() == kTextMark) value.erase(0, 1);
  return value;
}

// An option or argument with text values: one std::string, or a std::vector of them.
template <typename Text>
CLI::Option* AddText(CLI::App* app, const char* name, Text* text, const char* description,
                     const char* type = "") {
  return app->add_option(name, *text, description)->type_name(type)->transform(Unmark);
}

struct Durations {
  std::string timeout;
  std::string deadline;
};

absl::Status ParseDuration(std::string_view flag, const std::string& text,
                           absl::Duration* duration) {
  if (text.empty()) return absl::OkStatus();
  if (!absl::ParseDuration(text, duration) || *duration <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        fmt::format("{}: '{}' is no time; write ms, s, m or h, such as 60s", flag, text));
  }
  return absl::OkStatus();
}

CLI::App* AddVerb(CLI::App* app, const char* name, Verb verb, const char* description,
                  Arguments* arguments) {
  CLI::App* command = app->add_subcommand(name, description);
  command->callback([arguments, verb] { arguments->verb = verb; });
  command->fallthrough();  // --socket and --pool may also stand behind the command
  return command;
}

void DeclareObjectVerbs(CLI::App* app, Arguments* arguments) {
  CLI::App* put = AddVerb(app, "put", Verb::kPut, "Store a file as an object", arguments);
  AddText(put, "KEY", &arguments->key, "Of the object")->required();
  AddText(put, "FILE", &arguments->file, "What to store; - or none: standard input");

  CLI::App* get = AddVerb(app, "get", Verb::kGet, "Write an object's newest version", arguments);
  AddText(get, "KEY", &arguments->key, "Of the object")->required();
  AddText(get, "-o,--output", &arguments->file,
          "Where to; appears whole or not at all; - or none: standard output", "FILE");

  CLI::App* list = AddVerb(app, "ls", Verb::kList, "List objects by key", arguments);
  AddText(list, "PREFIX", &arguments->prefix, "Only keys that begin with it");
  list->add_flag("-l,--long", arguments->details,
                 "Also size, version and number of sharers (nodes that may cache it)");
  list->add_flag("--json", arguments->json, "All of that as JSON");

  CLI::App* remove = AddVerb(app, "rm", Verb::kRemove, "Delete objects", arguments);
  AddText(remove, "KEY", &arguments->keys, "Of the objects")->required();

  CLI::App* stat =
      AddVerb(app, "stat", Verb::kStat,
              "Describe an object, or the memory server and where its memory is", arguments);
  AddText(stat, "KEY", &arguments->key, "Of the object; none: the memory server");
  stat->add_flag("--json", arguments->json, "As JSON");
}

void DeclareRunVerbs(CLI::App* app, Arguments* arguments) {
  CLI::App* run = AddVerb(app, "run", Verb::kRun,
                          "Run a workflow (Amazon States Language) of functions, showing its "
                          "states as they go, and write its output; or show a run",
                          arguments);
  CLI::Option* file = AddText(run, "WORKFLOW", &arguments->file, "A JSON file; -: standard input");
  AddText(run, "INPUT", &arguments->input,
          "A JSON text; @FILE: the file's; -: standard input; none: {}");
  CLI::Option* name =
      AddText(run, "--name", &arguments->run_name,
              "Of the run, unlike any other's, to look for it later; none: one is made up", "NAME");
  AddText(run, "--show", &arguments->shown_run, "Run nothing: show what this run did", "NAME")
      ->excludes(file)
      ->excludes(name);
  run->add_flag("--json", arguments->json,
                "What states do, or the shown run, as JSON (one object a line)");
  CLI::App* runs = AddVerb(app, "runs", Verb::kRuns, "List the runs of workflows", arguments);
  runs->add_flag("--json", arguments->json, "As JSON");
}

void DeclareStoredVerbs(CLI::App* app, Arguments* arguments) {
  CLI::App* fsck =
      AddVerb(app, "fsck", Verb::kFsck,
              "Say what is damaged in a pool that no memory server uses, one line each "
              "(exit code 1: something is)",
              arguments);
  AddText(fsck, "FILE", &arguments->file, "Of a region, or the folder of a log")->required();

  CLI::App* dump = AddVerb(app, "dump", Verb::kDump,
                           "Write all objects of a pool, as they are at one moment, to a file with "
                           "checksums",
                           arguments);
  AddText(dump, "POOL", &arguments->client.pool, "Its name")->required();
  AddText(dump, "FILE", &arguments->file, "Appears whole or not at all")->required();

  CLI::App* restore = AddVerb(app, "restore", Verb::kRestore,
                              "Put the objects of a dump, if it is whole, into a pool", arguments);
  AddText(restore, "FILE", &arguments->file, "What dump wrote")->required();
  AddText(restore, "POOL", &arguments->client.pool, "Its name; its other objects stay")->required();
}

void DeclareSharedVerbs(CLI::App* app, Arguments* arguments) {
  CLI::App* exec = AddVerb(app, "exec", Verb::kExec,
                           "Run a program whose shared memory (shm_open, /dev/shm, shmget) is on "
                           "objects, as a process of a compute server: exec --node NAME -- PROGRAM",
                           arguments);
  AddText(exec, "--node", &arguments->client.node,
          "The compute server: its processes share working copies; $APTA_NODE, else the host's",
          "NAME");
  AddText(exec, "--names", &arguments->names, "Only these segments; $APTA_SHMEM, else *", "GLOB");
  AddText(exec, "PROGRAM", &arguments->command, "And its arguments, behind --")->required();

  CLI::App* shared = app->add_subcommand("shm", "Shared memory that is on objects");
  shared->require_subcommand(1);
  shared->fallthrough();
  CLI::App* list = AddVerb(shared, "ls", Verb::kListShared,
                           "List segments by name: size, version and number of sharers", arguments);
  list->add_flag("--json", arguments->json, "As JSON");
}

void DeclareServerVerbs(CLI::App* app, Arguments* arguments, Durations* durations) {
  CLI::App* nodes =
      AddVerb(app, "nodes", Verb::kNodes,
              "List the compute servers that are attached, but for this one", arguments);
  nodes->add_flag("--json", arguments->json, "As JSON");

  CLI::App* pools = AddVerb(app, "pools", Verb::kPools, "List the pools", arguments);
  pools->add_flag("--json", arguments->json, "As JSON");

  CLI::App* call =
      AddVerb(app, "call", Verb::kCall, "Run a function on a node and write its result", arguments);
  AddText(call, "FUNCTION", &arguments->function, "Name it is registered by")->required();
  AddText(call, "INPUT", &arguments->input,
          "A text; @FILE: the file's bytes; -: standard input; none: empty");
  AddText(call, "--reads", &arguments->call.reads,
          "An object that it will read, for placement; may be repeated", "KEY")
      ->allow_extra_args(false);
  AddText(call, "--deadline", &durations->deadline, "Of the invocation [60s]", "TIME");
  AddText(call, "--node", &arguments->call.node, "Only on the attached node of this name", "NAME");
  call->add_flag("--explain", arguments->call.explain,
                 "Say on standard error which nodes could have run it and why this one did");
  call->add_flag("--json", arguments->json, "That as JSON");

  CLI::App* doctor = AddVerb(app, "doctor", Verb::kDoctor,
                             "Say what on this machine keeps Āpta from being fast, and the "
                             "command that changes it",
                             arguments);
  doctor->add_flag("--json", arguments->json, "As JSON");
  AddText(doctor, "--root", &arguments->root, "Where /proc and /sys of the machine are [/]", "DIR");
}

}  // namespace

absl::StatusOr<Arguments> ParseArguments(int argc, const char* const* argv) {
  CLI::App app{"apta, the command line of Āpta: objects and functions of a memory server (aptad).",
               "apta"};
  Arguments arguments;
  Durations durations;
  app.require_subcommand(0, 1);  // none: said below, after what was not understood
  app.footer(std::string(kFooter));
  app.set_version_flag("--version", "apta " APTA_VERSION);
  AddText(&app, "--socket", &arguments.client.socket,
          "The memory server's; $APTA_SOCKET, else /run/apta/aptad.sock", "PATH");
  AddText(&app, "--pool", &arguments.client.pool, "One of its pools [default]", "NAME");
  AddText(&app, "--timeout", &durations.timeout, "Of one request [5s]", "TIME");
  DeclareObjectVerbs(&app, &arguments);
  DeclareServerVerbs(&app, &arguments, &durations);
  DeclareRunVerbs(&app, &arguments);
  DeclareStoredVerbs(&app, &arguments);
  DeclareSharedVerbs(&app, &arguments);
  try {
    app.parse(MarkTexts(argc, argv));
  } catch (const CLI::CallForHelp&) {
    const auto chosen = app.get_subcommands();
    arguments.answer = chosen.empty() ? app.help() : chosen.front()->help();
    return arguments;
  } catch (const CLI::CallForVersion& version) {
    arguments.answer = fmt::format("{}\n", version.what());
    return arguments;
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(fmt::format("{}; see apta --help", error.what()));
  }
  if (app.get_subcommands().empty()) {
    return absl::InvalidArgumentError("no command; see apta --help");
  }
  if (app.got_subcommand("run") && arguments.shown_run.empty() &&
      app.get_subcommand("run")->count("WORKFLOW") == 0) {
    return absl::InvalidArgumentError("run: WORKFLOW is required, or --show; see apta run --help");
  }
  absl::Status status = ParseDuration("--timeout", durations.timeout, &arguments.client.timeout);
  if (status.ok()) {
    status = ParseDuration("--deadline", durations.deadline, &arguments.call.deadline);
  }
  if (!status.ok()) return status;
  return arguments;
}

}  // namespace apta::tool
