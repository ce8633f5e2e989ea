#include "tests/sim/disk_log.h"

#include <algorithm>

#include "fmt/format.h"

namespace apta::sim {

using daemon::log::kMinSegmentBytes;
using daemon::log::LogContents;
using daemon::log::LogWriter;
using daemon::log::SegmentName;

absl::StatusOr<LogContents> DiskLog::Open(const daemon::log::ObjectVisitor& visit) {
  absl::StatusOr<LogContents> found = daemon::log::ReadLog(disk_, visit);
  if (absl::IsNotFound(found.status())) {
    const daemon::log::LogId id{{RandomWord(), RandomWord()}};
    if (absl::Status made = daemon::log::CreateLog(disk_, id, RandomWord()); !made.ok()) {
      return made;
    }
    found = daemon::log::ReadLog(disk_, visit);
  }
  if (!found.ok()) return found.status();
  for (const std::string& name : found->garbage) disk_->Remove(name).IgnoreError();
  id_ = found->id;
  writer_ =
      std::make_unique<LogWriter>(LogWriter::Options{.id = id_,
                                                     .salt = RandomWord(),
                                                     .segment_bytes = kMinSegmentBytes,
                                                     .checkpoint_after_bytes = kMinSegmentBytes},
                                  found->begin);
  return found;
}

void DiskLog::Append(daemon::LogRecord record) {
  records_.push_back(std::move(record));
  StepSoon();
}

// Read with the next record, as PoolLog does.
void DiskLog::Applied(int shard, daemon::LogTicket ticket) { applied_.emplace_back(shard, ticket); }

void DiskLog::StepSoon() {
  if (std::exchange(will_step_, true)) return;
  owner_.later(50 + owner_.random(2'000), [this] {
    will_step_ = false;
    Step();
  });
}

void DiskLog::Step() {
  const TimeNs now_ns = owner_.now_ns();
  for (const auto& [shard, ticket] : std::exchange(applied_, {})) {
    writer_->OnApplied(shard, ticket);
  }
  for (daemon::LogRecord& record : std::exchange(records_, {})) writer_->Append(std::move(record));
  WriteMore();
  for (auto& [shard, outcomes] : writer_->TakeOutcomes()) {
    for (const daemon::LogOutcome& outcome : outcomes) refusals_ += outcome.error != 0;
    owner_.deliver(std::move(outcomes));
  }
  if (writer_->TakeSegmentWish(now_ns)) MakeSegment(writer_->spare_slot());
  if (const auto replay_from = writer_->TakeCheckpointWish(now_ns)) MakeCheckpoint(*replay_from);
  for (const std::uint32_t slot : writer_->TakeSurplus()) {
    owner_.later(DiskTime(), [this, slot] { disk_->Remove(SegmentName(slot)).IgnoreError(); });
  }
  const TimeNs deadline_ns = writer_->next_deadline_ns();
  if (deadline_ns == ~TimeNs{0} || deadline_ns == wakes_at_ns_) return;
  wakes_at_ns_ = deadline_ns;
  owner_.later(std::max(deadline_ns, now_ns) - now_ns, [this] {
    wakes_at_ns_ = 0;
    Step();
  });
}

void DiskLog::WriteMore() {
  const auto write = writer_->NextWrite(owner_.now_ns());
  if (!write) return;
  disk_->BeginWrite(SegmentName(write->slot), write->offset, write->bytes);
  owner_.later(DiskTime(), [this] {
    const int error = *disk_->PollWrite();
    if (error != 0) owner_.trace(fmt::format("the disk fails: {}", error));
    writer_->OnWritten(error, owner_.now_ns());
    Step();
  });
}

void DiskLog::MakeSegment(std::uint32_t slot) {
  owner_.later(DiskTime(), [this, slot] {
    const absl::Status written = WriteZeros(slot);
    owner_.later(DiskTime(), [this, slot, written] {
      if (written.ok()) {
        disk_->files().at(SegmentName(slot)).Sync();
        writer_->OnSegmentReady(slot);
      } else {
        disk_->Remove(SegmentName(slot)).IgnoreError();
        writer_->OnNoSegment(ENOSPC, owner_.now_ns());
      }
      Step();
    });
  });
}

absl::Status DiskLog::WriteZeros(std::uint32_t slot) {
  auto file = disk_->Create(SegmentName(slot));
  if (!file.ok()) return file.status();
  return (*file)->Write(0, Bytes(kMinSegmentBytes));
}

// Begun, filled while everything goes on, and finished: a crash may come between any two.
void DiskLog::MakeCheckpoint(std::uint64_t replay_from) {
  owner_.later(DiskTime(), [this, replay_from] {
    auto begun = daemon::log::CheckpointWriter::Begin(disk_, id_, replay_from,
                                                      owner_.last_version(), RandomWord());
    if (!begun.ok()) {
      EndCheckpoint(replay_from, begun.status());
      return;
    }
    checkpoint_ = *std::move(begun);
    owner_.later(DiskTime(), [this, replay_from] {
      const absl::Status filled = FillCheckpoint();
      owner_.later(DiskTime(), [this, replay_from, filled] {
        EndCheckpoint(replay_from,
                      filled.ok() ? checkpoint_->Finish(writer_->next_batch()) : filled);
      });
    });
  });
}

absl::Status DiskLog::FillCheckpoint() {
  return owner_.visit_objects(
      [this](const daemon::log::LoggedObject& object) { return checkpoint_->Add(object); });
}

void DiskLog::EndCheckpoint(std::uint64_t replay_from, const absl::Status& made) {
  checkpoint_.reset();
  if (made.ok()) {
    ++checkpoints_;
    owner_.trace(fmt::format("a checkpoint, to go on from batch {}", replay_from));
  } else {
    disk_->Remove(std::string(daemon::log::kNewCheckpointName)).IgnoreError();
  }
  // Told a little later: a crash may come between.
  owner_.later(DiskTime(), [this, replay_from, has_succeeded = made.ok()] {
    writer_->OnCheckpoint(replay_from, has_succeeded, owner_.now_ns());
    Step();
  });
}

}  // namespace apta::sim
