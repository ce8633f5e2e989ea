// How the store behaves with many clients, shards, objects and sharers. See --help.

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "crew.h"
#include "fabric/port.h"
#include "fabric/region.h"
#include "floor.h"
#include "suite.h"

namespace apta::bench {
namespace {

constexpr char kAbout[] =
    "Many of everything, 64-byte objects. On a machine of few cores it is about not collapsing:\n"
    "  rate             calls per second of 1 to 64 client processes, of 1 to 4 shards\n"
    "  objects          random get misses among 10^3 to 10^6 objects (--all: 10^7), and the "
    "memory\n"
    "                   of an object: in its extent, in the pool's index (which is made for as\n"
    "                   many as the pool may hold), and in the memory server besides\n"
    "  put_by_sharers   a put by how many of 64 nodes share the old version\n"
    "  client_memory    what an attached client costs: its port, the memory server, its process\n";

constexpr char kPool[] = "strict";

// One memory server at a time.
std::unique_ptr<Server> g_server;
std::string g_server_for;

Server& ServerFor(int shards, std::uint64_t bytes) {
  const std::string wanted = fmt::format("{} {}", shards, bytes);
  if (g_server == nullptr || g_server_for != wanted) {
    g_server.reset();
    g_server =
        std::make_unique<Server>(std::vector<PoolOptions>{{.name = kPool, .bytes = bytes}}, shards);
    g_server_for = wanted;
  }
  return *g_server;
}

constexpr std::uint64_t kBytes = 256 << 20;

void RateOf(benchmark::State& state, const std::string& op, int processes, int shards) {
  const std::string socket = ServerFor(shards, kBytes).socket();
  Work work{.socket = socket, .pool = kPool, .op = op};
  work.keys = op == "get_miss" ? 1000 : 4;
  work.processes = processes;
  if (op == "get_miss") {
    Client client = Connect(socket, "bench", kPool);
    if (!PutObjects(&client, work.keys, work.size_bytes)) return state.SkipWithError("put");
  }
  Rate(state, work, Repetitions());
}

// What the memory server holds outside its region and its ports.
std::uint64_t PrivateBytes(pid_t pid) { return MappedBytes(pid, "Anonymous", ""); }

// Half a KiB of pool for each is plenty, and the index has room.
std::uint64_t BytesFor(std::uint64_t objects) {
  return std::max<std::uint64_t>(kBytes, objects * 512);
}

// What the pool takes, and what its memory server, this process and others need beside it.
bool HasRoomFor(std::uint64_t objects) {
  return fabric::FreeBytesOfNode(-1) > BytesFor(objects) + (std::uint64_t{1} << 30);
}

void Objects(benchmark::State& state, std::uint64_t count) {
  static std::uint64_t there = 0;
  static double server_bytes = 0;
  Server& server = ServerFor(1, BytesFor(count));
  Client client = Connect(server.socket(), "bench", kPool, 1);
  if (there != count) {
    const std::uint64_t before = PrivateBytes(server.pid());
    if (!PutObjects(&client, count, 64)) return state.SkipWithError("put");
    server_bytes = static_cast<double>(PrivateBytes(server.pid())) - static_cast<double>(before);
    there = count;
  }
  std::uint64_t random = 1;
  const std::uint64_t misses = client.stats().misses;
  std::uint64_t calls = 0;
  Measure(state, {}, RingReference(), [&](std::uint64_t) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    ++calls;
    return client.Get(Key("object", (random >> 24) % count)).ok();
  });
  if (client.stats().misses - misses != calls) state.SkipWithError("not every miss was one");
  const PoolInfo info = PoolOf(client, kPool);
  const auto objects = static_cast<double>(info.objects);
  state.counters["pool_bytes_per_object"] = static_cast<double>(info.bytes_used) / objects;
  const std::uint64_t in_heap = info.bytes_used + info.bytes_held + info.bytes_free;
  state.counters["index_bytes_per_object"] = static_cast<double>(info.bytes - in_heap) / objects;
  state.counters["server_bytes_per_object"] = server_bytes / static_cast<double>(count);
}

// As many nodes are attached in each case: a home looks at each node's ring.
void PutBySharers(benchmark::State& state, std::size_t sharers) {
  constexpr std::size_t kNodes = 64;
  const std::string socket = ServerFor(1, kBytes).socket();
  const std::string key = Key("shared", 0);
  Client writer = Connect(socket, "writer", kPool);
  std::vector<Client> nodes;
  for (std::size_t i = 0; i < kNodes; ++i) {
    nodes.push_back(Connect(socket, fmt::format("node-{}", i), kPool, 1 << 20));
  }
  const Bytes value(64, std::byte{1});
  if (!writer.Put(key, value).ok()) return state.SkipWithError("put");
  // What a node has read while the home slept it registers later, perhaps after the next put: then
  // all is done again.
  const auto share = [&](std::uint64_t) {
    for (int attempt = 0; attempt < 100; ++attempt) {
      for (std::size_t i = 0; i < sharers; ++i) {
        if (!GetUntilHit(&nodes[i], key)) return false;
      }
      const absl::StatusOr<ObjectInfo> info = writer.Stat(key);
      if (!info.ok()) return false;
      if (info->sharers == sharers + 1) return true;  // and the writer itself
      if (!writer.Put(key, value).ok()) return false;
    }
    return false;
  };
  Measure(state, {.most = 2000}, RingReference(), share,
          [&](std::uint64_t) { return writer.Put(key, value).ok(); });
}

void ClientMemory(benchmark::State& state) {
  constexpr int kClients = 32;
  Server& server = ServerFor(1, kBytes);
  const std::uint64_t before = PrivateBytes(server.pid());
  double private_bytes = 0, port_bytes = 0, server_bytes = 0, seconds = 0;
  for (auto _ : state) {
    const auto began = Clock::now();
    Work work{.socket = server.socket(), .pool = kPool, .processes = kClients};
    const Crew crew(work);
    seconds = NsSince(began) * 1e-9 / kClients;
    state.SetIterationTime(seconds);
    port_bytes = static_cast<double>(MappedBytes(server.pid(), "Rss", "apta-port")) / kClients;
    server_bytes =
        (static_cast<double>(PrivateBytes(server.pid())) - static_cast<double>(before)) / kClients;
    private_bytes = static_cast<double>(PrivateBytes(crew.processes().front()->pid()));
  }
  state.counters["port_bytes_resident"] = port_bytes;
  state.counters["port_bytes"] = static_cast<double>(fabric::Port::BytesFor(1));
  state.counters["server_bytes"] = server_bytes;
  state.counters["process_bytes"] = private_bytes;
}

void RegisterAll() {
  const bool quick = CurrentRun().quick;
  const auto add_rate = [](const std::string& op, int processes, int shards) {
    Add(Name("rate", {{"op", op},
                      {"processes", std::to_string(processes)},
                      {"shards", std::to_string(shards)}}),
        RateOf, op, processes, shards);
  };
  const std::vector<int> counts =
      quick ? std::vector<int>{1, 8} : std::vector<int>{1, 2, 4, 8, 16, 32, 64};
  const std::vector<int> more_shards = quick ? std::vector<int>{2} : std::vector<int>{2, 4};
  for (const std::string op : {"get_hit", "get_miss", "put"}) {
    for (const int processes : counts) add_rate(op, processes, 1);
  }
  for (const std::size_t sharers : {0, 1, 4, 16, 64}) {
    Add(Name("put_by_sharers", {{"sharers", std::to_string(sharers)}}), PutBySharers, sharers);
  }
  Add("client_memory", ClientMemory);
  for (const int shards : more_shards) {
    for (const std::string op : {"get_miss", "put"}) {
      for (const int processes : counts) {
        if (processes == 1 || processes == 4 || processes == 16) add_rate(op, processes, shards);
      }
    }
  }
  const std::uint64_t most = CurrentRun().all ? 10'000'000 : quick ? 10'000 : 1'000'000;
  for (std::uint64_t count = 1000; count <= most; count *= 10) {
    const std::string name = Name("objects", {{"count", std::to_string(count)}});
    if (HasRoomFor(count)) {
      Add(name, Objects, count);
    } else {
      fmt::print("{:<66} left out: needs {:.1f} GiB of free memory\n", name,
                 static_cast<double>(BytesFor(count) + (1 << 30)) / (1 << 30));
    }
  }
}

}  // namespace
}  // namespace apta::bench

int main(int argc, char** argv) {
  using namespace apta::bench;
  return Main(argc, argv,
              {.name = "scale_bench",
               .about = kAbout,
               .roles = {{"worker", RunWorker}},
               .register_all = RegisterAll,
               .clean_up = [] { g_server.reset(); }});
}
