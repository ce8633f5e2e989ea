// aptad and apta as a user meets them: the real programs, their output and exit codes.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "apta/apta.h"
#include "tests/process/aptad.h"
#include "tests/process/child.h"

namespace apta {
namespace {

using nlohmann::json;
using test::Aptad;
using test::Child;
using test::Contents;
using test::Execute;
using test::Fd;
using test::Folder;
using test::Memory;
using test::Pipe;
using test::ReadToEnd;
using test::ReadUntil;
using test::ReadUntilText;
using test::Result;
using test::Terminal;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

// What a failed run must look like: this exit code, one line on standard error, no output.
void ExpectFailure(const Result& result, int exit_code, const std::string& program) {
  EXPECT_EQ(result.exit_code, exit_code) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, AllOf(StartsWith(program + ": "), EndsWith("\n")));
  EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << result.err;
}

class CliTest : public ::testing::Test {
 protected:
  CliTest()
      : socket_(folder_ / "s"),
        aptad_({"--socket", socket_, "--pool", "name=default,bytes=64MiB", "--pool",
                "name=small,bytes=8MiB,access=trusted"}) {}

  static std::vector<std::string> AptaCommand(const std::string& socket,
                                              std::vector<std::string> arguments) {
    const std::string command[] = {APTA_PATH, "--socket", socket};
    arguments.insert(arguments.begin(), std::begin(command), std::end(command));
    return arguments;
  }
  Result Apta(std::vector<std::string> arguments, const std::string& input = "") const {
    return Execute(AptaCommand(socket_, std::move(arguments)), input);
  }
  json AptaJson(std::vector<std::string> arguments) const {
    const Result result = Apta(std::move(arguments));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return json::parse(result.out, nullptr, false);
  }
  // This process as a node of its own.
  Client Connect() const {
    ClientOptions options;
    options.socket = socket_;
    options.node = "cli_test";
    auto client = Client::Connect(options);
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }

  Folder folder_;
  std::string socket_;
  Aptad aptad_;
};

// All byte values, and no repetition that a lost slice could hide in.
std::string Binary(std::size_t size_bytes) {
  std::string bytes(size_bytes, '\0');
  std::uint64_t state = 0x9e3779b97f4a7c15;
  for (char& byte : bytes) {
    state = state * 6364136223846793005 + 1442695040888963407;
    byte = static_cast<char>(state >> 56);
  }
  return bytes;
}

// ---- aptad ----------------------------------------------------------------------------------

TEST(AptadTest, SaysHowItIsUsed) {
  const Result help = Execute({APTAD_PATH, "--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.out, AllOf(HasSubstr("--pool"), HasSubstr("--link"), HasSubstr("[[pool]]")));
  const Result version = Execute({APTAD_PATH, "--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_THAT(version.out, StartsWith("aptad "));
}

TEST(AptadTest, RefusesWrongUsageInOneLineWithExitCode2) {
  const Folder folder;
  std::ofstream(folder / "aptad.toml") << "shards = 1\nshardz = 2\n";
  const std::pair<std::vector<std::string>, std::string> cases[] = {
      {{"--sockets", "x"}, "--sockets"},
      {{"--shards", "0"}, "shards=0"},
      {{"--pool", "bytes=1MiB"}, "bytes=1048576"},
      {{"--pool", "coherence=eager"}, "coherence=eager is none of strict, lazy, sync"},
      {{"--pool", "size=1GiB"}, "'size'"},
      {{"--config", folder / "aptad.toml"}, "aptad.toml:2: unknown key 'shardz'"},
      {{"--config", folder / "none.toml"}, "none.toml"}};
  for (const auto& [flags, named] : cases) {
    std::vector<std::string> command = {APTAD_PATH, "--socket", folder / "s"};
    command.insert(command.end(), flags.begin(), flags.end());
    const Result result = Execute(command);
    ExpectFailure(result, 2, "aptad");
    EXPECT_THAT(result.err, HasSubstr(named));
    EXPECT_FALSE(std::filesystem::exists(folder / "s"));
  }
}

TEST(AptadTest, RefusesAPoolLargerThanMemory) {
  const Folder folder;
  const Result result =
      Execute({APTAD_PATH, "--socket", folder / "s", "--pool", "name=huge,bytes=32TiB"});
  ExpectFailure(result, 1, "aptad");
  EXPECT_FALSE(std::filesystem::exists(folder / "s"));
}

TEST(AptadTest, SaysWhatItServesAndEndsCleanlyWhenAskedTo) {
  const Folder folder;
  std::ofstream(folder / "aptad.toml") << "socket = \"" << (folder / "s") << "\"\n"
                                       << "[[pool]]\nname = \"one\"\nbytes = \"16MiB\"\n"
                                       << "[[pool]]\nname = \"two\"\nbytes = \"8MiB\"\n";
  for (const int number : {SIGTERM, SIGINT}) {
    Aptad aptad({"--config", folder / "aptad.toml"});
    EXPECT_THAT(aptad.log(), HasSubstr("serving " + (folder / "s") +
                                       ": pool one 16.0 MiB memfd strict, pool two 8.0 MiB memfd "
                                       "strict"));
    EXPECT_TRUE(std::filesystem::exists(folder / "s"));
    EXPECT_EQ(aptad.End(number), 0) << aptad.log();
    EXPECT_FALSE(std::filesystem::exists(folder / "s"));
  }
}

TEST_F(CliTest, ASocketIsTakenFromADeadServerButNotFromALivingOne) {
  const Result second = Execute({APTAD_PATH, "--socket", socket_, "--pool", "bytes=8MiB"});
  ExpectFailure(second, 1, "aptad");
  EXPECT_THAT(second.err, HasSubstr(socket_));
  EXPECT_EQ(Apta({"put", "k"}, "still served").exit_code, 0);

  EXPECT_EQ(aptad_.End(SIGKILL), -SIGKILL);
  ASSERT_TRUE(std::filesystem::exists(socket_));
  Aptad successor({"--socket", socket_, "--pool", "bytes=8MiB"});
  EXPECT_EQ(Apta({"put", "k"}, "served again").exit_code, 0) << successor.log();
}

// ---- apta -----------------------------------------------------------------------------------

TEST_F(CliTest, WrongUsageIsExitCode2) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{}, {"push", "k"}, {"get"}, {"get", "k", "--bogus"}, {"rm"}}) {
    ExpectFailure(Apta(arguments), 2, "apta");
  }
}

TEST_F(CliTest, WithoutAServerEveryVerbSaysUnavailable) {
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"put", "k"},
                                                    {"get", "k"},
                                                    {"ls"},
                                                    {"rm", "k"},
                                                    {"stat"},
                                                    {"nodes"},
                                                    {"pools"},
                                                    {"call", "f"}}) {
    const Result result = Execute(AptaCommand(folder_ / "nobody", arguments));
    ExpectFailure(result, 1, "apta");
    EXPECT_THAT(result.err, HasSubstr("UNAVAILABLE"));
  }
}

TEST_F(CliTest, WhatWasPutComesBackByteForByte) {
  for (const std::size_t size_bytes : {0u, 1u, 64u, 4096u, 5u << 20}) {
    const std::string bytes = Binary(size_bytes);
    std::ofstream(folder_ / "in", std::ios::binary) << bytes;
    EXPECT_EQ(Apta({"put", "file", folder_ / "in"}).exit_code, 0);
    EXPECT_EQ(Apta({"put", "stdin", "-"}, bytes).exit_code, 0);
    for (const char* key : {"file", "stdin"}) {
      const Result got = Apta({"get", key});
      EXPECT_EQ(got.exit_code, 0) << got.err;
      EXPECT_TRUE(got.out == bytes) << key << ", " << size_bytes << " bytes";
    }
    const Result saved = Apta({"get", "file", "-o", folder_ / "out"});
    EXPECT_EQ(saved.exit_code, 0) << saved.err;
    EXPECT_EQ(saved.out, "");
    std::ostringstream text;
    text << std::ifstream(folder_ / "out", std::ios::binary).rdbuf();
    EXPECT_TRUE(text.str() == bytes) << size_bytes << " bytes";
  }
}

TEST_F(CliTest, PutReadsAPipeOfUnknownSizeToItsEnd) {
  const std::string bytes = Binary(3 << 20);
  Pipe input = Pipe::Make();
  Child put(AptaCommand(socket_, {"put", "k"}), input.read_end.get(), STDOUT_FILENO, STDERR_FILENO);
  input.read_end.Close();
  for (std::size_t sent = 0; sent < bytes.size();) {
    const ssize_t now = write(input.write_end.get(), bytes.data() + sent, bytes.size() - sent);
    ASSERT_GT(now, 0);
    sent += static_cast<std::size_t>(now);
  }
  input.write_end.Close();
  EXPECT_EQ(put.Wait(), 0);
  EXPECT_TRUE(Apta({"get", "k"}).out == bytes);
}

TEST_F(CliTest, AFailedGetLeavesTheFileAlone) {
  std::ofstream(folder_ / "out") << "old";
  const Result result = Apta({"get", "none", "-o", folder_ / "out"});
  ExpectFailure(result, 1, "apta");
  EXPECT_THAT(result.err, HasSubstr("NOT_FOUND"));
  std::ostringstream text;
  text << std::ifstream(folder_ / "out").rdbuf();
  EXPECT_EQ(text.str(), "old");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "none"));
}

TEST_F(CliTest, KeysThatCannotBeAndObjectsThatDoNotFitAreRefused) {
  for (const std::string& key : {std::string(), std::string(1025, 'k')}) {
    const Result result = Apta({"put", key}, "x");
    ExpectFailure(result, 1, "apta");
    EXPECT_THAT(result.err, HasSubstr("INVALID_ARGUMENT"));
  }
  EXPECT_EQ(Apta({"put", std::string(1024, 'k')}, "x").exit_code, 0);
  const Result full = Apta({"--pool", "small", "put", "k"}, Binary(9 << 20));
  ExpectFailure(full, 1, "apta");
  EXPECT_THAT(full.err, AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("small")));
  const Result pool = Apta({"--pool", "none", "ls"});
  ExpectFailure(pool, 1, "apta");
  EXPECT_THAT(pool.err, HasSubstr("NOT_FOUND"));
}

TEST_F(CliTest, PoolsAreSeparate) {
  EXPECT_EQ(Apta({"--pool", "small", "put", "k"}, "small").exit_code, 0);
  EXPECT_EQ(Apta({"get", "k"}).exit_code, 1);
  EXPECT_EQ(Apta({"get", "k", "--pool", "small"}).out, "small");
}

TEST_F(CliTest, ListingGoesOnPastAThousandKeys) {
  std::string expected;
  Version version = 0;
  {
    Client client = Connect();
    for (int i = 10000; i < 12345; ++i) {
      const std::string key = "many/" + std::to_string(i);
      ASSERT_TRUE(client.Put(key, AsBytes(key)).ok());
      expected += key + "\n";
    }
    const auto put = client.Put("other", AsBytes("1234"));
    ASSERT_TRUE(put.ok()) << put.status();
    version = *put;
  }
  EXPECT_TRUE(Apta({"ls", "many/"}).out == expected);
  EXPECT_EQ(Apta({"ls", "none/"}).out, "");
  EXPECT_THAT(Apta({"ls"}).out, HasSubstr("other\n"));
  EXPECT_THAT(Apta({"ls", "-l", "oth"}).out,
              ::testing::MatchesRegex("SIZE  VERSION  SHARERS  KEY\n 4 B +" +
                                      std::to_string(version) + " +[0-9]+  other\n"));
  EXPECT_EQ(AptaJson({"ls", "many/", "--json"}).size(), 2345u);
}

TEST_F(CliTest, ListingAsJsonCarriesAnyKey) {
  EXPECT_EQ(Apta({"put", "a\"\n\\"}, "12").exit_code, 0);
  EXPECT_EQ(Apta({"put", "\xff"}, "").exit_code, 0);
  const json list = AptaJson({"ls", "--json"});
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0]["key"], "a\"\n\\");
  EXPECT_EQ(list[0]["size"], 2);
  EXPECT_GT(list[0]["version"], 0);
  EXPECT_FALSE(list[0].contains("key_hex"));
  EXPECT_EQ(list[1]["key_hex"], "ff");
}

TEST_F(CliTest, RemovingSeveralKeysReportsEachThatFailed) {
  for (const char* key : {"a", "[b,c]", "-d"}) EXPECT_EQ(Apta({"put", "--", key}).exit_code, 0);
  const Result result = Apta({"rm", "a", "none", "[b,c]", "nil", "--", "-d"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, AllOf(HasSubstr("apta: none: NOT_FOUND"), HasSubstr("apta: nil: ")));
  EXPECT_EQ(std::ranges::count(result.err, '\n'), 2);
  EXPECT_EQ(Apta({"ls"}).out, "");
}

TEST_F(CliTest, StatDescribesAnObject) {
  EXPECT_EQ(Apta({"put", "k"}, "1").exit_code, 0);
  const Version first = AptaJson({"stat", "k", "--json"})["version"];
  EXPECT_EQ(Apta({"put", "k"}, "12").exit_code, 0);
  const json object = AptaJson({"stat", "k", "--json"});
  const Version second = object["version"];
  EXPECT_GT(second, first);
  EXPECT_EQ(object["size"], 2);
  EXPECT_THAT(Apta({"stat", "k"}).out, AllOf(HasSubstr("version  " + std::to_string(second) + "\n"),
                                             HasSubstr("(2 bytes)\n"), HasSubstr("sharers")));
  EXPECT_THAT(Apta({"stat", "none"}).err, HasSubstr("NOT_FOUND"));
}

TEST_F(CliTest, StatPoolsAndNodesDescribeTheServer) {
  const Client client = Connect();
  EXPECT_EQ(Apta({"put", "k"}, "1").exit_code, 0);
  EXPECT_THAT(Apta({"stat"}).out, AllOf(HasSubstr("pool default\n"), HasSubstr("pool small\n"),
                                        HasSubstr("NUMA nodes"), HasSubstr("nodes           1\n")));
  EXPECT_EQ(AptaJson({"stat", "--json"})["node_count"], 1);
  const json pools = AptaJson({"pools", "--json"});
  ASSERT_EQ(pools.size(), 2u);
  EXPECT_EQ(pools[0]["name"], "default");
  EXPECT_EQ(pools[0]["bytes"], 64 << 20);
  EXPECT_EQ(pools[0]["objects"], 1);
  EXPECT_EQ(pools[1]["access"], "trusted");
  EXPECT_THAT(Apta({"pools"}).out, AllOf(StartsWith("NAME "), HasSubstr("small")));

  const json nodes = AptaJson({"nodes", "--json"});
  ASSERT_EQ(nodes.size(), 1u) << nodes;  // the apta that asks is not among them
  EXPECT_EQ(nodes[0]["name"], "cli_test");
  EXPECT_EQ(nodes[0]["pid"], getpid());
  EXPECT_EQ(nodes[0]["pool"], "default");
  EXPECT_THAT(Apta({"nodes"}).out, HasSubstr("cli_test"));
}

TEST_F(CliTest, CallRunsAFunctionOnANodeThatHasIt) {
  auto host = FunctionHost::Create(Connect());
  ASSERT_TRUE(host.ok()) << host.status();
  ASSERT_TRUE(host->Register("reverse",
                             [](Invocation& invocation) -> absl::StatusOr<Bytes> {
                               const BytesView input = invocation.input();
                               if (input.empty())
                                 return absl::OutOfRangeError("nothing to reverse");
                               return Bytes(input.rbegin(), input.rend());
                             })
                  .ok());
  std::thread serving([&] { EXPECT_TRUE(host->Run().ok()); });
  EXPECT_THAT(AptaJson({"nodes", "--json"})[0]["functions"], ElementsAre("reverse"));

  EXPECT_EQ(Apta({"call", "reverse", "abc"}).out, "cba");
  const std::string bytes = Binary(300'000);
  const std::string reversed(bytes.rbegin(), bytes.rend());
  EXPECT_TRUE(Apta({"call", "reverse", "-"}, bytes).out == reversed);
  std::ofstream(folder_ / "in", std::ios::binary) << bytes;
  EXPECT_TRUE(Apta({"call", "reverse", "@" + (folder_ / "in")}).out == reversed);
  const Result refused = Apta({"call", "reverse"});
  ExpectFailure(refused, 1, "apta");
  EXPECT_THAT(refused.err, AllOf(HasSubstr("OUT_OF_RANGE"), HasSubstr("nothing to reverse")));
  const Result explained = Apta({"call", "--explain", "--json", "reverse", "abc"});
  EXPECT_EQ(explained.out, "cba");
  const json why = json::parse(explained.err, nullptr, false);
  ASSERT_TRUE(why.is_object()) << explained.err;
  EXPECT_EQ(why["chosen"], why["candidates"][0]["node"]);
  EXPECT_THAT(Apta({"call", "--explain", "reverse", "abc"}).err,
              AllOf(HasSubstr("chosen"), HasSubstr("policy criterion+locality")));
  const Result none = Apta({"call", "none", "x"});
  ExpectFailure(none, 1, "apta");
  EXPECT_THAT(none.err, HasSubstr("NOT_FOUND"));

  host->Stop();
  serving.join();
}

// ---- terminals and readers that leave -------------------------------------------------------

TEST_F(CliTest, AReaderThatLeavesIsNoFailureAndAFullDiskIs) {
  EXPECT_EQ(Apta({"put", "k"}, Binary(4 << 20)).exit_code, 0);
  Pipe output = Pipe::Make();
  const Fd err = Memory();
  output.read_end.Close();
  Child get(AptaCommand(socket_, {"get", "k"}), STDIN_FILENO, output.write_end.get(), err.get());
  EXPECT_EQ(get.Wait(), 0);
  EXPECT_EQ(Contents(err), "");

  const Fd full(open("/dev/full", O_WRONLY | O_CLOEXEC));
  Child list(AptaCommand(socket_, {"ls"}), STDIN_FILENO, full.get(), err.get());
  EXPECT_EQ(list.Wait(), 1);
  EXPECT_THAT(Contents(err), StartsWith("apta: "));
}

TEST_F(CliTest, WhatTakesOverASecondShowsProgressOnATerminal) {
  Terminal terminal = Terminal::Make();
  Pipe input = Pipe::Make();
  Child put(AptaCommand(socket_, {"put", "k"}), input.read_end.get(), STDOUT_FILENO,
            terminal.line.get());
  terminal.line.Close();
  input.read_end.Close();
  ASSERT_EQ(write(input.write_end.get(), "1234", 4), 4);
  // The pipe stays open until the bar is there.
  EXPECT_THAT(ReadUntilText(terminal.screen, "4 B  1 s"), HasSubstr("reading      4 B  1 s"));
  input.write_end.Close();
  EXPECT_EQ(put.Wait(), 0);
  EXPECT_THAT(ReadToEnd(terminal.screen), EndsWith("\r\x1b[K"));
}

TEST_F(CliTest, KeysCannotDriveATerminal) {
  EXPECT_EQ(Apta({"put", "a\x1b[2J"}).exit_code, 0);
  EXPECT_EQ(Apta({"ls"}).out, "a\x1b[2J\n");
  Terminal terminal = Terminal::Make();
  Child list(AptaCommand(socket_, {"ls"}), STDIN_FILENO, terminal.line.get(), STDERR_FILENO);
  terminal.line.Close();
  EXPECT_EQ(ReadUntilText(terminal.screen, "\n"), "a\\x1b[2J\r\n");
  EXPECT_EQ(list.Wait(), 0);
}

TEST(DoctorCommandTest, FailsOnlyWhereSomethingIsBroken) {
  const Folder machine;
  std::filesystem::create_directories(machine / "proc/sys/kernel");
  std::ofstream(machine / "proc/sys/kernel/io_uring_disabled") << "0\n";
  EXPECT_EQ(Execute({APTA_PATH, "doctor", "--root", machine.path()}).exit_code, 0);
  std::ofstream(machine / "proc/sys/kernel/io_uring_disabled") << "2\n";
  const Result broken = Execute({APTA_PATH, "doctor", "--root", machine.path()});
  EXPECT_EQ(broken.exit_code, 1);
  EXPECT_THAT(broken.out, StartsWith("broken  io_uring is off"));
  EXPECT_THAT(broken.out, HasSubstr("$ sudo sysctl kernel.io_uring_disabled=0\n"));

  const Result here = Execute({APTA_PATH, "doctor", "--json"});
  const json findings = json::parse(here.out, nullptr, false);
  ASSERT_TRUE(findings.is_array()) << here.out;
  EXPECT_THAT(findings, Not(IsEmpty()));
}

}  // namespace
}  // namespace apta
