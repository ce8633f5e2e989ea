// The shim's own code by threads and forks, against a real aptad; what it does for unmodified
// programs is in preload_test.cc.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "fmt/format.h"
#include "shim/shim.h"
#include "tests/process/aptad.h"

// Children of processes with threads attach, which starts a thread.
extern "C" const char* __tsan_default_options();
extern "C" const char* __tsan_default_options() { return "die_after_fork=0"; }

namespace apta {
namespace {

using shim::Shim;

constexpr std::size_t kBytes = 128 << 10;  // is mapped in place

// One memory server and one node for all of the process, as the environment says.
struct Place {
  test::Folder folder;
  test::Aptad aptad{{"--socket", folder / "s", "--pool", "bytes=128MiB"}};
  Place() {
    setenv("APTA_SOCKET", (folder / "s").c_str(), 1);
    setenv("APTA_NODE", folder.path().c_str(), 1);
  }
};

class ShimTest : public ::testing::Test {
 protected:
  ShimTest() { here(); }
  static Place& here() {
    static auto* const place = new Place();
    return *place;
  }
  static Client Elsewhere() { return test::ConnectTo(here().folder / "s", "elsewhere"); }
  static int Close(int fd) {
    const int result = shim_.Close(fd);
    return close(fd) == 0 ? result : -1;
  }
  static char* Map(int fd, int protection) {
    return static_cast<char*>(shim_.Map(nullptr, kBytes, protection, MAP_SHARED, fd, 0));
  }
  // Opens, writes all of it, closes what it had open but for the mapping.
  static char* MapNew(const std::string& name, char fill) {
    const int fd = shim_.Open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    EXPECT_GE(fd, 0);
    EXPECT_EQ(ftruncate(fd, kBytes), 0);
    char* const at = Map(fd, PROT_READ | PROT_WRITE);
    EXPECT_NE(at, MAP_FAILED);
    EXPECT_EQ(Close(fd), 0);
    std::memset(at, fill, kBytes);
    return at;
  }
  static std::string FirstByte(Client& client, const std::string& name) {
    const auto object = client.Get("shm/" + name);
    if (!object.ok()) return std::string(object.status().message());
    return std::string(AsText(object->bytes()).substr(0, 1));
  }

  static inline Shim& shim_ = Shim::Get();
};

TEST_F(ShimTest, ThreadsOpenMapSyncAndCloseAtOnce) {
  const int rounds = test::Scaled(200);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t, rounds] {
      for (int i = 0; i < rounds; ++i) {
        const std::string name = fmt::format("many-{}", (t + i) % 3);
        const int fd = shim_.Open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        ASSERT_GE(fd, 0);
        ASSERT_EQ(ftruncate(fd, kBytes), 0);
        char* const at = Map(fd, PROT_READ | PROT_WRITE);
        ASSERT_NE(at, MAP_FAILED);
        at[t * 4096] = static_cast<char>('a' + t);
        if (i % 3 == 0) {
          EXPECT_EQ(shim_.Sync(at, kBytes, MS_SYNC), 0);
        }
        const int reader = shim_.Open(name, O_RDONLY | O_CLOEXEC, 0);
        ASSERT_GE(reader, 0);
        const char* const read = Map(reader, PROT_READ);
        EXPECT_EQ(read[t * 4096], 'a' + t);
        EXPECT_EQ(Close(fd), 0);
        EXPECT_EQ(shim_.Unmap(at, kBytes), 0);
        EXPECT_EQ(shim_.Unmap(const_cast<char*>(read), kBytes), 0);
        EXPECT_EQ(Close(reader), 0);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Client client = Elsewhere();
  for (const char* name : {"many-0", "many-1", "many-2"}) {
    EXPECT_TRUE(client.Get(std::string("shm/") + name).ok());
    EXPECT_EQ(shim_.Unlink(name), 0);
    EXPECT_EQ(shim_.Unlink(name), -1);
  }
}

TEST_F(ShimTest, WhatAChildWritesLastTheChildCommits) {
  Client client = Elsewhere();
  const int rounds = test::Scaled(20);
  for (int i = 0; i < rounds; ++i) {
    char* const at = MapNew("forked", 'p');
    const test::Pipe go = test::Pipe::Make();
    const pid_t child = fork();
    if (child == 0) {
      char byte = 0;
      const bool told = read(go.read_end.get(), &byte, 1) == 1;
      at[0] = 'c';
      shim_.LeaveAll();
      _exit(told ? 0 : 1);
    }
    EXPECT_EQ(shim_.Unmap(at, kBytes), 0);  // not the last writer
    EXPECT_NE(FirstByte(client, "forked"), "p");
    EXPECT_EQ(write(go.write_end.get(), "g", 1), 1);
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(FirstByte(client, "forked"), "c");
    EXPECT_EQ(shim_.Unlink("forked"), 0);
  }
}

TEST_F(ShimTest, AForkedReaderKeepsItsVersionWithoutItsParent) {
  EXPECT_EQ(shim_.Unmap(MapNew("read", 'x'), kBytes), 0);
  const int fd = shim_.Open("read", O_RDONLY | O_CLOEXEC, 0);
  ASSERT_GE(fd, 0);
  const char* const at = Map(fd, PROT_READ);
  const test::Pipe go = test::Pipe::Make();
  const pid_t child = fork();
  if (child == 0) {
    char byte = 0;
    const bool told = read(go.read_end.get(), &byte, 1) == 1;
    _exit(told && at[0] == 'x' && at[kBytes - 1] == 'x' ? 0 : 1);
  }
  EXPECT_EQ(shim_.Unmap(const_cast<char*>(at), kBytes), 0);
  EXPECT_EQ(Close(fd), 0);
  Client client = Elsewhere();
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(client.Put("shm/read", Bytes(kBytes, std::byte{'y'})).ok());
  }
  EXPECT_EQ(write(go.write_end.get(), "g", 1), 1);
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(ShimTest, AReaderMapsInPlaceAndPullsTheNewestWhenAsked) {
  Client client = Elsewhere();
  ASSERT_TRUE(client.Put("shm/news", Bytes(kBytes + 100, std::byte{'1'})).ok());
  const int fd = shim_.Open("news", O_RDONLY | O_CLOEXEC, 0);
  ASSERT_GE(fd, 0);
  struct stat file {};
  ASSERT_EQ(fstat(fd, &file), 0);
  EXPECT_EQ(file.st_size, static_cast<off_t>(kBytes + 100));
  EXPECT_LT(file.st_blocks * 512, static_cast<off_t>(kBytes));  // only the end within a page
  char* const at = Map(fd, PROT_READ);
  EXPECT_EQ(at[0], '1');
  ASSERT_TRUE(client.Put("shm/news", Bytes(kBytes + 100, std::byte{'2'})).ok());
  EXPECT_EQ(at[0], '1');
  EXPECT_EQ(shim_.Sync(at, kBytes, MS_INVALIDATE), 0);
  EXPECT_EQ(at[0], '2');
  EXPECT_EQ(at[kBytes - 1], '2');
  EXPECT_EQ(shim_.Unmap(at, kBytes), 0);
  EXPECT_EQ(Close(fd), 0);
}

TEST_F(ShimTest, AWriterThatChangesNothingCommitsNothing) {
  Client client = Elsewhere();
  ASSERT_TRUE(client.Put("shm/same", Bytes(kBytes, std::byte{'1'})).ok());
  const int fd = shim_.Open("same", O_RDWR | O_CLOEXEC, 0);
  ASSERT_GE(fd, 0);
  char* const at = Map(fd, PROT_READ | PROT_WRITE);
  const auto newer = client.Put("shm/same", Bytes(kBytes, std::byte{'2'}));
  ASSERT_TRUE(newer.ok());
  EXPECT_EQ(at[0], '1');
  EXPECT_EQ(shim_.Unmap(at, kBytes), 0);
  EXPECT_EQ(Close(fd), 0);
  EXPECT_EQ(client.Stat("shm/same")->version, *newer);
}

}  // namespace
}  // namespace apta
