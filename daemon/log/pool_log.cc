#include "daemon/log/pool_log.h"

#include <pthread.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "daemon/log/checkpoint.h"
#include "fabric/clock.h"
#include "fabric/doorbell.h"
#include "fmt/format.h"
#include "spdlog/spdlog.h"

namespace apta::daemon::log {

using fabric::IdleStrategy;
using fabric::RealClock;

namespace {

constexpr TimeNs kLongNs = 60'000'000'000;

std::uint64_t Random() {
  std::uint64_t word = 0;
  [[maybe_unused]] const ssize_t got = getrandom(&word, sizeof(word), 0);
  return word;
}

// As Medium's errors carry it.
int ErrorNumberOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kResourceExhausted:
      return ENOSPC;
    case absl::StatusCode::kOutOfRange:
      return EFBIG;
    default:
      return EIO;
  }
}

}  // namespace

std::uint64_t PoolLog::BytesReplayedIn(std::uint64_t ms, std::uint64_t bytes_read, TimeNs read_ns) {
  std::uint64_t bytes_per_ms = kReplayBytesPerMs;
  if (bytes_read >= kTellingBytes) {
    // Each byte of a log is read twice.
    const std::uint64_t read_ms = std::max<TimeNs>(read_ns / 1'000'000, 1);
    bytes_per_ms = std::min(bytes_per_ms, bytes_read / 2 / read_ms);
  }
  return ms * bytes_per_ms;
}

absl::StatusOr<std::unique_ptr<PoolLog>> PoolLog::Open(std::unique_ptr<Medium> medium,
                                                       const Options& options,
                                                       const ObjectVisitor& visit) {
  const TimeNs began_ns = RealClock::ReadNow();
  absl::StatusOr<LogContents> found = ReadLog(medium.get(), visit);
  const TimeNs read_ns = RealClock::ReadNow() - began_ns;
  if (absl::IsNotFound(found.status())) {
    const LogId id{{Random(), Random()}};
    if (absl::Status made = CreateLog(medium.get(), id, Random()); !made.ok()) return made;
    found = ReadLog(medium.get(), visit);
  }
  if (!found.ok()) return found.status();
  for (const std::string& name : found->garbage) {
    if (absl::Status removed = medium->Remove(name); !removed.ok()) return removed;
  }
  const std::uint64_t segment_bytes =
      found->segment_bytes != 0 ? found->segment_bytes : options.segment_bytes;
  const LogWriter::Options writing = {
      .id = found->id,
      .salt = Random(),
      .segment_bytes = segment_bytes,
      .checkpoint_after_bytes =
          std::max(4 * segment_bytes,
                   BytesReplayedIn(options.recovery_target_ms, found->bytes_read, read_ns))};
  auto writer = std::make_unique<LogWriter>(writing, found->begin);
  return std::unique_ptr<PoolLog>(
      new PoolLog(std::move(medium), *std::move(found), std::move(writer), segment_bytes));
}

PoolLog::PoolLog(std::unique_ptr<Medium> medium, LogContents found,
                 std::unique_ptr<LogWriter> writer, std::uint64_t segment_bytes)
    : medium_(std::move(medium)),
      found_(std::move(found)),
      segment_bytes_(segment_bytes),
      writer_(std::move(writer)) {}

PoolLog::~PoolLog() { Stop(); }

void PoolLog::Start(Owner owner) {
  owner_ = std::move(owner);
  PublishTotals();
  aside_thread_ = std::thread([this] { RunAside(); });
  thread_ = std::thread([this] { Run(); });
  pthread_setname_np(thread_.native_handle(), "apta-log");
  pthread_setname_np(aside_thread_.native_handle(), "apta-log-aside");
}

void PoolLog::Stop() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard<std::mutex> lock(aside_mutex_);
    aside_stop_.store(true);
    aside_changed_.notify_all();
  }
  aside_thread_.join();
  stop_.store(true);
  medium_->Wake();
  thread_.join();
}

// ---------------------------------------------------------------------------------------------
// To the log's thread.

template <typename Fill>
void PoolLog::Post(Fill&& fill) {
  {
    std::lock_guard<std::mutex> lock(inbox_mutex_);
    fill(&inbox_);
    has_mail_.store(true);
  }
  // Sequentially consistent, both: see doorbell.h.
  if (is_asleep_.load()) medium_->Wake();
}

void PoolLog::Append(LogRecord record) {
  Post([&](Inbox* inbox) { inbox->records.push_back(std::move(record)); });
}

void PoolLog::Applied(int shard, LogTicket ticket) {
  {
    // Nobody waits for it: it is read with the next record.
    std::lock_guard<std::mutex> lock(inbox_mutex_);
    inbox_.applied.emplace_back(shard, ticket);
  }
  has_mail_.store(true);
}

LogTotals PoolLog::Totals() const {
  std::lock_guard<std::mutex> lock(totals_mutex_);
  return totals_;
}

bool PoolLog::TakeInbox(TimeNs now_ns) {
  if (!has_mail_.load()) return false;
  Inbox inbox;
  {
    std::lock_guard<std::mutex> lock(inbox_mutex_);
    std::swap(inbox, inbox_);
    has_mail_.store(false);
  }
  for (const auto& [shard, ticket] : inbox.applied) writer_->OnApplied(shard, ticket);
  for (LogRecord& record : inbox.records) writer_->Append(std::move(record));
  for (const auto& job : inbox.jobs) job(now_ns);
  return !inbox.is_empty();
}

// ---------------------------------------------------------------------------------------------
// On the log's thread.

void PoolLog::Run() {
  IdleStrategy idle;
  while (!stop_.load()) {
    if (Step()) {
      idle.Reset();
    } else if (idle.Idle() == IdleStrategy::Advice::kSleep) {
      Sleep();
      idle.Reset();
    }
  }
  // What is under way reads its bytes until it has ended.
  while (writer_->is_writing() && !medium_->PollWrite()) medium_->Wait(kLongNs);
}

bool PoolLog::Step() {
  const TimeNs now_ns = RealClock::ReadNow();
  bool has_worked = TakeInbox(now_ns);
  if (writer_->is_writing()) {
    if (const std::optional<int> error = medium_->PollWrite()) {
      writer_->OnWritten(*error, now_ns);
      PublishTotals();
      has_worked = true;
    }
  }
  if (const auto write = writer_->NextWrite(now_ns)) {
    medium_->BeginWrite(SegmentName(write->slot), write->offset, write->bytes);
    has_worked = true;
  }
  Deliver();
  if (writer_->TakeSegmentWish(now_ns)) {
    PostAside([this, slot = writer_->spare_slot()] { MakeSegment(slot); });
  }
  if (const auto replay_from = writer_->TakeCheckpointWish(now_ns)) {
    PostAside([this, from = *replay_from] { MakeCheckpoint(from); });
  }
  for (const std::uint32_t slot : writer_->TakeSurplus()) {
    medium_->Forget(SegmentName(slot));
    PostAside([this, slot] { medium_->Remove(SegmentName(slot)).IgnoreError(); });
  }
  return has_worked;
}

void PoolLog::Deliver() {
  // Before anybody is told: a checkpoint that finds an object needs the batch that it came with.
  durable_until_.store(writer_->next_batch());
  for (auto& [shard, outcomes] : writer_->TakeOutcomes()) {
    owner_.deliver(shard, std::move(outcomes));
  }
  SayError();
}

void PoolLog::PublishTotals() {
  std::lock_guard<std::mutex> lock(totals_mutex_);
  totals_ = writer_->totals();
}

void PoolLog::SayError() {
  if (writer_->error() == told_error_) return;
  told_error_ = writer_->error();
  if (told_error_ == 0) {
    spdlog::info("pool {}: its log can be written again; puts go on", owner_.name);
  } else {
    spdlog::error("pool {}: read-only: its log cannot be written ({}); tried again twice a second",
                  owner_.name, strerror(told_error_));
  }
}

void PoolLog::Sleep() {
  is_asleep_.store(true);
  if (!Step() && !stop_.load()) {
    const TimeNs now_ns = RealClock::ReadNow();
    const TimeNs deadline_ns = writer_->next_deadline_ns();
    medium_->Wait(deadline_ns <= now_ns ? 0 : std::min(deadline_ns - now_ns, kLongNs));
  }
  is_asleep_.store(false);
}

// ---------------------------------------------------------------------------------------------
// Aside.

void PoolLog::PostAside(std::function<void()> job) {
  std::lock_guard<std::mutex> lock(aside_mutex_);
  aside_.push_back(std::move(job));
  aside_changed_.notify_all();
}

void PoolLog::RunAside() {
  std::unique_lock<std::mutex> lock(aside_mutex_);
  while (true) {
    aside_changed_.wait(lock, [this] { return aside_stop_.load() || !aside_.empty(); });
    if (aside_stop_.load()) return;
    const std::vector<std::function<void()>> jobs = std::exchange(aside_, {});
    lock.unlock();
    for (const auto& job : jobs) job();
    lock.lock();
  }
}

void PoolLog::MakeSegment(std::uint32_t slot) {
  const absl::Status made = ZeroSegment(slot);
  if (!made.ok()) medium_->Remove(SegmentName(slot)).IgnoreError();
  Post([&](Inbox* inbox) {
    inbox->jobs.push_back([this, slot, error = ErrorNumberOf(made)](TimeNs now_ns) {
      error == 0 ? writer_->OnSegmentReady(slot) : writer_->OnNoSegment(error, now_ns);
    });
  });
}

// Written, not only reserved: the first write to a block that was reserved is a change of the file
// system's own records.
absl::Status PoolLog::ZeroSegment(std::uint32_t slot) {
  absl::StatusOr<std::unique_ptr<MediumFile>> file = medium_->Create(SegmentName(slot));
  if (!file.ok()) return file.status();
  const Bytes zeros(std::min(segment_bytes_, kMaxBatchBytes));
  for (std::uint64_t offset = 0; offset < segment_bytes_; offset += zeros.size()) {
    const BytesView part =
        BytesView(zeros).subspan(0, std::min<std::uint64_t>(zeros.size(), segment_bytes_ - offset));
    if (absl::Status written = (*file)->Write(offset, part); !written.ok()) return written;
  }
  if (absl::Status synced = (*file)->Sync(); !synced.ok()) return synced;
  return medium_->SyncFolder();
}

void PoolLog::MakeCheckpoint(std::uint64_t replay_from) {
  const absl::Status made = WriteCheckpoint(replay_from);
  if (!made.ok() && !aside_stop_.load()) {
    medium_->Remove(std::string(kNewCheckpointName)).IgnoreError();
    spdlog::warn("pool {}: no checkpoint, the log grows: {}", owner_.name,
                 std::string(made.message()));
  }
  Post([&](Inbox* inbox) {
    inbox->jobs.push_back([this, replay_from, has_succeeded = made.ok()](TimeNs now_ns) {
      writer_->OnCheckpoint(replay_from, has_succeeded, now_ns);
      PublishTotals();
    });
  });
}

absl::Status PoolLog::WriteCheckpoint(std::uint64_t replay_from) {
  auto checkpoint = CheckpointWriter::Begin(medium_.get(), found_.id, replay_from,
                                            owner_.last_version(), Random());
  if (!checkpoint.ok()) return checkpoint.status();
  const absl::Status visited = owner_.visit_objects([&](const LoggedObject& object) {
    return aside_stop_.load() ? absl::CancelledError("the memory server ends")
                              : (*checkpoint)->Add(object);
  });
  if (!visited.ok()) return visited;
  return (*checkpoint)->Finish(durable_until_.load());
}

}  // namespace apta::daemon::log
