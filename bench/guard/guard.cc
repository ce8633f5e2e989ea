// Does each hot path so often, in turns (turns.h), and says what it took: to stdout, as "path side
// what number", all but the instructions; those go to callgrind's files, one for each path and
// side. See README.md, "The guard". Run by `check`.

#include <errno.h>
#include <fmt/format.h>
#include <string.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "apta/apta.h"
#include "apta/server.h"
#include "turns.h"

namespace apta::guard {
namespace {

constexpr std::uint64_t kCalls = 200;
// So that caches, tables and the allocator have what they need, and the home's debts are level.
constexpr std::uint64_t kWarmCalls = 64;

[[noreturn]] void Fail(std::string_view what) {
  fmt::print(stderr, "guard: {}\n", what);
  std::fflush(nullptr);
  _exit(1);
}
void Check(bool ok, std::string_view what) {
  if (!ok) Fail(what);
}

Client Connect(const MemoryServer& server, const std::string& pool, const std::string& node) {
  absl::StatusOr<Client> client =
      Client::Connect({.socket = server.socket(), .pool = pool, .node = node});
  if (!client.ok()) Fail(client.status().ToString());
  return *std::move(client);
}

// A path: what goes before each call, if anything, and the call; and what the strict pool's reader
// sees of it.
struct Path {
  const char* name;
  std::function<bool()> prepare;
  std::function<bool()> call;
  bool asks_home = true;
  std::uint64_t hits = 0, misses = 0;  // per call
};

void Print(const Path& path, std::string_view side, const Counted& counted) {
  const auto line = [&](std::string_view what, double number) {
    fmt::print("{} {} {} {:g}\n", path.name, side, what, number);
  };
  const auto per_call = [](std::uint64_t all) { return static_cast<double>(all) / kCalls; };
  line("calls", kCalls);
  line("allocations", per_call(counted.allocations));
  line("clock_readings", per_call(counted.clock_readings));
  line("copied_bytes", per_call(counted.copied_bytes));
  line("system_calls", per_call(counted.system_calls));
  line("first_system_call", static_cast<double>(counted.first_system_call));
  line("turns", per_call(counted.turns));
}

void Count(const Path& path, Side side) {
  const std::string side_name = side == Side::kClient ? "client" : "home";
  for (std::uint64_t i = 0; i < kWarmCalls; ++i) {
    Check((path.prepare == nullptr || path.prepare()) && path.call(), path.name);
  }
  (void)TakeCounted();
  CALLGRIND_ZERO_STATS;
  bool ok = true;
  if (path.prepare == nullptr) {
    StartCounting(side);
    for (std::uint64_t i = 0; i < kCalls; ++i) ok = path.call() && ok;
    StopCounting();
  } else {
    for (std::uint64_t i = 0; i < kCalls; ++i) {
      ok = path.prepare() && ok;
      StartCounting(side);
      ok = path.call() && ok;
      StopCounting();
    }
  }
  Check(ok, path.name);
  const std::string name = fmt::format("{} {}", path.name, side_name);
  CALLGRIND_DUMP_STATS_AT(name.c_str());
  const Counted counted = TakeCounted();
  Print(path, side_name, counted);
  // If waiting does not come by us any more, the client spins while the home is at work.
  Check((counted.turns > 0) == path.asks_home, fmt::format("{}: turns were not taken", name));
}

std::string Key(std::string_view kind) { return fmt::format("{:-<32}", kind); }

// Does not return: agents and the home's thread stand still, nothing can be ended in order.
[[noreturn]] void Run(const std::string& folder) {
  ServerOptions options{.socket = folder + "/aptad.sock", .pools = {}};
  for (const std::string pool : {"strict", "lazy", "uncached", "trusted"}) {
    options.pools.push_back({.name = pool,
                             .bytes = 16 << 20,
                             .coherence = pool == "trusted" ? "strict" : pool,
                             .access = pool == "trusted" ? "trusted" : "isolated"});
  }
  const absl::StatusOr<MemoryServer> server = MemoryServer::Start(options);
  if (!server.ok()) Fail(server.status().ToString());
  Client strict = Connect(*server, "strict", "strict"), other = Connect(*server, "strict", "other"),
         lazy = Connect(*server, "lazy", "lazy"),
         uncached = Connect(*server, "uncached", "uncached"),
         trusted = Connect(*server, "trusted", "trusted");
  // 4 KiB: a copy or a loop too many is lost among the instructions of 64 bytes.
  const std::string value(64, 'v'), large(4096, 'v'), hot = Key("hot"), hot_4k = Key("hot_4k"),
                                                      missed = Key("missed"), draft = Key("draft");
  const auto put = [](Client* client, const std::string& key, const std::string* bytes) {
    return [=] { return client->Put(key, AsBytes(*bytes)).ok(); };
  };
  const auto get = [](Client* client, const std::string& key, const std::string* bytes) {
    return [=] {
      const absl::StatusOr<Object> object = client->Get(key);
      return object.ok() && object->size() == bytes->size();
    };
  };
  BeginTurns();
  Check(put(&strict, hot, &value)() && put(&lazy, hot, &value)() && put(&uncached, hot, &value)() &&
            put(&strict, hot_4k, &large)(),
        "put");

  const std::array<Path, 8> paths = {{
      {"cached_get_strict", nullptr, get(&strict, hot, &value), false, 1},
      {"cached_get_4k", nullptr, get(&strict, hot_4k, &large), false, 1},
      {"cached_get_lazy", nullptr, get(&lazy, hot, &value), false},
      {"uncached_get", nullptr, get(&uncached, hot, &value), false},
      {"get_miss", put(&other, missed, &value), get(&strict, missed, &value), true, 0, 1},
      {"put", nullptr, put(&strict, Key("put"), &value)},
      {"put_4k", nullptr, put(&strict, Key("put_4k"), &large)},
      {"create_commit", nullptr,
       [&] {
         absl::StatusOr<Draft> made = trusted.Create(draft, value.size());
         return made.ok() && made->Commit().ok();
       }},
  }};
  for (const Path& path : paths) {
    const ClientStats before = strict.stats();
    Count(path, Side::kClient);
    const ClientStats after = strict.stats();
    constexpr std::uint64_t kAll = kCalls + kWarmCalls;
    Check(after.misses - before.misses == path.misses * kAll,
          fmt::format("{}: misses are not what they should be", path.name));
    Check(after.hits - before.hits == path.hits * kAll,
          fmt::format("{}: hits are not what they should be", path.name));
    if (path.asks_home) Count(path, Side::kHome);
  }
  std::fflush(nullptr);
  std::filesystem::remove_all(folder);
  _exit(0);
}

}  // namespace
}  // namespace apta::guard

int main() {
  std::error_code error;
  const std::filesystem::path temporary = std::filesystem::temp_directory_path(error);
  if (error) apta::guard::Fail("the temporary folder (TMPDIR): " + error.message());
  std::string folder = temporary / "apta-guard-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) {
    apta::guard::Fail(fmt::format("{}: {}", folder, strerrordesc_np(errno)));
  }
  apta::guard::Run(folder);
}
