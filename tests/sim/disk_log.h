// The log of the simulated pool: the LogWriter, the reader and the checkpoints that ship, over a
// disk in memory and in virtual time. Stands where PoolLog stands, step for step, without threads.
//
// What is simulated: how long the disk takes, that it fails or is full for a while, and the blocks
// that a crash leaves of what was not flushed (SimMedium). One life of a memory server; the next
// one opens the same disk.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/journal.h"
#include "daemon/log/checkpoint.h"
#include "daemon/log/log_reader.h"
#include "daemon/log/log_writer.h"
#include "fabric/clock.h"
#include "tests/daemon/log/sim_medium.h"

namespace apta::sim {

using fabric::TimeNs;

class DiskLog final : public daemon::Journal {
 public:
  // What it needs of the world, all of it outliving this.
  struct Owner {
    std::function<TimeNs()> now_ns;
    std::function<std::uint64_t(std::uint64_t below)> random;
    // Runs the step later, unless the memory server has been killed by then.
    std::function<void(TimeNs after_ns, std::function<void()>)> later;
    // Visits all objects while homes go on.
    std::function<absl::Status(const daemon::log::ObjectVisitor&)> visit_objects;
    std::function<Version()> last_version;
    std::function<void(std::vector<daemon::LogOutcome>)> deliver;
    std::function<void(const std::string&)> trace;
  };

  DiskLog(daemon::log::SimMedium* disk, Owner owner) : disk_(disk), owner_(std::move(owner)) {}

  // Reads the log that the disk has, or makes one. Nothing goes on before Start.
  absl::StatusOr<daemon::log::LogContents> Open(const daemon::log::ObjectVisitor& visit);
  void Start() { Step(); }

  void Append(daemon::LogRecord record) override;
  void Applied(int shard, daemon::LogTicket ticket) override;
  daemon::LogTotals Totals() const override { return {.checkpoints = checkpoints_}; }

  // 0: it can be written.
  int error() const { return writer_->error(); }
  std::size_t checkpoints() const { return checkpoints_; }
  std::size_t refusals() const { return refusals_; }

 private:
  void Step();
  void StepSoon();
  void WriteMore();
  void MakeSegment(std::uint32_t slot);
  absl::Status WriteZeros(std::uint32_t slot);
  void MakeCheckpoint(std::uint64_t replay_from);
  absl::Status FillCheckpoint();
  void EndCheckpoint(std::uint64_t replay_from, const absl::Status& made);
  std::uint64_t RandomWord() { return owner_.random(~std::uint64_t{0}); }
  TimeNs DiskTime() { return 2'000 + owner_.random(owner_.random(8) == 0 ? 400'000 : 30'000); }

  daemon::log::SimMedium* const disk_;
  const Owner owner_;
  daemon::log::LogId id_;
  std::unique_ptr<daemon::log::LogWriter> writer_;
  std::unique_ptr<daemon::log::CheckpointWriter> checkpoint_;  // that is being made
  // What homes have said since the last step.
  std::vector<daemon::LogRecord> records_;
  std::vector<std::pair<int, daemon::LogTicket>> applied_;
  bool will_step_ = false;
  TimeNs wakes_at_ns_ = 0;
  std::size_t checkpoints_ = 0;
  std::size_t refusals_ = 0;
};

}  // namespace apta::sim
