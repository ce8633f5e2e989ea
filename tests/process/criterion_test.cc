// What the scheduling correctness criterion is good for: in mode lazy, functions see every put that
// was acknowledged before they were called; with a memory server built without the criterion, they
// do not.

#include <gtest/gtest.h>

#include "tests/process/aptad.h"
#include "tests/process/host.h"

namespace apta {
namespace {

using test::Aptad;
using test::ConnectTo;
using test::Eventually;
using test::NodesWith;

// Of `rounds` invocations that read what was put just before they were called, how many read
// something older.
int CountStale(const std::string& program, const std::string& flags, bool declares, int rounds) {
  const test::Folder folder;
  const std::string socket = folder / "s";
  const Aptad aptad({"--socket", socket, "--shards", "2", "--pool", "coherence=lazy,bytes=64MiB",
                     "--link", flags},
                    program);
  Client client = ConnectTo(socket, "caller");
  test::RunningHost host(ConnectTo(socket, "host"), 1);
  host.Register("read", [](Invocation& invocation) -> absl::StatusOr<Bytes> {
    const absl::StatusOr<Object> object = invocation.Get(AsText(invocation.input()));
    if (!object.ok()) return object.status();
    return Bytes(object->bytes().begin(), object->bytes().end());
  });
  host.Run();
  EXPECT_TRUE(Eventually([&] { return NodesWith(client, "read") == 1; }));
  int stale = 0;
  for (int i = 0; i < rounds; ++i) {
    const std::string key = "key-" + std::to_string(i % 5);  // of either shard
    const std::string value = std::to_string(i);
    EXPECT_TRUE(client.Put(key, AsBytes(value)).ok());
    CallOptions options;
    if (declares) options.reads = {key};
    const absl::StatusOr<Bytes> read = client.Call("read", AsBytes(key), options);
    EXPECT_TRUE(read.ok()) << read.status();
    if (!read.ok()) break;
    stale += AsText(*read) != value;
  }
  return stale;
}

class CriterionTest : public ::testing::TestWithParam<std::pair<const char*, bool>> {};

TEST_P(CriterionTest, FunctionsSeeWhatWasPutBeforeTheirCall) {
  const auto& [link, declares] = GetParam();
  EXPECT_EQ(CountStale(APTAD_PATH, link, declares, test::Scaled(1000)), 0);
}

TEST_P(CriterionTest, WithoutTheCriterionTheyDoNot) {
  const auto& [link, declares] = GetParam();
  const int stale = CountStale(APTAD_WITHOUT_CRITERION_PATH, link, declares, 1000);
  EXPECT_GT(stale, 0);
  RecordProperty("stale_of_1000", stale);
}

INSTANTIATE_TEST_SUITE_P(LinksAndDeclarations, CriterionTest,
                         ::testing::Values(std::pair("none", false), std::pair("none", true),
                                           std::pair("latency=20us,jitter=20us", false),
                                           std::pair("latency=20us,jitter=20us", true)));

}  // namespace
}  // namespace apta
