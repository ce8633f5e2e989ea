// Recovery of a region that somebody has written before: what of it can be believed.
//
// Goes through the whole index, judges every object, rebuilds the shares' object managers from what
// is whole, and takes the rest out of the index. Works on memory that nobody else changes: the
// memory server's own before it serves, or a private copy of a file (`apta fsck`).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "apta/object.h"

namespace apta::daemon {

struct HeapShare;

struct Recovery {
  static constexpr std::size_t kMaxFindings = 1000;

  std::uint64_t objects = 0;
  std::uint64_t half_made = 0;  // of transactions that were cut short; dropped
  std::uint64_t damaged = 0;    // objects and chains of them, not those that were buried before
  std::uint64_t buried = 0;     // those
  std::uint64_t lost_chains = 0;
  Version last_version = 0;
  std::uint64_t redone = 0;                   // transactions that had been cut short
  std::vector<std::uint64_t> redone_extents;  // whose headers were changed for them
  std::vector<std::string> findings;  // what is damaged, one line each, the first kMaxFindings
};

// Transactions that were recorded (group_intents.h) are done again; their records stay in the
// lists until all this is durable, and the caller clears those. What of an object was damaged is
// replaced by a gravestone if `buries`, else it is as if it had
// never been; but if whole chains of objects are lost then, nothing is changed and the shares are
// of no use. REQUIRES: the superblock is valid, `shares` are all of its shards, fresh.
// `on_progress` is told which share (0 to 1) of the index has been gone through.
Recovery Recover(std::byte* region, const std::vector<std::unique_ptr<HeapShare>>& shares,
                 bool buries, const std::function<void(double)>& on_progress = {});

// A key, or as much of it as a log line should hold, in quotes.
std::string Quoted(std::string_view key);

}  // namespace apta::daemon
