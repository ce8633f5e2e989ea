// Rings in shared memory between one home and one node.
//
//   SubmissionRing    many threads of the node in, the home out (MPSC)
//   InvalidationRing  the home in, the node out (SPSC, with an overflow mark)
//   SpscRing          one thread in, one out; for homes that run on threads of their own
//
// Lock-free and bounded; a full ring is an answer, not a wait. Templates over the atomic type, so
// that a deterministic one can explore interleavings. The shared structs hold no pointers; each
// side keeps its own cursor in private memory and believes nothing of the other side's but what
// it has checked.
//
// Invariants
//   1. A slot is written only by whoever claimed it, and only after its previous content has been
//      consumed.
//   2. A reader sees a slot only after it has been written whole.
//   3. A producer that dies between claim and publish stops its own ring and no other; the ring
//      dies with the node, which is the only process that produces into it.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <optional>

#include "fabric/message.h"

namespace apta::fabric {

// ---------------------------------------------------------------------------------------------

template <template <class> class Atomic = std::atomic>
struct SubmissionRing {
  static constexpr std::uint64_t kSlots = 128;

  struct alignas(kCacheLineBytes) Slot {
    Atomic<std::uint32_t> sequence;  // ticket + 1, its low half, once the request is whole
    Request request;                 // short requests end in the sequence's line
  };
  static_assert(sizeof(Slot) == 256);

  alignas(kCacheLineBytes) Atomic<std::uint64_t> head;  // written by the home: slots consumed
  alignas(kCacheLineBytes) Slot slot[kSlots];           // written by the node
};

// The node's end; shared by its threads.
template <template <class> class Atomic = std::atomic>
class SubmissionProducer {
 public:
  using Ring = SubmissionRing<Atomic>;

  explicit SubmissionProducer(Ring* ring) : ring_(ring) {}

  // Claims a slot, lets `fill` write the request into it, and publishes it. False = full.
  template <typename Fill>
  bool TryPush(Fill&& fill) {
    std::uint64_t ticket = tail_.load(std::memory_order_relaxed);  // the CAS below decides
    do {
      // Acquire and release: what one producer has learnt of the home's progress, the others may
      // rely on.
      if (ticket - seen_head_.load(std::memory_order_acquire) >= Ring::kSlots) {
        // Acquire: the home's reads of the slot end before we overwrite it; partner of the
        // release store in SubmissionConsumer::Consume.
        const std::uint64_t head = ring_->head.load(std::memory_order_acquire);
        seen_head_.store(head, std::memory_order_release);
        if (ticket - head >= Ring::kSlots) return false;
      }
    } while (!tail_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_relaxed));
    typename Ring::Slot& slot = ring_->slot[ticket % Ring::kSlots];
    // Acquire: the producer that used the slot before us has written it (its publishing exchange);
    // the home confirms the same through `head`, but it may be another process.
    (void)slot.sequence.load(std::memory_order_acquire);
    fill(slot.request);
    // Sequentially consistent, and an exchange because that is the cheapest such store: the
    // request is published before the caller looks whether the home sleeps (doorbell.h), and
    // after its content (partner: the acquire load in TryPop).
    slot.sequence.exchange(static_cast<std::uint32_t>(ticket + 1));
    return true;
  }

 private:
  Ring* ring_;
  alignas(kCacheLineBytes) Atomic<std::uint64_t> tail_{0};
  Atomic<std::uint64_t> seen_head_{0};
};

// The home's end. One thread.
template <template <class> class Atomic = std::atomic>
class SubmissionConsumer {
 public:
  using Ring = SubmissionRing<Atomic>;

  explicit SubmissionConsumer(Ring* ring) : ring_(ring), next_(&ring->slot[0]) {}

  // The next request, in place, or nullptr. The node can still write to it: CopyRequest, then
  // check.
  const Request* Peek() const {
    // Acquire: partner of the exchange in TryPush. Any other value than ours means "not yet",
    // also a wrong one from a hostile node: it stops its own ring.
    if (next_->sequence.load(std::memory_order_acquire) != expected_) return nullptr;
    return &next_->request;
  }
  void Consume() {
    ++head_;
    next_ = &ring_->slot[head_ % Ring::kSlots];
    expected_ = static_cast<std::uint32_t>(head_ + 1);
    // Release: our copy of the slot is done before a producer may overwrite it.
    ring_->head.store(head_, std::memory_order_release);
  }

 private:
  Ring* ring_;
  std::uint64_t head_ = 0;
  const typename Ring::Slot* next_;  // of head_
  std::uint32_t expected_ = 1;       // its sequence, when it has a request
};

// ---------------------------------------------------------------------------------------------

// What the invalidation word says to a node that was fenced: nothing that it holds is current.
inline constexpr std::uint64_t kFenced = ~std::uint64_t{0};

// Invalidations are numbered from 1 in the order in which one home issues them to one node.
// `issued` is the invalidation word that a strict hit looks at. A node acknowledges cumulatively.
template <template <class> class Atomic = std::atomic>
struct InvalidationRing {
#ifdef APTA_INVALIDATION_RECORDS  // the simulator makes rings overflow
  static constexpr std::uint64_t kRecords = APTA_INVALIDATION_RECORDS;
#else
  static constexpr std::uint64_t kRecords = 1024;
#endif

  // Written by the home.
  alignas(kCacheLineBytes) Atomic<std::uint64_t> issued;
  Atomic<std::uint64_t> drop_all;  // everything up to here has no record: drop the whole cache
  // Written by the node: everything up to here has been applied.
  alignas(kCacheLineBytes) Atomic<std::uint64_t> acknowledged;
  alignas(kCacheLineBytes) Invalidation record[kRecords];  // written by the home
};

// The home's end. One thread. The home knows from its own books (oic.h) whether a record's slot is
// free: sequence - acknowledged <= kRecords.
template <template <class> class Atomic = std::atomic>
class InvalidationIssuer {
 public:
  using Ring = InvalidationRing<Atomic>;

  explicit InvalidationIssuer(Ring* ring) : ring_(ring) {}

  void Issue(std::uint64_t sequence, const Invalidation& invalidation) {
    ring_->record[sequence % Ring::kRecords] = invalidation;
    // Release: the record is whole before the word says so; partner: the acquire in Pending().
    // That the word is stored before the index commits is what makes `strict` linearizable.
    ring_->issued.store(sequence, std::memory_order_release);
  }
  void IssueDropAll(std::uint64_t sequence) {
    ring_->drop_all.store(sequence, std::memory_order_relaxed);  // ordered by the next store
    ring_->issued.store(sequence, std::memory_order_release);
  }
  // No record follows. Release, as the others: hits that are still found were so before.
  void Fence() { ring_->issued.store(kFenced, std::memory_order_release); }
  // Hostile: may be anything; the OIC accepts only what lies between its books.
  std::uint64_t Acknowledged() const {
    // Acquire: what the node listed in its hold table before acknowledging is visible to us.
    return ring_->acknowledged.load(std::memory_order_acquire);
  }

 private:
  Ring* ring_;
};

// The node's end. Issued() from any thread; the rest under the cache's lock.
template <template <class> class Atomic = std::atomic>
class InvalidationDrain {
 public:
  using Ring = InvalidationRing<Atomic>;

  explicit InvalidationDrain(Ring* ring) : ring_(ring) {}

  // The invalidation word. Acquire: partner of the release in Issue.
  std::uint64_t Issued() const { return ring_->issued.load(std::memory_order_acquire); }
  // Read after Issued(): at least as new as what Issued() returned.
  std::uint64_t DropAll() const { return ring_->drop_all.load(std::memory_order_relaxed); }
  Invalidation Record(std::uint64_t sequence) const {
    return ring_->record[sequence % Ring::kRecords];
  }
  void Acknowledge(std::uint64_t sequence) {
    // Release: entries have left the cache, and pinned extents are listed, before the home may
    // believe it; partner: Acknowledged().
    ring_->acknowledged.store(sequence, std::memory_order_release);
  }

 private:
  Ring* ring_;
};

// ---------------------------------------------------------------------------------------------

template <typename T, std::uint64_t kCapacity, template <class> class Atomic = std::atomic>
class SpscRing {
  static_assert((kCapacity & (kCapacity - 1)) == 0);

 public:
  bool TryPush(const T& value) {
    const std::uint64_t tail = tail_.load(std::memory_order_relaxed);  // ours
    // Acquire: the consumer has read the slot; partner of the release in TryPop.
    if (tail - head_.load(std::memory_order_acquire) == kCapacity) return false;
    slot_[tail % kCapacity] = value;
    tail_.store(tail + 1, std::memory_order_release);  // partner: the acquire in TryPop
    return true;
  }
  std::optional<T> TryPop() {
    const std::uint64_t head = head_.load(std::memory_order_relaxed);  // ours
    if (head == tail_.load(std::memory_order_acquire)) return std::nullopt;
    T value = slot_[head % kCapacity];
    head_.store(head + 1, std::memory_order_release);  // partner: the acquire in TryPush
    return value;
  }

 private:
  alignas(kCacheLineBytes) Atomic<std::uint64_t> head_{0};
  alignas(kCacheLineBytes) Atomic<std::uint64_t> tail_{0};
  alignas(kCacheLineBytes) T slot_[kCapacity];
};

}  // namespace apta::fabric
