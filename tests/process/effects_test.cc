// What invocations write, with hosts that are killed at any moment: once, whole, with their result.

#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "apta/apta.h"
#include "fmt/format.h"
#include "tests/process/aptad.h"
#include "tests/process/host.h"

namespace apta {
namespace {

using test::Aptad;
using test::ConnectTo;
using test::Eventually;
using test::Folder;
using test::NodesWith;
using test::Other;
using test::Scaled;
using test::ToBytes;

// Each attempt writes under its own name, so that two that count would show.
absl::StatusOr<Bytes> Write(Invocation& invocation) {
  const std::string input(AsText(invocation.input()));
  const std::string attempt =
      fmt::format("{}.{}.{}", getpid(), invocation.id(), invocation.attempt());
  for (int copy = 0; copy < 3; ++copy) {
    invocation.Put(fmt::format("effect/{}/{}/{}", input, copy, attempt), AsBytes(attempt));
  }
  invocation.Put("last/" + input, AsBytes(attempt));
  invocation.Put(fmt::format("large/{}", input), std::vector<std::byte>(100'000));
  invocation.Delete("planted/" + input);
  invocation.Delete("absent/" + input);
  return ToBytes(attempt);
}

// A compute server that somebody kills.
int RunHost(const std::vector<std::string>& role) {
  auto host = FunctionHost::Create(ConnectTo(role[0], "victim"), 2);
  if (!host.ok()) return 1;
  if (!host->Register("write", Write, {.max_concurrency = 2, .max_attempts = 100}).ok()) return 1;
  return host->Run().ok() ? 0 : 1;
}

class EffectsTest : public ::testing::TestWithParam<int> {
 protected:
  EffectsTest()
      : socket_(folder_ / "socket"),
        aptad_({"--socket", socket_, "--pool", "name=default,bytes=256MiB", "--shards",
                std::to_string(GetParam())}) {}

  Folder folder_;
  const std::string socket_;
  Aptad aptad_;
};

TEST_P(EffectsTest, EveryInvocationsEffectsAppearOnceHoweverOftenItsNodesAreKilled) {
  constexpr int kCallers = 4;
  const int calls = Scaled(400);
  Client client = ConnectTo(socket_, "caller");
  for (int i = 0; i < calls; ++i) {
    ASSERT_TRUE(client.Put(fmt::format("planted/{}", i), AsBytes("x")).ok());
  }
  std::vector<std::unique_ptr<Other>> hosts;
  const auto start = [&] { return std::make_unique<Other>(std::vector<std::string>{socket_}); };
  for (int i = 0; i < 3; ++i) hosts.push_back(start());
  ASSERT_TRUE(Eventually([&] { return NodesWith(client, "write") == 3; }));

  std::mutex mutex;
  std::map<int, absl::StatusOr<Bytes>> results;
  std::atomic<int> next{0}, running{kCallers};
  std::vector<std::thread> callers;
  for (int t = 0; t < kCallers; ++t) {
    callers.emplace_back([&] {
      for (int i = next++; i < calls; i = next++) {
        absl::StatusOr<Bytes> result = absl::UnknownError("");
        do {  // while all hosts are dead, nobody has it
          result = client.Call("write", AsBytes(std::to_string(i)));
        } while (absl::IsNotFound(result.status()));
        std::lock_guard<std::mutex> lock(mutex);
        results.emplace(i, std::move(result));
      }
      --running;
    });
  }
  std::mt19937 random(5);
  int kills = 0;
  for (int done = 0; running.load() > 0; done = next.load()) {
    // Every few calls, at some moment of one of them.
    const int until = done + 1 + static_cast<int>(random() % 4);
    Eventually([&] { return next.load() >= until || running.load() == 0; });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 3'000));
    std::unique_ptr<Other>& victim = hosts[random() % hosts.size()];
    victim->Signal(SIGKILL);
    victim->Wait();
    victim = start();
    ++kills;
  }
  for (std::thread& caller : callers) caller.join();
  int succeeded = 0;
  for (const auto& [i, result] : results) {
    const auto effects = client.List(fmt::format("effect/{}/", i));
    ASSERT_TRUE(effects.ok()) << effects.status();
    const auto last = client.Get(fmt::format("last/{}", i));
    const bool is_planted = client.Get(fmt::format("planted/{}", i)).ok();
    if (!result.ok()) {
      EXPECT_TRUE(absl::IsUnavailable(result.status())) << result.status();
      EXPECT_TRUE(effects->empty()) << i << ": failed, and has written";
      EXPECT_TRUE(is_planted && !last.ok());
      continue;
    }
    ++succeeded;
    ASSERT_EQ(effects->size(), 3u) << i << ": once, and all of it";
    ASSERT_TRUE(last.ok()) << last.status();
    EXPECT_EQ(AsText(last->bytes()), AsText(*result)) << "by the attempt that the caller heard of";
    for (const ObjectInfo& effect : *effects) {
      EXPECT_TRUE(effect.key.ends_with(AsText(*result))) << effect.key;
      EXPECT_EQ(effect.version, last->version());
    }
    EXPECT_FALSE(is_planted);
  }
  EXPECT_EQ(results.size(), static_cast<std::size_t>(calls));
  EXPECT_GT(succeeded, calls / 2);
  fmt::print("{} calls, {} succeeded, {} hosts killed\n", calls, succeeded, kills);
  hosts.clear();
  // What the dead kept back is gone.
  const auto all = client.List("", 1'000'000);
  ASSERT_TRUE(all.ok()) << all.status();
  for (const ObjectInfo& object : *all) client.Delete(object.key).IgnoreError();
  EXPECT_TRUE(Eventually([&] { return test::PoolOf(client).bytes_used == 0; }))
      << test::PoolOf(client).bytes_used;
}

TEST_P(EffectsTest, AFunctionThatIsPastItsDeadlineHasWrittenNothing) {
  Client client = ConnectTo(socket_, "caller");
  std::atomic<bool> released{false};
  std::atomic<int> ended{0};
  test::RunningHost host(ConnectTo(socket_, "host"), 2);
  host.Register("slow", [&](Invocation& invocation) -> absl::StatusOr<Bytes> {
    Eventually([&] { return released.load(); });
    invocation.Put("late", AsBytes("x"));
    ++ended;
    return Bytes();
  });
  host.Register("quick", [&](Invocation&) -> absl::StatusOr<Bytes> { return ToBytes("quick"); });
  host.Run();
  ASSERT_TRUE(Eventually([&] { return NodesWith(client, "quick") == 1; }));
  const auto result = client.Call("slow", {}, {.reads = {}, .deadline = absl::Milliseconds(50)});
  EXPECT_TRUE(absl::IsDeadlineExceeded(result.status())) << result.status();
  released.store(true);
  ASSERT_TRUE(Eventually([&] { return ended.load() == 1; }));
  // Its draft is dropped when its thread asks for more work.
  EXPECT_TRUE(Eventually([&] { return test::PoolOf(client).bytes_used == 0; }));
  EXPECT_TRUE(client.Call("quick", {}).ok());
  EXPECT_TRUE(absl::IsNotFound(client.Get("late").status()));
}

TEST_P(EffectsTest, WhatCannotBeCommittedIsTheAttemptsError) {
  Client client = ConnectTo(socket_, "caller");
  test::RunningHost host(ConnectTo(socket_, "host"), 1);
  host.Register("large",
                [&](Invocation& invocation) -> absl::StatusOr<Bytes> {
                  invocation.Put("small", AsBytes("x"));
                  for (int i = 0; i < 5; ++i) {
                    invocation.Put(fmt::format("large {}", i), std::vector<std::byte>(60 << 20));
                  }
                  return Bytes();
                },
                {.max_attempts = 1});
  host.Register("bad", [&](Invocation& invocation) -> absl::StatusOr<Bytes> {
    invocation.Put("good", AsBytes("x"));
    invocation.Put("", AsBytes("x"));
    return Bytes();
  });
  host.Run();
  ASSERT_TRUE(Eventually([&] { return NodesWith(client, "bad") == 1; }));
  const auto full = client.Call("large", {});
  EXPECT_TRUE(absl::IsResourceExhausted(full.status())) << full.status();
  const auto bad = client.Call("bad", {});
  EXPECT_TRUE(absl::IsInvalidArgument(bad.status())) << bad.status();
  EXPECT_NE(bad.status().message().find("attempt on host: INVALID_ARGUMENT"),
            absl::string_view::npos)
      << bad.status();
  EXPECT_EQ(test::PoolOf(client).objects, 0u);
  EXPECT_TRUE(Eventually([&] { return test::PoolOf(client).bytes_used == 0; }));
}

INSTANTIATE_TEST_SUITE_P(Shards, EffectsTest, ::testing::Values(1, 3),
                         [](const auto& param) { return fmt::format("On{}", param.param); });

}  // namespace
}  // namespace apta

int main(int argc, char** argv) { return apta::test::RoleMain(argc, argv, apta::RunHost); }
