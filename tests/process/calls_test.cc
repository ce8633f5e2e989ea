// Calls whose hosts misbehave: they crash, exit, hang, are killed again and again, or their callers
// are. Every invocation ends once, in success or a clear error, and others are untouched.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <thread>

#include "fmt/format.h"
#include "tests/process/aptad.h"
#include "tests/process/bare_client.h"
#include "tests/process/host.h"

namespace apta {
namespace {

using fabric::Op;
using fabric::Request;
using test::Aptad;
using test::BareClient;
using test::ConnectTo;
using test::Eventually;
using test::Folder;
using test::MakeRequest;
using test::NodesWith;
using test::Other;
using test::Scaled;
using test::ToBytes;
using test::ToText;

[[noreturn]] void Spin() {
  for (volatile bool for_ever = true; for_ever;) {
  }
  std::abort();
}

// --- what other processes do

// A host of functions that do what their names say.
int Host(const std::vector<std::string>& role) {
  absl::StatusOr<FunctionHost> host = FunctionHost::Create(ConnectTo(role[1], role[2]), 2);
  if (!host.ok()) return 1;
  const FunctionOptions options{
      .max_concurrency = 4, .max_attempts = 3, .deadline = absl::Milliseconds(300)};
  const std::pair<const char*, Function> functions[] = {
      {"segfault",
       [](Invocation&) -> absl::StatusOr<Bytes> {
         raise(SIGSEGV);
         return Bytes();
       }},
      {"exit", [](Invocation&) -> absl::StatusOr<Bytes> { std::_Exit(3); }},
      {"throw", [](Invocation&) -> absl::StatusOr<Bytes> { throw std::runtime_error("thrown"); }},
      {"spin", [](Invocation&) -> absl::StatusOr<Bytes> { Spin(); }},
      {"exit_once",
       [](Invocation& invocation) -> absl::StatusOr<Bytes> {
         if (invocation.attempt() == 1) std::_Exit(3);
         return ToBytes("done");
       }},
      {"echo",
       [](Invocation& invocation) -> absl::StatusOr<Bytes> {
         return Bytes(invocation.input().begin(), invocation.input().end());
       }},
      {"mark",  // some work, and an effect under a name that no other attempt has
       [](Invocation& invocation) -> absl::StatusOr<Bytes> {
         const std::string number(AsText(invocation.input()));
         const std::string attempt =
             fmt::format("{}.{}.{}", getpid(), invocation.id(), invocation.attempt());
         invocation.Put(fmt::format("mark/{}/{}", number, attempt), AsBytes(attempt));
         std::this_thread::sleep_for(std::chrono::milliseconds(2 + std::stoi(number) % 16));
         return ToBytes(attempt);
       }},
  };
  for (const auto& [name, function] : functions) {
    if (!host->Register(name, function, options).ok()) return 1;
  }
  return host->Run().ok() ? 0 : 1;
}

// Calls `echo`, in vain or not, until it is killed.
int Call(const std::vector<std::string>& role) {
  Client client = ConnectTo(role[1], "caller to be killed");
  std::vector<Pending> pending;
  for (int i = 0;; ++i) {
    auto started = client.Start(i % 2 == 0 ? "spin" : "echo", AsBytes("x"));
    if (started.ok()) pending.push_back(*std::move(started));
    if (i == 100) (void)!write(STDOUT_FILENO, "ready\n", 6);
  }
}

int RunRole(const std::vector<std::string>& role) {
  if (role[0] == "host") return Host(role);
  return Call(role);
}

class CallsTest : public ::testing::Test {
 protected:
  std::unique_ptr<Other> StartHost(const std::string& name) {
    return std::make_unique<Other>(std::vector<std::string>{"host", socket_, name});
  }
  void AwaitHosts(int count) {
    ASSERT_TRUE(Eventually([&] { return NodesWith(client_, "mark") == count; }));
  }
  Folder folder_;
  std::string socket_ = folder_ / "s";
  Aptad aptad_{{"--socket", socket_, "--pool", "bytes=64MiB"}};
  Client client_ = ConnectTo(socket_, "caller");
};

TEST_F(CallsTest, AFunctionThatCrashesOrExitsFailsItsAttemptsAndNothingElse) {
  const auto steady = StartHost("steady");
  AwaitHosts(1);
  std::vector<std::unique_ptr<Other>> hosts;
  for (const char* function : {"segfault", "exit"}) {
    for (int i = 0; i < 3; ++i) hosts.push_back(StartHost(fmt::format("{}-{}", function, i)));
    AwaitHosts(4);
    // Elsewhere than on the steady one, each time.
    int errors = 0;
    for (int i = 0; i < 3; ++i) {
      auto pending = client_.Start(
          function, {},
          {.deadline = absl::Milliseconds(500), .node = fmt::format("{}-{}", function, i)});
      ASSERT_TRUE(pending.ok()) << pending.status();
      const absl::Status status = pending->Wait().status();
      errors += absl::IsDeadlineExceeded(status) &&
                status.message().find("its node died or left") != absl::string_view::npos;
    }
    EXPECT_EQ(errors, 3) << "attempts on named nodes that are gone, then nobody of that name";
    EXPECT_EQ(ToText(client_.Call("echo", AsBytes("on"))), "on");
    for (auto& host : hosts) host->Wait();
    hosts.clear();
  }
  const absl::Status thrown = client_.Call("throw", {}).status();
  EXPECT_TRUE(absl::IsInternal(thrown)) << thrown;
  EXPECT_NE(thrown.message().find("attempt on steady: INTERNAL; attempt on steady: INTERNAL"),
            absl::string_view::npos)
      << thrown;
  EXPECT_EQ(ToText(client_.Call("echo", AsBytes("on"))), "on");
}

TEST_F(CallsTest, AttemptsThatAreUsedUpEndWithTheirHistory) {
  std::vector<std::unique_ptr<Other>> hosts;
  for (int i = 0; i < 3; ++i) hosts.push_back(StartHost(fmt::format("host-{}", i)));
  AwaitHosts(3);
  const absl::Status status = client_.Call("exit", {}).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  for (int i = 0; i < 3; ++i) {
    EXPECT_NE(status.message().find(fmt::format("attempt on host-{}: its node died", i)),
              absl::string_view::npos)
        << status;
  }
  hosts.clear();
  const auto first = StartHost("first");
  const auto second = StartHost("second");
  AwaitHosts(2);
  EXPECT_EQ(ToText(client_.Call("exit_once", {})), "done");
}

TEST_F(CallsTest, FunctionsThatNeverEndCostTheirThreadsAndThenTheirNodeIsFull) {
  const auto host = StartHost("host");
  AwaitHosts(1);
  const absl::Status status = client_.Call("spin", {}).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_NE(status.message().find("attempts begun: 3"), absl::string_view::npos) << status;
  EXPECT_EQ(ToText(client_.Call("echo", AsBytes("on"))), "on");
  EXPECT_FALSE(client_.Call("spin", {}, {.deadline = absl::Seconds(1)}).ok());
  const absl::Status full =
      client_.Call("echo", AsBytes("x"), {.deadline = absl::Milliseconds(100)}).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(full)) << full;
  EXPECT_NE(full.message().find("1 node: full of attempts past their deadline"),
            absl::string_view::npos)
      << full;
  EXPECT_EQ(client_.Nodes()->at(1).stuck, 4u);
  const auto fresh = StartHost("fresh");
  AwaitHosts(2);
  EXPECT_EQ(ToText(client_.Call("echo", AsBytes("on"))), "on");
}

TEST_F(CallsTest, ACallersDeathTakesItsInvocationsAway) {
  const auto host = StartHost("host");
  AwaitHosts(1);
  test::Pipe out = test::Pipe::Make();
  Other caller({"call", socket_}, out.write_end.get());
  out.write_end.Close();
  EXPECT_NE(test::ReadUntilText(out.read_end, "ready\n"), "");
  caller.Signal(SIGKILL);
  caller.Wait();
  ASSERT_TRUE(Eventually([&] { return client_.Nodes()->size() == 2; }));
  // No room was left behind it, and nothing of it runs any more but threads that are lost.
  EXPECT_TRUE(Eventually([&] {
    const auto nodes = client_.Nodes();
    return std::all_of(nodes->begin(), nodes->end(),
                       [](const NodeInfo& node) { return node.running == node.stuck; });
  }));
  const auto fresh = StartHost("fresh");
  AwaitHosts(2);
  EXPECT_EQ(ToText(client_.Call("echo", AsBytes("on"))), "on");
}

// Kills one of some hosts every 100 ms, until Stop.
class Killer {
 public:
  Killer(std::vector<std::unique_ptr<Other>> hosts,
         std::function<std::unique_ptr<Other>(int)> start)
      : hosts_(std::move(hosts)), start_(std::move(start)), thread_([this] { Run(); }) {}
  int Stop() {
    stop_.store(true);
    thread_.join();
    return kills_;
  }

 private:
  void Run() {
    std::mt19937 random(5);
    auto next = std::chrono::steady_clock::now();
    while (!stop_.load()) {
      next += std::chrono::milliseconds(100);  // the pace of the faults
      std::this_thread::sleep_until(next);
      std::unique_ptr<Other>& victim = hosts_[random() % hosts_.size()];
      victim->Signal(SIGKILL);
      victim->Wait();
      victim = start_(++kills_);
    }
  }
  std::vector<std::unique_ptr<Other>> hosts_;
  const std::function<std::unique_ptr<Other>(int)> start_;
  std::atomic<bool> stop_{false};
  int kills_ = 0;
  std::thread thread_;
};

// With APTA_TEST_SCALE=4: ten thousand invocations and a hundred kills.
TEST_F(CallsTest, EveryInvocationEndsOnceThoughANodeIsKilledEvery100Milliseconds) {
  constexpr int kHosts = 5;
  constexpr int kCallers = 16;
  const int calls = Scaled(2'500);
  std::vector<std::unique_ptr<Other>> hosts;
  for (int i = 0; i < kHosts; ++i) hosts.push_back(StartHost(fmt::format("host-{}", i)));
  AwaitHosts(kHosts);
  Killer killer(std::move(hosts),
                [&](int kill) { return StartHost(fmt::format("host-{}", kill)); });
  std::atomic<int> next{0};
  std::vector<std::vector<absl::StatusOr<Bytes>>> ends(static_cast<std::size_t>(calls));
  std::vector<std::thread> callers;
  for (int c = 0; c < kCallers; ++c) {
    callers.emplace_back([&] {
      for (int i; (i = next.fetch_add(1)) < calls;) {
        auto& end = ends[static_cast<std::size_t>(i)];
        end.push_back(client_.Call("mark", AsBytes(std::to_string(i))));
        if (!absl::IsNotFound(end.back().status())) continue;
        Eventually([&] { return NodesWith(client_, "mark") > 0; });  // all were dead
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  const int kills = killer.Stop();
  std::map<int, std::vector<std::string>> marks;  // by invocation: attempts that have written
  for (std::string after;;) {
    const auto objects = client_.List("mark/", 1000, after);
    ASSERT_TRUE(objects.ok()) << objects.status();
    if (objects->empty()) break;
    for (const ObjectInfo& object : *objects) {
      const auto content = client_.Get(object.key);
      ASSERT_TRUE(content.ok()) << content.status();
      const std::string attempt(AsText(content->bytes()));
      EXPECT_TRUE(object.key.ends_with("/" + attempt)) << object.key << ": " << attempt;
      marks[std::stoi(object.key.substr(5))].push_back(attempt);
    }
    after = objects->back().key;
  }
  int succeeded = 0;
  for (int i = 0; i < calls; ++i) {
    ASSERT_EQ(ends[static_cast<std::size_t>(i)].size(), 1u);
    const absl::StatusOr<Bytes>& end = ends[static_cast<std::size_t>(i)].front();
    if (end.ok()) {
      EXPECT_EQ(marks[i], std::vector<std::string>{std::string(AsText(*end))})
          << i << ": once, by the attempt that the caller heard of";
      ++succeeded;
    } else {
      // Nobody has it just now, or three nodes in a row have died under it.
      EXPECT_TRUE(absl::IsNotFound(end.status()) || absl::IsUnavailable(end.status()) ||
                  absl::IsDeadlineExceeded(end.status()))
          << end.status();
      EXPECT_TRUE(marks[i].empty()) << i << ": failed, and has written";
    }
  }
  fmt::print("{} invocations, {} succeeded, {} hosts killed\n", calls, succeeded, kills);
  EXPECT_GT(succeeded, calls / 2);
  // Ten at a time, some 10 ms each: the faults kept up with them, if not at their pace where this
  // process is starved.
  EXPECT_GE(kills, std::max(1, calls / 1000));
}

// Whose core the other one of a call needs is told so with the reply (Lane::shares_core), and
// yields in its next wait. The cores are none that a home can be on.
void ExpectHint(BareClient* host, BareClient* caller, std::uint16_t callers_core, bool shares) {
  constexpr std::uint16_t kHostsCore = 1001;
  const auto ask = [](BareClient* client, Request request, std::uint16_t lane, std::uint16_t core) {
    request.lane = lane;
    request.core = core;
    EXPECT_TRUE(client->Submit(request));
    return request;
  };
  const auto hint = [](const BareClient& client, std::uint16_t lane) {
    return client.port().lane(lane)->shares_core.load() != 0;
  };
  Request ready = ask(host, MakeRequest(Op::kReady), 1, kHostsCore);
  host->Await(ask(host, MakeRequest(Op::kPoll), 0, 0));  // after it: the worker is known to wait
  const Request call =
      ask(caller, MakeRequest(Op::kCall, "f", "in", 10'000'000'000), 2, callers_core);
  const fabric::Reply delivery = host->Await(ready);
  ASSERT_EQ(delivery.code, 0u);
  EXPECT_EQ(hint(*host, 1), shares);
  ready = ask(host, MakeRequest(Op::kReady, "", "out", delivery.value[0]), 1, kHostsCore);
  EXPECT_EQ(caller->Await(call).code, 0u);
  EXPECT_EQ(hint(*caller, 2), shares);
  host->Await(ask(host, MakeRequest(Op::kUnready), 0, 0));  // answers `ready`
  host->Await(
      ask(host, MakeRequest(Op::kRegister, "f", "", fabric::FunctionLimits{}.Pack()), 0, 0));
}

TEST(CallHintTest, WhoSharesACoreWithTheOtherOneOfACallIsTold) {
  const Folder folder;
  const std::string socket = folder / "aptad.sock";
  const Aptad aptad({"--socket", socket});
  BareClient host(socket), caller(socket);
  Request registers = MakeRequest(Op::kRegister, "f", "", fabric::FunctionLimits{}.Pack());
  ASSERT_TRUE(host.Submit(registers));
  ASSERT_EQ(host.Await(registers).code, 0u);
  ExpectHint(&host, &caller, 1001, true);
  ExpectHint(&host, &caller, 1002, false);
  ExpectHint(&host, &caller, 0, false);  // who does not say where it is, is told nothing new
}

}  // namespace
}  // namespace apta

int main(int argc, char** argv) { return apta::test::RoleMain(argc, argv, apta::RunRole); }
