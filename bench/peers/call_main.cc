// A function call in Āpta beside what one would call another process with otherwise: in turns, in
// one run.
#include <fmt/format.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bench/cores.h"
#include "bench/peers/call_peer.h"
#include "bench/peers/program.h"
#include "bench/peers/report.h"
#include "bench/peers/statistics.h"
#include "bench/temporary_folder.h"

namespace apta::peers {
namespace {

struct Flags {
  std::vector<std::string> peers;
  int rounds = 5;
  double turn_ms = 100, warm_ms = 10, idle_ms = 2;
  int idle_calls = 40;  // of a turn
  std::size_t bytes = 16;
  bool quick = false;
  std::string json, folder = "/dev/shm", aptad;
};

void Declare(CLI::App* app, Flags* flags) {
  std::vector<std::string> names;
  for (const CallPeer& peer : kCallPeers) names.emplace_back(peer.name);
  app->add_option("--peers", flags->peers, "Who is measured [all]")
      ->delimiter(',')
      ->check(CLI::IsMember(names));
  app->add_option("--rounds", flags->rounds, "Turns of each [5]")->check(CLI::Range(1, 1000));
  app->add_option("--turn", flags->turn_ms, "Milliseconds of a turn of calls that are timed [100]")
      ->check(CLI::Range(0.1, 1e5));
  app->add_option("--warm", flags->warm_ms, "Milliseconds of a turn before that [10]")
      ->check(CLI::Range(0.0, 1e5));
  app->add_option("--idle", flags->idle_ms, "Milliseconds before each call of the other kind [2]")
      ->check(CLI::Range(0.1, 1e4));
  app->add_option("--idle-calls", flags->idle_calls, "So many of those in a turn [40]")
      ->check(CLI::Range(1, 100'000));
  app->add_option("--bytes", flags->bytes, "Of the input, and of the result [16]")
      ->check(CLI::Range(1, 65'536));
  app->add_flag("--quick", flags->quick, "Whether it works, not how fast; about 2 s");
  app->add_option("--json", flags->json, "Write all records there, too")
      ->type_name("FILE")
      ->check(CLI::Validator(WhyNotWritten, ""));
  app->add_option("--folder", flags->folder,
                  "Where sockets go, in a folder of their own [/dev/shm]")
      ->check(CLI::ExistingDirectory);
  app->add_option("--aptad", flags->aptad, "Memory server's program [the one built with this]")
      ->check(CLI::ExistingFile);
  app->footer(
      "call: one after the other; idle: each after a while in which nobody did anything, so that\n"
      "all sleep. Medians, their spread over the rounds, 99th percentiles, and the median as a\n"
      "multiple of Āpta's (see bench/peers/README.md). Exit codes: 0, 1 a call failed or returned\n"
      "something else than it should, 2 wrong flags.");
}

struct Contender {
  std::string name;
  std::unique_ptr<Caller> caller;
  Rounds calls, idle;
};

// A call that is timed, and must return its input.
absl::Status TimeCall(Caller* caller, const std::string& input, std::vector<Sample>* samples) {
  std::string output;
  const std::int64_t began = NowNs();
  const absl::Status status = caller->Call(input, &output);
  const auto ns = static_cast<double>(NowNs() - began) - TheClock().cost_ns;
  if (!status.ok()) return status;
  if (output != input) return absl::DataLossError("a call did not return its input");
  samples->push_back({static_cast<float>(std::max(ns, 0.1)), 1});
  return status;
}

void Add(std::vector<Sample> samples, Rounds* rounds) {
  double ns = 0;
  for (const Sample& sample : samples) ns += sample.ns;
  const double rate = static_cast<double>(samples.size()) / ns * 1e9;
  rounds->Add(std::move(samples), rate);
}

absl::Status TakeTurn(const Flags& flags, Contender* contender) {
  const std::string input(flags.bytes, 'x');
  Caller* const caller = contender->caller.get();
  absl::Status status = absl::OkStatus();
  std::vector<Sample> samples;
  const auto call_for = [&](double ms) {
    samples.clear();
    const std::int64_t end = NowNs() + static_cast<std::int64_t>(ms * 1e6);
    do {
      status = TimeCall(caller, input, &samples);
    } while (status.ok() && NowNs() < end);
    return status.ok();
  };
  if (!call_for(flags.warm_ms) || !call_for(flags.turn_ms)) return status;
  Add(std::move(samples), &contender->calls);
  samples = {};
  for (int i = 0; i < flags.idle_calls && status.ok(); ++i) {
    std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(flags.idle_ms));
    status = TimeCall(caller, input, &samples);
  }
  if (status.ok()) Add(std::move(samples), &contender->idle);
  return status;
}

absl::Status Measure(const Flags& flags, const CallSetup& setup, Report* report) {
  std::vector<Contender> contenders;
  const auto named = [](std::string_view name, const absl::Status& status) {
    return absl::Status(status.code(), fmt::format("{}: {}", name, std::string(status.message())));
  };
  for (const CallPeer& peer : kCallPeers) {
    if (!flags.peers.empty() && std::ranges::find(flags.peers, peer.name) == flags.peers.end()) {
      continue;
    }
    auto caller = peer.start(setup);
    if (!caller.ok()) return named(peer.name, caller.status());
    contenders.push_back({std::string(peer.name), *std::move(caller), {}, {}});
  }
  for (int round = 0; round < flags.rounds; ++round) {
    for (Contender& contender : contenders) {
      if (Stop().load()) return absl::CancelledError("interrupted");
      const absl::Status status = TakeTurn(flags, &contender);
      if (!status.ok()) return named(contender.name, status);
    }
  }
  const std::string size = fmt::format("{}B", flags.bytes);
  for (const bool is_idle : {false, true}) {
    std::vector<Record> cell;
    for (const Contender& contender : contenders) {
      const std::string kind = is_idle ? "idle" : "call";
      cell.push_back(MakeRecord({.system = contender.name, .workload = kind, .size = size}, kind,
                                is_idle ? contender.idle : contender.calls));
    }
    report->Add(std::move(cell));
  }
  constexpr std::string_view kKinds[] = {"call", "idle"};
  report->PrintBlock(
      fmt::format("a call of {} there and back; idle: after {} ms of nothing", size, flags.idle_ms),
      kKinds);
  return absl::OkStatus();
}

absl::Status Run(Flags flags) {
  if (flags.quick) {
    flags.rounds = 2;
    flags.turn_ms = flags.warm_ms = 2;
    flags.idle_calls = 5;
  }
  auto folder = bench::TemporaryFolder::Create(flags.folder, "apta-calls");
  if (!folder.ok()) return folder.status();
  const auto self = std::filesystem::read_symlink("/proc/self/exe");
  const CallSetup setup = {
      .folder = folder->path(), .aptad = AptadProgram(flags.aptad), .self = self};
  bench::UseCores(bench::Cores::kCallers);
  if (flags.quick) Print("quick run: the figures mean nothing\n");
  Report report;
  const absl::Status status = Measure(flags, setup, &report);
  if (!status.ok() || flags.json.empty()) return status;
  return report.WriteJson(flags.json, {{"quick", flags.quick},
                                       {"rounds", flags.rounds},
                                       {"turn_ns", flags.turn_ms * 1e6},
                                       {"warm_ns", flags.warm_ms * 1e6},
                                       {"idle_ns", flags.idle_ms * 1e6},
                                       {"idle_calls", flags.idle_calls},
                                       {"clock_step_ns", TheClock().step_ns},
                                       {"clock_cost_ns", TheClock().cost_ns}});
}

// --serve NAME SOCKET: the function's process of a peer.
int Serve(std::string_view name, const std::string& socket) {
  const auto peer = std::ranges::find(kCallPeers, name, &CallPeer::name);
  if (peer == std::end(kCallPeers)) return kExitUsage;
  const absl::Status status = peer->serve(socket);
  fmt::print(stderr, "{}\n", std::string(status.message()));
  return status.ok() ? 0 : kExitFailed;
}

int Main(int argc, char** argv) {
  if (argc == 4 && std::string_view(argv[1]) == "--serve") {
    signal(SIGPIPE, SIG_IGN);
    return Serve(argv[2], argv[3]);
  }
  CLI::App app(
      "Calls a function that does nothing in another process: of Āpta, and over a plain Unix "
      "socket,\n"
      "gRPC on one, and Redis lists, in turns, so that the machine's drift hits all of them.\n"
      "Starts and stops what it needs; takes about 10 seconds.");
  Flags flags;
  Declare(&app, &flags);
  return RunProgram(&app, argc, argv, [&] { return Run(flags); });
}

}  // namespace
}  // namespace apta::peers

int main(int argc, char** argv) { return apta::peers::Main(argc, argv); }
