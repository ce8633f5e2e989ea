// aptad's options: what is accepted, and that each refusal names what is wrong.
#include "daemon/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>
#include <string>
#include <vector>

#include "daemon/command_line.h"

namespace apta::daemon {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

template <typename T>
std::string Error(const absl::StatusOr<T>& result) {
  return result.ok() ? "OK" : result.status().ToString();
}

absl::StatusOr<CommandLine> Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "aptad");
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data());
}

std::string ErrorOf(std::vector<const char*> arguments) {
  const std::string error = Error(Parse(std::move(arguments)));
  EXPECT_THAT(error, StartsWith("INVALID_ARGUMENT: "));
  EXPECT_THAT(error, Not(HasSubstr("\n")));
  return error;
}

std::string ErrorOfConfig(const std::string& toml) {
  const std::string error = Error(ParseConfig(toml, "a.toml"));
  EXPECT_THAT(error, StartsWith("INVALID_ARGUMENT: a.toml:"));
  EXPECT_THAT(error, Not(HasSubstr("\n")));
  return error;
}

class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text) {
    path_ = ::testing::TempDir() + "/aptad-XXXXXX";
    close(mkstemp(path_.data()));
    std::ofstream(path_) << text;
  }
  ~ConfigFile() { unlink(path_.c_str()); }
  const char* path() const { return path_.c_str(); }

 private:
  std::string path_;
};

TEST(ParseBytesTest, ReadsPlainNumbersAndBinaryUnits) {
  EXPECT_EQ(*ParseBytes("0"), 0u);
  EXPECT_EQ(*ParseBytes("4096"), 4096u);
  EXPECT_EQ(*ParseBytes("1K"), 1u << 10);
  EXPECT_EQ(*ParseBytes("512MiB"), 512ull << 20);
  EXPECT_EQ(*ParseBytes("4GiB"), 4ull << 30);
  EXPECT_EQ(*ParseBytes("1G"), 1ull << 30);
  EXPECT_EQ(*ParseBytes("2TiB"), 2ull << 40);
  EXPECT_EQ(*ParseBytes("18446744073709551615"), ~0ull);
}

TEST(ParseBytesTest, RefusesEverythingElse) {
  for (const char* text : {"", "GiB", "-1", "+1", "1 GiB", " 1", "1.5GiB", "1g", "1GB", "0x10",
                           "1GiBs", "4GiB,", "1e9"}) {
    EXPECT_THAT(Error(ParseBytes(text)), HasSubstr(std::string("'") + text + "'"));
  }
}

TEST(ParseBytesTest, RefusesWhatOverflows64Bits) {
  EXPECT_EQ(*ParseBytes("16777215TiB"), 16777215ull << 40);
  for (const char* text : {"16777216TiB", "18446744073709551616", "99999999999999999999999K"}) {
    EXPECT_THAT(Error(ParseBytes(text)), HasSubstr("64 bits"));
  }
}

TEST(FormatBytesTest, RoundsToOneDecimalAndCarriesIntoTheNextUnit) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1 << 30), "1.0 GiB");
  EXPECT_EQ(FormatBytes((1 << 20) - 1), "1.0 MiB");
}

TEST(LinkOptionsTest, KnowsTheProfiles) {
  EXPECT_FALSE(LinkOptions::Parse("none")->enabled());
  const auto cxl = *LinkOptions::Parse("cxl");
  EXPECT_EQ(cxl.latency_ns, 500u);
  EXPECT_EQ(cxl.bandwidth_gbps, 80);
  EXPECT_EQ(cxl.call_ns, 0u);
  const auto fast = *LinkOptions::Parse("rdma-fast");
  EXPECT_EQ(fast.latency_ns, cxl.latency_ns);
  EXPECT_EQ(fast.bandwidth_gbps, cxl.bandwidth_gbps);
  EXPECT_EQ(fast.call_ns, 14'000u);
  const auto rdma = *LinkOptions::Parse("rdma");
  EXPECT_EQ(rdma.latency_ns, 3 * cxl.latency_ns);
  EXPECT_EQ(rdma.bandwidth_gbps, cxl.bandwidth_gbps / 10);
}

TEST(LinkOptionsTest, ReadsPartsInAnyOrder) {
  const auto link = *LinkOptions::Parse("call=14us,bandwidth=400Mbps,latency=1.5us,jitter=0");
  EXPECT_EQ(link.latency_ns, 1'500u);
  EXPECT_DOUBLE_EQ(link.bandwidth_gbps, 0.4);
  EXPECT_EQ(link.jitter_ns, 0u);
  EXPECT_EQ(link.call_ns, 14'000u);
  EXPECT_EQ(LinkOptions::Parse("latency=500ns")->latency_ns, 500u);
}

TEST(LinkOptionsTest, NamesThePartThatCannotBeRead) {
  for (const char* part : {"latency=500", "latency=-1ns", "latency=", "latency", "jitter=nan",
                           "call=inf", "call=1e3ns", "bandwidth=80", "bandwidth=-0Gbps",
                           "bandwidth=80GBps", "delay=1ns", "cxl", ""}) {
    const std::string text = std::string("jitter=1ns,") + part;
    EXPECT_THAT(Error(LinkOptions::Parse(text)), HasSubstr(std::string("'") + part + "'"));
  }
  EXPECT_THAT(Error(LinkOptions::Parse("")), HasSubstr("''"));
  EXPECT_THAT(Error(LinkOptions::Parse("call=0,call=1ns")), HasSubstr("twice"));
  EXPECT_THAT(Error(LinkOptions::Parse("latency=99999999999s")), HasSubstr("no time"));
}

TEST(ParsePoolTest, ReadsEveryKey) {
  const auto pool = *ParsePool(
      "name=far,bytes=4GiB,backing=shm:far,numa=far,coherence=lazy,access=trusted,"
      "durability=log,owner=alice,group=lab,mode=0640,directory_entries=77,ack_deadline=1.5s,"
      "node_quota=16MiB,log=folder,log_segment=1MiB,recovery_target=3s,"
      "scrub=3MiB");
  EXPECT_EQ(pool.scrub_bytes_per_second, 3u << 20);
  EXPECT_EQ(pool.log, "folder");
  EXPECT_EQ(pool.log_segment_bytes, 1u << 20);
  EXPECT_EQ(pool.recovery_target_ms, 3000u);
  EXPECT_EQ(pool.directory_entries, 77u);
  EXPECT_EQ(pool.ack_deadline_ms, 1500u);
  EXPECT_EQ(pool.node_quota_bytes, 16u << 20);
  EXPECT_EQ(pool.name, "far");
  EXPECT_EQ(pool.bytes, 4ull << 30);
  EXPECT_EQ(pool.backing, "shm:far");
  EXPECT_EQ(pool.numa, "far");
  EXPECT_EQ(pool.coherence, "lazy");
  EXPECT_EQ(pool.access, "trusted");
  EXPECT_EQ(pool.durability, "log");
  EXPECT_EQ(pool.owner, "alice");
  EXPECT_EQ(pool.group, "lab");
  EXPECT_EQ(pool.mode, 0640u);
}

TEST(ParsePoolTest, NamesWhatIsWrong) {
  EXPECT_THAT(Error(ParsePool("")), HasSubstr("key=value"));
  EXPECT_THAT(Error(ParsePool("name")), HasSubstr("'name'"));
  EXPECT_THAT(Error(ParsePool("name=a,")), HasSubstr("key=value"));
  EXPECT_THAT(Error(ParsePool("directory_entries=-1")), HasSubstr("directory_entries=-1"));
  EXPECT_THAT(Error(ParsePool("ack_deadline=soon")), HasSubstr("ack_deadline=soon is no time"));
  EXPECT_THAT(Error(ParsePool("node_quota=much")), HasSubstr("node_quota"));
  EXPECT_THAT(Error(ParsePool("name=a,name=b")), HasSubstr("'name' is given twice"));
  EXPECT_THAT(Error(ParsePool("size=4GiB")),
              AllOf(StartsWith("INVALID_ARGUMENT"), HasSubstr("'size'"), HasSubstr("bytes")));
  EXPECT_THAT(Error(ParsePool("bytes=4GB")), HasSubstr("bytes: '4GB'"));
  for (const char* mode : {"mode=", "mode=rw", "mode=0888", "mode=01000", "mode=-1"}) {
    EXPECT_THAT(Error(ParsePool(mode)), HasSubstr(mode));
  }
}

TEST(CommandLineTest, WithoutFlagsServesTheDefaultPool) {
  const auto options = Parse({})->options;
  ASSERT_EQ(options.pools.size(), 1u);
  EXPECT_EQ(options.pools[0].name, "default");
  EXPECT_EQ(options.pools[0].bytes, 1u << 30);
  EXPECT_EQ(options.socket, "");
  EXPECT_EQ(options.shards, 1);
}

TEST(CommandLineTest, ReadsEveryFlag) {
  const auto options = Parse({"--socket", "/tmp/s", "--pool", "name=a,bytes=8MiB", "--shards=4",
                              "--pool=name=b,bytes=1G", "--threads", "folded", "--link=cxl"})
                           ->options;
  EXPECT_EQ(options.socket, "/tmp/s");
  ASSERT_EQ(options.pools.size(), 2u);
  EXPECT_EQ(options.pools[0].name, "a");
  EXPECT_EQ(options.pools[1].name, "b");
  EXPECT_EQ(options.shards, 4);
  EXPECT_EQ(options.threads, "folded");
  EXPECT_EQ(options.link.latency_ns, 500u);
}

TEST(CommandLineTest, HelpNamesEveryFlagAndPoolKeyAndVersionTheVersion) {
  const std::string help = Parse({"--help"})->answer;
  for (const char* word :
       {"--config",    "--socket",  "--pool",   "--shards", "--threads", "--link",     "--policy",
        "--version",   "name=",     "bytes=",   "backing=", "numa=",     "coherence=", "access=",
        "durability=", "owner=",    "group=",   "mode=",    "latency=",  "bandwidth=", "jitter=",
        "call=",       "rdma-fast", "[[pool]]", "1GiB"}) {
    EXPECT_THAT(help, HasSubstr(word));
  }
  EXPECT_THAT(Parse({"--version"})->answer, StartsWith("aptad "));
}

TEST(CommandLineTest, NamesTheFlagThatIsWrong) {
  EXPECT_THAT(ErrorOf({"--sockets", "x"}), HasSubstr("--sockets"));
  EXPECT_THAT(ErrorOf({"serve"}), HasSubstr("serve"));
  EXPECT_THAT(ErrorOf({"--socket"}), HasSubstr("--socket"));
  EXPECT_THAT(ErrorOf({"--shards", "two"}), HasSubstr("--shards=two"));
  EXPECT_THAT(ErrorOf({"--shards", "1", "--shards", "2"}), HasSubstr("--shards"));
  EXPECT_THAT(ErrorOf({"--pool", "bytes=4GiB", "name=x"}), HasSubstr("name=x"));
  EXPECT_THAT(ErrorOf({"--pool", "bites=4GiB"}), AllOf(HasSubstr("--pool"), HasSubstr("'bites'")));
  EXPECT_THAT(ErrorOf({"--link", "fast"}), HasSubstr("--link: 'fast'"));
  EXPECT_THAT(ErrorOf({"--config", "/nowhere/aptad.toml"}), HasSubstr("/nowhere/aptad.toml"));
  EXPECT_THAT(ErrorOf({"--config", "/"}), HasSubstr("/"));
}

TEST(CommandLineTest, FlagsOverrideTheFile) {
  const ConfigFile file(R"(
      socket = "/file.sock"
      shards = 2
      link = "cxl"
      [[pool]]
      name = "from-file"
  )");
  const auto read = Parse({"--config", file.path()})->options;
  EXPECT_EQ(read.socket, "/file.sock");
  EXPECT_EQ(read.shards, 2);
  EXPECT_EQ(read.pools[0].name, "from-file");

  const auto overridden = Parse({"--config", file.path(), "--shards", "3"})->options;
  EXPECT_EQ(overridden.shards, 3);
  EXPECT_EQ(overridden.socket, "/file.sock");
  EXPECT_EQ(overridden.pools[0].name, "from-file");

  const auto replaced = Parse({"--pool", "name=a", "--config", file.path()})->options;
  ASSERT_EQ(replaced.pools.size(), 1u);
  EXPECT_EQ(replaced.pools[0].name, "a");
}

TEST(ParseConfigTest, ReadsEveryKey) {
  const auto options = *ParseConfig(R"(
# comment
socket = "/tmp/s"
shards = 2
threads = "folded"
link = "latency=1us"

[[pool]]
name = "a"
bytes = "4GiB"
backing = "file:/var/lib/a,b"
numa = 1
coherence = "strict"
access = "trusted"
durability = "none"
owner = "alice"
group = "lab"
mode = "0660"

[[pool]]
name = "b"
bytes = 16777216)",
                                    "a.toml");
  EXPECT_EQ(options.socket, "/tmp/s");
  EXPECT_EQ(options.shards, 2);
  EXPECT_EQ(options.threads, "folded");
  EXPECT_EQ(options.link.latency_ns, 1'000u);
  ASSERT_EQ(options.pools.size(), 2u);
  EXPECT_EQ(options.pools[0].backing, "file:/var/lib/a,b");
  EXPECT_EQ(options.pools[0].numa, "1");
  EXPECT_EQ(options.pools[0].mode, 0660u);
  EXPECT_EQ(options.pools[1].bytes, 16777216u);
}

TEST(ParseConfigTest, AnEmptyFileMeansTheDefaults) {
  const auto options = ParseConfig("", "a.toml");
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->pools.size(), 1u);
}

TEST(ParseConfigTest, NamesLineAndKey) {
  EXPECT_THAT(ErrorOfConfig("shards = 1\nshard = 2\n"),
              AllOf(HasSubstr("a.toml:2:"), HasSubstr("'shard'")));
  EXPECT_THAT(ErrorOfConfig("\n[server]\nport = 1\n"),
              AllOf(HasSubstr("a.toml:2:"), HasSubstr("'server'")));
  EXPECT_THAT(ErrorOfConfig("[[pool]]\nname = \"a\"\n\nbite = \"1G\"\nsite = 1\n"),
              AllOf(HasSubstr("a.toml:4:"), HasSubstr("'bite'")));
  EXPECT_THAT(ErrorOfConfig("[[pool]]\nbytes = \"4GB\"\n"),
              AllOf(HasSubstr("a.toml:2:"), HasSubstr("4GB")));
  EXPECT_THAT(ErrorOfConfig("[[pool]]\nbytes = -1\n"), HasSubstr("a.toml:2:"));
  EXPECT_THAT(ErrorOfConfig("[[pool]]\nmode = 640\n"),
              AllOf(HasSubstr("a.toml:2:"), HasSubstr("quotes")));
  EXPECT_THAT(ErrorOfConfig("socket = [\"a\"]\n"), HasSubstr("socket"));
  EXPECT_THAT(ErrorOfConfig("[pool]\nname = \"a\"\n"), HasSubstr("[[pool]]"));
  EXPECT_THAT(ErrorOfConfig("pool = [1]\n"), HasSubstr("[[pool]]"));
  EXPECT_THAT(ErrorOfConfig("shards = 1\nlink = cxl\n"), HasSubstr("a.toml:2:"));
  EXPECT_THAT(ErrorOfConfig("shards = 1\nshards = 1\n"), HasSubstr("a.toml:"));
  EXPECT_THAT(ErrorOfConfig("\x01\n"), HasSubstr("a.toml:1:"));
}

class ValidateTest : public ::testing::Test {
 protected:
  std::string Fault() const { return Validate(options_).ToString(); }
  PoolOptions& pool() { return options_.pools[0]; }

  ServerOptions options_;
};

TEST_F(ValidateTest, AcceptsTheDefaults) { EXPECT_EQ(Fault(), "OK"); }

TEST_F(ValidateTest, NeedsAPool) {
  options_.pools.clear();
  EXPECT_THAT(Fault(), HasSubstr("at least one"));
}

TEST_F(ValidateTest, PoolNamesAreWellFormedAndUnique) {
  const std::string too_long(64, 'a');
  for (const std::string& name :
       {std::string(), std::string("a b"), std::string("a/b"), std::string("ä"), too_long}) {
    pool().name = name;
    EXPECT_THAT(Fault(), HasSubstr("'" + name + "'"));
  }
  pool().name = std::string(63, 'a');
  EXPECT_EQ(Fault(), "OK");
  options_.pools.push_back(pool());
  EXPECT_THAT(Fault(), HasSubstr("two pools"));
}

TEST_F(ValidateTest, PoolSizesAreWithinWhatARegionCanBe) {
  pool().bytes = kMinPoolBytes - 1;
  EXPECT_THAT(Fault(), AllOf(HasSubstr("8388607"), HasSubstr("8.0 MiB"), HasSubstr("because")));
  pool().bytes = kMinPoolBytes;
  EXPECT_EQ(Fault(), "OK");
  pool().bytes = kMaxPoolBytes + 1;
  EXPECT_THAT(Fault(), HasSubstr("too large"));
}

TEST_F(ValidateTest, OnlyWhatThisVersionServes) {
  for (const char* mode : {"lazy", "sync", "versioned", "uncached", "strict"}) {
    pool().coherence = mode;
    EXPECT_EQ(Fault(), "OK") << mode;
  }
  pool().access = "trusted";
  pool().backing = "file:/tmp/region";
  EXPECT_THAT(Fault(), HasSubstr("access=trusted needs backing=memfd or hugetlb"));
  pool().access = "isolated";
  pool().backing = "memfd";
  pool().coherence = "eager";
  EXPECT_THAT(Fault(), HasSubstr("coherence=eager is none of strict, lazy, sync"));
  pool().coherence = "strict";
  pool().ack_deadline_ms = 9;
  EXPECT_THAT(Fault(), HasSubstr("ack_deadline=9ms is not 10ms to"));
  pool().ack_deadline_ms = 10;
  pool().directory_entries = ~std::uint64_t{0};
  EXPECT_THAT(Fault(), HasSubstr("directory_entries="));
  pool().directory_entries = 1;
  pool().durability = "strong";
  EXPECT_THAT(Fault(), HasSubstr("durability=strong is none of none, region, log"));
  pool().durability = "region";
  EXPECT_THAT(Fault(), HasSubstr("durability=region needs backing=file:PATH"));
  pool().durability = "log";
  EXPECT_THAT(Fault(), HasSubstr("needs log=FOLDER"));
  pool().log = "folder";
  pool().log_segment_bytes = 100'000;
  EXPECT_THAT(Fault(), HasSubstr("log_segment=100000 is no multiple of 4.0 KiB"));
  pool().log_segment_bytes = 64 << 10;
  pool().recovery_target_ms = 0;
  EXPECT_THAT(Fault(), HasSubstr("recovery_target=0ms is not"));
  pool().recovery_target_ms = 100;
  EXPECT_EQ(Fault(), "OK");
  pool().backing = "file:x";
  EXPECT_THAT(Fault(), HasSubstr("durability=log keeps the objects in log=FOLDER"));
  pool().durability = "region";
  EXPECT_THAT(Fault(), HasSubstr("log=folder is of durability=log only"));
  pool().log = "";
  EXPECT_EQ(Fault(), "OK");
  pool().backing = "memfd";
  pool().durability = "none";
  options_.threads = "split";
  EXPECT_THAT(Fault(), HasSubstr("folded shards only"));
  options_.threads = "many";
  EXPECT_THAT(Fault(), HasSubstr("threads=many"));
}

TEST_F(ValidateTest, RefusesOtherValuesByName) {
  pool().access = "open";
  EXPECT_THAT(Fault(), HasSubstr("access=open"));
  pool().access = "trusted";
  pool().backing = "disk:/x";
  EXPECT_THAT(Fault(), HasSubstr("backing=disk:/x"));
  pool().backing = "hugetlb";
  for (const char* numa : {"", "nearest", "-1", "1x", "99999999"}) {
    pool().numa = numa;
    EXPECT_THAT(Fault(), HasSubstr(std::string("numa=") + numa));
  }
  pool().numa = "3";
  EXPECT_EQ(Fault(), "OK");
  pool().mode = 01777;
  EXPECT_THAT(Fault(), HasSubstr("mode=01777"));
}

TEST_F(ValidateTest, TwoPoolsNeverShareAPersistentBacking) {
  pool().backing = "shm:heap";
  options_.pools.push_back(pool());
  options_.pools[1].name = "other";
  EXPECT_THAT(Fault(), HasSubstr("backing=shm:heap is another pool's"));
  options_.pools[0].backing = options_.pools[1].backing = "memfd";
  EXPECT_EQ(Fault(), "OK");
}

TEST_F(ValidateTest, ShardsSocketAndLink) {
  for (const int shards : {-1, 0, 17}) {
    options_.shards = shards;
    EXPECT_THAT(Fault(), HasSubstr("shards=" + std::to_string(shards)));
  }
  options_.shards = 16;
  EXPECT_EQ(Fault(), "OK");
  options_.socket = std::string(108, 's');
  EXPECT_THAT(Fault(), HasSubstr("108 bytes"));
  options_.socket = std::string("a\0b", 3);
  EXPECT_THAT(Fault(), HasSubstr("NUL"));
  options_.socket = std::string(107, 's');
  EXPECT_EQ(Fault(), "OK");
  options_.link.bandwidth_gbps = -1;
  EXPECT_THAT(Fault(), HasSubstr("bandwidth=-1"));
  options_.link.bandwidth_gbps = 0;
  options_.link.jitter_ns = 1'000'000'001;
  EXPECT_THAT(Fault(), HasSubstr("jitter=1000000001ns"));
}

}  // namespace
}  // namespace apta::daemon
