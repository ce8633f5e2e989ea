#include "daemon/log/checkpoint.h"

#include <array>

namespace apta::daemon::log {

CheckpointWriter::CheckpointWriter(Medium* medium, std::unique_ptr<MediumFile> file,
                                   std::uint64_t salt)
    : medium_(medium), file_(std::move(file)), salt_(salt), batch_(kMaxBatchBytes) {
  batch_.Begin(next_batch_, kMaxBatchBytes);
}

absl::StatusOr<std::unique_ptr<CheckpointWriter>> CheckpointWriter::Begin(Medium* medium,
                                                                          const LogId& id,
                                                                          std::uint64_t replay_from,
                                                                          Version last_version,
                                                                          std::uint64_t salt) {
  absl::StatusOr<std::unique_ptr<MediumFile>> file =
      medium->Create(std::string(kNewCheckpointName));
  if (!file.ok()) return file.status();
  const CheckpointHeader header = MakeCheckpointHeader(id, replay_from, last_version, salt);
  std::array<std::byte, kBlockBytes> block{};
  std::memcpy(block.data(), &header, sizeof(header));
  if (absl::Status written = (*file)->Write(0, block); !written.ok()) return written;
  return std::unique_ptr<CheckpointWriter>(new CheckpointWriter(medium, *std::move(file), salt));
}

absl::Status CheckpointWriter::Add(const LoggedObject& object) {
  ++objects_;
  return AddEntry({.version = object.version,
                   .payload_bytes = 0,
                   .part_offset = 0,
                   .part_bytes = 0,
                   .key_bytes = 0,
                   .kind = EntryKind::kPut,
                   .flags = kFirstOfRecord | kLastOfRecord},
                  object.key, object.payload);
}

absl::Status CheckpointWriter::AddEntry(EntryHeader entry, std::string_view key,
                                        BytesView payload) {
  while (true) {
    if (entry.part_offset > 0) entry.flags &= static_cast<std::uint8_t>(~kFirstOfRecord);
    const std::optional<std::uint64_t> added =
        batch_.Add(entry, entry.part_offset == 0 ? key : std::string_view(), payload);
    if (added) entry.part_offset += *added;
    if (added && entry.part_offset == payload.size()) return absl::OkStatus();
    if (absl::Status flushed = Flush(); !flushed.ok()) return flushed;
  }
}

absl::Status CheckpointWriter::Flush() {
  const BytesView bytes = batch_.Seal(salt_);
  if (absl::Status written = file_->Write(position_, bytes); !written.ok()) return written;
  position_ += bytes.size();
  batch_.Begin(++next_batch_, kMaxBatchBytes);
  return absl::OkStatus();
}

absl::Status CheckpointWriter::Finish(std::uint64_t replay_until) {
  const EntryHeader end{.version = objects_,
                        .payload_bytes = 0,
                        .part_offset = replay_until,
                        .part_bytes = 0,
                        .key_bytes = 0,
                        .kind = EntryKind::kEnd,
                        .flags = 0};
  if (!batch_.AddBare(end)) {
    if (absl::Status flushed = Flush(); !flushed.ok()) return flushed;
    batch_.AddBare(end);
  }
  if (absl::Status flushed = Flush(); !flushed.ok()) return flushed;
  if (absl::Status synced = file_->Sync(); !synced.ok()) return synced;
  return medium_->Rename(std::string(kNewCheckpointName), std::string(kCheckpointName));
}

}  // namespace apta::daemon::log
