// Segments that are read like files: a view is filled before it is.

#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "shim/preload.h"

using apta::shim::Real;
using apta::shim::SegmentOfPath;
using apta::shim::Shim;
using apta::shim::ShimOf;

namespace {

void WillRead(int fd) {
  if (Shim* const shim = ShimOf(fd)) shim->FillForReading(fd);
}

// The flags of a mode of fopen; -1: none.
int FlagsOfMode(const char* mode) {
  const bool updates = std::strchr(mode, '+') != nullptr;
  const int flags = std::strchr(mode, 'e') != nullptr ? O_CLOEXEC : 0;
  const int exclusive = std::strchr(mode, 'x') != nullptr ? O_EXCL : 0;
  switch (mode[0]) {
    case 'r':
      return flags | (updates ? O_RDWR : O_RDONLY);
    case 'w':
      return flags | exclusive | O_CREAT | O_TRUNC | (updates ? O_RDWR : O_WRONLY);
    case 'a':
      return flags | exclusive | O_CREAT | O_APPEND | (updates ? O_RDWR : O_WRONLY);
    default:
      return -1;
  }
}

FILE* OpenStream(const char* path, const char* mode) {
  const auto segment = SegmentOfPath(path);
  const int flags = segment.has_value() ? FlagsOfMode(mode) : -1;
  if (flags < 0) return Real().fopen(path, mode);
  Shim& shim = Shim::Get();
  const int fd = shim.Open(*segment, flags, 0666);
  if (fd < 0) return nullptr;
  if (!shim.Owns(fd)) shim.FillForReading(fd);  // the stream reads it without us
  return fdopen(fd, mode);
}

}  // namespace

APTA_INTERPOSED ssize_t read(int fd, void* to, std::size_t bytes) {
  WillRead(fd);
  return Real().read(fd, to, bytes);
}
APTA_INTERPOSED ssize_t pread(int fd, void* to, std::size_t bytes, off_t offset) {
  WillRead(fd);
  return Real().pread(fd, to, bytes, offset);
}
APTA_INTERPOSED ssize_t pread64(int fd, void* to, std::size_t bytes, off64_t offset) {
  WillRead(fd);
  return Real().pread(fd, to, bytes, offset);
}
APTA_INTERPOSED ssize_t readv(int fd, const iovec* to, int count) {
  WillRead(fd);
  return Real().readv(fd, to, count);
}
APTA_INTERPOSED ssize_t preadv(int fd, const iovec* to, int count, off_t offset) {
  WillRead(fd);
  return Real().preadv(fd, to, count, offset);
}
APTA_INTERPOSED ssize_t preadv64(int fd, const iovec* to, int count, off64_t offset) {
  WillRead(fd);
  return Real().preadv(fd, to, count, offset);
}
APTA_INTERPOSED ssize_t sendfile(int out, int in, off_t* offset, std::size_t bytes) noexcept {
  WillRead(in);
  return Real().sendfile(out, in, offset, bytes);
}
APTA_INTERPOSED ssize_t sendfile64(int out, int in, off64_t* offset, std::size_t bytes) noexcept {
  WillRead(in);
  return Real().sendfile(out, in, offset, bytes);
}
APTA_INTERPOSED ssize_t copy_file_range(int in, off64_t* from, int out, off64_t* to,
                                        std::size_t bytes, unsigned flags) {
  WillRead(in);
  return Real().copy_file_range(in, from, out, to, bytes, flags);
}

APTA_INTERPOSED FILE* fopen(const char* path, const char* mode) { return OpenStream(path, mode); }
APTA_INTERPOSED FILE* fopen64(const char* path, const char* mode) { return OpenStream(path, mode); }

// The C library closes the descriptor without us: what was written is committed before.
APTA_INTERPOSED int fclose(FILE* stream) {
  const int fd = fileno(stream);
  Shim* const shim = ShimOf(fd);
  if (shim == nullptr) return Real().fclose(stream);
  const bool flushed = fflush(stream) == 0;
  const bool committed = shim->Close(fd) == 0;
  const int error = errno;
  if (Real().fclose(stream) != 0) return EOF;
  if (flushed && committed) return 0;
  errno = error;
  return EOF;
}

#define STAT_LIKE(SYMBOL, STATUS, CALL)                                          \
  APTA_INTERPOSED int SYMBOL(const char* path, struct STATUS* status) noexcept { \
    if (const auto segment = SegmentOfPath(path)) {                              \
      return Shim::Get().Stat(*segment, reinterpret_cast<struct stat*>(status)); \
    }                                                                            \
    return Real().CALL(path, reinterpret_cast<struct stat*>(status));            \
  }
static_assert(sizeof(struct stat) == sizeof(struct stat64));
STAT_LIKE(stat, stat, stat)
STAT_LIKE(stat64, stat64, stat)
STAT_LIKE(lstat, stat, lstat)
STAT_LIKE(lstat64, stat64, lstat)

APTA_INTERPOSED int access(const char* path, int mode) noexcept {
  if (const auto segment = SegmentOfPath(path)) {
    struct stat status {};
    return Shim::Get().Stat(*segment, &status);
  }
  return Real().access(path, mode);
}
