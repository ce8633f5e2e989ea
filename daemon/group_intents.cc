#include "daemon/group_intents.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>

#include "fabric/check.h"
#include "fabric/hash.h"

namespace apta::daemon {

using fabric::GroupWrite;

namespace {

// More than any home has under way at once.
constexpr int kMaxListed = 1 << 20;

std::uint64_t ChecksumOf(Version version, BytesView payload) {
  return XXH3_64bits_withSeed(payload.data(), payload.size(), version);
}

}  // namespace

GroupIntents::GroupIntents(Pool* pool, int shard, Opc* opc)
    : pool_(pool),
      opc_(opc),
      write_back_(pool->share(shard).write_back),
      head_(&pool->superblock()->home[shard].group_intents) {}

GroupIntent* GroupIntents::RecordAt(std::uint64_t offset) const {
  return reinterpret_cast<GroupIntent*>(pool_->data() + offset);
}

void GroupIntents::SetLink(std::uint64_t* link, std::uint64_t record) {
  // Release: what the link names is whole, and the slots of what it no longer names have changed.
  // For whoever maps the region after a kill, which takes no store back.
  std::atomic_ref<std::uint64_t>(*link).store(record, std::memory_order_release);
  if (write_back_ == nullptr) return;
  write_back_->Lines(link, sizeof(*link));
  write_back_->Fence();
}

// Invariant 1. Its extent is such as a message has: nobody can take it for an object.
bool GroupIntents::Add(std::uint64_t serial, Version version,
                       const std::map<int, std::vector<GroupWrite>>& writes_by_shard) {
  std::vector<std::byte> payload;
  for (const auto& [shard, writes] : writes_by_shard) {
    for (const GroupWrite& write : writes) fabric::AppendGroupWrite(write, &payload);
  }
  const std::uint64_t bytes = sizeof(GroupIntent) + payload.size();
  const std::uint64_t extent = opc_->Begin(0, "", bytes);
  if (extent == 0) return false;
  const std::uint64_t offset = Opc::PayloadAt(extent, 0, bytes);
  GroupIntent* record = RecordAt(offset);
  *record = {.next = *head_,
             .version = version,
             .payload_bytes = payload.size(),
             .checksum = ChecksumOf(version, payload)};
  std::memcpy(record + 1, payload.data(), payload.size());
  if (write_back_ != nullptr) {
    write_back_->Lines(record, bytes);
    write_back_->Fence();
  }
  SetLink(head_, offset);
  listed_.insert(listed_.begin(), {serial, extent, offset});
  return true;
}

void GroupIntents::Remove(std::uint64_t serial) {
  const auto listed = std::find_if(listed_.begin(), listed_.end(),
                                   [&](const Listed& other) { return other.serial == serial; });
  APTA_CHECK(listed != listed_.end());
  std::uint64_t* link = listed == listed_.begin() ? head_ : &RecordAt((listed - 1)->record)->next;
  SetLink(link, RecordAt(listed->record)->next);
  opc_->Release(listed->extent);
  listed_.erase(listed);
}

bool ForEachIntent(const std::byte* region, int shard,
                   const std::function<void(Version, const std::vector<GroupWrite>&)>& visit) {
  const auto& superblock = *reinterpret_cast<const fabric::Superblock*>(region);
  std::uint64_t offset = superblock.home[shard].group_intents;
  for (int walked = 0; offset != 0; ++walked) {
    GroupIntent record;
    if (walked == kMaxListed || offset < superblock.heap_offset || offset % 8 != 0 ||
        offset > superblock.region_bytes - sizeof(record)) {
      return false;
    }
    std::memcpy(&record, region + offset, sizeof(record));
    if (record.payload_bytes > superblock.region_bytes - offset - sizeof(record)) return false;
    const BytesView payload(region + offset + sizeof(record), record.payload_bytes);
    if (record.checksum != ChecksumOf(record.version, payload)) return false;
    const std::optional<std::vector<GroupWrite>> writes = fabric::ParseGroup(payload);
    if (!writes) return false;
    visit(record.version, *writes);
    offset = record.next;
  }
  return true;
}

}  // namespace apta::daemon
