#include "shim/node.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>

#include "shim/real.h"
#include "shim/store.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace apta::shim {
namespace {

constexpr char kErrnoUrl[] = "apta/errno";
// Behind all inodes' locks.
constexpr std::uint64_t kGates = std::uint64_t{1} << 62;

std::uint64_t HashOf(const std::string& text) { return XXH3_64bits(text.data(), text.size()); }

struct flock Wanted(std::uint64_t at, short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(at);
  lock.l_len = 1;
  return lock;
}

int OpenLocks(const std::string& folder) {
  const int fd = Real().open((folder + "/locks").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) return fd;
  const int moved = Real().fcntl(fd, F_DUPFD_CLOEXEC, kFirstOwnFd);
  if (moved < 0) return fd;
  Real().close(fd);
  return moved;
}

// Everybody of the machine may join, as with /dev/shm; what files may be opened their modes say.
void MakeFolder(const std::string& path) {
  if (mkdir(path.c_str(), 01777) == 0) static_cast<void>(chmod(path.c_str(), 01777));
}

}  // namespace

Base BaseOf(Version version, BytesView bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {.version = version, .bytes = bytes.size(), .hash = {hash.low64, hash.high64}};
}

bool Equals(const Base& a, const Base& b) {
  return a.bytes == b.bytes && a.hash[0] == b.hash[0] && a.hash[1] == b.hash[1];
}

absl::Status ErrnoStatus(int error, const std::string& what) {
  absl::Status status = absl::UnknownError(fmt::format("{}: {}", what, std::strerror(error)));
  status.SetPayload(kErrnoUrl, absl::Cord(std::to_string(error)));
  return status;
}

int ErrnoOf(const absl::Status& status) {
  if (const auto error = status.GetPayload(kErrnoUrl)) {
    return std::atoi(std::string(*error).c_str());
  }
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return ENOENT;
    case absl::StatusCode::kResourceExhausted:
      return ENOSPC;
    case absl::StatusCode::kPermissionDenied:
      return EACCES;
    case absl::StatusCode::kInvalidArgument:
      return EINVAL;
    default:
      return EIO;
  }
}

absl::Status Node::Join() {
  if (joined()) return absl::OkStatus();
  const Place place = Place::FromEnvironment();
  char absolute[PATH_MAX];
  const char* socket = realpath(place.socket.c_str(), absolute);
  const std::string name =
      fmt::format("{}\n{}\n{}", socket != nullptr ? socket : place.socket, place.pool, place.node);
  folder_ = fmt::format("/dev/shm/.apta-{:016x}", HashOf(name));
  for (const char* part : {"", "/copy", "/base"}) MakeFolder(folder_ + part);
  locks_fd_ = OpenLocks(folder_);
  if (locks_fd_ < 0) return ErrnoStatus(errno, folder_ + "/locks");
  static_cast<void>(fchmod(locks_fd_, 0666));
  return absl::OkStatus();
}

Node::Gate::Gate(Node* node, const std::string& segment)
    : node_(node), at_(kGates + (HashOf(segment) >> 3)) {
  node_->Lock(at_, false);
}
Node::Gate::~Gate() { node_->Unlock(at_); }

void Node::Lock(std::uint64_t at, bool shared) {
  struct flock lock = Wanted(at, shared ? F_RDLCK : F_WRLCK);
  while (Real().fcntl(locks_fd_, F_OFD_SETLKW, &lock) != 0 && errno == EINTR) {
  }
}

void Node::Unlock(std::uint64_t at) {
  struct flock lock = Wanted(at, F_UNLCK);
  Real().fcntl(locks_fd_, F_OFD_SETLK, &lock);
}

bool Node::AnotherProcess(ino_t copy, Part part) const {
  struct flock lock = Wanted(LockAt(copy, part), F_WRLCK);
  return Real().fcntl(locks_fd_, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

void Node::WriteBase(const std::string& segment, const Base& base) {
  const int fd = Real().open(RecordPath(segment).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) return;  // then it equals nothing, and is committed
  static_cast<void>(fchmod(fd, 0666));
  if (pwrite(fd, &base, sizeof(base), 0) != sizeof(base)) static_cast<void>(ftruncate(fd, 0));
  Real().close(fd);
}

Base Node::ReadBase(const std::string& segment) const {
  Base base;
  const int fd = Real().open(RecordPath(segment).c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  if (Real().pread(fd, &base, sizeof(base), 0) != sizeof(base)) base = {};
  Real().close(fd);
  return base;
}

void Node::RemoveCopy(const std::string& segment) {
  Real().unlink(CopyPath(segment).c_str());
  Real().unlink(RecordPath(segment).c_str());
}

void Node::PrepareFork() {
  if (joined()) child_locks_fd_ = OpenLocks(folder_);
}

void Node::TakeForChild(ino_t copy, Part part) {
  struct flock lock = Wanted(LockAt(copy, part), F_RDLCK);
  Real().fcntl(child_locks_fd_, F_OFD_SETLK, &lock);
}

void Node::EndFork(bool in_child) {
  if (in_child && child_locks_fd_ >= 0) std::swap(locks_fd_, child_locks_fd_);
  if (child_locks_fd_ >= 0) Real().close(child_locks_fd_);
  child_locks_fd_ = -1;
}

}  // namespace apta::shim
