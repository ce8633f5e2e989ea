#include "daemon/pool_objects.h"

#include <optional>

#include "daemon/config.h"
#include "daemon/opc.h"
#include "fabric/hash.h"
#include "fmt/format.h"

namespace apta::daemon {

absl::Status LoadObject(Pool* pool, const log::LoggedObject& object) {
  const std::uint64_t key_hash = fabric::KeyHash(object.key);
  const fabric::IndexView& view = pool->share(0).index.view();
  Opc opc(pool, static_cast<int>(view.ShardOf(key_hash)));
  const std::uint64_t bytes = object.payload.size();
  const std::uint64_t extent = opc.Begin(key_hash, object.key, bytes);
  fabric::IndexSlot* slot = extent != 0 ? opc.ReserveSlot(key_hash) : nullptr;
  if (slot == nullptr) {
    return absl::ResourceExhaustedError(fmt::format(
        "bytes={} is too small for the objects that its log holds (no room for one of {} more); "
        "give the pool more bytes",
        FormatBytes(pool->region().size_bytes()), FormatBytes(bytes)));
  }
  if (bytes > 0) {
    opc.Fill(Opc::PayloadAt(extent, object.key.size(), bytes), 0, object.payload.data(), bytes,
             bytes);
  }
  opc.Commit(slot, key_hash, extent, object.version);
  return absl::OkStatus();
}

absl::Status VisitObjects(const Pool& pool, const log::ObjectVisitor& visit) {
  const fabric::IndexView view(pool.data(), *pool.superblock());
  Bytes payload;
  absl::Status status;
  view.ForEachSlot([&](const fabric::IndexSlot& slot) {
    if (!status.ok()) return;
    const std::uint64_t word = slot.load(std::memory_order_acquire);  // partner: Commit
    const std::optional<fabric::IndexEntry> entry = view.ReadUnregistered(slot);
    if (!entry || entry->extent_offset != fabric::SlotExtentOffset(word)) return;
    fabric::ExtentHeader header;
    if (!view.CopyHeader(entry->extent_offset, &header)) return;
    if (header.version != entry->version) return;
    payload.resize(header.payload_bytes);
    const fabric::IndexView::Place place{
        .extent = entry->extent_offset, .version = entry->version, .slot = &slot, .word = word};
    if (!view.CopyUnregistered(place, header, entry->key, payload.data())) return;
    status = visit({entry->key, entry->version, payload});
  });
  return status;
}

}  // namespace apta::daemon
