// Who has nothing to do uses no CPU, and who sleeps is not waited for.

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "fmt/format.h"
#include "tests/process/aptad.h"

namespace apta {
namespace {

using test::Aptad;
using test::ConnectTo;
using test::Folder;

// User and system time of a process so far, in seconds (proc(5), stat fields 14 and 15).
double CpuSeconds(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string skipped;
  for (int i = 3; i < 14; ++i) fields >> skipped;
  double user, system;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

// The state of the process's thread of this name (proc(5), stat field 3): S = sleeps in the kernel,
// T = stopped.
char StateOf(pid_t pid, const std::string& name) {
  for (const auto& task : std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid))) {
    std::ifstream file(task.path() / "stat");
    std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (text.find("(" + name + ")") == text.npos) continue;
    return text[text.rfind(')') + 2];
  }
  return '?';
}

class SleepingHomeTest : public ::testing::TestWithParam<std::string> {};

// A stopped server shows that nobody waits for it: it was asleep when it was stopped.
TEST_P(SleepingHomeTest, ASmallObjectIsReadWithoutItAndRegisteredLater) {
  Folder folder;
  const std::string socket = folder / "s";
  Aptad aptad({"--socket", socket, "--pool", "bytes=64MiB,coherence=" + GetParam()});
  Client writer = ConnectTo(socket, "writer");
  auto reader =
      Client::Connect({.socket = socket, .node = "reader", .timeout = absl::Milliseconds(200)});
  ASSERT_TRUE(reader.ok()) << reader.status();
  const std::string small(4096, 's'), large(4097, 'l');
  ASSERT_TRUE(writer.Put("small", AsBytes(small)).ok());
  ASSERT_TRUE(writer.Put("large", AsBytes(large)).ok());
  const auto home_is = [&](char state) { return StateOf(aptad.pid(), "apta-home-0") == state; };
  ASSERT_TRUE(test::Eventually([&] { return home_is('S'); }));
  aptad.Signal(SIGSTOP);
  ASSERT_TRUE(test::Eventually([&] { return home_is('T'); }));
  for (int i = 0; i < 3; ++i) {
    const auto object = reader->Get("small");
    ASSERT_TRUE(object.ok()) << object.status();
    EXPECT_EQ(AsText(object->bytes()), small);
  }
  EXPECT_TRUE(absl::IsNotFound(reader->Get("none").status()));
  const auto too_large = reader->Get("large");
  EXPECT_EQ(too_large.ok(), GetParam() == "uncached") << too_large.status();
  aptad.Signal(SIGCONT);
  ASSERT_TRUE(writer.Put("small", AsBytes("new")).ok());
  const auto newest = reader->Get("small");
  ASSERT_TRUE(newest.ok()) << newest.status();
  if (GetParam() != "lazy") EXPECT_EQ(AsText(newest->bytes()), "new");
  if (GetParam() == "uncached" || GetParam() == "versioned")
    return;  // hits take a message, or are none
  EXPECT_TRUE(test::BecomeSharer(*reader, "small"));
}
INSTANTIATE_TEST_SUITE_P(Modes, SleepingHomeTest,
                         ::testing::Values("strict", "lazy", "sync", "versioned", "uncached"),
                         [](const auto& param) { return param.param; });

TEST(IdleTest, AnIdleMemoryServerWithTenIdleClientsUsesLessThanAPercentOfACore) {
  Folder folder;
  const std::string socket = folder / "s";
  Aptad aptad({"--socket", socket, "--pool", "bytes=64MiB"});
  std::vector<Client> clients;
  for (int i = 0; i < 10; ++i) {
    clients.push_back(ConnectTo(socket, fmt::format("client-{}", i)));
    ASSERT_TRUE(clients.back().Put(fmt::format("key-{}", i), AsBytes("value")).ok());
    ASSERT_TRUE(clients.back().Get("key-0").ok());
  }
  // The pool is populated in the background first: wait until the CPU time stands still.
  EXPECT_TRUE(test::Eventually([&] {
    const double before = CpuSeconds(aptad.pid());
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    return CpuSeconds(aptad.pid()) - before < 0.02;
  }));
  // A measuring window of wall time, not a wait for something to happen.
  const double server_before = CpuSeconds(aptad.pid());
  const double clients_before = CpuSeconds(getpid());
  std::this_thread::sleep_for(std::chrono::seconds(4));
  EXPECT_LT(CpuSeconds(aptad.pid()) - server_before, 0.04);
  EXPECT_LT(CpuSeconds(getpid()) - clients_before, 0.04);
  EXPECT_TRUE(clients[3].Put("key-3", AsBytes("awake at once")).ok());
}

}  // namespace
}  // namespace apta
