#include "crew.h"

#include <fmt/format.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <thread>
#include <vector>

#include "fabric/doorbell.h"

namespace apta::bench {
namespace {

constexpr int kMaxThreads = 256;

struct Page {
  alignas(64) std::atomic<std::uint32_t> ready;    // threads that are warm
  alignas(64) std::atomic<std::uint32_t> at_work;  // futex: 1 = everybody works
  struct alignas(64) Count {
    std::atomic<std::uint64_t> calls;
    std::atomic<std::uint64_t> failures;
  } count[kMaxThreads];
};

// xorshift: which object is next.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e37'79b9'7f4a'7c15u | 1) {}
  std::uint64_t Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }

 private:
  std::uint64_t state_;
};

class Worker {
 public:
  Worker(Client* client, const Work& work, int number, Page* page)
      : client_(client),
        work_(work),
        count_(&page->count[number]),
        page_(page),
        call_(CallNamed(work.op)),
        kind_(work.op == "get_miss" ? "object"
              : work.same_keys      ? "shared"
                                    : fmt::format("own-{}-", number)),
        random_(static_cast<std::uint64_t>(number) + 1),
        value_(work.size_bytes, std::byte{1}) {
    for (std::uint64_t i = 0; work.op != "get_miss" && i < work.keys; ++i) {
      keys_.push_back(Key(kind_, i));
    }
  }

  void Run() {
    bool ok = true;
    for (const std::string& key : keys_) {
      versions_.push_back(client_->Put(key, value_).value_or(0));
      ok = ok && versions_.back() != 0;
    }
    for (const std::string& key : keys_) ok = client_->Get(key).ok() && ok;
    if (!ok) count_->failures.fetch_add(1);
    page_->ready.fetch_add(1);
    std::uint64_t calls = 0;
    while (true) {
      if (page_->at_work.load(std::memory_order_relaxed) == 0) {
        if (calls > 1000 && !IsWhatItIsCalled()) count_->failures.store(1);
        fabric::FutexWait(&page_->at_work, 0, 1'000'000'000);
        continue;
      }
      // Relaxed: read by who counts, some milliseconds later or earlier.
      if (!Call()) count_->failures.store(1, std::memory_order_relaxed);
      count_->calls.store(++calls, std::memory_order_relaxed);
    }
  }

 private:
  // Hits are hits and misses misses, but for the first gets, and one key twice in a row.
  bool IsWhatItIsCalled() const {
    const ClientStats stats = client_->stats();
    if (work_.op == "get_hit") return stats.misses * 10 < stats.hits;
    if (work_.op == "get_miss") return stats.hits * 10 < stats.misses;
    if (work_.op == "get_uncached") return stats.hits == 0;
    return IsRead() || stats.puts > 1000;
  }
  bool IsRead() const { return work_.op == "stat" || work_.op == "list"; }

  bool Call() { return (this->*call_)(keys_.empty() ? 0 : next_++ % keys_.size()); }
  bool Get(std::size_t key) { return client_->Get(keys_[key]).ok(); }
  bool GetMiss(std::size_t) {
    const absl::StatusOr<Object> object = client_->Get(Key("object", random_.Next() % work_.keys));
    return object.ok() && object->size() == work_.size_bytes;
  }
  bool Put(std::size_t key) { return client_->Put(keys_[key], value_).ok(); }
  bool PutIf(std::size_t key) {
    const absl::StatusOr<Version> version =
        client_->Put(keys_[key], value_, {.if_version = versions_[key]});
    if (version.ok()) versions_[key] = *version;
    return version.ok();
  }
  bool PutDelete(std::size_t key) { return Put(key) && client_->Delete(keys_[key]).ok(); }
  bool Stat(std::size_t key) {
    const absl::StatusOr<ObjectInfo> info = client_->Stat(keys_[key]);
    return info.ok() && info->size == work_.size_bytes;
  }
  bool List(std::size_t) {
    const auto listed = client_->List(kind_, work_.keys);
    return listed.ok() && listed->size() == work_.keys;
  }
  bool CreateCommit(std::size_t key) {
    absl::StatusOr<Draft> draft = client_->Create(keys_[key], value_.size());
    return draft.ok() && draft->Commit().ok();
  }
  using CallOf = bool (Worker::*)(std::size_t key);
  static CallOf CallNamed(std::string_view op) {
    static const std::map<std::string_view, CallOf> kCalls = {
        {"get_hit", &Worker::Get},
        {"get_miss", &Worker::GetMiss},
        {"get_uncached", &Worker::Get},
        {"put", &Worker::Put},
        {"put_if", &Worker::PutIf},
        {"put_delete", &Worker::PutDelete},
        {"stat", &Worker::Stat},
        {"list", &Worker::List},
        {"create_commit", &Worker::CreateCommit}};
    return kCalls.at(op);
  }

  Client* const client_;
  const Work& work_;
  Page::Count* const count_;
  Page* const page_;
  const CallOf call_;
  const std::string kind_;  // of its keys
  Random random_;
  const Bytes value_;
  std::vector<std::string> keys_;
  std::vector<Version> versions_;  // by key: what it has put
  std::uint64_t next_ = 0;
};

}  // namespace

int RunWorker(const std::vector<std::string>& words) {
  Work work{.socket = words[0], .pool = words[1], .op = words[2]};
  work.size_bytes = std::stoull(words[3]);
  work.keys = std::stoull(words[4]);
  work.same_keys = words[5] == "1";
  work.threads = std::stoi(words[6]);
  const int process = std::stoi(words[7]);
  const SharedBytes shared(std::stoi(words[8]), sizeof(Page));
  work.placement = static_cast<Placement>(std::stoi(words[9]));
  // A cache that holds nothing: each get is a miss.
  const std::size_t cache_bytes = work.op == "get_miss" ? 1 : 256 << 20;
  Client client = Connect({.socket = work.socket,
                           .pool = work.pool,
                           .node = fmt::format("worker-{}", process),
                           .cache_bytes = cache_bytes,
                           .placement = work.placement});
  std::vector<std::thread> threads;
  for (int i = 0; i < work.threads; ++i) {
    threads.emplace_back(
        [&, i] { Worker(&client, work, process * work.threads + i, shared.as<Page>()).Run(); });
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}

Crew::Crew(const Work& work) : shared_(sizeof(Page)), threads_(work.threads * work.processes) {
  const int total = threads_;
  if (total > kMaxThreads) Die(absl::InvalidArgumentError("too many threads"));
  for (int i = 0; i < work.processes; ++i) {
    const std::vector<std::string> words = {work.socket,
                                            work.pool,
                                            work.op,
                                            std::to_string(work.size_bytes),
                                            std::to_string(work.keys),
                                            work.same_keys ? "1" : "0",
                                            std::to_string(work.threads),
                                            std::to_string(i),
                                            std::to_string(shared_.fd()),
                                            std::to_string(static_cast<int>(work.placement))};
    // One caller has a core of its own beside the home's; several share all there is.
    const Cores cores = total == 1 ? Cores::kCallers : Cores::kAll;
    processes_.push_back(std::make_unique<Process>("worker", words, cores));
  }
  while (shared_.as<Page>()->ready.load() < static_cast<std::uint32_t>(total)) {
    for (const auto& process : processes_) {
      if (process->has_ended()) Die(absl::UnavailableError("a client process has ended"));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

Crew::~Crew() = default;

// On a machine that is busy otherwise a thread may not run for longer than the counting was to
// last: it begins when each has made a call, and ends when there is something to divide.
double Crew::CallsPerSecond(double seconds) {
  constexpr double kPatienceNs = 30e9;
  constexpr std::uint64_t kLeastCalls = 20;
  Page* page = shared_.as<Page>();
  const auto calls_of_all = [&] {
    std::uint64_t calls = 0;
    for (int i = 0; i < threads_; ++i) calls += page->count[i].calls.load();
    return calls;
  };
  std::vector<std::uint64_t> before;
  for (int i = 0; i < threads_; ++i) before.push_back(page->count[i].calls.load());
  const auto everybody_is_at_it = [&] {
    for (std::size_t i = 0; i < before.size(); ++i) {
      if (page->count[i].calls.load() == before[i]) return false;
    }
    return true;
  };
  const auto nap = [](double length) {
    std::this_thread::sleep_for(std::chrono::duration<double>(length));
  };
  page->at_work.store(1);
  fabric::FutexWake(&page->at_work);
  for (const auto began = Clock::now(); !everybody_is_at_it() && NsSince(began) < kPatienceNs;) {
    nap(0.001);
  }
  const std::uint64_t calls_before = calls_of_all();
  const auto began = Clock::now();
  nap(seconds);
  while (calls_of_all() - calls_before < kLeastCalls && NsSince(began) < kPatienceNs) nap(seconds);
  const std::uint64_t calls = calls_of_all() - calls_before;
  const double rate = static_cast<double>(calls) / NsSince(began) * 1e9;
  page->at_work.store(0);
  for (int i = 0; i < threads_; ++i) {
    if (page->count[i].failures.load() != 0) return -1;
  }
  return calls < kLeastCalls ? 0 : rate;
}

void Rate(benchmark::State& state, const Work& work, int repetitions) {
  // One crew for all repetitions: 64 processes take a while to begin.
  static std::unique_ptr<Crew> crew;
  static int repetition = 0;
  if (crew == nullptr) crew = std::make_unique<Crew>(work);
  double rate = 0;
  for (auto _ : state) {
    // Long enough for each to have its turn on a machine that is busy otherwise.
    rate = crew->CallsPerSecond(std::max(0.1, SecondsPerRepetition() * 2));
    state.SetIterationTime(rate > 0 ? 1 / rate : 0);
  }
  // Its nodes would be polled beside whatever comes next.
  if (++repetition == repetitions || rate <= 0) {
    crew.reset();
    repetition = 0;
  }
  if (rate < 0) return state.SkipWithError("a call failed, or was not what it is measured as");
  if (rate == 0) return state.SkipWithError("hardly a call was made in half a minute");
  state.counters["calls_per_s"] = rate;
}

bool PutObjects(Client* client, std::uint64_t count, std::uint64_t size_bytes) {
  const Bytes value(size_bytes, std::byte{1});
  for (std::uint64_t i = 0; i < count; ++i) {
    if (!client->Put(Key("object", i), value).ok()) return false;
  }
  return true;
}

}  // namespace apta::bench
