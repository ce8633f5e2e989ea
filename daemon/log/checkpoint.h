// Checkpoints: all objects of a pool in one file, from which the log goes on.
//
// Written while everything goes on: an object that changes meanwhile is in the log after
// `replay_from`, so either of its versions may be in the checkpoint, or none.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/log/batch.h"
#include "daemon/log/medium.h"

namespace apta::daemon::log {

class CheckpointWriter {
 public:
  // `salt`: random.
  static absl::StatusOr<std::unique_ptr<CheckpointWriter>> Begin(Medium* medium, const LogId& id,
                                                                 std::uint64_t replay_from,
                                                                 Version last_version,
                                                                 std::uint64_t salt);
  absl::Status Add(const LoggedObject& object);
  // Makes it the checkpoint. Until then, and if it fails, the one before is. What was added is of
  // one moment together with all batches of the log before `replay_until`, and with no fewer.
  absl::Status Finish(std::uint64_t replay_until);

  std::uint64_t written_bytes() const { return position_; }

 private:
  CheckpointWriter(Medium* medium, std::unique_ptr<MediumFile> file, std::uint64_t salt);
  absl::Status AddEntry(EntryHeader entry, std::string_view key, BytesView payload);
  absl::Status Flush();

  Medium* const medium_;
  std::unique_ptr<MediumFile> file_;
  const std::uint64_t salt_;
  BatchBuilder batch_;
  std::uint64_t next_batch_ = 1;
  std::uint64_t position_ = kBlockBytes;
  std::uint64_t objects_ = 0;
};

}  // namespace apta::daemon::log
