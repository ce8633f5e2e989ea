// CheckStored: recovery of what a pool has left behind, without a memory server.

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/status/status.h"
#include "apta/server.h"
#include "daemon/log/folder_medium.h"
#include "daemon/log/log_reader.h"
#include "daemon/pool.h"
#include "fabric/fd.h"
#include "fmt/format.h"

namespace apta {
namespace {

absl::Status Failed(const std::string& path, const absl::Status& why) {
  return absl::Status(why.code(), fmt::format("{}: {}", path, std::string(why.message())));
}

// A file's bytes, to be changed as one likes: the file stays as it is.
class PrivateMapping {
 public:
  PrivateMapping(int fd, std::uint64_t bytes)
      : data_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0)),
        bytes_(bytes) {}
  ~PrivateMapping() {
    if (ok()) munmap(data_, bytes_);
  }
  PrivateMapping(const PrivateMapping&) = delete;
  PrivateMapping& operator=(const PrivateMapping&) = delete;
  bool ok() const { return data_ != MAP_FAILED; }
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* const data_;
  const std::uint64_t bytes_;
};

using OnProgress = std::function<void(double)>;

absl::StatusOr<std::vector<std::string>> CheckRegion(const std::string& path,
                                                     const OnProgress& on_progress) {
  const fabric::UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat file;
  if (!fd.valid() || fstat(fd.get(), &file) != 0) return absl::ErrnoToStatus(errno, path);
  if (flock(fd.get(), LOCK_SH | LOCK_NB) != 0) {
    return absl::UnavailableError(
        fmt::format("{}: a memory server is using it; end that first", path));
  }
  const auto bytes = static_cast<std::uint64_t>(file.st_size);
  if (bytes < fabric::kSuperblockBytes) {
    return absl::FailedPreconditionError(fmt::format("{}: this is no region of a pool", path));
  }
  const PrivateMapping mapping(fd.get(), bytes);
  if (!mapping.ok()) return absl::ErrnoToStatus(errno, path);
  const auto& superblock = *reinterpret_cast<const fabric::Superblock*>(mapping.data());
  if (const absl::Status valid = superblock.Validate(bytes); !valid.ok()) {
    if (!absl::IsDataLoss(valid)) return Failed(path, valid);
    return std::vector<std::string>{std::string(valid.message())};
  }
  const auto shares = daemon::MakeShares(mapping.data());
  daemon::Recovery found = daemon::Recover(mapping.data(), shares, /*buries=*/true, on_progress);
  if (found.damaged > found.findings.size()) {
    found.findings.push_back(
        fmt::format("{} more are damaged", found.damaged - found.findings.size()));
  }
  if (found.buried > 0) {
    found.findings.push_back(
        fmt::format("{} were found damaged before, and are lost", found.buried));
  }
  return std::move(found.findings);
}

absl::StatusOr<std::vector<std::string>> CheckLog(const std::string& path,
                                                  const OnProgress& on_progress) {
  absl::StatusOr<std::unique_ptr<daemon::log::FolderMedium>> medium =
      daemon::log::FolderMedium::OpenFolder(path);
  if (absl::IsFailedPrecondition(medium.status())) {
    return absl::UnavailableError(medium.status().message());
  }
  if (!medium.ok()) return Failed(path, medium.status());
  const auto contents = daemon::log::ReadLog(
      medium->get(), [](const daemon::log::LoggedObject&) { return absl::OkStatus(); },
      [&](std::uint64_t done_bytes, std::uint64_t total_bytes) {
        if (on_progress) {
          on_progress(static_cast<double>(done_bytes) / static_cast<double>(total_bytes));
        }
      });
  if (absl::IsDataLoss(contents.status())) {
    return std::vector<std::string>{std::string(contents.status().message())};
  }
  if (!contents.ok()) return Failed(path, contents.status());
  std::vector<std::string> findings;
  if (!contents->cut_at.empty()) {
    findings.push_back(
        fmt::format("the log is damaged at {}: what was put later, in {} batches or more, is lost",
                    contents->cut_at, contents->cut_batches));
  }
  return findings;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> CheckStored(const std::string& path,
                                                     const OnProgress& on_progress) {
  std::error_code error;
  const auto kind = std::filesystem::status(path, error).type();
  switch (kind) {
    case std::filesystem::file_type::directory:
      return CheckLog(path, on_progress);
    case std::filesystem::file_type::regular:
      return CheckRegion(path, on_progress);
    case std::filesystem::file_type::not_found:
      return absl::NotFoundError(fmt::format("{}: there is no such file or folder", path));
    default:
      return absl::InvalidArgumentError(
          fmt::format("{}: neither the file of a region nor the folder of a log", path));
  }
}

}  // namespace apta
