// POSIX shared memory: names, descriptors, mappings.
//
// Nothing but the first look, and the call behind it where nothing is ours.

#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "shim/preload.h"
#include "shim/sysv.h"

using apta::shim::Real;
using apta::shim::SegmentOfPath;
using apta::shim::Shim;
using apta::shim::ShimOf;
using apta::shim::SystemV;

namespace {

mode_t ModeOf(int flags, va_list arguments) {
  return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
}

int Open(const char* path, int flags, mode_t mode) {
  if (const auto segment = SegmentOfPath(path)) return Shim::Get().Open(*segment, flags, mode);
  return Real().open(path, flags, mode);
}

int OpenAt(int folder, const char* path, int flags, mode_t mode) {
  if (const auto segment = SegmentOfPath(path)) return Shim::Get().Open(*segment, flags, mode);
  return Real().openat(folder, path, flags, mode);
}

void* Map(void* address, std::size_t bytes, int protection, int flags, int fd, off_t offset) {
  if ((flags & MAP_ANONYMOUS) == 0) {
    if (Shim* const shim = ShimOf(fd)) {
      return shim->Map(address, bytes, protection, flags, fd, offset);
    }
  }
  void* const mapped = Real().mmap(address, bytes, protection, flags, fd, offset);
  if ((flags & MAP_FIXED) != 0 && mapped != MAP_FAILED) {
    if (Shim* const shim = ShimOf(mapped, bytes)) shim->MappedOver(mapped, bytes);
  }
  return mapped;
}

int Duplicate(int fd, int new_fd, bool is_inherited) {
  if (new_fd >= 0) {
    if (Shim* const shim = ShimOf(fd)) shim->Duplicated(fd, new_fd, is_inherited);
  }
  return new_fd;
}

// What the program has at this number goes; false: it is one of ours, and stays.
bool GiveUp(int fd, int* result) {
  Shim* const shim = ShimOf(fd);
  if (shim == nullptr) return true;
  if (shim->Owns(fd)) return false;
  *result = shim->Close(fd);
  return true;
}

std::string NameOf(const char* name) { return name[0] == '/' ? name + 1 : name; }

}  // namespace

#define OPEN_LIKE(SYMBOL)                                        \
  APTA_INTERPOSED int SYMBOL(const char* path, int flags, ...) { \
    va_list arguments;                                           \
    va_start(arguments, flags);                                  \
    const mode_t mode = ModeOf(flags, arguments);                \
    va_end(arguments);                                           \
    return Open(path, flags, mode);                              \
  }
OPEN_LIKE(open)
OPEN_LIKE(open64)

#define OPENAT_LIKE(SYMBOL)                                                  \
  APTA_INTERPOSED int SYMBOL(int folder, const char* path, int flags, ...) { \
    va_list arguments;                                                       \
    va_start(arguments, flags);                                              \
    const mode_t mode = ModeOf(flags, arguments);                            \
    va_end(arguments);                                                       \
    return OpenAt(folder, path, flags, mode);                                \
  }
OPENAT_LIKE(openat)
OPENAT_LIKE(openat64)

// What _FORTIFY_SOURCE makes of open.
APTA_INTERPOSED int __open_2(const char* path, int flags) { return Open(path, flags, 0); }
APTA_INTERPOSED int __open64_2(const char* path, int flags) { return Open(path, flags, 0); }
APTA_INTERPOSED int __openat_2(int folder, const char* path, int flags) {
  return OpenAt(folder, path, flags, 0);
}
APTA_INTERPOSED int __openat64_2(int folder, const char* path, int flags) {
  return OpenAt(folder, path, flags, 0);
}
APTA_INTERPOSED int creat(const char* path, mode_t mode) {
  return Open(path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
APTA_INTERPOSED int creat64(const char* path, mode_t mode) { return creat(path, mode); }

APTA_INTERPOSED int shm_open(const char* name, int flags, mode_t mode) {
  if (Shim::Matches(NameOf(name))) {
    return Shim::Get().Open(NameOf(name), flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, mode);
  }
  return Real().shm_open(name, flags, mode);
}

APTA_INTERPOSED int shm_unlink(const char* name) {
  if (Shim::Matches(NameOf(name))) return Shim::Get().Unlink(NameOf(name));
  return Real().shm_unlink(name);
}

APTA_INTERPOSED int unlink(const char* path) noexcept {
  if (const auto segment = SegmentOfPath(path)) return Shim::Get().Unlink(*segment);
  return Real().unlink(path);
}

APTA_INTERPOSED int close(int fd) {
  int result = 0;
  if (!GiveUp(fd, &result)) {
    errno = EBADF;
    return -1;
  }
  const int error = errno;
  const int closed = Real().close(fd);
  if (closed != 0 || result == 0) return closed;
  errno = error;
  return result;
}

APTA_INTERPOSED int dup(int fd) noexcept { return Duplicate(fd, Real().dup(fd), true); }

APTA_INTERPOSED int dup2(int fd, int new_fd) noexcept {
  int result = 0;
  if (fd != new_fd && !GiveUp(new_fd, &result)) {
    errno = EBADF;
    return -1;
  }
  return Duplicate(fd, Real().dup2(fd, new_fd), true);
}

APTA_INTERPOSED int dup3(int fd, int new_fd, int flags) noexcept {
  int result = 0;
  if (fd != new_fd && !GiveUp(new_fd, &result)) {
    errno = EBADF;
    return -1;
  }
  return Duplicate(fd, Real().dup3(fd, new_fd, flags), (flags & O_CLOEXEC) == 0);
}

namespace {

int Control(int fd, int command, void* argument) {
  const int result = Real().fcntl(fd, command, argument);
  if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) {
    return Duplicate(fd, result, command == F_DUPFD);
  }
  if (command == F_SETFD && (reinterpret_cast<std::uintptr_t>(argument) & FD_CLOEXEC) == 0) {
    if (Shim* const shim = ShimOf(fd)) shim->FillForReading(fd);
  }
  return result;
}

}  // namespace

#define FCNTL_LIKE(SYMBOL)                               \
  APTA_INTERPOSED int SYMBOL(int fd, int command, ...) { \
    va_list arguments;                                   \
    va_start(arguments, command);                        \
    void* const argument = va_arg(arguments, void*);     \
    va_end(arguments);                                   \
    return Control(fd, command, argument);               \
  }
FCNTL_LIKE(fcntl)
FCNTL_LIKE(fcntl64)

APTA_INTERPOSED void* mmap(void* address, std::size_t bytes, int protection, int flags, int fd,
                           off_t offset) noexcept {
  return Map(address, bytes, protection, flags, fd, offset);
}
APTA_INTERPOSED void* mmap64(void* address, std::size_t bytes, int protection, int flags, int fd,
                             off64_t offset) noexcept {
  return Map(address, bytes, protection, flags, fd, offset);
}

APTA_INTERPOSED int munmap(void* address, std::size_t bytes) noexcept {
  if (Shim* const shim = ShimOf(address, bytes)) return shim->Unmap(address, bytes);
  return Real().munmap(address, bytes);
}

APTA_INTERPOSED void* mremap(void* address, std::size_t old_bytes, std::size_t bytes, int flags,
                             ...) noexcept {
  va_list arguments;
  va_start(arguments, flags);
  void* const to = (flags & MREMAP_FIXED) != 0 ? va_arg(arguments, void*) : nullptr;
  va_end(arguments);
  if (Shim* const shim = ShimOf(address, old_bytes + 1)) {
    return shim->Remap(address, old_bytes, bytes, flags, to);
  }
  return Real().mremap(address, old_bytes, bytes, flags, to);
}

APTA_INTERPOSED int msync(void* address, std::size_t bytes, int flags) {
  if (Shim* const shim = ShimOf(address, bytes)) return shim->Sync(address, bytes, flags);
  return Real().msync(address, bytes, flags);
}

APTA_INTERPOSED __attribute__((noreturn)) void _exit(int code) {
  if (SystemV* const system_v = SystemV::Existing()) system_v->LeaveAll();
  if (Shim* const shim = Shim::Existing()) shim->LeaveAll();
  Real().exit_now(code);
  __builtin_unreachable();
}
APTA_INTERPOSED __attribute__((noreturn)) void _Exit(int code) noexcept { _exit(code); }
