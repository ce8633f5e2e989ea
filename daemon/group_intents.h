// What a home's commit groups are about to do to a region that is to outlive its memory server:
// written there whole before the first index slot changes, and taken away after the last one has.
// Recovery does again what it finds: all of a group is there after a kill at any moment, or
// nothing.
//
// Part of a home; one thread, no system call, no clock. The records of a shard's home are a list in
// the heap that begins in its HomeStatus; each change of it is one 8-byte store.
//
// Invariants
//   1. A record is whole, and durable where the region is, before the list names it.
//   2. While the list names it, its keys change by its group alone, and what it names stays: doing
//      it once more changes nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <type_traits>
#include <vector>

#include "daemon/opc.h"
#include "daemon/pool.h"
#include "fabric/group_message.h"

namespace apta::daemon {

// Followed by its writes, as in a request (fabric/group_message.h).
struct GroupIntent {
  std::uint64_t next;  // where the one before is, in the region; 0: there is none
  Version version;
  std::uint64_t payload_bytes;
  std::uint64_t checksum;  // of version and payload
};
static_assert(sizeof(GroupIntent) == 32 && std::is_trivially_copyable_v<GroupIntent>);

class GroupIntents {
 public:
  GroupIntents(Pool* pool, int shard, Opc* opc);

  // False: there is no room.
  bool Add(std::uint64_t serial, Version version,
           const std::map<int, std::vector<fabric::GroupWrite>>& writes_by_shard);
  void Remove(std::uint64_t serial);

 private:
  struct Listed {
    std::uint64_t serial;
    std::uint64_t extent;
    std::uint64_t record;
  };
  GroupIntent* RecordAt(std::uint64_t offset) const;
  void SetLink(std::uint64_t* link, std::uint64_t record);

  Pool* const pool_;
  Opc* const opc_;
  fabric::WriteBack* const write_back_;
  std::uint64_t* const head_;
  std::vector<Listed> listed_;  // the last one first, as in the region
};

// Calls `visit` with each record that the list of a shard's home has. False: one is damaged, and
// what is behind it is lost.
bool ForEachIntent(
    const std::byte* region, int shard,
    const std::function<void(Version, const std::vector<fabric::GroupWrite>&)>& visit);

}  // namespace apta::daemon
