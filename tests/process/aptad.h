// What the process tests share: a folder, an aptad, other processes of the same test, counts.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "apta/apta.h"
#include "tests/process/child.h"

namespace apta::test {

// How much of a count to run: 1 unless APTA_TEST_SCALE says less (sanitizers) or more.
inline int Scaled(int count) {
  const char* scale = std::getenv("APTA_TEST_SCALE");
  const double factor = scale != nullptr ? std::atof(scale) : 1;
  return std::max(1, static_cast<int>(count * factor));
}

// Looks until it holds; false after half a minute.
template <typename Condition>
bool Eventually(Condition&& holds) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!holds()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

class Folder {
 public:
  explicit Folder(const std::string& parent = ::testing::TempDir()) {
    std::string name = parent + "/apta-XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// An aptad that has said that it serves, or has ended.
class Aptad {
 public:
  explicit Aptad(const std::vector<std::string>& flags, const std::string& program = APTAD_PATH)
      : child_(Command(flags, program), Memory().get(), log_.get(), log_.get()) {
    const auto has_said = [&] {
      const std::string seen = log();
      const std::size_t serving = seen.find("serving ");
      return serving != seen.npos && seen.find('\n', serving) != seen.npos;
    };
    EXPECT_TRUE(Eventually([&] { return has_said() || child_.HasEnded(); })) << log();
  }

  std::string log() const { return Contents(log_); }
  pid_t pid() const { return child_.pid(); }
  void Signal(int number) const { child_.Signal(number); }
  // Its exit code.
  int End(int number) {
    child_.Signal(number);
    return child_.Wait();
  }

 private:
  static std::vector<std::string> Command(std::vector<std::string> flags,
                                          const std::string& program) {
    flags.insert(flags.begin(), program);
    return flags;
  }

  Fd log_ = Memory();  // a file, so that a server with much to say is not held up
  Child child_;
};

// This test's binary once more, as another process: main() hands over to `Role` (see RoleMain).
class Other {
 public:
  explicit Other(std::vector<std::string> role, int out_fd = STDERR_FILENO)
      : child_(Command(std::move(role)), STDIN_FILENO, out_fd, STDERR_FILENO) {}
  void Signal(int number) const { child_.Signal(number); }
  int Wait() { return child_.Wait(); }
  pid_t pid() const { return child_.pid(); }

 private:
  static std::vector<std::string> Command(std::vector<std::string> role) {
    role.insert(role.begin(), {"/proc/self/exe", "--role"});
    return role;
  }
  Child child_;
};

inline Client ConnectTo(const std::string& socket, const std::string& node,
                        const std::string& pool = "default") {
  auto client =
      Client::Connect({.socket = socket, .pool = pool, .node = node, .timeout = absl::Seconds(20)});
  if (!client.ok()) {
    ADD_FAILURE() << client.status();
    std::abort();
  }
  return *std::move(client);
}

// Gets until it is a hit. A small object that is read while its home sleeps is not cached, and its
// reader becomes a sharer a little later.
inline bool BecomeSharer(Client& client, std::string_view key) {
  return Eventually([&] {
    const std::uint64_t hits = client.stats().hits;
    return client.Get(key).ok() && client.stats().hits > hits;
  });
}

inline PoolInfo PoolOf(const Client& client) {
  const auto pools = client.Pools();
  EXPECT_TRUE(pools.ok()) << pools.status();
  return pools.ok() ? pools->front() : PoolInfo{};
}

// For main(): runs the role that the command line names, else the tests.
template <typename Role>
int RoleMain(int argc, char** argv, Role&& role) {
  if (argc > 2 && std::string(argv[1]) == "--role") {
    return role(std::vector<std::string>(argv + 2, argv + argc));
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

}  // namespace apta::test
