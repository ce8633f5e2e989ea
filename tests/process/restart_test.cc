// The memory server stops, ends, is killed and comes back: what its clients see meanwhile.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <atomic>
#include <fstream>
#include <memory>
#include <optional>
#include <set>

#include "fmt/format.h"
#include "tests/process/aptad.h"
#include "tests/process/host.h"
#include "tests/process/page.h"

namespace apta {
namespace {

using test::Aptad;
using test::ConnectTo;
using test::Eventually;
using test::Folder;
using test::NodesWith;
using test::Other;
using test::RunningHost;
using test::SharedPage;

// How many of a putter's objects have been acknowledged, by key.
constexpr int kPutterKeys = 64;
struct Acknowledged {
  std::atomic<std::uint64_t> round[kPutterKeys];
  std::atomic<std::uint64_t> puts;
};

std::string KeyOf(int i) { return fmt::format("key-{}", i); }
// Says its round, and is whole when all of it does.
Bytes ValueOf(std::uint64_t round) {
  return Bytes(round % 7 == 0 ? 100'000 : round * 31 % 3000 + 8, static_cast<std::byte>(round));
}

// role: putter, socket, page. Puts until the memory server is gone.
int RunPutter(const std::vector<std::string>& role) {
  SharedPage<Acknowledged> page(role[2]);
  Client client = ConnectTo(role[1], "putter");
  for (std::uint64_t round = 1;; ++round) {
    for (int i = 0; i < kPutterKeys; ++i) {
      if (!client.Put(KeyOf(i), ValueOf(round)).ok()) return 0;
      page->round[i].store(round);
      ++page->puts;
    }
  }
}

// Whether the next memory server has acknowledged a put.
struct Progress {
  std::atomic<bool> is_new;
};

// role: reader, socket, page. Gets without pause until it reads the new value; exits with 1 when it
// reads the old one although the new one had been acknowledged.
int RunReader(const std::vector<std::string>& role) {
  SharedPage<Progress> page(role[2]);
  Client client = ConnectTo(role[1], "reader");
  for (bool said = false;; said = true) {
    const bool is_new = page->is_new.load();
    const auto object = client.Get("key");
    if (object.ok() && AsText(object->bytes()) == "new") return 0;
    if (object.ok() && is_new) return 1;
    if (!said) (void)!write(STDOUT_FILENO, "ready\n", 6);
  }
}

int RunRole(const std::vector<std::string>& role) {
  return role[0] == "putter" ? RunPutter(role) : RunReader(role);
}

class RestartTest : public ::testing::Test {
 protected:
  void StartAptad() {
    aptad_.emplace(std::vector<std::string>{"--socket", socket_, "--pool", pool_});
  }
  void Kill() {
    EXPECT_EQ(aptad_->End(SIGKILL), -SIGKILL);
    aptad_.reset();
  }

  Folder folder_;
  std::string socket_ = folder_ / "s";
  std::string pool_ = "bytes=64MiB";
  std::optional<Aptad> aptad_;
};

TEST_F(RestartTest, EveryWaitingThreadIsToldAtOnceWhenTheMemoryServerIsKilled) {
  StartAptad();
  std::atomic<bool> released{false};
  std::atomic<int> inside{0};
  RunningHost host(ConnectTo(socket_, "host"), 4);
  const auto wait = [&](Invocation&) -> absl::StatusOr<Bytes> {
    ++inside;
    Eventually([&] { return released.load(); });
    return Bytes();
  };
  host.Register("wait", wait, {.max_concurrency = 4});
  host.Run();
  // A timeout that is far away: what ends the calls is the end of the memory server.
  auto client = Client::Connect({.socket = socket_, .node = "n", .timeout = absl::Seconds(60)});
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE(Eventually([&] { return NodesWith(*client, "wait") == 1; }));
  absl::StatusOr<Pending> pending = client->Start("wait", {});
  ASSERT_TRUE(pending.ok()) << pending.status();
  const std::vector<std::function<absl::Status()>> calls = {
      [&] { return client->Call("wait", {}).status(); },
      [&] { return pending->Wait().status(); },
      [&] { return client->Put("large", Bytes(8 << 20)).status(); },
      [&] { return client->Put("small", AsBytes("x")).status(); },
      [&] { return client->Get("small").status(); },
      [&] { return client->Stat("small").status(); },
      [&] { return client->List("").status(); },
  };
  ASSERT_TRUE(client->Put("small", AsBytes("x")).ok());
  std::atomic<int> told{0};
  std::vector<std::thread> threads;
  for (const auto& call : calls) {
    threads.emplace_back([&] {
      absl::Status status;
      while ((status = call()).ok()) {
      }
      EXPECT_TRUE(absl::IsUnavailable(status)) << status;
      ++told;
    });
  }
  ASSERT_TRUE(Eventually([&] { return inside.load() == 2; }));
  const absl::Time killed = absl::Now();
  Kill();
  EXPECT_TRUE(Eventually([&] { return told.load() == static_cast<int>(calls.size()); }));
  EXPECT_LT(absl::Now() - killed, absl::Seconds(5));
  for (std::thread& thread : threads) thread.join();
  released.store(true);
}

// The process is stopped before the memory server is killed, and continues when the next one has
// acknowledged a put: its very next get must not be served by what the dead one left behind.
TEST_F(RestartTest, AStoppedNodeServesNothingOfADeadMemoryServer) {
  for (const char* mode : {"strict", "lazy", "sync", "versioned", "uncached"}) {
    for (const std::string& backing : {std::string("memfd"), "file:" + (folder_ / mode)}) {
      SCOPED_TRACE(fmt::format("{} {}", mode, backing));
      pool_ = fmt::format("bytes=64MiB,coherence={},backing={}", mode, backing);
      StartAptad();
      SharedPage<Progress> page;
      {
        Client writer = ConnectTo(socket_, "writer");
        ASSERT_TRUE(writer.Put("key", AsBytes("old")).ok());
      }
      test::Pipe out = test::Pipe::Make();
      Other reader({"reader", socket_, page.name()}, out.write_end.get());
      ASSERT_NE(test::ReadUntilText(out.read_end, "ready\n"), "");
      reader.Signal(SIGSTOP);
      Kill();
      StartAptad();
      {
        Client writer = ConnectTo(socket_, "writer");
        ASSERT_TRUE(writer.Put("key", AsBytes("new")).ok());
      }
      page->is_new.store(true);
      reader.Signal(SIGCONT);
      EXPECT_EQ(reader.Wait(), 0);
      EXPECT_EQ(aptad_->End(SIGTERM), 0);
      aptad_.reset();
    }
  }
}

TEST_F(RestartTest, WhileTheMemoryServerStandsStillRequestsTimeOut) {
  StartAptad();
  auto client =
      Client::Connect({.socket = socket_, .node = "n", .timeout = absl::Milliseconds(200)});
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE(client->Put("k", AsBytes("1")).ok());
  aptad_->Signal(SIGSTOP);
  // The signal takes effect a little later: until then there are answers.
  ASSERT_TRUE(Eventually([&] { return absl::IsDeadlineExceeded(client->Stat("k").status()); }));
  EXPECT_TRUE(absl::IsDeadlineExceeded(client->Put("k", AsBytes("2")).status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(client->Put("k", Bytes(4 << 20)).status()));
  // More requests than there are lanes.
  for (int i = 0; i < 3; ++i) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 40; ++t) {
      threads.emplace_back([&] {
        const absl::Status status = client->Stat("k").status();
        EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  aptad_->Signal(SIGCONT);
  EXPECT_TRUE(Eventually([&] { return client->Put("k", AsBytes("3")).ok(); }));
  for (int i = 0; i < 200; ++i) {
    const std::string text = std::to_string(i);
    const absl::StatusOr<Version> put = client->Put("k", AsBytes(text));
    ASSERT_TRUE(put.ok()) << put.status();
    ASSERT_EQ(AsText(client->Get("k")->bytes()), text);
  }
  EXPECT_EQ(client->stats().reconnects, 0u);
}

TEST_F(RestartTest, ManyRestartsLeaveNoMappingOfWhatNobodyHolds) {
  StartAptad();
  Client client = ConnectTo(socket_, "n");
  const auto mappings = [] {
    std::ifstream maps("/proc/self/maps");
    int count = 0;
    for (std::string line; std::getline(maps, line);) {
      count += line.find("memfd:apta") != std::string::npos;
    }
    return count;
  };
  const int before = mappings();
  std::optional<Object> held;
  for (std::uint64_t restart = 1; restart <= 5; ++restart) {
    const std::string text = fmt::format("restart {}", restart);
    ASSERT_TRUE(client.Put("k", AsBytes(text)).ok());
    held = *client.Get("k");
    Kill();
    StartAptad();
    ASSERT_TRUE(Eventually([&] { return client.Put("other", AsBytes("x")).ok(); }));
    EXPECT_TRUE(absl::IsNotFound(client.Get("k").status()));
    EXPECT_EQ(client.stats().reconnects, restart);
    EXPECT_EQ(client.stats().objects_cached, 1u);
    EXPECT_EQ(AsText(held->bytes()), text);
  }
  held.reset();
  // A region of a dead memory server is memory that nobody else can have.
  EXPECT_TRUE(Eventually([&] { return mappings() <= before; }))
      << mappings() << " mappings, " << before << " before";
}

TEST_F(RestartTest, FunctionHostsAndTheirCallersSurviveAKill) {
  StartAptad();
  RunningHost host(ConnectTo(socket_, "host"), 2);
  host.Register("echo", [](Invocation& invocation) -> absl::StatusOr<Bytes> {
    return Bytes(invocation.input().begin(), invocation.input().end());
  });
  host.Run();
  Client client = ConnectTo(socket_, "caller");
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(Eventually([&] { return client.Call("echo", AsBytes("x")).ok(); }));
    for (int c = 0; c < 100; ++c) ASSERT_TRUE(client.Call("echo", Bytes(1000)).ok());
    Kill();
    EXPECT_TRUE(Eventually([&] { return absl::IsUnavailable(client.Call("echo", {}).status()); }));
    StartAptad();
  }
  EXPECT_TRUE(Eventually([&] { return client.Call("echo", AsBytes("x")).ok(); }));
  EXPECT_EQ(NodesWith(client, "echo"), 1);
}

TEST_F(RestartTest, AFunctionThatStillRunsKeepsNoneOfItsHostAwayFromTheNextMemoryServer) {
  StartAptad();
  std::atomic<int> begun{0};
  std::atomic<bool> released{false};
  std::atomic<bool> was_cut_off{false};
  RunningHost host(ConnectTo(socket_, "host"), 1);
  host.Register("echo", [](Invocation& invocation) -> absl::StatusOr<Bytes> {
    return Bytes(invocation.input().begin(), invocation.input().end());
  });
  host.Register("stays",
                [&](Invocation& invocation) -> absl::StatusOr<Bytes> {
                  ++begun;
                  Eventually([&] { return released.load(); });
                  was_cut_off.store(absl::IsUnavailable(invocation.Call("echo", {}).status()));
                  return Bytes();
                },
                {.max_attempts = 1});
  host.Run();
  Client client = ConnectTo(socket_, "caller");
  const auto is_served = [&] { return client.Call("echo", AsBytes("x")).ok(); };
  constexpr int kRestarts = 3;
  for (int i = 0; i < kRestarts; ++i) {
    ASSERT_TRUE(Eventually(is_served)) << i;
    const auto pending = client.Start("stays", {});
    ASSERT_TRUE(pending.ok()) << pending.status();
    ASSERT_TRUE(Eventually([&] { return begun.load() == i + 1; }));
    Kill();
    StartAptad();
  }
  EXPECT_TRUE(Eventually(is_served));
  released.store(true);
  EXPECT_TRUE(Eventually([&] { return was_cut_off.load(); })) << "a call of an attempt of before";
  EXPECT_TRUE(is_served());
}

TEST_F(RestartTest, WhatWasAcknowledgedIsInTheFileAfterAKillInTheMiddleOfPuts) {
  pool_ = fmt::format("bytes=64MiB,backing=file:{}", folder_ / "region");
  SharedPage<Acknowledged> page;
  Version last = 0;
  for (int round = 0; round < test::Scaled(10); ++round) {
    for (auto& word : page->round) word.store(0);
    StartAptad();
    const std::uint64_t puts = page->puts.load();
    Other putter({"putter", socket_, page.name()});
    ASSERT_TRUE(Eventually([&] { return page->puts.load() > puts + 500; }));
    Kill();
    EXPECT_EQ(putter.Wait(), 0);
    StartAptad();
    Client client = ConnectTo(socket_, "judge");
    for (int i = 0; i < kPutterKeys; ++i) {
      const std::uint64_t acknowledged = page->round[i].load();
      const absl::StatusOr<Object> object = client.Get(KeyOf(i));
      ASSERT_TRUE(object.ok()) << object.status();
      EXPECT_TRUE(object->bytes() == BytesView(ValueOf(acknowledged)) ||
                  object->bytes() == BytesView(ValueOf(acknowledged + 1)))
          << KeyOf(i);
    }
    // Nothing that was cut short keeps its room.
    std::uint64_t payload_bytes = 0;
    const auto objects = client.List("");
    ASSERT_TRUE(objects.ok()) << objects.status();
    for (const ObjectInfo& object : *objects) payload_bytes += object.size;
    const PoolInfo pool = test::PoolOf(client);
    EXPECT_EQ(pool.objects, static_cast<std::uint64_t>(kPutterKeys));
    EXPECT_LE(pool.bytes_used, payload_bytes / 4 * 5 + kPutterKeys * (4096 + 256));
    const absl::StatusOr<Version> version = client.Put("another", {});
    ASSERT_TRUE(version.ok()) << version.status();
    EXPECT_GT(*version, last);  // never used twice
    last = *version;
    ASSERT_TRUE(client.Delete("another").ok());
    EXPECT_EQ(aptad_->End(round % 2 == 0 ? SIGTERM : SIGKILL), round % 2 == 0 ? 0 : -SIGKILL);
    aptad_.reset();
  }
}

TEST_F(RestartTest, ASharedMemoryObjectKeepsItsObjects) {
  const std::string name = fmt::format("apta-restart-test-{}", getpid());
  pool_ = fmt::format("bytes=16MiB,backing=shm:{}", name);
  bool is_new = true;
  for (const int end : {SIGTERM, SIGKILL, SIGTERM}) {
    StartAptad();
    Client client = ConnectTo(socket_, "n");
    const absl::StatusOr<Object> object = client.Get("k");
    // The first time it is not there yet.
    EXPECT_EQ(object.ok() ? AsText(object->bytes()) : "none", is_new ? "none" : "kept");
    EXPECT_EQ(client.Put("k", AsBytes("kept"), {.if_version = 0}).ok(), is_new);
    is_new = false;
    aptad_->End(end);
    aptad_.reset();
  }
  EXPECT_EQ(shm_unlink(("/" + name).c_str()), 0);
}

TEST_F(RestartTest, AnEmbeddedMemoryServerTellsItsClientsThatItEnds) {
  auto server = MemoryServer::Start({.socket = socket_, .pools = {{.bytes = 64 << 20}}});
  ASSERT_TRUE(server.ok()) << server.status();
  Client client = ConnectTo(socket_, "n");
  ASSERT_TRUE(client.Put("k", AsBytes("held")).ok());
  const Object held = *client.Get("k");
  { const MemoryServer ends = *std::move(server); }
  EXPECT_TRUE(Eventually([&] { return absl::IsUnavailable(client.Get("k").status()); }));
  EXPECT_EQ(AsText(held.bytes()), "held");
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
  StartAptad();
  EXPECT_TRUE(Eventually([&] { return client.Put("k", AsBytes("new")).ok(); }));
}

TEST_F(RestartTest, AForkedChildKeepsItsParentsNodeNeitherAliveNorFromLeaving) {
  StartAptad();
  Client judge = ConnectTo(socket_, "judge");
  const int gone = -1;
  std::optional<Client> client = ConnectTo(socket_, "parent");
  ASSERT_TRUE(client->Put("k", AsBytes("v")).ok());
  const pid_t child = fork();
  ASSERT_NE(child, gone);
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (true) pause();
  }
  EXPECT_EQ(AsText(client->Get("k")->bytes()), "v");
  client.reset();
  EXPECT_TRUE(Eventually([&] { return judge.Nodes()->size() == 1; }));
  EXPECT_EQ(AsText(judge.Get("k")->bytes()), "v");
  kill(child, SIGKILL);
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
}

}  // namespace
}  // namespace apta

int main(int argc, char** argv) { return apta::test::RoleMain(argc, argv, apta::RunRole); }
