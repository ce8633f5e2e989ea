#include "store_targets.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/sysinfo.h>

#include <atomic>
#include <thread>

#include "copies.h"
#include "fabric/doorbell.h"
#include "sleep_watch.h"
#include "suite.h"

namespace apta::bench {
namespace {

// --- two threads' hits over one thread's

// A thread of hits on a core of its own, while it is told to.
class Hitter {
 public:
  Hitter(Client* client, std::string key, int core)
      : client_(client), key_(std::move(key)), thread_([this, core] { Run(core); }) {}
  Hitter(const Hitter&) = delete;
  Hitter& operator=(const Hitter&) = delete;
  ~Hitter() {
    command_.store(kStop);
    fabric::FutexWake(&command_);
    thread_.join();
  }
  void Begin() {
    command_.store(kGo);
    fabric::FutexWake(&command_);
  }
  void Pause() { command_.store(kWait); }
  double calls() const { return static_cast<double>(calls_.load(std::memory_order_relaxed)); }
  bool failed() const { return failed_.load(); }

 private:
  enum Command : std::uint32_t { kWait, kGo, kStop };

  void Run(int core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<unsigned>(core % get_nprocs()), &set);
    sched_setaffinity(0, sizeof(set), &set);
    std::uint64_t calls = 0;
    while (command_.load() != kStop) {
      fabric::FutexWait(&command_, kWait, 1'000'000'000);
      while (command_.load(std::memory_order_relaxed) == kGo) {
        for (int i = 0; i < 64; ++i) {
          const absl::StatusOr<Object> object = client_->Get(key_);
          if (!object.ok()) failed_.store(true);
          benchmark::DoNotOptimize(object->bytes().data());
        }
        calls_.store(calls += 64, std::memory_order_relaxed);
      }
    }
  }

  Client* const client_;
  const std::string key_;
  alignas(64) std::atomic<std::uint32_t> command_{kWait};
  std::atomic<bool> failed_{false};
  alignas(64) std::atomic<std::uint64_t> calls_{0};
  std::thread thread_;
};

// Turns of one thread and of two; what is reported is the median of the turns' ratios.
void HitScaling(benchmark::State& state, const std::string& socket, bool one_key) {
  Client client = Connect(socket, "bench", "strict");
  const std::string mine = Key("scaling", 0), other = Key("scaling", one_key ? 0 : 1);
  for (const std::string& key : {mine, other}) {
    if (!client.Put(key, AsBytes("x")).ok() || !client.Get(key).ok()) {
      return state.SkipWithError("put");
    }
  }
  Hitter first(&client, mine, 0), second(&client, other, 1);
  const auto rate = [&](bool both) {  // calls per ns
    first.Begin();
    if (both) second.Begin();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const double calls = first.calls() + second.calls();
    const auto began = Clock::now();
    std::this_thread::sleep_for(std::chrono::milliseconds(4));
    const double made = first.calls() + second.calls() - calls;
    const double per_ns = made / NsSince(began);
    first.Pause();
    second.Pause();
    return per_ns;
  };
  const std::uint64_t misses = client.stats().misses;
  Samples ratios;
  TakeSamples(state, {.seconds = SecondsPerRepetition() * 4}, nullptr, [&](std::uint64_t) {
    const double alone = rate(false), both = rate(true), again = rate(false);
    ratios.Add(both / ((alone + again) / 2));
    return first.failed() || second.failed() ? -1 : 2 / both;  // of one call of one of the two
  });
  if (client.stats().misses != misses) state.SkipWithError("not every hit was one");
  state.counters["two_over_one"] = ratios.Median();
}

// --- a home that sleeps

// Objects that this node has never seen, put by another one, so that their first get is a miss and
// meets no invalidation.
class FreshObjects {
 public:
  FreshObjects(const std::string& socket, std::size_t bytes)
      : writer_(Connect(socket, "writer", "strict")), value_(bytes) {}
  ~FreshObjects() {
    for (std::uint64_t i = 0; i < last_; ++i) (void)writer_.Delete(Key("fresh", i));
  }
  // "" = it could not be put.
  std::string Make() {
    // What lies further back is not needed any more, and frees its memory.
    if (last_ >= kLive) (void)writer_.Delete(Key("fresh", last_ - kLive));
    const std::string key = Key("fresh", last_++);
    return writer_.Put(key, {value_.data(), value_.size()}).ok() ? key : "";
  }

 private:
  static constexpr std::uint64_t kLive = 8;
  Client writer_;
  Buffer value_;
  std::uint64_t last_ = 0;
};

void GetMissAsleep(benchmark::State& state, const std::string& socket, std::int64_t size) {
  Client client = Connect(socket, "bench", "strict");
  FreshObjects objects(socket, static_cast<std::size_t>(size));
  const SleepWatch watch(socket, "strict");
  constexpr int kWarmReads = 8;
  std::uint64_t warm_reads = 0;
  std::string key;
  const auto prepare = [&](std::uint64_t) {
    key = objects.Make();
    if (key.empty() || !watch.AwaitSleep()) return false;
    // This core has slept as well. What it pays for waking up is not the path's: reads of what does
    // not exist go the same way, and the home sleeps on.
    for (int i = 0; i < kWarmReads; ++i) {
      if (!absl::IsNotFound(client.Get("none").status())) return false;
      ++warm_reads;
    }
    return true;
  };
  const std::uint64_t misses = client.stats().misses;
  std::uint64_t calls = 0;
  Measure(state, {.least = 20}, nullptr, prepare, [&](std::uint64_t) {
    ++calls;
    return client.Get(key).ok();
  });
  if (client.stats().misses - misses != calls + warm_reads) {
    state.SkipWithError("not every miss was one");
  }
}

// Each get of a large object beside a bare wake-up, both after the same time of sleep.
void FirstGet(benchmark::State& state, const std::string& socket, std::int64_t idle_us) {
  Client client = Connect(socket, "bench", "strict");
  FreshObjects objects(socket, 1 << 20);
  const SleepWatch watch(socket, "strict");
  Sleeper sleeper;
  Samples wakes, gets;
  const double idle_ns = static_cast<double>(idle_us) * 1e3;
  TakeSamples(state, {.least = 40, .seconds = SecondsPerRepetition() * 3}, nullptr,
              [&](std::uint64_t) {
                const std::string key = objects.Make();
                if (key.empty() || !watch.AwaitSleep()) return -1.0;
                SleepWatch::Spin(idle_ns);
                const auto began = Clock::now();
                const bool ok = client.Get(key).ok();
                gets.Add(NsSince(began));
                if (!ok || !watch.AwaitSleep()) return -1.0;
                sleeper.Wake();
                SleepWatch::Spin(idle_ns);
                wakes.Add(sleeper.Wake());
                return gets.all().back();
              });
  state.counters["wake_s"] = wakes.Median() * 1e-9;
  state.counters["per_wake"] = gets.Median() / std::max(wakes.Median(), 1.0);
}

// --- small gets beside large puts

struct BulkPage {
  std::atomic<std::uint32_t> at_work;  // futex
  std::atomic<std::uint32_t> failed;
  std::atomic<std::uint64_t> puts;
};

void GetBesideBulk(benchmark::State& state, const std::string& socket, std::int64_t bulk_bytes) {
  constexpr std::uint64_t kKeys = 128;
  const SharedBytes shared(sizeof(BulkPage));
  auto* page = shared.as<BulkPage>();
  const Process bulk("bulk", {socket, std::to_string(bulk_bytes), std::to_string(shared.fd())},
                     Cores::kAll);
  Client client = Connect(socket, "bench", "strict"), writer = Connect(socket, "writer", "strict");
  // One turn: all keys are put anew, then each is got.
  const auto turn = [&](Samples* samples) {
    bool ok = true;
    for (std::uint64_t i = 0; i < kKeys; ++i) {
      ok = writer.Put(Key("small", i), AsBytes("x")).ok() && ok;
    }
    for (std::uint64_t i = 0; i < kKeys; ++i) {
      const auto began = Clock::now();
      ok = client.Get(Key("small", i)).ok() && ok;
      samples->Add(NsSince(began));
    }
    return ok;
  };
  Samples alone, beside;
  TakeSamples(state, {.seconds = SecondsPerRepetition() * 10}, nullptr, [&](std::uint64_t) {
    bool ok = true;
    page->at_work.store(0);
    for (const std::uint64_t puts = page->puts.load(); page->puts.load() == puts;) {
      if (page->puts.load() == 0 || page->failed.load() != 0) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (page->at_work.load() == 0) break;  // its last one ends meanwhile
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    for (const auto began = Clock::now(); NsSince(began) < 20e6;) ok = turn(&alone) && ok;
    page->at_work.store(1);
    fabric::FutexWake(&page->at_work);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    for (const auto began = Clock::now(); NsSince(began) < 60e6;) ok = turn(&beside) && ok;
    return ok && page->failed.load() == 0 ? beside.Median() : -1;
  });
  page->at_work.store(0);
  if (page->puts.load() == 0) state.SkipWithError("the other process did not put");
  alone.Report(&state, "alone");
  beside.Report(&state, "beside");
  state.counters["p99_over_alone"] = beside.Quantile(0.99) / std::max(alone.Quantile(0.99), 1.0);
  state.counters["bulk_puts"] = static_cast<double>(page->puts.load());
}

}  // namespace

int RunBulk(const std::vector<std::string>& words) {
  const SharedBytes shared(std::stoi(words[2]), sizeof(BulkPage));
  auto* page = shared.as<BulkPage>();
  Client client = Connect(words[0], "bulk", "strict");
  const Buffer value(std::stoull(words[1]));
  while (true) {
    if (page->at_work.load() == 0) {
      fabric::FutexWait(&page->at_work, 0, 1'000'000'000);
    } else if (client.Put(Key("bulk", 0), {value.data(), value.size()}).ok()) {
      page->puts.fetch_add(1);
    } else {
      page->failed.store(1);
    }
  }
}

void AddTargets(const std::function<std::string()>& socket) {
  for (const bool one_key : {false, true}) {
    Add(Name("hit_scaling", {{"keys", one_key ? "one" : "own"}}),
        [=](benchmark::State& state) { HitScaling(state, socket(), one_key); });
  }
  for (const std::int64_t size : {64, 4 << 10}) {
    Add(Name("get_miss_asleep", {{"size", std::to_string(size)}}),
        [=](benchmark::State& state) { GetMissAsleep(state, socket(), size); });
  }
  for (const std::int64_t idle_us : {100, 2000}) {
    Add(Name("first_get", {{"idle_us", std::to_string(idle_us)}, {"size", "1048576"}}),
        [=](benchmark::State& state) { FirstGet(state, socket(), idle_us); });
  }
  const std::int64_t bulk_bytes = CurrentRun().quick ? 8 << 20 : 64 << 20;
  Add(Name("get_beside_bulk", {{"bulk", std::to_string(bulk_bytes)}}),
      [=](benchmark::State& state) { GetBesideBulk(state, socket(), bulk_bytes); });
}

}  // namespace apta::bench
