#include "fabric/superblock.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "fabric/hash.h"
#include "fabric/index.h"
#include "fmt/format.h"

namespace apta::fabric {

std::uint64_t IndexBucketsFor(std::uint64_t region_bytes) {
  return std::max<std::uint64_t>(64, std::bit_floor(region_bytes / 4096));
}

std::uint64_t SealOf(const Superblock& superblock) {
  std::array<std::byte, kCacheLineBytes> line;
  std::memcpy(line.data(), &superblock, line.size());
  std::memcpy(line.data(), &kRegionMagic, sizeof(kRegionMagic));
  const std::uint64_t seal = XXH3_64bits(line.data(), line.size());
  return seal != 0 ? seal : 1;
}

void FormatSuperblock(Superblock* superblock, std::uint64_t region_bytes, std::uint32_t shards,
                      std::uint64_t uuid0, std::uint64_t uuid1) {
  superblock->layout_version = kRegionLayoutVersion;
  superblock->shards = shards;
  superblock->uuid[0] = uuid0;
  superblock->uuid[1] = uuid1;
  superblock->region_bytes = region_bytes;
  superblock->index_offset = kSuperblockBytes;
  superblock->index_buckets = IndexBucketsFor(region_bytes);
  superblock->heap_offset =
      AlignUp(kSuperblockBytes + superblock->index_buckets * sizeof(IndexBucket), kHugePageBytes);
  superblock->seal = SealOf(*superblock);
  // Last: a region whose making was cut short has no magic.
  std::atomic_ref<std::uint64_t>(superblock->magic).store(kRegionMagic);
}

absl::Status Superblock::Validate(std::uint64_t mapped_bytes) const {
  if (magic != kRegionMagic) {
    return absl::FailedPreconditionError(fmt::format(
        "this is no Āpta region (magic {:016x}); name another file or remove it", magic));
  }
  if (layout_version != kRegionLayoutVersion) {
    return absl::FailedPreconditionError(
        fmt::format("the region has layout version {}, this version of Āpta reads {}",
                    layout_version, kRegionLayoutVersion));
  }
  if (seal != 0 && seal != SealOf(*this)) {
    return absl::DataLossError(
        "the region's superblock is damaged: its checksum is wrong; restore it from a copy");
  }
  if (region_bytes > mapped_bytes) {
    return absl::DataLossError(fmt::format(
        "the region is truncated: {} bytes where its superblock says {}; restore it from a copy",
        mapped_bytes, region_bytes));
  }
  const bool shards_fit = shards >= 1 && shards <= static_cast<std::uint32_t>(kMaxShards);
  const bool index_fits = index_offset == kSuperblockBytes && std::has_single_bit(index_buckets) &&
                          index_buckets <= region_bytes / sizeof(IndexBucket);
  const bool heap_fits = heap_offset % kHugePageBytes == 0 && heap_offset < region_bytes &&
                         index_buckets * sizeof(IndexBucket) <= heap_offset - kSuperblockBytes;
  if (!shards_fit || !index_fits || heap_offset < kSuperblockBytes || !heap_fits) {
    return absl::DataLossError(
        "the region's superblock is damaged: its parts do not fit together; restore it from a "
        "copy");
  }
  return absl::OkStatus();
}

}  // namespace apta::fabric
