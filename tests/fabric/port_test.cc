#include "fabric/port.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <utility>
#include <vector>

namespace apta::fabric {
namespace {

UniqueFd CopyOf(const Port& port) { return UniqueFd(fcntl(port.fd(), F_DUPFD_CLOEXEC, 0)); }

TEST(PortTest, BothSidesSeeOneMemory) {
  for (const int shards : {1, 3, kMaxShards}) {
    auto server = Port::Create(7, shards);
    ASSERT_TRUE(server.ok()) << server.status();
    auto node = Port::Map(CopyOf(*server), shards);
    ASSERT_TRUE(node.ok()) << node.status();
    for (int shard = 0; shard < shards; ++shard) {
      const auto number = static_cast<std::uint64_t>(shard);
      server->invalidations(shard)->issued.store(number + 1);
      node->submissions(shard)->slot[5].sequence.store(static_cast<std::uint32_t>(number) + 100);
    }
    for (int shard = 0; shard < shards; ++shard) {
      const auto number = static_cast<std::uint64_t>(shard);
      EXPECT_EQ(node->invalidations(shard)->issued.load(), number + 1);
      EXPECT_EQ(server->submissions(shard)->slot[5].sequence.load(), number + 100);
    }
    node->holds()->extent_offset[HoldTable::kSlots - 1].store(640);
    EXPECT_EQ(server->holds()->extent_offset[HoldTable::kSlots - 1].load(), 640u);
    server->lane(kLanes - 1)->done_id.store(9);
    EXPECT_EQ(node->lane(kLanes - 1)->done_id.load(), 9u);
  }
}

TEST(PortTest, ItsPartsDoNotOverlapAndFillIt) {
  constexpr int kShards = 2;
  auto port = Port::Create(0, kShards);
  ASSERT_TRUE(port.ok());
  std::vector<std::pair<const std::byte*, std::size_t>> parts;
  const auto add = [&](const void* at, std::size_t bytes) {
    parts.emplace_back(static_cast<const std::byte*>(at), bytes);
  };
  for (int shard = 0; shard < kShards; ++shard) {
    add(port->submissions(shard), sizeof(SubmissionRing<>));
    add(port->invalidations(shard), sizeof(InvalidationRing<>));
  }
  add(port->holds(), sizeof(HoldTable));
  for (int lane = 0; lane < kLanes; ++lane) add(port->lane(lane), sizeof(Lane));
  for (int lane = 0; lane < kLanes; ++lane) add(port->staging(lane), kStagingBytes);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto& [at, bytes] = parts[i];
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(at) % kCacheLineBytes, 0u);
    if (i > 0) EXPECT_GE(at, parts[i - 1].first + parts[i - 1].second) << "part " << i;
  }
  const auto& [last, last_bytes] = parts.back();
  const std::byte* begin = reinterpret_cast<const std::byte*>(port->submissions(0)) - kPageBytes;
  EXPECT_EQ(last + last_bytes, begin + Port::BytesFor(kShards));
}

TEST(PortTest, ANodeCannotChangeItsSize) {
  auto port = Port::Create(0, 1);
  ASSERT_TRUE(port.ok());
  const UniqueFd fd = CopyOf(*port);
  EXPECT_NE(ftruncate(fd.get(), 4096), 0);
  EXPECT_NE(ftruncate(fd.get(), static_cast<off_t>(Port::BytesFor(1) * 2)), 0);
  EXPECT_NE(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
}

TEST(PortTest, ForeignLayoutsAreRefused) {
  auto port = Port::Create(0, 2);
  ASSERT_TRUE(port.ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Port::Map(CopyOf(*port), 1).status()));
  EXPECT_FALSE(Port::Map(UniqueFd(), 2).ok());
  auto* header = reinterpret_cast<PortHeader*>(reinterpret_cast<std::byte*>(port->submissions(0)) -
                                               kPageBytes);
  EXPECT_EQ(header->shards, 2u);
  header->layout_version += 1;
  EXPECT_TRUE(absl::IsFailedPrecondition(Port::Map(CopyOf(*port), 2).status()));
  header->layout_version -= 1;
  header->magic ^= 1;
  EXPECT_TRUE(absl::IsFailedPrecondition(Port::Map(CopyOf(*port), 2).status()));
}

TEST(PortTest, ARetiredPortIsPrivateMemory) {
  auto server = Port::Create(0, 1);
  ASSERT_TRUE(server.ok());
  auto node = Port::Map(CopyOf(*server), 1);
  ASSERT_TRUE(node.ok());
  server->lane(0)->done_id.store(5);
  node->Retire();
  EXPECT_EQ(node->lane(0)->done_id.load(), 0u);
  node->lane(0)->done_id.store(6);
  EXPECT_EQ(server->lane(0)->done_id.load(), 5u);
}

TEST(PortTest, MovingHandsTheMappingOver) {
  auto made = Port::Create(0, 1);
  ASSERT_TRUE(made.ok());
  made->lane(0)->done_id.store(5);
  Port port = *std::move(made);
  Port other;
  other = std::move(port);
  EXPECT_EQ(other.lane(0)->done_id.load(), 5u);
  EXPECT_TRUE(other.TakeFd().valid());
}

}  // namespace
}  // namespace apta::fabric
