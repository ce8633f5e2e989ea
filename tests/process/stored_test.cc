// fsck, dump and restore as a user meets them: the real programs, their output and exit codes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "fmt/format.h"
#include "tests/process/aptad.h"
#include "tests/process/child.h"

namespace apta {
namespace {

using test::Aptad;
using test::ConnectTo;
using test::Execute;
using test::Folder;
using test::Result;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void WriteFile(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

class StoredTest : public ::testing::Test {
 protected:
  void StartAptad(const std::vector<std::string>& pools) {
    std::vector<std::string> flags = {"--socket", socket_};
    for (const std::string& pool : pools) flags.insert(flags.end(), {"--pool", pool});
    aptad_.emplace(flags);
  }
  Result Apta(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {APTA_PATH, "--socket", socket_});
    return Execute(arguments, "");
  }

  Folder folder_;
  const std::string socket_ = folder_ / "s";
  std::optional<Aptad> aptad_;
};

TEST_F(StoredTest, FsckNamesWhatIsDamagedInARegion) {
  const std::string file = folder_ / "region";
  StartAptad({fmt::format("bytes=8MiB,durability=region,scrub=1GiB,backing=file:{}", file)});
  {
    Client client = ConnectTo(socket_, "n");
    ASSERT_TRUE(client.Put("some key", Bytes(3000, std::byte{'p'})).ok());
    ASSERT_TRUE(client.Put("other", AsBytes("whole")).ok());
    ASSERT_TRUE(test::Eventually([&] { return test::PoolOf(client).scrubs >= 2; }));
  }
  const Result in_use = Apta({"fsck", file});
  EXPECT_EQ(in_use.exit_code, 1);
  EXPECT_THAT(in_use.err, HasSubstr("a memory server is using it"));
  EXPECT_EQ(aptad_->End(SIGTERM), 0);
  const Result whole = Apta({"fsck", file});
  EXPECT_EQ(whole.exit_code, 0) << whole.err;
  EXPECT_EQ(whole.out, "");
  std::string content = ReadFile(file);
  content[content.find("pppp") + 100] = 'q';
  WriteFile(file, content);
  for (int time = 0; time < 2; ++time) {  // it changes nothing
    const Result damaged = Apta({"fsck", file});
    EXPECT_EQ(damaged.exit_code, 1);
    EXPECT_EQ(damaged.out, "object 'some key' does not have the checksum that it had\n");
    EXPECT_EQ(damaged.err, "");
  }
  WriteFile(file, content.substr(0, 4 << 20));
  EXPECT_THAT(Apta({"fsck", file}).out, HasSubstr("truncated"));
  WriteFile(file, std::string(100'000, 'x'));
  const Result none = Apta({"fsck", file});
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_THAT(none.err, HasSubstr("no Āpta region"));
  EXPECT_EQ(Apta({"fsck", folder_ / "nothing"}).exit_code, 1);
}

TEST_F(StoredTest, FsckNamesWhereALogIsDamaged) {
  const std::string log = folder_ / "log";
  StartAptad({fmt::format("bytes=8MiB,durability=log,log_segment=64KiB,log={}", log)});
  {
    Client client = ConnectTo(socket_, "n");
    for (int i = 0; i < 40; ++i) {
      ASSERT_TRUE(client.Put(fmt::format("key {}", i), Bytes(10'000, std::byte{'p'})).ok());
    }
  }
  EXPECT_EQ(aptad_->End(SIGKILL), -SIGKILL);
  const Result whole = Apta({"fsck", log});
  EXPECT_EQ(whole.exit_code, 0) << whole.err << whole.out;
  // All but the last segment: what follows there tells that it is no put that was cut off.
  for (const auto& entry : std::filesystem::directory_iterator(log)) {
    std::string content = ReadFile(entry.path());
    const std::size_t at = content.find("pppp");
    if (at == content.npos) continue;
    content[at + 50] = 'q';
    WriteFile(entry.path(), content);
  }
  const Result damaged = Apta({"fsck", log});
  EXPECT_EQ(damaged.exit_code, 1);
  EXPECT_THAT(damaged.out + damaged.err, HasSubstr("damaged"));
}

TEST_F(StoredTest, ADumpIsAConsistentCutThatAnotherPoolTakes) {
  StartAptad({"bytes=16MiB", "name=second,bytes=16MiB,coherence=lazy"});
  Client client = ConnectTo(socket_, "n");
  ASSERT_TRUE(client.Put("large", Bytes(2 << 20, std::byte{'L'})).ok());
  ASSERT_TRUE(client.Put("empty", {}).ok());
  ASSERT_TRUE(client.Put(std::string("\xff\n[a,b]"), AsBytes("odd")).ok());
  // Two that are always the same, while they are dumped.
  const auto put_both = [&client](int round) {
    Transaction both = client.Begin();
    both.Put("one", AsBytes(std::to_string(round)));
    both.Put("two", AsBytes(std::to_string(round)));
    return both.Commit().ok();
  };
  ASSERT_TRUE(put_both(0));
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (int round = 1; !stop.load(); ++round) EXPECT_TRUE(put_both(round));
  });
  const std::string dump = folder_ / "dump";
  const Result dumped = Apta({"dump", "default", dump});
  stop.store(true);
  writer.join();
  ASSERT_EQ(dumped.exit_code, 0) << dumped.err;
  const Result restored = Apta({"restore", dump, "second"});
  ASSERT_EQ(restored.exit_code, 0) << restored.err;
  Client second = ConnectTo(socket_, "m", "second");
  EXPECT_EQ(second.List("")->size(), 5u);
  EXPECT_EQ(second.Get("large")->size(), std::size_t{2} << 20);
  EXPECT_EQ(second.Get("empty")->size(), 0u);
  EXPECT_EQ(AsText(second.Get("\xff\n[a,b]")->bytes()), "odd");
  EXPECT_EQ(AsText(second.Get("one")->bytes()), AsText(second.Get("two")->bytes()));
}

TEST_F(StoredTest, ADumpThatIsDamagedIsNotRestoredInPart) {
  StartAptad({"bytes=16MiB", "name=second,bytes=16MiB"});
  Client client = ConnectTo(socket_, "n");
  for (const char* key : {"a", "b", "c"}) ASSERT_TRUE(client.Put(key, AsBytes("value")).ok());
  const std::string dump = folder_ / "dump";
  ASSERT_EQ(Apta({"dump", "default", dump}).exit_code, 0);
  const std::string whole = ReadFile(dump);
  const auto expect_refused = [&](const std::string& content, const char* why) {
    WriteFile(dump, content);
    const Result result = Apta({"restore", dump, "second"});
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_THAT(result.err, AllOf(StartsWith("apta: "), HasSubstr(why)));
    EXPECT_TRUE(ConnectTo(socket_, "m", "second").List("")->empty());
  };
  for (std::size_t at = 8; at < whole.size(); at += 7) {
    std::string content = whole;
    content[at] = static_cast<char>(content[at] ^ 0x10);
    expect_refused(content, "damaged");
  }
  expect_refused(whole.substr(0, whole.size() - 1), "damaged");
  expect_refused(whole.substr(0, whole.size() / 2), "damaged");
  expect_refused(whole + "x", "damaged");
  expect_refused("something else", "no dump");
  expect_refused("", "no dump");
  WriteFile(dump, whole);
  EXPECT_EQ(Apta({"restore", dump, "second"}).exit_code, 0);
  EXPECT_EQ(ConnectTo(socket_, "m", "second").List("")->size(), 3u);
}

}  // namespace
}  // namespace apta
