#include "compute/pins.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace apta::compute {
namespace {

class PinsTest : public ::testing::Test {
 protected:
  PinsTest() { WasWoken(); }  // a domain that was used before may have been woken last
  ~PinsTest() override { PinDomain::Return(domain_); }

  PinSlot* Pin(std::uint64_t extent) { return domain_->ThreadTable()->Pin(extent); }
  // Whether the domain was woken since the last look.
  bool WasWoken() {
    std::uint64_t count;
    return read(domain_->wake_fd(), &count, sizeof(count)) == sizeof(count);
  }

  PinDomain* domain_ = PinDomain::Acquire();
};

TEST_F(PinsTest, AnExtentIsPinnedUntilItsLastPinIsDropped) {
  EXPECT_FALSE(domain_->AnythingPinned());
  PinSlot* first = Pin(4096);
  PinSlot* second = Pin(4096);
  EXPECT_EQ(first->extent(), 4096u);
  EXPECT_TRUE(first->TryShare());
  for (PinSlot* pin : {first, first, second}) {
    EXPECT_TRUE(domain_->WatchIfPinned(4096));
    pin->Drop();
  }
  EXPECT_FALSE(domain_->WatchIfPinned(4096));
  EXPECT_FALSE(domain_->AnythingPinned());
}

TEST_F(PinsTest, OnlyTheLastDropOfAWatchedExtentWakes) {
  Pin(4096)->Drop();
  EXPECT_FALSE(WasWoken());
  PinSlot* pin = Pin(4096);
  EXPECT_TRUE(pin->TryShare());
  EXPECT_TRUE(domain_->WatchIfPinned(4096));
  EXPECT_FALSE(domain_->WatchIfPinned(8192));
  pin->Drop();
  EXPECT_FALSE(WasWoken());
  pin->Drop();
  EXPECT_TRUE(WasWoken());
  Pin(4096)->Drop();  // a fresh pin is not watched
  EXPECT_FALSE(WasWoken());
}

TEST_F(PinsTest, ATableGrowsWithWhatIsPinnedAtOnce) {
  constexpr std::uint64_t kPins = 5000;
  std::vector<PinSlot*> pins;
  for (std::uint64_t i = 1; i <= kPins; ++i) pins.push_back(Pin(i * 64));
  for (std::uint64_t i = 1; i <= kPins; ++i) {
    ASSERT_EQ(pins[i - 1]->extent(), i * 64);
    ASSERT_TRUE(domain_->WatchIfPinned(i * 64));
  }
  EXPECT_FALSE(domain_->WatchIfPinned((kPins + 1) * 64));
  EXPECT_EQ(domain_->WatchAll().size(), kPins);
  for (std::uint64_t i = 1; i <= kPins; i += 2) pins[i - 1]->Drop();
  std::vector<std::uint64_t> left = domain_->WatchAll();
  std::sort(left.begin(), left.end());
  ASSERT_EQ(left.size(), kPins / 2);
  for (std::uint64_t i = 0; i < left.size(); ++i) ASSERT_EQ(left[i], (2 * i + 2) * 64);
  for (std::uint64_t i = 2; i <= kPins; i += 2) pins[i - 1]->Drop();
  EXPECT_FALSE(domain_->AnythingPinned());
}

TEST_F(PinsTest, TheLargestExtentOffsetOfARegionFits) {
  const std::uint64_t extent = ((std::uint64_t{1} << 43) - 1) * 64;  // 512 TiB
  PinSlot* pin = Pin(extent);
  EXPECT_EQ(pin->extent(), extent);
  EXPECT_TRUE(domain_->WatchIfPinned(extent));
  EXPECT_EQ(pin->extent(), extent);
  pin->Drop();
}

TEST_F(PinsTest, ASlotThatIsFullOfReferencesSharesNoMore) {
  PinSlot* pin = Pin(4096);
  std::uint64_t references = 1;
  while (pin->TryShare()) ++references;
  EXPECT_GT(references, 100'000u);
  EXPECT_LE(references, PinSlot::kReferences);
  PinSlot* another = pin->PinAgain();
  EXPECT_NE(another, pin);
  for (; references > 0; --references) pin->Drop();
  EXPECT_TRUE(domain_->WatchIfPinned(4096));  // by the other
  another->Drop();
  EXPECT_FALSE(domain_->WatchIfPinned(4096));
}

TEST_F(PinsTest, PinsOfAThreadThatHasEndedStandAndItsTableIsAdopted) {
  PinSlot* pin = nullptr;
  PinTable* table = nullptr;
  std::thread([&] {
    table = domain_->ThreadTable();
    pin = Pin(4096);
  }).join();
  EXPECT_TRUE(domain_->WatchIfPinned(4096));
  PinTable* adopted = nullptr;
  std::thread([&] {
    adopted = domain_->ThreadTable();
    EXPECT_NE(Pin(8192), pin);
  }).join();
  EXPECT_EQ(adopted, table);
  pin->Drop();
  EXPECT_TRUE(WasWoken());
  EXPECT_EQ(domain_->WatchAll(), std::vector<std::uint64_t>{8192});
  std::thread([&] { Pin(8192); }).join();
  // Both references stand in one slot of the adopted table.
  domain_->ForEachPinned([](std::uint64_t extent) { EXPECT_EQ(extent, 8192u); });
  PinSlot* again = nullptr;
  std::thread([&] { again = Pin(8192); }).join();
  for (int i = 0; i < 3; ++i) again->Drop();
  EXPECT_FALSE(domain_->AnythingPinned());
}

TEST_F(PinsTest, DomainsDoNotSeeEachOthersPins) {
  PinDomain* other = PinDomain::Acquire();
  PinSlot* pin = other->ThreadTable()->Pin(4096);
  EXPECT_FALSE(domain_->WatchIfPinned(4096));
  EXPECT_TRUE(other->WatchIfPinned(4096));
  pin->Drop();
  EXPECT_FALSE(WasWoken());
  PinDomain::Return(other);
  // Used again: nothing of the old one is left, also not in this thread's tables.
  PinDomain* again = PinDomain::Acquire();
  EXPECT_FALSE(again->AnythingPinned());
  PinSlot* fresh = again->ThreadTable()->Pin(64);
  EXPECT_TRUE(again->WatchIfPinned(64));
  fresh->Drop();
  PinDomain::Return(again);
}

// A reader pins and looks again, a drain empties and looks for pins: one of the two sees the other.
TEST_F(PinsTest, EitherTheReaderOrTheDrainSeesTheOther) {
  constexpr int kRounds = 50'000;
  constexpr std::uint64_t kExtent = 4096;
  std::atomic<std::uint64_t> slot{0};
  std::atomic<int> round{0}, ended{0};
  std::atomic<bool> reader_reads{false};
  std::thread reader([&] {
    for (int i = 1; i <= kRounds; ++i) {
      while (round.load() < i) std::this_thread::yield();
      PinSlot* pin = Pin(kExtent);
      const bool reads = slot.load() == kExtent;
      reader_reads.store(reads);
      if (!reads) pin->Drop();
      ended.store(i);
      while (round.load() < i + 1 && i < kRounds) std::this_thread::yield();
      if (reads) pin->Drop();
    }
  });
  int unseen = 0;
  for (int i = 1; i <= kRounds; ++i) {
    slot.store(kExtent);
    round.store(i);
    slot.store(0);
    const bool is_pinned = domain_->WatchIfPinned(kExtent);
    while (ended.load() < i) std::this_thread::yield();
    if (reader_reads.load() && !is_pinned) ++unseen;
  }
  reader.join();
  EXPECT_EQ(unseen, 0);
}

// A copy is made and the original dropped, over and over: at no instant is a search right that
// finds nothing.
TEST_F(PinsTest, ACopyOnItsWayFromOneThreadsTableToAnothersIsNotMissed) {
  constexpr std::uint64_t kExtent = 4096;
  constexpr int kHandOvers = 20'000;
  std::atomic<PinSlot*> hand[2] = {Pin(kExtent), nullptr};
  std::atomic<bool> stop{false};
  std::atomic<int> hand_overs{0};
  std::vector<std::thread> threads;
  for (int side = 0; side < 2; ++side) {
    threads.emplace_back([&, side] {
      PinTable* table = domain_->ThreadTable();
      while (!stop.load()) {
        PinSlot* pin = hand[side].exchange(nullptr);
        if (pin == nullptr) {
          std::this_thread::yield();
          continue;
        }
        PinSlot* copy = pin->PinAgain();  // in this thread's table
        EXPECT_EQ(copy->extent(), kExtent);
        EXPECT_EQ(table, domain_->ThreadTable());
        pin->Drop();
        hand[1 - side].store(copy);
        ++hand_overs;
      }
    });
  }
  int missed = 0;
  while (hand_overs.load() < kHandOvers) {
    missed += !domain_->WatchIfPinned(kExtent);
    std::this_thread::yield();  // the lock is not fair
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(missed, 0);
  for (auto& one : hand) {
    if (PinSlot* pin = one.load()) pin->Drop();
  }
}

}  // namespace
}  // namespace apta::compute
