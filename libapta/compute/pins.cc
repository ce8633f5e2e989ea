#include "compute/pins.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <new>

#include "absl/container/flat_hash_map.h"
#include "fabric/check.h"

namespace apta::compute {
namespace {

// Type-stable storage: blocks and domains that are free for another use. Never destroyed.
struct Pools {
  std::mutex mutex;
  std::vector<PinTable*> tables;
  std::vector<PinDomain*> domains;
  std::uint64_t last_domain_id = 0;
};
Pools& GetPools() {
  static Pools* const pools = new Pools;
  return *pools;
}

PinTable* AcquireTable() {
  Pools& pools = GetPools();
  {
    std::lock_guard<std::mutex> lock(pools.mutex);
    if (!pools.tables.empty()) {
      PinTable* table = pools.tables.back();
      pools.tables.pop_back();
      return table;
    }
  }
  return new PinTable;
}

PinTable* TableOf(PinSlot* slot) {
  return reinterpret_cast<PinTable*>(reinterpret_cast<std::uintptr_t>(slot) / fabric::kPageBytes *
                                     fabric::kPageBytes);
}

}  // namespace

// ---------------------------------------------------------------------------------------------

bool PinSlot::TryShare() {
  // Relaxed look: the caller's own reference keeps the slot as it is, and the bound is generous.
  if ((word_.load(std::memory_order_relaxed) & kReferences) > kMaxReferences) return false;
  Share(1);
  return true;
}

void PinSlot::Share(std::uint64_t references) {
  // Relaxed: whoever holds a reference has synchronised with the pin already.
  word_.fetch_add(references, std::memory_order_relaxed);
}

PinSlot* PinSlot::PinAgain() {
  PinDomain* domain = TableOf(this)->domain();
  PinSlot* again = domain->ThreadTable()->Pin(extent());
  // Sequentially consistent, between this pin and the drop of ours: a search that sees neither sees
  // the number change.
  domain->pinned_again_.fetch_add(1);
  return again;
}

void PinSlot::Drop() {
  PinTable* table = TableOf(this);
  // Sequentially consistent: our reads of the extent end before, and a drain that watches the slot
  // is seen by us or sees that we are gone.
  const std::uint64_t before = word_.fetch_sub(kReference);
  if ((before & (kReferences | kWatched)) != (kReference | kWatched)) return;
  // The table may serve another session by now (type-stable): then its agent wakes for nothing.
  table->domain()->Wake();
}

PinSlot* PinTable::Pin(std::uint64_t extent) {
  const std::size_t window = WindowOf(extent);
  const std::uint64_t wanted = PinSlot::Pinned(extent);
  for (PinTable* block = this;;) {
    for (std::size_t i = window; i < window + kWindow; ++i) {
      PinSlot& slot = block->slot_[i];
      // Relaxed: only this thread takes slots of its table; others merely drop and watch.
      const std::uint64_t word = slot.word_.load(std::memory_order_relaxed);
      if (!PinSlot::IsPinned(word)) {
        slot.word_.exchange(wanted);
        return &slot;
      }
      if (PinSlot::ExtentOf(word) != extent) continue;
      if ((word & PinSlot::kReferences) > PinSlot::kMaxReferences) continue;
      // It may fall to 0 before we add: then it is a fresh pin of the same extent, which is fine.
      slot.word_.fetch_add(PinSlot::kReference);
      return &slot;
    }
    PinTable* next = block->next_.load(std::memory_order_relaxed);  // ours to link
    if (next == nullptr) {
      next = AcquireTable();
      next->domain_.store(domain(), std::memory_order_relaxed);
      block->next_.store(next, std::memory_order_release);  // partner: ForEachSlot
    }
    block = next;
  }
}

bool PinSlot::WatchIfPinned(std::uint64_t extent) {
  for (std::uint64_t word = word_.load(); Pins(word, extent);) {
    if (word_.compare_exchange_weak(word, word | kWatched)) return true;
  }
  return false;
}

inline bool PinTable::WatchIfPinned(std::uint64_t extent) {
  const std::size_t window = WindowOf(extent);
  bool is_pinned = false;
  for (PinTable* block = this; block != nullptr;
       block = block->next_.load(std::memory_order_acquire)) {  // partner: the release in Pin
    PinSlot* const slot = &block->slot_[window];
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kWindow; ++i) {
      if (slot[i].Pins(extent)) is_pinned = slot[i].WatchIfPinned(extent) || is_pinned;
    }
  }
  return is_pinned;
}

// ---------------------------------------------------------------------------------------------

// The tables of one thread, by domain. Goes with the thread: then others may adopt the tables.
struct ThreadTables {
  absl::flat_hash_map<std::uint64_t, std::pair<PinDomain*, PinTable*>> by_id;

  ~ThreadTables() {
    for (const auto& [id, entry] : by_id) {
      const auto& [domain, table] = entry;
      std::lock_guard<std::mutex> lock(domain->mutex_);
      if (domain->id_ == id) table->is_owned_ = false;
    }
  }
};
namespace {
thread_local ThreadTables t_tables;
}  // namespace

PinDomain::PinDomain() : wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  APTA_CHECK(wake_fd_ >= 0);
}

PinDomain* PinDomain::Acquire() {
  Pools& pools = GetPools();
  PinDomain* domain = nullptr;
  std::uint64_t id;
  {
    std::lock_guard<std::mutex> lock(pools.mutex);
    id = ++pools.last_domain_id;
    if (!pools.domains.empty()) {
      domain = pools.domains.back();
      pools.domains.pop_back();
    }
  }
  if (domain == nullptr) domain = new PinDomain;
  // After the pools' lock, not under it: AdoptTable takes the two in the other order.
  std::lock_guard<std::mutex> lock(domain->mutex_);
  domain->id_ = id;
  return domain;
}

void PinDomain::Return(PinDomain* domain) {
  std::vector<PinTable*> blocks;
  {
    std::lock_guard<std::mutex> lock(domain->mutex_);
    domain->id_ = 0;
    for (PinTable* table = domain->first_table_.exchange(nullptr); table != nullptr;) {
      PinTable* const next_thread = table->next_thread_.exchange(nullptr);
      for (PinTable* block = table; block != nullptr;) {
        blocks.push_back(block);
        block = block->next_.exchange(nullptr);
      }
      table = next_thread;
    }
  }
  for (PinTable* block : blocks) {
    for (PinSlot& slot : block->slot_) slot.word_.store(0);
    for (std::atomic<std::uint64_t>& count : block->count_) count.store(0);
    block->is_owned_ = false;
  }
  Pools& pools = GetPools();
  std::lock_guard<std::mutex> lock(pools.mutex);
  pools.tables.insert(pools.tables.end(), blocks.begin(), blocks.end());
  pools.domains.push_back(domain);
}

void PinDomain::Wake() const {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_fd_, &one, sizeof(one));
}

PinTable* PinDomain::FindThreadTable() {
  auto& entry = t_tables.by_id[id_];
  if (entry.second == nullptr) entry = {this, AdoptTable()};
  t_last = {id_, entry.second};
  return entry.second;
}

PinTable* PinDomain::AdoptTable() {
  std::lock_guard<std::mutex> lock(mutex_);
  PinTable* adopted = nullptr;
  ForEachTable([&](PinTable* table) { adopted = table->is_owned_ ? adopted : table; });
  if (adopted == nullptr) {
    adopted = AcquireTable();
    adopted->domain_.store(this);
    // Relaxed: ordered by the store that makes it the first.
    adopted->next_thread_.store(first_table_.load(), std::memory_order_relaxed);
    first_table_.store(adopted);
  }
  adopted->is_owned_ = true;
  return adopted;
}

bool PinDomain::WatchIfPinned(std::uint64_t extent) {
  while (true) {
    const std::uint64_t before = pinned_again_.load();
    bool is_pinned = false;
    ForEachTable([&](PinTable* table) { is_pinned = table->WatchIfPinned(extent) || is_pinned; });
    if (is_pinned || pinned_again_.load() == before) return is_pinned;
  }
}

std::vector<std::uint64_t> PinDomain::WatchAll() {
  std::vector<std::uint64_t> pinned;
  ForEachPinned([&](std::uint64_t extent) { pinned.push_back(extent); });
  std::erase_if(pinned, [&](std::uint64_t extent) { return !WatchIfPinned(extent); });
  return pinned;
}

bool PinDomain::AnythingPinned() {
  bool any = false;
  ForEachPinned([&](std::uint64_t) { any = true; });
  return any;
}

std::uint64_t PinDomain::Sum(PinTable::Count count) const {
  std::uint64_t sum = 0;
  ForEachTable([&](const PinTable* table) {
    sum += table->count_[count].load(std::memory_order_relaxed);  // statistics
  });
  return sum;
}

}  // namespace apta::compute
