// OPC, the Object Persistence Controller of one home: makes a whole object durable and visible in
// one phase. A fresh extent is filled where nobody can see it; one 8-byte store commits it.
//
// One thread; no system call; a slice of Fill is the only thing that takes time.
//
// Invariants
//   1. Until Commit no index slot names the extent. What a pool of durability `log` promises is so
//      before the commit store (commit_group.h); nothing comes after it.
//   2. A header's version is 0 from its extent's release until the next one at its place is whole:
//      an unregistered reader of a reused extent notices (index.h, invariant 4).
//   3. Versions are strictly increasing over the pool's whole life.
//   4. On persistent memory an extent is durable before a slot names it, and a slot's change before
//      the commit returns, and so before anybody is answered or the old extent released.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "apta/object.h"
#include "daemon/pool.h"

namespace apta::daemon {

class Opc {
 public:
  Opc(Pool* pool, int shard)
      : pool_(pool), share_(&pool->share(shard)), write_back_(share_->write_back) {}

  // A fresh extent with its header and key written; 0 = no room. An empty key makes an extent that
  // can never be committed: a message's payload.
  std::uint64_t Begin(std::uint64_t key_hash, std::string_view key, std::uint64_t payload_bytes);
  // Copies a part of a payload to where it belongs: `payload` as given by PayloadAt for what Begin
  // was asked for, never by the header, which clients of a trusted pool can write.
  static std::uint64_t PayloadAt(std::uint64_t extent, std::uint64_t key_bytes,
                                 std::uint64_t payload_bytes) {
    return extent + fabric::PayloadOffset(key_bytes, payload_bytes);
  }
  void Fill(std::uint64_t payload, std::uint64_t payload_position, const std::byte* from,
            std::uint64_t bytes, std::uint64_t payload_bytes);

  Version NextVersion();
  // Visible from here on. REQUIRES: `version` is from NextVersion, the payload is whole, `key_hash`
  // is that of Begin.
  void Commit(fabric::IndexSlot* slot, std::uint64_t key_hash, std::uint64_t extent,
              Version version);
  void CommitDelete(fabric::IndexSlot* slot);
  // A gravestone in place of an object that is damaged.
  void Bury(fabric::IndexSlot* slot, std::uint64_t key_hash);
  // Takes away the gravestone of a key that has no object. False: there is none.
  bool Exhume(std::uint64_t key_hash);

  // Keeps a reserved slot for the commit of an extent that Begin made, and gives it up.
  void Hold(fabric::IndexSlot* slot, std::uint64_t key_hash, std::uint64_t extent);
  void Unhold(fabric::IndexSlot* slot);

  // Makes durable what Begin and Fill have written, and that the slot is held, or as it was.
  void PersistDraft(std::uint64_t extent, const fabric::IndexSlot* slot) {
    if (write_back_ == nullptr) return;
    PersistHeader(extent);
    PersistSlot(slot);
  }

  // Room for a key that has no slot yet; nullptr = the index cannot grow.
  fabric::IndexSlot* ReserveSlot(std::uint64_t key_hash) { return share_->index.Reserve(key_hash); }
  // Gives an extent back that nobody can read. False: there was none, the index or a header of a
  // trusted pool has been tampered with.
  bool Release(std::uint64_t extent);
  std::uint64_t LiveBytes(std::uint64_t extent) const { return share_->objects.LiveBytes(extent); }

  // The key of an extent that Begin made for `key_hash`, or nullopt: writers of a trusted pool can
  // write to its header, and this one's no longer says what it did. Copied to `buffer` there.
  using KeyBuffer = std::array<char, fabric::kMaxKeyBytes>;
  std::optional<std::string_view> KeyOf(std::uint64_t extent, std::uint64_t key_hash,
                                        KeyBuffer* buffer) const {
    return pool_->trusted() ? CheckedKeyOf(extent, key_hash, buffer) : header(extent)->key();
  }

  const fabric::ExtentHeader* header(std::uint64_t extent) const {
    return reinterpret_cast<const fabric::ExtentHeader*>(pool_->data() + extent);
  }
  std::uint64_t used_bytes() const { return share_->objects.used_bytes(); }
  std::uint64_t capacity_bytes() const { return share_->objects.capacity_bytes(); }

 private:
  std::optional<std::string_view> CheckedKeyOf(std::uint64_t extent, std::uint64_t key_hash,
                                               KeyBuffer* buffer) const;
  fabric::ExtentHeader* mutable_header(std::uint64_t extent) const {
    return reinterpret_cast<fabric::ExtentHeader*>(pool_->data() + extent);
  }

  void PersistHeader(std::uint64_t extent);
  void PersistSlot(const fabric::IndexSlot* slot);

  Pool* pool_;
  HeapShare* share_;
  fabric::WriteBack* write_back_;
};

}  // namespace apta::daemon
