// What the homes of a pool of durability `log` ask of its log, and what it tells them.
//
// Part of a home's logic: no thread, no file. The log behind it is daemon/log/.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apta/object.h"

namespace apta::daemon {

// Of one record: unique among those of its shard, ascending.
using LogTicket = std::uint64_t;

struct LogWrite {
  std::string key;
  BytesView payload;  // stays as it is, where it is, until the record has its outcome
  bool is_delete = false;
};

// Writes that become durable all or none.
struct LogRecord {
  int shard = 0;  // that asks
  LogTicket ticket = 0;
  Version version = 0;
  std::vector<LogWrite> writes;
};

struct LogOutcome {
  LogTicket ticket = 0;
  int error = 0;           // errno; 0: durable
  bool is_certain = true;  // an error: that it will never be
  bool operator==(const LogOutcome&) const = default;
};

// What a log has done since its memory server started.
struct LogTotals {
  std::uint64_t writes = 0;    // durable ones, one after the other
  std::uint64_t records = 0;   // that they have made durable
  std::uint64_t bytes = 0;     // of these writes
  std::uint64_t write_ns = 0;  // that they took
  std::uint64_t checkpoints = 0;
  std::uint64_t bytes_since_checkpoint = 0;  // what a start reads beside the checkpoint
  bool operator==(const LogTotals&) const = default;
};

class Journal {
 public:
  virtual ~Journal() = default;
  // From any home's thread; never waits. The outcome comes to that home, of each of its records in
  // order, later: not from within this call.
  virtual void Append(LogRecord record) = 0;
  // What the durable record says is in the index: a checkpoint that begins now has it.
  virtual void Applied(int shard, LogTicket ticket) = 0;
  // From any thread.
  virtual LogTotals Totals() const = 0;
};

}  // namespace apta::daemon
