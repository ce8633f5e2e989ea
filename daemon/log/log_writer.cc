#include "daemon/log/log_writer.h"

#include <algorithm>

#include "fabric/check.h"
#include "fabric/coherence.h"

namespace apta::daemon::log {
namespace {

// Beside the current segment one is ready, and a few are kept: a log in steady state allocates
// nothing.
constexpr std::size_t kReady = 1;
constexpr std::size_t kKept = 4;
// How many segments one batch is tried in before its records are refused.
constexpr int kMaxTries = 3;

}  // namespace

LogWriter::LogWriter(const Options& options, Begin begin)
    : options_(options),
      batch_(std::min(kMaxBatchBytes, options.segment_bytes - kBlockBytes)),
      next_batch_(begin.next_batch),
      next_number_(begin.next_number),
      salt_(options.salt),
      in_use_(begin.in_use.begin(), begin.in_use.end()),
      free_(begin.free.begin(), begin.free.end()),
      checkpointed_(begin.replay_from) {
  totals_.bytes_since_checkpoint = begin.in_use.size() * options.segment_bytes;
  for (const Segment& segment : in_use_) next_slot_ = std::max(next_slot_, segment.slot + 1);
  for (const std::uint32_t slot : free_) next_slot_ = std::max(next_slot_, slot + 1);
}

// Splitmix64: unlike any before, and not to be guessed from outside.
std::uint64_t LogWriter::NewSalt() {
  salt_ += 0x9e3779b97f4a7c15;
  std::uint64_t mixed = salt_;
  mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
  return mixed ^ mixed >> 31;
}

void LogWriter::Append(LogRecord record) {
  const RecordId id{record.shard, record.ticket};
  if (error_ != 0) {
    RefuseOne(id, /*is_certain=*/true);
    return;
  }
  queue_.push_back({.record = std::move(record)});
}

void LogWriter::OnApplied(int shard, LogTicket ticket) { unapplied_.erase({shard, ticket}); }

// Invariant 3. What is queued gets a later batch than any that there is.
std::uint64_t LogWriter::replay_from() const {
  std::uint64_t first = next_batch_;
  if (fabric::Upholds(fabric::Rule::kUnappliedStays)) {
    for (const auto& [id, batch] : unapplied_) first = std::min(first, batch);
  }
  for (const Ended& ended : in_batch_) first = std::min(first, ended.first_batch);
  if (!queue_.empty() && queue_.front().first_batch != 0) {
    first = std::min(first, queue_.front().first_batch);
  }
  return first;
}

bool LogWriter::OpenSegment() {
  if (free_.empty()) return false;
  if (current_) in_use_.push_back(*current_);
  current_ = Segment{.slot = free_.front(), .number = next_number_++, .first_batch = next_batch_};
  free_.pop_front();
  current_salt_ = NewSalt();
  position_ = 0;
  return true;
}

// Adds the next entry of a record to the batch. False: there is no room.
bool LogWriter::AddEntry(Queued* queued) {
  const LogWrite& write = queued->record.writes[queued->next_write];
  const bool is_first = queued->next_write == 0 && queued->written_bytes == 0;
  EntryHeader entry{.version = queued->record.version,
                    .payload_bytes = 0,
                    .part_offset = queued->written_bytes,
                    .part_bytes = 0,
                    .key_bytes = 0,
                    .kind = write.is_delete ? EntryKind::kDelete : EntryKind::kPut,
                    .flags = is_first ? kFirstOfRecord : std::uint8_t{0}};
  const bool is_last_write = queued->next_write + 1 == queued->record.writes.size();
  if (is_last_write) entry.flags |= kLastOfRecord;  // counts with the payload's last part
  const std::string_view key = queued->written_bytes == 0 ? write.key : std::string_view();
  const std::optional<std::uint64_t> added = batch_.Add(entry, key, write.payload);
  if (!added) return false;
  if (queued->first_batch == 0) queued->first_batch = next_batch_;
  queued->written_bytes += *added;
  if (queued->written_bytes == write.payload.size()) {
    ++queued->next_write;
    queued->written_bytes = 0;
  }
  return true;
}

void LogWriter::Fill() {
  const std::uint64_t used_bytes = std::max(position_, kBlockBytes);
  batch_.Begin(next_batch_, options_.segment_bytes - used_bytes);
  while (!queue_.empty()) {
    Queued& queued = queue_.front();
    bool fits = true;
    while (fits && queued.next_write < queued.record.writes.size()) fits = AddEntry(&queued);
    if (!fits) break;
    in_batch_.push_back({{queued.record.shard, queued.record.ticket}, queued.first_batch});
    if (!fabric::Upholds(fabric::Rule::kDurableBeforeTold)) Tell(in_batch_.back().id);
    queue_.pop_front();
  }
  is_filled_ = true;
}

std::optional<LogWriter::Write> LogWriter::NextWrite(TimeNs now_ns) {
  if (writing_) return std::nullopt;
  const bool is_probe = error_ != 0;  // an empty batch
  if (is_probe ? now_ns < retry_at_ns_ : !is_filled_ && queue_.empty()) return std::nullopt;
  if (!has_room() && !OpenSegment()) return std::nullopt;
  if (!is_filled_) Fill();
  BytesView bytes = batch_.Seal(current_salt_);
  if (position_ == 0) {
    bytes =
        batch_.WithHeader(MakeSegmentHeader(options_.id, current_->number, current_->first_batch,
                                            current_salt_, options_.segment_bytes));
  }
  writing_ = Write{.slot = current_->slot, .offset = position_, .bytes = bytes};
  write_began_ns_ = now_ns;
  return writing_;
}

void LogWriter::OnWritten(int error, TimeNs now_ns) {
  const Write written = *std::exchange(writing_, std::nullopt);
  if (error == 0) {  // invariant 1
    position_ += written.bytes.size();
    ++totals_.writes;
    totals_.records += in_batch_.size();
    totals_.bytes += written.bytes.size();
    totals_.bytes_since_checkpoint += written.bytes.size();
    totals_.write_ns += now_ns - write_began_ns_;
    for (const Ended& ended : std::exchange(in_batch_, {})) {
      unapplied_.emplace(ended.id, ended.first_batch);
      if (fabric::Upholds(fabric::Rule::kDurableBeforeTold)) Tell(ended.id);
    }
    ++next_batch_;
    is_filled_ = false;
    error_ = failures_ = 0;
    return;
  }
  // Invariant 2. Where nothing durable is, the blocks may be used again; a new salt and a new
  // number make sure that nobody takes what may have been written for anything.
  if (position_ == 0) {
    free_.push_back(current_->slot);
  } else {
    current_->has_failed = true;
    in_use_.push_back(*current_);
  }
  current_.reset();
  if (++failures_ >= kMaxTries || free_.empty()) Refuse(error, now_ns);
}

void LogWriter::RefuseOne(const RecordId& id, bool is_certain) {
  outcomes_[id.first].push_back({.ticket = id.second, .error = error_, .is_certain = is_certain});
}

// What was being written may be on the medium all the same, until a later write has succeeded.
void LogWriter::Refuse(int error, TimeNs now_ns) {
  error_ = error;
  retry_at_ns_ = now_ns + kRetryNs;
  for (const Ended& ended : std::exchange(in_batch_, {})) RefuseOne(ended.id, failures_ == 0);
  for (const Queued& queued : std::exchange(queue_, {})) {
    RefuseOne({queued.record.shard, queued.record.ticket}, true);
  }
  is_filled_ = false;
}

bool LogWriter::TakeSegmentWish(TimeNs now_ns) {
  if (has_wished_ || free_.size() >= kReady || now_ns < no_wish_until_ns_) return false;
  has_wished_ = true;
  return true;
}

void LogWriter::OnSegmentReady(std::uint32_t slot) {
  has_wished_ = false;
  next_slot_ = std::max(next_slot_, slot + 1);
  free_.push_back(slot);
}

// As long as the current segment has room that is no trouble yet.
void LogWriter::OnNoSegment(int error, TimeNs now_ns) {
  has_wished_ = false;
  no_wish_until_ns_ = now_ns + kRetryNs;
  needs_room_ = true;
  const bool has_work = is_filled_ || !queue_.empty() || error_ != 0;
  if (!writing_ && !has_room() && free_.empty() && has_work) Refuse(error, now_ns);
}

bool LogWriter::wants_checkpoint() const {
  const bool is_due =
      needs_room_ || totals_.bytes_since_checkpoint >= options_.checkpoint_after_bytes;
  return !is_checkpointing_ && is_due && replay_from() != checkpointed_;
}

std::optional<std::uint64_t> LogWriter::TakeCheckpointWish(TimeNs now_ns) {
  if (!wants_checkpoint() || now_ns < no_checkpoint_until_ns_) return std::nullopt;
  is_checkpointing_ = true;
  bytes_in_checkpoint_ = totals_.bytes_since_checkpoint;
  return replay_from();
}

void LogWriter::OnCheckpoint(std::uint64_t replay_from, bool has_succeeded, TimeNs now_ns) {
  is_checkpointing_ = false;
  if (!has_succeeded) {
    no_checkpoint_until_ns_ = now_ns + 4 * kRetryNs;
    return;
  }
  ++totals_.checkpoints;
  totals_.bytes_since_checkpoint -= bytes_in_checkpoint_;
  needs_room_ = false;
  APTA_CHECK(replay_from >= checkpointed_);
  checkpointed_ = replay_from;
  // Invariant 3: all of a segment lies before where the next one begins.
  while (!in_use_.empty()) {
    const std::uint64_t end = in_use_.size() > 1 ? in_use_[1].first_batch
                              : current_         ? current_->first_batch
                                                 : next_batch_;
    if (end > replay_from) break;
    const Segment segment = in_use_.front();
    in_use_.pop_front();
    const bool is_kept = !segment.has_failed && free_.size() < kKept;
    if (is_kept) {
      free_.push_back(segment.slot);
    } else {
      surplus_.push_back(segment.slot);
    }
  }
}

TimeNs LogWriter::next_deadline_ns() const {
  TimeNs deadline_ns = ~TimeNs{0};
  if (error_ != 0 && !free_.empty() && !writing_) deadline_ns = std::min(deadline_ns, retry_at_ns_);
  if (!has_wished_ && free_.size() < kReady) deadline_ns = std::min(deadline_ns, no_wish_until_ns_);
  if (wants_checkpoint()) deadline_ns = std::min(deadline_ns, no_checkpoint_until_ns_);
  return deadline_ns;
}

}  // namespace apta::daemon::log
