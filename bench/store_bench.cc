// What the store's operations cost, by size, coherence mode and placement, each in turns with what
// it is made of; and how often several threads and processes can do them. See --help.
//
// The memory servers, one per pool, are processes of their own; the client that is measured is
// here. Its counters are checked: what is named a hit was one.

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "copies.h"
#include "crew.h"
#include "floor.h"
#include "store_targets.h"
#include "suite.h"

namespace apta::bench {
namespace {

constexpr char kAbout[] =
    "The store's operations, one client thread, by mode, placement and size (32-byte keys):\n"
    "  get_hit, get_miss, put, put_if, delete, stat, list   in pools of each coherence mode\n"
    "  get_first_touch      misses of a client that was just attached, each on pages new to it\n"
    "  get_uncached         in a pool whose gets all read the heap (mode uncached)\n"
    "  create_commit        in a trusted pool, without filling; create_fill_commit fills\n"
    "  rate                 calls per second of 1 and 2 client processes of 1 and 2 threads; with\n"
    "                       --all of each operation, mode and placement\n"
    "and what the targets of the hot paths need besides:\n"
    "  hit_scaling          two threads' hits over one thread's, on keys of their own or one key\n"
    "  get_miss_asleep      a get miss while the home sleeps\n"
    "  first_get            the same of a large object, against a bare futex wake-up, in turns\n"
    "  get_beside_bulk      small get misses' p99 while another process puts 64 MiB objects\n"
    "per_ring, per_copy: the time over the bare ring round trip's, or the best copy's, of the "
    "same\n"
    "turn. near: the share of samples from turns when the machine's cores were near each other.\n"
    "Without --all, modes other than strict and placements other than in_place have few sizes.\n";

using Sizes = std::vector<std::int64_t>;

const Sizes kAllSizes = {64, 4 << 10, 64 << 10, 1 << 20, 8 << 20, 64 << 20};

// --- memory servers, one per pool, begun when they are needed

std::map<std::string, std::unique_ptr<Server>> g_servers;
std::map<std::string, std::uint64_t> g_page_bytes;  // by pool: what the kernel has given

const std::string& SocketOf(const std::string& pool) {
  std::unique_ptr<Server>& server = g_servers[pool];
  if (server == nullptr) {
    PoolOptions options{.name = pool, .bytes = 1 << 30};
    if (CurrentRun().quick) options.bytes = 256 << 20;
    options.coherence = pool == "trusted" ? "strict" : pool;
    options.access = pool == "trusted" ? "trusted" : "isolated";
    server = std::make_unique<Server>(std::vector<PoolOptions>{options});
    g_page_bytes[pool] = PoolOf(Connect(server->socket(), "bench", pool), pool).page_bytes;
  }
  return server->socket();
}

struct Case {
  std::string pool = "strict";
  Placement placement = Placement::kInPlace;
  std::int64_t size_bytes = 64;
};

Client ConnectTo(const Case& which, const char* node, std::size_t cache_bytes = 1 << 30) {
  return Connect({.socket = SocketOf(which.pool),
                  .pool = which.pool,
                  .node = node,
                  .cache_bytes = cache_bytes,
                  .placement = which.placement});
}

// What an operation that moves `bytes` is measured against.
class ReferenceFor {
 public:
  explicit ReferenceFor(std::int64_t bytes) {
    if (bytes >= 1 << 20) copy_ = std::make_unique<BestCopy>(static_cast<std::size_t>(bytes));
  }
  const Reference* get() const { return copy_ ? copy_->reference() : RingReference(); }

 private:
  std::unique_ptr<BestCopy> copy_;
};

BytesView View(const Buffer& buffer) { return {buffer.data(), buffer.size()}; }

// --- gets

void GetHit(benchmark::State& state, const Case& which) {
  Client client = ConnectTo(which, "bench");
  const std::string key = Key("hit", static_cast<std::uint64_t>(which.size_bytes));
  const Buffer value(static_cast<std::size_t>(which.size_bytes));
  if (!client.Put(key, View(value)).ok() || !GetUntilHit(&client, key)) {
    return state.SkipWithError("put");
  }
  const ClientStats before = client.stats();
  std::uint64_t calls = 0;
  Measure(state, {.calls = 64}, nullptr, [&](std::uint64_t) {
    const absl::StatusOr<Object> object = client.Get(key);
    benchmark::DoNotOptimize(object->bytes().data());
    ++calls;
    return object.ok();
  });
  const ClientStats after = client.stats();
  if (after.misses != before.misses || after.hits - before.hits != calls) {
    state.SkipWithError("not every hit was one");
  }
  if (!client.Delete(key).ok()) state.SkipWithError("delete");
}

// Versions that another node has just put. What has been invalidated is applied before, except
// where nobody looks (lazy): there the cache holds nothing, and evicts beside each miss.
void GetMiss(benchmark::State& state, const Case& which) {
  const bool is_lazy = which.pool == "lazy";
  Client client = ConnectTo(which, "bench", is_lazy ? 1 : 1 << 30);
  Client other = ConnectTo(which, "writer");
  const Buffer value(static_cast<std::size_t>(which.size_bytes));
  const auto keys =
      static_cast<std::uint64_t>(std::clamp<std::int64_t>((96 << 20) / which.size_bytes, 2, 256));
  constexpr std::uint64_t kWarm = 16;
  const std::string unrelated = Key("miss-unrelated", 0);
  bool ok = other.Put(unrelated, AsBytes("x")).ok() && client.Get(unrelated).ok();
  std::uint64_t calls = 0, misses = 0, misses_before = 0, touches = 0, touches_before = 0;
  const auto prepare = [&](std::uint64_t i) {
    if (i % keys != 0) return ok;
    misses += client.stats().misses - misses_before;
    touches += FirstTouches() - touches_before;
    for (std::uint64_t k = 0; k < keys; ++k) ok = other.Put(Key("miss", k), View(value)).ok() && ok;
    ok = client.Get(unrelated).ok() && ok;
    // Large puts have left nothing in the cores' caches: misses of small objects bring the path's
    // own code, lines and page table entries back. The object's own stay as the put left them.
    for (std::uint64_t k = 0; k < kWarm; ++k) {
      ok = other.Put(Key("miss-warm", k), AsBytes("x")).ok() && ok;
    }
    for (std::uint64_t k = 0; k < kWarm; ++k) ok = client.Get(Key("miss-warm", k)).ok() && ok;
    misses_before = client.stats().misses;
    touches_before = FirstTouches();
    return ok;
  };
  // Pages of this client's mapping that are touched for the first time: see get_first_touch.
  for (int round = 0; round < 3 && ok; ++round) {
    ok = prepare(0);
    for (std::uint64_t k = 0; k < keys; ++k) ok = client.Get(Key("miss", k)).ok() && ok;
  }
  misses = touches = 0;
  misses_before = client.stats().misses;
  touches_before = FirstTouches();
  Measure(state, {}, RingReference(), prepare, [&](std::uint64_t n) {
    const absl::StatusOr<Object> object = client.Get(Key("miss", n % keys));
    ++calls;
    return object.ok() && object->size() == value.size();
  });
  misses += client.stats().misses - misses_before;
  touches += FirstTouches() - touches_before;
  // Of pages, in the client's mapping: what a miss should not have to pay for.
  state.counters["first_touches_per_call"] =
      static_cast<double>(touches) / static_cast<double>(std::max<std::uint64_t>(calls, 1));
  // A key that was read while the home slept is registered in the background, and may be a hit.
  if (misses * 100 < calls * 99) state.SkipWithError("not every miss was one");
  for (std::uint64_t k = 0; k < keys; ++k) (void)other.Delete(Key("miss", k));
  for (std::uint64_t k = 0; k < kWarm; ++k) (void)other.Delete(Key("miss-warm", k));
}

// Misses of a client that has just been attached: each touches pages of its mapping, and of its
// cache's tables, for the first time.
void GetFirstTouch(benchmark::State& state, const Case& which) {
  Client writer = ConnectTo(which, "writer");
  constexpr std::uint64_t kKeys = 64;
  const Buffer value(static_cast<std::size_t>(which.size_bytes));
  bool ok = true;
  for (std::uint64_t k = 0; k < kKeys; ++k)
    ok = writer.Put(Key("touch", k), View(value)).ok() && ok;
  Client client = ConnectTo(which, "bench");
  for (int warm = 0; warm < 1000; ++warm) ok = client.Stat(Key("touch", 0)).ok() && ok;
  const std::uint64_t misses = client.stats().misses;
  Measure(state, {.least = kKeys, .most = kKeys}, nullptr,
          [&](std::uint64_t n) { return client.Get(Key("touch", n)).ok() && ok; });
  if (client.stats().misses - misses != kKeys) state.SkipWithError("not every miss was one");
  for (std::uint64_t k = 0; k < kKeys; ++k) (void)writer.Delete(Key("touch", k));
}

// A get that asks nobody, or (versioned) that always asks.
void GetUncached(benchmark::State& state, const Case& which) {
  Client client = ConnectTo(which, "bench");
  const std::string key = Key("uncached", static_cast<std::uint64_t>(which.size_bytes));
  const Buffer value(static_cast<std::size_t>(which.size_bytes));
  const absl::StatusOr<Version> version = client.Put(key, View(value));
  const std::uint64_t hits = client.stats().hits;
  const ReferenceFor reference(which.size_bytes);
  const auto calls = which.size_bytes <= 4096 ? 16u : 1u;
  Measure(state, {.calls = calls}, reference.get(), [&](std::uint64_t) {
    const absl::StatusOr<Object> object = client.Get(key);
    return object.ok() && object->version() == *version;
  });
  if (client.stats().hits != hits) state.SkipWithError("a hit, where there are none");
  if (!client.Delete(key).ok()) state.SkipWithError("delete");
}

// --- changes

void Put(benchmark::State& state, const Case& which, bool is_conditional) {
  Client client = ConnectTo(which, "bench");
  const std::string key = Key("put", static_cast<std::uint64_t>(which.size_bytes));
  const Buffer value(static_cast<std::size_t>(which.size_bytes));
  Version last = client.Put(key, View(value)).value_or(0);
  for (int i = 0; i < 4 && last != 0; ++i) {  // extents that later puts find warm
    last = client.Put(key, View(value)).value_or(0);
  }
  const std::uint64_t puts = client.stats().puts;
  const ReferenceFor reference(which.size_bytes);
  std::uint64_t calls = 0;
  Measure(state, {}, reference.get(), [&](std::uint64_t) {
    PutOptions options;
    if (is_conditional) options.if_version = last;
    const absl::StatusOr<Version> version = client.Put(key, View(value), options);
    ++calls;
    return version.ok() && *version > std::exchange(last, *version);
  });
  if (client.stats().puts - puts != calls) state.SkipWithError("not every put was one");
  if (!client.Delete(key).ok()) state.SkipWithError("delete");
}

void Delete(benchmark::State& state, const Case& which) {
  Client client = ConnectTo(which, "bench");
  const std::string key = Key("delete", static_cast<std::uint64_t>(which.size_bytes));
  const Buffer value(static_cast<std::size_t>(which.size_bytes));
  Measure(
      state, {}, RingReference(), [&](std::uint64_t) { return client.Put(key, View(value)).ok(); },
      [&](std::uint64_t) { return client.Delete(key).ok(); });
}

void CreateCommit(benchmark::State& state, const Case& which, bool fills) {
  Client client = ConnectTo(which, "bench");
  const std::string key = Key("draft", static_cast<std::uint64_t>(which.size_bytes));
  const Buffer value(static_cast<std::size_t>(which.size_bytes));
  const ReferenceFor reference(fills ? which.size_bytes : 0);
  const std::uint64_t puts = client.stats().puts;
  std::uint64_t calls = 0;
  Measure(state, {}, reference.get(), [&](std::uint64_t) {
    absl::StatusOr<Draft> draft = client.Create(key, value.size());
    if (!draft.ok()) return false;
    if (fills) std::copy_n(value.data(), value.size(), draft->bytes().data());
    ++calls;
    return draft->Commit().ok();
  });
  if (client.stats().puts - puts != calls) state.SkipWithError("not every commit was one");
  if (!client.Delete(key).ok()) state.SkipWithError("delete");
}

void Stat(benchmark::State& state, const Case& which) {
  Client client = ConnectTo(which, "bench");
  const std::string key = Key("stat", static_cast<std::uint64_t>(which.size_bytes));
  const Buffer value(static_cast<std::size_t>(which.size_bytes));
  if (!client.Put(key, View(value)).ok()) return state.SkipWithError("put");
  Measure(state, {}, RingReference(), [&](std::uint64_t) {
    const absl::StatusOr<ObjectInfo> info = client.Stat(key);
    return info.ok() && info->size == value.size();
  });
  if (!client.Delete(key).ok()) state.SkipWithError("delete");
}

void List(benchmark::State& state, const Case& which, std::uint64_t objects) {
  Client client = ConnectTo(which, "bench");
  const Buffer value(static_cast<std::size_t>(which.size_bytes));
  for (std::uint64_t i = 0; i < objects; ++i) {
    if (!client.Put(Key("list", i), View(value)).ok()) return state.SkipWithError("put");
  }
  Measure(state, {}, nullptr, [&](std::uint64_t) {
    const auto listed = client.List("list", objects);
    return listed.ok() && listed->size() == objects;
  });
  for (std::uint64_t i = 0; i < objects; ++i) (void)client.Delete(Key("list", i));
}

// --- the matrix

// What every name begins with, and `more`.
std::string NameOf(const char* op, const Case& which, const Where& more = {}) {
  const bool copies = which.placement == Placement::kLocalCopy;
  Where where = {{"mode", which.pool},
                 {"placement", copies ? "local_copy" : "in_place"},
                 {"size", std::to_string(which.size_bytes)}};
  where.insert(where.end(), more.begin(), more.end());
  return Name(op, where);
}

template <typename Function, typename... Arguments>
void AddCase(const char* op, Case which, Function function, Arguments... arguments) {
  Add(NameOf(op, which), [=](benchmark::State& state) {
    function(state, which, arguments...);
    state.counters["page_bytes"] = static_cast<double>(g_page_bytes[which.pool]);
  });
}

bool Caches(const std::string& pool) { return pool != "versioned" && pool != "uncached"; }

void AddLists(const Case& which) {
  for (const std::uint64_t objects : {10u, 1000u}) {
    // What is listed fills a tenth of a pool at most.
    if (objects * static_cast<std::uint64_t>(which.size_bytes) > 100 << 20) continue;
    Add(NameOf("list", which, {{"objects", std::to_string(objects)}}), List, which, objects);
  }
}

void AddPool(const std::string& pool, Placement placement, const Sizes& sizes) {
  for (const std::int64_t size : sizes) {
    const Case which{pool, placement, size};
    if (Caches(pool)) {
      AddCase("get_hit", which, GetHit);
      AddCase("get_miss", which, GetMiss);
      if (pool == "strict" && size <= 1 << 20) AddCase("get_first_touch", which, GetFirstTouch);
    } else {
      AddCase("get_uncached", which, GetUncached);
    }
    if (placement == Placement::kLocalCopy) continue;  // the rest is the same
    AddCase("put", which, Put, false);
    AddCase("put_if", which, Put, true);
    AddCase("delete", which, Delete);
    AddCase("stat", which, Stat);
    if (size == sizes.front() || CurrentRun().all) AddLists(which);
  }
}

// So many that one key twice in a row is rare, and that they fit the pool.
std::uint64_t MissedKeys(std::int64_t size) {
  return static_cast<std::uint64_t>(std::clamp<std::int64_t>((128 << 20) / size, 64, 1000));
}

void AddRate(const std::string& op, const Case& which) {
  for (const int processes : {1, 2}) {
    for (const int threads : {1, 2}) {
      const std::string name = NameOf("rate", which,
                                      {{"op", op},
                                       {"processes", std::to_string(processes)},
                                       {"threads", std::to_string(threads)}});
      Add(name, [=](benchmark::State& state) {
        Work work{.socket = SocketOf(which.pool), .pool = which.pool, .op = op};
        work.placement = which.placement;
        work.size_bytes = static_cast<std::uint64_t>(which.size_bytes);
        work.keys = op == "get_miss" ? MissedKeys(which.size_bytes) : 4;
        work.processes = processes;
        work.threads = threads;
        Client client = Connect(work.socket, "bench", work.pool);
        if (op == "get_miss" && !PutObjects(&client, work.keys, work.size_bytes)) {
          return state.SkipWithError("put");
        }
        Rate(state, work, Repetitions());
      });
    }
  }
}

void AddRates(const std::string& pool, Placement placement, const Sizes& sizes) {
  std::vector<std::string> ops = {"get_hit", "get_miss", "put"};
  if (!Caches(pool)) ops = {"get_uncached", "put"};
  if (CurrentRun().all) ops.insert(ops.end(), {"put_if", "put_delete", "stat", "list"});
  if (placement == Placement::kLocalCopy) ops.resize(Caches(pool) ? 2 : 1);  // as in AddPool
  if (pool == "trusted") ops = {"create_commit"};
  for (const std::int64_t size : sizes) {
    for (const std::string& op : ops) AddRate(op, {pool, placement, size});
  }
}

void RegisterAll() {
  const bool all = CurrentRun().all;
  Sizes sizes = kAllSizes, few = {64, 64 << 10};
  if (CurrentRun().quick) sizes = {64, 64 << 10, 8 << 20}, few = {64};
  if (all) few = sizes;
  AddPool("strict", Placement::kInPlace, sizes);
  for (const std::int64_t size : sizes) {
    if (size >= 64 << 10) AddCase("put", {.pool = "trusted", .size_bytes = size}, Put, false);
    AddCase("create_commit", {.pool = "trusted", .size_bytes = size}, CreateCommit, false);
    AddCase("create_fill_commit", {.pool = "trusted", .size_bytes = size}, CreateCommit, true);
  }
  AddTargets([] { return SocketOf("strict"); });
  AddPool("strict", Placement::kLocalCopy, few);
  AddPool("uncached", Placement::kInPlace, all ? sizes : Sizes{64, 4 << 10, 1 << 20});
  for (const std::string mode : {"lazy", "sync", "versioned"}) {
    AddPool(mode, Placement::kInPlace, few);
    if (all) AddPool(mode, Placement::kLocalCopy, few);
  }
  AddRates("strict", Placement::kInPlace, all ? Sizes{64, 4 << 10, 64 << 10, 1 << 20} : Sizes{64});
  if (all) {
    for (const std::string pool : {"strict", "lazy", "sync", "versioned", "uncached", "trusted"}) {
      if (pool != "strict") AddRates(pool, Placement::kInPlace, {64, 64 << 10});
      if (Caches(pool) && pool != "trusted") AddRates(pool, Placement::kLocalCopy, {64, 64 << 10});
    }
  }
  AddCopies(sizes);
}

}  // namespace
}  // namespace apta::bench

int main(int argc, char** argv) {
  using namespace apta::bench;
  return Main(argc, argv,
              {.name = "store_bench",
               .about = kAbout,
               .roles = {{"worker", RunWorker}, {"bulk", RunBulk}},
               .register_all = RegisterAll,
               .clean_up = [] { g_servers.clear(); }});
}
