// The `apta` command line as far as it needs no memory server: usage, tables, files.
#include "tools/apta/arguments.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "tools/apta/file_io.h"
#include "tools/apta/output.h"
#include "tools/apta/progress.h"

namespace apta::tool {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

absl::StatusOr<Arguments> Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "apta");
  return ParseArguments(static_cast<int>(arguments.size()), arguments.data());
}

std::string ErrorOf(std::vector<const char*> arguments) {
  const auto parsed = Parse(std::move(arguments));
  const std::string error = parsed.ok() ? "OK" : parsed.status().ToString();
  EXPECT_THAT(error, AllOf(HasSubstr("INVALID_ARGUMENT"), Not(HasSubstr("\n"))));
  return error;
}

TEST(ArgumentsTest, ReadsEveryVerb) {
  const auto put = *Parse({"--socket", "/s", "put", "k", "f"});
  EXPECT_EQ(put.verb, Verb::kPut);
  EXPECT_EQ(put.client.socket, "/s");
  EXPECT_EQ(put.client.pool, "default");
  EXPECT_EQ(put.key, "k");
  EXPECT_EQ(put.file, "f");
  EXPECT_EQ(Parse({"put", "k"})->file, "-");
  EXPECT_EQ(Parse({"put", "k", "-"})->file, "-");

  const auto get = *Parse({"get", "-o", "f", "k", "--pool", "far"});
  EXPECT_EQ(get.verb, Verb::kGet);
  EXPECT_EQ(get.file, "f");
  EXPECT_EQ(get.key, "k");
  EXPECT_EQ(get.client.pool, "far");

  const auto list = *Parse({"ls", "a/", "-l", "--json"});
  EXPECT_EQ(list.verb, Verb::kList);
  EXPECT_EQ(list.prefix, "a/");
  EXPECT_TRUE(list.details && list.json);
  EXPECT_EQ(Parse({"ls"})->prefix, "");

  EXPECT_EQ(Parse({"stat"})->key, std::nullopt);
  EXPECT_EQ(Parse({"stat", "k"})->key, "k");
  EXPECT_EQ(Parse({"nodes"})->verb, Verb::kNodes);
  EXPECT_EQ(Parse({"pools", "--json"})->verb, Verb::kPools);
  EXPECT_EQ(Parse({"doctor", "--root", "/copy"})->root, "/copy");
  EXPECT_EQ(Parse({"fsck", "folder"})->file, "folder");
  EXPECT_EQ(Parse({"dump", "pool", "file"})->client.pool, "pool");
  EXPECT_EQ(Parse({"dump", "pool", "file"})->file, "file");
  EXPECT_EQ(Parse({"restore", "file", "pool"})->client.pool, "pool");
  EXPECT_EQ(Parse({"restore", "file", "pool"})->file, "file");

  const auto call = *Parse(
      {"--timeout", "1m", "call", "f", "x y", "--reads", "a", "--reads", "b", "--deadline=90s"});
  EXPECT_EQ(call.verb, Verb::kCall);
  EXPECT_EQ(call.function, "f");
  EXPECT_EQ(call.input, "x y");
  EXPECT_THAT(call.call.reads, ElementsAre("a", "b"));
  EXPECT_EQ(call.call.deadline, absl::Seconds(90));
  EXPECT_EQ(call.client.timeout, absl::Minutes(1));
}

TEST(ArgumentsTest, AKeyIsTakenAsItStands) {
  const auto remove =
      *Parse({"rm", "a", "[b,c]", "{}", "rm", "ls", "ä", "a b", "", "--", "-d", "--json", "--"});
  EXPECT_EQ(remove.verb, Verb::kRemove);
  EXPECT_THAT(remove.keys,
              ElementsAre("a", "[b,c]", "{}", "rm", "ls", "ä", "a b", "", "-d", "--json", "--"));
  EXPECT_EQ(Parse({"get", "[a,b]"})->key, "[a,b]");
  EXPECT_EQ(Parse({"get", "\x01[a]"})->key, "\x01[a]");
  EXPECT_EQ(Parse({"get", "put"})->key, "put");
  EXPECT_EQ(Parse({"get", "--", "-k"})->key, "-k");
  EXPECT_EQ(Parse({"stat", ""})->key, "");
  EXPECT_EQ(Parse({"put", "", "f"})->key, "");
  EXPECT_EQ(Parse({"call", "f", "[1,2]"})->input, "[1,2]");
  EXPECT_EQ(Parse({"call", "f", "--reads", "[a,b]"})->call.reads.at(0), "[a,b]");
}

TEST(ArgumentsTest, NamesWhatIsWrong) {
  EXPECT_THAT(ErrorOf({}), HasSubstr("no command"));
  EXPECT_THAT(ErrorOf({"push", "k"}), HasSubstr("push"));
  EXPECT_THAT(ErrorOf({"put"}), HasSubstr("KEY"));
  EXPECT_THAT(ErrorOf({"rm"}), HasSubstr("KEY"));
  EXPECT_THAT(ErrorOf({"put", "a", "b", "c"}), HasSubstr("c"));
  EXPECT_THAT(ErrorOf({"get", "k", "--json"}), HasSubstr("--json"));
  EXPECT_THAT(ErrorOf({"rm", "k", "--all"}), HasSubstr("--all"));
  EXPECT_THAT(ErrorOf({"nodes", "x"}), HasSubstr("x"));
  EXPECT_THAT(ErrorOf({"call", "f", "--deadline", "soon"}), HasSubstr("--deadline: 'soon'"));
  EXPECT_THAT(ErrorOf({"ls", "--timeout", "-1s"}), HasSubstr("--timeout"));
}

TEST(ArgumentsTest, HelpOfTheWholeAndOfAVerb) {
  const std::string help = Parse({"--help"})->answer;
  for (const char* word : {"put", "get", "ls", "rm", "stat", "nodes", "pools", "call", "doctor",
                           "--socket", "--pool", "Exit codes"}) {
    EXPECT_THAT(help, HasSubstr(word));
  }
  EXPECT_THAT(Parse({"get", "--help"})->answer, AllOf(HasSubstr("KEY"), HasSubstr("--output")));
  EXPECT_THAT(Parse({"--version"})->answer, HasSubstr("apta "));
}

TEST(TableTest, AlignsColumnsByCharactersAndLeavesNoBlanksAtTheEnd) {
  Table table({">SIZE", "NAME", "KEY"});
  table.Add({"1", "ä", "a"});
  table.Add({"10000", "bcdef", ""});
  EXPECT_EQ(table.Render(),
            " SIZE  NAME   KEY\n"
            "    1  ä      a\n"
            "10000  bcdef  \n");
}

TEST(PrintableTest, NothingReachesTheTerminalThatCouldDriveIt) {
  EXPECT_EQ(Printable("a\x1b[2J\n\x7f"
                      "ä"),
            "a\\x1b[2J\\x0a\\x7fä");
}

TEST(ProgressTest, ShowsShareAndTimeWithinALine) {
  EXPECT_EQ(RenderProgress("reading", 512, 1024, absl::Seconds(3)),
            "reading      [##########..........]  50 %  512 B of 1.0 KiB  3 s");
  EXPECT_EQ(RenderProgress("reading", 2048, 0, absl::Seconds(3)), "reading      2.0 KiB  3 s");
  EXPECT_EQ(RenderProgress("running", 0, 0, absl::Seconds(3)), "running      3 s");
  EXPECT_LE(RenderProgress("a very long phase", ~0ull, ~0ull - 1, absl::Hours(99)).size(), 79u);
}

class FileTest : public ::testing::Test {
 protected:
  FileTest() {
    std::string name = ::testing::TempDir() + "/files-XXXXXX";
    folder_ = mkdtemp(name.data());
  }
  ~FileTest() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  static std::string Contents(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  std::ptrdiff_t FileCount() const {
    return std::distance(std::filesystem::directory_iterator(folder_), {});
  }

  std::string folder_;
};

TEST_F(FileTest, AReplacementAppearsWholeAndKeepsTheMode) {
  std::ofstream(Path("f")) << "old";
  ASSERT_EQ(chmod(Path("f").c_str(), 0640), 0);
  auto file = *FileReplacement::Create(Path("f"));
  ASSERT_TRUE(Output(file.fd()).Write("new").ok());
  EXPECT_EQ(Contents(Path("f")), "old");
  ASSERT_TRUE(file.Commit().ok());
  EXPECT_EQ(Contents(Path("f")), "new");
  struct stat status {};
  ASSERT_EQ(stat(Path("f").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
  EXPECT_EQ(FileCount(), 1);
}

TEST_F(FileTest, ADroppedReplacementLeavesNothing) {
  std::ofstream(Path("f")) << "old";
  {
    auto file = *FileReplacement::Create(Path("f"));
    ASSERT_TRUE(Output(file.fd()).Write("new").ok());
  }
  EXPECT_EQ(Contents(Path("f")), "old");
  EXPECT_EQ(FileCount(), 1);
}

TEST_F(FileTest, ALinkIsWrittenThrough) {
  std::ofstream(Path("f")) << "old";
  std::filesystem::create_symlink("f", Path("link"));
  auto file = *FileReplacement::Create(Path("link"));
  ASSERT_TRUE(Output(file.fd()).Write("new").ok());
  ASSERT_TRUE(file.Commit().ok());
  EXPECT_TRUE(std::filesystem::is_symlink(Path("link")));
  EXPECT_EQ(Contents(Path("f")), "new");
}

TEST_F(FileTest, ADeviceIsNeverReplaced) {
  std::filesystem::create_symlink("/dev/null", Path("null"));
  auto file = *FileReplacement::Create(Path("null"));
  ASSERT_TRUE(Output(file.fd()).Write("new").ok());
  ASSERT_TRUE(file.Commit().ok());
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
  EXPECT_EQ(FileCount(), 1);
}

TEST_F(FileTest, SourcesKnowTheSizeOfRegularFilesOnly) {
  std::ofstream(Path("f")) << "text";
  EXPECT_EQ(Source::Open(Path("f"))->size_bytes(), 4u);
  EXPECT_EQ(Source::Open("/proc/self/status")->size_bytes(), std::nullopt);
  EXPECT_EQ(Source::Open("/dev/null")->size_bytes(), std::nullopt);
  EXPECT_THAT(Source::Open(Path("none")).status().ToString(),
              AllOf(HasSubstr("NOT_FOUND"), HasSubstr(Path("none"))));
  EXPECT_THAT(Source::Open(folder_).status().ToString(), HasSubstr("is a directory"));
}

TEST(OutputTest, TellsAReaderThatLeftFromADiskThatIsFull) {
  Output full(open("/dev/full", O_WRONLY | O_CLOEXEC));
  EXPECT_FALSE(full.Write("x").ok());
  EXPECT_FALSE(full.reader_gone());

  signal(SIGPIPE, SIG_IGN);
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  close(ends[0]);
  Output left(ends[1]);
  EXPECT_FALSE(left.Write("x").ok());
  EXPECT_TRUE(left.reader_gone());
  close(ends[1]);
}

}  // namespace
}  // namespace apta::tool
