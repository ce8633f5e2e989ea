#include "daemon/log/folder_medium.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "fabric/check.h"
#include "fmt/format.h"

namespace apta::daemon::log {
namespace {

enum Tag : std::uint64_t { kWake = 1, kWrite, kSync };

absl::Status ErrorOf(int error, const std::string& path, std::string_view step) {
  return absl::ErrnoToStatus(error, fmt::format("{}: {}", path, step));
}

class FolderFile final : public MediumFile {
 public:
  FolderFile(std::string path, fabric::UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  absl::StatusOr<std::uint64_t> Size() override {
    struct stat status {};
    if (fstat(fd_.get(), &status) != 0) return ErrorOf(errno, path_, "fstat");
    return static_cast<std::uint64_t>(status.st_size);
  }
  absl::Status Read(std::uint64_t offset, absl::Span<std::byte> to) override {
    while (!to.empty()) {
      const ssize_t got = pread(fd_.get(), to.data(), to.size(), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return ErrorOf(errno, path_, "reading");
      if (got == 0) return absl::OutOfRangeError(fmt::format("{}: the file ends", path_));
      to.remove_prefix(static_cast<std::size_t>(got));
      offset += static_cast<std::uint64_t>(got);
    }
    return absl::OkStatus();
  }
  absl::Status Write(std::uint64_t offset, BytesView bytes) override {
    while (!bytes.empty()) {
      const ssize_t put = pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return ErrorOf(errno, path_, "writing");
      if (put == 0) return ErrorOf(ENOSPC, path_, "writing");  // as Reap
      bytes.remove_prefix(static_cast<std::size_t>(put));
      offset += static_cast<std::uint64_t>(put);
    }
    return absl::OkStatus();
  }
  absl::Status Sync() override {
    if (fsync(fd_.get()) != 0) return ErrorOf(errno, path_, "fsync");
    return absl::OkStatus();
  }

 private:
  const std::string path_;
  fabric::UniqueFd fd_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<FolderMedium>> FolderMedium::OpenFolder(const std::string& path) {
  std::error_code error;
  const bool is_new = std::filesystem::create_directories(path, error);
  if (error) return ErrorOf(error.value(), path, "making the folder");
  fabric::UniqueFd folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid()) return ErrorOf(errno, path, "opening the folder");
  if (is_new) {
    const std::string above = std::filesystem::path(path).parent_path().string();
    fabric::UniqueFd parent(open(above.empty() ? "." : above.c_str(), O_RDONLY | O_CLOEXEC));
    if (!parent.valid() || fsync(parent.get()) != 0) return ErrorOf(errno, path, "fsync above it");
  }
  if (flock(folder.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrorOf(errno, path, "locking the folder");
    return absl::FailedPreconditionError("another memory server uses it; stop that one first");
  }
  fabric::UniqueFd wake(eventfd(0, EFD_CLOEXEC));
  if (!wake.valid()) return ErrorOf(errno, path, "eventfd");
  std::unique_ptr<FolderMedium> medium(new FolderMedium(path, std::move(folder), std::move(wake)));
  if (const int result = io_uring_queue_init(8, &medium->ring_, 0); result < 0) {
    return absl::FailedPreconditionError(fmt::format(
        "io_uring is not available ({}); allow it with sysctl kernel.io_uring_disabled=0",
        strerror(-result)));
  }
  medium->has_ring_ = true;
  return medium;
}

FolderMedium::FolderMedium(std::string path, fabric::UniqueFd folder, fabric::UniqueFd wake)
    : path_(std::move(path)), folder_(std::move(folder)), wake_(std::move(wake)) {}

FolderMedium::~FolderMedium() {
  if (has_ring_) io_uring_queue_exit(&ring_);
}

absl::StatusOr<std::vector<std::string>> FolderMedium::List() {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(path_, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  if (error) return ErrorOf(error.value(), path_, "listing the folder");
  return names;
}

absl::StatusOr<std::unique_ptr<MediumFile>> FolderMedium::OpenFile(const std::string& name,
                                                                   int flags) {
  const std::string path = path_ + "/" + name;
  fabric::UniqueFd fd(openat(folder_.get(), name.c_str(), flags | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrorOf(errno, path, "opening");
  return std::make_unique<FolderFile>(path, std::move(fd));
}

absl::StatusOr<std::unique_ptr<MediumFile>> FolderMedium::Open(const std::string& name) {
  return OpenFile(name, O_RDONLY);
}

absl::StatusOr<std::unique_ptr<MediumFile>> FolderMedium::Create(const std::string& name) {
  return OpenFile(name, O_RDWR | O_CREAT | O_TRUNC);
}

absl::Status FolderMedium::Rename(const std::string& from, const std::string& to) {
  if (renameat(folder_.get(), from.c_str(), folder_.get(), to.c_str()) != 0) {
    return ErrorOf(errno, path_ + "/" + from, "renaming");
  }
  return SyncFolder();
}

absl::Status FolderMedium::SyncFolder() {
  if (fsync(folder_.get()) != 0) return ErrorOf(errno, path_, "fsync of the folder");
  return absl::OkStatus();
}

absl::Status FolderMedium::Remove(const std::string& name) {
  if (unlinkat(folder_.get(), name.c_str(), 0) != 0) {
    return ErrorOf(errno, path_ + "/" + name, "removing");
  }
  return absl::OkStatus();
}

FolderMedium::DurableFile FolderMedium::OpenFor(int folder, const std::string& name,
                                                bool is_direct) {
  const int flags = O_WRONLY | O_CLOEXEC | (is_direct ? O_DIRECT | O_DSYNC : 0);
  return {.fd = fabric::UniqueFd(openat(folder, name.c_str(), flags)), .is_direct = is_direct};
}

int FolderMedium::OpenDurable(const std::string& name, const DurableFile** file) {
  const auto found = files_.find(name);
  if (found != files_.end()) {
    *file = &found->second;
    return 0;
  }
  DurableFile opened = OpenFor(folder_.get(), name, /*is_direct=*/true);
  if (!opened.fd.valid() && errno == EINVAL) opened = OpenFor(folder_.get(), name, false);
  if (!opened.fd.valid()) return errno;
  *file = &files_.insert_or_assign(name, std::move(opened)).first->second;
  return 0;
}

void FolderMedium::BeginWrite(const std::string& name, std::uint64_t offset, BytesView bytes) {
  APTA_CHECK(!writing_);
  writing_.emplace(Writing{.name = name, .offset = offset, .rest = bytes});
  writing_->error = OpenDurable(name, &writing_->file);
  if (writing_->error == 0) Submit();
}

void FolderMedium::Submit() {
  Writing& writing = *writing_;
  const DurableFile& file = *writing.file;
  io_uring_sqe* write = io_uring_get_sqe(&ring_);
  APTA_CHECK(write != nullptr);
  io_uring_prep_write(write, file.fd.get(), writing.rest.data(),
                      static_cast<unsigned>(writing.rest.size()), writing.offset);
  io_uring_sqe_set_data64(write, kWrite);
  writing.awaited = 1;
  writing.is_cut_short = false;
  if (!file.is_direct) {
    // A write that fails, or is cut short, cancels what is linked to it.
    write->flags |= IOSQE_IO_LINK;
    io_uring_sqe* sync = io_uring_get_sqe(&ring_);
    APTA_CHECK(sync != nullptr);
    io_uring_prep_fsync(sync, file.fd.get(), IORING_FSYNC_DATASYNC);
    io_uring_sqe_set_data64(sync, kSync);
    writing.awaited = 2;
  }
  const int submitted = io_uring_submit(&ring_);
  // The two are no longer linked: the sync may come before the write.
  if (!file.is_direct && submitted == 1) writing.error = EAGAIN;
}

void FolderMedium::ArmWake() {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  APTA_CHECK(sqe != nullptr);
  io_uring_prep_read(sqe, wake_.get(), &wakes_, sizeof(wakes_), 0);
  io_uring_sqe_set_data64(sqe, kWake);
  io_uring_submit(&ring_);
  is_armed_ = true;
}

void FolderMedium::Reap() {
  io_uring_cqe* done = nullptr;
  while (io_uring_peek_cqe(&ring_, &done) == 0 && done != nullptr) {
    const auto tag = static_cast<Tag>(io_uring_cqe_get_data64(done));
    const int result = done->res;
    io_uring_cqe_seen(&ring_, done);
    if (tag == kWake) {
      is_armed_ = false;
      continue;
    }
    Writing& writing = *writing_;
    --writing.awaited;
    if (tag == kWrite && result >= 0) {
      writing.offset += static_cast<std::uint64_t>(result);
      writing.rest.remove_prefix(static_cast<std::size_t>(result));
      writing.is_cut_short = !writing.rest.empty();
      // A disk that takes nothing and says nothing is full.
      if (result == 0) writing.error = ENOSPC;
    } else if (result < 0 && writing.error == 0 && !writing.is_cut_short) {
      writing.error = -result;
    }
  }
}

std::optional<int> FolderMedium::PollWrite() {
  // What the kernel had no room for stays in the ring, and will be written yet: it has not failed.
  if (io_uring_sq_ready(&ring_) > 0) io_uring_submit(&ring_);
  Reap();
  if (!writing_ || writing_->awaited > 0) return std::nullopt;
  // There are file systems that take O_DIRECT, and then ask for other blocks than ours.
  if (writing_->error == EINVAL && writing_->file != nullptr && writing_->file->is_direct) {
    DurableFile buffered = OpenFor(folder_.get(), writing_->name, /*is_direct=*/false);
    writing_->error = buffered.fd.valid() ? 0 : errno;
    writing_->file = &files_.insert_or_assign(writing_->name, std::move(buffered)).first->second;
    writing_->is_cut_short = writing_->error == 0;
  }
  if (writing_->error == 0 && writing_->is_cut_short) {
    Submit();  // the rest, which says why
    if (writing_->awaited > 0) return std::nullopt;
  }
  const int error = writing_->error;
  writing_.reset();
  return error;
}

void FolderMedium::Wait(fabric::TimeNs timeout_ns) {
  if (!is_armed_) ArmWake();
  constexpr fabric::TimeNs kSubmitAgainNs = 1'000'000;
  if (io_uring_sq_ready(&ring_) > 0) timeout_ns = std::min(timeout_ns, kSubmitAgainNs);
  __kernel_timespec timeout;
  timeout.tv_sec = static_cast<long long>(timeout_ns / 1'000'000'000u);
  timeout.tv_nsec = static_cast<long long>(timeout_ns % 1'000'000'000u);
  io_uring_cqe* first = nullptr;
  io_uring_wait_cqe_timeout(&ring_, &first, &timeout);
  Reap();
}

void FolderMedium::Wake() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));
}

}  // namespace apta::daemon::log
