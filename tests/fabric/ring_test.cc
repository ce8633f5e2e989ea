#include "fabric/ring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <iterator>
#include <memory>
#include <thread>
#include <vector>

#include "fabric/doorbell.h"
#include "fabric/link.h"

namespace apta::fabric {
namespace {

TEST(SubmissionRingTest, ManyProducersLoseAndTearNothing) {
  auto ring = std::make_unique<SubmissionRing<>>();
  SubmissionProducer<> producer(ring.get());
  SubmissionConsumer<> consumer(ring.get());
  constexpr std::uint32_t kThreads = 4, kEach = 50'000;
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (std::uint32_t i = 0; i < kEach; ++i) {
        while (!producer.TryPush([&](Request& request) {
          request.request_id = i;
          request.lane = static_cast<std::uint16_t>(t);
          std::memset(request.body, static_cast<int>(i + t), sizeof(request.body));
        })) {
          std::this_thread::yield();
        }
      }
    });
  }
  std::vector<std::uint32_t> next(kThreads, 0);
  for (std::uint32_t taken = 0; taken < kThreads * kEach;) {
    const Request* request = consumer.Peek();
    if (request == nullptr) {
      std::this_thread::yield();
      continue;
    }
    ASSERT_EQ(request->request_id, next[request->lane]++);  // each thread's in order
    for (const std::byte byte : request->body) {
      ASSERT_EQ(byte, static_cast<std::byte>(request->request_id + request->lane));
    }
    consumer.Consume();
    ++taken;
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(consumer.Peek(), nullptr);
}

TEST(SubmissionRingTest, AFullRingSaysSoAndGoesOnWhereItWas) {
  auto ring = std::make_unique<SubmissionRing<>>();
  SubmissionProducer<> producer(ring.get());
  SubmissionConsumer<> consumer(ring.get());
  std::uint32_t id = 0;
  const auto push = [&] {
    return producer.TryPush([&](Request& request) { request.request_id = id++; });
  };
  for (std::uint64_t i = 0; i < SubmissionRing<>::kSlots; ++i) EXPECT_TRUE(push());
  EXPECT_FALSE(push());
  EXPECT_EQ(id, SubmissionRing<>::kSlots) << "a refused request was written";
  EXPECT_EQ(consumer.Peek()->request_id, 0u);
  consumer.Consume();
  EXPECT_TRUE(push());
  EXPECT_FALSE(push());
}

TEST(RequestTest, IsCopiedAsFarAsItSaysAndNoFurtherThanThereIsRoom) {
  Request from{};
  std::memset(from.body, 'b', sizeof(from.body));
  const auto copied = [&](std::uint64_t payload_bytes, std::uint16_t key_bytes,
                          std::uint8_t flags) {
    from.payload_bytes = payload_bytes & ((std::uint64_t{1} << 48) - 1);
    from.key_bytes = key_bytes;
    from.flags = flags;
    Request to{};
    CopyRequest(from, &to);
    EXPECT_EQ(to.visible_at_ns, 0u) << "written beyond the body";
    return std::count(std::begin(to.body), std::end(to.body), std::byte{'b'});
  };
  from.visible_at_ns = 7;
  EXPECT_EQ(copied(0, 0, 0), 0);
  EXPECT_EQ(copied(64, 32, 0), 96);
  EXPECT_EQ(copied(64, 32, kBodyStaged), 0);
  const auto all = static_cast<std::ptrdiff_t>(kInlineBytes);
  EXPECT_EQ(copied(kInlineBytes, 32, 0), all);
  EXPECT_EQ(copied(0, 0xffff, 0), all);
  EXPECT_EQ(copied(~std::uint64_t{0}, 1, 0), all);
  EXPECT_EQ(copied(~std::uint64_t{0}, 0, kBodyStaged), 0);
}

TEST(SubmissionRingTest, WrongSequencesStopTheirRingAndNothingElse) {
  auto ring = std::make_unique<SubmissionRing<>>();
  SubmissionConsumer<> consumer(ring.get());
  for (const std::uint32_t lie : {std::uint32_t{0}, std::uint32_t{2}, ~std::uint32_t{0}}) {
    ring->slot[0].sequence.store(lie);
    EXPECT_EQ(consumer.Peek(), nullptr);
  }
}

TEST(SpscRingTest, ValuesComeOutInOrderAcrossWrapAround) {
  auto ring = std::make_unique<SpscRing<std::uint64_t, 8>>();
  constexpr std::uint64_t kCount = 200'000;
  std::thread producer([&] {
    for (std::uint64_t i = 0; i < kCount; ++i) {
      while (!ring->TryPush(i)) std::this_thread::yield();
    }
  });
  for (std::uint64_t i = 0; i < kCount;) {
    if (const auto value = ring->TryPop()) {
      ASSERT_EQ(*value, i++);
    } else {
      std::this_thread::yield();
    }
  }
  producer.join();
  EXPECT_FALSE(ring->TryPop());
  for (std::uint64_t i = 0; i < 8; ++i) EXPECT_TRUE(ring->TryPush(i));
  EXPECT_FALSE(ring->TryPush(9));
}

// Announce, look again, sleep; publish, look, wake: two threads that take turns never miss a turn.
TEST(DoorbellTest, NoWakeUpIsLost) {
  struct Side {
    std::atomic<std::uint32_t> word{0}, asleep{0};
    void Publish(std::uint32_t value) {
      word.store(value);
      if (asleep.load() != 0) FutexWake(&word);
    }
    void Await(std::uint32_t value) {
      IdleStrategy idle(/*sleep_after_ns=*/0);
      while (word.load() != value) {
        if (idle.Idle() != IdleStrategy::Advice::kSleep) continue;
        const std::uint32_t seen = word.load();
        asleep.store(1);
        // A lost wake-up would cost this time-out, and the test its patience.
        if (word.load() == seen && seen != value) FutexWait(&word, seen, 60'000'000'000);
        asleep.store(0);
      }
    }
  };
  Side ping, pong;
  constexpr std::uint32_t kRounds = 20'000;
  std::thread other([&] {
    for (std::uint32_t i = 1; i <= kRounds; ++i) {
      ping.Await(i);
      pong.Publish(i);
    }
  });
  for (std::uint32_t i = 1; i <= kRounds; ++i) {
    ping.Publish(i);
    pong.Await(i);
  }
  other.join();
}

TEST(LinkTest, MessagesQueueForBandwidthAndThenTravel) {
  LinkDirection link({.latency_ns = 500, .bandwidth_gbps = 80, .jitter_ns = 0, .call_ns = 14'000},
                     1);
  EXPECT_EQ(link.VisibleAt(1000, 1000, false), 1000u + 100 + 500);  // 1000 B at 10 B/ns
  EXPECT_EQ(link.VisibleAt(1000, 1000, false), 1000u + 200 + 500);  // behind the first
  EXPECT_EQ(link.VisibleAt(9000, 0, true), 9000u + 500 + 14'000);
  LinkDirection jittery({.latency_ns = 100, .jitter_ns = 50}, 7),
      same({.latency_ns = 100, .jitter_ns = 50}, 7);
  for (TimeNs now = 0; now < 1000; ++now) {
    const TimeNs seen = jittery.VisibleAt(now, 64, false);
    EXPECT_GE(seen, now + 100);
    EXPECT_LE(seen, now + 150);
    EXPECT_EQ(seen, same.VisibleAt(now, 64, false)) << "one seed, one run";
  }
}

}  // namespace
}  // namespace apta::fabric
