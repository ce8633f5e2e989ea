#include "shim/shim.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fnmatch.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>
#include <vector>

#include "shim/real.h"

namespace apta::shim {

constinit std::atomic<Shim*> Shim::s_shim{nullptr};

namespace {

struct stat StatusOf(int fd) {
  struct stat status {};
  fstat(fd, &status);
  return status;
}

}  // namespace

void Tell(const absl::Status& status) {
  const std::string line = fmt::format("libapta_shmem: {}\n", std::string(status.message()));
  static_cast<void>(!write(STDERR_FILENO, line.data(), line.size()));
}

Shim& Shim::Get() {
  static Shim* const shim = [] {
    auto* made = new Shim();
    made->own_ = made->segments_.NewSegment();
    made->pid_ = getpid();
    pthread_atfork([] { Get().BeforeFork(); }, [] { Get().AfterFork(false); },
                   [] { Get().AfterFork(true); });
    std::atexit([] { Get().LeaveAll(); });
    s_shim.store(made, std::memory_order_release);
    return made;
  }();
  return *shim;
}

bool Shim::Matches(std::string_view segment) {
  static const std::string* const glob = [] {
    const char* value = std::getenv("APTA_SHMEM");
    const std::string text = value != nullptr && *value != '\0' ? value : "*";
    return new std::string(text.substr(text.starts_with('/') ? 1 : 0));
  }();
  // What is no name of a segment, what POSIX semaphores live in, and our own folder.
  if (segment.empty() || segment.size() > 255 || segment.find('/') != segment.npos ||
      segment.starts_with("sem.") || segment.starts_with('.')) {
    return false;
  }
  return fnmatch(glob->c_str(), std::string(segment).c_str(), 0) == 0;
}

bool Shim::IsHere() const { return pid_.load(std::memory_order_relaxed) == getpid(); }

void Shim::Mark(int own_fd) {
  const std::lock_guard<std::mutex> table(table_mutex_);
  if (own_fd >= 0 && own_fd < Segments::kMaxFds && !segments_.Knows(own_fd)) {
    segments_.AddFd(own_fd, {.segment = own_});
  }
}

void Shim::Unmark(int own_fd) {
  const std::lock_guard<std::mutex> table(table_mutex_);
  if (segments_.UseOf(own_fd).segment == own_) segments_.RemoveFd(own_fd);
}

// Moves a descriptor out of the program's way.
int Shim::Adopt(int fd) {
  const int moved = Real().fcntl(fd, F_DUPFD_CLOEXEC, kFirstOwnFd);
  if (moved >= 0) Real().close(fd);
  const int own = moved >= 0 ? moved : fd;
  Mark(own);
  return own;
}

void Shim::Abandon(int fd) {
  Unmark(fd);
  Real().close(fd);
}

bool Shim::Owns(int fd) {
  const std::lock_guard<std::mutex> table(table_mutex_);
  return segments_.UseOf(fd).segment == own_;
}

int Shim::Open(const std::string& segment, int flags, mode_t mode) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const absl::StatusOr<int> fd = OpenSegment(segment, flags, mode);
  if (fd.ok()) return *fd;
  errno = ErrnoOf(fd.status());
  if (errno == EIO) Tell(fd.status());
  return -1;
}

absl::StatusOr<int> Shim::OpenSegment(const std::string& name, int flags, mode_t mode) {
  if (absl::Status joined = node_.Join(); !joined.ok()) return joined;
  Mark(node_.locks_fd());
  const Node::Gate gate(&node_, name);
  const std::string path = node_.CopyPath(name);
  int fd = Real().open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0 && errno == EACCES) fd = Real().open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 && errno != ENOENT) return ErrnoStatus(errno, path);
  bool is_live = false;
  bool has_writer = false;
  if (fd >= 0) {
    const ino_t inode = StatusOf(fd).st_ino;
    is_live = Find(name, inode) != 0 || node_.AnotherProcess(inode, Node::Part::kUses);
    has_writer = IsWrittenHere(name, inode) || node_.AnotherProcess(inode, Node::Part::kWrites);
    if (!is_live) {  // of processes that died
      Real().close(std::exchange(fd, -1));
      node_.RemoveCopy(name);
    }
  }
  const bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0;
  std::optional<Object> newest;
  if (!is_live || (writes && !has_writer)) {
    absl::StatusOr<std::optional<Object>> got = store_.Newest(name);
    if (!got.ok()) {
      if (fd >= 0) Real().close(fd);
      return got.status();
    }
    newest = *std::move(got);
  }
  absl::Status allowed;
  if (is_live || newest.has_value()) {
    if ((flags & O_CREAT) != 0 && (flags & O_EXCL) != 0) allowed = ErrnoStatus(EEXIST, name);
  } else if ((flags & O_CREAT) == 0) {
    allowed = ErrnoStatus(ENOENT, name);
  }
  if (!allowed.ok()) {
    if (fd >= 0) Real().close(fd);
    return allowed;
  }
  if (!is_live && newest.has_value() && !writes) return OpenView(name, flags, *newest);
  if (is_live && writes && !has_writer) {
    if (absl::Status filled = FillCopy(name, fd, newest); !filled.ok()) {
      Real().close(fd);
      return filled;
    }
  }
  return OpenCopy(name, flags, mode, fd, is_live, newest);
}

absl::StatusOr<int> Shim::OpenCopy(const std::string& name, int flags, mode_t mode, int fd,
                                   bool is_live, const std::optional<Object>& newest) {
  const std::string path = node_.CopyPath(name);
  bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0;
  if (!is_live) {
    writes = true;  // being there is a change
    const mode_t permissions = (flags & O_CREAT) != 0 ? mode & 0777 : 0600;
    fd = Real().open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, permissions);
    if (fd < 0) return ErrnoStatus(errno, path);
    if (absl::Status filled = FillCopy(name, fd, newest); !filled.ok()) {
      Real().close(fd);
      node_.RemoveCopy(name);
      return filled;
    }
  }
  int program_fd = Real().open(path.c_str(), flags & ~(O_CREAT | O_EXCL));
  if (program_fd < 0 && errno == EACCES && !is_live) {  // its mode is not for who made it
    program_fd = Real().fcntl(fd, (flags & O_CLOEXEC) != 0 ? F_DUPFD_CLOEXEC : F_DUPFD, 0);
  }
  if (program_fd < 0 || program_fd >= Segments::kMaxFds) {
    const absl::Status failed = ErrnoStatus(program_fd < 0 ? errno : EMFILE, path);
    if (program_fd >= 0) Real().close(program_fd);
    Real().close(fd);
    return failed;
  }
  const ino_t inode = StatusOf(fd).st_ino;
  SegmentId id = Find(name, inode);
  if (id == 0) {
    const std::lock_guard<std::mutex> table(table_mutex_);
    id = segments_.NewSegment();
  } else {
    Real().close(std::exchange(fd, segment_[id].fd));
  }
  if (segment_.find(id) == segment_.end()) {
    segment_[id] = {.name = name, .fd = Adopt(fd), .inode = inode};
  }
  node_.Begin(inode, Node::Part::kUses);
  if (writes) node_.Begin(inode, Node::Part::kWrites);
  const std::lock_guard<std::mutex> table(table_mutex_);
  segments_.AddFd(program_fd, {.segment = id, .writes = writes});
  return program_fd;
}

absl::StatusOr<SegmentId> Shim::MakeView(const std::string& name, const Object& object) {
  const int made = Real().open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (made < 0) return ErrnoStatus(errno, "/dev/shm");
  absl::Status status;
  const std::size_t tail = object.size() % 4096;
  const auto whole = static_cast<off_t>(object.size() - tail);
  // What ends within a page has that page here, with the zeros that follow; the heap has others'.
  if (ftruncate(made, static_cast<off_t>(object.size())) != 0 ||
      pwrite(made, object.bytes().data() + whole, tail, whole) != static_cast<ssize_t>(tail)) {
    status = ErrnoStatus(errno, name);
  }
  const int fd = Real().open(fmt::format("/proc/self/fd/{}", made).c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) status = ErrnoStatus(errno, name);
  const ino_t inode = StatusOf(made).st_ino;
  Real().close(made);
  if (!status.ok()) {
    if (fd >= 0) Real().close(fd);
    return status;
  }
  SegmentId id = 0;
  {
    const std::lock_guard<std::mutex> table(table_mutex_);
    id = segments_.NewSegment();
  }
  Segment& view = segment_[id];
  view = {.name = name, .fd = Adopt(fd), .inode = inode, .is_view = true, .object = object};
  const std::optional<ObjectPages> pages = store_.Pages(object);
  if (pages.has_value()) {
    Real().close(pages->fd);
  } else {
    status = FillView(&view);
  }
  if (status.ok()) return id;
  Abandon(view.fd);
  segment_.erase(id);
  return status;
}

absl::StatusOr<int> Shim::OpenView(const std::string& name, int flags, const Object& object) {
  const absl::StatusOr<SegmentId> id = MakeView(name, object);
  if (!id.ok()) return id.status();
  Segment& view = segment_[*id];
  const int fd = Real().open(fmt::format("/proc/self/fd/{}", view.fd).c_str(),
                             flags & ~(O_CREAT | O_EXCL | O_NOFOLLOW));
  absl::Status status;
  if (fd < 0 || fd >= Segments::kMaxFds) {
    status = ErrnoStatus(fd < 0 ? errno : EMFILE, name);
    if (fd >= 0) Real().close(fd);
  } else if ((flags & O_CLOEXEC) == 0) {
    status = FillView(&view);  // the next program reads it without us
  }
  if (!status.ok()) {
    Abandon(view.fd);
    segment_.erase(*id);
    return status;
  }
  const std::lock_guard<std::mutex> table(table_mutex_);
  segments_.AddFd(fd, {.segment = *id});
  return fd;
}

namespace {

absl::Status WriteAll(int fd, BytesView bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t wrote =
        pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return ErrnoStatus(wrote < 0 ? errno : ENOSPC, "/dev/shm");
    done += static_cast<std::size_t>(wrote);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Shim::FillCopy(const std::string& name, int fd, const std::optional<Object>& newest) {
  const BytesView bytes = newest.has_value() ? newest->bytes() : BytesView();
  if (ftruncate(fd, static_cast<off_t>(bytes.size())) != 0) return ErrnoStatus(errno, name);
  if (absl::Status status = WriteAll(fd, bytes); !status.ok()) return status;
  node_.WriteBase(name, newest.has_value() ? BaseOf(newest->version(), bytes) : Base{});
  return absl::OkStatus();
}

absl::Status Shim::FillView(Segment* view) {
  if (view->is_filled) return absl::OkStatus();
  const int fd = Real().open(fmt::format("/proc/self/fd/{}", view->fd).c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, view->name);
  const absl::Status status = WriteAll(fd, view->object.bytes());
  Real().close(fd);
  view->is_filled = status.ok();
  return status;
}

SegmentId Shim::Find(const std::string& name, ino_t inode) const {
  for (const auto& [id, segment] : segment_) {
    if (!segment.is_view && segment.inode == inode && segment.name == name) return id;
  }
  return 0;
}

bool Shim::IsWrittenHere(const std::string& name, ino_t inode) {
  const SegmentId id = Find(name, inode);
  const std::lock_guard<std::mutex> table(table_mutex_);
  return id != 0 && segments_.IsWritten(id);
}

// A descriptor that was closed behind our back is somebody else's by now.
Use Shim::CheckedUse(int fd) {
  Use use;
  std::optional<Left> stale;
  {
    const std::lock_guard<std::mutex> table(table_mutex_);
    use = segments_.UseOf(fd);
    if (use.segment == 0 || use.segment == own_) return {};
    const auto segment = segment_.find(use.segment);
    if (segment == segment_.end() || segment->second.inode != StatusOf(fd).st_ino) {
      stale = segments_.RemoveFd(fd);
      use = {};
    }
  }
  if (stale.has_value()) Leave(*stale).IgnoreError();
  return use;
}

int Shim::Close(int fd) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (CheckedUse(fd).segment == 0) return 0;
  std::optional<Left> left;
  {
    const std::lock_guard<std::mutex> table(table_mutex_);
    left = segments_.RemoveFd(fd);
  }
  const absl::Status status = left.has_value() ? Leave(*left) : absl::OkStatus();
  if (status.ok()) return 0;
  Tell(status);
  errno = ErrnoOf(status);
  return -1;
}

void Shim::Duplicated(int fd, int new_fd, bool is_inherited) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Use use = CheckedUse(fd);
  if (use.segment == 0 || new_fd >= Segments::kMaxFds) return;
  Segment& segment = segment_[use.segment];
  if (segment.is_view && is_inherited) FillView(&segment).IgnoreError();
  const std::lock_guard<std::mutex> table(table_mutex_);
  if (!segments_.Knows(new_fd)) segments_.AddFd(new_fd, use);
}

void Shim::FillForReading(int fd) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const Use use = CheckedUse(fd);
  if (use.segment == 0 || !segment_[use.segment].is_view) return;
  if (absl::Status status = FillView(&segment_[use.segment]); !status.ok()) Tell(status);
}

}  // namespace apta::shim
