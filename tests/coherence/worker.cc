#include "tests/coherence/worker.h"

#include <array>
#include <cmath>
#include <cstring>
#include <deque>
#include <thread>
#include <utility>

#include "fmt/format.h"
#include "tests/process/aptad.h"
#include "tests/process/host.h"

namespace apta::test {
namespace {

using Kind = sim::Operation::Kind;

constexpr std::size_t kHeldObjects = 8;

std::size_t SizeOf(std::uint64_t value) {
  const std::uint64_t mixed = value * 0x9E3779B97F4A7C15 >> 32;  // neighbours differ in size
  if (mixed % 64 == 0) return 100 << 10;
  return 8 + mixed % (mixed % 4 == 1 ? 4 << 10 : 256);
}

// UNAVAILABLE and DEADLINE_EXCEEDED leave it open whether a write took effect.
bool LeavesOpen(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

void TellFault(Recording* recording, const std::string& what) {
  constexpr std::uint64_t kTold = 20;  // the rest is counted
  if (recording->CountFault() <= kTold) fmt::print(stderr, "{}\n", what);
}

// One thread's calls, each recorded.
class Caller {
 public:
  Caller(Client* client, Recording* recording, std::uint32_t process, std::uint64_t seed)
      : client_(*client), recording_(*recording), log_(recording, process), random_(seed) {}

  void Run() {
    while (!recording_.stopped()) {
      if (log_.full()) {
        std::this_thread::yield();
        continue;
      }
      const std::uint64_t key = RandomKey(&random_);
      const std::uint64_t what = random_() % 100;
      if (what < 60) {
        Get(key);
      } else if (what < 85) {
        Put(key);
      } else if (what < 95) {
        if (random_() % 2 == 0) Get(key);
        ConditionalPut(key);
      } else {
        Delete(key);
      }
    }
    while (!held_.empty()) LetGo();
  }

  void Get(std::uint64_t key) {
    log_.Begin(Kind::kGet, key);
    absl::StatusOr<Object> object = client_.Get(KeyName(key));
    if (object.ok()) {
      const std::uint64_t value = ValueOf(object->bytes());
      log_.End(value, object->version());
      if (value == 0 || object->key() != KeyName(key))
        Fault(fmt::format("key {}: a get of mixed bytes", key));
      seen_[key] = object->version();
      if (random_() % 16 == 0) Hold(*std::move(object), value);
    } else if (absl::IsNotFound(object.status())) {
      log_.End(0, 0);
      seen_[key] = 0;
    } else {
      End(key, object.status());
    }
  }

  void Put(std::uint64_t key) {
    const std::uint64_t value = NewValue();
    const Bytes bytes = MakeValue(value);
    log_.Begin(Kind::kPut, key, value);
    EndWrite(key, value,
             random_() % 8 == 0 ? PutDraft(key, bytes) : client_.Put(KeyName(key), bytes));
  }

  bool full() const { return log_.full(); }

 private:
  void ConditionalPut(std::uint64_t key) {
    const std::uint64_t value = NewValue();
    const std::uint64_t expected = seen_[key];
    const Bytes bytes = MakeValue(value);
    log_.Begin(Kind::kConditionalPut, key, value, expected);
    const auto version = client_.Put(KeyName(key), bytes, {.if_version = expected});
    if (absl::IsFailedPrecondition(version.status())) {
      log_.End(value, 0, /*failed=*/true);
    } else {
      EndWrite(key, value, version);
    }
  }

  void Delete(std::uint64_t key) {
    log_.Begin(Kind::kDelete, key);
    const auto version = client_.Delete(KeyName(key));
    if (absl::IsNotFound(version.status())) {
      log_.End(0, 0, /*failed=*/true);
      seen_[key] = 0;
    } else {
      EndWrite(key, 0, version);
      if (version.ok()) seen_[key] = 0;
    }
  }

  absl::StatusOr<Version> PutDraft(std::uint64_t key, BytesView bytes) {
    absl::StatusOr<Draft> draft = client_.Create(KeyName(key), bytes.size());
    if (!draft.ok()) return draft.status();
    std::ranges::copy(bytes, draft->bytes().begin());
    return draft->Commit();
  }

  void EndWrite(std::uint64_t key, std::uint64_t value, const absl::StatusOr<Version>& version) {
    if (!version.ok()) return End(key, version.status());
    log_.End(value, *version);
    seen_[key] = *version;
  }

  void End(std::uint64_t key, const absl::Status& status) {
    if (LeavesOpen(status)) {
      recording_.CountUnknown();
      // A fenced node is soon attached again; until then calls fail at once, and say little.
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      return;
    }
    log_.Forget();
    Fault(fmt::format("key {}: {}", key, status.ToString()));
  }

  // Keeps it while others replace it, to see that its bytes stay what they are.
  void Hold(Object object, std::uint64_t value) {
    held_.emplace_back(std::move(object), value);
    if (held_.size() > kHeldObjects) LetGo();
  }
  void LetGo() {
    const auto& [object, value] = held_.front();
    if (ValueOf(object.bytes()) != value) {
      Fault(fmt::format("value {} changed while it was held", value));
    }
    held_.pop_front();
  }

  std::uint64_t NewValue() { return std::uint64_t{log_.client()} << 40 | ++written_; }

  void Fault(const std::string& what) {
    TellFault(&recording_, fmt::format("client {}: {}", log_.client(), what));
  }

  Client& client_;
  Recording& recording_;
  Log log_;
  std::mt19937_64 random_;
  std::uint64_t written_ = 0;
  std::array<Version, kKeyCount> seen_{};  // the newest that this thread knows of; 0: deleted
  std::deque<std::pair<Object, std::uint64_t>> held_;
};

Bytes ToBytes(const ReadResult& result) {
  Bytes bytes(sizeof(result));
  std::memcpy(bytes.data(), &result, sizeof(result));
  return bytes;
}

absl::StatusOr<Bytes> Read(Invocation& invocation) {
  const absl::StatusOr<Object> object = invocation.Get(AsText(invocation.input()));
  if (absl::IsNotFound(object.status())) return ToBytes({});
  if (!object.ok()) return object.status();
  const std::uint64_t value = ValueOf(object->bytes());
  if (value == 0) return absl::DataLossError("a scheduled get of mixed bytes");
  return ToBytes({value, object->version()});
}

}  // namespace

std::uint64_t RandomKey(std::mt19937_64* random) {
  const double exponent = std::uniform_real_distribution<>(0, std::log(kKeyCount))(*random);
  return static_cast<std::uint64_t>(std::exp(exponent)) - 1;
}

std::string KeyName(std::uint64_t key) { return fmt::format("key-{}", key); }

Bytes MakeValue(std::uint64_t value) {
  Bytes bytes(SizeOf(value));
  std::memcpy(bytes.data(), &value, sizeof(value));
  // What is there already is copied behind itself, so that each copy doubles it.
  for (std::size_t done = sizeof(value); done < bytes.size(); done *= 2) {
    std::memcpy(bytes.data() + done, bytes.data(), std::min(done, bytes.size() - done));
  }
  return bytes;
}

std::uint64_t ValueOf(BytesView bytes) {
  std::uint64_t value = 0;
  if (bytes.size() < sizeof(value)) return 0;
  std::memcpy(&value, bytes.data(), sizeof(value));
  if (bytes.size() != SizeOf(value)) return 0;
  const bool repeats =
      std::memcmp(bytes.data(), bytes.data() + sizeof(value), bytes.size() - sizeof(value)) == 0;
  return repeats ? value : 0;
}

void CallReads(Client* client, Recording* recording, std::uint64_t seed) {
  Caller writer(client, recording, /*process=*/0, seed);
  Log log(recording, /*process=*/0, Recording::Calls::kScheduled);
  std::mt19937_64 random(~seed);
  while (!recording->stopped() && !log.full() && !writer.full()) {
    // What was just written, and what others just wrote.
    const std::uint64_t own = RandomKey(&random);
    writer.Put(own);
    for (const std::uint64_t key : {own, RandomKey(&random)}) {
      if (log.full()) return;
      log.Begin(Kind::kGet, key);
      const absl::StatusOr<Bytes> bytes = client->Call(kReadFunction, AsBytes(KeyName(key)));
      if (bytes.ok()) {
        ReadResult result;
        std::memcpy(&result, bytes->data(), sizeof(result));
        log.End(result.value, result.version);
        continue;
      }
      // NOT_FOUND: no host is there, they were killed or are not there yet.
      log.Forget();
      if (absl::IsNotFound(bytes.status()) || LeavesOpen(bytes.status())) continue;
      TellFault(recording, fmt::format("call: {}", bytes.status().ToString()));
    }
  }
}

void ReadAll(Client* client, Recording* recording) {
  Caller reader(client, recording, /*process=*/0, /*seed=*/0);
  for (std::uint64_t key = 0; key < kKeyCount; ++key) reader.Get(key);
}

int RunWorker(const std::vector<std::string>& role) {
  const std::string& socket = role[0];
  Recording recording(role[1]);
  const auto process = static_cast<std::uint32_t>(std::stoul(role[2]));
  const std::uint64_t seed = std::stoull(role[3]);
  std::optional<RunningHost> host;
  if (role[4] == "host") {
    host.emplace(ConnectTo(socket, fmt::format("host-{}", process)), 1);
    host->Register(kReadFunction, Read);
    host->Run();
  }
  Client client = ConnectTo(socket, fmt::format("worker-{}", process));
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < kWorkerThreads; ++t) {
    threads.emplace_back([&, t] { Caller(&client, &recording, process, seed + t).Run(); });
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}

}  // namespace apta::test
