// What a program may expect of functions: Call, Start, Invocation, FunctionHost.

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>

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
using test::RunningHost;
using test::ToBytes;
using test::ToText;

class FunctionTest : public ::testing::Test {
 protected:
  ~FunctionTest() override { released_.store(true); }

  // The host's threads are taken by functions that call functions.
  void SetUp() override {
    host_.Register("echo",
                   [](Invocation& invocation) -> absl::StatusOr<Bytes> {
                     return Bytes(invocation.input().begin(), invocation.input().end());
                   },
                   {.max_concurrency = 8});
    host_.Register("fail", [](Invocation& invocation) -> absl::StatusOr<Bytes> {
      return absl::AlreadyExistsError(std::string(AsText(invocation.input())));
    });
    host_.Register("throw", [](Invocation&) -> absl::StatusOr<Bytes> {
      throw std::runtime_error("thrown by the function");
    });
    host_.Register("store", [](Invocation& invocation) -> absl::StatusOr<Bytes> {
      invocation.Put("stored", invocation.input());
      invocation.Delete("removed");
      if (AsText(invocation.input()) == "no") return absl::AbortedError("changed my mind");
      return ToBytes(invocation.Get("stored").ok() ? "visible" : "kept back");
    });
    host_.Register("read",
                   [](Invocation& invocation) -> absl::StatusOr<Bytes> {
                     const auto object = invocation.Get(AsText(invocation.input()));
                     if (!object.ok()) return object.status();
                     return Bytes(object->bytes().begin(), object->bytes().end());
                   },
                   {.max_concurrency = 4});
    host_.Register("wait",
                   [this](Invocation&) -> absl::StatusOr<Bytes> {
                     waiting_.fetch_add(1);
                     Eventually([this] { return released_.load(); });
                     return ToBytes("released");
                   },
                   {.max_concurrency = 2});
    host_.Register("nest",
                   [](Invocation& invocation) -> absl::StatusOr<Bytes> {
                     const int depth = std::stoi(std::string(AsText(invocation.input())));
                     if (depth == 0) return ToBytes("bottom");
                     absl::StatusOr<Bytes> below =
                         invocation.Call("nest", AsBytes(std::to_string(depth - 1)));
                     if (below.ok()) below->push_back(std::byte{'!'});
                     return below;
                   },
                   {.max_concurrency = 8});
    host_.Register("fan", [](Invocation& invocation) -> absl::StatusOr<Bytes> {
      std::vector<Pending> pending;
      for (int i = 0; i < 5; ++i) {
        absl::StatusOr<Pending> started = invocation.Start("echo", AsBytes(std::to_string(i)));
        if (!started.ok()) return started.status();
        pending.push_back(*std::move(started));
      }
      Bytes all;
      for (Pending& each : pending) {
        const absl::StatusOr<Bytes> result = each.Wait();
        if (!result.ok()) return result.status();
        all.insert(all.end(), result->begin(), result->end());
      }
      return all;
    });
    host_.Run();
    ASSERT_TRUE(Eventually([&] { return NodesWith(client_, "fan") == 1; }));
  }
  std::string socket() const { return folder_ / "s"; }
  std::uint64_t UsedBytes() { return test::PoolOf(client_).bytes_used; }

  std::atomic<int> waiting_{0};
  std::atomic<bool> released_{false};
  Folder folder_;
  Aptad aptad_{{"--socket", folder_ / "s", "--pool", "bytes=64MiB"}};
  Client client_ = ConnectTo(socket(), "caller");
  RunningHost host_{ConnectTo(socket(), "host"), 8};
};

TEST_F(FunctionTest, ResultsComeBackWhateverTheirSize) {
  const std::uint64_t used_bytes = UsedBytes();
  for (const std::size_t size : {0u, 1u, 200u, 208u, 209u, 4096u, 65536u, 200'000u, 8u << 20}) {
    const Bytes input(size, std::byte{7});
    const absl::StatusOr<Bytes> result = client_.Call("echo", input);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(*result == input) << size;
  }
  EXPECT_TRUE(Eventually([&] { return UsedBytes() == used_bytes; })) << "inputs or results leak";
}

TEST_F(FunctionTest, AnErrorComesBackWithCodeAndMessage) {
  const CallOptions once{.errors_are_final = true};
  const absl::Status status = client_.Call("fail", AsBytes("it is there"), once).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(status.message(), "it is there");
  for (const std::size_t bytes : {10'000u, 1'000'000u}) {
    const std::string long_message(bytes, 'm');
    EXPECT_EQ(client_.Call("fail", AsBytes(long_message), once).status().message(), long_message);
    EXPECT_EQ(client_.Call("fail", AsBytes(long_message)).status().message().substr(0, bytes),
              long_message);
  }
  EXPECT_EQ(client_.Call("fail", {}, once).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(FunctionTest, AnErrorIsAnAttemptThatFailedAndTheCallerGetsTheLastOneWithTheHistory) {
  std::atomic<int> runs{0};
  host_.Register("third",
                 [&](Invocation& invocation) -> absl::StatusOr<Bytes> {
                   ++runs;
                   invocation.Put(fmt::format("attempt/{}", invocation.attempt()), AsBytes("x"));
                   if (invocation.attempt() == 1) return absl::AbortedError("not yet");
                   if (invocation.attempt() == 2) throw std::runtime_error("nor now");
                   return ToBytes("done");
                 },
                 {.max_attempts = 3});
  EXPECT_EQ(ToText(client_.Call("third", {})), "done");
  EXPECT_EQ(runs.load(), 3);
  const auto effects = client_.List("attempt/");
  ASSERT_TRUE(effects.ok()) << effects.status();
  ASSERT_EQ(effects->size(), 1u) << "of the attempt that counts";
  EXPECT_EQ(effects->front().key, "attempt/3");
  const absl::Status status = client_.Call("fail", AsBytes("it is there")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(status.message(),
            "it is there (attempt on host: ALREADY_EXISTS; attempt on host: ALREADY_EXISTS; "
            "attempt on host: ALREADY_EXISTS)");
}

TEST_F(FunctionTest, AnExceptionIsAnErrorAndTheHostGoesOn) {
  const absl::Status status = client_.Call("throw", {}).status();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_NE(status.message().find("thrown by the function"), absl::string_view::npos) << status;
  EXPECT_EQ(ToText(client_.Call("echo", AsBytes("on"))), "on");
}

TEST_F(FunctionTest, WhatIsNotThereOrCannotBeRightIsRefused) {
  EXPECT_TRUE(absl::IsNotFound(client_.Call("none", {}).status()));
  EXPECT_TRUE(absl::IsNotFound(client_.Start("none", Bytes(1 << 20)).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(client_.Call("", {}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(client_.Call(std::string(1025, 'f'), {}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      client_.Call("echo", {}, {.deadline = absl::ZeroDuration()}).status()));
  const absl::Status too_large = client_.Call("echo", Bytes(65 << 20)).status();
  EXPECT_TRUE(absl::IsResourceExhausted(too_large)) << too_large;
  EXPECT_TRUE(
      absl::IsAlreadyExists((*host_).Register("echo", [](Invocation&) { return Bytes(); })));
}

TEST_F(FunctionTest, WhatIsWrongWithAFunctionsOptionsIsNamedAndNothingElse) {
  const auto nothing = [](Invocation&) { return Bytes(); };
  const auto refused = [&](const FunctionOptions& options) {
    const absl::Status status = (*host_).Register("f", nothing, options);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  EXPECT_EQ(refused({.deadline = absl::Microseconds(10)}),
            "function f: deadline 10us is less than 1ms");
  EXPECT_EQ(refused({.max_concurrency = 0}), "function f: max_concurrency 0 is not 1 to 65535");
  EXPECT_EQ(refused({.max_concurrency = 70'000, .max_attempts = 0}),
            "function f: max_concurrency 70000 is not 1 to 65535, and max_attempts 0 is not 1 to "
            "255");
}

bool IsSaidToBePast(const absl::Status& status) {
  return status.message().find("function late: attempt 1 is past its deadline") !=
         absl::string_view::npos;
}

TEST_F(FunctionTest, AnAttemptPastItsDeadlineIsToldSoByItsCalls) {
  std::atomic<bool> has_called{false};
  absl::Status call;
  absl::Status start;
  RunningHost other(ConnectTo(socket(), "other"), 1);
  other.Register("late",
                 [&](Invocation& invocation) -> absl::StatusOr<Bytes> {
                   Eventually([this] { return released_.load(); });
                   // Its own clock may be behind: until then it is the home that says no.
                   Eventually([&] {
                     call = invocation.Call("echo", {}).status();
                     return !absl::IsCancelled(call) || IsSaidToBePast(call);
                   });
                   start = invocation.Start("echo", {}).status();
                   has_called.store(true);
                   return Bytes();
                 },
                 {.max_attempts = 1, .deadline = absl::Milliseconds(20)});
  other.Run();
  ASSERT_TRUE(Eventually([&] { return NodesWith(client_, "late") == 1; }));
  EXPECT_TRUE(absl::IsDeadlineExceeded(client_.Call("late", {}).status()));
  released_.store(true);
  ASSERT_TRUE(Eventually([&] { return has_called.load(); }));
  for (const absl::Status& status : {call, start}) {
    EXPECT_TRUE(absl::IsCancelled(status) && IsSaidToBePast(status)) << status;
  }
}

TEST_F(FunctionTest, StartIsDoneWhenTheFunctionHasReturned) {
  auto pending = client_.Start("wait", {});
  ASSERT_TRUE(pending.ok()) << pending.status();
  ASSERT_TRUE(Eventually([&] { return waiting_.load() == 1; }));
  EXPECT_FALSE(pending->done());
  EXPECT_EQ(ToText(client_.Call("echo", AsBytes("meanwhile"))), "meanwhile");
  released_.store(true);
  EXPECT_TRUE(Eventually([&] { return pending->done(); }));
  EXPECT_EQ(ToText(pending->Wait()), "released");
  EXPECT_TRUE(absl::IsFailedPrecondition(pending->Wait().status()));
  EXPECT_TRUE(pending->done());
}

TEST_F(FunctionTest, APendingThatIsDroppedLeavesNothingBehind) {
  const std::uint64_t used_bytes = UsedBytes();
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(client_.Start("echo", Bytes(1 << 20)).ok());
  EXPECT_TRUE(Eventually([&] { return UsedBytes() == used_bytes; }));
}

TEST_F(FunctionTest, ResultsTakenWhileOtherThreadsUploadAreGivenBack) {
  const Bytes large(2 << 20, std::byte{1});
  ASSERT_TRUE(client_.Put("large", large).ok());
  const std::uint64_t used_bytes = UsedBytes();
  std::atomic<bool> stop{false};
  std::atomic<int> puts{0};
  std::vector<std::thread> uploads;
  for (int t = 0; t < 3; ++t) {
    uploads.emplace_back([&] {
      while (!stop.load()) {
        const absl::Status put = client_.Put("large", large).status();
        EXPECT_TRUE(put.ok()) << put;
        if (!put.ok()) return;
        ++puts;
      }
    });
  }
  Eventually([&] { return puts.load() > 10 || HasFailure(); });
  for (int i = 0; i < test::Scaled(3000) && !HasFailure(); ++i) {
    EXPECT_EQ(ToText(client_.Call("echo", AsBytes("result"))), "result") << i;
  }
  stop.store(true);
  for (std::thread& upload : uploads) upload.join();
  EXPECT_TRUE(Eventually([&] { return UsedBytes() == used_bytes; })) << UsedBytes();
}

TEST_F(FunctionTest, AnAttemptPastTheFunctionsDeadlineIsMadeAgainAndItsThreadIsNotMissed) {
  RunningHost other(ConnectTo(socket(), "other"), 1);
  const FunctionOptions options{
      .max_concurrency = 9, .max_attempts = 2, .deadline = absl::Milliseconds(50)};
  other.Register(
      "sticks",
      [this](Invocation& invocation) -> absl::StatusOr<Bytes> {
        if (invocation.attempt() == 1 || AsText(invocation.input()) == "always") {
          Eventually([this] { return released_.load(); });
        }
        return ToBytes(fmt::format("attempt {}", invocation.attempt()));
      },
      options);
  other.Register("quick", [](Invocation&) -> absl::StatusOr<Bytes> { return ToBytes("quick"); });
  other.Run();
  ASSERT_TRUE(Eventually([&] { return NodesWith(client_, "quick") == 1; }));
  EXPECT_EQ(ToText(client_.Call("sticks", {})), "attempt 2");
  EXPECT_EQ(ToText(client_.Call("quick", {})), "quick");
  const absl::Status status = client_.Call("sticks", AsBytes("always")).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_NE(status.message().find("attempt on other: past its deadline; attempt on other"),
            absl::string_view::npos)
      << status;
  EXPECT_EQ(ToText(client_.Call("quick", {})), "quick");
  released_.store(true);
}

TEST_F(FunctionTest, ACallMayNameItsNodeAndAskWhyItRanWhereItDid) {
  RunningHost second(ConnectTo(socket(), "second"), 1);
  second.Register("echo", [](Invocation&) -> absl::StatusOr<Bytes> { return ToBytes("second"); });
  second.Run();
  ASSERT_TRUE(Eventually([&] { return NodesWith(client_, "echo") == 2; }));
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(ToText(client_.Call("echo", AsBytes("x"), {.node = "second"})), "second");
    EXPECT_EQ(ToText(client_.Call("echo", AsBytes("x"), {.node = "host"})), "x");
  }
  EXPECT_TRUE(absl::IsNotFound(client_.Call("echo", {}, {.node = "third"}).status()));
  EXPECT_TRUE(absl::IsNotFound(client_.Call("fan", {}, {.node = "second"}).status()));
  auto pending =
      client_.Start("echo", {}, {.reads = {"some key"}, .node = "host", .explain = true});
  ASSERT_TRUE(pending.ok() && pending->Wait().ok());
  const absl::StatusOr<Explanation> why = pending->Explain();
  ASSERT_TRUE(why.ok()) << why.status();
  EXPECT_EQ(why->chosen, "host");
  EXPECT_EQ(why->policy, "criterion+locality");
  ASSERT_EQ(why->candidates.size(), 2u);
  EXPECT_EQ(why->candidates[1].verdict, "another node is asked for");
  EXPECT_TRUE(absl::IsNotFound(client_.Start("echo", {})->Explain().status()));
}

TEST_F(FunctionTest, PastItsDeadlineACallReturnsWithoutItsFunction) {
  const absl::Time began = absl::Now();
  const absl::Status status =
      client_.Call("wait", {}, {.deadline = absl::Milliseconds(100)}).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_GE(absl::Now() - began, absl::Milliseconds(90));
  EXPECT_LT(absl::Now() - began, absl::Seconds(5));
  auto pending = client_.Start("wait", {}, {.deadline = absl::Milliseconds(100)});
  ASSERT_TRUE(pending.ok()) << pending.status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(pending->Wait().status()));
  EXPECT_EQ(ToText(client_.Call("echo", AsBytes("on"))), "on");
}

TEST_F(FunctionTest, MaxConcurrencyHoldsBack) {
  std::vector<Pending> pending;
  for (int i = 0; i < 5; ++i) pending.push_back(*client_.Start("wait", {}));
  ASSERT_TRUE(Eventually([&] { return waiting_.load() == 2; }));
  // Six threads are idle: another function runs at once, a third "wait" does not.
  EXPECT_EQ(ToText(client_.Call("echo", AsBytes("on"))), "on");
  EXPECT_EQ(waiting_.load(), 2);
  released_.store(true);
  for (Pending& each : pending) EXPECT_EQ(ToText(each.Wait()), "released");
  EXPECT_EQ(waiting_.load(), 5);
}

TEST_F(FunctionTest, FunctionsCallFunctions) {
  EXPECT_EQ(ToText(client_.Call("nest", AsBytes("5"))), "bottom!!!!!");
  EXPECT_EQ(ToText(client_.Call("fan", {})), "01234");
}

// A host of one thread, and of functions of max_concurrency 1.
class NarrowHostTest : public FunctionTest {
 protected:
  void SetUp() override {
    narrow_.Register("down", [](Invocation& invocation) -> absl::StatusOr<Bytes> {
      const int depth = std::stoi(std::string(AsText(invocation.input())));
      if (depth == 0) return ToBytes("bottom");
      const std::string next = std::to_string(depth - 1);
      if (depth % 2 == 0) return invocation.Call("down", AsBytes(next));
      absl::StatusOr<Pending> started = invocation.Start("down", AsBytes(next));
      return started.ok() ? started->Wait() : started.status();
    });
    narrow_.Register("count",
                     [this](Invocation&) -> absl::StatusOr<Bytes> {
                       const int now = ++at_once_;
                       int most = most_at_once_.load();
                       while (now > most && !most_at_once_.compare_exchange_weak(most, now)) {
                       }
                       std::this_thread::yield();
                       --at_once_;
                       return Bytes();
                     },
                     {.max_concurrency = 8});
    narrow_.Run();
    ASSERT_TRUE(Eventually([&] { return NodesWith(client_, "count") == 1; }));
  }
  std::atomic<int> at_once_{0};
  std::atomic<int> most_at_once_{0};
  RunningHost narrow_{ConnectTo(socket(), "narrow"), 1};
};

TEST_F(NarrowHostTest, AChainMayBeDeeperThanItsHostHasThreads) {
  for (const char* depth : {"1", "2", "10", "40"}) {
    EXPECT_EQ(ToText(client_.Call("down", AsBytes(depth))), "bottom");
  }
}

TEST_F(NarrowHostTest, AChainMayHaveAThousandLinks) {
  const int links = std::max(100, test::Scaled(1000));
  const std::uint64_t used_bytes = UsedBytes();
  EXPECT_EQ(ToText(client_.Call("down", AsBytes(std::to_string(links)))), "bottom");
  EXPECT_EQ(ToText(client_.Call("down", AsBytes("20"))), "bottom");
  EXPECT_TRUE(Eventually([&] { return UsedBytes() == used_bytes; })) << UsedBytes();
}

TEST_F(NarrowHostTest, AChainBeyondItsHostsLimitEndsWithAClearErrorAndTheHostGoesOn) {
  RunningHost limited(ConnectTo(socket(), "limited"), HostOptions{.max_waiting = 70});
  limited.Register("deep", [](Invocation& invocation) -> absl::StatusOr<Bytes> {
    const int depth = std::stoi(std::string(AsText(invocation.input())));
    if (depth == 0) return ToBytes("bottom");
    return invocation.Call("deep", AsBytes(std::to_string(depth - 1)), {.errors_are_final = true});
  });
  limited.Run();
  ASSERT_TRUE(Eventually([&] { return NodesWith(client_, "deep") == 1; }));
  EXPECT_EQ(ToText(client_.Call("deep", AsBytes("70"))), "bottom");
  const absl::Status status =
      client_.Call("deep", AsBytes("71"), {.errors_are_final = true}).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_NE(status.message().find("70 functions of this host wait for calls of their own"),
            absl::string_view::npos)
      << status;
  EXPECT_NE(status.message().find("max_waiting"), absl::string_view::npos) << status;
  EXPECT_EQ(ToText(client_.Call("deep", AsBytes("70"))), "bottom");
}

TEST_F(NarrowHostTest, AHostRunsNoMoreAtATimeThanItHasThreads) {
  EXPECT_EQ(ToText(client_.Call("down", AsBytes("20"))), "bottom");  // many workers by now
  std::vector<Pending> pending;
  for (int i = 0; i < 100; ++i) pending.push_back(*client_.Start("count", {}));
  for (Pending& each : pending) EXPECT_TRUE(each.Wait().ok());
  EXPECT_EQ(most_at_once_.load(), 1);
}

TEST_F(FunctionTest, PutsOfAnInvocationAreCommittedWhenItReturnsAndNotBefore) {
  ASSERT_TRUE(client_.Put("removed", AsBytes("still here")).ok());
  EXPECT_TRUE(absl::IsAborted(client_.Call("store", AsBytes("no")).status()));
  EXPECT_TRUE(absl::IsNotFound(client_.Get("stored").status()));
  EXPECT_TRUE(client_.Get("removed").ok());
  EXPECT_EQ(ToText(client_.Call("store", AsBytes("yes"))), "kept back");
  const auto stored = client_.Get("stored");
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_EQ(AsText(stored->bytes()), "yes");
  EXPECT_TRUE(absl::IsNotFound(client_.Get("removed").status()));
}

TEST_F(FunctionTest, WhatAFunctionHasWrittenIsCachedOnItsNode) {
  for (const std::string text : {"first", "second"}) {
    const ClientStats before = (*host_).stats();
    ASSERT_TRUE(client_.Call("store", AsBytes(text)).ok());
    // Its caller may know before its node does.
    ASSERT_TRUE(Eventually([&] { return (*host_).stats().puts == before.puts + 2; }));
    EXPECT_EQ(ToText(client_.Call("read", AsBytes("stored"))), text);
    EXPECT_EQ((*host_).stats().hits, before.hits + (text == "first" ? 1 : 2)) << text;
  }
}

TEST_F(FunctionTest, AnInvocationReadsWhatWasPutBeforeItsCall) {
  for (int i = 0; i < test::Scaled(2000); ++i) {
    const std::string text = std::to_string(i);
    ASSERT_TRUE(client_.Put("k", AsBytes(text)).ok());
    ASSERT_EQ(ToText(client_.Call("read", AsBytes("k"))), text);
  }
}

TEST_F(FunctionTest, ManyThreadsCallAtOnce) {
  constexpr int kThreads = 16;
  const int rounds = test::Scaled(300);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < rounds; ++i) {
        const std::string text = fmt::format("{}-{}", t, i);
        wrong += ToText(client_.Call("echo", AsBytes(text))) != text;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
}

TEST_F(FunctionTest, ASecondHostSharesTheWork) {
  std::atomic<int> ran{0};
  RunningHost second(ConnectTo(socket(), "second"), 1);
  second.Register("wait", [&](Invocation&) -> absl::StatusOr<Bytes> {
    ++ran;
    return ToBytes("second");
  });
  second.Run();
  ASSERT_TRUE(Eventually([&] { return NodesWith(client_, "wait") == 2; }));
  std::vector<Pending> blocked;
  for (int i = 0; i < 3; ++i) blocked.push_back(*client_.Start("wait", {}));
  EXPECT_TRUE(Eventually([&] { return ran.load() >= 1; }));
  released_.store(true);
  for (Pending& each : blocked) EXPECT_TRUE(each.Wait().ok());
}

TEST_F(FunctionTest, StopEndsRunAndWhatRunsEndsFirst) {
  std::atomic<bool> begun{false};
  RunningHost other(ConnectTo(socket(), "other"), 2);
  other.Register("slow", [&](Invocation&) -> absl::StatusOr<Bytes> {
    begun.store(true);
    Eventually([&] { return released_.load(); });
    return ToBytes("done");
  });
  other.Run();
  ASSERT_TRUE(Eventually([&] { return NodesWith(client_, "slow") == 1; }));
  auto pending = client_.Start("slow", {});
  ASSERT_TRUE(pending.ok()) << pending.status();
  ASSERT_TRUE(Eventually([&] { return begun.load(); }));
  (*other).Stop();
  released_.store(true);
  EXPECT_TRUE(other.Join().ok());
  EXPECT_EQ(ToText(pending->Wait()), "done");
}

TEST_F(FunctionTest, AHostThatStopsDoesNotWaitForAFunctionPastItsDeadline) {
  auto left_behind = std::make_shared<std::atomic<bool>>(false);
  auto begun = std::make_shared<std::atomic<bool>>(false);
  {
    RunningHost other(ConnectTo(socket(), "other"), 1);
    other.Register("sticks",
                   [left_behind, begun](Invocation&) -> absl::StatusOr<Bytes> {
                     begun->store(true);
                     Eventually([&] { return left_behind->load(); });
                     return Bytes();
                   },
                   {.max_attempts = 1, .deadline = absl::Milliseconds(50)});
    other.Run();
    ASSERT_TRUE(Eventually([&] { return NodesWith(client_, "sticks") == 1; }));
    EXPECT_TRUE(absl::IsDeadlineExceeded(client_.Call("sticks", {}).status()));
    ASSERT_TRUE(begun->load());
    (*other).Stop();
    const absl::Status end = other.Join();
    EXPECT_TRUE(absl::IsDeadlineExceeded(end)) << end;
    EXPECT_NE(end.message().find("function sticks: still runs"), absl::string_view::npos) << end;
  }
  left_behind->store(true);
  EXPECT_TRUE(Eventually([&] { return left_behind.use_count() == 1; })) << "its thread has ended";
}

TEST_F(FunctionTest, AFunctionRegisteredWhileTheHostRunsIsServed) {
  host_.Register("late", [](Invocation& invocation) -> absl::StatusOr<Bytes> {
    return ToBytes(fmt::format("{} {}", std::string(invocation.function()), invocation.attempt()));
  });
  EXPECT_EQ(ToText(client_.Call("late", {})), "late 1");
}

// Whatever shard a key's home is.
TEST(LocalityTest, AnInvocationGoesWhereItsDeclaredReadsAreCachedInPoolsOfSeveralShardsToo) {
  const Folder folder;
  const Aptad aptad({"--socket", folder / "s", "--pool", "bytes=64MiB", "--shards", "3"});
  Client caller = ConnectTo(folder / "s", "caller");
  std::vector<std::unique_ptr<RunningHost>> hosts;
  for (int host = 0; host < 3; ++host) {
    hosts.push_back(
        std::make_unique<RunningHost>(ConnectTo(folder / "s", fmt::format("host-{}", host)), 4));
    hosts.back()->Register("read",
                           [host](Invocation& invocation) -> absl::StatusOr<Bytes> {
                             const auto object = invocation.Get(AsText(invocation.input()));
                             if (!object.ok()) return object.status();
                             return ToBytes(std::to_string(host));
                           },
                           {.max_concurrency = 4});
    hosts.back()->Run();
  }
  ASSERT_TRUE(Eventually([&] { return NodesWith(caller, "read") == 3; }));
  constexpr int kKeys = 12;  // all of one shard: once in 180,000
  constexpr std::size_t kBytes = 5000;
  for (int i = 0; i < kKeys; ++i) {
    const std::string key = fmt::format("key-{}", i);
    const std::string node = fmt::format("host-{}", i % 3);
    ASSERT_TRUE(caller.Put(key, Bytes(kBytes)).ok());
    // Until its node is the sharer: what is read while its home sleeps is cached a little later.
    ASSERT_TRUE(Eventually([&] {
      const auto read = caller.Call("read", AsBytes(key), {.reads = {key}, .node = node});
      return read.ok() && caller.Stat(key).value_or(ObjectInfo{}).sharers >= 2;
    }));
    auto pending = caller.Start("read", AsBytes(key), {.reads = {key}, .explain = true});
    ASSERT_TRUE(pending.ok()) << pending.status();
    EXPECT_EQ(ToText(pending->Wait()), std::to_string(i % 3)) << key;
    const auto why = pending->Explain();
    ASSERT_TRUE(why.ok()) << why.status();
    EXPECT_EQ(why->because, "caches most of the declared reads") << key;
    for (const Explanation::Candidate& candidate : why->candidates) {
      EXPECT_EQ(candidate.local_bytes, candidate.node == node ? kBytes : 0) << candidate.node;
    }
  }
}

}  // namespace
}  // namespace apta
