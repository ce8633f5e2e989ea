// What the hot paths are made of, part by part: see --help, and README.md's budget.

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "checksums.h"
#include "copies.h"
#include "fabric/clock.h"
#include "fabric/doorbell.h"
#include "fabric/hash.h"
#include "fabric/index.h"
#include "fabric/message.h"
#include "fabric/ring.h"
#include "fabric/superblock.h"
#include "floor.h"
#include "heap.h"
#include "micro_rooms.h"
#include "suite.h"

namespace apta::bench {
namespace {

constexpr char kAbout[] =
    "What Āpta's operations are made of, part by part:\n"
    "  flag_round_trip        two processes, one line each way, nothing else: the machine\n"
    "  ring_round_trip        a submission ring there, a lane back: the floor of every message;\n"
    "                         how:lean reads only what it must, how:home copies the whole\n"
    "                         request and writes a whole reply, as a home does\n"
    "  yield_round_trip       two threads on one core, each yields until the other has had it:\n"
    "                         what a message costs more, each way, where a core has two pollers\n"
    "  wake                   a thread that slept: by futex, or by doorbell (eventfd and epoll)\n"
    "  hand_over              a copy whose source another core has just written, or whose target\n"
    "                         it has just read\n"
    "  invalidation           issue one, apply and acknowledge it (one thread: no line moves)\n"
    "  index_find, index_locate   one hot key, or any of 10^5\n"
    "  cache_find, cache_fill, cache_apply   a hit; a miss but for its message; an invalidation\n"
    "  pin_unpin              of one extent, by one thread\n"
    "  object_manager         an extent taken and one given back\n"
    "  hash                   XXH3 of so many bytes\n"
    "  checksum               of a payload: XXH3, which is what pools use; beside it CRC-32C\n"
    "                         by the processor's instruction, in one stream and in three\n"
    "  clock                  reading CLOCK_MONOTONIC\n"
    "  copy                   memcpy, rep movsb, streaming stores\n";

// --- two processes that spin

void RoundTrip(benchmark::State& state, Floor::Kind kind) {
  Floor floor(kind);
  // The reference is the lean ring, in turns: it says when the machine was at its best.
  TakeSamples(state, {.turn_ns = 0}, RingReference(), [&](std::uint64_t) {
    floor.Wake();
    for (int k = 0; k < 16; ++k) floor.RoundTrip();
    const auto began = Clock::now();
    for (int k = 0; k < 256; ++k) floor.RoundTrip();
    const double ns = NsSince(began) / 256;
    floor.Sleep();
    return ns;
  });
}

// --- two pollers, one core

void YieldRoundTrip(benchmark::State& state) {
  std::atomic<std::uint32_t> ping{0}, pong{0};
  std::atomic<bool> stop{false};
  std::thread peer([&] {
    UseCores(Cores::kHomes);
    while (!stop.load()) {
      pong.store(ping.load());
      sched_yield();
    }
  });
  cpu_set_t before;
  sched_getaffinity(0, sizeof(before), &before);
  UseCores(Cores::kHomes);
  std::uint32_t round = 0;
  Measure(state, {}, nullptr, [&](std::uint64_t) {
    ping.store(++round);
    while (pong.load() != round) sched_yield();
    return true;
  });
  stop.store(true);
  peer.join();
  sched_setaffinity(0, sizeof(before), &before);
}

// --- waking

// A thread that sleeps until it is woken for the n-th time, and says when it is up.
class Sleeper {
 public:
  explicit Sleeper(bool by_doorbell) : by_doorbell_(by_doorbell) {
    absl::StatusOr<fabric::Doorbell> doorbell = fabric::Doorbell::Create();
    if (!doorbell.ok()) Die(doorbell.status());
    doorbell_ = *std::move(doorbell);
    thread_ = std::thread([this] { Run(); });
  }
  ~Sleeper() {
    stop_.store(true);
    Wake();
    thread_.join();
  }
  // Returns when the other thread runs.
  void Wake() {
    const std::uint32_t round = ping_.load() + 1;
    ping_.store(round);
    if (by_doorbell_) {
      doorbell_.Ring();
    } else {
      fabric::FutexWake(&ping_);
    }
    while (pong_.load() != round) fabric::CpuRelax();
  }

 private:
  void Run() {
    UseCores(Cores::kHomes);
    fabric::UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
    epoll_event event{};
    event.events = EPOLLIN | EPOLLET;
    epoll_ctl(epoll.get(), EPOLL_CTL_ADD, doorbell_.fd(), &event);
    for (std::uint32_t seen = 0; !stop_.load(); pong_.store(++seen)) {
      while (ping_.load() == seen) {
        if (by_doorbell_) {
          epoll_wait(epoll.get(), &event, 1, -1);
        } else {
          fabric::FutexWait(&ping_, seen, 1'000'000'000);
        }
      }
    }
    pong_.store(ping_.load());
  }

  const bool by_doorbell_;
  fabric::Doorbell doorbell_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint32_t> ping_{0}, pong_{0};
  std::thread thread_;
};

void WakeUp(benchmark::State& state, bool by_doorbell, std::int64_t idle_us) {
  Sleeper sleeper(by_doorbell);
  const auto rest = [&](std::uint64_t) {
    const auto began = Clock::now();
    while (NsSince(began) < static_cast<double>(idle_us) * 1e3) fabric::CpuRelax();
    return true;
  };
  Measure(state, {.least = 20}, nullptr, rest, [&](std::uint64_t) {
    sleeper.Wake();
    return true;
  });
}

// --- bytes that another core has just touched

// A thread on the homes' core that writes a buffer, or reads it, when it is told to.
class Toucher {
 public:
  Toucher(Buffer* buffer, bool writes)
      : buffer_(buffer), own_(buffer->size()), writes_(writes), thread_([this] { Run(); }) {}
  ~Toucher() {
    stop_.store(true);
    Touch();
    thread_.join();
  }
  // Returns when it has.
  void Touch() {
    const std::uint32_t round = asked_.load() + 1;
    asked_.store(round);
    fabric::FutexWake(&asked_);
    while (done_.load() != round) fabric::CpuRelax();
  }

 private:
  void Run() {
    UseCores(Cores::kHomes);
    for (std::uint32_t seen = 0; !stop_.load(); done_.store(++seen)) {
      while (asked_.load() == seen) fabric::FutexWait(&asked_, seen, 1'000'000'000);
      const Buffer &to = writes_ ? *buffer_ : own_, &from = writes_ ? own_ : *buffer_;
      std::memcpy(to.data(), from.data(), to.size());
      benchmark::ClobberMemory();
    }
  }
  Buffer* const buffer_;
  const Buffer own_;
  const bool writes_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint32_t> asked_{0}, done_{0};
  std::thread thread_;
};

// What a copy costs whose source another core has just written, or whose target it has just read:
// the two copies of a put through the staging area.
void HandOver(benchmark::State& state, std::int64_t size, bool is_source, const CopyWay& way) {
  Buffer shared(static_cast<std::size_t>(size)), own(static_cast<std::size_t>(size));
  Toucher other(&shared, is_source);
  const Buffer &to = is_source ? own : shared, &from = is_source ? shared : own;
  const auto touch = [&](std::uint64_t) {
    other.Touch();
    return true;
  };
  Measure(state, {.least = 20}, RingReference(), touch, [&](std::uint64_t) {
    way.copy(to.data(), from.data(), from.size());
    benchmark::ClobberMemory();
    return to.data()[0] == from.data()[0];
  });
}

// --- invalidations

void Invalidate(benchmark::State& state) {
  const SharedBytes shared(sizeof(fabric::InvalidationRing<>));
  auto* ring = shared.as<fabric::InvalidationRing<>>();
  fabric::InvalidationIssuer<> issuer(ring);
  fabric::InvalidationDrain<> drain(ring);
  Measure(state, {.calls = 256}, nullptr, [&](std::uint64_t n) {
    const std::uint64_t sequence = n + 1;
    issuer.Issue(sequence, {.key_hash = n, .version = n});
    const bool is_there = drain.Issued() == sequence && drain.DropAll() == 0;
    const fabric::Invalidation record = drain.Record(sequence);
    drain.Acknowledge(sequence);
    return is_there && record.version == n && issuer.Acknowledged() == sequence;
  });
}

// --- the index

// In a scattered order: what is next is not what lies beside.
constexpr std::uint64_t kStride = 7919;

void IndexFind(benchmark::State& state, std::uint64_t count) {
  const Heap heap(count);
  Measure(state, {.calls = 256}, nullptr, [&](std::uint64_t n) {
    return heap.view().Find(heap.hash(n * kStride), heap.key(n * kStride)) != nullptr;
  });
}

void IndexLocate(benchmark::State& state, std::uint64_t count) {
  const Heap heap(count);
  Measure(state, {.calls = 256}, nullptr, [&](std::uint64_t n) {
    const std::uint64_t which = n * kStride;
    const auto place = heap.view().LocateUnregistered(heap.hash(which), heap.key(which));
    return place && place->version == which % count + 1;
  });
}

// --- hash and clock

void Hash(benchmark::State& state, std::int64_t size) {
  const auto bytes = static_cast<std::size_t>(size);
  const Buffer buffer(bytes);
  const std::string_view text(reinterpret_cast<const char*>(buffer.data()), bytes);
  const auto calls = static_cast<std::uint32_t>(std::clamp<std::int64_t>(262144 / size, 1, 1024));
  Measure(state, {.calls = calls}, nullptr, [&](std::uint64_t) {
    benchmark::ClobberMemory();
    std::uint64_t hash = fabric::KeyHash(text);
    benchmark::DoNotOptimize(hash);
    return hash != 0;
  });
}

void ReadClock(benchmark::State& state) {
  fabric::TimeNs last = 0;
  Measure(state, {.calls = 256}, nullptr, [&](std::uint64_t) {
    const fabric::TimeNs now = fabric::RealClock::ReadNow();
    return now >= std::exchange(last, now);
  });
}

void RegisterAll() {
  Add("flag_round_trip", RoundTrip, Floor::Kind::kFlags);
  Add(Name("ring_round_trip", {{"how", "lean"}}), RoundTrip, Floor::Kind::kLean);
  Add(Name("ring_round_trip", {{"how", "home"}}), RoundTrip, Floor::Kind::kHome);
  Add("yield_round_trip", YieldRoundTrip);
  for (const std::int64_t idle_us : {100, 2000}) {
    const std::string idle = std::to_string(idle_us);
    Add(Name("wake", {{"by", "futex"}, {"idle_us", idle}}), WakeUp, false, idle_us);
    Add(Name("wake", {{"by", "doorbell"}, {"idle_us", idle}}), WakeUp, true, idle_us);
  }
  for (const std::int64_t size : {64, 4 << 10, 32 << 10, 64 << 10, 1 << 20}) {
    for (const bool is_source : {true, false}) {
      for (const CopyWay& way : kCopyWays) {
        const Where where = {{"what", is_source ? "source" : "target"},
                             {"how", way.name},
                             {"size", std::to_string(size)}};
        Add(Name("hand_over", where), HandOver, size, is_source, way);
      }
    }
  }
  Add("invalidation", Invalidate);
  for (const std::uint64_t count : {1, 100'000}) {
    Add(Name("index_find", {{"objects", std::to_string(count)}}), IndexFind, count);
    Add(Name("index_locate", {{"objects", std::to_string(count)}}), IndexLocate, count);
  }
  AddRooms();
  std::vector<std::int64_t> sizes = {64, 4 << 10, 64 << 10, 1 << 20, 8 << 20, 64 << 20};
  if (CurrentRun().quick) sizes = {64, 64 << 10, 1 << 20};
  Add(Name("hash", {{"size", "32"}}), Hash, std::int64_t{32});
  for (const std::int64_t size : sizes) {
    Add(Name("hash", {{"size", std::to_string(size)}}), Hash, size);
  }
  AddChecksums();
  Add("clock", ReadClock);
  AddCopies(sizes);
}

}  // namespace
}  // namespace apta::bench

int main(int argc, char** argv) {
  using namespace apta::bench;
  return Main(argc, argv, {.name = "micro_bench", .about = kAbout, .register_all = RegisterAll});
}
