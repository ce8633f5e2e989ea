// What coherence costs, and what it keeps: a put beside a stopped sharer, a put by how many share
// the old version, a cached hit with and without the look, gets on a link that delays messages.
//
// Whatever is compared is measured in one run, in turns (A B B A: what repeats with every second
// put, like the extent that it fills, meets both), and each side's samples are pooled. Preparations
// are not timed, and are checked: before each put the home says how many share the old version.
// Results are in the counters; the time of an iteration is that of a turn with its preparations.
//
// Memory servers, sharers and readers are processes of their own (this binary once more). The homes
// have the last core to themselves, everything else shares the others: else it is chance who meets
// whom, which a put notices more than anything that is measured here.

#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "apta/apta.h"

extern char** environ;

namespace apta {
namespace {

using Clock = std::chrono::steady_clock;

double NsSince(Clock::time_point began) {
  return std::chrono::duration<double, std::nano>(Clock::now() - began).count();
}

std::string g_socket;    // of the memory server without an emulated link, set by main
std::string g_jittered;  // of the one whose messages overtake each other

constexpr char kKey[] = "an object that several nodes share";
constexpr std::uint64_t kSyncDeadlineMs = 200;
constexpr int kSharers = 3;

const Bytes kValue(64, std::byte{1});

// Calls of one kind.
class Samples {
 public:
  void Add(double ns) { ns_.push_back(ns); }
  double Quantile(double q) {
    if (ns_.empty()) return 0;
    const auto rank = static_cast<std::ptrdiff_t>(q * static_cast<double>(ns_.size() - 1));
    std::nth_element(ns_.begin(), ns_.begin() + rank, ns_.end());
    return ns_[static_cast<std::size_t>(rank)];
  }
  double Median() { return Quantile(0.5); }
  void Report(benchmark::State* state, const std::string& name) {
    state->counters[name + "_p50_ns"] = Median();
    state->counters[name + "_p99_ns"] = Quantile(0.99);
  }

 private:
  std::vector<double> ns_;
};

// --- processes

[[noreturn]] void Die(const absl::Status& status) {
  fmt::print(stderr, "{}\n", status.ToString());
  std::exit(1);
}

pid_t SpawnSelf(std::vector<std::string> words) {
  words.insert(words.begin(), "coherence_bench");
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t pid = -1;
  const int error =
      posix_spawn(&pid, "/proc/self/exe", nullptr, nullptr, arguments.data(), environ);
  if (error != 0) Die(absl::ErrnoToStatus(error, "posix_spawn"));
  return pid;
}

void End(pid_t pid, int signal_number) {
  kill(pid, signal_number);
  waitpid(pid, nullptr, 0);
}

Client Connect(const std::string& socket, const std::string& node, const std::string& pool) {
  absl::StatusOr<Client> client =
      Client::Connect({.socket = socket, .pool = pool, .node = node, .cache_bytes = 1 << 20});
  if (!client.ok()) Die(client.status());
  return *std::move(client);
}

int RunServer(const std::string& socket, const std::string& link) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  constexpr std::uint64_t kBytes = 64 << 20;
  ServerOptions options{.socket = socket, .link = *LinkOptions::Parse(link)};
  // Longer than any stop here; but where nobody is stopped, the default.
  const std::uint64_t deadline_ms = options.link.enabled() ? 2000 : 3'600'000;
  options.pools = {
      {.name = "strict", .bytes = kBytes, .coherence = "strict", .ack_deadline_ms = deadline_ms},
      {.name = "lazy", .bytes = kBytes, .coherence = "lazy", .ack_deadline_ms = deadline_ms},
      {.name = "sync", .bytes = kBytes, .coherence = "sync", .ack_deadline_ms = kSyncDeadlineMs}};
  const absl::StatusOr<MemoryServer> server = MemoryServer::Start(options);
  if (!server.ok()) Die(server.status());
  pause();
  return 0;
}

// A sharer's answer when it has got the version that it was told to get; counts since it began.
struct Answer {
  std::uint64_t older = 0;  // gets that returned an older version
  std::uint64_t reconnects = 0;
};

// A node that gets the object when it is told to, and sleeps otherwise.
int RunSharer(const std::string& pool, const std::string& node, int fd) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  Client client = Connect(g_socket, node, pool);
  Answer answer;
  Version at_least;
  while (read(fd, &at_least, sizeof(at_least)) == sizeof(at_least)) {
    for (const auto began = Clock::now(); NsSince(began) < 10e9;) {
      const std::uint64_t hits = client.stats().hits;
      const absl::StatusOr<Object> object = client.Get(kKey);
      const bool is_new = object.ok() && object->version() >= at_least;
      // A hit, or it was read while the home slept and is no sharer's yet.
      if (is_new && client.stats().hits > hits) break;
      // lazy: its agent has not applied the invalidation yet
      if (object.ok() && !is_new) ++answer.older;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    answer.reconnects = client.stats().reconnects;
    if (write(fd, &answer, sizeof(answer)) != sizeof(answer)) return 1;
  }
  return 0;
}

class Sharer {
 public:
  Sharer(const std::string& pool, int number) {
    int fd[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) != 0) std::abort();
    const int theirs = dup(fd[1]);  // survives the spawn
    pid_ = SpawnSelf(
        {"--sharer", g_socket, pool, fmt::format("sharer-{}", number), std::to_string(theirs)});
    close(theirs);
    close(fd[1]);
    fd_ = fd[0];
  }
  Sharer(const Sharer&) = delete;
  Sharer& operator=(const Sharer&) = delete;
  ~Sharer() {
    End(pid_, SIGKILL);
    close(fd_);
  }

  void Tell(Version version) { (void)!write(fd_, &version, sizeof(version)); }
  bool Await() { return read(fd_, &answer_, sizeof(answer_)) == sizeof(answer_); }
  void Stop() { Send(SIGSTOP, WUNTRACED); }
  void Continue() { Send(SIGCONT, WCONTINUED); }
  const Answer& answer() const { return answer_; }

 private:
  void Send(int signal_number, int until) {
    kill(pid_, signal_number);
    waitpid(pid_, nullptr, until);
  }
  pid_t pid_;
  int fd_;
  Answer answer_;
};

// Puts the object, and sees to it that each put meets the sharers that it is said to meet.
class Writer {
 public:
  explicit Writer(const std::string& pool) : client_(Connect(g_socket, "writer", pool)) {
    version_ = client_.Put(kKey, kValue).value_or(0);
  }
  Version version() const { return version_; }

  // ns; 0 = it failed, or not `others` nodes shared the old version.
  double PutSharedBy(std::uint64_t others) {
    // Who was told something goes to sleep again; then the home is awake, and asked.
    auto began = Clock::now();
    while (NsSince(began) < 50e3) sched_yield();
    const absl::StatusOr<ObjectInfo> info = client_.Stat(kKey);
    if (!info.ok() || info->sharers != others + 1) return 0;  // the writer caches what it wrote
    began = Clock::now();
    const absl::StatusOr<Version> version = client_.Put(kKey, kValue);
    const double ns = NsSince(began);
    version_ = version.value_or(0);
    return version.ok() ? ns : 0;
  }

 private:
  Client client_;
  Version version_ = 0;
};

// --- 1, 2. a put beside a sharer that is stopped

// Turns of `puts` puts with all sharers running, and as many with one of them stopped: it shares
// the version that the first of these replaces, and owes an acknowledgement from then on. The
// others get each version. With turns of one put, each put beside a stopped sharer invalidates it.
// While all sharers run, a node that shares nothing is stopped: the machine is as busy. In a pool
// whose puts wait (sync), the stopped sharer is fenced each time.
void PutBesideAStoppedSharer(benchmark::State& state, const std::string& pool, int puts) {
  Writer writer(pool);
  std::vector<std::unique_ptr<Sharer>> sharers;
  for (int i = 0; i < kSharers; ++i) sharers.push_back(std::make_unique<Sharer>(pool, i));
  Sharer bystander(pool, kSharers), &last = *sharers.back();
  const auto share = [&](std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) sharers[i]->Tell(writer.version());
    bool all = true;
    for (std::size_t i = 0; i < count; ++i) all = sharers[i]->Await() && all;
    return all;
  };
  Samples running, stopped;
  std::array<bool, 2> turn = {false, true};
  for (auto _ : state) {
    for (const bool stops : turn) {
      for (int put = 0; put < puts; ++put) {
        const std::size_t count = stops && put > 0 ? kSharers - 1 : kSharers;
        if (!share(count)) return state.SkipWithError("a sharer does not answer");
        if (put == 0) (stops ? last : bystander).Stop();
        const double ns = writer.PutSharedBy(count);
        if (ns == 0) return state.SkipWithError("a put failed, or not every sharer is one");
        (stops ? stopped : running).Add(ns);
      }
      (stops ? last : bystander).Continue();
    }
    std::swap(turn[0], turn[1]);
  }
  if (!share(kSharers)) return state.SkipWithError("a sharer does not answer");
  const bool waits = pool == "sync";
  const auto fenced = waits ? static_cast<std::uint64_t>(state.iterations()) : 0;
  if (last.answer().reconnects != fenced) state.SkipWithError("not fenced when it must be");
  if (waits && stopped.Quantile(0) < kSyncDeadlineMs * 1e6) state.SkipWithError("did not wait");
  for (const auto& sharer : sharers) {
    if (pool == "strict" && sharer->answer().older != 0) state.SkipWithError("a stale strict get");
  }
  running.Report(&state, "running");
  stopped.Report(&state, "stopped");
  state.counters["ratio_p50"] = stopped.Median() / running.Median();
  state.counters["ratio_p99"] = stopped.Quantile(0.99) / running.Quantile(0.99);
}

// --- 3. a cached hit that looks at the invalidation word, and one that does not

// Several nodes of each kind: where a node's memory happens to lie matters more than the look.
void StrictLook(benchmark::State& state) {
  constexpr int kPairs = 8, kBatch = 1000;
  std::vector<Client> strict, lazy;
  for (int i = 0; i < kPairs; ++i) {
    strict.push_back(Connect(g_socket, fmt::format("strict-{}", i), "strict"));
    lazy.push_back(Connect(g_socket, fmt::format("lazy-{}", i), "lazy"));
  }
  (void)strict[0].Put(kKey, kValue), (void)lazy[0].Put(kKey, kValue);
  const auto batch = [&](Client* client) {
    while (client->stats().hits == 0) {  // the first ones may miss
      if (!client->Get(kKey).ok()) Die(absl::NotFoundError(kKey));
    }
    const std::uint64_t hits = client->stats().hits;
    const auto began = Clock::now();
    for (int i = 0; i < kBatch; ++i) {
      const absl::StatusOr<Object> object = client->Get(kKey);
      benchmark::DoNotOptimize(object->bytes().data());
    }
    const double ns = NsSince(began) / kBatch;
    if (client->stats().hits - hits < kBatch) state.SkipWithError("not each was a hit");
    return ns;
  };
  Samples with, without, differences;
  for (auto _ : state) {
    for (std::size_t i = 0; i < kPairs; ++i) {
      const double looks = batch(&strict[i]), does_not = batch(&lazy[i]);
      with.Add(looks);
      without.Add(does_not);
      differences.Add(looks - does_not);
    }
  }
  with.Report(&state, "strict");
  without.Report(&state, "lazy");
  differences.Report(&state, "difference");
}

// --- 4. a put by the number of nodes that share the old version

// As many nodes are attached in each case, because a home looks at each node's ring. Beside the
// puts that are measured, in turns, the same puts when nobody shares: what is between them is the
// sharers' part.
void PutBySharers(benchmark::State& state) {
  constexpr int kNodes = 64;
  constexpr char kOther[] = "an object that nobody changes";
  const auto sharers = static_cast<std::size_t>(state.range(0));
  Writer writer("strict");
  std::vector<Client> nodes;
  for (int i = 0; i < kNodes; ++i) {
    nodes.push_back(Connect(g_socket, fmt::format("node-{}", i), "strict"));
  }
  if (!nodes[0].Put(kOther, kValue).ok()) return state.SkipWithError("put");
  Samples shared, alone;
  std::array<bool, 2> turn = {true, false};
  for (auto _ : state) {
    for (const bool shares : turn) {
      // The other object's get makes a node look, and acknowledge what is there.
      for (std::size_t i = 0; i < sharers; ++i) {
        if (!nodes[i].Get(shares ? kKey : kOther).ok()) return state.SkipWithError("get");
      }
      const double ns = writer.PutSharedBy(shares ? sharers : 0);
      if (ns == 0) return state.SkipWithError("a put failed, or not the sharers");
      (shares ? shared : alone).Add(ns);
    }
    std::swap(turn[0], turn[1]);
  }
  shared.Report(&state, "put");
  alone.Report(&state, "alone");
  state.counters["ns_per_sharer"] =
      (shared.Median() - alone.Median()) / static_cast<double>(std::max<std::size_t>(sharers, 1));
}

// --- 5. gets on a link that delays messages, outside functions and inside

struct Reading {
  std::atomic<Version> acknowledged;  // the newest version whose put has returned
  std::atomic<std::uint64_t> gets;
  std::atomic<std::uint64_t> stale;  // of these: older than what had been acknowledged before
};

Reading* MapReading(int fd) {
  void* data = mmap(nullptr, sizeof(Reading), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return static_cast<Reading*>(data);
}

// Two nodes: one gets again and again, the other runs the function.
int RunReader(const std::string& pool, int fd) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  Reading* reading = MapReading(fd);
  absl::StatusOr<FunctionHost> host = FunctionHost::Create(Connect(g_jittered, "host", pool));
  const absl::Status registered =
      host->Register("version", [](Invocation& call) -> absl::StatusOr<Bytes> {
        const absl::StatusOr<Object> object = call.Get(kKey);
        if (!object.ok()) return object.status();
        const std::string text = std::to_string(object->version());
        return Bytes(AsBytes(text).begin(), AsBytes(text).end());
      });
  if (!registered.ok()) Die(registered);
  std::thread runs([&] { (void)host->Run(); });
  Client client = Connect(g_jittered, "reader", pool);
  while (true) {
    std::this_thread::sleep_for(std::chrono::microseconds(20));
    const Version acknowledged = reading->acknowledged.load();
    const absl::StatusOr<Object> object = client.Get(kKey);
    if (!object.ok() || acknowledged == 0) continue;
    ++reading->gets;
    if (object->version() < acknowledged) ++reading->stale;
  }
}

void StaleGets(benchmark::State& state, const std::string& pool) {
  const int fd = memfd_create("reading", 0);
  if (ftruncate(fd, sizeof(Reading)) != 0) return state.SkipWithError("ftruncate");
  Reading* reading = MapReading(fd);
  Client client = Connect(g_jittered, "writer", pool);
  if (!client.Put(kKey, kValue).ok()) return state.SkipWithError("put");
  const pid_t reader = SpawnSelf({"--reader", g_jittered, pool, std::to_string(fd)});
  while (!client.Call("version", {}).ok()) {
    if (waitpid(reader, nullptr, WNOHANG) != 0) return state.SkipWithError("no reader");
  }
  std::uint64_t stale_calls = 0;
  CallOptions options, other{.reads = {kKey}};  // declared or not, in turns
  Samples call;
  for (auto _ : state) {
    const absl::StatusOr<Version> version = client.Put(kKey, kValue);
    if (version.ok()) reading->acknowledged.store(*version);
    std::swap(options, other);
    const auto began = Clock::now();
    const absl::StatusOr<Bytes> result = client.Call("version", {}, options);
    call.Add(NsSince(began));
    if (!version.ok() || !result.ok()) {
      state.SkipWithError((version.ok() ? result.status() : version.status()).ToString().c_str());
      break;
    }
    if (std::stoull(std::string(AsText(*result))) < *version) ++stale_calls;
  }
  End(reader, SIGKILL);
  const auto gets = static_cast<double>(reading->gets.load());
  const auto stale = static_cast<double>(reading->stale.load());
  munmap(reading, sizeof(Reading));
  close(fd);
  state.counters["gets"] = gets;
  state.counters["stale"] = stale;
  state.counters["stale_share"] = stale / std::max(gets, 1.0);
  state.counters["stale_in_calls"] = static_cast<double>(stale_calls);
  call.Report(&state, "call");
  if (stale_calls != 0) state.SkipWithError("a function read what was old when it was called");
  if (pool == "sync" && stale != 0) state.SkipWithError("a stale get in a pool whose puts wait");
}

// --- the run

class Reporter : public benchmark::ConsoleReporter {
 public:
  Reporter() : ConsoleReporter(isatty(STDOUT_FILENO) != 0 ? OO_ColorTabular : OO_Tabular) {}
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) failed_ = failed_ || run.error_occurred;
    ConsoleReporter::ReportRuns(runs);
  }
  bool failed() const { return failed_; }

 private:
  bool failed_ = false;
};

void RegisterAll() {
  const auto add = [](const std::string& name, auto function, const auto&... arguments) {
    return benchmark::RegisterBenchmark(name.c_str(), function, arguments...)->UseRealTime();
  };
  const std::string put = "PutBesideAStoppedSharer/";
  for (const std::string pool : {"strict", "lazy"}) {
    add(put + pool, PutBesideAStoppedSharer, pool, 200);
    add(put + pool + "/each", PutBesideAStoppedSharer, pool, 1);
  }
  add(put + "sync", PutBesideAStoppedSharer, "sync", 1);
  add("StrictLook", StrictLook);
  add("PutBySharers", PutBySharers)->ArgsProduct({{0, 1, 8, 64}});
  for (const std::string pool : {"lazy", "strict", "sync"})
    add("StaleGets/" + pool, StaleGets, pool);
}

// What this thread begins from now on runs on the last core, or on the others, if there are some.
void UseCores(bool last) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  for (int core = 0; core < get_nprocs(); ++core) {
    if (last == (core == get_nprocs() - 1)) CPU_SET(static_cast<unsigned>(core), &cores);
  }
  sched_setaffinity(0, sizeof(cores), &cores);
}

pid_t StartServer(const std::string& socket, const std::string& link) {
  const pid_t pid = SpawnSelf({"--server", socket, link});
  while (!Client::Connect({.socket = socket, .pool = "strict"}).ok()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (waitpid(pid, nullptr, WNOHANG) != 0) Die(absl::UnavailableError("no memory server"));
  }
  return pid;
}

int Main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() >= 2) g_socket = g_jittered = words[1];
  if (words.size() == 3 && words[0] == "--server") return RunServer(words[1], words[2]);
  if (words.size() == 5 && words[0] == "--sharer") {
    return RunSharer(words[2], words[3], std::stoi(words[4]));
  }
  if (words.size() == 4 && words[0] == "--reader") {
    return RunReader(words[2], std::stoi(words[3]));
  }
  const bool quick = !words.empty() && words[0] == "--quick";
  std::string min_time = quick ? "--benchmark_min_time=0.02" : "--benchmark_min_time=3";
  std::vector<char*> arguments = {argv[0], min_time.data()};
  arguments.insert(arguments.end(), argv + (quick ? 2 : 1), argv + argc);
  int count = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 1;

  std::string folder = std::filesystem::temp_directory_path() / "apta-bench-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return 1;
  g_socket = folder + "/aptad.sock";
  g_jittered = folder + "/jittered.sock";
  UseCores(/*last=*/true);
  const pid_t plain = StartServer(g_socket, "none");
  const pid_t jittered = StartServer(g_jittered, "latency=5us,jitter=50us");
  UseCores(/*last=*/false);
  RegisterAll();
  Reporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  End(plain, SIGTERM);
  End(jittered, SIGTERM);
  std::filesystem::remove_all(folder);
  return reporter.failed() ? 1 : 0;
}

}  // namespace
}  // namespace apta

int main(int argc, char** argv) { return apta::Main(argc, argv); }
