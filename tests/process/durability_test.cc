// Pools of durability `log` and `region`: memory servers that are killed at any moment, and logs
// that cannot be written.

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "fmt/format.h"
#include "tests/process/aptad.h"

namespace apta {
namespace {

using test::Aptad;
using test::ConnectTo;
using test::Eventually;
using test::Folder;

// Says its round, and is whole when all of it does.
Bytes ValueOf(std::uint64_t round) {
  Bytes value(round % 17 == 0 ? 100'000 : round * 31 % 6000 + 8, static_cast<std::byte>(round));
  std::memcpy(value.data(), &round, sizeof(round));
  return value;
}
// 0: it is not there, or is not whole.
std::uint64_t RoundOf(const absl::StatusOr<Object>& object) {
  if (!object.ok() || object->size() < 8) return 0;
  std::uint64_t round = 0;
  std::memcpy(&round, object->bytes().data(), sizeof(round));
  return object->bytes() == BytesView(ValueOf(round)) ? round : 0;
}

class DurabilityTest : public ::testing::Test {
 protected:
  void StartAptad(int shards = 1, const std::string& coherence = "strict",
                  const std::string& more = "") {
    aptad_.emplace(std::vector<std::string>{
        "--socket", socket_, "--shards", std::to_string(shards), "--pool",
        fmt::format("bytes=64MiB,durability=log,log={},log_segment=256KiB,recovery_target=10ms,"
                    "coherence={}{}",
                    log_, coherence, more)});
  }
  // Always with as many shards.
  void StartWithRegion(const std::string& coherence) {
    aptad_.emplace(std::vector<std::string>{
        "--socket", socket_, "--shards", "2", "--pool",
        fmt::format("bytes=64MiB,durability=region,backing=file:{},coherence={}",
                    (*memory_ / "region"), coherence)});
  }
  void Kill() {
    EXPECT_EQ(aptad_->End(SIGKILL), -SIGKILL);
    aptad_.reset();
  }

  // A killed process takes nothing of memory with it that is a file: the rounds need no disk, and
  // are as many as a disk would not give.
  void UseMemory() {
    memory_.emplace("/dev/shm");
    log_ = *memory_ / "log";
  }

  // Kills what `start` has started, at any moment under load, and starts the next.
  void KillAgainAndAgain(int rounds, const std::function<void(int round)>& start);

  Folder folder_;
  std::optional<Folder> memory_;
  std::string log_ = folder_ / "log";
  std::string socket_ = folder_ / "s";
  std::optional<Aptad> aptad_;
};

// One process' puts: single ones, transactions, deletes. What was acknowledged, and what was asked
// at most, by key.
class Putter {
 public:
  static constexpr int kKeys = 12;
  static constexpr int kTogether = 3;

  Putter(int number, const std::string& socket)
      : name_(fmt::format("putter{}", number)), client_(ConnectTo(socket, name_)) {}

  // Its client finds the next memory server.
  bool HasReconnected() {
    return Eventually([&] { return !absl::IsUnavailable(client_.Stat(Key(0)).status()); });
  }
  // Until the memory server is gone.
  void Run(std::atomic<int>* acknowledged) {
    while (true) {
      const std::uint64_t round = ++asked_;
      const int i = static_cast<int>(round) % kKeys;
      if (round % 4 == 0) {
        Transaction together = client_.Begin();
        for (int t = 0; t < kTogether; ++t) together.Put(Together(t), ValueOf(round));
        asked_together_ = round;
        const auto version = together.Commit();
        if (!Noted(version)) return;
        together_ = round;
      } else if (round % 7 == 0) {
        asked_of_[i] = 0;
        const auto version = client_.Delete(Key(i));
        if (!absl::IsNotFound(version.status()) && !Noted(version)) return;
        acknowledged_of_[i] = 0;
      } else {
        asked_of_[i] = round;
        if (!Noted(client_.Put(Key(i), ValueOf(round)))) return;
        acknowledged_of_[i] = round;
      }
      acknowledged->fetch_add(1);
    }
  }

  // What is there after the next start.
  void Judge(Client* judge) {
    for (int i = 0; i < kKeys; ++i) {
      const auto object = judge->Get(Key(i));
      const std::uint64_t round = RoundOf(object);
      EXPECT_EQ(object.ok(), round != 0) << Key(i) << " is not whole";
      EXPECT_TRUE(round == acknowledged_of_[i] || round == asked_of_[i])
          << Key(i) << " is of round " << round << ", acknowledged was " << acknowledged_of_[i]
          << ", asked for " << asked_of_[i];
      acknowledged_of_[i] = asked_of_[i] = round;
    }
    std::set<std::uint64_t> rounds;
    for (int t = 0; t < kTogether; ++t) rounds.insert(RoundOf(judge->Get(Together(t))));
    ASSERT_EQ(rounds.size(), 1u) << "half a transaction";
    EXPECT_TRUE(*rounds.begin() == together_ || *rounds.begin() == asked_together_);
    together_ = asked_together_ = *rounds.begin();
  }
  Version last_version() const { return last_version_; }

 private:
  bool Noted(const absl::StatusOr<Version>& version) {
    if (!version.ok()) {
      EXPECT_TRUE(absl::IsUnavailable(version.status())) << version.status();
      return false;
    }
    EXPECT_GT(*version, last_version_) << "used twice";
    last_version_ = *version;
    return true;
  }
  std::string Key(int i) const { return fmt::format("{}/{}", name_, i); }
  std::string Together(int i) const { return fmt::format("{}/together-{}", name_, i); }

  const std::string name_;
  Client client_;
  std::uint64_t asked_ = 0;
  std::array<std::uint64_t, kKeys> asked_of_{}, acknowledged_of_{};
  std::uint64_t asked_together_ = 0, together_ = 0;
  Version last_version_ = 0;
};

void DurabilityTest::KillAgainAndAgain(int rounds, const std::function<void(int round)>& start) {
  constexpr int kPutters = 3;
  std::mt19937 random(20);
  start(0);
  std::vector<std::unique_ptr<Putter>> putters;
  for (int i = 0; i < kPutters; ++i) putters.push_back(std::make_unique<Putter>(i, socket_));
  int total = 0;
  for (int round = 0; round < rounds; ++round) {
    std::atomic<int> acknowledged{0};
    std::vector<std::thread> threads;
    for (const auto& putter : putters) ASSERT_TRUE(putter->HasReconnected());
    for (const auto& putter : putters) {
      threads.emplace_back([&] { putter->Run(&acknowledged); });
    }
    const int until = static_cast<int>(random() % 200);
    EXPECT_TRUE(Eventually([&] { return acknowledged.load() >= until; }));
    Kill();
    for (std::thread& thread : threads) thread.join();
    total += acknowledged.load();
    start(round);
    SCOPED_TRACE(aptad_->log());
    Client judge = ConnectTo(socket_, "judge");
    Version last = 0;
    for (const auto& putter : putters) {
      ASSERT_NO_FATAL_FAILURE(putter->Judge(&judge));
      last = std::max(last, putter->last_version());
    }
    const auto version = judge.Put("another", {});
    ASSERT_TRUE(version.ok()) << version.status();
    EXPECT_GT(*version, last);
  }
  EXPECT_GT(total, 0);
}

constexpr const char* kModes[] = {"strict", "lazy", "sync", "uncached"};

TEST_F(DurabilityTest, WhateverWasAcknowledgedIsThereAfterAKillAtAnyMoment) {
  UseMemory();
  // With as many shards as it likes: the region is made anew.
  KillAgainAndAgain(test::Scaled(50),
                    [this](int round) { StartAptad(round % 3 == 0 ? 2 : 1, kModes[round % 4]); });
}

TEST_F(DurabilityTest, SoItIsInARegionThatOutlivesItsMemoryServer) {
  UseMemory();
  KillAgainAndAgain(test::Scaled(25), [this](int round) { StartWithRegion(kModes[round % 4]); });
}

// No file may be written, whatever the disk says: as when it is full.
TEST_F(DurabilityTest, APoolWhoseLogCannotBeWrittenIsReadOnlyUntilItCan) {
  StartAptad();
  Client client = ConnectTo(socket_, "n");
  ASSERT_TRUE(client.Put("k", AsBytes("kept")).ok());
  rlimit before{};
  ASSERT_EQ(prlimit(aptad_->pid(), RLIMIT_FSIZE, nullptr, &before), 0);
  const rlimit none{.rlim_cur = 1, .rlim_max = before.rlim_max};
  ASSERT_EQ(prlimit(aptad_->pid(), RLIMIT_FSIZE, &none, nullptr), 0);
  const absl::Status first = client.Put("k", AsBytes("maybe")).status();
  EXPECT_TRUE(absl::IsUnavailable(first)) << first;
  const absl::Status second = client.Put("other", AsBytes("x")).status();
  EXPECT_TRUE(absl::IsResourceExhausted(second)) << second;
  EXPECT_NE(second.ToString().find("the pool is read-only"), std::string::npos) << second;
  EXPECT_EQ(AsText(client.Get("k")->bytes()), "kept");
  EXPECT_TRUE(absl::IsNotFound(client.Get("other").status()));
  ASSERT_EQ(prlimit(aptad_->pid(), RLIMIT_FSIZE, &before, nullptr), 0);
  EXPECT_TRUE(Eventually([&] { return client.Put("other", AsBytes("y")).ok(); }));
  EXPECT_EQ(AsText(client.Get("k")->bytes()), "kept");
  EXPECT_EQ(client.stats().reconnects, 0u);
  Kill();
  StartAptad();
  // Void since there was a put that succeeded.
  EXPECT_TRUE(Eventually([&] { return client.Get("k").ok(); }));
  EXPECT_EQ(AsText(client.Get("k")->bytes()), "kept");
  EXPECT_EQ(AsText(client.Get("other")->bytes()), "y");
  EXPECT_EQ(aptad_->End(SIGTERM), 0) << aptad_->log();
}

TEST_F(DurabilityTest, SaysWhatItsLogHasDone) {
  constexpr std::uint64_t kPuts = 10, kBytes = 5000;
  StartAptad();
  Client client = ConnectTo(socket_, "n");
  EXPECT_EQ(test::PoolOf(client).log_records, 0u);
  const Bytes value(kBytes);
  for (std::uint64_t i = 0; i < kPuts; ++i) ASSERT_TRUE(client.Put("k", value).ok());
  const PoolInfo pool = test::PoolOf(client);
  EXPECT_EQ(pool.log_records, kPuts);
  EXPECT_EQ(pool.log_writes, kPuts) << "each was waited for";
  EXPECT_GT(pool.log_bytes, kPuts * kBytes);
  EXPECT_EQ(pool.log_bytes_since_checkpoint, pool.log_bytes);
  EXPECT_GT(pool.log_write_ns, 0u);
  EXPECT_EQ(pool.log_checkpoints, 0u);
}

TEST_F(DurabilityTest, ALogWhoseCheckpointIsDamagedIsNotServed) {
  StartAptad();
  {
    Client client = ConnectTo(socket_, "n");
    ASSERT_TRUE(client.Put("k", AsBytes("v")).ok());
  }
  EXPECT_EQ(aptad_->End(SIGTERM), 0);
  {
    std::fstream checkpoint(folder_ / "log/checkpoint", std::ios::in | std::ios::out);
    checkpoint.seekp(30);
    checkpoint.put('\x55');
  }
  StartAptad();
  EXPECT_NE(aptad_->log().find("the checkpoint is damaged"), std::string::npos) << aptad_->log();
  EXPECT_EQ(aptad_->End(SIGTERM), 1);
}

TEST_F(DurabilityTest, WhatItReplacesIsReadUntilItIsDurable) {
  StartAptad();
  Client writer = ConnectTo(socket_, "writer");
  Client reader = ConnectTo(socket_, "reader");
  ASSERT_TRUE(writer.Put("k", ValueOf(1)).ok());
  std::atomic<std::uint64_t> durable{1};
  std::atomic<bool> stop{false};
  std::thread reading([&] {
    std::uint64_t last = 1;
    while (!stop.load()) {
      const std::uint64_t before = durable.load();
      const std::uint64_t round = RoundOf(reader.Get("k"));
      EXPECT_GE(round, before);
      EXPECT_GE(round, last);
      last = round;
    }
  });
  for (std::uint64_t round = 2; round < 50; ++round) {
    const auto version = writer.Put("k", ValueOf(round));
    EXPECT_TRUE(version.ok()) << version.status();
    durable.store(round);
    // Conditions hold for what is durable.
    EXPECT_TRUE(absl::IsFailedPrecondition(
        writer.Put("k", ValueOf(round), {.if_version = *version - 1}).status()));
  }
  stop.store(true);
  reading.join();
  EXPECT_EQ(aptad_->End(SIGTERM), 0) << aptad_->log();
}

}  // namespace
}  // namespace apta

int main(int argc, char** argv) {
  return apta::test::RoleMain(argc, argv, [](const std::vector<std::string>&) { return 2; });
}
