#include "micro_rooms.h"

#include <algorithm>
#include <optional>
#include <string>

#include "compute/cache.h"
#include "compute/getc.h"
#include "compute/pins.h"
#include "daemon/object_manager.h"
#include "fabric/port.h"
#include "fabric/ring.h"
#include "heap.h"
#include "suite.h"

namespace apta::bench {
namespace {

using compute::Cache;
using compute::PinDomain;
using compute::PinnedExtent;

// A node's cache over a heap, with the benchmark as its home.
class Node {
 public:
  explicit Node(std::uint64_t objects) : heap_(objects) {
    cache_.emplace(heap_.view(), fabric::Coherence::kStrict, 256 << 20, 1, &port_, pins_, false);
  }
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  ~Node() {
    cache_.reset();
    PinDomain::Return(pins_);
  }

  // A get that misses, is answered at once, and lets go. False: somebody else leads.
  bool Fill(std::uint64_t n) {
    const Cache::Miss miss = cache_->BeginGet(heap_.hash(n));
    if (!miss.leads) return false;
    const auto pinned =
        cache_->EndGet(miss.fill, n % kObjects + 1, heap_.extent(n), Table()).pinned;
    if (pinned) pinned->pin->Drop();
    return pinned.has_value();
  }
  bool Hit(std::uint64_t n) {
    const auto found = compute::Getc::Find(&*cache_, heap_.hash(n), heap_.key(n), Table());
    if (found) found->pin->Drop();
    return found.has_value();
  }
  // Everything that is cached is found no more.
  void InvalidateAll() {
    for (std::uint64_t n = 0; n < kObjects; ++n) {
      issuer_.Issue(++issued_, {.key_hash = heap_.hash(n), .version = n + 2});
    }
    cache_->Apply(0, 0);
  }
  compute::PinTable* Table() { return pins_->ThreadTable(); }
  std::uint64_t extent(std::uint64_t n) const { return heap_.extent(n); }

  static constexpr std::uint64_t kObjects = 256;

 private:
  Heap heap_;
  fabric::Port port_ = *fabric::Port::Create(0, 1);
  fabric::InvalidationIssuer<> issuer_{port_.invalidations(0)};
  std::uint64_t issued_ = 0;
  PinDomain* pins_ = PinDomain::Acquire();
  std::optional<Cache> cache_;
};

void CacheFind(benchmark::State& state) {
  Node node(Node::kObjects);
  if (!node.Fill(0)) return state.SkipWithError("fill");
  Measure(state, {.calls = 256}, nullptr, [&](std::uint64_t) { return node.Hit(0); });
}

void CacheFill(benchmark::State& state) {
  Node node(Node::kObjects);
  const auto empty = [&](std::uint64_t) {
    node.InvalidateAll();
    return true;
  };
  Measure(state, {.calls = Node::kObjects}, nullptr, empty,
          [&](std::uint64_t n) { return node.Fill(n); });
}

// Apply takes one entry from the cache, per record.
void CacheApply(benchmark::State& state) {
  Node node(Node::kObjects);
  TakeSamples(state, {}, nullptr, [&](std::uint64_t) {
    bool ok = true;
    for (std::uint64_t n = 0; n < Node::kObjects; ++n) ok = node.Fill(n) && ok;
    const auto began = Clock::now();
    node.InvalidateAll();
    return ok ? NsSince(began) / Node::kObjects : -1;
  });
}

void PinUnpin(benchmark::State& state) {
  Node node(Node::kObjects);
  Measure(state, {.calls = 256}, nullptr, [&](std::uint64_t n) {
    compute::PinSlot* pin = node.Table()->Pin(node.extent(n));
    const bool ok = pin->extent() == node.extent(n);
    pin->Drop();
    return ok;
  });
}

// As a put of one key again and again: the new extent is taken before the old one is given back.
void TakeAndGiveBack(benchmark::State& state, std::uint64_t payload_bytes) {
  constexpr std::uint64_t kBegin = 2 << 20, kHeap = 1 << 30;
  daemon::ObjectManager objects(kBegin, kBegin + kHeap);
  const std::uint64_t bytes = fabric::ExtentBytes(32, payload_bytes);
  std::uint64_t last = objects.Allocate(bytes);
  Measure(state, {.calls = 256}, nullptr, [&](std::uint64_t) {
    const std::uint64_t next = objects.Allocate(bytes);
    return next != 0 && objects.Free(std::exchange(last, next));
  });
}

}  // namespace

void AddRooms() {
  Add("cache_find", CacheFind);
  Add("cache_fill", CacheFill);
  Add("cache_apply", CacheApply);
  Add("pin_unpin", PinUnpin);
  for (const std::uint64_t size : {64, 4 << 10, 64 << 10, 1 << 20, 64 << 20}) {
    Add(Name("object_manager", {{"size", std::to_string(size)}}), TakeAndGiveBack, size);
  }
}

}  // namespace apta::bench
