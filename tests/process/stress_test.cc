// Many processes and threads on shared keys, every byte verified.

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <memory>
#include <random>

#include "fabric/hash.h"
#include "fmt/format.h"
#include "tests/process/aptad.h"

namespace apta {
namespace {

using test::Aptad;
using test::ConnectTo;
using test::Folder;
using test::Other;

constexpr int kProcesses = 8;
constexpr int kThreads = 4;
constexpr int kKeys = 400;

// An object says whose it is and what its body must hash to; below that size, its bytes are its
// size.
struct Label {
  std::uint64_t key_hash;
  std::uint64_t body_hash;
};

Bytes MakeObject(std::string_view key, std::size_t size, std::mt19937_64* random) {
  Bytes bytes(size, static_cast<std::byte>(size));
  if (size < sizeof(Label)) return bytes;
  for (std::size_t i = sizeof(Label); i + 8 <= size; i += 8) {
    const std::uint64_t word = (*random)();
    std::memcpy(bytes.data() + i, &word, 8);
  }
  const Label label = {fabric::KeyHash(key),
                       XXH3_64bits(bytes.data() + sizeof(Label), size - sizeof(Label))};
  std::memcpy(bytes.data(), &label, sizeof(label));
  return bytes;
}

bool IsWhole(const Object& object) {
  const BytesView bytes = object.bytes();
  if (bytes.size() < sizeof(Label)) {
    return std::all_of(bytes.begin(), bytes.end(),
                       [&](std::byte b) { return b == static_cast<std::byte>(bytes.size()); });
  }
  Label label;
  std::memcpy(&label, bytes.data(), sizeof(label));
  return label.key_hash == fabric::KeyHash(object.key()) &&
         label.body_hash == XXH3_64bits(bytes.data() + sizeof(label), bytes.size() - sizeof(label));
}

// 0 B to 8 MiB, mostly small.
std::size_t RandomSize(std::mt19937_64* random) {
  switch ((*random)() % 100) {
    case 0:
      return (*random)() % (8 << 20);
    case 1:
    case 2:
      return (*random)() % (1 << 20);
    default:
      return (*random)() % ((*random)() % 8 == 0 ? 64 << 10 : 4 << 10);
  }
}

class Worker {
 public:
  Worker(Client* client, std::uint64_t seed) : client_(*client), random_(seed) {}

  int Run(int operations) {
    std::deque<Object> held;
    for (int i = 0; i < operations && failures_ == 0; ++i) {
      const std::string key = fmt::format("key-{}", random_() % kKeys);
      const std::uint64_t what = random_() % 100;
      if (what < 45) {
        Expect(client_.Put(key, MakeObject(key, RandomSize(&random_), &random_)).status(), key);
      } else if (what < 50) {
        const absl::Status deleted = client_.Delete(key).status();
        if (!absl::IsNotFound(deleted)) Expect(deleted, key);
      } else {
        const absl::StatusOr<Object> object = client_.Get(key);
        if (absl::IsNotFound(object.status())) continue;
        Expect(object.status(), key);
        if (!object.ok()) continue;
        if (object->key() != key || !IsWhole(*object)) Fail(key, "is not what was put");
        if (random_() % 16 == 0) held.push_back(*object);
        if (held.size() > 20) {
          if (!IsWhole(held.front())) Fail(key, "changed while it was held");
          held.pop_front();
        }
      }
    }
    for (const Object& object : held) {
      if (!IsWhole(object)) Fail(std::string(object.key()), "changed while it was held");
    }
    return failures_;
  }

 private:
  void Expect(const absl::Status& status, const std::string& key) {
    if (!status.ok()) Fail(key, status.ToString());
  }
  void Fail(const std::string& key, const std::string& what) {
    fmt::print(stderr, "{}: {}\n", key, what);
    ++failures_;
  }

  Client& client_;
  std::mt19937_64 random_;
  int failures_ = 0;
};

int RunProcess(const std::vector<std::string>& role) {
  const int process = std::stoi(role[1]);
  const int operations = std::stoi(role[2]);
  Client client = ConnectTo(role[0], fmt::format("process-{}", process));
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      failures += Worker(&client, static_cast<std::uint64_t>(process * 100 + t)).Run(operations);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return failures == 0 ? 0 : 1;
}

void RunMixedObjects(const std::string& shards) {
  Folder folder;
  const std::string socket = folder / "s";
  Aptad aptad({"--socket", socket, "--pool", "bytes=1GiB", "--shards", shards});
  const int operations = test::Scaled(200'000) / kProcesses / kThreads;
  {
    std::vector<std::unique_ptr<Other>> processes;
    for (int i = 0; i < kProcesses; ++i) {
      processes.push_back(std::make_unique<Other>(
          std::vector<std::string>{socket, std::to_string(i), std::to_string(operations)}));
    }
    for (const auto& process : processes) EXPECT_EQ(process->Wait(), 0);
  }
  // All have left: what is used is what the live objects need, and nothing is held back.
  Client client = ConnectTo(socket, "judge");
  EXPECT_TRUE(test::Eventually([&] { return client.Nodes()->size() == 1; }));
  EXPECT_TRUE(test::Eventually([&] { return test::PoolOf(client).bytes_held == 0; }));
  const PoolInfo pool = test::PoolOf(client);
  const auto objects = client.List("", 10 * kKeys);
  ASSERT_TRUE(objects.ok()) << objects.status();
  EXPECT_EQ(objects->size(), pool.objects);
  std::uint64_t payload_bytes = 0;
  for (const ObjectInfo& object : *objects) payload_bytes += object.size;
  EXPECT_GE(pool.bytes_used, payload_bytes);
  // At most a quarter is lost to size buckets, plus header, key and a page where large.
  EXPECT_LE(pool.bytes_used, payload_bytes / 4 * 5 + pool.objects * (4096 + 256));
  for (const ObjectInfo& info : *objects) {
    const auto object = client.Get(info.key);
    ASSERT_TRUE(object.ok()) << object.status();
    EXPECT_TRUE(IsWhole(*object)) << info.key;
  }
  EXPECT_EQ(aptad.End(SIGTERM), 0) << aptad.log();
}

TEST(StressTest, EightProcessesOfFourThreadsMoveTwoHundredThousandMixedObjects) {
  RunMixedObjects("1");
}

TEST(StressTest, TheSameOverThreeShards) { RunMixedObjects("3"); }

}  // namespace
}  // namespace apta

int main(int argc, char** argv) { return apta::test::RoleMain(argc, argv, apta::RunProcess); }
