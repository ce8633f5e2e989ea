// Nodes that come and are killed, over and over: nothing of them may stay.

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <optional>

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

constexpr int kAtOnce = 10;

// Attaches, gets into a state worth killing, says so with one byte.
int Victim(const std::vector<std::string>& role) {
  Client client = ConnectTo(role[0], "victim");
  const int kind = std::stoi(role[1]) % 4;
  std::optional<Object> pinned;
  if (kind >= 1) {  // a sharer, with a pin
    if (auto object = client.Get("shared"); object.ok()) pinned = *std::move(object);
  }
  std::thread putter;
  if (kind == 2) (void)client.Put("victims", AsBytes(std::string(100'000, 'v')));
  (void)!write(STDOUT_FILENO, "x", 1);
  if (kind == 3) {  // in the middle of a large put
    const std::string value(4 << 20, 'v');
    while (true) (void)client.Put("victims", AsBytes(value));
  }
  pause();
  return 0;
}

std::ptrdiff_t DescriptorsOf(pid_t pid) {
  return std::distance(std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid)), {});
}

TEST(ChurnTest, ThousandsOfAttachesAndKillsLeakNoByteDescriptorOrNodeSlot) {
  Folder folder;
  const std::string socket = folder / "s";
  Aptad aptad({"--socket", socket, "--pool", "bytes=256MiB"});
  Client client = ConnectTo(socket, "judge");
  const auto settle = [&] {
    EXPECT_TRUE(Eventually([&] { return client.Nodes()->size() == 1; }));
    (void)client.Delete("victims");
    EXPECT_TRUE(client.Put("shared", AsBytes("for all")).ok());
    EXPECT_TRUE(Eventually([&] { return test::PoolOf(client).bytes_held == 0; }));
  };
  settle();
  const std::uint64_t used_before = test::PoolOf(client).bytes_used;
  const auto descriptors_before = DescriptorsOf(aptad.pid());

  const int cycles = test::Scaled(4'000);
  for (int done = 0; done < cycles; done += kAtOnce) {
    std::vector<std::unique_ptr<Other>> victims;
    std::vector<Pipe> pipes;
    for (int i = 0; i < kAtOnce; ++i) {
      pipes.push_back(Pipe::Make());
      victims.push_back(std::make_unique<Other>(
          std::vector<std::string>{socket, std::to_string(done / kAtOnce + i)},
          pipes.back().write_end.get()));
      pipes.back().write_end.Close();
    }
    for (const Pipe& pipe : pipes) {
      ASSERT_NE(test::ReadUntil(pipe.read_end, [](const auto& seen) { return !seen.empty(); }), "");
    }
    // Overwritten while they share and pin it, and some are in the middle of a put.
    ASSERT_TRUE(client.Put("shared", AsBytes(fmt::format("round {}", done))).ok());
    for (const auto& victim : victims) victim->Signal(SIGKILL);
    for (const auto& victim : victims) victim->Wait();
  }
  settle();
  EXPECT_EQ(test::PoolOf(client).bytes_used, used_before);
  EXPECT_TRUE(Eventually([&] { return DescriptorsOf(aptad.pid()) == descriptors_before; }))
      << DescriptorsOf(aptad.pid()) << " descriptors, " << descriptors_before << " before";
  // Every node slot is free again: as many as there are can attach at once.
  std::vector<Client> all;
  for (int i = 0; i < 255; ++i) all.push_back(ConnectTo(socket, fmt::format("node-{}", i)));
  const auto one_more = Client::Connect({.socket = socket, .node = "one too many"});
  EXPECT_TRUE(absl::IsResourceExhausted(one_more.status())) << one_more.status();
  EXPECT_TRUE(all.back().Put("k", AsBytes("v")).ok());
}

}  // namespace
}  // namespace apta

int main(int argc, char** argv) { return apta::test::RoleMain(argc, argv, apta::Victim); }
