// What a durable log looks like on its medium: a folder of segments and one checkpoint.
//
//   segment-NNNN   [SegmentHeader, one block][batch]...    of one size, zeroed once, overwritten
//   for ever checkpoint     [CheckpointHeader, one block][batch]... whole before it gets this name
//   batch          [BatchHeader][entry]..., filled up with zeros to whole blocks
//   entry          [EntryHeader][key][a part of the payload], filled up to 8 bytes
//
// Numbers are this machine's (little-endian). Batches are numbered through the log's whole life; a
// record (a put, a delete, or all writes of a commit group) is a run of entries, of one batch or of
// several, from kFirstOfRecord to kLastOfRecord.
//
// Invariants
//   1. No block that holds something acknowledged is written again until its segment is reused: a
//      torn write harms nothing but itself.
//   2. A segment's batches end where the next segment's first one begins, whatever stands behind.
//      So a write whose fate is unknown (the disk failed, its memory server was killed) is without
//      effect once there is a segment that begins with its number.
//   3. A batch's checksum starts from its segment's salt, which is new whenever a segment begins:
//   what
//      an earlier life of the blocks left behind, or a client put into a payload, is no batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "apta/object.h"
#include "fabric/extent.h"

namespace apta::daemon::log {

inline constexpr std::uint64_t kBlockBytes = 4096;  // what O_DIRECT asks of any disk in use
// An object of a megabyte goes in one write, and several together.
inline constexpr std::uint64_t kMaxBatchBytes = std::uint64_t{4} << 20;
inline constexpr std::uint32_t kFormatVersion = 1;
inline constexpr std::uint64_t kSegmentMagic = 0x31474553'41545041;     // "APTASEG1"
inline constexpr std::uint64_t kCheckpointMagic = 0x31504b43'41545041;  // "APTACKP1"
inline constexpr std::uint32_t kBatchMagic = 0x48544142;                // "BATH"
inline constexpr std::string_view kCheckpointName = "checkpoint";
inline constexpr std::string_view kNewCheckpointName = "checkpoint.new";

std::string SegmentName(std::uint32_t slot);
// Which segment has this name; ~0 = it is no segment's.
std::uint32_t SegmentSlot(std::string_view name);

struct LogId {
  std::uint64_t word[2] = {0, 0};
  bool operator==(const LogId&) const = default;
};

struct SegmentHeader {
  std::uint64_t magic;
  std::uint32_t format;
  std::uint32_t reserved;
  LogId log;
  std::uint64_t number;       // of segments, through the log's life
  std::uint64_t first_batch;  // invariant 2
  std::uint64_t salt;         // invariant 3
  std::uint64_t segment_bytes;
  std::uint64_t checksum;  // of all above
};
static_assert(sizeof(SegmentHeader) == 72 && std::is_trivially_copyable_v<SegmentHeader>);

struct CheckpointHeader {
  std::uint64_t magic;
  std::uint32_t format;
  std::uint32_t reserved;
  LogId log;
  std::uint64_t replay_from;  // the first batch that is not, or not all, in the checkpoint
  std::uint64_t last_version;
  std::uint64_t salt;      // of its batches, which count from 1
  std::uint64_t checksum;  // of all above
};
static_assert(sizeof(CheckpointHeader) == 64 && std::is_trivially_copyable_v<CheckpointHeader>);

struct BatchHeader {
  std::uint32_t magic;
  std::uint32_t bytes;  // this header and the entries
  std::uint64_t number;
  std::uint64_t checksum;  // of all, with 0 here
};
static_assert(sizeof(BatchHeader) == 24 && std::is_trivially_copyable_v<BatchHeader>);

enum class EntryKind : std::uint8_t {
  kPut = 1,
  kDelete,
  kEnd,  // of a checkpoint: version says how many objects there are, part_offset up to which batch
         // the log must be whole
};
inline constexpr std::uint8_t kFirstOfRecord = 1;
inline constexpr std::uint8_t kLastOfRecord = 2;

struct EntryHeader {
  std::uint64_t version;
  std::uint64_t payload_bytes;  // of the whole object
  std::uint64_t part_offset;    // of what follows, in the payload; the key stands with part 0 alone
  std::uint32_t part_bytes;
  std::uint16_t key_bytes;
  EntryKind kind;
  std::uint8_t flags;
};
static_assert(sizeof(EntryHeader) == 32 && std::is_trivially_copyable_v<EntryHeader>);

constexpr std::uint64_t EntryBytes(std::uint64_t key_bytes, std::uint64_t part_bytes) {
  return fabric::AlignUp(sizeof(EntryHeader) + key_bytes + part_bytes, 8);
}

// The smallest segment takes the header, and a batch that surely gets a record on.
inline constexpr std::uint64_t kMinSegmentBytes = 16 * kBlockBytes;
static_assert(kBlockBytes - sizeof(BatchHeader) > EntryBytes(fabric::kMaxKeyBytes, 8));

// One object as a log knows it.
struct LoggedObject {
  std::string_view key;
  Version version = 0;
  BytesView payload;
};

}  // namespace apta::daemon::log
