// Batches: the unit in which a log, or a checkpoint, is written and believed.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "absl/types/span.h"
#include "apta/object.h"
#include "daemon/log/format.h"

namespace apta::daemon::log {

// Header blocks, valid for the medium.
SegmentHeader MakeSegmentHeader(const LogId& log, std::uint64_t number, std::uint64_t first_batch,
                                std::uint64_t salt, std::uint64_t segment_bytes);
CheckpointHeader MakeCheckpointHeader(const LogId& log, std::uint64_t replay_from,
                                      std::uint64_t last_version, std::uint64_t salt);
// nullopt: this block is no such header.
std::optional<SegmentHeader> ReadSegmentHeader(BytesView block);
std::optional<CheckpointHeader> ReadCheckpointHeader(BytesView block);

// Builds one batch at a time in a buffer of its own, aligned for direct writes, with a block before
// it that a header may go out in. One thread.
class BatchBuilder {
 public:
  explicit BatchBuilder(std::uint64_t max_bytes);  // of a batch; whole blocks

  // An empty batch of at most `room_bytes`, whole blocks.
  void Begin(std::uint64_t number, std::uint64_t room_bytes);
  // Adds an entry with as much of `payload` from `entry.part_offset` on as fits; sets its sizes.
  // Returns how much that was, or nullopt when not even the key fits.
  std::optional<std::uint64_t> Add(EntryHeader entry, std::string_view key, BytesView payload);
  // Adds an entry without key and payload as it is. False: there is no room.
  bool AddBare(const EntryHeader& entry);
  std::uint64_t number() const { return number_; }

  // The batch as it goes out: whole blocks, checksummed from `salt`; again with another salt if it
  // has to. Valid until Begin.
  BytesView Seal(std::uint64_t salt);
  // Header and batch in one piece. REQUIRES: sealed.
  template <typename Header>
  BytesView WithHeader(const Header& header) {
    std::memset(buffer_.get(), 0, kBlockBytes);
    std::memcpy(buffer_.get(), &header, sizeof(header));
    return {buffer_.get(), kBlockBytes + fabric::AlignUp(bytes_, kBlockBytes)};
  }
  std::uint64_t sealed_bytes() const { return fabric::AlignUp(bytes_, kBlockBytes); }

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::byte* batch() const { return buffer_.get() + kBlockBytes; }

  const std::uint64_t max_bytes_;
  std::unique_ptr<std::byte[], Free> buffer_;
  std::uint64_t number_ = 0;
  std::uint64_t room_bytes_ = 0;
  std::uint64_t bytes_ = sizeof(BatchHeader);
};

// How many bytes the batch has that these bytes, a block at least, begin: 0 = none has this number.
// Says nothing about its checksum, for which all of it must be there.
std::uint64_t BatchBytes(BytesView bytes, std::uint64_t number);
// Whether all of it is what was written.
bool IsWhole(BytesView batch, std::uint64_t salt);
// Calls `visit` with each entry of a whole batch, its key and its part of the payload, until it
// returns false. False: it did, or the entries are not such as a log has.
using EntryVisitor = std::function<bool(const EntryHeader&, std::string_view, BytesView)>;
bool ForEachEntry(BytesView batch, const EntryVisitor& visit);

}  // namespace apta::daemon::log
