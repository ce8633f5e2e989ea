// Reading a log: what is in it, where it ends, and where its next life begins.
//
// Works on a medium that nobody writes to. Two passes: the first finds the end of the log and the
// last version of each key; the second visits the objects that there are, each once.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "daemon/log/format.h"
#include "daemon/log/log_writer.h"
#include "daemon/log/medium.h"

namespace apta::daemon::log {

struct LogContents {
  LogId id;
  Version last_version = 0;
  std::uint64_t segment_bytes = 0;  // of the segments that there are; 0 = there are none
  LogWriter::Begin begin;
  std::vector<std::string> garbage;  // files that are of no use to the log
  std::uint64_t checkpoint_objects = 0;
  std::uint64_t replayed_records = 0;
  std::uint64_t objects = 0;      // visited
  std::uint64_t bytes_read = 0;   // of checkpoint and log
  std::uint64_t cut_batches = 0;  // that stand behind the place where the log was found damaged
  std::string cut_at;             // where that is; "" = the log is whole
};

using ObjectVisitor = std::function<absl::Status(const LoggedObject&)>;

// NOT_FOUND: the folder has no log. DATA_LOSS: the checkpoint is damaged, or records that it needs
// are missing. FAILED_PRECONDITION: another format, or segments without a checkpoint.
// `on_progress` is told how many bytes have been read, and how many there are to read at most.
using ReadProgress = std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)>;
absl::StatusOr<LogContents> ReadLog(Medium* medium, const ObjectVisitor& visit,
                                    const ReadProgress& on_progress = {});

// Makes an empty one: its first checkpoint. The folder must have none.
absl::Status CreateLog(Medium* medium, const LogId& id, std::uint64_t salt);

}  // namespace apta::daemon::log
