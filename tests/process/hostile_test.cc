// Clients that lie: the memory server stays up, and nobody else notices.

#include <gtest/gtest.h>

#include <fcntl.h>

#include <array>
#include <atomic>
#include <cstring>
#include <fstream>
#include <limits>
#include <random>

#include "fmt/format.h"
#include "tests/process/bare_client.h"

namespace apta {
namespace {

using fabric::Op;
using fabric::Reason;
using fabric::Request;
using test::Aptad;
using test::BareClient;
using test::ConnectTo;
using test::Eventually;
using test::Folder;
using test::MakeRequest;

constexpr int kKeys = 50;
constexpr std::uint64_t kHuge = std::numeric_limits<std::uint64_t>::max() / 2;

std::string Key(int i) { return fmt::format("honest-{}", i); }
std::string ValueOf(int i) { return std::string(static_cast<std::size_t>(i * 401), 'h'); }

class HostileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (int i = 0; i < kKeys; ++i) ASSERT_TRUE(honest_.Put(Key(i), AsBytes(ValueOf(i))).ok());
    used_bytes_ = PoolNow().bytes_used;
    descriptors_ = CountDescriptors();
  }
  // Everything that is honest works as before; what liars have put is swept away, and then nothing
  // of them is left.
  void TearDown() override {
    Client late = ConnectTo(socket_, "late");
    for (Client* client : {&honest_, &late}) {
      for (int i = 0; i < kKeys; ++i) {
        const auto object = client->Get(Key(i));
        ASSERT_TRUE(object.ok()) << object.status();
        EXPECT_EQ(AsText(object->bytes()), ValueOf(i));
      }
      EXPECT_TRUE(client->Put(Key(1), AsBytes(ValueOf(1))).ok());
    }
    EXPECT_EQ(honest_.stats().reconnects, 0u);
    EXPECT_TRUE(Eventually([&] { return honest_.Nodes()->size() == 2; }));
    const auto objects = honest_.List("", 1'000'000);
    ASSERT_TRUE(objects.ok()) << objects.status();
    for (const ObjectInfo& object : *objects) {
      if (object.key.starts_with("honest-")) continue;
      EXPECT_TRUE(honest_.Delete(object.key).ok()) << object.key;
    }
    EXPECT_TRUE(Eventually([&] { return PoolNow().bytes_used == used_bytes_; }))
        << PoolNow().bytes_used << " bytes used, " << used_bytes_ << " before";
    EXPECT_TRUE(Eventually([&] { return PoolNow().bytes_held == 0; }));
    { const Client left = std::move(late); }
    EXPECT_TRUE(Eventually([&] { return CountDescriptors() == descriptors_; }))
        << CountDescriptors() << " descriptors, " << descriptors_ << " before";
    EXPECT_EQ(aptad_.End(SIGTERM), 0) << aptad_.log();
  }

  PoolInfo PoolNow() { return test::PoolOf(honest_); }
  std::ptrdiff_t CountDescriptors() const {
    return std::distance(
        std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", aptad_.pid())), {});
  }
  std::int64_t ResidentKiB() const {
    std::ifstream status(fmt::format("/proc/{}/status", aptad_.pid()));
    for (std::string line; std::getline(status, line);) {
      // Without the heap, which is populated in the background.
      if (line.starts_with("RssAnon:")) return std::stoll(line.substr(8));
    }
    return 0;
  }
  // What comes back for a hello of these bytes: a refusal's code, or nothing but the end.
  std::optional<std::uint32_t> SayHello(const void* hello, std::size_t bytes,
                                        const std::vector<int>& fds = {}) {
    const fabric::UniqueFd socket = *fabric::ConnectSocket(socket_);
    EXPECT_TRUE(fabric::SendPacket(socket.get(), hello, bytes, fds).ok());
    fabric::Welcome welcome{};
    std::vector<fabric::UniqueFd> received;
    const auto answered =
        fabric::ReceivePacket(socket.get(), &welcome, sizeof(welcome), &received, 18);
    if (answered.value_or(0) != sizeof(welcome)) return std::nullopt;
    EXPECT_EQ(welcome.code == 0, !received.empty());
    EXPECT_EQ(welcome.message[sizeof(welcome.message) - 1], '\0');
    return welcome.code;
  }

  Folder folder_;
  std::string socket_ = folder_ / "s";
  Aptad aptad_{{"--socket", socket_, "--shards", "2", "--pool", "bytes=64MiB"}};
  Client honest_ = ConnectTo(socket_, "honest");
  std::uint64_t used_bytes_ = 0;
  std::ptrdiff_t descriptors_ = 0;
};

TEST_F(HostileTest, HellosThatMakeNoSenseAreRefused) {
  const fabric::Hello good = test::GoodHello("n");
  std::vector<std::byte> oversize(100'000);
  std::memcpy(oversize.data(), &good, sizeof(good));
  for (const std::size_t bytes :
       {std::size_t{1}, sizeof(good) - 1, sizeof(good) + 1, oversize.size()}) {
    EXPECT_NE(SayHello(oversize.data(), bytes), 0u) << bytes;
  }
  const auto expect_refused = [&](auto&& change) {
    fabric::Hello hello = good;
    change(hello);
    const std::optional<std::uint32_t> code = SayHello(&hello, sizeof(hello));
    EXPECT_NE(code.value_or(0), 0u);
  };
  expect_refused([](fabric::Hello& hello) { ++hello.magic; });
  expect_refused([](fabric::Hello& hello) { ++hello.version; });
  expect_refused([](fabric::Hello& hello) { hello.kind = 77; });
  expect_refused([](fabric::Hello& hello) { std::memset(hello.pool, 'p', sizeof(hello.pool)); });
  expect_refused([](fabric::Hello& hello) { std::memset(hello.node, 'n', sizeof(hello.node)); });
  expect_refused([](fabric::Hello& hello) { hello.node[0] = '\0'; });
  expect_refused([](fabric::Hello& hello) { fabric::CopyText(hello.pool, "none"); });
  // Descriptors that nobody asked for are closed.
  const std::vector<int> fds(20, STDERR_FILENO);
  EXPECT_NE(SayHello(&good, sizeof(good), fds), 0u);
}

TEST_F(HostileTest, ANodesNameMayBeAnyBytes) {
  fabric::Hello hello = test::GoodHello("\xff\xfe\"\\\n\x01");
  const fabric::UniqueFd socket = *fabric::ConnectSocket(socket_);
  ASSERT_TRUE(fabric::SendPacket(socket.get(), &hello, sizeof(hello)).ok());
  EXPECT_TRUE(Eventually([&] {
    const auto nodes = honest_.Nodes();
    EXPECT_TRUE(nodes.ok()) << nodes.status();
    return nodes.ok() && nodes->size() == 2;
  }));
}

TEST_F(HostileTest, WhoConnectsAndSaysNothingKeepsNobodyOut) {
  std::vector<fabric::UniqueFd> silent;
  for (int i = 0; i < 400; ++i) {
    auto socket = fabric::ConnectSocket(socket_);
    ASSERT_TRUE(socket.ok()) << socket.status();
    silent.push_back(*std::move(socket));
  }
  const auto client = Client::Connect({.socket = socket_, .node = "late"});
  EXPECT_TRUE(client.ok()) << client.status();
  EXPECT_TRUE(honest_.Nodes().ok());
  for (const fabric::UniqueFd& socket : silent) {
    char byte;  // is closed in the end
    EXPECT_TRUE(
        Eventually([&] { return recv(socket.get(), &byte, sizeof(byte), MSG_DONTWAIT) == 0; }));
  }
}

TEST_F(HostileTest, WhoSendsEnoughBadRequestsIsCutOff) {
  Request no_op = MakeRequest(static_cast<Op>(200));
  Request no_lane = MakeRequest(Op::kGet, "k");
  no_lane.lane = fabric::kLanes;
  Request long_key = MakeRequest(Op::kGet, "k");
  long_key.key_bytes = 65535;
  Request long_body = MakeRequest(Op::kPut, "k");
  long_body.payload_bytes = kHuge & fabric::kMaxPayloadBytes;
  const Request nul_key = MakeRequest(Op::kPut, std::string_view("a\0b", 3));
  const Request no_key = MakeRequest(Op::kGet);
  const Request needless_key = MakeRequest(Op::kCommit, "k");
  const Request foreign_extent = MakeRequest(Op::kRelease, "", "", 4 << 20);
  Request nothing_staged = MakeRequest(Op::kGet, "k");
  nothing_staged.flags = fabric::kBodyStaged;
  for (const Request& request : {no_op, no_lane, long_key, long_body, nul_key, no_key, needless_key,
                                 foreign_extent, nothing_staged}) {
    SCOPED_TRACE(fmt::format("op {}", static_cast<int>(request.op)));
    BareClient liar(socket_);
    for (int i = 0; i < 1500 && liar.Submit(request); ++i) {
    }
    EXPECT_TRUE(Eventually([&] { return liar.IsCutOff(); }));
  }
}

TEST_F(HostileTest, AFewBadRequestsAreAnsweredAndForgiven) {
  BareClient liar(socket_);
  for (int i = 0; i < 100; ++i) {
    const Request bad = MakeRequest(Op::kPut, std::string_view("a\0b", 3), "v");
    ASSERT_TRUE(liar.Submit(bad));
    EXPECT_EQ(liar.Await(bad).reason, Reason::kBadKey);
  }
  EXPECT_FALSE(liar.IsCutOff());
}

TEST_F(HostileTest, RandomRequestsDoNoHarm) {
  std::mt19937_64 random(7);
  for (int round = 0; round < test::Scaled(200); ++round) {
    BareClient liar(socket_);
    for (int lane = 0; lane < fabric::kLanes; ++lane) {
      for (int i = 0; i < 2048; ++i) {
        liar.port().staging(lane)[i] = static_cast<std::byte>(1 + random() % 255);
      }
    }
    for (int i = 0; i < 2000; ++i) {
      Request request;
      std::array<std::uint32_t, sizeof(request) / sizeof(std::uint32_t)> words;
      for (std::uint32_t& word : words) word = static_cast<std::uint32_t>(random());
      std::memcpy(&request, words.data(), sizeof(request));
      // Plausible enough to get somewhere, most of the time.
      request.op = static_cast<Op>(random() % 18);
      request.lane = static_cast<std::uint16_t>(random() % 66);
      request.key_bytes = static_cast<std::uint16_t>(random() % (random() % 4 == 0 ? 1100 : 40));
      request.payload_bytes = (random() >> (random() % 64)) & fabric::kMaxPayloadBytes;
      if (random() % 2 == 0) request.payload_bytes %= 200;
      if (random() % 2 == 0) request.argument = fabric::kAnyVersion;
      if (random() % 4 == 0) request.argument = random() % (64 << 20);
      if (request.lane < fabric::kLanes) {
        liar.port().lane(request.lane)->staged_bytes.store(random() >> (random() % 64));
      }
      if (!liar.Submit(request, random() % 2)) break;
    }
    ASSERT_TRUE(honest_.Put(Key(2), AsBytes(ValueOf(2))).ok());
  }
}

TEST_F(HostileTest, GarbageAllOverAPortDoesNoHarm) {
  std::mt19937_64 random(11);
  for (int round = 0; round < test::Scaled(100); ++round) {
    BareClient liar(socket_);
    ASSERT_TRUE(liar.Submit(MakeRequest(Op::kGet, Key(3))));  // a sharer, so that it owes
    for (int pass = 0; pass < 3; ++pass) {
      // Rings, hold table and lanes; the staging areas behind them are payload anyway.
      const std::size_t bytes = std::min<std::size_t>(liar.memory().size(), 1 << 20);
      for (std::size_t at = 0; at < bytes; at += 8) {
        const std::uint64_t word = random() % 3 == 0 ? random() : random() % 300;
        std::memcpy(liar.memory().data() + at, &word, 8);
      }
      liar.Ring();
      ASSERT_TRUE(honest_.Put(Key(3), AsBytes(ValueOf(3))).ok());
    }
    if (round % 2 == 0) {  // all of it zero again, under the memory server's feet
      EXPECT_EQ(fallocate(liar.port_fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                          static_cast<off_t>(liar.memory().size())),
                0);
      liar.Ring();
    }
  }
}

TEST_F(HostileTest, LyingAcknowledgementsHarmNobodyElse) {
  BareClient liar(socket_);
  for (const std::uint64_t lie : {kHuge, std::uint64_t{0}, ~std::uint64_t{0}, std::uint64_t{3}}) {
    for (int i = 0; i < kKeys; ++i) {
      const Request get = MakeRequest(Op::kGet, Key(i));
      // The home of a key is not told here: the wrong one refuses.
      // On a slow machine it is fenced for its silence meanwhile.
      for (const std::size_t shard : {0, 1}) (void)liar.Submit(get, shard);
    }
    for (const int shard : {0, 1}) liar.port().invalidations(shard)->acknowledged.store(lie);
    for (int round = 0; round < 50; ++round) {
      for (int i = 0; i < kKeys; ++i) {
        ASSERT_TRUE(honest_.Put(Key(i), AsBytes(ValueOf(i))).ok());
        ASSERT_EQ(AsText(honest_.Get(Key(i))->bytes()), ValueOf(i));
      }
    }
  }
  // Holds all there is, for ever: until it leaves (TearDown sees to it that this is all).
  liar.port().holds()->hold_everything.store(1);
  liar.port().holds()->end.store(kHuge);
}

TEST_F(HostileTest, ABodyThatStopsHalfWayNeverBecomesVisible) {
  {
    BareClient liar(socket_);
    for (std::size_t shard : {0, 1}) {
      Request put = MakeRequest(Op::kPut, "", "", fabric::kAnyVersion);
      put.lane = static_cast<std::uint16_t>(shard);
      put.flags = fabric::kBodyStaged;
      put.key_bytes = 4;
      put.payload_bytes = 1 << 20;
      std::memcpy(liar.port().staging(put.lane), "half", 4);
      liar.port().lane(put.lane)->staged_bytes.store(64 << 10);
      ASSERT_TRUE(liar.Submit(put, shard));
    }
    EXPECT_TRUE(Eventually([&] { return PoolNow().bytes_used > used_bytes_; }));
    for (int i = 0; i < 100; ++i) {
      ASSERT_TRUE(honest_.Put(Key(4), AsBytes(ValueOf(4))).ok());
      EXPECT_TRUE(absl::IsNotFound(honest_.Get("half").status()));
    }
    // Counts back and forth: never more than there is, never twice.
    for (const std::uint64_t lie : {std::uint64_t{0}, kHuge, std::uint64_t{1}}) {
      for (int lane : {0, 1}) liar.port().lane(lane)->staged_bytes.store(lie);
      liar.Ring();
      ASSERT_TRUE(honest_.Put(Key(4), AsBytes(ValueOf(4))).ok());
    }
  }
  EXPECT_TRUE(Eventually([&] { return honest_.Nodes()->size() == 1; }));
}

TEST_F(HostileTest, WhatIsNotYoursCannotBeReleasedWaitedForOrForgotten) {
  BareClient liar(socket_);
  const std::uint64_t extents_end = 64 << 20;
  for (std::uint64_t extent = 2 << 20; extent < extents_end; extent += (extents_end >> 8)) {
    for (const Op op : {Op::kAbort, Op::kCommit}) {
      ASSERT_TRUE(liar.Submit(MakeRequest(op, "", "", extent)));
    }
  }
  for (std::uint64_t invocation = 0; invocation < 100; ++invocation) {
    const Request wait = MakeRequest(Op::kWait, "", "", invocation);
    ASSERT_TRUE(liar.Submit(wait));
    EXPECT_EQ(liar.Await(wait).reason, Reason::kNoSuchInvocation);
    ASSERT_TRUE(liar.Submit(MakeRequest(Op::kForget, "", "", invocation)));
    ASSERT_TRUE(liar.Submit(MakeRequest(Op::kReady, "", "result", invocation)));
  }
}

// What a client can make the memory server remember is bounded.
class HostileMemoryTest : public HostileTest {
 protected:
  // The growth that 800,000 of these cause after the first 200,000, unless they get it cut off.
  template <typename Make>
  void ExpectBounded(Make&& make) {
    BareClient liar(socket_);
    std::int64_t before = 0;
    for (int i = 0; i < 1'000'000 && liar.Submit(make(i)); ++i) {
      if (i == 200'000) before = ResidentKiB();
    }
    EXPECT_TRUE(before == 0 || ResidentKiB() - before < 4096)
        << "from " << before << " to " << ResidentKiB() << " KiB";
  }
};

TEST_F(HostileMemoryTest, WorkersThatAskAgainAndAgain) {
  ExpectBounded([](int) { return MakeRequest(Op::kReady); });
}

TEST_F(HostileMemoryTest, MoreAndMoreFunctions) {
  ExpectBounded([](int i) {
    return MakeRequest(Op::kRegister, fmt::format("function-{}", i), "",
                       fabric::FunctionLimits{}.Pack());
  });
}

TEST_F(HostileMemoryTest, CallsThatNobodyWaitsFor) {
  BareClient host(socket_);
  const Request registers =
      MakeRequest(Op::kRegister, "never", "", fabric::FunctionLimits{}.Pack());
  ASSERT_TRUE(host.Submit(registers));
  EXPECT_EQ(host.Await(registers).code, 0u);
  ExpectBounded(
      [](int i) { return MakeRequest(i % 2 == 0 ? Op::kStart : Op::kCall, "never", "", kHuge); });
}

}  // namespace
}  // namespace apta
