// What calling a function costs, by where it runs and who sleeps. See --help.

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "floor.h"
#include "sleep_watch.h"
#include "suite.h"

namespace apta::bench {
namespace {

constexpr char kAbout[] =
    "Calls of functions, one after the other from one thread:\n"
    "  call/where:same_node      a function calls one on its own node (timed inside it)\n"
    "  call/where:same_process   the host is another node in the caller's process\n"
    "  call/where:other_node     the host is a process of its own\n"
    "  call/where:asleep         the same, 2 ms after home and host went to sleep; wake: a bare\n"
    "                            futex wake-up after the same time, per_wake: over that\n"
    "  call_bytes                the same as other_node, with so many bytes there and back\n"
    "  chain                     a function that calls the next one, 10 deep\n"
    "  fan_out                   100 are started, then waited for; 1 to 8 nodes of 2 threads\n"
    "  call_rate                 calls per second of one caller that keeps 4 under way for each\n"
    "                            of 1 to 8 nodes\n"
    "per_ring: over the bare ring round trip of the same turn.\n";

constexpr char kPool[] = "strict";
constexpr int kChain = 10;

std::unique_ptr<Server> g_server;

absl::StatusOr<Bytes> EchoInput(Invocation& call) {
  return Bytes(call.input().begin(), call.input().end());
}

Bytes ToBytes(const std::string& text) { return Bytes(AsBytes(text).begin(), AsBytes(text).end()); }

// Calls the next one, as often as the input says.
absl::StatusOr<Bytes> Chain(Invocation& call) {
  const int left = std::stoi(std::string(AsText(call.input())));
  if (left <= 1) return ToBytes("0");
  return call.Call("chain", AsBytes(std::to_string(left - 1)));
}

// The median of as many calls of "echo" as the input says, ns.
absl::StatusOr<Bytes> TimeCalls(Invocation& call) {
  const int calls = std::stoi(std::string(AsText(call.input())));
  Samples samples;
  for (int i = 0; i < calls; ++i) {
    const auto began = Clock::now();
    const absl::StatusOr<Bytes> result = call.Call("echo", AsBytes("hello"));
    samples.Add(NsSince(began));
    if (!result.ok()) return result.status();
  }
  return ToBytes(fmt::format("{}", samples.Median()));
}

FunctionHost MakeHost(const std::string& socket, const std::string& node, int threads) {
  absl::StatusOr<FunctionHost> host = FunctionHost::Create(Connect(socket, node, kPool), threads);
  if (!host.ok()) Die(host.status());
  const FunctionOptions options{.max_concurrency = threads};
  const std::pair<const char*, Function> functions[] = {
      {"echo", EchoInput}, {"chain", Chain}, {"time_calls", TimeCalls}};
  for (const auto& [name, function] : functions) {
    if (auto registered = host->Register(name, function, options); !registered.ok()) {
      Die(registered);
    }
  }
  return *std::move(host);
}

int RunHost(const std::vector<std::string>& words) {
  FunctionHost host = MakeHost(words[0], words[1], std::stoi(words[2]));
  return host.Run().ok() ? 0 : 1;
}

// Function hosts in processes of their own, and a caller that has been answered by them.
class Nodes {
 public:
  Nodes(int count, int threads) : client_(Connect(g_server->socket(), "caller", kPool)) {
    for (int i = 0; i < count; ++i) {
      const std::vector<std::string> words = {g_server->socket(), fmt::format("host-{}", i),
                                              std::to_string(threads)};
      processes_.push_back(std::make_unique<Process>("host", words, Cores::kAll));
    }
    while (CountReady() < count || !client_.Call("echo", AsBytes("ready?")).ok()) {
      for (const auto& process : processes_) {
        if (process->has_ended()) Die(absl::UnavailableError("a function host has ended"));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  // Until the memory server has forgotten them: what comes next must not be placed there.
  ~Nodes() {
    processes_.clear();
    while (CountReady() > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  Client& client() { return client_; }

 private:
  int CountReady() {
    const auto nodes = client_.Nodes();
    if (!nodes.ok()) Die(nodes.status());
    int ready = 0;
    for (const NodeInfo& node : *nodes) ready += node.functions.size() == 3 ? 1 : 0;
    return ready;
  }
  Client client_;
  std::vector<std::unique_ptr<Process>> processes_;
};

bool CallEcho(Client& client, BytesView input) {
  const absl::StatusOr<Bytes> result = client.Call("echo", input);
  return result.ok() && result->size() == input.size();
}

void CallSameNode(benchmark::State& state) {
  Nodes nodes(1, 2);
  TakeSamples(state, {.least = 3}, nullptr, [&](std::uint64_t) {
    const absl::StatusOr<Bytes> ns = nodes.client().Call("time_calls", AsBytes("500"));
    return ns.ok() ? std::stod(std::string(AsText(*ns))) : -1;
  });
}

void CallSameProcess(benchmark::State& state) {
  Client client = Connect(g_server->socket(), "caller", kPool);
  FunctionHost host = MakeHost(g_server->socket(), "host", 1);
  std::thread runs([&] {
    UseCores(Cores::kAll);
    (void)host.Run();
  });
  while (!CallEcho(client, AsBytes("ready?"))) std::this_thread::yield();
  Measure(state, {}, RingReference(),
          [&](std::uint64_t) { return CallEcho(client, AsBytes("hello")); });
  host.Stop();
  runs.join();
}

void CallOtherNode(benchmark::State& state, std::size_t bytes) {
  Nodes nodes(1, 1);
  const Bytes input(bytes, std::byte{1});
  Measure(state, {}, RingReference(),
          [&](std::uint64_t) { return CallEcho(nodes.client(), input); });
}

// Each beside a bare wake-up, both after the same time of sleep.
void CallAsleep(benchmark::State& state) {
  constexpr double kIdleNs = 2e6;
  Nodes nodes(1, 1);
  const SleepWatch watch(g_server->socket(), kPool);
  Sleeper sleeper;
  Samples wakes, calls;
  TakeSamples(state, {.least = 20}, nullptr, [&](std::uint64_t) {
    if (!watch.AwaitSleep()) return -1.0;
    SleepWatch::Spin(kIdleNs);  // the host sleeps by then too
    const auto began = Clock::now();
    const bool ok = CallEcho(nodes.client(), AsBytes("hello"));
    calls.Add(NsSince(began));
    if (!ok || !watch.AwaitSleep()) return -1.0;
    sleeper.Wake();
    SleepWatch::Spin(kIdleNs);
    wakes.Add(sleeper.Wake());
    return calls.all().back();
  });
  state.counters["wake_s"] = wakes.Median() * 1e-9;
  state.counters["per_wake"] = calls.Median() / std::max(wakes.Median(), 1.0);
}

void CallChain(benchmark::State& state) {
  Nodes nodes(1, kChain);
  Measure(state, {.least = 20}, RingReference(), [&](std::uint64_t) {
    return nodes.client().Call("chain", AsBytes(std::to_string(kChain))).ok();
  });
}

void FanOut(benchmark::State& state, int node_count) {
  constexpr int kCalls = 100;
  Nodes nodes(node_count, 2);
  Measure(state, {.least = 20}, RingReference(), [&](std::uint64_t) {
    std::vector<Pending> pending;
    for (int i = 0; i < kCalls; ++i) {
      absl::StatusOr<Pending> started = nodes.client().Start("echo", AsBytes("hello"));
      if (!started.ok()) return false;
      pending.push_back(*std::move(started));
    }
    bool ok = true;
    for (Pending& one : pending) ok = one.Wait().ok() && ok;
    return ok;
  });
}

// One caller that never waits for the first of its calls before it has begun the next ones.
void CallRate(benchmark::State& state, int node_count) {
  const std::size_t under_way = 4 * static_cast<std::size_t>(node_count);
  Nodes nodes(node_count, 2);
  for (auto _ : state) {
    std::deque<Pending> pending;
    std::uint64_t calls = 0;
    const auto began = Clock::now();
    while (calls == 0 || NsSince(began) < SecondsPerRepetition() * 1e9) {
      while (pending.size() < under_way) {
        absl::StatusOr<Pending> started = nodes.client().Start("echo", AsBytes("hello"));
        if (!started.ok()) return state.SkipWithError("a call was refused");
        pending.push_back(*std::move(started));
      }
      if (!pending.front().Wait().ok()) return state.SkipWithError("a call failed");
      pending.pop_front();
      ++calls;
    }
    const double seconds = NsSince(began) * 1e-9;
    state.SetIterationTime(seconds / static_cast<double>(calls));
    state.counters["calls_per_s"] = static_cast<double>(calls) / seconds;
  }
}

void RegisterAll() {
  g_server =
      std::make_unique<Server>(std::vector<PoolOptions>{{.name = kPool, .bytes = 256 << 20}});
  Add(Name("call", {{"where", "same_node"}}), CallSameNode);
  Add(Name("call", {{"where", "same_process"}}), CallSameProcess);
  Add(Name("call", {{"where", "other_node"}}), CallOtherNode, std::size_t{5});
  Add(Name("call", {{"where", "asleep"}}), CallAsleep);
  for (const std::size_t bytes : {4 << 10, 64 << 10, 1 << 20}) {
    Add(Name("call_bytes", {{"size", std::to_string(bytes)}}), CallOtherNode, bytes);
  }
  Add(Name("chain", {{"length", std::to_string(kChain)}}), CallChain);
  for (const int count : {1, 2, 4, 8}) {
    const std::string nodes = std::to_string(count);
    Add(Name("fan_out", {{"calls", "100"}, {"nodes", nodes}}), FanOut, count);
    Add(Name("call_rate", {{"nodes", nodes}}), CallRate, count);
  }
}

}  // namespace
}  // namespace apta::bench

int main(int argc, char** argv) {
  using namespace apta::bench;
  return Main(argc, argv,
              {.name = "calls_bench",
               .about = kAbout,
               .roles = {{"host", RunHost}},
               .register_all = RegisterAll,
               .clean_up = [] { g_server.reset(); }});
}
