#include "daemon/command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>
#include <toml.hpp>
#include <utility>
#include <vector>

#include "daemon/config.h"

namespace apta::daemon {
namespace {

std::string_view Message(const absl::Status& status) {
  return {status.message().data(), status.message().size()};
}

// ---- configuration file ---------------------------------------------------------------------

absl::Status ErrorAt(const std::string& file_name, const toml::value& value,
                     std::string_view message) {
  return absl::InvalidArgumentError(
      fmt::format("{}:{}: {}", file_name, value.location().line(), message));
}

// A table's entries in the file's order: TOML11 keeps them hashed, errors are reported in order.
std::vector<std::pair<std::string, toml::value>> InOrder(const toml::value& table) {
  std::vector<std::pair<std::string, toml::value>> entries(table.as_table().begin(),
                                                           table.as_table().end());
  std::ranges::stable_sort(entries, {},
                           [](const auto& entry) { return entry.second.location().line(); });
  return entries;
}

// What a key is set to, as it would stand on the command line. An unquoted mode is refused: 640 and
// 0o640 are both integers, and only the second means what it says.
std::optional<std::string> AsOptionText(const std::string& key, const toml::value& value) {
  if (value.is_string()) return value.as_string().str;
  if (value.is_integer() && key != "mode") return std::to_string(value.as_integer());
  return std::nullopt;
}

template <typename Options, typename SetOption>
absl::Status Set(const std::string& file_name, const std::string& key, const toml::value& value,
                 SetOption set_option, Options* options) {
  const auto text = AsOptionText(key, value);
  const absl::Status status = set_option(key, text.value_or(""), options);
  if (!text.has_value() && !absl::IsNotFound(status)) {
    return ErrorAt(file_name, value, fmt::format("{} must be a text in quotes", key));
  }
  return status.ok() ? status : ErrorAt(file_name, value, Message(status));
}

absl::Status ReadPools(const std::string& file_name, const toml::value& pools,
                       ServerOptions* options) {
  const bool is_list = pools.is_array() && std::ranges::all_of(pools.as_array(), [](auto& pool) {
                         return pool.is_table();
                       });
  if (!is_list) return ErrorAt(file_name, pools, "pools are written as [[pool]]");
  options->pools.clear();
  for (const toml::value& table : pools.as_array()) {
    PoolOptions pool;
    for (const auto& [key, value] : InOrder(table)) {
      const absl::Status status = Set(file_name, key, value, SetPoolOption, &pool);
      if (!status.ok()) return status;
    }
    options->pools.push_back(std::move(pool));
  }
  return absl::OkStatus();
}

// The first line of TOML11's report, without its banner: "[error] toml::parse_x: what" …
std::string FirstLine(std::string_view report) {
  report = report.substr(0, report.find('\n'));
  constexpr std::string_view kBanner = "[error] ";
  if (report.starts_with(kBanner)) report.remove_prefix(kBanner.size());
  if (const std::size_t colon = report.find(": ");
      report.starts_with("toml::") && colon != std::string_view::npos) {
    report.remove_prefix(colon + 2);
  }
  return std::string(report);
}

absl::StatusOr<ServerOptions> ReadConfigFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  std::array<char, 4096> block;
  while (file.read(block.data(), block.size()) || file.gcount() > 0) {
    text.append(block.data(), static_cast<std::size_t>(file.gcount()));
  }
  if (!file.is_open() || file.bad()) {
    return absl::InvalidArgumentError(fmt::format("--config: {}: {}", path, std::strerror(errno)));
  }
  return ParseConfig(text, path);
}

// ---- command line ---------------------------------------------------------------------------

constexpr std::string_view kDescription =
    "aptad, the memory server of Āpta: owns a heap of immutable object versions in shared memory\n"
    "and serves it to the compute servers of this machine until SIGTERM or SIGINT.";

constexpr std::string_view kFooter = R"(
A pool is name=NAME,key=value,... in any order:
  name=NAME             1 to 63 of A-Z a-z 0-9 _ . -                [default]
  bytes=SIZE            of the region, index included, at least 8MiB; a number
                        of bytes, or of K M G T = KiB MiB GiB TiB   [1GiB]
  backing=WHERE         memfd | shm:NAME | file:PATH | hugetlb      [memfd]
                        (memfd and hugetlb vanish with the server)
  numa=NODE             any | near | far | a node's number          [any]
                        (far: the nearest memory node without CPUs)
  coherence=MODE        strict: a hit looks whether it is still current
                        lazy: it does not; functions see every put that
                          was acknowledged before they were started
                        sync: a put waits for all caches (baseline)
                        versioned: a hit asks the server (baseline)
                        uncached: every get reads the heap          [strict]
  access=ACCESS         isolated: clients cannot write the heap
                        trusted: writers fill objects in place      [isolated]
  durability=MODE       none: nothing is promised
                        region: what was acknowledged survives the server,
                          however it ends (backing file: or shm:)
                        log: it survives a power loss               [none]
  scrub=SIZE            of durability=region: how much a second gets its
                        checksums, or is compared with them; 0 none [16MiB]
  log=FOLDER            of durability=log: where its files are
  log_segment=SIZE      of a file of a new log                      [16MiB]
  recovery_target=TIME  reading the log at start takes no longer, besides
                        reading the objects: it is cut as often     [2s]
  owner=USER            who may attach, with the owner bits of mode [the server's user]
  group=GROUP           who may attach, with the group bits of mode [the server's group]
  directory_entries=N   objects whose sharers are known at a time   [by size]
  ack_deadline=TIME     a node that owes acknowledgements and sends
                        none for so long is cut off (fenced)        [2s]
  node_quota=SIZE       ... or for which more old versions are held [half the pool]
  mode=OCTAL            read bits let owner, group, others attach   [0600]

A link is none, cxl (500ns, 80Gbps), rdma-fast (cxl and 14us per call), rdma (1500ns,
8Gbps, 14us per call), or any of
  latency=TIME          one way; ns, us, ms or s                    [0]
  bandwidth=RATE        of each direction; Mbps, Gbps or Tbps       [0, unlimited]
  jitter=TIME           up to so much more latency                  [0]
  call=TIME             more latency of each request                [0]

A policy chooses among the nodes that have the function, a free thread, and no invalidation
that they have not acknowledged (of the objects that a call declares to read, if it does):
  criterion+locality    caches most bytes of what the call declares to read, else
                        ran most of the same workflow; then the least loaded
  random | round-robin | least-loaded

The configuration file has the same keys; flags win, and one --pool replaces all its pools:
  socket = "/run/apta/aptad.sock"
  shards = 1
  threads = "auto"
  link = "none"
  policy = "criterion+locality"
  [[pool]]
  name = "default"
  bytes = "4GiB"

Exit codes: 0 ended by a signal, 1 could not start (one line says why), 2 wrong flag or file.)";

struct Flags {
  std::optional<std::string> config;
  std::optional<std::string> socket;
  std::optional<std::string> shards;
  std::optional<std::string> threads;
  std::optional<std::string> link;
  std::optional<std::string> policy;
  std::vector<std::string> pools;
};

void Declare(CLI::App* app, Flags* flags) {
  app->footer(std::string(kFooter));
  app->set_version_flag("--version", "aptad " APTA_VERSION);
  app->add_option("--config", flags->config, "Configuration file, TOML")->type_name("FILE");
  app->add_option("--socket", flags->socket,
                  "Unix socket to serve; $APTA_SOCKET, else /run/apta/aptad.sock")
      ->type_name("PATH");
  app->add_option("--pool", flags->pools, "A pool to serve, see below; may be repeated")
      ->type_name("KEY=VALUE,...")
      ->allow_extra_args(false);  // one value per --pool
  app->add_option("--shards", flags->shards,
                  "Homes, each with its share of the keys and a thread, 1 to 16 [1]")
      ->type_name("N");
  app->add_option("--threads", flags->threads,
                  "Threads of a shard: auto | folded (one polls for all its controllers) [auto]")
      ->type_name("MODE");
  app->add_option("--link", flags->link, "Fabric link to emulate, see below [none]")
      ->type_name("LINK");
  app->add_option("--policy", flags->policy,
                  "Which of the nodes that may run an invocation does, see below\n"
                  "[criterion+locality]")
      ->type_name("NAME");
}

absl::StatusOr<ServerOptions> Combine(const Flags& flags) {
  ServerOptions options;
  if (flags.config.has_value()) {
    auto read = ReadConfigFile(*flags.config);
    if (!read.ok()) return read.status();
    options = *std::move(read);
  }
  const std::pair<std::string_view, const std::optional<std::string>*> given[] = {
      {"socket", &flags.socket},
      {"shards", &flags.shards},
      {"threads", &flags.threads},
      {"link", &flags.link},
      {"policy", &flags.policy}};
  for (const auto& [key, value] : given) {
    if (!value->has_value()) continue;
    if (const absl::Status status = SetServerOption(key, **value, &options); !status.ok()) {
      return absl::InvalidArgumentError(fmt::format("--{}", Message(status)));
    }
  }
  if (!flags.pools.empty()) options.pools.clear();
  for (const std::string& text : flags.pools) {
    auto pool = ParsePool(text);
    if (!pool.ok()) {
      return absl::InvalidArgumentError(fmt::format("--pool {}: {}", text, Message(pool.status())));
    }
    options.pools.push_back(*std::move(pool));
  }
  if (const absl::Status status = Validate(options); !status.ok()) return status;
  return options;
}

}  // namespace

absl::StatusOr<ServerOptions> ParseConfig(const std::string& text, const std::string& file_name) {
  ServerOptions options;
  try {
    std::istringstream stream(text);
    const toml::value root = toml::parse(stream, file_name);
    for (const auto& [key, value] : InOrder(root)) {
      const absl::Status status = key == "pool"
                                      ? ReadPools(file_name, value, &options)
                                      : Set(file_name, key, value, SetServerOption, &options);
      if (!status.ok()) return status;
    }
  } catch (const toml::exception& error) {
    return absl::InvalidArgumentError(
        fmt::format("{}:{}: {}", file_name, error.location().line(), FirstLine(error.what())));
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(fmt::format("{}: {}", file_name, FirstLine(error.what())));
  }
  return options;
}

absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv) {
  CLI::App app{std::string(kDescription), "aptad"};
  Flags flags;
  Declare(&app, &flags);
  CommandLine command_line;
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    command_line.answer = app.help();
    return command_line;
  } catch (const CLI::CallForVersion& version) {
    command_line.answer = fmt::format("{}\n", version.what());
    return command_line;
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(fmt::format("{}; see aptad --help", error.what()));
  }
  auto options = Combine(flags);
  if (!options.ok()) return options.status();
  command_line.options = *std::move(options);
  return command_line;
}

}  // namespace apta::daemon
