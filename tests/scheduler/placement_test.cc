#include "scheduler/placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "scheduler/deadline_heap.h"

namespace apta::scheduler {
namespace {

using fabric::NodeId;
using fabric::TimeNs;

class PlacementTest : public ::testing::Test {
 protected:
  std::optional<Choice> PlaceBy(std::string_view policy, std::uint64_t turn = 0,
                                std::optional<NodeId> last = std::nullopt) {
    return Place(*FindPolicy(policy), {.candidates = all_, .turn = turn, .last_node = last});
  }
  std::vector<Candidate> all_ = [] {
    std::vector<Candidate> all(5, {.idle_workers = 1, .active = 5});
    for (NodeId i = 0; i < 5; ++i) all[i].node = i;
    return all;
  }();
};

TEST_F(PlacementTest, EveryPolicyIsUnderTheCriterionAndCapacity) {
  all_[0].owes_acknowledgement = true;
  all_[1].idle_workers = 0;
  all_[2].running = 1;
  all_[3].stuck = fabric::kMaxStuckThreads;
  for (const std::string_view policy : kPolicyNames) {
    for (std::uint64_t turn = 0; turn < 20; ++turn) EXPECT_EQ(PlaceBy(policy, turn)->index, 4u);
  }
  all_[4].threads = 5;
  for (const std::string_view policy : kPolicyNames) EXPECT_FALSE(PlaceBy(policy).has_value());
  EXPECT_EQ(Judge(all_[0]), Verdict::kOwes);
  EXPECT_EQ(Judge(all_[1]), Verdict::kNoThread);
  EXPECT_EQ(Judge(all_[2]), Verdict::kAtConcurrency);
  EXPECT_EQ(Judge(all_[3]), Verdict::kStuckThreads);
  EXPECT_EQ(Judge(all_[4]), Verdict::kNoThread);
}

TEST_F(PlacementTest, EachPolicyChoosesInItsWay) {
  all_[3].active = 4;
  EXPECT_EQ(PlaceBy("least-loaded")->index, 3u);
  EXPECT_EQ(PlaceBy("criterion+locality")->index, 3u);
  all_[2].predecessors = 1;
  EXPECT_EQ(PlaceBy("criterion+locality")->index, 2u);
  EXPECT_EQ(PlaceBy("round-robin")->index, 0u);
  EXPECT_EQ(PlaceBy("round-robin", 0, 2)->index, 3u);
  EXPECT_EQ(PlaceBy("round-robin", 0, 4)->index, 0u);
  std::set<std::size_t> drawn;
  for (std::uint64_t turn = 0; turn < 100; ++turn) {
    drawn.insert(PlaceBy("random", turn)->index);
    EXPECT_EQ(PlaceBy("random", turn)->index, PlaceBy("random", turn)->index);
  }
  EXPECT_EQ(drawn.size(), 5u);
  EXPECT_EQ(FindPolicy("none"), nullptr);
}

TEST_F(PlacementTest, RandomDrawsForEachFunctionByItself) {
  const Policy& random = *FindPolicy("random");
  int together = 0;
  for (std::uint64_t turn = 0; turn < 1000; ++turn) {
    const auto drawn = [&](std::uint64_t function) {
      return Place(random, {.candidates = all_, .function = function, .turn = turn})->index;
    };
    together += drawn(1) == drawn(2) ? 1 : 0;
  }
  EXPECT_GT(together, 100);  // of 1000, one in five
  EXPECT_LT(together, 300);
}

TEST_F(PlacementTest, WhereAnAttemptHasFailedComesLast) {
  all_[0].active = 0;
  all_[0].has_failed_here = true;
  EXPECT_NE(PlaceBy("least-loaded")->index, 0u);
  for (Candidate& candidate : all_) candidate.has_failed_here = true;
  EXPECT_EQ(PlaceBy("least-loaded")->index, 0u);
}

TEST(DeadlineHeapTest, TheEarliestIsNextWhateverIsSetAndCleared) {
  DeadlineHeap heap;
  std::map<std::uint32_t, TimeNs> model;
  std::uint64_t random = 1;
  for (int i = 0; i < 20'000; ++i) {
    random = random * 6'364'136'223'846'793'005 + 1'442'695'040'888'963'407;
    const auto slot = static_cast<std::uint32_t>(random >> 33 & 127);
    if ((random >> 60) < 9) {
      heap.Set(slot, random >> 50 & 255);
      model[slot] = random >> 50 & 255;
    } else {
      heap.Clear(slot);
      model.erase(slot);
    }
    ASSERT_EQ(heap.empty(), model.empty());
    if (model.empty()) continue;
    const auto least = std::min_element(model.begin(), model.end(), [](auto& a, auto& b) {
      return std::pair(a.second, a.first) < std::pair(b.second, b.first);
    });
    ASSERT_EQ(heap.next_slot(), least->first);
    ASSERT_EQ(heap.next_ns(), least->second);
  }
}

}  // namespace
}  // namespace apta::scheduler
