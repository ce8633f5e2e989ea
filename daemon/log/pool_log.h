// The log of a pool at work: a thread that drives LogWriter over a medium, and one aside for what
// takes long (new segments, checkpoints). Homes append and go on; they are told later.
//
// Open and Start once, on one thread; Append and Applied from the homes' threads; Stop before what
// the homes' payloads lie in is gone.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/journal.h"
#include "daemon/log/log_reader.h"
#include "daemon/log/log_writer.h"
#include "daemon/log/medium.h"

namespace apta::daemon::log {

class PoolLog final : public Journal {
 public:
  // What the log needs of its pool.
  struct Owner {
    std::string name;  // for messages
    // All objects that are visible, each as it is at some moment of the call; on the thread aside,
    // while they change.
    std::function<absl::Status(const ObjectVisitor&)> visit_objects;
    std::function<Version()> last_version;
    // The outcomes of records, to the home of that shard; on the log's thread.
    std::function<void(int shard, std::vector<LogOutcome>)> deliver;
  };
  struct Options {
    std::uint64_t segment_bytes = 16 << 20;   // of a new log
    std::uint64_t recovery_target_ms = 2000;  // reading the log is to take no longer
  };
  // How much of a log can be read, checked and applied in a time: a checkpoint is due when there is
  // more. A start that has read `bytes_read` in `read_ns` tells, if that was much, and slower than
  // what a machine that is no better than it must be does. (What was faster was in a cache, maybe.)
  static constexpr std::uint64_t kReplayBytesPerMs = 128 << 10;
  static constexpr std::uint64_t kTellingBytes = 64 << 20;
  static std::uint64_t BytesReplayedIn(std::uint64_t ms, std::uint64_t bytes_read, TimeNs read_ns);

  // Reads the log, or makes one. `visit` gets all objects. Errors as ReadLog.
  static absl::StatusOr<std::unique_ptr<PoolLog>> Open(std::unique_ptr<Medium> medium,
                                                       const Options& options,
                                                       const ObjectVisitor& visit);
  ~PoolLog() override;
  // How the log was found; `begin` is of no use any more.
  const LogContents& found() const { return found_; }

  void Start(Owner owner);
  // Nothing more becomes durable, nobody is told anything more.
  void Stop();

  void Append(LogRecord record) override;
  void Applied(int shard, LogTicket ticket) override;
  LogTotals Totals() const override;

 private:
  // From other threads to the log's.
  struct Inbox {
    std::vector<LogRecord> records;
    std::vector<std::pair<int, LogTicket>> applied;
    std::vector<std::function<void(TimeNs)>> jobs;
    bool is_empty() const { return records.empty() && applied.empty() && jobs.empty(); }
  };

  PoolLog(std::unique_ptr<Medium> medium, LogContents found, std::unique_ptr<LogWriter> writer,
          std::uint64_t segment_bytes);

  template <typename Fill>
  void Post(Fill&& fill);
  void Run();
  bool Step();
  bool TakeInbox(TimeNs now_ns);
  void Deliver();
  void PublishTotals();
  void Sleep();
  void SayError();

  void RunAside();
  void PostAside(std::function<void()> job);
  void MakeSegment(std::uint32_t slot);
  absl::Status ZeroSegment(std::uint32_t slot);
  void MakeCheckpoint(std::uint64_t replay_from);
  absl::Status WriteCheckpoint(std::uint64_t replay_from);

  const std::unique_ptr<Medium> medium_;
  const LogContents found_;
  const std::uint64_t segment_bytes_;
  Owner owner_;

  std::unique_ptr<LogWriter> writer_;  // the log's thread
  int told_error_ = 0;

  std::mutex inbox_mutex_;
  Inbox inbox_;
  std::atomic<bool> has_mail_{false};
  std::atomic<bool> is_asleep_{false};
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> durable_until_{1};  // the first batch that is not

  mutable std::mutex totals_mutex_;
  LogTotals totals_;  // the writer's, for other threads

  std::mutex aside_mutex_;
  std::condition_variable aside_changed_;
  std::vector<std::function<void()>> aside_;
  std::atomic<bool> aside_stop_{false};

  std::thread thread_;
  std::thread aside_thread_;
};

}  // namespace apta::daemon::log
