#include "fabric/copy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace apta::fabric {
namespace {

constexpr std::uint64_t kBytes = 64 << 10;

TEST(CopyTest, PastCachesAnyRangeArrivesAndNothingBesideIt) {
  constexpr std::size_t kRoom = 1024;
  std::vector<std::byte> from(kRoom), to(kRoom);
  for (std::size_t i = 0; i < kRoom; ++i) from[i] = static_cast<std::byte>(i * 7 + 1);
  for (std::size_t to_offset : {0, 1, 15, 63, 64}) {
    for (std::size_t from_offset : {0, 8, 33}) {
      for (std::size_t bytes : {0, 1, 63, 64, 65, 127, 128, 129, 700}) {
        std::ranges::fill(to, std::byte{0});
        CopyPastCaches(to.data() + to_offset, from.data() + from_offset, bytes);
        for (std::size_t i = 0; i < kRoom; ++i) {
          const bool is_inside = i >= to_offset && i < to_offset + bytes;
          const std::byte wanted = is_inside ? from[from_offset + i - to_offset] : std::byte{0};
          ASSERT_EQ(to[i], wanted) << to_offset << " " << from_offset << " " << bytes << " " << i;
        }
      }
    }
  }
}

TEST(CopyTest, ObjectsOfAnySizeArriveInTheirExtent) {
  const std::vector<std::byte> from(4096, std::byte{7});
  for (const std::uint64_t object_bytes : {std::uint64_t{4096}, kPastCachesBytes}) {
    std::vector<std::byte> to(4096);
    CopyToExtent(to.data(), from.data(), from.size(), object_bytes);
    EXPECT_EQ(to, from);
  }
}

// A machine on which each way takes so long.
struct Machine {
  TimeNs through_ns;
  TimeNs past_ns;
};

// How many of `bodies` went past the caches.
int PastOf(HandOverWay* way, const Machine& machine, int bodies, std::uint64_t bytes = kBytes) {
  int past = 0;
  for (int i = 0; i < bodies; ++i) {
    const bool is_past = way->NextIsPastCaches(bytes);
    past += is_past ? 1 : 0;
    way->Took(is_past, bytes, is_past ? machine.past_ns : machine.through_ns);
  }
  return past;
}

TEST(HandOverWayTest, TheFasterWayIsTakenAndTheOtherTriedNowAndThen) {
  HandOverWay way;
  const int past = PastOf(&way, {.through_ns = 30'000, .past_ns = 10'000}, 640);
  EXPECT_GT(past, 600);
  EXPECT_LT(past, 640 - 10);
}

TEST(HandOverWayTest, TheWayChangesWithTheMachine) {
  HandOverWay way;
  PastOf(&way, {.through_ns = 30'000, .past_ns = 10'000}, 100);
  EXPECT_LT(PastOf(&way, {.through_ns = 6'000, .past_ns = 25'000}, 320), 80);
  EXPECT_GT(PastOf(&way, {.through_ns = 30'000, .past_ns = 10'000}, 320), 240);
}

TEST(HandOverWayTest, SizesAreJudgedApart) {
  HandOverWay way;
  constexpr std::uint64_t kLarge = 8 << 20;
  PastOf(&way, {.through_ns = 30'000, .past_ns = 10'000}, 100);
  EXPECT_LT(PastOf(&way, {.through_ns = 2'000'000, .past_ns = 5'000'000}, 320, kLarge), 40);
  EXPECT_GT(PastOf(&way, {.through_ns = 30'000, .past_ns = 10'000}, 320), 300);
}

TEST(HandOverWayTest, AnInterruptedBodyDoesNotDecide) {
  HandOverWay way;
  const Machine machine{.through_ns = 10'000, .past_ns = 20'000};
  PastOf(&way, machine, 100);
  way.Took(false, kBytes, 50'000'000);
  EXPECT_LE(PastOf(&way, machine, 64), 4);
}

TEST(HandOverWayTest, NoTimeIsTooShortOrTooLong) {
  HandOverWay way;
  way.Took(false, HandOverWay::kLeastBytes, 0);
  way.Took(true, std::uint64_t{1} << 40, ~TimeNs{0} / 1000);
  EXPECT_LE(PastOf(&way, {.through_ns = 10'000, .past_ns = 20'000}, 64), 4);
}

}  // namespace
}  // namespace apta::fabric
