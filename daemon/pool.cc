#include "daemon/pool.h"

#include <sys/random.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "fabric/hash.h"
#include "fmt/format.h"

namespace apta::daemon {

using fabric::ExtentHeader;
using fabric::IndexBucket;
using fabric::IndexSlot;
using fabric::SlotExtentOffset;
using fabric::Superblock;

std::uint64_t HeapShare::AllocateIndexBucket(std::byte* region) {
  const std::uint64_t offset = objects.Allocate(sizeof(IndexBucket));
  if (offset != 0) std::memset(region + offset, 0, sizeof(IndexBucket));
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
  pool->MakeShares();
  if (existed) {
    if (const absl::Status recovered = pool->Recover(); !recovered.ok()) {
      pool->shares_.clear();  // not ours to mark clean
      return recovered;
    }
  }
  Superblock* superblock = pool->superblock();
  superblock->groups_begun.store(0);
  superblock->groups_ended.store(0);
  superblock->incarnation += 1;
  superblock->clean = 0;
  for (fabric::HomeStatus& home : superblock->home) home.asleep.store(0);
  pool->region_.PopulateInBackground();
  return pool;
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

void Pool::MakeShares() {
  const Superblock& layout = *superblock();
  const std::uint64_t share_bytes = (layout.region_bytes - layout.heap_offset) / layout.shards /
                                    ObjectManager::kSlabBytes * ObjectManager::kSlabBytes;
  for (std::uint32_t shard = 0; shard < layout.shards; ++shard) {
    const std::uint64_t begin = layout.heap_offset + shard * share_bytes;
    shares_.push_back(
        std::make_unique<HeapShare>(region_.data(), layout, begin, begin + share_bytes));
  }
}

// Rebuilds the object managers from the index. A slot whose header does not confirm it is emptied:
// the object was never whole.
absl::Status Pool::Recover() {
  const fabric::IndexView view = shares_[0]->index.view();
  const auto share_of = [&](std::uint64_t offset) -> HeapShare* {
    for (const auto& share : shares_) {
      if (share->objects.Adopt(offset, sizeof(IndexBucket))) return share.get();
    }
    return nullptr;
  };
  bool is_whole = true;
  view.ForEachOverflowBucket([&](std::uint64_t offset) {
    is_whole = share_of(offset) != nullptr;  // not twice, and in the heap
    return is_whole;
  });
  if (!is_whole) {
    return absl::DataLossError(
        fmt::format("pool {}: {}: the index is damaged (an overflow bucket is linked twice or lies "
                    "outside the heap); restore the file or start with a new one",
                    options_.name, options_.backing));
  }
  std::uint64_t max_version = superblock()->last_version.load();
  view.ForEachSlot([&](const IndexSlot& slot) {
    if (slot.load() == 0) return;
    if (RecoverSlot(slot, &max_version)) {
      ++recovered_objects_;
    } else {
      ++dropped_slots_;
      const_cast<IndexSlot&>(slot).store(0);
    }
  });
  for (const auto& share : shares_) {
    share->objects.FinishAdopting();
    share->used_bytes.store(share->objects.used_bytes());
  }
  superblock()->last_version.store(max_version);
  return absl::OkStatus();
}

bool Pool::RecoverSlot(const IndexSlot& slot, std::uint64_t* max_version) {
  const std::uint64_t offset = SlotExtentOffset(slot.load());
  const fabric::IndexView& view = shares_[0]->index.view();
  const ExtentHeader* header = view.HeaderAt(offset);
  if (header == nullptr || header->version == 0) return false;
  if (header->key_hash != fabric::KeyHash(header->key())) return false;
  if (!fabric::SlotTagMatches(slot.load(), header->key_hash)) return false;
  if (view.Find(header->key_hash, header->key()) != &slot) return false;  // misplaced, or twice
  HeapShare& share = *shares_[view.ShardOf(header->key_hash)];
  if (!share.objects.Adopt(offset, fabric::ExtentBytes(header->key_bytes, header->payload_bytes))) {
    return false;
  }
  share.live_objects.fetch_add(1);
  *max_version = std::max(*max_version, header->version);
  return true;
}

}  // namespace apta::daemon
