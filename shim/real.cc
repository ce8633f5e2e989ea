#include "shim/real.h"

#include <dlfcn.h>

namespace apta::shim {

constinit RealCalls g_real{};
constinit std::atomic<bool> g_real_is_resolved{false};

namespace {

template <typename Call>
void Resolve(const char* name, Call* call) {
  *call = reinterpret_cast<Call>(dlsym(RTLD_NEXT, name));
}

RealCalls ResolveAll() {
  RealCalls real{};
  Resolve("open64", &real.open);
  Resolve("openat64", &real.openat);
  Resolve("close", &real.close);
  Resolve("dup", &real.dup);
  Resolve("dup2", &real.dup2);
  Resolve("dup3", &real.dup3);
  Resolve("fcntl64", &real.fcntl);
  Resolve("mmap64", &real.mmap);
  Resolve("munmap", &real.munmap);
  Resolve("mremap", &real.mremap);
  Resolve("msync", &real.msync);
  Resolve("shm_open", &real.shm_open);
  Resolve("shm_unlink", &real.shm_unlink);
  Resolve("unlink", &real.unlink);
  Resolve("read", &real.read);
  Resolve("pread64", &real.pread);
  Resolve("readv", &real.readv);
  Resolve("preadv64", &real.preadv);
  Resolve("sendfile64", &real.sendfile);
  Resolve("copy_file_range", &real.copy_file_range);
  Resolve("fopen64", &real.fopen);
  Resolve("fclose", &real.fclose);
  Resolve("stat64", &real.stat);
  Resolve("lstat64", &real.lstat);
  Resolve("access", &real.access);
  Resolve("shmget", &real.shmget);
  Resolve("shmat", &real.shmat);
  Resolve("shmdt", &real.shmdt);
  Resolve("shmctl", &real.shmctl);
  Resolve("_exit", &real.exit_now);
  return real;
}

}  // namespace

void ResolveReal() {
  static const bool is_resolved = [] {
    g_real = ResolveAll();
    return true;
  }();
  g_real_is_resolved.store(is_resolved, std::memory_order_release);
}

}  // namespace apta::shim
