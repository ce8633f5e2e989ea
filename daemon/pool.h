// A pool: one region of the heap with its superblock, its index, and for each shard the object
// manager of the shard's share of the heap.
//
// Open and state reporting belong to the control thread; each share belongs to its shard's thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "apta/server.h"
#include "daemon/journal.h"
#include "daemon/object_manager.h"
#include "daemon/owed_keys.h"
#include "daemon/recovery.h"
#include "fabric/coherence.h"
#include "fabric/index.h"
#include "fabric/message.h"
#include "fabric/region.h"
#include "fabric/superblock.h"
#include "fabric/write_back.h"

namespace apta::daemon {

class Otc;

// One shard's share of a pool: what its home allocates from and commits to. Counters may be read
// by any thread.
struct HeapShare {
  HeapShare(std::byte* region, const fabric::Superblock& superblock, std::uint64_t begin,
            std::uint64_t end)
      : objects(begin, end),
        index(region, superblock, [this, region] { return AllocateIndexBucket(region); }) {}

  // Set before the share's home is made. null: of no use.
  void SetWriteBack(fabric::WriteBack* with) {
    write_back = with;
    index.set_write_back(with);
  }

  ObjectManager objects;
  fabric::IndexWriter index;
  std::atomic<std::uint64_t> live_objects{0};
  std::atomic<std::uint64_t> used_bytes{0};  // of `objects`, published by the shard
  // Up to which sequence a node owes this shard's home acknowledgements, 0 = none: what the
  // scheduler, on another shard, asks.
  std::array<std::atomic<std::uint64_t>, fabric::kMaxNodes> owes{};
  OwedKeys owed_keys;                          // the same, by key
  std::atomic<const Otc*> directory{nullptr};  // of the shard's home; who shares what
  std::atomic<std::uint64_t> held_bytes{0};    // of old versions that nodes have not released
  // Objects, or chains of them, that gravestones in the index stand for; and what its scrub has
  // done.
  std::atomic<std::uint64_t> damaged_objects{0};
  std::atomic<std::uint64_t> scrubs{0};
  std::atomic<std::uint64_t> scrubbed_bytes{0};
  fabric::WriteBack* write_back = nullptr;  // of a region that is persistent memory

 private:
  std::uint64_t AllocateIndexBucket(std::byte* region);
};

// The shares of a region, of which nothing is allocated yet.
std::vector<std::unique_ptr<HeapShare>> MakeShares(std::byte* region);

class Pool {
 public:
  // Makes the region, or opens an existing one and keeps the objects that it holds: what the
  // index names and the headers confirm. Errors as MemoryServer::Start.
  static absl::StatusOr<std::unique_ptr<Pool>> Open(const PoolOptions& options, int shards);
  ~Pool();  // marks the region clean

  const PoolOptions& options() const { return options_; }
  const fabric::Region& region() const { return region_; }
  fabric::Region& region() { return region_; }
  std::byte* data() const { return region_.data(); }
  fabric::Superblock* superblock() const {
    return reinterpret_cast<fabric::Superblock*>(region_.data());
  }
  HeapShare& share(int shard) { return *shares_[static_cast<std::size_t>(shard)]; }
  int shards() const { return static_cast<int>(shares_.size()); }
  fabric::Coherence coherence() const { return coherence_; }
  // Of a pool of durability `log`; else null. Set before the first home is made, and outlives them.
  Journal* journal() const { return journal_; }
  void set_journal(Journal* journal) { journal_ = journal; }
  bool trusted() const { return trusted_; }

  // Durability `region`: what was acknowledged is kept, or said to be lost.
  bool is_durable_region() const { return options_.durability == "region"; }
  // What became of an existing region's objects at Open.
  const Recovery& recovery() const { return recovery_; }

 private:
  Pool(PoolOptions options, fabric::Region region);
  absl::Status Format(int shards);
  void PersistRecovered(fabric::WriteBack* write_back);

  PoolOptions options_;
  bool trusted_;
  fabric::Coherence coherence_;
  fabric::Region region_;
  Journal* journal_ = nullptr;
  std::vector<std::unique_ptr<HeapShare>> shares_;
  Recovery recovery_;
};

}  // namespace apta::daemon
