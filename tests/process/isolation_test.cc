// What a client could try with the descriptors that it gets.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include "fabric/control.h"
#include "fmt/format.h"
#include "tests/process/aptad.h"

namespace apta {
namespace {

using test::Aptad;
using test::Folder;

// A client that makes its own handshake, to get at its descriptors.
struct BareClient {
  fabric::UniqueFd socket;
  fabric::Welcome welcome;
  std::vector<fabric::UniqueFd> fds;  // region, port, doorbells

  explicit BareClient(const std::string& path) {
    socket = *fabric::ConnectSocket(path);
    fabric::Hello hello{};
    hello.magic = fabric::kControlMagic;
    hello.version = fabric::kControlVersion;
    hello.kind = fabric::Hello::kAttach;
    fabric::CopyText(hello.pool, "default");
    fabric::CopyText(hello.node, "bare");
    EXPECT_TRUE(fabric::SendPacket(socket.get(), &hello, sizeof(hello)).ok());
    const auto bytes = fabric::ReceivePacket(socket.get(), &welcome, sizeof(welcome), &fds, 16);
    EXPECT_EQ(bytes.value_or(0), sizeof(welcome));
    EXPECT_EQ(welcome.code, 0u) << welcome.message;
  }
  int region() const { return fds[0].get(); }
};

class IsolationTest : public ::testing::Test {
 protected:
  Folder folder_;
  Aptad aptad_{{"--socket", folder_ / "s", "--pool", "bytes=16MiB"}};
  BareClient client_{folder_ / "s"};
};

TEST_F(IsolationTest, TheHeapCannotBeMappedWritable) {
  const std::uint64_t bytes = client_.welcome.region_bytes;
  EXPECT_EQ(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, client_.region(), 0),
            MAP_FAILED);
  void* readable = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, client_.region(), 0);
  ASSERT_NE(readable, MAP_FAILED);
  EXPECT_NE(mprotect(readable, bytes, PROT_READ | PROT_WRITE), 0);
  munmap(readable, bytes);
}

TEST_F(IsolationTest, TheDescriptorCannotBeReopenedForWriting) {
  const std::string path = fmt::format("/proc/self/fd/{}", client_.region());
  const int fd = open(path.c_str(), O_RDWR);
  if (fd < 0) return;  // refused at once: as good
  const char byte = 1;
  EXPECT_LT(pwrite(fd, &byte, 1, 0), 0);
  EXPECT_EQ(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
  EXPECT_NE(ftruncate(fd, 0), 0);
  EXPECT_NE(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
  close(fd);
}

TEST_F(IsolationTest, TheDescriptorCannotBeWrittenTruncatedOrUnsealed) {
  const char byte = 1;
  EXPECT_LT(pwrite(client_.region(), &byte, 1, 0), 0);
  EXPECT_NE(ftruncate(client_.region(), 0), 0);
  EXPECT_NE(fcntl(client_.region(), F_ADD_SEALS, F_SEAL_WRITE), 0);
}

TEST_F(IsolationTest, ThePortCannotBeResized) {
  EXPECT_NE(ftruncate(client_.fds[1].get(), 4096), 0);
  EXPECT_NE(ftruncate(client_.fds[1].get(), 1 << 30), 0);
}

}  // namespace
}  // namespace apta
