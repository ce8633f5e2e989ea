// What a process has of segments, counted.

#include "shim/segments.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

namespace apta::shim {
namespace {

class SegmentsTest : public ::testing::Test {
 protected:
  Range RangeOf(std::uintptr_t begin, std::uintptr_t end, bool writes = true) {
    return {.begin = begin, .end = end, .use = {.segment = segment_, .writes = writes}};
  }

  std::unique_ptr<Segments> segments_ = std::make_unique<Segments>();
  SegmentId segment_ = segments_->NewSegment();
};

TEST_F(SegmentsTest, ADescriptorIsKnownUntilItIsRemoved) {
  EXPECT_FALSE(segments_->Knows(3));
  EXPECT_FALSE(segments_->Knows(-1));
  EXPECT_FALSE(segments_->Knows(Segments::kMaxFds));
  segments_->AddFd(3, {.segment = segment_, .writes = true});
  EXPECT_TRUE(segments_->Knows(3));
  EXPECT_FALSE(segments_->Knows(4));
  const auto left = segments_->RemoveFd(3);
  ASSERT_TRUE(left.has_value());
  EXPECT_TRUE(left->last_use && left->last_writer);
  EXPECT_FALSE(segments_->Knows(3));
  EXPECT_EQ(segments_->RemoveFd(3), std::nullopt);
}

TEST_F(SegmentsTest, AMappingOutlivesItsDescriptorAsAWriter) {
  segments_->AddFd(3, {.segment = segment_, .writes = true});
  segments_->AddRange(RangeOf(0x1000, 0x3000));
  const auto left = segments_->RemoveFd(3);
  EXPECT_FALSE(left->last_use || left->last_writer);
  const auto rest = segments_->RemoveRanges(0x1000, 0x3000);
  ASSERT_EQ(rest.size(), 1u);
  EXPECT_TRUE(rest[0].last_use && rest[0].last_writer);
}

TEST_F(SegmentsTest, AReaderThatStaysIsNoWriter) {
  segments_->AddFd(3, {.segment = segment_, .writes = true});
  segments_->AddRange(RangeOf(0x1000, 0x2000, false));
  const auto left = segments_->RemoveFd(3);
  EXPECT_TRUE(left->last_writer);
  EXPECT_FALSE(left->last_use);
  EXPECT_FALSE(segments_->IsWritten(segment_));
  EXPECT_TRUE(segments_->IsUsed(segment_));
}

TEST_F(SegmentsTest, ARangeThatIsCutOutOfTheMiddleLeavesTwoWithTheirOffsets) {
  segments_->AddRange(RangeOf(0x1000, 0x5000));
  const auto left = segments_->RemoveRanges(0x2000, 0x3000);
  ASSERT_EQ(left.size(), 1u);
  EXPECT_FALSE(left[0].last_use);
  const auto ranges = segments_->RangesIn(0, 0x10000);
  ASSERT_EQ(ranges.size(), 2u);
  EXPECT_EQ(ranges[0].end, 0x2000u);
  EXPECT_EQ(ranges[1].begin, 0x3000u);
  EXPECT_EQ(ranges[1].file_offset, 0x2000u);
  EXPECT_EQ(segments_->RemoveRanges(0, 0x10000).back().last_use, true);
}

TEST_F(SegmentsTest, OnlyWhatLiesBetweenTheBoundsMayBeCovered) {
  EXPECT_FALSE(segments_->MayCover(0, UINTPTR_MAX));
  segments_->AddRange(RangeOf(0x2000, 0x3000));
  EXPECT_TRUE(segments_->MayCover(0x1000, 0x2001));
  EXPECT_FALSE(segments_->MayCover(0x1000, 0x2000));
  EXPECT_FALSE(segments_->MayCover(0x3000, 0x4000));
  segments_->RemoveRanges(0x2000, 0x3000);
  EXPECT_FALSE(segments_->MayCover(0x1000, 0x4000));
}

TEST_F(SegmentsTest, ClearTellsWhoWrote) {
  const SegmentId reader = segments_->NewSegment();
  segments_->AddFd(3, {.segment = segment_, .writes = true});
  segments_->AddFd(4, {.segment = reader});
  const auto left = segments_->Clear();
  ASSERT_EQ(left.size(), 2u);
  EXPECT_TRUE(left[0].last_writer);
  EXPECT_FALSE(left[1].last_writer);
  EXPECT_FALSE(segments_->Knows(3) || segments_->Knows(4));
}

}  // namespace
}  // namespace apta::shim
