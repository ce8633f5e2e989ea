// What the store's operations cost, beside what they are made of: the bare ring round trip and
// memcpy, measured by the same binary in the same run.
//
// The memory server runs in a process of its own (this binary once more), the client here; the put
// that makes a get miss comes from a second client. Every iteration is timed by itself where it has
// to be prepared (UseManualTime), and the client's own counters are checked: what is named a hit
// was one.

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "apta/apta.h"
#include "fabric/doorbell.h"
#include "fabric/message.h"
#include "fabric/port.h"
#include "fabric/ring.h"

extern char** environ;

namespace apta {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point began) {
  return std::chrono::duration<double>(Clock::now() - began).count();
}

std::string g_socket;  // of the memory server, set by main

// --- the memory server's process

constexpr std::uint64_t kPoolBytes = 1 << 30;

int RunServer(const std::string& socket, int ready_fd) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  ServerOptions options;
  options.socket = socket;
  options.pools = {{.name = "default", .bytes = kPoolBytes},
                   {.name = "trusted", .bytes = kPoolBytes, .access = "trusted"}};
  const absl::StatusOr<MemoryServer> server = MemoryServer::Start(options);
  if (!server.ok()) {
    fmt::print(stderr, "{}\n", server.status().ToString());
    return 1;
  }
  (void)!write(ready_fd, "x", 1);
  pause();
  return 0;
}

// --- the bare ring round trip: two processes, a submission ring, a lane; nothing behind it

struct Echo {
  fabric::SubmissionRing<> ring;
  fabric::Lane lane;
};

int RunEcho(int fd) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  void* data = mmap(nullptr, sizeof(Echo), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  auto* echo = static_cast<Echo*>(data);
  fabric::SubmissionConsumer<> requests(&echo->ring);
  while (true) {
    const fabric::Request* request = requests.Peek();
    if (request == nullptr) {
      fabric::CpuRelax();
      continue;
    }
    fabric::Request copy;
    std::memcpy(&copy, request, sizeof(copy));
    requests.Consume();
    echo->lane.done_id.store(copy.request_id);
  }
}

pid_t SpawnSelf(std::vector<std::string> words) {
  words.insert(words.begin(), "apta_bench");
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t pid = -1;
  posix_spawn(&pid, "/proc/self/exe", nullptr, nullptr, arguments.data(), environ);
  return pid;
}

void RingRoundTrip(benchmark::State& state) {
  const int fd = memfd_create("echo", 0);
  if (ftruncate(fd, sizeof(Echo)) != 0) return state.SkipWithError("ftruncate");
  void* data = mmap(nullptr, sizeof(Echo), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  auto* echo = static_cast<Echo*>(data);
  const pid_t pid = SpawnSelf({"--echo", std::to_string(fd)});
  fabric::SubmissionProducer<> requests(&echo->ring);
  std::uint32_t id = 0;
  const auto round_trip = [&] {
    ++id;
    while (!requests.TryPush([&](fabric::Request& request) {
      request.request_id = id;
      request.key_bytes = 16;
      std::memset(request.body, 'k', 16);
    })) {
    }
    while (echo->lane.done_id.load(std::memory_order_acquire) != id) fabric::CpuRelax();
  };
  for (int i = 0; i < 1000; ++i) round_trip();
  for (auto _ : state) round_trip();
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  munmap(data, sizeof(Echo));
  close(fd);
}

void Memcpy(benchmark::State& state) {
  const auto bytes = static_cast<std::size_t>(state.range(0));
  std::vector<char> from(bytes, 'a'), to(bytes, 'b');
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), bytes);
    benchmark::DoNotOptimize(to.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

// How long the kernel takes to wake a thread that has slept on a futex for 0.1 ms.
void FutexWakeUp(benchmark::State& state) {
  std::atomic<std::uint32_t> ping{0}, pong{0};
  std::thread sleeper([&] {
    for (std::uint32_t seen = 0;; ++seen) {
      while (ping.load() == seen) fabric::FutexWait(&ping, seen, 1'000'000'000);
      pong.store(seen + 1);
      if (ping.load() == ~0u) return;
    }
  });
  std::uint32_t round = 0;
  for (auto _ : state) {
    const auto rest = Clock::now();
    while (SecondsSince(rest) < 100e-6) fabric::CpuRelax();
    const auto began = Clock::now();
    ping.store(++round);
    fabric::FutexWake(&ping);
    while (pong.load() != round) fabric::CpuRelax();
    state.SetIterationTime(SecondsSince(began));
  }
  ping.store(~0u);
  fabric::FutexWake(&ping);
  sleeper.join();
}

// --- the store

Client Connect(const char* node, const char* pool = "default") {
  absl::StatusOr<Client> client = Client::Connect({.socket = g_socket, .pool = pool, .node = node});
  if (!client.ok()) {
    fmt::print(stderr, "{}\n", client.status().ToString());
    std::exit(1);
  }
  return *std::move(client);
}

// A key of 32 bytes, as in the targets.
std::string Key(const char* kind, std::int64_t bytes) {
  return fmt::format("{:-<16}{:->16}", kind, bytes);
}

void GetHit(benchmark::State& state) {
  Client client = Connect("bench");
  const std::string key = Key("hit", state.range(0));
  const Bytes value(static_cast<std::size_t>(state.range(0)));
  if (!client.Put(key, value).ok() || !client.Get(key).ok()) return state.SkipWithError("put");
  const ClientStats before = client.stats();
  for (auto _ : state) {
    const absl::StatusOr<Object> object = client.Get(key);
    benchmark::DoNotOptimize(object->bytes().data());
  }
  const ClientStats after = client.stats();
  if (after.misses != before.misses ||
      after.hits - before.hits < static_cast<std::uint64_t>(state.iterations())) {
    state.SkipWithError("not every hit was one");
  }
}

void GetMiss(benchmark::State& state) {
  Client client = Connect("bench");
  Client other = Connect("writer");
  const std::string key = Key("miss", state.range(0));
  const Bytes value(static_cast<std::size_t>(state.range(0)));
  const std::uint64_t misses_before = client.stats().misses;
  for (auto _ : state) {
    if (!other.Put(key, value).ok()) return state.SkipWithError("put");
    const auto began = Clock::now();
    const absl::StatusOr<Object> object = client.Get(key);
    state.SetIterationTime(SecondsSince(began));
    if (!object.ok()) return state.SkipWithError("get");
  }
  if (client.stats().misses - misses_before != static_cast<std::uint64_t>(state.iterations())) {
    state.SkipWithError("not every miss was one");
  }
}

void Put(benchmark::State& state) {
  Client client = Connect("bench");
  const std::string key = Key("put", state.range(0));
  const Bytes value(static_cast<std::size_t>(state.range(0)), std::byte{1});
  for (int i = 0; i < 4; ++i) {  // extents that later puts find warm
    if (!client.Put(key, value).ok()) return state.SkipWithError("put");
  }
  for (auto _ : state) {
    if (!client.Put(key, value).ok()) return state.SkipWithError("put");
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

void CreateCommit(benchmark::State& state) {
  Client client = Connect("bench", "trusted");
  const std::string key = Key("draft", state.range(0));
  for (auto _ : state) {
    absl::StatusOr<Draft> draft = client.Create(key, static_cast<std::size_t>(state.range(0)));
    if (!draft.ok() || !draft->Commit().ok()) return state.SkipWithError("draft");
  }
}

void Stat(benchmark::State& state) {
  Client client = Connect("bench");
  if (!client.Put("stat", AsBytes("x")).ok()) return state.SkipWithError("put");
  for (auto _ : state) {
    if (!client.Stat("stat").ok()) return state.SkipWithError("stat");
  }
}

void Call(benchmark::State& state) {
  Client client = Connect("bench");
  absl::StatusOr<FunctionHost> host = FunctionHost::Create(Connect("host"));
  if (!host->Register("echo",
                      [](Invocation& invocation) -> absl::StatusOr<Bytes> {
                        return Bytes(invocation.input().begin(), invocation.input().end());
                      })
           .ok()) {
    return state.SkipWithError("register");
  }
  std::thread runs([&] { (void)host->Run(); });
  while (!client.Call("echo", AsBytes("ready?")).ok()) std::this_thread::yield();
  for (auto _ : state) {
    if (!client.Call("echo", AsBytes("hello")).ok()) state.SkipWithError("call");
  }
  host->Stop();
  runs.join();
}

// --- the run

// Collects medians, and prints the table when all is measured.
class Table : public benchmark::ConsoleReporter {
 public:
  Table() : ConsoleReporter(isatty(STDOUT_FILENO) != 0 ? OO_ColorTabular : OO_Tabular) {}

  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.error_occurred) {
        failed_ = true;
      } else if (run.aggregate_name == "median" || run.run_type == Run::RT_Iteration) {
        median_ns_[run.run_name.function_name + "/" + run.run_name.args] =
            run.GetAdjustedRealTime() * 1e9 / benchmark::GetTimeUnitMultiplier(run.time_unit);
      }
    }
    ConsoleReporter::ReportRuns(runs);
  }

  void Print(const std::vector<std::int64_t>& sizes) {
    const double ring = Median("RingRoundTrip", "");
    fmt::print("\nbare ring round trip {:.0f} ns; medians in ns; × ring, and × (ring + memcpy)\n",
               ring);
    fmt::print("{:>10} {:>9} {:>10} {:>7} {:>12} {:>7} {:>12} {:>9}\n", "bytes", "get hit",
               "get miss", "× ring", "put", "×", "memcpy", "trusted");
    for (const std::int64_t size : sizes) {
      const std::string bytes = std::to_string(size);
      const double miss = Median("GetMiss", bytes), put = Median("Put", bytes);
      const double copy = Median("Memcpy", bytes);
      fmt::print("{:>10} {:>9.1f} {:>10.0f} {:>7.1f} {:>12.0f} {:>7.1f} {:>12.0f} {:>9.0f}\n", size,
                 Median("GetHit", bytes), miss, miss / ring, put, put / (ring + copy), copy,
                 Median("CreateCommit", bytes));
    }
  }
  bool failed() const { return failed_; }

 private:
  double Median(const std::string& function, const std::string& arguments) const {
    const auto entry = median_ns_.find(function + "/" + arguments);
    return entry != median_ns_.end() ? entry->second : 0;
  }
  std::map<std::string, double> median_ns_;
  bool failed_ = false;
};

void RegisterAll(const std::vector<std::int64_t>& sizes, bool quick) {
  const auto setup = [&](benchmark::internal::Benchmark* one) {
    one->Repetitions(quick ? 1 : 7)->ReportAggregatesOnly(!quick)->MinTime(quick ? 0.01 : 0.1);
    return one;
  };
  setup(benchmark::RegisterBenchmark("RingRoundTrip", RingRoundTrip))->UseRealTime();
  setup(benchmark::RegisterBenchmark("FutexWakeUp", FutexWakeUp))->UseManualTime();
  setup(benchmark::RegisterBenchmark("Stat", Stat))->UseRealTime();
  setup(benchmark::RegisterBenchmark("Call", Call))->UseRealTime();
  for (const std::int64_t size : sizes) {
    setup(benchmark::RegisterBenchmark("Memcpy", Memcpy))->UseRealTime()->Arg(size);
    setup(benchmark::RegisterBenchmark("GetHit", GetHit))->UseRealTime()->Arg(size);
    // Each miss is prepared by a put of that size, which is not timed: a count, not a time.
    benchmark::RegisterBenchmark("GetMiss", GetMiss)
        ->Arg(size)
        ->UseManualTime()
        ->Repetitions(quick ? 1 : 7)
        ->ReportAggregatesOnly(!quick)
        ->Iterations(std::clamp<std::int64_t>((256 << 20) / size, 8, quick ? 200 : 5000));
    setup(benchmark::RegisterBenchmark("Put", Put))->UseRealTime()->Arg(size);
    setup(benchmark::RegisterBenchmark("CreateCommit", CreateCommit))->UseRealTime()->Arg(size);
  }
}

int Main(int argc, char** argv) {
  if (argc == 4 && std::string(argv[1]) == "--server") {
    return RunServer(argv[2], std::stoi(argv[3]));
  }
  if (argc == 3 && std::string(argv[1]) == "--echo") return RunEcho(std::stoi(argv[2]));
  const bool quick = argc > 1 && std::string(argv[1]) == "--quick";
  if (quick) std::rotate(argv + 1, argv + 2, argv + argc--);

  std::string folder = std::filesystem::temp_directory_path() / "apta-bench-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return 1;
  g_socket = folder + "/aptad.sock";
  int ready[2];
  if (pipe(ready) != 0) return 1;
  const pid_t server = SpawnSelf({"--server", g_socket, std::to_string(ready[1])});
  close(ready[1]);
  char byte;
  const bool serves = read(ready[0], &byte, 1) == 1;

  const std::vector<std::int64_t> sizes =
      quick ? std::vector<std::int64_t>{64, 64 << 10, 8 << 20}
            : std::vector<std::int64_t>{64, 4 << 10, 64 << 10, 1 << 20, 8 << 20, 64 << 20};
  benchmark::Initialize(&argc, argv);
  bool ok = serves && !benchmark::ReportUnrecognizedArguments(argc, argv);
  if (ok) {
    RegisterAll(sizes, quick);
    Table table;
    // Population of the pools runs in the background: filling them by hand is not needed, but what
    // is measured before it ends would be measured beside it.
    {
      Client client = Connect("warm-up");
      const Bytes filler(64 << 20);
      for (int i = 0; i < 12; ++i) (void)client.Put(fmt::format("filler-{}", i), filler);
      for (int i = 0; i < 12; ++i) (void)client.Delete(fmt::format("filler-{}", i));
    }
    benchmark::RunSpecifiedBenchmarks(&table);
    table.Print(sizes);
    ok = !table.failed();
  }
  kill(server, SIGTERM);
  waitpid(server, nullptr, 0);
  std::filesystem::remove_all(folder);
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace apta

int main(int argc, char** argv) { return apta::Main(argc, argv); }
