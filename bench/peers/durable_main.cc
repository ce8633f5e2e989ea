// A durable put in Āpta beside the same in what one would use otherwise, and beside the disk's own
// durable writes: in turns, in one run, on one file system.
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bench/cores.h"
#include "bench/peers/peer.h"
#include "bench/peers/program.h"
#include "bench/peers/run.h"
#include "bench/temporary_folder.h"

namespace apta::peers {
namespace {

const std::vector<SizeClass> kSizes = {
    {"64B", 64, 4096}, {"4KiB", 4 << 10, 4096}, {"1MiB", 1 << 20, 128}};

struct Flags {
  std::vector<std::string> systems, sizes;
  std::vector<int> writers;
  std::optional<int> rounds;
  std::optional<double> turn_ms, warm_ms;
  bool quick = false;
  std::string json, folder, aptad;
};

// $TMPDIR is often in memory, and what is there is gone after a power loss whatever one calls.
std::string DiskFolder() {
  const char* temporary = std::getenv("TMPDIR");
  return temporary != nullptr && *temporary != '\0' ? temporary : "/var/tmp";
}

std::string WhyNotDurable(const std::string& folder) {
  struct statfs status {};
  if (statfs(folder.c_str(), &status) != 0) return folder + " is no folder that can be read";
  if (status.f_type != TMPFS_MAGIC && status.f_type != RAMFS_MAGIC) return "";
  return folder + " is in memory: nothing there is durable; name a folder on a disk (--folder)";
}

void Declare(CLI::App* app, Flags* flags) {
  const std::vector<std::string> systems(std::begin(kDurableSystemNames),
                                         std::end(kDurableSystemNames));
  std::vector<std::string> sizes;
  for (const SizeClass& size : kSizes) sizes.push_back(size.label);
  app->add_option("--systems", flags->systems, "Systems to measure [all]")
      ->delimiter(',')
      ->check(CLI::IsMember(systems));
  app->add_option("--sizes", flags->sizes, "Object sizes [64B,4KiB,1MiB]")
      ->delimiter(',')
      ->check(CLI::IsMember(sizes));
  app->add_option("--writers", flags->writers, "Numbers of writers, a thread each [1,8,64]")
      ->delimiter(',')
      ->check(CLI::Range(1, 64));
  app->add_option("--rounds", flags->rounds, "Turns of each system in each cell [5]")
      ->check(CLI::Range(1, 1000));
  app->add_option("--turn", flags->turn_ms, "Milliseconds of a turn that are timed [250]")
      ->check(CLI::Range(0.1, 1e5));
  app->add_option("--warm", flags->warm_ms, "Milliseconds of a turn before that [25]")
      ->check(CLI::Range(0.0, 1e5));
  app->add_flag("--quick", flags->quick,
                "Whether it works, not how fast: short turns, few objects, 4KiB and 1MiB, 1 and 8"
                " writers");
  app->add_option("--json", flags->json, "Write all records there, too")
      ->type_name("FILE")
      ->check(CLI::Validator(WhyNotWritten, ""));
  app->add_option("--folder", flags->folder,
                  "Where everything goes, in a folder of its own: the file system that is measured"
                  " [$TMPDIR, else /var/tmp]")
      ->check(CLI::ExistingDirectory);
  app->add_option("--aptad", flags->aptad, "Memory server's program [the one built with this]")
      ->check(CLI::ExistingFile);
  app->footer(
      "Medians, their spread over the rounds (±, coefficient of variation), 99th percentiles, the\n"
      "median as a multiple of Āpta's (above 1, Āpta is faster), and puts per second of all "
      "writers\n"
      "(see bench/peers/README.md). Exit codes: 0, 1 a system failed or lied, 2 wrong flags.");
}

RunOptions OptionsOf(const Flags& flags) {
  RunOptions options;
  for (SizeClass size : kSizes) {
    const bool is_wanted = flags.sizes.empty()
                               ? !flags.quick || size.label != "64B"
                               : std::ranges::find(flags.sizes, size.label) != flags.sizes.end();
    if (!is_wanted) continue;
    if (flags.quick) size.key_count = std::min<std::size_t>(size.key_count / 16, 16);
    options.sizes.push_back(size);
  }
  options.popularities = {Popularity::kUniform};
  options.workloads = {"put"};
  options.clients = flags.writers;
  if (options.clients.empty()) {
    options.clients = flags.quick ? std::vector<int>{1, 8} : std::vector<int>{1, 8, 64};
  }
  options.rounds = flags.rounds.value_or(flags.quick ? 1 : 5);
  options.turn_ns = static_cast<std::int64_t>(flags.turn_ms.value_or(flags.quick ? 2 : 250) * 1e6);
  options.warm_ns = static_cast<std::int64_t>(flags.warm_ms.value_or(flags.quick ? 0 : 25) * 1e6);
  return options;
}

absl::Status StartAll(const Setup& setup, Systems* systems) {
  for (const auto start :
       {StartApta, StartLmdb, StartRocksdb, StartRedis, StartSqlite, StartBare}) {
    const absl::Status status = start(setup, systems);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Run(Flags flags) {
  const RunOptions options = OptionsOf(flags);
  if (flags.folder.empty()) flags.folder = DiskFolder();
  if (std::string why = WhyNotDurable(flags.folder); !why.empty()) {
    return absl::FailedPreconditionError(why);
  }
  auto folder = bench::TemporaryFolder::Create(flags.folder, "apta-durable");
  if (!folder.ok()) return folder.status();
  Setup setup = {.folder = folder->path(),
                 .is_durable = true,
                 .aptad = AptadProgram(flags.aptad),
                 .pool_backing = "memfd",
                 .pool_bytes = std::uint64_t{flags.quick ? 256u : 1024u} << 20,
                 .capacity_bytes = 1 << 30,
                 .wanted = flags.systems};
  for (const SizeClass& size : options.sizes) {
    setup.max_value_bytes = std::max<std::size_t>(setup.max_value_bytes, size.value_bytes);
  }
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
  if (flags.json.empty() || !status.ok()) return status;
  nlohmann::json keys = nlohmann::json::object();
  for (const SizeClass& size : options.sizes) keys[size.label] = size.key_count;
  return report.WriteJson(flags.json, {{"quick", flags.quick},
                                       {"durable", true},
                                       {"rounds", options.rounds},
                                       {"turn_ns", options.turn_ns},
                                       {"warm_ns", options.warm_ns},
                                       {"keys", keys},
                                       {"pool_bytes", setup.pool_bytes},
                                       {"clock_step_ns", TheClock().step_ns},
                                       {"clock_cost_ns", TheClock().cost_ns}});
}

int Main(int argc, char** argv) {
  CLI::App app(
      "Measures durable puts of Āpta (durability=log), LMDB, RocksDB, Redis and SQLite, and the "
      "disk's\n"
      "own durable writes of as many bytes, in turns, so that the machine's drift hits all of "
      "them.\n"
      "Starts and stops what it needs; takes about 3 minutes.");
  Flags flags;
  Declare(&app, &flags);
  return RunProgram(&app, argc, argv, [&] { return Run(flags); });
}

}  // namespace
}  // namespace apta::peers

int main(int argc, char** argv) { return apta::peers::Main(argc, argv); }
