// What a log needs of the folder it lives in: files by name, and one durable write at a time that
// nobody has to wait for. Behind it a file system (FolderMedium), or a simulated disk.
//
// Errors keep their errno (absl::ErrnoToStatus), and name file and step.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "apta/object.h"
#include "fabric/clock.h"

namespace apta::daemon::log {

// One thread at a time.
class MediumFile {
 public:
  virtual ~MediumFile() = default;
  virtual absl::StatusOr<std::uint64_t> Size() = 0;
  // All of `to`; OUT_OF_RANGE: the file ends before.
  virtual absl::Status Read(std::uint64_t offset, absl::Span<std::byte> to) = 0;
  virtual absl::Status Write(std::uint64_t offset, BytesView bytes) = 0;
  virtual absl::Status Sync() = 0;
};

class Medium {
 public:
  virtual ~Medium() = default;

  // From any thread.
  virtual absl::StatusOr<std::vector<std::string>> List() = 0;
  virtual absl::StatusOr<std::unique_ptr<MediumFile>> Open(const std::string& name) = 0;
  virtual absl::StatusOr<std::unique_ptr<MediumFile>> Create(const std::string& name) = 0;  // empty
  // Durable when it returns.
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  virtual absl::Status SyncFolder() = 0;
  virtual absl::Status Remove(const std::string& name) = 0;

  // From one thread. A write that is durable when it has ended; one at a time, `bytes` aligned to
  // blocks in memory and in the file, until then.
  virtual void BeginWrite(const std::string& name, std::uint64_t offset, BytesView bytes) = 0;
  virtual std::optional<int> PollWrite() = 0;  // nullopt: it goes on; else errno, 0 = done
  // Until the write has ended, Wake, or `timeout_ns`; may return for nothing.
  virtual void Wait(fabric::TimeNs timeout_ns) = 0;
  // Nothing will be written to this file again by BeginWrite before it is created anew.
  virtual void Forget(const std::string& name) = 0;
  // From any thread: ends a Wait, or the next one.
  virtual void Wake() = 0;
};

}  // namespace apta::daemon::log
