// Āpta beside what one would use otherwise: the same workload, on all systems in turns, in one run.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/cores.h"
#include "bench/peers/measure.h"
#include "bench/peers/program.h"
#include "bench/peers/run.h"
#include "bench/temporary_folder.h"

namespace apta::peers {
namespace {

// 64 MiB is measured on demand: its loading alone takes longer than all of a smaller size's turns.
const std::vector<SizeClass> kSizes = {{"64B", 64, 65'536},       {"4KiB", 4 << 10, 16'384},
                                       {"64KiB", 64 << 10, 1024}, {"1MiB", 1 << 20, 64},
                                       {"azure", 0, 2048},        {"64MiB", 64 << 20, 4}};

struct Flags {
  std::vector<std::string> systems, sizes, workloads, distributions;
  std::vector<int> clients = {1, 2};
  std::optional<int> rounds;
  std::optional<double> turn_ms, warm_ms;
  std::size_t depth = 16, batch = 1;
  bool large = false, quick = false;
  std::string json, folder = "/dev/shm", aptad, backing = "memfd";
  std::uint64_t pool_bytes = 0;
};

std::vector<std::string> Names(const auto& from, const auto& name_of) {
  std::vector<std::string> names;
  for (const auto& one : from) names.emplace_back(name_of(one));
  return names;
}

void Declare(CLI::App* app, Flags* flags) {
  const auto self = [](std::string_view name) { return name; };
  const auto systems = Names(kSystemNames, self);
  const auto sizes = Names(kSizes, [](const SizeClass& size) { return size.label; });
  const auto workloads = Names(kWorkloads, [](const Workload& one) { return one.name; });
  app->add_option("--systems", flags->systems, "Systems to measure [all]")
      ->delimiter(',')
      ->check(CLI::IsMember(systems));
  app->add_option("--sizes", flags->sizes, "Object sizes [all but 64MiB]; azure: as in its trace")
      ->delimiter(',')
      ->check(CLI::IsMember(sizes));
  app->add_option("--workloads", flags->workloads,
                  "get: a value's first byte is read; read: all its bytes are; put; mix: 95 % get,"
                  " 5 % put [all]")
      ->delimiter(',')
      ->check(CLI::IsMember(workloads));
  app->add_option("--distributions", flags->distributions,
                  "Which keys are asked for; zipf: exponent 0.99 [both]")
      ->delimiter(',')
      ->check(CLI::IsMember({"uniform", "zipf"}));
  app->add_option("--clients", flags->clients, "Numbers of clients, a thread each [1,2]")
      ->delimiter(',')
      ->check(CLI::Range(1, 32));
  app->add_option("--rounds", flags->rounds, "Turns of each system in each cell [5]")
      ->check(CLI::Range(1, 1000));
  app->add_option("--turn", flags->turn_ms, "Milliseconds of a turn that are timed [40]")
      ->check(CLI::Range(0.1, 1e5));
  app->add_option("--warm", flags->warm_ms, "Milliseconds of a turn before that [5]")
      ->check(CLI::Range(0.0, 1e5));
  app->add_option("--depth", flags->depth,
                  "Operations under way where pipelined, if they fit 4 MiB [16]")
      ->check(CLI::Range(2, 1024));
  app->add_option("--batch", flags->batch,
                  "Operations timed together where not pipelined and all are alike; their mean is"
                  " the sample [1]")
      ->check(CLI::Range(1, 1024));
  app->add_flag("--large", flags->large, "64 MiB objects too");
  app->add_flag("--quick", flags->quick,
                "Whether it works, not how fast: short turns, few objects, three sizes; < 20 s");
  app->add_option("--json", flags->json, "Write all records there, too")
      ->type_name("FILE")
      ->check(CLI::Validator(WhyNotWritten, ""));
  app->add_option("--folder", flags->folder,
                  "Where sockets and files go, in a folder of their own; on tmpfs [/dev/shm]")
      ->check(CLI::ExistingDirectory);
  app->add_option("--aptad", flags->aptad, "Memory server's program [the one built with this]")
      ->check(CLI::ExistingFile);
  app->add_option(
         "--pool-backing", flags->backing,
         "Of Āpta's pools: memfd, hugetlb, or file: one in --folder (but for the trusted one, "
         "a memfd then) [memfd]")
      ->check(CLI::IsMember({"memfd", "hugetlb", "file"}));
  app->add_option("--pool-bytes", flags->pool_bytes,
                  "Of each of Āpta's three pools [1 GiB; 2 GiB with 64 MiB objects]")
      ->transform(CLI::AsSizeValue(false));
  app->footer(
      "Medians, their spread over the rounds (±, coefficient of variation), 99th percentiles, and\n"
      "the median as a multiple of Āpta's: above 1, Āpta is faster. *: timed several at a time\n"
      "(see bench/peers/README.md). Exit codes: 0, 1 a system failed or lied, 2 wrong flags.");
}

RunOptions OptionsOf(const Flags& flags) {
  RunOptions options;
  const auto is_in = [](const std::vector<std::string>& list, std::string_view name) {
    return list.empty() || std::ranges::find(list, name) != list.end();
  };
  for (SizeClass size : kSizes) {
    const bool is_default = flags.quick ? size.label != "4KiB" && size.label != "1MiB" : true;
    const bool asked = !flags.sizes.empty();
    const bool is_large = size.label == "64MiB";
    if (asked ? !is_in(flags.sizes, size.label) && !(is_large && flags.large)
              : !(is_large ? flags.large : is_default)) {
      continue;
    }
    if (flags.quick) size.key_count = std::max<std::size_t>(size.key_count / 8, 4);
    options.sizes.push_back(size);
  }
  for (const Popularity popularity : {Popularity::kUniform, Popularity::kZipf}) {
    if (flags.distributions.empty() && flags.quick && popularity == Popularity::kUniform) continue;
    if (is_in(flags.distributions, NameOf(popularity))) options.popularities.push_back(popularity);
  }
  for (const Workload& workload : kWorkloads) {
    if (is_in(flags.workloads, workload.name)) options.workloads.emplace_back(workload.name);
  }
  options.clients = flags.clients;
  options.rounds = flags.rounds.value_or(flags.quick ? 2 : 5);
  options.turn_ns = static_cast<std::int64_t>(flags.turn_ms.value_or(flags.quick ? 2 : 40) * 1e6);
  options.warm_ns = static_cast<std::int64_t>(flags.warm_ms.value_or(flags.quick ? 0.5 : 5) * 1e6);
  options.depth = flags.depth;
  options.batch = flags.batch;
  return options;
}

Setup SetupOf(const Flags& flags, const RunOptions& options, const std::string& folder) {
  Setup setup;
  setup.folder = folder;
  setup.aptad = AptadProgram(flags.aptad);
  setup.pool_backing = flags.backing;
  setup.wanted = flags.systems;
  for (const SizeClass& size : options.sizes) {
    const std::size_t largest = size.value_bytes != 0 ? size.value_bytes : 2 << 20;
    setup.max_value_bytes = std::max(setup.max_value_bytes, largest);
  }
  const bool has_large = setup.max_value_bytes > (2 << 20);
  setup.capacity_bytes = has_large ? std::uint64_t{2} << 30 : std::uint64_t{1} << 30;
  setup.pool_bytes = flags.pool_bytes != 0 ? flags.pool_bytes : setup.capacity_bytes;
  return setup;
}

absl::Status StartAll(const Setup& setup, Systems* systems) {
  for (const auto start :
       {StartApta, StartBoost, StartLmdb, StartRocksdb, StartRedis, StartMemcached, StartFile}) {
    const absl::Status status = start(setup, systems);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

nlohmann::json SettingsOf(const Flags& flags, const RunOptions& options, const Setup& setup) {
  nlohmann::json keys = nlohmann::json::object();
  for (const SizeClass& size : options.sizes) keys[size.label] = size.key_count;
  return {{"quick", flags.quick},
          {"rounds", options.rounds},
          {"turn_ns", options.turn_ns},
          {"warm_ns", options.warm_ns},
          {"pipeline_depth", options.depth},
          {"batch", options.batch},
          {"keys", keys},
          {"pool_backing", setup.pool_backing},
          {"pool_bytes", setup.pool_bytes},
          {"clock_step_ns", TheClock().step_ns},
          {"clock_cost_ns", TheClock().cost_ns}};
}

absl::Status Run(const Flags& flags) {
  const RunOptions options = OptionsOf(flags);
  auto folder = bench::TemporaryFolder::Create(flags.folder, "apta-peers");
  if (!folder.ok()) return folder.status();
  const Setup setup = SetupOf(flags, options, folder->path());
  // Clients' threads, and those of what runs in this process, inherit it; servers have the other.
  bench::UseCores(bench::Cores::kCallers);
  if (flags.quick) Print("quick run: the figures mean nothing\n");
  Report report;
  absl::Status status;
  {
    Systems systems;
    status = StartAll(setup, &systems);
    if (status.ok()) status = RunAll(options, systems, Stop(), &report);
  }
  report.PrintSummary();
  if (flags.quick) Print("quick run: the figures mean nothing\n");
  if (!flags.json.empty() && status.ok()) {
    status = report.WriteJson(flags.json, SettingsOf(flags, options, setup));
  }
  return status;
}

int Main(int argc, char** argv) {
  CLI::App app(
      "Measures Āpta, Boost.Interprocess, LMDB, RocksDB, Redis, memcached and plain files\n"
      "on the same workloads, in turns, so that the machine's drift hits all of them.\n"
      "Starts and stops what it needs; takes about 5 minutes.");
  Flags flags;
  Declare(&app, &flags);
  return RunProgram(&app, argc, argv, [&] { return Run(flags); });
}

}  // namespace
}  // namespace apta::peers

int main(int argc, char** argv) { return apta::peers::Main(argc, argv); }
