#include "fabric/control.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "fabric/doorbell.h"

namespace apta::fabric {
namespace {

class ControlTest : public ::testing::Test {
 protected:
  ControlTest() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    left_ = UniqueFd(fds[0]);
    right_ = UniqueFd(fds[1]);
  }

  UniqueFd left_, right_;
};

TEST_F(ControlTest, APacketArrivesWithItsDescriptors) {
  auto doorbell = Doorbell::Create();
  ASSERT_TRUE(doorbell.ok());
  Hello hello{};
  hello.magic = kControlMagic;
  CopyText(hello.pool, "default");
  ASSERT_TRUE(SendPacket(left_.get(), &hello, sizeof(hello), {doorbell->fd(), left_.get()}).ok());
  Hello received;
  std::vector<UniqueFd> fds;
  const auto bytes = ReceivePacket(right_.get(), &received, sizeof(received), &fds, 4);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(*bytes, sizeof(hello));
  EXPECT_EQ(std::memcmp(&hello, &received, sizeof(hello)), 0);
  ASSERT_EQ(fds.size(), 2u);
  EXPECT_NE(fcntl(fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
  doorbell->Ring();
  std::uint64_t rings = 0;
  EXPECT_EQ(read(fds[0].get(), &rings, sizeof(rings)), static_cast<ssize_t>(sizeof(rings)));
}

TEST_F(ControlTest, EndOfFileIsAnEmptyPacketAndSendingAfterItAnError) {
  left_ = UniqueFd();
  char byte;
  EXPECT_EQ(*ReceivePacket(right_.get(), &byte, 1, nullptr, 0), 0u);
  EXPECT_FALSE(SendPacket(right_.get(), &byte, 1).ok());  // and no signal
}

TEST_F(ControlTest, WhatIsLargerThanItMayBeIsRefusedAndItsDescriptorsAreClosed) {
  char large[100] = {};
  ASSERT_TRUE(SendPacket(left_.get(), large, sizeof(large)).ok());
  char small[10];
  EXPECT_TRUE(absl::IsInvalidArgument(
      ReceivePacket(right_.get(), small, sizeof(small), nullptr, 0).status()));
  const int before = dup(0);
  close(before);
  ASSERT_TRUE(SendPacket(left_.get(), small, 1, {0, 0, 0, 0, 0, 0}).ok());
  {
    std::vector<UniqueFd> fds;
    EXPECT_TRUE(absl::IsInvalidArgument(ReceivePacket(right_.get(), small, 1, &fds, 1).status()));
  }
  // Nobody asked for any.
  ASSERT_TRUE(SendPacket(left_.get(), small, 1, {0}).ok());
  [[maybe_unused]] const auto ignored = ReceivePacket(right_.get(), small, 1, nullptr, 1);
  const int after = dup(0);
  close(after);
  EXPECT_EQ(before, after) << "a descriptor leaked";
}

TEST(ControlTextTest, TextIsCutToItsFieldAndReadOnlyWhenItEnds) {
  char field[8];
  CopyText(field, "short");
  EXPECT_EQ(FieldText(field), "short");
  CopyText(field, "much too long");
  EXPECT_EQ(FieldText(field), "much to");
  std::memset(field, 'x', sizeof(field));
  EXPECT_EQ(FieldText(field), "");
}

TEST(ControlTextTest, KeysHaveOneTo1024BytesAndNoNul) {
  for (const std::string& good :
       {std::string("k"), std::string(1024, 'k'), std::string("\n\xff")}) {
    EXPECT_TRUE(CheckKey(good).ok());
    EXPECT_TRUE(IsValidKey(good));
  }
  for (const std::string& bad :
       {std::string(), std::string(1025, 'k'), std::string("a\0b", 3), std::string(1, '\0')}) {
    EXPECT_TRUE(absl::IsInvalidArgument(CheckKey(bad)));
    EXPECT_FALSE(IsValidKey(bad));
  }
  EXPECT_NE(CheckKey(std::string("ab\0", 3)).ToString().find("byte 2"), std::string::npos);
}

TEST(ControlTextTest, EveryReasonIsOneLineThatNamesItsObject) {
  for (std::uint16_t reason = 0; reason <= static_cast<std::uint16_t>(Reason::kLogFailed);
       ++reason) {
    Reply reply{};
    reply.code = static_cast<std::uint16_t>(absl::StatusCode::kNotFound);
    reply.reason = static_cast<Reason>(reason);
    const absl::Status status = MakeStatus(reply, "pool p: key");
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    const std::string message(status.message());
    EXPECT_EQ(message.rfind("pool p: key", 0), 0u) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
    EXPECT_GT(message.size(), std::strlen("pool p: key: ")) << reason;
  }
  EXPECT_TRUE(MakeStatus(Reply{}, "x").ok());
}

TEST(ControlTextTest, NumbersOfAReplyAreInItsMessage) {
  Reply moved{};
  moved.code = static_cast<std::uint16_t>(absl::StatusCode::kFailedPrecondition);
  moved.reason = Reason::kVersionMoved;
  moved.value[0] = 4711;
  EXPECT_NE(MakeStatus(moved, "x").ToString().find("4711"), std::string::npos);
  moved.value[0] = 0;
  EXPECT_NE(MakeStatus(moved, "x").ToString().find("does not exist"), std::string::npos);
  Reply full{};
  full.code = static_cast<std::uint16_t>(absl::StatusCode::kResourceExhausted);
  full.reason = Reason::kPoolFull;
  full.value[0] = 111;
  full.value[1] = 222;
  full.value[2] = 333;
  for (const char* number : {"111", "222", "333"}) {
    EXPECT_NE(MakeStatus(full, "x").ToString().find(number), std::string::npos);
  }
}

TEST(ControlSocketTest, TheSocketIsTheOptionElseTheEnvironmentElseTheDefault) {
  unsetenv("APTA_SOCKET");
  EXPECT_EQ(ResolveSocket(""), kDefaultSocket);
  setenv("APTA_SOCKET", "/from/environment", 1);
  EXPECT_EQ(ResolveSocket(""), "/from/environment");
  EXPECT_EQ(ResolveSocket("/given"), "/given");
  setenv("APTA_SOCKET", "", 1);
  EXPECT_EQ(ResolveSocket(""), kDefaultSocket);
  unsetenv("APTA_SOCKET");
}

TEST(ControlSocketTest, WhereNobodyServesTheErrorNamesTheSocketAndWhatToDo) {
  const std::string path = ::testing::TempDir() + "/nobody.sock";
  const absl::Status status = ConnectSocket(path).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_NE(status.ToString().find("aptad --socket " + path), std::string::npos) << status;
  EXPECT_TRUE(absl::IsInvalidArgument(ConnectSocket(std::string(200, 's')).status()));
}

}  // namespace
}  // namespace apta::fabric
