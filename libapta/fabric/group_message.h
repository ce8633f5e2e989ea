// What a request says about a commit group: writes of several keys that become visible together.
//
// The payload of kCommitGroup and kEffects is a sequence of [GroupEntry][key, padded to 8 bytes]. A
// put names what a kPut with kKeepBack was answered with, a delete its key. Hostile, as all that a
// client writes: ParseGroup works on a private copy.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/types/span.h"
#include "fabric/extent.h"
#include "fabric/message.h"

namespace apta::fabric {

// Bounds what one step of a home does.
inline constexpr std::uint64_t kMaxGroupWrites = 4096;

struct GroupEntry {
  std::uint64_t key_hash;
  std::uint64_t draft;  // 0: a delete
  std::uint64_t if_version;
  std::uint32_t key_bytes;  // that follow; 0 of a put
  std::uint32_t reserved;
};
static_assert(sizeof(GroupEntry) == 32 && alignof(GroupEntry) == 8);
static_assert(std::is_trivially_copyable_v<GroupEntry> && std::is_standard_layout_v<GroupEntry>);

inline constexpr std::uint64_t kMaxGroupBytes =
    kMaxGroupWrites * (sizeof(GroupEntry) + kMaxKeyBytes);

// One write of a group.
struct GroupWrite {
  std::uint64_t key_hash = 0;
  std::uint64_t draft = 0;  // 0: a delete
  std::uint64_t if_version = kAnyVersion;
  std::string key;          // of a delete
  std::uint32_t index = 0;  // in the request
};

inline void AppendGroupWrite(const GroupWrite& write, std::vector<std::byte>* payload) {
  const GroupEntry entry{.key_hash = write.key_hash,
                         .draft = write.draft,
                         .if_version = write.if_version,
                         .key_bytes = static_cast<std::uint32_t>(write.key.size()),
                         .reserved = 0};
  const std::size_t at = payload->size();
  payload->resize(at + sizeof(entry) + AlignUp(write.key.size(), alignof(GroupEntry)));
  std::memcpy(payload->data() + at, &entry, sizeof(entry));
  std::memcpy(payload->data() + at + sizeof(entry), write.key.data(), write.key.size());
}

// nullopt: it is no sequence of entries, or one of too many. Says nothing about keys and drafts.
inline std::optional<std::vector<GroupWrite>> ParseGroup(absl::Span<const std::byte> payload) {
  std::vector<GroupWrite> writes;
  while (!payload.empty()) {
    GroupEntry entry;
    if (writes.size() == kMaxGroupWrites || payload.size() < sizeof(entry)) return std::nullopt;
    std::memcpy(&entry, payload.data(), sizeof(entry));
    payload.remove_prefix(sizeof(entry));
    const std::uint64_t padded_bytes = AlignUp(entry.key_bytes, alignof(GroupEntry));
    const bool is_delete = entry.draft == 0;
    if (entry.key_bytes > kMaxKeyBytes || payload.size() < padded_bytes ||
        is_delete != (entry.key_bytes > 0)) {
      return std::nullopt;
    }
    writes.push_back(
        {.key_hash = entry.key_hash,
         .draft = entry.draft,
         .if_version = entry.if_version,
         .key = std::string(reinterpret_cast<const char*>(payload.data()), entry.key_bytes),
         .index = static_cast<std::uint32_t>(writes.size())});
    payload.remove_prefix(padded_bytes);
  }
  return writes;
}

}  // namespace apta::fabric
