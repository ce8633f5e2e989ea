// Kills, stops, restarts: what everybody else notices of them.

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>

#include "fabric/index.h"
#include "fabric/superblock.h"
#include "fmt/format.h"
#include "tests/process/aptad.h"

namespace apta {
namespace {

using test::Aptad;
using test::ConnectTo;
using test::Eventually;
using test::Fd;
using test::Folder;
using test::Other;
using test::Pipe;

// --- what other processes do; each says "ready" on standard output when it is where it should be

void SayReady() { (void)!write(STDOUT_FILENO, "ready\n", 6); }

// Caches `key`, then waits for ever.
int Share(const std::vector<std::string>& role) {
  Client client = ConnectTo(role[1], "sharer");
  if (!test::BecomeSharer(client, "key")) return 1;
  SayReady();
  pause();
  return 0;
}

// Reads `key` without pause; exits with 1 when it ever goes back.
int Read(const std::vector<std::string>& role) {
  Client client = ConnectTo(role[1], "reader");
  if (!test::BecomeSharer(client, "key")) return 1;
  Version last = 0;
  for (bool said = false;; said = true) {
    const auto object = client.Get("key");
    if (!object.ok() || object->version() < last) return 1;
    if (AsText(object->bytes()) == "end") return 0;
    last = object->version();
    if (!said) SayReady();
  }
}

// Puts large objects under `big` without pause.
int PutLarge(const std::vector<std::string>& role) {
  Client client = ConnectTo(role[1], "putter");
  const std::string value(16 << 20, 'x');
  for (bool said = false;; said = true) {
    if (!client.Put("big", AsBytes(value)).ok()) return 1;
    if (!said) SayReady();
  }
}

// Runs `slow`, which never ends, and `quick`.
int Host(const std::vector<std::string>& role) {
  absl::StatusOr<FunctionHost> host = FunctionHost::Create(ConnectTo(role[1], role[2]), 2);
  (void)host->Register("slow", [](Invocation& invocation) -> absl::StatusOr<Bytes> {
    if (invocation.attempt() == 1) {
      SayReady();
      pause();
    }
    const BytesView again = AsBytes("again");
    return Bytes(again.begin(), again.end());
  });
  (void)host->Register("quick", [](Invocation& invocation) -> absl::StatusOr<Bytes> {
    return Bytes(invocation.input().begin(), invocation.input().end());
  });
  return host->Run().ok() ? 0 : 1;
}

int RunRole(const std::vector<std::string>& role) {
  static const std::map<std::string, int (*)(const std::vector<std::string>&)> roles = {
      {"share", Share}, {"read", Read}, {"put-large", PutLarge}, {"host", Host}};
  return roles.at(role[0])(role);
}

// Another process, and its "ready".
class Partner {
 public:
  explicit Partner(std::vector<std::string> role, Pipe out = Pipe::Make())
      : other_(std::move(role), out.write_end.get()), out_(std::move(out.read_end)) {
    out.write_end.Close();
  }
  void AwaitReady() { EXPECT_NE(test::ReadUntilText(out_, "ready\n"), ""); }
  Other* operator->() { return &other_; }

 private:
  Other other_;
  Fd out_;
};

class FaultTest : public ::testing::Test {
 protected:
  std::vector<std::string> Flags() const { return {"--socket", socket_, "--pool", pool_}; }

  Folder folder_;
  std::string socket_ = folder_ / "s";
  std::string pool_ = "bytes=256MiB";
  std::optional<Aptad> aptad_{std::in_place, Flags()};
};

TEST_F(FaultTest, APutCutShortByAKillNeverBecomesVisible) {
  Client client = ConnectTo(socket_, "judge");
  const std::uint64_t used_before = test::PoolOf(client).bytes_used;
  for (int round = 0; round < test::Scaled(20); ++round) {
    Partner putter({"put-large", socket_});
    putter.AwaitReady();
    // Somewhere in a later put: how far that is depends on the round.
    const auto version = client.Stat("big")->version;
    EXPECT_TRUE(Eventually(
        [&] { return client.Stat("big")->version >= version + static_cast<Version>(round % 4); }));
    putter->Signal(SIGKILL);
    putter->Wait();
    const auto object = client.Get("big");
    ASSERT_TRUE(object.ok()) << object.status();
    EXPECT_EQ(object->size(), 16u << 20);
    EXPECT_EQ(AsText(object->bytes()).find_first_not_of('x'), std::string_view::npos);
  }
  ASSERT_TRUE(client.Delete("big").ok());
  EXPECT_TRUE(Eventually([&] { return test::PoolOf(client).bytes_used <= used_before; }));
  EXPECT_EQ(client.Nodes()->size(), 1u);
}

TEST_F(FaultTest, AStoppedSharerDelaysNobodyAndIsNeverStaleAfterwards) {
  Client client = ConnectTo(socket_, "writer");
  ASSERT_TRUE(client.Put("key", AsBytes("begin")).ok());
  Partner reader({"read", socket_});
  Partner sharer({"share", socket_});
  reader.AwaitReady();
  sharer.AwaitReady();
  reader->Signal(SIGSTOP);
  sharer->Signal(SIGSTOP);
  // More invalidations than a ring has room for, while two sharers do not move.
  for (int i = 0; i < test::Scaled(5000); ++i) {
    const auto version = client.Put("key", AsBytes(fmt::format("value {}", i)));
    ASSERT_TRUE(version.ok()) << version.status();
    ASSERT_EQ(client.Get("key")->version(), *version);
  }
  ASSERT_TRUE(client.Put("key", AsBytes("end")).ok());
  reader->Signal(SIGCONT);  // its next look must find the end, not what it had
  sharer->Signal(SIGCONT);
  EXPECT_EQ(reader->Wait(), 0);
  // The sharer sleeps: its agent acknowledges when asked, and nothing is held for it.
  EXPECT_TRUE(Eventually([&] { return test::PoolOf(client).bytes_held == 0; }));
}

TEST_F(FaultTest, AKilledSharerHoldsNothing) {
  Client client = ConnectTo(socket_, "writer");
  ASSERT_TRUE(client.Put("key", AsBytes(std::string(1 << 20, 'a'))).ok());
  Partner sharer({"share", socket_});
  sharer.AwaitReady();
  sharer->Signal(SIGSTOP);
  ASSERT_TRUE(client.Put("key", AsBytes("b")).ok());
  EXPECT_TRUE(Eventually([&] { return test::PoolOf(client).bytes_held >= 1 << 20; }));
  sharer->Signal(SIGKILL);
  EXPECT_TRUE(Eventually([&] { return test::PoolOf(client).bytes_held == 0; }));
  EXPECT_EQ(client.Stat("key")->sharers, 1u);
}

TEST_F(FaultTest, CallsFailAtOnceWhenTheMemoryServerIsKilledAndWorkAgainAfterARestart) {
  Client client = ConnectTo(socket_, "survivor");
  ASSERT_TRUE(client.Put("key", AsBytes("held")).ok());
  const absl::StatusOr<Object> held = client.Get("key");
  ASSERT_TRUE(held.ok());
  // Threads that are in the middle of calls must not hang either.
  std::atomic<bool> saw_unavailable{false};
  std::thread caller([&] {
    while (true) {
      const auto put = client.Put("other", AsBytes("x"));
      if (put.ok()) continue;
      saw_unavailable = absl::IsUnavailable(put.status());
      return;
    }
  });
  aptad_->Signal(SIGKILL);
  caller.join();
  EXPECT_TRUE(saw_unavailable);
  EXPECT_TRUE(Eventually([&] { return absl::IsUnavailable(client.Get("key").status()); }));
  EXPECT_TRUE(absl::IsUnavailable(client.Put("key", AsBytes("y")).status()));
  EXPECT_EQ(AsText(held->bytes()), "held");  // its memory is ours as long as we hold it

  aptad_.reset();
  aptad_.emplace(Flags());  // takes over the socket that the dead one left
  EXPECT_TRUE(Eventually([&] { return client.Put("key", AsBytes("new")).ok(); }));
  EXPECT_EQ(AsText(client.Get("key")->bytes()), "new");
  EXPECT_TRUE(absl::IsNotFound(client.Get("other").status()));  // a volatile pool
  EXPECT_EQ(client.stats().reconnects, 1u);
  EXPECT_EQ(AsText(held->bytes()), "held");
}

TEST_F(FaultTest, AKilledMemoryServerLeavesNothingButItsSocket) {
  const auto shared_objects = [] {
    return std::distance(std::filesystem::directory_iterator("/dev/shm"), {});
  };
  const auto before = shared_objects();
  Client client = ConnectTo(socket_, "client");
  ASSERT_TRUE(client.Put("key", AsBytes("x")).ok());
  aptad_->Signal(SIGKILL);
  aptad_.reset();
  EXPECT_EQ(shared_objects(), before);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);
}

TEST_F(FaultTest, ALiveMemoryServersSocketIsRefusedToASecondOne) {
  std::vector<std::string> second = Flags();
  second.insert(second.begin(), APTAD_PATH);
  const test::Result result = test::Execute(second);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find(socket_), std::string::npos);
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  Client client = ConnectTo(socket_, "client");
  EXPECT_TRUE(client.Put("key", AsBytes("still there")).ok());
}

TEST_F(FaultTest, AnInvocationRunsAgainElsewhereWhenItsNodeIsKilled) {
  Client client = ConnectTo(socket_, "caller");
  Partner first({"host", socket_, "first"});
  EXPECT_TRUE(Eventually([&] { return client.Call("quick", AsBytes("x")).ok(); }));
  absl::StatusOr<Pending> pending = client.Start("slow", AsBytes("x"));
  ASSERT_TRUE(pending.ok()) << pending.status();
  first.AwaitReady();
  EXPECT_FALSE(pending->done());
  Partner second({"host", socket_, "second"});
  EXPECT_TRUE(Eventually([&] {
    const auto nodes = client.Nodes();
    return std::count_if(nodes->begin(), nodes->end(),
                         [](const NodeInfo& node) { return node.functions.size() == 2; }) == 2;
  }));
  first->Signal(SIGKILL);
  const absl::StatusOr<Bytes> result = pending->Wait();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(AsText(*result), "again");
}

TEST_F(FaultTest, AnInvocationWaitsForAnotherHostWhenNobodyIsLeftToRunIt) {
  Client client = ConnectTo(socket_, "caller");
  Partner host({"host", socket_, "only"});
  EXPECT_TRUE(Eventually([&] { return client.Call("quick", AsBytes("x")).ok(); }));
  absl::StatusOr<Pending> hopeful = client.Start("slow", AsBytes("x"));
  host.AwaitReady();
  absl::StatusOr<Pending> hopeless =
      client.Start("slow", AsBytes("x"), {.deadline = absl::Milliseconds(300)});
  host->Signal(SIGKILL);
  const absl::Status late = hopeless->Wait().status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(late)) << late;
  EXPECT_TRUE(absl::IsNotFound(client.Call("quick", AsBytes("x")).status()));
  Partner second({"host", socket_, "second"});
  const absl::StatusOr<Bytes> result = hopeful->Wait();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(AsText(*result), "again");
}

TEST_F(FaultTest, AFunctionHostServesAgainAfterARestart) {
  Client client = ConnectTo(socket_, "caller");
  Partner host({"host", socket_, "host"});
  EXPECT_TRUE(Eventually([&] { return client.Call("quick", AsBytes("1")).ok(); }));
  EXPECT_EQ(aptad_->End(SIGTERM), 0);
  aptad_.reset();
  aptad_.emplace(Flags());
  EXPECT_TRUE(Eventually([&] { return client.Call("quick", AsBytes("2")).ok(); }));
}

TEST_F(FaultTest, AForkedChildsCopyOfAClientIsRefusedAndTheParentIsUnaffected) {
  Client client = ConnectTo(socket_, "parent");
  ASSERT_TRUE(client.Put("key", AsBytes("x")).ok());
  const absl::StatusOr<Object> held = client.Get("key");
  const pid_t child = fork();
  if (child == 0) {
    bool right = absl::IsFailedPrecondition(client.Get("key").status()) &&
                 absl::IsFailedPrecondition(client.Put("key", AsBytes("y")).status()) &&
                 AsText(held->bytes()) == "x";
    { Client dropped = std::move(client); }
    _exit(right ? 0 : 1);
  }
  int status;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(AsText(client.Get("key")->bytes()), "x");
  EXPECT_TRUE(client.Put("key", AsBytes("z")).ok());
}

TEST_F(FaultTest, ObjectsOutliveTheirClientAndThenTheNodeLeaves) {
  Client judge = ConnectTo(socket_, "judge");
  std::optional<Object> object;
  {
    Client client = ConnectTo(socket_, "short-lived");
    ASSERT_TRUE(client.Put("key", AsBytes("kept")).ok());
    object = *client.Get("key");
  }
  ASSERT_TRUE(judge.Delete("key").ok());
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(judge.Put(fmt::format("filler-{}", i), AsBytes("not what was kept")).ok());
  }
  EXPECT_EQ(AsText(object->bytes()), "kept");
  EXPECT_EQ(judge.Nodes()->size(), 2u);
  object.reset();
  EXPECT_TRUE(Eventually([&] { return judge.Nodes()->size() == 1; }));
  EXPECT_TRUE(Eventually([&] { return test::PoolOf(judge).bytes_held == 0; }));
}

class FileFaultTest : public FaultTest {
 protected:
  FileFaultTest() {
    pool_ = fmt::format("bytes=16MiB,backing=file:{}", folder_ / "region");
    aptad_.reset();
    aptad_.emplace(Flags());
  }
  void ExpectObjects(Client* client) {
    for (int i = 0; i < 1000; ++i) {
      const auto object = client->Get(fmt::format("key-{}", i));
      ASSERT_EQ(object.ok(), i % 3 != 0) << i << object.status();
      if (!object.ok()) continue;
      EXPECT_EQ(AsText(object->bytes()), std::string(static_cast<std::size_t>(i * 7 % 5000), 'a'));
    }
  }
};

TEST_F(FileFaultTest, ObjectsOfAFileSurviveAnEndAndAKill) {
  Version last = 0;
  {
    Client client = ConnectTo(socket_, "writer");
    for (int i = 0; i < 1000; ++i) {
      ASSERT_TRUE(client.Put(fmt::format("key-{}", i), AsBytes("old")).ok());
      ASSERT_TRUE(client
                      .Put(fmt::format("key-{}", i),
                           AsBytes(std::string(static_cast<std::size_t>(i * 7 % 5000), 'a')))
                      .ok());
      if (i % 3 == 0) last = *client.Delete(fmt::format("key-{}", i));
    }
  }
  for (const int end : {SIGTERM, SIGKILL}) {
    aptad_->End(end);
    aptad_.reset();
    aptad_.emplace(Flags());
    Client client = ConnectTo(socket_, "reader");
    ExpectObjects(&client);
    const absl::StatusOr<Version> version = client.Put("another", AsBytes("x"));
    ASSERT_TRUE(version.ok()) << version.status();
    EXPECT_GT(*version, last);
    last = *version;
  }
}

// The next memory server knows nothing of what its predecessor's clients still read.
TEST_F(FileFaultTest, PinnedObjectsStayAsTheyAreWhenTheNextMemoryServerReusesTheirExtents) {
  for (const int end : {SIGTERM, SIGKILL}) {
    Client client = ConnectTo(socket_, "reader");
    const std::string old_value(3000, 'A');
    ASSERT_TRUE(client.Put("pinned", AsBytes(old_value)).ok());
    const Object pinned = *client.Get("pinned");
    ASSERT_TRUE(client.Put("pinned", AsBytes(std::string(3000, 'B'))).ok());
    aptad_->End(end);
    // The client knows of the end when its calls fail.
    ASSERT_TRUE(Eventually([&] { return !client.Get("pinned").ok(); }));
    aptad_.reset();
    aptad_.emplace(Flags());
    Client writer = ConnectTo(socket_, "writer");
    for (int i = 0; i < 500; ++i) {
      ASSERT_TRUE(writer.Put(fmt::format("other-{}", i), AsBytes(std::string(3000, 'C'))).ok());
    }
    EXPECT_EQ(AsText(pinned.bytes()), old_value);
    EXPECT_EQ(pinned.key(), "pinned");
  }
}

TEST_F(FileFaultTest, ADamagedRegionIsRefusedWithOneLineAndLeftAsItIs) {
  aptad_->End(SIGTERM);
  aptad_.reset();
  const std::string path = folder_ / "region";
  const auto expect_refused = [&](const std::string& says) {
    std::vector<std::string> command = Flags();
    command.insert(command.begin(), APTAD_PATH);
    const auto before = std::filesystem::last_write_time(path);
    const test::Result result = test::Execute(command);
    EXPECT_NE(result.exit_code, 0);
    EXPECT_NE(result.err.find(says), std::string::npos) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(std::filesystem::last_write_time(path), before);
  };
  std::filesystem::resize_file(path, 8 << 20);
  expect_refused("truncated");
  std::filesystem::resize_file(path, (8 << 20) + 123);
  expect_refused("2 MiB");
  std::filesystem::resize_file(path, 16 << 20);
  Fd file(open(path.c_str(), O_RDWR));
  // Every bucket of the index leads to one in the heap that leads to itself.
  fabric::Superblock layout;
  ASSERT_EQ(pread(file.get(), &layout, sizeof(layout), 0), static_cast<ssize_t>(sizeof(layout)));
  fabric::IndexBucket bucket{};
  bucket.overflow_offset.store(layout.heap_offset);
  for (std::uint64_t i = 0; i <= layout.index_buckets; ++i) {
    const std::uint64_t offset =
        i < layout.index_buckets ? layout.index_offset + i * sizeof(bucket) : layout.heap_offset;
    ASSERT_EQ(pwrite(file.get(), &bucket, sizeof(bucket), static_cast<off_t>(offset)), 64);
  }
  expect_refused("the index is damaged");
  const std::uint32_t foreign_layout = 77;
  ASSERT_EQ(pwrite(file.get(), &foreign_layout, sizeof(foreign_layout), 8), 4);
  expect_refused("layout version 77");
  ASSERT_EQ(pwrite(file.get(), "garbage!", 8, 0), 8);
  expect_refused("no Āpta region");
}

}  // namespace
}  // namespace apta

int main(int argc, char** argv) { return apta::test::RoleMain(argc, argv, apta::RunRole); }
