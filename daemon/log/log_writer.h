// The log of a pool, as a state machine: which bytes are to be written where, what is durable,
// which segments are free, when a checkpoint is due. What to write comes in, what to do goes out;
// whoever drives it (PoolLog, or a simulated disk) does that and says how it went.
//
// One thread, no system call, no clock. One write is under way at a time; what comes meanwhile goes
// into the next one together (group commit), kMaxBatchBytes at most.
//
// Invariants (beside those of format.h)
//   1. A record is durable when the write of its last entry, and all before it, have succeeded.
//   2. After a write has failed nothing is written to its segment again, and what was in that write
//      counts as not written: it goes, as it is, to another segment, or its records are refused.
//   3. A segment is free only when a checkpoint has all that was in it: every record from
//      replay_from() on, the first that is not both durable and applied, stays.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "daemon/journal.h"
#include "daemon/log/batch.h"
#include "daemon/log/format.h"
#include "fabric/clock.h"

namespace apta::daemon::log {

using fabric::TimeNs;

struct Segment {
  std::uint32_t slot = 0;  // which file
  std::uint64_t number = 0;
  std::uint64_t first_batch = 0;
  bool has_failed = false;
};

class LogWriter {
 public:
  struct Options {
    LogId id;
    std::uint64_t salt = 0;  // random, of this life
    std::uint64_t segment_bytes = 0;
    // A checkpoint is due when more has been logged since the last.
    std::uint64_t checkpoint_after_bytes = 0;
  };
  // Where a log that was read ends.
  struct Begin {
    std::uint64_t replay_from = 1;
    std::uint64_t next_batch = 1;
    std::uint64_t next_number = 1;
    std::vector<Segment> in_use;  // ascending
    std::vector<std::uint32_t> free;
  };
  struct Write {
    std::uint32_t slot;
    std::uint64_t offset;
    BytesView bytes;  // until OnWritten
  };

  // How long until a medium that has failed, or was full, is tried again.
#ifdef APTA_LOG_RETRY_NS  // the simulator's runs are short
  static constexpr TimeNs kRetryNs = APTA_LOG_RETRY_NS;
#else
  static constexpr TimeNs kRetryNs = 500'000'000;
#endif

  LogWriter(const Options& options, Begin begin);

  void Append(LogRecord record);
  void OnApplied(int shard, LogTicket ticket);

  // What to write now. nullopt: nothing, or a write is under way, or there is no segment for it.
  std::optional<Write> NextWrite(TimeNs now_ns);
  void OnWritten(int error, TimeNs now_ns);
  bool is_writing() const { return writing_.has_value(); }

  // A segment file is wanted: zeroed, of segment_bytes. Said once; answered by one of the two.
  bool TakeSegmentWish(TimeNs now_ns);
  void OnSegmentReady(std::uint32_t slot);
  void OnNoSegment(int error, TimeNs now_ns);
  std::uint32_t spare_slot() const { return next_slot_; }  // for the file that is wanted
  // Segment files that are not needed any more.
  std::vector<std::uint32_t> TakeSurplus() { return std::exchange(surplus_, {}); }

  // A checkpoint is due: the batch that the log is to be replayed from after it. Said once;
  // answered by OnCheckpoint.
  std::optional<std::uint64_t> TakeCheckpointWish(TimeNs now_ns);
  void OnCheckpoint(std::uint64_t replay_from, bool has_succeeded, TimeNs now_ns);

  // By shard.
  std::map<int, std::vector<LogOutcome>> TakeOutcomes() { return std::exchange(outcomes_, {}); }
  // When it is to be looked again without anything having happened.
  TimeNs next_deadline_ns() const;
  int error() const { return error_; }  // why nothing can be written now; 0 = it can
  std::uint64_t replay_from() const;
  std::uint64_t next_batch() const { return next_batch_; }  // the first that is not durable
  const LogTotals& totals() const { return totals_; }
  std::size_t segments_in_use() const { return in_use_.size(); }

 private:
  using RecordId = std::pair<int, LogTicket>;
  // A record on its way into batches.
  struct Queued {
    LogRecord record;
    std::size_t next_write = 0;
    std::uint64_t written_bytes = 0;  // of that write's payload
    std::uint64_t first_batch = 0;    // 0: none of it is in a batch
  };
  struct Ended {
    RecordId id;
    std::uint64_t first_batch;
  };

  bool OpenSegment();
  void Fill();
  bool AddEntry(Queued* queued);
  void Refuse(int error, TimeNs now_ns);
  void Tell(const RecordId& id) { outcomes_[id.first].push_back({.ticket = id.second}); }
  void RefuseOne(const RecordId& id, bool is_certain);
  bool has_room() const { return current_ && position_ + kBlockBytes <= options_.segment_bytes; }
  bool wants_checkpoint() const;
  std::uint64_t NewSalt();

  const Options options_;
  BatchBuilder batch_;
  std::uint64_t next_batch_;   // its number, whether it is being filled or written
  std::uint64_t next_number_;  // of segments
  std::uint64_t salt_;

  std::deque<Queued> queue_;
  std::vector<Ended> in_batch_;  // records whose last entry the batch has
  bool is_filled_ = false;       // the batch is to be written, for the first time or once more

  std::optional<Segment> current_;
  std::uint64_t current_salt_ = 0;
  std::uint64_t position_ = 0;  // in it; 0: its header goes with the first batch
  std::optional<Write> writing_;
  TimeNs write_began_ns_ = 0;
  std::deque<Segment> in_use_;  // before the current one
  std::deque<std::uint32_t> free_;
  std::vector<std::uint32_t> surplus_;
  std::uint32_t next_slot_ = 0;
  bool has_wished_ = false;
  TimeNs no_wish_until_ns_ = 0;

  int error_ = 0;
  int failures_ = 0;  // since the last success
  TimeNs retry_at_ns_ = 0;

  std::map<RecordId, std::uint64_t> unapplied_;  // durable ones: their first batch
  std::uint64_t checkpointed_ = 1;               // batches before it are in the checkpoint
  LogTotals totals_;
  std::uint64_t bytes_in_checkpoint_ = 0;  // of those since the last: what the next one will have
  bool is_checkpointing_ = false;
  bool needs_room_ = false;  // which a checkpoint may make
  TimeNs no_checkpoint_until_ns_ = 0;
  std::map<int, std::vector<LogOutcome>> outcomes_;
};

}  // namespace apta::daemon::log
