// How working copies become committed versions, and end.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "shim/real.h"
#include "shim/shim.h"

namespace apta::shim {
namespace {

// A file's bytes: mapped where nobody can change them meanwhile, else copied.
class Contents {
 public:
  static absl::StatusOr<Contents> Of(int fd, bool alone) {
    Contents contents;
    struct stat status {};
    if (fstat(fd, &status) != 0) return ErrnoStatus(errno, "fstat");
    const auto bytes = static_cast<std::size_t>(status.st_size);
    if (bytes == 0) return contents;
    if (alone) {
      void* mapped = Real().mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
      if (mapped == MAP_FAILED) return ErrnoStatus(errno, "mmap");
      contents.mapped_ = {static_cast<const std::byte*>(mapped), bytes};
      return contents;
    }
    contents.copied_.resize(bytes);
    std::size_t done = 0;
    while (done < bytes) {
      const ssize_t got =
          Real().pread(fd, contents.copied_.data() + done, bytes - done, static_cast<off_t>(done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return ErrnoStatus(errno, "pread");
      if (got == 0) break;  // it has shrunk
      done += static_cast<std::size_t>(got);
    }
    contents.copied_.resize(done);
    return contents;
  }
  Contents(Contents&& other) noexcept
      : mapped_(std::exchange(other.mapped_, {})), copied_(std::move(other.copied_)) {}
  Contents& operator=(Contents&&) = delete;
  ~Contents() {
    if (!mapped_.empty()) Real().munmap(const_cast<std::byte*>(mapped_.data()), mapped_.size());
  }
  BytesView bytes() const { return mapped_.empty() ? BytesView(copied_) : mapped_; }

 private:
  Contents() = default;
  BytesView mapped_;
  Bytes copied_;
};

}  // namespace

// REQUIRES: the segment's gate. Alone: nobody else writes.
absl::Status Shim::Commit(const Segment& copy, bool alone) {
  struct stat status {};
  if (fstat(copy.fd, &status) != 0) return ErrnoStatus(errno, copy.name);
  if (status.st_nlink == 0) return absl::OkStatus();  // unlinked
  const absl::StatusOr<Contents> contents = Contents::Of(copy.fd, alone);
  if (!contents.ok()) return contents.status();
  Base now = BaseOf(0, contents->bytes());
  const Base base = node_.ReadBase(copy.name);
  if (base.version != 0 && Equals(base, now)) return absl::OkStatus();
  const absl::StatusOr<Version> version = store_.Commit(copy.name, contents->bytes());
  if (!version.ok()) return version.status();
  now.version = *version;
  node_.WriteBase(copy.name, now);
  return absl::OkStatus();
}

// REQUIRES: the segment's gate. A copy with changes of its own keeps them.
absl::Status Shim::Refresh(const Segment& copy) {
  const absl::StatusOr<std::optional<Object>> newest = store_.Newest(copy.name);
  if (!newest.ok()) return newest.status();
  const Base base = node_.ReadBase(copy.name);
  if (!newest->has_value() || base.version == 0 || (*newest)->version() == base.version) {
    return absl::OkStatus();
  }
  {
    const absl::StatusOr<Contents> contents = Contents::Of(copy.fd, false);
    if (!contents.ok()) return contents.status();
    if (!Equals(base, BaseOf(0, contents->bytes()))) return absl::OkStatus();
  }
  return FillCopy(copy.name, copy.fd, *newest);
}

absl::Status Shim::LeaveEach(const std::vector<Left>& left) {
  absl::Status status;
  for (const Left& one : left) status.Update(Leave(one));
  if (!status.ok()) Tell(status);
  return status;
}

absl::Status Shim::Leave(const Left& left) {
  if (!left.last_writer && !left.last_use) return absl::OkStatus();
  const auto at = segment_.find(left.segment);
  if (at == segment_.end()) return absl::OkStatus();
  Segment& segment = at->second;
  if (segment.is_view) {
    if (!left.last_use) return absl::OkStatus();
    Abandon(segment.fd);
    segment_.erase(at);
    return absl::OkStatus();
  }
  absl::Status status;
  const Node::Gate gate(&node_, segment.name);
  if (left.last_writer) {
    if (!node_.AnotherProcess(segment.inode, Node::Part::kWrites)) status = Commit(segment, true);
    node_.End(segment.inode, Node::Part::kWrites);
  }
  if (left.last_use) {
    const bool is_last = !node_.AnotherProcess(segment.inode, Node::Part::kUses);
    struct stat file {};
    if (is_last && fstat(segment.fd, &file) == 0 && file.st_nlink != 0) {
      node_.RemoveCopy(segment.name);
    }
    node_.End(segment.inode, Node::Part::kUses);
    Abandon(segment.fd);
    segment_.erase(at);
  }
  return status;
}

void Shim::LeaveAll() {
  if (!IsHere()) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Left> left;
  {
    const std::lock_guard<std::mutex> table(table_mutex_);
    left = segments_.Clear();
  }
  LeaveEach(left).IgnoreError();
}

int Shim::Unlink(const std::string& name) {
  const std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = node_.Join();
  bool existed = false;
  if (status.ok()) {
    Mark(node_.locks_fd());
    const Node::Gate gate(&node_, name);
    const absl::StatusOr<bool> removed = store_.Remove(name);
    status = removed.status();
    if (removed.ok()) {
      struct stat file {};
      existed = Real().lstat(node_.CopyPath(name).c_str(), &file) == 0 &&
                (IsWrittenHere(name, file.st_ino) || Find(name, file.st_ino) != 0 ||
                 node_.AnotherProcess(file.st_ino, Node::Part::kUses));
      existed = existed || *removed;
      node_.RemoveCopy(name);
    }
  }
  if (status.ok() && existed) return 0;
  errno = status.ok() ? ENOENT : ErrnoOf(status);
  if (!status.ok()) Tell(status);
  return -1;
}

// As fstat of a descriptor that was opened to read.
int Shim::Stat(const std::string& name, struct stat* status) {
  const int fd = Open(name, O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) return -1;
  const int result = fstat(fd, status);
  Close(fd);
  Real().close(fd);
  return result;
}

}  // namespace apta::shim
