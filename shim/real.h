// The calls that stand behind ours: what the program would have called without us.
//
// Thread-safe. Resolved at the first call, which may come before any constructor of this library.
#pragma once

#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <atomic>
#include <cstddef>

struct shmid_ds;

namespace apta::shim {

struct RealCalls {
  int (*open)(const char*, int, ...);
  int (*openat)(int, const char*, int, ...);
  int (*close)(int);
  int (*dup)(int);
  int (*dup2)(int, int);
  int (*dup3)(int, int, int);
  int (*fcntl)(int, int, ...);
  void* (*mmap)(void*, std::size_t, int, int, int, off_t);
  int (*munmap)(void*, std::size_t);
  void* (*mremap)(void*, std::size_t, std::size_t, int, ...);
  int (*msync)(void*, std::size_t, int);
  int (*shm_open)(const char*, int, mode_t);
  int (*shm_unlink)(const char*);
  int (*unlink)(const char*);
  ssize_t (*read)(int, void*, std::size_t);
  ssize_t (*pread)(int, void*, std::size_t, off_t);
  ssize_t (*readv)(int, const iovec*, int);
  ssize_t (*preadv)(int, const iovec*, int, off_t);
  ssize_t (*sendfile)(int, int, off_t*, std::size_t);
  ssize_t (*copy_file_range)(int, off_t*, int, off_t*, std::size_t, unsigned);
  FILE* (*fopen)(const char*, const char*);
  int (*fclose)(FILE*);
  int (*stat)(const char*, struct stat*);
  int (*lstat)(const char*, struct stat*);
  int (*access)(const char*, int);
  int (*shmget)(int, std::size_t, int);
  void* (*shmat)(int, const void*, int);
  int (*shmdt)(const void*);
  int (*shmctl)(int, int, shmid_ds*);
  void (*exit_now)(int);  // _exit
};

extern RealCalls g_real;
extern std::atomic<bool> g_real_is_resolved;
void ResolveReal();

inline const RealCalls& Real() {
  // Acquire: partner of the release in ResolveReal.
  if (!g_real_is_resolved.load(std::memory_order_acquire)) [[unlikely]]
    ResolveReal();
  return g_real;
}

}  // namespace apta::shim
