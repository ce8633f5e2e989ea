// Who has nothing to do uses no CPU.

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
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
