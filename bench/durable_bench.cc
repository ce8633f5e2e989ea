// What a durable put costs beside the disk's own durable writes. See --help.

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "fabric/fd.h"
#include "suite.h"

namespace apta::bench {
namespace {

constexpr char kAbout[] =
    "Durable puts (durability=log), in the file system of TMPDIR:\n"
    "  durable_put      a put, acknowledged when it is durable, in turns with bare writes of as "
    "many\n"
    "                   bytes to a file that was written before: past the page cache (O_DIRECT "
    "and\n"
    "                   O_DSYNC, bare_direct), and through it (bare_fdatasync), whole blocks;\n"
    "                   per_bare: over the faster one of its turn\n"
    "  durable_rate     puts per second of 1 to 64 threads of a client\n"
    "  recovery         a memory server's start with a log of so many bytes\n";

constexpr char kPool[] = "strict";
constexpr std::uint64_t kBlockBytes = 4096;

std::unique_ptr<Server> g_server;

PoolOptions LogPool(const std::string& log) {
  return {.name = kPool,
          .bytes = std::uint64_t{256} << 20,
          .durability = "log",
          .log = fmt::format("{}/{}", RunFolder(), log)};
}

const std::string& Socket() {
  if (g_server == nullptr) {
    g_server = std::make_unique<Server>(std::vector<PoolOptions>{LogPool("log")});
  }
  return g_server->socket();
}

// A file of 32 MiB, overwritten from its beginning to its end and again.
class BareFile {
 public:
  explicit BareFile(bool is_direct) : is_direct_(is_direct) {
    const std::string path = fmt::format("{}/bare-{}", RunFolder(), is_direct);
    const int flags = O_RDWR | O_CREAT | (is_direct ? O_DIRECT | O_DSYNC : 0);
    fd_ = fabric::UniqueFd(open(path.c_str(), flags, 0600));
    buffer_.reset(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kMost)));
    std::fill(buffer_.get(), buffer_.get() + kMost, std::byte{1});
    for (std::uint64_t at = 0; at < kFileBytes; at += kMost) {
      if (fd_.valid() && pwrite(fd_.get(), buffer_.get(), kMost, static_cast<off_t>(at)) < 0) {
        fd_.Reset();
      }
    }
    if (fd_.valid()) fsync(fd_.get());
  }
  bool valid() const { return fd_.valid(); }
  bool Write(std::uint64_t bytes) {
    bytes = (bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
    if (position_ + bytes > kFileBytes) position_ = 0;
    const ssize_t put = pwrite(fd_.get(), buffer_.get(), bytes, static_cast<off_t>(position_));
    position_ += bytes;
    return put == static_cast<ssize_t>(bytes) && (is_direct_ || fdatasync(fd_.get()) == 0);
  }

 private:
  static constexpr std::uint64_t kMost = 1 << 20;
  static constexpr std::uint64_t kFileBytes = 32 << 20;
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  const bool is_direct_;
  fabric::UniqueFd fd_;
  std::unique_ptr<std::byte[], Free> buffer_;
  std::uint64_t position_ = 0;
};

void DurablePut(benchmark::State& state, std::uint64_t bytes) {
  Client client = Connect(Socket(), "bench", kPool);
  BareFile direct(true), buffered(false);
  const Bytes value(bytes, std::byte{2});
  const std::string key = Key("durable", bytes);
  if (!buffered.valid()) return state.SkipWithError("no file");
  Samples puts, directs, buffereds, ratios;
  const auto time = [&](Samples* samples, const std::function<bool()>& call) {
    Samples turn;
    for (int i = 0; i < (CurrentRun().quick ? 2 : 16); ++i) {
      const auto began = Clock::now();
      if (!call()) state.SkipWithError("a write failed");
      turn.Add(NsSince(began));
    }
    samples->Add(turn.all());
    return turn.Median();
  };
  for (auto _ : state) {
    const auto began = Clock::now();
    do {
      const double put = time(&puts, [&] { return client.Put(key, value).ok(); });
      double bare = time(&buffereds, [&] { return buffered.Write(bytes); });
      if (direct.valid()) {
        bare = std::min(bare, time(&directs, [&] { return direct.Write(bytes); }));
      }
      ratios.Add(put / bare);
    } while (NsSince(began) < SecondsPerRepetition() * 1e9);
    state.SetIterationTime(puts.Median() * 1e-9);
  }
  puts.Report(&state, "put");
  directs.Report(&state, "bare_direct");
  buffereds.Report(&state, "bare_fdatasync");
  state.counters["per_bare"] = ratios.Median();
}

void DurableRate(benchmark::State& state, std::uint64_t bytes, int writers) {
  Client client = Connect(Socket(), "bench", kPool);
  const Bytes value(bytes, std::byte{3});
  for (auto _ : state) {
    std::atomic<std::uint64_t> puts{0};
    std::atomic<bool> stop{false}, has_failed{false};
    std::vector<std::thread> threads;
    const auto began = Clock::now();
    for (int i = 0; i < writers; ++i) {
      threads.emplace_back([&, key = Key("writer", static_cast<std::uint64_t>(i))] {
        while (!stop.load()) {
          if (!client.Put(key, value).ok()) has_failed.store(true);
          ++puts;
        }
      });
    }
    std::this_thread::sleep_for(std::chrono::duration<double>(SecondsPerRepetition()));
    stop.store(true);
    for (std::thread& thread : threads) thread.join();
    const double ns = NsSince(began);
    if (has_failed.load()) return state.SkipWithError("put");
    state.SetIterationTime(ns * 1e-9 / static_cast<double>(puts.load()));
    state.counters["puts_per_s"] = static_cast<double>(puts.load()) / (ns * 1e-9);
    state.counters["bytes_per_s"] = static_cast<double>(puts.load() * bytes) / (ns * 1e-9);
  }
}

// Objects of 64 KiB, all different: what is in the log is what there is.
void Recovery(benchmark::State& state, std::uint64_t bytes) {
  constexpr std::uint64_t kObjectBytes = 64 << 10;
  g_server.reset();
  PoolOptions pool = LogPool(fmt::format("log-{}", bytes));
  pool.bytes = 2 * bytes + (std::uint64_t{128} << 20);
  pool.recovery_target_ms = 3'600'000;
  {
    const Server server({pool});
    Client client = Connect(server.socket(), "bench", kPool);
    const Bytes value(kObjectBytes, std::byte{4});
    std::atomic<std::uint64_t> next{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        while (true) {
          const std::uint64_t n = next.fetch_add(1);
          if (n * kObjectBytes >= bytes || !client.Put(Key("object", n), value).ok()) return;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  for (auto _ : state) {
    const auto began = Clock::now();
    // Until it serves: the constructor waits for population as well.
    const Server server({pool}, 1, "none");
    const double ns = NsSince(began);
    Client client = Connect(server.socket(), "bench", kPool);
    if (PoolOf(client, kPool).objects != bytes / kObjectBytes)
      return state.SkipWithError("objects");
    state.SetIterationTime(ns * 1e-9);
    state.counters["bytes_per_s"] = static_cast<double>(bytes) / (ns * 1e-9);
  }
}

void RegisterAll() {
  const bool quick = CurrentRun().quick;
  const std::vector<std::pair<std::string, std::uint64_t>> sizes = {
      {"64B", 64}, {"4K", 4096}, {"1M", 1 << 20}};
  for (const auto& [name, bytes] : sizes)
    Add(Name("durable_put", {{"size", name}}), DurablePut, bytes);
  for (const auto& [name, bytes] : sizes) {
    for (const int writers : {1, 8, 64}) {
      if (quick && (bytes != 4096 || writers == 8)) continue;
      Add(Name("durable_rate", {{"size", name}, {"writers", std::to_string(writers)}}), DurableRate,
          bytes, writers);
    }
  }
  const std::vector<std::uint64_t> logs =
      quick ? std::vector<std::uint64_t>{16} : std::vector<std::uint64_t>{128, 256, 512, 1024};
  for (const std::uint64_t megabytes : logs) {
    Add(Name("recovery", {{"log", fmt::format("{}M", megabytes)}}), Recovery, megabytes << 20);
  }
}

}  // namespace
}  // namespace apta::bench

int main(int argc, char** argv) {
  using namespace apta::bench;
  return Main(
      argc, argv,
      {.name = "durable_bench", .about = kAbout, .register_all = RegisterAll, .clean_up = [] {
         g_server.reset();
       }});
}
