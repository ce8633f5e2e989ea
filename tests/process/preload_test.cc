// Unmodified programs on two compute servers under `apta exec`, against a real aptad.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "fmt/format.h"
#include "tests/process/aptad.h"

namespace apta {
namespace {

using test::Child;
using test::Execute;
using test::Fd;
using test::Pipe;
using test::Result;

class PreloadTest : public ::testing::Test {
 protected:
  PreloadTest() {
    setenv("APTA_SOCKET", (folder_ / "s").c_str(), 1);
    setenv("APTA_SHMEM", "seg*", 1);
  }
  ~PreloadTest() override { unsetenv("APTA_SHMEM"); }

  // A node's name is of this test alone, as its folder of working copies is.
  std::vector<std::string> Command(const std::string& node, std::vector<std::string> role,
                                   const std::string& program = PLAIN_PROGRAM_PATH) const {
    role.insert(role.begin(), {APTA_PATH, "exec", "--node", node, "--", program});
    return role;
  }
  Result On(const std::string& node, std::vector<std::string> role) const {
    return Execute(Command(node, std::move(role)));
  }
  std::string Read(const std::string& node, const std::string& name = "/seg") const {
    const Result result = On(node, {"read", name});
    return result.exit_code == 0 ? result.out : result.err;
  }

  test::Folder folder_;
  test::Aptad aptad_{{"--socket", folder_ / "s", "--pool", "bytes=64MiB"}};
};

constexpr char kNone[] = "shm_open: No such file or directory\n";

TEST_F(PreloadTest, WhatOneServerCommitsTheOtherReads) {
  EXPECT_EQ(Read("b"), kNone);
  EXPECT_EQ(On("a", {"write", "/seg", "first"}).exit_code, 0);
  EXPECT_EQ(Read("b"), "first\n");
  EXPECT_EQ(On("b", {"write", "/seg", "second"}).exit_code, 0);
  EXPECT_EQ(Read("a"), "second\n");
  EXPECT_EQ(On("b", {"read-in-place", "/seg"}).out, "!econd\nsecond\n");
  const Result listed = Execute({APTA_PATH, "shm", "ls"});
  EXPECT_NE(listed.out.find("256.0 KiB"), std::string::npos) << listed.out;
  EXPECT_EQ(On("a", {"unlink", "/seg"}).exit_code, 0);
  EXPECT_EQ(Read("b"), kNone);
}

TEST_F(PreloadTest, ReturningFromMainCommits) {
  EXPECT_EQ(On("a", {"write-return", "/seg", "left"}).exit_code, 0);
  EXPECT_EQ(Read("b"), "left\n");
}

TEST_F(PreloadTest, AWriterThatIsKilledChangesNothing) {
  EXPECT_EQ(On("a", {"write-die", "/seg", "never"}).exit_code, -SIGKILL);
  EXPECT_EQ(Read("a"), kNone);
  EXPECT_EQ(On("a", {"write", "/seg", "old"}).exit_code, 0);
  EXPECT_EQ(On("a", {"write-die", "/seg", "never"}).exit_code, -SIGKILL);
  EXPECT_EQ(Read("a"), "old\n");
  EXPECT_EQ(Read("b"), "old\n");
  EXPECT_EQ(On("a", {"sync-die", "/seg", "synced"}).exit_code, -SIGKILL);
  EXPECT_EQ(Read("a"), "synced\n");
  EXPECT_EQ(Read("b"), "synced\n");
}

TEST_F(PreloadTest, WritersOfOneServerShareMemoryAndTheLastOneCommits) {
  const auto is_line = [](const std::string& text) { return text.ends_with('\n'); };
  Pipe in = Pipe::Make();
  Pipe out = Pipe::Make();
  Child first(Command("a", {"write-wait", "/seg", "live"}), in.read_end.get(), out.write_end.get(),
              STDERR_FILENO);
  EXPECT_EQ(test::ReadUntil(out.read_end, is_line), "written\n");
  Pipe in2 = Pipe::Make();
  Pipe out2 = Pipe::Make();
  Child second(Command("a", {"join", "/seg"}), in2.read_end.get(), out2.write_end.get(),
               STDERR_FILENO);
  EXPECT_EQ(test::ReadUntil(out2.read_end, is_line), "live\n");
  EXPECT_EQ(Read("b"), kNone);
  first.Signal(SIGKILL);
  first.Wait();
  EXPECT_EQ(Read("b"), kNone);
  EXPECT_EQ(Read("a"), "live\n");  // with who is there
  EXPECT_EQ(write(in2.write_end.get(), "\n", 1), 1);
  EXPECT_EQ(second.Wait(), 0);
  EXPECT_EQ(Read("b"), "live\n");
}

TEST_F(PreloadTest, DescriptorsAreAFiles) {
  const Result result = On("a", {"file", "/seg", "as a file"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "as a file\n");
  EXPECT_EQ(Read("b"), "as a file\n");
}

TEST_F(PreloadTest, NamesThatDoNotMatchStayTheMachines) {
  const std::string name = "/other" + std::to_string(getpid());
  EXPECT_EQ(On("a", {"write", name, "plain"}).exit_code, 0);
  EXPECT_TRUE(std::filesystem::exists("/dev/shm" + name));
  EXPECT_EQ(Read("b", name), "plain\n");
  EXPECT_EQ(Execute({APTA_PATH, "shm", "ls"}).out.find("other"), std::string::npos);
  EXPECT_EQ(On("b", {"unlink", name}).exit_code, 0);
  EXPECT_FALSE(std::filesystem::exists("/dev/shm" + name));
}

TEST_F(PreloadTest, SystemVSegmentsCross) {
  setenv("APTA_SHMEM", "sysv.*", 1);
  const std::string key = std::to_string(getpid());
  EXPECT_NE(On("b", {"v-read", key}).exit_code, 0);
  EXPECT_EQ(On("a", {"v-write", key, "five"}).exit_code, 0);
  EXPECT_EQ(On("b", {"v-read", key}).out, "five\n");
  EXPECT_EQ(On("a", {"v-die", key, "never"}).exit_code, -SIGKILL);
  EXPECT_EQ(On("a", {"v-read", key}).out, "five\n");
  EXPECT_EQ(On("b", {"v-write", key, "six"}).exit_code, 0);
  EXPECT_EQ(On("a", {"v-read", key}).out, "six\n");
  EXPECT_EQ(On("a", {"v-remove", key}).exit_code, 0);
  EXPECT_EQ(On("b", {"v-remove", key}).exit_code, 0);
  EXPECT_NE(On("b", {"v-read", key}).exit_code, 0);
}

TEST_F(PreloadTest, PythonsSharedMemoryCrosses) {
  const std::string make =
      "from multiprocessing import shared_memory, resource_tracker as t\n"
      "s = shared_memory.SharedMemory('seg', create=True, size=1 << 20)\n"
      "s.buf[:2] = b'py'; s.buf[-1:] = b'!'; s.close(); t.unregister('/seg', 'shared_memory')\n";
  const std::string take =
      "from multiprocessing import shared_memory\n"
      "s = shared_memory.SharedMemory('seg')\n"
      "print(bytes(s.buf[:2]), s.size, bytes(s.buf[-1:])); s.close(); s.unlink()\n";
  const Result made = Execute(Command("a", {"-IS", "-c", make}, PYTHON_PATH));
  EXPECT_EQ(made.exit_code, 0) << made.err;
  const Result taken = Execute(Command("b", {"-IS", "-c", take}, PYTHON_PATH));
  EXPECT_EQ(taken.out, "b'py' 1048576 b'!'\n") << taken.err;
  EXPECT_EQ(Read("a"), kNone);
}

TEST_F(PreloadTest, StaticBinariesAreRefused) {
  const Result result = Execute(Command("a", {}, STATIC_PROGRAM_PATH));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("is a static binary"), std::string::npos) << result.err;
  const std::string script = folder_ / "script";
  std::ofstream(script) << "#!" << STATIC_PROGRAM_PATH << "\n";
  std::filesystem::permissions(script, std::filesystem::perms::owner_all);
  const Result by_script = Execute(Command("a", {}, script));
  EXPECT_NE(by_script.err.find("is a static binary"), std::string::npos) << by_script.err;
  EXPECT_EQ(Execute(Command("a", {}, "/nowhere")).exit_code, 1);
}

}  // namespace
}  // namespace apta
