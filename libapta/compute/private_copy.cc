#include "compute/private_copy.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "fabric/check.h"

namespace apta::compute {

using fabric::ExtentHeader;

namespace {

void* AlignedIn(void* block) {
  const auto address = reinterpret_cast<std::uintptr_t>(block);
  return reinterpret_cast<void*>(fabric::AlignUp(address, fabric::kCacheLineBytes));
}

}  // namespace

PrivateCopy::Owner PrivateCopy::Make(const fabric::IndexView& view,
                                     const fabric::IndexView::Place& place, std::string_view key) {
  ExtentHeader header = place.header;
  if (place.slot == nullptr && !view.CopyHeader(place.extent, &header)) return nullptr;
  if (header.version != place.version || header.key_bytes != key.size()) return nullptr;
  const std::uint64_t payload_offset =
      fabric::AlignUp(sizeof(ExtentHeader) + key.size(), fabric::kCacheLineBytes);
  const std::uint64_t bytes = sizeof(PrivateCopy) + payload_offset + header.payload_bytes;
  // Aligned by hand: what is allocated with an alignment passes by the allocator's quick lists.
  void* const block = std::malloc(bytes + fabric::kCacheLineBytes);
  APTA_CHECK(block != nullptr);
  Owner copy(new (AlignedIn(block)) PrivateCopy(block));
  auto* own = reinterpret_cast<std::byte*>(copy.get() + 1);
  std::memcpy(own + sizeof(ExtentHeader), key.data(), key.size());
  if (!view.CopyUnregistered(place, header, key, own + payload_offset)) return nullptr;
  header.payload_offset = static_cast<std::uint32_t>(payload_offset);
  std::memcpy(own, &header, sizeof(header));
  return copy;
}

void PrivateCopy::Drop() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  void* const block = block_;
  this->~PrivateCopy();
  std::free(block);
}

}  // namespace apta::compute
