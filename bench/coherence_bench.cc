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

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "suite.h"

namespace apta::bench {
namespace {

constexpr char kAbout[] =
    "What coherence costs, and what it keeps. Results are in the counters, in pairs that were\n"
    "measured in turns; the time of a line is that of a turn with its preparations.\n"
    "  put_beside_stopped   a put while all sharers run, and while one of them is stopped\n"
    "                       (--samples FILE: each put, for the CDF that tools/plot draws)\n"
    "  put_beside_holder    the same when the one that is stopped is also reading the old "
    "version,\n"
    "                       whose memory nobody may reuse until it lets go\n"
    "  strict_look          a cached hit that looks at the invalidation word, and one that does "
    "not\n"
    "  put_by_sharers       a put by how many nodes share the old version\n"
    "  stale_gets           gets and calls on a link whose messages overtake each other\n";

std::unique_ptr<Server> g_plain;     // the memory server without an emulated link
std::unique_ptr<Server> g_jittered;  // the one whose messages overtake each other
nlohmann::json g_samples;            // by benchmark and kind, ns; for --samples

constexpr char kKey[] = "an object that several nodes share";
constexpr std::uint64_t kSyncDeadlineMs = 200;
constexpr int kSharers = 3;

const Bytes kValue(64, std::byte{1});

// A version of the object: all its bytes are alike.
Bytes ValueOf(std::uint64_t put) { return Bytes(64, static_cast<std::byte>(put)); }
bool IsWhole(const Object& object, std::byte byte) {
  return std::ranges::all_of(object.bytes(), [byte](std::byte one) { return one == byte; });
}

// --- processes

constexpr std::size_t kCacheBytes = 1 << 20;

// A sharer's answer when it has got the version that it was told to get; counts since it began.
struct Answer {
  std::uint64_t older = 0;  // gets that returned an older version
  std::uint64_t reconnects = 0;
  std::uint64_t damaged = 0;       // objects that changed while they were held
  std::uint64_t pinned_bytes = 0;  // now
};

// A node that gets the object when it is told to, and sleeps otherwise; with "holds" it keeps what
// it has got until it is told the next time.
int RunSharer(const std::vector<std::string>& words) {
  Client client = Connect(words[0], words[2], words[1], kCacheBytes);
  const int fd = std::stoi(words[3]);
  const bool holds = words[4] == "holds";
  Answer answer;
  Version at_least;
  std::optional<Object> held;
  std::byte held_byte{};
  while (read(fd, &at_least, sizeof(at_least)) == sizeof(at_least)) {
    if (held && !IsWhole(*held, held_byte)) ++answer.damaged;
    held.reset();
    for (const auto began = Clock::now(); NsSince(began) < 10e9;) {
      const std::uint64_t hits = client.stats().hits;
      const absl::StatusOr<Object> object = client.Get(kKey);
      const bool is_new = object.ok() && object->version() >= at_least;
      // A hit, or it was read while the home slept and is no sharer's yet.
      if (is_new && client.stats().hits > hits) {
        if (holds) held = *object, held_byte = object->bytes()[0];
        break;
      }
      // lazy: its agent has not applied the invalidation yet
      if (object.ok() && !is_new) ++answer.older;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    answer.reconnects = client.stats().reconnects;
    answer.pinned_bytes = client.stats().bytes_pinned;
    if (write(fd, &answer, sizeof(answer)) != sizeof(answer)) return 1;
  }
  return 0;
}

class Sharer {
 public:
  Sharer(const std::string& pool, int number, bool holds = false) {
    int fd[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) != 0) std::abort();
    const int theirs = dup(fd[1]);  // survives the spawn
    const std::vector<std::string> words = {g_plain->socket(), pool,
                                            fmt::format("sharer-{}", number),
                                            std::to_string(theirs), holds ? "holds" : "lets go"};
    process_ = std::make_unique<Process>("sharer", words);
    close(theirs);
    close(fd[1]);
    fd_ = fd[0];
  }
  Sharer(const Sharer&) = delete;
  Sharer& operator=(const Sharer&) = delete;
  ~Sharer() { close(fd_); }

  void Tell(Version version) { (void)!write(fd_, &version, sizeof(version)); }
  bool Await() { return read(fd_, &answer_, sizeof(answer_)) == sizeof(answer_); }
  void Stop() { process_->Signal(SIGSTOP, WUNTRACED); }
  void Continue() { process_->Signal(SIGCONT, WCONTINUED); }
  const Answer& answer() const { return answer_; }

 private:
  std::unique_ptr<Process> process_;
  int fd_;
  Answer answer_;
};

// Puts the object, and sees to it that each put meets the sharers that it is said to meet.
class Writer {
 public:
  explicit Writer(const std::string& pool)
      : client_(Connect(g_plain->socket(), "writer", pool, kCacheBytes)) {
    version_ = client_.Put(kKey, kValue).value_or(0);
  }
  Version version() const { return version_; }
  void PutForNobody() { version_ = client_.Put(kKey, kValue).value_or(0); }

  // ns; 0 = it failed, or not `others` nodes shared the old version.
  double PutSharedBy(std::uint64_t others) {
    // Who was told something goes to sleep again; then the home is awake, and asked.
    auto began = Clock::now();
    while (NsSince(began) < 50e3) sched_yield();
    const absl::StatusOr<ObjectInfo> info = client_.Stat(kKey);
    if (!info.ok() || info->sharers != others + 1) return 0;  // the writer caches what it wrote
    const Bytes value = ValueOf(++puts_);
    began = Clock::now();
    const absl::StatusOr<Version> version = client_.Put(kKey, value);
    const double ns = NsSince(began);
    version_ = version.value_or(0);
    return version.ok() ? ns : 0;
  }

 private:
  Client client_;
  Version version_ = 0;
  std::uint64_t puts_ = 0;
};

// --- 1, 2. a put beside a sharer that is stopped

std::string NameOfStopped(const std::string& pool, int puts, bool holds) {
  return Name(holds ? "put_beside_holder" : "put_beside_stopped",
              {{"mode", pool}, {"puts", std::to_string(puts)}});
}

// Turns of `puts` puts with all sharers running, and as many with one of them stopped: it shares
// the version that the first of these replaces, and owes an acknowledgement from then on. The
// others get each version. With turns of one put, each put beside a stopped sharer invalidates it.
// While all sharers run, a node that shares nothing is stopped: the machine is as busy. In a pool
// whose puts wait (sync), the stopped sharer is fenced each time. With `holds` the last sharer
// holds an Object of each version that it shares, so that memory which it reads meets all later
// puts.
void PutBesideAStoppedSharer(benchmark::State& state, const std::string& pool, int puts,
                             bool holds) {
  Writer writer(pool);
  std::vector<std::unique_ptr<Sharer>> sharers;
  for (int i = 0; i < kSharers; ++i) {
    sharers.push_back(std::make_unique<Sharer>(pool, i, holds && i == kSharers - 1));
  }
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
        if (holds && (put == 0 || !stops) && last.answer().pinned_bytes == 0) {
          return state.SkipWithError("the holder holds nothing");
        }
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
  if (last.answer().damaged != 0) state.SkipWithError("an object changed while it was held");
  for (const auto& sharer : sharers) {
    if (pool == "strict" && sharer->answer().older != 0) state.SkipWithError("a stale strict get");
  }
  running.Report(&state, "running");
  stopped.Report(&state, "stopped");
  const std::string name = NameOfStopped(pool, puts, holds);
  g_samples[name] = {{"running", running.all()}, {"stopped", stopped.all()}};
  state.counters["ratio_p50"] = stopped.Median() / running.Median();
  state.counters["ratio_p99"] = stopped.Quantile(0.99) / running.Quantile(0.99);
}

// --- 3. a cached hit that looks at the invalidation word, and one that does not

// Several nodes of each kind: where a node's memory happens to lie matters more than the look.
void StrictLook(benchmark::State& state) {
  constexpr int kPairs = 8, kBatch = 1000;
  std::vector<Client> strict, lazy;
  for (int i = 0; i < kPairs; ++i) {
    strict.push_back(
        Connect(g_plain->socket(), fmt::format("strict-{}", i), "strict", kCacheBytes));
    lazy.push_back(Connect(g_plain->socket(), fmt::format("lazy-{}", i), "lazy", kCacheBytes));
  }
  (void)strict[0].Put(kKey, kValue), (void)lazy[0].Put(kKey, kValue);
  const auto batch = [&](Client* client) {
    if (!GetUntilHit(client, kKey)) Die(absl::NotFoundError(kKey));
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
void PutBySharers(benchmark::State& state, std::size_t sharers) {
  constexpr int kNodes = 64;
  constexpr char kOther[] = "an object that nobody changes";
  Writer writer("strict");
  std::vector<Client> nodes;
  for (int i = 0; i < kNodes; ++i) {
    nodes.push_back(Connect(g_plain->socket(), fmt::format("node-{}", i), "strict", kCacheBytes));
  }
  if (!nodes[0].Put(kOther, kValue).ok()) return state.SkipWithError("put");
  Samples shared, alone;
  std::array<bool, 2> turn = {true, false};
  for (auto _ : state) {
    for (const bool shares : turn) {
      // What a node has read while the home slept it registers later, perhaps when nobody is to
      // share: then the turn is taken again.
      double ns = 0;
      for (int attempt = 0; ns == 0 && attempt < 100; ++attempt) {
        // The other object's get makes a node look, and acknowledge what is there.
        for (std::size_t i = 0; i < sharers; ++i) {
          const bool ok = shares ? GetUntilHit(&nodes[i], kKey) : nodes[i].Get(kOther).ok();
          if (!ok) return state.SkipWithError("get");
        }
        ns = writer.PutSharedBy(shares ? sharers : 0);
        if (ns == 0) writer.PutForNobody();
      }
      if (ns == 0) return state.SkipWithError("a put failed, or not the sharers");
      (shares ? shared : alone).Add(ns);
    }
    std::swap(turn[0], turn[1]);
  }
  shared.Report(&state, "put");
  alone.Report(&state, "alone");
  state.counters["per_sharer_s"] = (shared.Median() - alone.Median()) * 1e-9 /
                                   static_cast<double>(std::max<std::size_t>(sharers, 1));
}

// --- 5. gets on a link that delays messages, outside functions and inside

struct Reading {
  std::atomic<Version> acknowledged;  // the newest version whose put has returned
  std::atomic<std::uint64_t> gets;
  std::atomic<std::uint64_t> stale;  // of these: older than what had been acknowledged before
};

int RunReader(const std::vector<std::string>& words) {
  const std::string &socket = words[0], &pool = words[1];
  const SharedBytes shared(std::stoi(words[2]), sizeof(Reading));
  auto* reading = shared.as<Reading>();
  absl::StatusOr<FunctionHost> host =
      FunctionHost::Create(Connect(socket, "host", pool, kCacheBytes));
  const absl::Status registered =
      host->Register("version", [](Invocation& call) -> absl::StatusOr<Bytes> {
        const absl::StatusOr<Object> object = call.Get(kKey);
        if (!object.ok()) return object.status();
        const std::string text = std::to_string(object->version());
        return Bytes(AsBytes(text).begin(), AsBytes(text).end());
      });
  if (!registered.ok()) Die(registered);
  std::thread runs([&] { (void)host->Run(); });
  Client client = Connect(socket, "reader", pool, kCacheBytes);
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
  const SharedBytes shared(sizeof(Reading));
  auto* reading = shared.as<Reading>();
  Client client = Connect(g_jittered->socket(), "writer", pool, kCacheBytes);
  if (!client.Put(kKey, kValue).ok()) return state.SkipWithError("put");
  Process reader("reader", {g_jittered->socket(), pool, std::to_string(shared.fd())});
  while (!client.Call("version", {}).ok()) {
    if (reader.has_ended()) return state.SkipWithError("no reader");
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
  reader.End(SIGKILL);
  const auto gets = static_cast<double>(reading->gets.load());
  const auto stale = static_cast<double>(reading->stale.load());
  state.counters["gets"] = gets;
  state.counters["stale"] = stale;
  state.counters["stale_share"] = stale / std::max(gets, 1.0);
  state.counters["stale_in_calls"] = static_cast<double>(stale_calls);
  call.Report(&state, "call");
  if (stale_calls != 0) state.SkipWithError("a function read what was old when it was called");
  if (pool == "sync" && stale != 0) state.SkipWithError("a stale get in a pool whose puts wait");
}

// --- the run

std::vector<PoolOptions> Pools(std::uint64_t ack_deadline_ms) {
  constexpr std::uint64_t kBytes = 64 << 20;
  const auto pool = [](const std::string& mode, std::uint64_t deadline_ms) {
    return PoolOptions{
        .name = mode, .bytes = kBytes, .coherence = mode, .ack_deadline_ms = deadline_ms};
  };
  return {pool("strict", ack_deadline_ms), pool("lazy", ack_deadline_ms),
          pool("sync", kSyncDeadlineMs)};
}

void RegisterAll() {
  // Longer than any stop here; but where nobody is stopped, the default.
  g_plain = std::make_unique<Server>(Pools(3'600'000));
  g_jittered = std::make_unique<Server>(Pools(2000), 1, "latency=5us,jitter=50us");
  const double seconds = CurrentRun().quick ? 0.02 : 3;
  // All turns of one benchmark are one pool of samples.
  const auto add = [&](const std::string& name, auto function, const auto&... arguments) {
    benchmark::RegisterBenchmark(name.c_str(), function, arguments...)
        ->UseRealTime()
        ->MinTime(seconds);
  };
  for (const std::string mode : {"strict", "lazy", "sync"}) {
    for (const int puts : {200, 1}) {
      if (mode == "sync" && puts > 1) continue;  // its puts wait for the one who is stopped
      for (const bool holds : {false, true}) {
        if (mode == "sync" && holds) continue;  // fenced, its next session holds nothing
        add(NameOfStopped(mode, puts, holds), PutBesideAStoppedSharer, mode, puts, holds);
      }
    }
  }
  add("strict_look", StrictLook);
  for (const int sharers : {0, 1, 8, 64}) {
    add(Name("put_by_sharers", {{"sharers", std::to_string(sharers)}}), PutBySharers,
        static_cast<std::size_t>(sharers));
  }
  for (const std::string mode : {"lazy", "strict", "sync"}) {
    add(Name("stale_gets", {{"mode", mode}}), StaleGets, mode);
  }
}

void CleanUp() {
  g_plain.reset();
  g_jittered.reset();
  if (CurrentRun().samples.empty() || g_samples.empty()) return;
  const nlohmann::json all = {{"quick", CurrentRun().quick}, {"samples", g_samples}};
  std::ofstream(CurrentRun().samples) << all << "\n";
}

}  // namespace
}  // namespace apta::bench

int main(int argc, char** argv) {
  using namespace apta::bench;
  return Main(argc, argv,
              {.name = "coherence_bench",
               .about = kAbout,
               .roles = {{"sharer", RunSharer}, {"reader", RunReader}},
               .register_all = RegisterAll,
               .clean_up = CleanUp});
}
