#include "daemon/opc.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "fabric/copy.h"
#include "fabric/hash.h"

namespace apta::daemon {

using fabric::ExtentHeader;

std::uint64_t Opc::Begin(std::uint64_t key_hash, std::string_view key,
                         std::uint64_t payload_bytes) {
  const std::uint64_t extent =
      share_->objects.Allocate(fabric::ExtentBytes(key.size(), payload_bytes));
  if (extent == 0) return 0;
  // Relaxed: a statistic that other threads read.
  share_->used_bytes.store(share_->objects.used_bytes(), std::memory_order_relaxed);
  ExtentHeader* header = mutable_header(extent);
  // Invariant 2. An exchange, because the stores below may not move above it; partner: the second
  // look at the version in IndexView::ReadUnregistered.
  std::atomic_ref<std::uint64_t>(header->version).exchange(0, std::memory_order_acq_rel);
  header->payload_bytes = payload_bytes;
  header->key_hash = key_hash;
  header->checksum = 0;
  header->payload_offset =
      static_cast<std::uint32_t>(fabric::PayloadOffset(key.size(), payload_bytes));
  header->key_bytes = static_cast<std::uint16_t>(key.size());
  header->reserved = 0;
  std::copy(key.begin(), key.end(), reinterpret_cast<char*>(header + 1));
  return extent;
}

void Opc::Fill(std::uint64_t payload, std::uint64_t payload_position, const std::byte* from,
               std::uint64_t bytes, std::uint64_t payload_bytes) {
  std::byte* const to = pool_->data() + payload + payload_position;
  fabric::CopyToExtent(to, from, bytes, payload_bytes);
  if (write_back_ != nullptr) write_back_->Lines(to, bytes);
}

bool Opc::Release(std::uint64_t extent) {
  if (!share_->objects.Free(extent)) return false;
  // Invariant 2; nothing is allocated between. It holds also when the memory is cut into other
  // extents than before: what is written into the middle of this one does not touch its header, and
  // its readers look at nothing else. An exchange, because those writes may not move above it.
  std::atomic_ref<std::uint64_t>(mutable_header(extent)->version)
      .exchange(0, std::memory_order_acq_rel);
  share_->used_bytes.store(share_->objects.used_bytes(), std::memory_order_relaxed);
  return true;
}

std::optional<std::string_view> Opc::CheckedKeyOf(std::uint64_t extent, std::uint64_t key_hash,
                                                  KeyBuffer* buffer) const {
  ExtentHeader copy;
  if (!share_->index.view().CopyHeader(extent, &copy) || copy.key_hash != key_hash ||
      fabric::ExtentBytes(copy.key_bytes, copy.payload_bytes) > LiveBytes(extent)) {
    return std::nullopt;
  }
  std::memcpy(buffer->data(), header(extent)->key_data(), copy.key_bytes);
  const std::string_view key(buffer->data(), copy.key_bytes);
  if (fabric::KeyHash(key) != key_hash) return std::nullopt;
  return key;
}

Version Opc::NextVersion() {
  // Relaxed: only uniqueness and growth matter between shards; a version becomes visible with the
  // commit store. Invariant 3.
  return pool_->superblock()->last_version.fetch_add(1, std::memory_order_relaxed) + 1;
}

void Opc::Commit(fabric::IndexSlot* slot, std::uint64_t key_hash, std::uint64_t extent,
                 Version version) {
  ExtentHeader* header = mutable_header(extent);
  // Empty, or held for this commit. Relaxed: ours alone to write.
  const bool is_new = !fabric::SlotTagMatches(slot->load(std::memory_order_relaxed), key_hash);
  // Release: the header and the payload are whole before the version says so (invariant 2).
  std::atomic_ref<std::uint64_t>(header->version).store(version, std::memory_order_release);
  if (write_back_ != nullptr) PersistHeader(extent);
  fabric::IndexWriter::Commit(slot, key_hash, extent);
  if (write_back_ != nullptr) PersistSlot(slot);
  if (!is_new) return;
  share_->live_objects.fetch_add(1, std::memory_order_relaxed);  // a statistic
  if (share_->damaged_objects.load(std::memory_order_relaxed) != 0) Exhume(key_hash);
}

// Invariant 4; what Fill wrote, too.
void Opc::PersistHeader(std::uint64_t extent) {
  write_back_->Lines(header(extent), sizeof(ExtentHeader) + header(extent)->key_bytes);
  write_back_->Fence();
}

// With the version that it took, so that none is used twice (invariant 3).
void Opc::PersistSlot(const fabric::IndexSlot* slot) {
  write_back_->Lines(&pool_->superblock()->last_version, sizeof(Version));
  write_back_->Lines(slot, sizeof(*slot));
  write_back_->Fence();
}

void Opc::Bury(fabric::IndexSlot* slot, std::uint64_t key_hash) {
  fabric::IndexWriter::Bury(slot, key_hash);
  if (write_back_ != nullptr) PersistSlot(slot);
  share_->live_objects.fetch_sub(1, std::memory_order_relaxed);     // statistics, but for this
  share_->damaged_objects.fetch_add(1, std::memory_order_relaxed);  // thread
}

bool Opc::Exhume(std::uint64_t key_hash) {
  if (share_->damaged_objects.load(std::memory_order_relaxed) == 0) return false;  // as above
  fabric::IndexSlot* slot = share_->index.FindGravestone(key_hash);
  if (slot == nullptr) return false;
  fabric::IndexWriter::Erase(slot);
  if (write_back_ != nullptr) PersistSlot(slot);
  share_->damaged_objects.fetch_sub(1, std::memory_order_relaxed);
  return true;
}

void Opc::Hold(fabric::IndexSlot* slot, std::uint64_t key_hash, std::uint64_t extent) {
  if (write_back_ != nullptr) PersistHeader(extent);  // recovery can tell that it is held
  fabric::IndexWriter::Hold(slot, key_hash, extent);
}

void Opc::Unhold(fabric::IndexSlot* slot) {
  fabric::IndexWriter::Erase(slot);
  if (write_back_ != nullptr) PersistSlot(slot);
}

void Opc::CommitDelete(fabric::IndexSlot* slot) {
  fabric::IndexWriter::Erase(slot);
  if (write_back_ != nullptr) PersistSlot(slot);
  share_->live_objects.fetch_sub(1, std::memory_order_relaxed);  // a statistic
}

}  // namespace apta::daemon
