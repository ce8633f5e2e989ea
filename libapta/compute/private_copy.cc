#include "compute/private_copy.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>

#include "fabric/check.h"

namespace apta::compute {

using fabric::ExtentHeader;

PrivateCopy::Owner PrivateCopy::Make(const fabric::IndexView& view,
                                     const fabric::IndexView::Place& place, std::string_view key) {
  const std::optional<ExtentHeader> header = view.CheckedHeaderAt(place.extent);
  if (!header || header->version != place.version || header->key_bytes != key.size()) {
    return nullptr;
  }
  const std::uint64_t payload_offset =
      fabric::AlignUp(sizeof(ExtentHeader) + key.size(), fabric::kCacheLineBytes);
  const std::uint64_t bytes = fabric::AlignUp(
      sizeof(PrivateCopy) + payload_offset + header->payload_bytes, fabric::kCacheLineBytes);
  void* memory = std::aligned_alloc(fabric::kCacheLineBytes, bytes);
  APTA_CHECK(memory != nullptr);
  Owner copy(new (memory) PrivateCopy);
  auto* own = reinterpret_cast<std::byte*>(copy.get() + 1);
  std::memcpy(own + sizeof(ExtentHeader), key.data(), key.size());
  if (!view.CopyUnregistered(place, *header, key, own + payload_offset)) return nullptr;
  ExtentHeader own_header = *header;
  own_header.payload_offset = static_cast<std::uint32_t>(payload_offset);
  std::memcpy(own, &own_header, sizeof(own_header));
  return copy;
}

void PrivateCopy::Drop() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  this->~PrivateCopy();
  std::free(this);
}

}  // namespace apta::compute
