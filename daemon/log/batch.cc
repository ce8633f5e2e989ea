#include "daemon/log/batch.h"

#include <algorithm>
#include <charconv>

#include "fabric/hash.h"
#include "fmt/format.h"

namespace apta::daemon::log {
namespace {

constexpr std::string_view kSegmentPrefix = "segment-";

// Of all of a header but its last word.
template <typename Header>
std::uint64_t ChecksumOf(const Header& header) {
  return XXH3_64bits(&header, sizeof(header) - sizeof(header.checksum));
}

template <typename Header>
std::optional<Header> ReadHeader(BytesView block, std::uint64_t magic) {
  Header header;
  if (block.size() < sizeof(header)) return std::nullopt;
  std::memcpy(&header, block.data(), sizeof(header));
  if (header.magic != magic || header.format != kFormatVersion ||
      header.checksum != ChecksumOf(header)) {
    return std::nullopt;
  }
  return header;
}

std::uint64_t ChecksumOfBatch(const std::byte* batch, BatchHeader header, std::uint64_t salt) {
  header.checksum = 0;
  const std::uint64_t of_header = XXH3_64bits_withSeed(&header, sizeof(header), salt);
  return XXH3_64bits_withSeed(batch + sizeof(header), header.bytes - sizeof(header), of_header);
}

}  // namespace

std::string SegmentName(std::uint32_t slot) { return fmt::format("{}{:04}", kSegmentPrefix, slot); }

std::uint32_t SegmentSlot(std::string_view name) {
  constexpr std::uint32_t kNone = ~std::uint32_t{0};
  if (!name.starts_with(kSegmentPrefix)) return kNone;
  const std::string_view digits = name.substr(kSegmentPrefix.size());
  std::uint32_t slot = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), slot);
  return SegmentName(slot) == name ? slot : kNone;
}

SegmentHeader MakeSegmentHeader(const LogId& log, std::uint64_t number, std::uint64_t first_batch,
                                std::uint64_t salt, std::uint64_t segment_bytes) {
  SegmentHeader header{.magic = kSegmentMagic,
                       .format = kFormatVersion,
                       .reserved = 0,
                       .log = log,
                       .number = number,
                       .first_batch = first_batch,
                       .salt = salt,
                       .segment_bytes = segment_bytes,
                       .checksum = 0};
  header.checksum = ChecksumOf(header);
  return header;
}

CheckpointHeader MakeCheckpointHeader(const LogId& log, std::uint64_t replay_from,
                                      std::uint64_t last_version, std::uint64_t salt) {
  CheckpointHeader header{.magic = kCheckpointMagic,
                          .format = kFormatVersion,
                          .reserved = 0,
                          .log = log,
                          .replay_from = replay_from,
                          .last_version = last_version,
                          .salt = salt,
                          .checksum = 0};
  header.checksum = ChecksumOf(header);
  return header;
}

std::optional<SegmentHeader> ReadSegmentHeader(BytesView block) {
  return ReadHeader<SegmentHeader>(block, kSegmentMagic);
}

std::optional<CheckpointHeader> ReadCheckpointHeader(BytesView block) {
  return ReadHeader<CheckpointHeader>(block, kCheckpointMagic);
}

BatchBuilder::BatchBuilder(std::uint64_t max_bytes)
    : max_bytes_(max_bytes),
      buffer_(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kBlockBytes + max_bytes))) {}

void BatchBuilder::Begin(std::uint64_t number, std::uint64_t room_bytes) {
  number_ = number;
  room_bytes_ = std::min(room_bytes, max_bytes_);
  bytes_ = sizeof(BatchHeader);
}

std::optional<std::uint64_t> BatchBuilder::Add(EntryHeader entry, std::string_view key,
                                               BytesView payload) {
  const std::uint64_t left_bytes = payload.size() - entry.part_offset;
  const std::uint64_t room = room_bytes_ - bytes_;  // a multiple of 8
  if (room < EntryBytes(key.size(), left_bytes > 0 ? 8 : 0)) return std::nullopt;
  entry.payload_bytes = payload.size();
  entry.key_bytes = static_cast<std::uint16_t>(key.size());
  entry.part_bytes =
      static_cast<std::uint32_t>(std::min(left_bytes, room - sizeof(EntryHeader) - key.size()));
  std::byte* to = batch() + bytes_;
  std::memcpy(to, &entry, sizeof(entry));
  key.copy(reinterpret_cast<char*>(to + sizeof(entry)), key.size());  // it may be empty
  if (entry.part_bytes > 0) {
    std::memcpy(to + sizeof(entry) + key.size(), payload.data() + entry.part_offset,
                entry.part_bytes);
  }
  const std::uint64_t used_bytes = sizeof(entry) + key.size() + entry.part_bytes;
  const std::uint64_t all_bytes = EntryBytes(key.size(), entry.part_bytes);
  std::memset(to + used_bytes, 0, all_bytes - used_bytes);
  bytes_ += all_bytes;
  return entry.part_bytes;
}

bool BatchBuilder::AddBare(const EntryHeader& entry) {
  if (room_bytes_ - bytes_ < sizeof(entry)) return false;
  std::memcpy(batch() + bytes_, &entry, sizeof(entry));
  bytes_ += sizeof(entry);
  return true;
}

BytesView BatchBuilder::Seal(std::uint64_t salt) {
  BatchHeader header{.magic = kBatchMagic,
                     .bytes = static_cast<std::uint32_t>(bytes_),
                     .number = number_,
                     .checksum = 0};
  header.checksum = ChecksumOfBatch(batch(), header, salt);
  std::memcpy(batch(), &header, sizeof(header));
  std::memset(batch() + bytes_, 0, sealed_bytes() - bytes_);
  return {batch(), sealed_bytes()};
}

std::uint64_t BatchBytes(BytesView bytes, std::uint64_t number) {
  BatchHeader header;
  if (bytes.size() < sizeof(header)) return 0;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != kBatchMagic || header.number != number || header.bytes < sizeof(header) ||
      header.bytes > kMaxBatchBytes || header.bytes % 8 != 0) {
    return 0;
  }
  return header.bytes;
}

bool IsWhole(BytesView batch, std::uint64_t salt) {
  BatchHeader header;
  std::memcpy(&header, batch.data(), sizeof(header));
  return header.checksum == ChecksumOfBatch(batch.data(), header, salt);
}

bool ForEachEntry(BytesView batch, const EntryVisitor& visit) {
  BatchHeader header;
  std::memcpy(&header, batch.data(), sizeof(header));
  BytesView rest = batch.subspan(sizeof(header), header.bytes - sizeof(header));
  while (!rest.empty()) {
    EntryHeader entry;
    if (rest.size() < sizeof(entry)) return false;
    std::memcpy(&entry, rest.data(), sizeof(entry));
    const std::uint64_t all_bytes = EntryBytes(entry.key_bytes, entry.part_bytes);
    if (all_bytes > rest.size()) return false;
    const BytesView body = rest.subspan(sizeof(entry));
    if (!visit(entry, AsText(body.subspan(0, entry.key_bytes)),
               body.subspan(entry.key_bytes, entry.part_bytes))) {
      return false;
    }
    rest.remove_prefix(all_bytes);
  }
  return true;
}

}  // namespace apta::daemon::log
