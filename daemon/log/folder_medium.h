// A log's medium that is a folder of a file system. Durable writes go through one io_uring: past
// the page cache, durable when done (O_DIRECT, O_DSYNC), where the file system can; else a write
// and, linked to it, an fdatasync.
#pragma once

#include <liburing.h>

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/log/medium.h"
#include "fabric/fd.h"

namespace apta::daemon::log {

class FolderMedium final : public Medium {
 public:
  // Makes the folder if there is none. FAILED_PRECONDITION: another memory server uses it.
  static absl::StatusOr<std::unique_ptr<FolderMedium>> OpenFolder(const std::string& path);
  ~FolderMedium() override;

  absl::StatusOr<std::vector<std::string>> List() override;
  absl::StatusOr<std::unique_ptr<MediumFile>> Open(const std::string& name) override;
  absl::StatusOr<std::unique_ptr<MediumFile>> Create(const std::string& name) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status SyncFolder() override;
  absl::Status Remove(const std::string& name) override;

  void BeginWrite(const std::string& name, std::uint64_t offset, BytesView bytes) override;
  std::optional<int> PollWrite() override;
  void Wait(fabric::TimeNs timeout_ns) override;
  void Forget(const std::string& name) override { files_.erase(name); }
  void Wake() override;

 private:
  struct DurableFile {
    fabric::UniqueFd fd;
    bool is_direct = false;
  };
  // The write under way, and what of it has been done.
  struct Writing {
    std::string name;
    const DurableFile* file = nullptr;
    std::uint64_t offset = 0;
    BytesView rest;
    unsigned awaited = 0;  // completions
    int error = 0;
    bool is_cut_short = false;
  };

  FolderMedium(std::string path, fabric::UniqueFd folder, fabric::UniqueFd wake);
  absl::StatusOr<std::unique_ptr<MediumFile>> OpenFile(const std::string& name, int flags);
  int OpenDurable(const std::string& name, const DurableFile** file);
  static DurableFile OpenFor(int folder, const std::string& name, bool is_direct);
  void Submit();
  void Reap();
  void ArmWake();

  const std::string path_;
  fabric::UniqueFd folder_;  // locked
  fabric::UniqueFd wake_;
  io_uring ring_{};
  bool has_ring_ = false;
  bool is_armed_ = false;    // a read of wake_ is under way
  std::uint64_t wakes_ = 0;  // where the ring reads them to
  std::map<std::string, DurableFile> files_;
  std::optional<Writing> writing_;
};

}  // namespace apta::daemon::log
