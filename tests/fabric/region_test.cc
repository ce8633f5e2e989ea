#include "fabric/region.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "fabric/extent.h"
#include "fabric/numa.h"
#include "fmt/format.h"

namespace apta::fabric {
namespace {

namespace fs = std::filesystem;

class RegionTest : public ::testing::Test {
 protected:
  RegionTest() {
    std::string name = ::testing::TempDir() + "/region-XXXXXX";
    folder_ = mkdtemp(name.data());
  }
  ~RegionTest() override { fs::remove_all(folder_); }

  static absl::StatusOr<Region> Open(const std::string& backing, std::uint64_t bytes = 8 << 20) {
    const absl::StatusOr<Backing> parsed = Backing::Parse(backing);
    if (!parsed.ok()) return parsed.status();
    return Region::Open({.backing = *parsed, .bytes = bytes});
  }
  std::string File() const { return "file:" + (folder_ / "region").string(); }

  fs::path folder_;
};

TEST_F(RegionTest, BackingsAreReadAsTheyAreWritten) {
  for (const char* good : {"memfd", "hugetlb", "shm:a-name", "file:/a/path", "file:relative"}) {
    const auto backing = Backing::Parse(good);
    ASSERT_TRUE(backing.ok()) << backing.status();
    EXPECT_EQ(backing->ToString(), good);
  }
  for (const char* bad : {"", "memfd:x", "shm:", "shm:a/b", "shm:..", "file:", "dax:/dev/dax0.0"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Backing::Parse(bad).status())) << bad;
  }
}

TEST_F(RegionTest, AClientSeesWhatTheMemoryServerWrites) {
  for (const std::string& backing : {std::string("memfd"), File()}) {
    const auto region = Open(backing, 5 << 20);
    ASSERT_TRUE(region.ok()) << region.status();
    EXPECT_EQ(region->size_bytes(), 6u << 20);  // whole 2 MiB
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(region->data()) % kHugePageBytes, 0u);
    std::strcpy(reinterpret_cast<char*>(region->data()) + 5000, "hello");
    const auto client = Region::Map(*region->client_fd(), region->size_bytes(), false);
    ASSERT_TRUE(client.ok()) << client.status();
    EXPECT_STREQ(reinterpret_cast<char*>(client->data()) + 5000, "hello");
    EXPECT_TRUE(absl::IsPermissionDenied(
        Region::Map(*region->client_fd(), region->size_bytes(), true).status()));
    EXPECT_FALSE(Region::Map(*region->client_fd(), region->size_bytes() * 2, false).ok());
  }
}

TEST_F(RegionTest, ATrustedRegionCanBeWrittenByItsClients) {
  const auto region = Region::Open({.bytes = 2 << 20, .clients_write = true});
  ASSERT_TRUE(region.ok());
  const auto client = Region::Map(*region->client_fd(), region->size_bytes(), true);
  ASSERT_TRUE(client.ok()) << client.status();
  client->data()[77] = std::byte{7};
  EXPECT_EQ(region->data()[77], std::byte{7});
}

TEST_F(RegionTest, WhatIsLargerThanItsMemoryIsRefusedAndLeavesNothing) {
  for (const std::string& backing :
       {std::string("memfd"), File(), std::string("shm:apta-test-large")}) {
    const auto region = Open(backing, std::uint64_t{1} << 50);
    EXPECT_TRUE(absl::IsResourceExhausted(region.status())) << region.status();
  }
  EXPECT_TRUE(fs::is_empty(folder_));
  EXPECT_FALSE(fs::exists("/dev/shm/apta-test-large"));
}

TEST_F(RegionTest, AFileHasOneMemoryServerAtATimeAndKeepsItsContents) {
  {
    const auto region = Open(File());
    ASSERT_TRUE(region.ok()) << region.status();
    EXPECT_FALSE(region->existed());
    region->data()[12345] = std::byte{42};
    EXPECT_TRUE(absl::IsFailedPrecondition(Open(File()).status()));
  }
  const auto again = Open(File(), 100 << 20);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->existed());
  EXPECT_EQ(again->size_bytes(), 8u << 20);  // the file says how large it is
  EXPECT_EQ(again->data()[12345], std::byte{42});
}

TEST_F(RegionTest, ATruncatedFileIsRefused) {
  { ASSERT_TRUE(Open(File()).ok()); }
  fs::resize_file(folder_ / "region", (4 << 20) + 4096);
  EXPECT_TRUE(absl::IsDataLoss(Open(File()).status()));
}

TEST_F(RegionTest, PopulationReachesTheEndAndChangesNothing) {
  auto region = Open("memfd", 64 << 20);
  ASSERT_TRUE(region.ok());
  region->data()[1 << 20] = std::byte{1};
  region->PopulateInBackground();
  region->data()[50 << 20] = std::byte{2};
  region->WaitUntilPopulated();
  EXPECT_EQ(region->populated_bytes(), region->size_bytes());
  EXPECT_EQ(region->data()[1 << 20], std::byte{1});
  EXPECT_EQ(region->data()[50 << 20], std::byte{2});
  EXPECT_EQ(region->SampleNumaNodes().size(), 1u);
  std::ifstream setting("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
  std::string allowed;
  std::getline(setting, allowed);
  const bool huge = allowed.find("[advise]") != std::string::npos ||
                    allowed.find("[always]") != std::string::npos;
  if (huge) EXPECT_EQ(region->SamplePageBytes(), kHugePageBytes);
}

TEST_F(RegionTest, DroppingARegionStopsItsPopulation) {
  auto region = Open("memfd", 256 << 20);
  ASSERT_TRUE(region.ok());
  region->PopulateInBackground();
  // Ends here, in the middle.
}

TEST_F(RegionTest, HugetlbNamesTheCommandWhenPagesAreMissing) {
  const auto region = Open("hugetlb", std::uint64_t{1} << 45);
  ASSERT_TRUE(absl::IsResourceExhausted(region.status())) << region.status();
  EXPECT_NE(region.status().ToString().find("vm.nr_hugepages"), std::string::npos);
}

// A machine's memory nodes as sysfs shows them.
class NumaTest : public RegionTest {
 protected:
  void Write(const std::string& path, const std::string& text) {
    fs::create_directories((folder_ / path).parent_path());
    std::ofstream(folder_ / path) << text << "\n";
  }
};

TEST_F(NumaTest, FarNodesAreThoseWithoutCpusNearestFirst) {
  Write("online", "0-3");
  Write("has_memory", "0,2-3");
  Write("node0/cpulist", "0-7");
  Write("node0/distance", "10 12 28 24");
  Write("node2/cpulist", "");
  Write("node3/cpulist", "");
  std::vector<FarNode> far = RankFarNodes(folder_, 0);
  ASSERT_EQ(far.size(), 2u);
  EXPECT_EQ(far[0].node, 3);
  EXPECT_EQ(far[0].distance, 24);
  // The HMAT knows better.
  Write("node2/access0/initiators/read_latency", "250");
  Write("node3/access0/initiators/read_latency", "400");
  far = RankFarNodes(folder_, 0);
  EXPECT_EQ(far[0].node, 2);
  EXPECT_EQ(far[0].read_latency_ns, 250u);
}

TEST_F(NumaTest, ListsOfNodes) {
  EXPECT_EQ(ParseNodeList("0-2,5"), (std::vector<int>{0, 1, 2, 5}));
  EXPECT_TRUE(ParseNodeList("").empty());
  EXPECT_TRUE(ParseNodeList("x-y,7-3").empty());
  EXPECT_TRUE(absl::IsInvalidArgument(ResolveNumaNode("-3").status()));
  EXPECT_TRUE(absl::IsNotFound(ResolveNumaNode("4000").status()));
  EXPECT_EQ(*ResolveNumaNode("any"), -1);
}

}  // namespace
}  // namespace apta::fabric
