#include "daemon/log/log_reader.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "daemon/log/batch.h"
#include "daemon/log/checkpoint.h"
#include "fabric/coherence.h"
#include "fmt/format.h"

namespace apta::daemon::log {
namespace {

struct FoundSegment {
  Segment segment;
  std::uint64_t salt;
};

// One write of a record, put together from its parts.
struct ReadWrite {
  Version version = 0;
  bool is_delete = false;
  std::string key;
  std::uint64_t read_bytes = 0;  // of the payload
  Bytes parts;                   // them, if they are wanted
  BytesView payload;             // all of it
};

// Puts entries together to records, and calls `on_record` with each whole one. What is not a record
// from its first to its last entry is none.
class RecordAssembler {
 public:
  enum class Wants { kPayloads, kKeys };
  using OnRecord = std::function<absl::Status(const std::vector<ReadWrite>&)>;
  RecordAssembler(Wants wants, OnRecord on_record)
      : wants_payloads_(wants == Wants::kPayloads), on_record_(std::move(on_record)) {}

  // False: `status` says why.
  bool OnEntry(const EntryHeader& entry, std::string_view key, BytesView part) {
    if (entry.kind != EntryKind::kPut && entry.kind != EntryKind::kDelete) return true;
    if ((entry.flags & kFirstOfRecord) != 0 && entry.part_offset == 0) {
      writes_.clear();
      is_open_ = true;
    }
    if (!is_open_) return true;  // the rest of a record whose beginning is in a checkpoint
    if (entry.part_offset == 0) {
      writes_.push_back({.version = entry.version,
                         .is_delete = entry.kind == EntryKind::kDelete,
                         .key = std::string(key)});
    }
    ReadWrite& write = writes_.back();
    if (write.read_bytes != entry.part_offset) {
      is_open_ = false;
      return true;
    }
    write.read_bytes += part.size();
    const bool is_whole = write.read_bytes == entry.payload_bytes;
    const bool is_last = (entry.flags & kLastOfRecord) != 0 && is_whole;
    const bool is_record = is_last && writes_.size() == 1 && part.size() == entry.payload_bytes;
    if (wants_payloads_ && is_record) {
      write.payload = part;  // a put that stands in one batch: no copy
    } else if (wants_payloads_) {
      write.parts.insert(write.parts.end(), part.begin(), part.end());
      write.payload = write.parts;
    }
    if (!is_last) return true;
    is_open_ = false;
    status_ = on_record_(writes_);
    return status_.ok();
  }
  const absl::Status& status() const { return status_; }

 private:
  const bool wants_payloads_;
  const OnRecord on_record_;
  std::vector<ReadWrite> writes_;
  bool is_open_ = false;
  absl::Status status_;
};

// Batches of one file, one after the other, each in `buffer` (of kMaxBatchBytes) until the next.
class BatchReader {
 public:
  BatchReader(MediumFile* file, std::uint64_t salt, std::uint64_t end, Bytes* buffer)
      : file_(file), salt_(salt), end_(end), buffer_(*buffer) {}

  // nullopt: there is no whole batch of this number here.
  absl::StatusOr<std::optional<BytesView>> Next(std::uint64_t number) {
    if (position_ + kBlockBytes > end_) return std::nullopt;
    const absl::Span<std::byte> block(buffer_.data(), kBlockBytes);
    if (absl::Status read = file_->Read(position_, block); !read.ok()) return read;
    const std::uint64_t bytes = fabric::AlignUp(BatchBytes(block, number), kBlockBytes);
    if (bytes == 0 || bytes > end_ - position_) return std::nullopt;
    const absl::Span<std::byte> rest(buffer_.data() + kBlockBytes, bytes - kBlockBytes);
    if (!rest.empty()) {
      if (absl::Status read = file_->Read(position_ + kBlockBytes, rest); !read.ok()) return read;
    }
    const BytesView batch(buffer_.data(), bytes);
    if (!IsWhole(batch, salt_)) return std::nullopt;
    position_ += bytes;
    return batch;
  }
  std::uint64_t position() const { return position_; }

 private:
  MediumFile* const file_;
  const std::uint64_t salt_;
  const std::uint64_t end_;
  std::uint64_t position_ = kBlockBytes;
  Bytes& buffer_;
};

class Reader {
 public:
  Reader(Medium* medium, const ObjectVisitor& visit, const ReadProgress& on_progress)
      : medium_(medium), visit_(visit), on_progress_(on_progress) {}

  absl::StatusOr<LogContents> Read() {
    if (absl::Status found = FindFiles(); !found.ok()) return found;
    const auto note = [this](const std::vector<ReadWrite>& record) {
      ++contents_.replayed_records;
      for (const ReadWrite& write : record) {
        last_[write.key] = write.version;
        if (!fabric::Upholds(fabric::Rule::kVersionsGoOn)) continue;
        contents_.last_version = std::max(contents_.last_version, write.version);
      }
      return absl::OkStatus();
    };
    if (absl::Status read = ReadSegments(note, /*is_first=*/true); !read.ok()) return read;
    if (absl::Status read = ReadCheckpoint(); !read.ok()) return read;
    const auto replay = [this](const std::vector<ReadWrite>& record) -> absl::Status {
      for (const ReadWrite& write : record) {
        const auto last = last_.find(write.key);
        if (write.is_delete || last == last_.end() || last->second != write.version) {
          continue;
        }
        if (absl::Status visited = Visit({write.key, write.version, write.payload});
            !visited.ok()) {
          return visited;
        }
      }
      return absl::OkStatus();
    };
    if (absl::Status read = ReadSegments(replay, /*is_first=*/false); !read.ok()) return read;
    return std::move(contents_);
  }

 private:
  absl::Status Visit(const LoggedObject& object) {
    ++contents_.objects;
    return visit_(object);
  }

  absl::Status FindFiles() {
    absl::StatusOr<std::vector<std::string>> names = medium_->List();
    if (!names.ok()) return names.status();
    std::sort(names->begin(), names->end());
    const bool has_checkpoint =
        std::find(names->begin(), names->end(), kCheckpointName) != names->end();
    const bool has_segments = std::any_of(names->begin(), names->end(), [](const auto& name) {
      return SegmentSlot(name) != ~std::uint32_t{0};
    });
    if (!has_checkpoint && has_segments) {
      return absl::FailedPreconditionError(
          "there are segments of a log, but its file 'checkpoint' is missing; restore it, or name "
          "a "
          "new folder");
    }
    if (!has_checkpoint) return absl::NotFoundError("there is no log");
    if (absl::Status read = ReadCheckpointHead(); !read.ok()) return read;
    for (const std::string& name : *names) {
      if (name == kNewCheckpointName) contents_.garbage.push_back(name);
      const std::uint32_t slot = SegmentSlot(name);
      if (slot == ~std::uint32_t{0}) continue;
      if (absl::Status read = ReadSegmentHead(name, slot); !read.ok()) return read;
    }
    std::sort(segments_.begin(), segments_.end(),
              [](const auto& a, const auto& b) { return a.segment.number < b.segment.number; });
    Arrange();
    return absl::OkStatus();
  }

  absl::Status ReadCheckpointHead() {
    absl::StatusOr<std::unique_ptr<MediumFile>> file = medium_->Open(std::string(kCheckpointName));
    if (!file.ok()) return file.status();
    checkpoint_file_ = *std::move(file);
    std::array<std::byte, kBlockBytes> block{};
    absl::StatusOr<std::uint64_t> bytes = checkpoint_file_->Size();
    if (!bytes.ok()) return bytes.status();
    checkpoint_bytes_ = *bytes;
    if (checkpoint_bytes_ >= kBlockBytes) {
      if (absl::Status read = checkpoint_file_->Read(0, absl::MakeSpan(block)); !read.ok()) {
        return read;
      }
    }
    checkpoint_ = ReadCheckpointHeader(block);
    if (!checkpoint_) return DamagedCheckpoint("its first block");
    contents_.id = checkpoint_->log;
    contents_.last_version = checkpoint_->last_version;
    return absl::OkStatus();
  }

  static absl::Status DamagedCheckpoint(std::string_view where) {
    return absl::DataLossError(fmt::format(
        "the checkpoint is damaged (at {}): objects that are nowhere else are lost; restore the "
        "folder, or name a new one",
        where));
  }

  // A file without a valid header of this log is a free segment: nothing in it was acknowledged.
  absl::Status ReadSegmentHead(const std::string& name, std::uint32_t slot) {
    absl::StatusOr<std::unique_ptr<MediumFile>> file = medium_->Open(name);
    if (!file.ok()) return file.status();
    absl::StatusOr<std::uint64_t> bytes = (*file)->Size();
    if (!bytes.ok()) return bytes.status();
    std::array<std::byte, kBlockBytes> block{};
    if (*bytes >= kBlockBytes) {
      if (absl::Status read = (*file)->Read(0, absl::MakeSpan(block)); !read.ok()) return read;
    }
    const std::optional<SegmentHeader> header = ReadSegmentHeader(block);
    if (!header || header->log != contents_.id) {
      empty_.push_back({slot, *bytes});
      return absl::OkStatus();
    }
    if (header->segment_bytes < kMinSegmentBytes || header->segment_bytes % kBlockBytes != 0) {
      return absl::DataLossError(
          fmt::format("{} says that segments have {} bytes", name, header->segment_bytes));
    }
    contents_.segment_bytes = header->segment_bytes;
    contents_.begin.next_number = std::max(contents_.begin.next_number, header->number + 1);
    segments_.push_back(
        {{.slot = slot, .number = header->number, .first_batch = header->first_batch},
         header->salt});
    return absl::OkStatus();
  }

  // Which segments have batches that count (format.h, invariant 2), which are free.
  void Arrange() {
    std::vector<FoundSegment> counting;
    std::uint64_t end = ~std::uint64_t{0};
    const std::uint64_t from = checkpoint_->replay_from;
    for (auto found = segments_.rbegin(); found != segments_.rend(); ++found) {
      if (found->segment.first_batch < end && end > from) {
        counting.insert(counting.begin(), *found);
      } else {
        contents_.begin.free.push_back(found->segment.slot);
      }
      end = std::min(end, found->segment.first_batch);
    }
    segments_ = std::move(counting);
    for (const auto& [slot, bytes] : empty_) {
      if (bytes != 0 && bytes == contents_.segment_bytes) {
        contents_.begin.free.push_back(slot);
      } else {
        contents_.garbage.push_back(SegmentName(slot));
      }
    }
  }

  absl::Status ReadSegments(const RecordAssembler::OnRecord& on_record, bool is_first) {
    RecordAssembler assembler(
        is_first ? RecordAssembler::Wants::kKeys : RecordAssembler::Wants::kPayloads, on_record);
    const std::uint64_t from = checkpoint_->replay_from;
    std::uint64_t next = segments_.empty() ? from : segments_.front().segment.first_batch;
    if (next > from) {
      return absl::DataLossError(
          fmt::format("batches {} to {} of the log are missing: its oldest segment begins after "
                      "its checkpoint; "
                      "restore the folder, or name a new one",
                      from, next - 1));
    }
    for (std::size_t i = 0; i < segments_.size(); ++i) {
      const bool is_last = i + 1 == segments_.size();
      const std::uint64_t end = is_last ? ~std::uint64_t{0} : segments_[i + 1].segment.first_batch;
      if (!is_first) {
        const std::uint64_t known_end = std::min(end, contents_.begin.next_batch);
        if (absl::Status read = ReadSegment(segments_[i], &next, known_end, &assembler);
            !read.ok()) {
          return read;
        }
        continue;
      }
      if (absl::Status read = ReadSegment(segments_[i], &next, end, &assembler); !read.ok()) {
        return read;
      }
      contents_.begin.in_use.push_back(segments_[i].segment);
      if (is_last || next == end) continue;
      contents_.cut_at =
          fmt::format("batch {} in {}", next, SegmentName(segments_[i].segment.slot));
      contents_.cut_batches = segments_.back().segment.first_batch - next;
      for (std::size_t rest = i + 1; rest < segments_.size(); ++rest) {
        contents_.begin.in_use.push_back(segments_[rest].segment);
      }
      break;
    }
    if (is_first) {
      contents_.begin.replay_from = from;
      contents_.begin.next_batch = std::max(next, from);
    }
    return assembler.status();
  }

  absl::Status ReadSegment(const FoundSegment& found, std::uint64_t* next, std::uint64_t end,
                           RecordAssembler* assembler) {
    absl::StatusOr<std::unique_ptr<MediumFile>> file =
        medium_->Open(SegmentName(found.segment.slot));
    if (!file.ok()) return file.status();
    BatchReader batches(file->get(), found.salt, contents_.segment_bytes, &buffer_);
    const auto on_entry = [&](const EntryHeader& entry, std::string_view key, BytesView part) {
      return assembler->OnEntry(entry, key, part);
    };
    while (*next < end) {
      absl::StatusOr<std::optional<BytesView>> batch = batches.Next(*next);
      if (absl::IsOutOfRange(batch.status())) break;  // the file was cut off
      if (!batch.ok()) return batch.status();
      if (!*batch) break;
      // Before the checkpoint: nothing new, and the beginning of a record that goes on after it is
      // not needed either: what is not applied keeps its first batch (LogWriter, invariant 3).
      if (*next >= checkpoint_->replay_from && !ForEachEntry(**batch, on_entry)) {
        return assembler->status();
      }
      ++*next;
    }
    contents_.bytes_read += batches.position();
    TellProgress(0);
    return absl::OkStatus();
  }

  // `more_bytes` are not in bytes_read yet.
  void TellProgress(std::uint64_t more_bytes) {
    if (!on_progress_) return;
    const std::uint64_t log_bytes = segments_.size() * contents_.segment_bytes;
    on_progress_(contents_.bytes_read + more_bytes, 2 * log_bytes + checkpoint_bytes_);
  }

  absl::Status ReadCheckpoint() {
    BatchReader batches(checkpoint_file_.get(), checkpoint_->salt, checkpoint_bytes_, &buffer_);
    bool has_end = false;
    std::uint64_t until = 0;
    const auto visit = [this](const std::vector<ReadWrite>& record) -> absl::Status {
      ++contents_.checkpoint_objects;
      const ReadWrite& object = record.front();
      contents_.last_version = std::max(contents_.last_version, object.version);
      // A put of the log that is in the checkpoint as well, and whatever is older, comes from
      // there.
      const auto last = last_.find(object.key);
      if (last != last_.end() && last->second >= object.version) return absl::OkStatus();
      last_.erase(object.key);
      return Visit({object.key, object.version, object.payload});
    };
    RecordAssembler assembler(RecordAssembler::Wants::kPayloads, visit);
    const auto on_entry = [&](const EntryHeader& entry, std::string_view key, BytesView part) {
      has_end = entry.kind == EntryKind::kEnd && entry.version == contents_.checkpoint_objects;
      if (has_end) until = entry.part_offset;
      return assembler.OnEntry(entry, key, part);
    };
    for (std::uint64_t number = 1; !has_end; ++number) {
      absl::StatusOr<std::optional<BytesView>> batch = batches.Next(number);
      if (!batch.ok() && !absl::IsOutOfRange(batch.status())) return batch.status();
      if (!batch.ok() || !*batch) return DamagedCheckpoint(fmt::format("batch {}", number));
      ForEachEntry(**batch, on_entry);
      if (!assembler.status().ok()) return assembler.status();
      TellProgress(batches.position());
    }
    contents_.bytes_read += batches.position();
    if (until <= contents_.begin.next_batch) return absl::OkStatus();
    return absl::DataLossError(fmt::format(
        "the log ends at {}, but its checkpoint is of one moment only with the batches up to {}; "
        "restore the folder, or name a new one",
        contents_.cut_at.empty() ? fmt::format("batch {}", contents_.begin.next_batch)
                                 : contents_.cut_at,
        until));
  }

  Medium* const medium_;
  const ObjectVisitor& visit_;
  const ReadProgress& on_progress_;
  LogContents contents_;
  Bytes buffer_ = Bytes(kMaxBatchBytes);
  std::unique_ptr<MediumFile> checkpoint_file_;
  std::uint64_t checkpoint_bytes_ = 0;
  std::optional<CheckpointHeader> checkpoint_;
  std::vector<FoundSegment> segments_;  // that count, ascending
  std::vector<std::pair<std::uint32_t, std::uint64_t>> empty_;
  absl::flat_hash_map<std::string, Version> last_;  // put or delete, in the log
};

}  // namespace

absl::StatusOr<LogContents> ReadLog(Medium* medium, const ObjectVisitor& visit,
                                    const ReadProgress& on_progress) {
  return Reader(medium, visit, on_progress).Read();
}

absl::Status CreateLog(Medium* medium, const LogId& id, std::uint64_t salt) {
  auto checkpoint = CheckpointWriter::Begin(medium, id, 1, 0, salt);
  return checkpoint.ok() ? (*checkpoint)->Finish(1) : checkpoint.status();
}

}  // namespace apta::daemon::log
