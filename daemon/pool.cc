#include "daemon/pool.h"

#include <sys/random.h>

#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "fmt/format.h"

namespace apta::daemon {

using fabric::IndexBucket;
using fabric::Superblock;

std::uint64_t HeapShare::AllocateIndexBucket(std::byte* region) {
  const std::uint64_t offset = objects.Allocate(sizeof(IndexBucket));
  if (offset == 0) return 0;
  std::memset(region + offset, 0, sizeof(IndexBucket));
  // Relaxed: nobody knows it yet.
  reinterpret_cast<IndexBucket*>(region + offset)
      ->overflow_offset.store(fabric::kChainEnd, std::memory_order_relaxed);
  if (write_back != nullptr) {  // before anything links to it
    write_back->Lines(region + offset, sizeof(IndexBucket));
    write_back->Fence();
  }
  return offset;
}

Pool::Pool(PoolOptions options, fabric::Region region)
    : options_(std::move(options)),
      trusted_(options_.access == "trusted"),
      coherence_(fabric::ParseCoherence(options_.coherence).value_or(fabric::Coherence::kStrict)),
      region_(std::move(region)) {}

Pool::~Pool() {
  if (region_.data() != nullptr && !shares_.empty()) superblock()->clean = 1;
}

absl::StatusOr<std::unique_ptr<Pool>> Pool::Open(const PoolOptions& options, int shards) {
  absl::StatusOr<fabric::Backing> backing = fabric::Backing::Parse(options.backing);
  if (!backing.ok()) return backing.status();
  const fabric::RegionOptions region_options = {.backing = *backing,
                                                .bytes = options.bytes,
                                                .numa = options.numa,
                                                .clients_write = options.access == "trusted",
                                                .file_mode = options.mode};
  absl::StatusOr<fabric::Region> region = fabric::Region::Open(region_options);
  if (!region.ok()) {
    return absl::Status(
        region.status().code(),
        fmt::format("pool {}: {}", options.name, std::string(region.status().message())));
  }
  std::unique_ptr<Pool> pool(new Pool(options, *std::move(region)));
  const bool existed = pool->region_.existed();
  if (existed) {
    const absl::Status valid = pool->superblock()->Validate(pool->region_.size_bytes());
    if (!valid.ok()) {
      return absl::Status(valid.code(), fmt::format("pool {}: {}: {}", options.name,
                                                    options.backing, std::string(valid.message())));
    }
    if (pool->superblock()->shards != static_cast<std::uint32_t>(shards)) {
      return absl::FailedPreconditionError(
          fmt::format("pool {}: {} was made with {} shards; start with --shards {}", options.name,
                      options.backing, pool->superblock()->shards, pool->superblock()->shards));
    }
  } else {
    const absl::Status formatted = pool->Format(shards);
    if (!formatted.ok()) return formatted;
  }
  pool->shares_ = MakeShares(pool->data());
  Superblock* superblock = pool->superblock();
  if (existed) {
    pool->recovery_ = Recover(pool->data(), pool->shares_, pool->is_durable_region());
    const Recovery& found = pool->recovery_;
    if (found.lost_chains > 0 && !pool->is_durable_region()) {
      pool->shares_.clear();  // not ours to mark clean
      return absl::DataLossError(fmt::format(
          "pool {}: {}: the index is damaged in {} places; restore the file, start with a new one, "
          "or with durability=region, which keeps the rest",
          options.name, options.backing, found.lost_chains));
    }
    superblock->last_version.store(found.last_version);
  }
  if (pool->is_durable_region() && pool->region_.is_persistent_memory()) {
    pool->PersistRecovered(fabric::MachineWriteBack());
  }
  for (fabric::HomeStatus& home : superblock->home) home.group_intents = 0;
  superblock->groups_begun.store(0);
  superblock->groups_ended.store(0);
  superblock->incarnation += 1;
  superblock->clean = 0;
  for (fabric::HomeStatus& home : superblock->home) home.asleep.store(0);
  if (pool->is_durable_region() && pool->region_.is_persistent_memory()) {
    fabric::WriteBack* write_back = fabric::MachineWriteBack();
    write_back->Lines(superblock, fabric::kSuperblockBytes);
    write_back->Fence();
    for (const auto& share : pool->shares_) share->SetWriteBack(write_back);
  }
  pool->region_.PopulateInBackground();
  return pool;
}

// Before the records are gone of what was done again.
void Pool::PersistRecovered(fabric::WriteBack* write_back) {
  for (const std::uint64_t extent : recovery_.redone_extents) {
    write_back->Lines(data() + extent, sizeof(fabric::ExtentHeader));
  }
  // Links are on the lines of slots.
  shares_[0]->index.view().ForEachSlot(
      [&](const fabric::IndexSlot& slot) { write_back->Lines(&slot, sizeof(slot)); });
  write_back->Lines(&superblock()->last_version, sizeof(Version));
  write_back->Fence();
}

absl::Status Pool::Format(int shards) {
  std::uint64_t uuid[2];
  if (getrandom(uuid, sizeof(uuid), 0) != sizeof(uuid)) {
    return absl::ErrnoToStatus(errno, "getrandom");
  }
  fabric::FormatSuperblock(superblock(), region_.size_bytes(), static_cast<std::uint32_t>(shards),
                           uuid[0], uuid[1]);
  return absl::OkStatus();
}

std::vector<std::unique_ptr<HeapShare>> MakeShares(std::byte* region) {
  const Superblock& layout = *reinterpret_cast<const Superblock*>(region);
  const std::uint64_t share_bytes = (layout.region_bytes - layout.heap_offset) / layout.shards /
                                    ObjectManager::kSlabBytes * ObjectManager::kSlabBytes;
  std::vector<std::unique_ptr<HeapShare>> shares;
  for (std::uint32_t shard = 0; shard < layout.shards; ++shard) {
    const std::uint64_t begin = layout.heap_offset + shard * share_bytes;
    shares.push_back(std::make_unique<HeapShare>(region, layout, begin, begin + share_bytes));
  }
  return shares;
}

}  // namespace apta::daemon
