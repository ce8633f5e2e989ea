// A program that knows nothing of Āpta: shared memory as POSIX and System V have it.
//
// plain_program ROLE NAME [TEXT]: what it prints and what its exit code says is in preload_test.cc.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <string>

namespace {

constexpr std::size_t kBytes = 256 << 10;

void Check(bool holds, const char* what) {
  if (holds) return;
  std::perror(what);
  std::exit(1);
}

char* MapShared(const char* name, int flags, int protection, int kind = MAP_SHARED) {
  const int fd = shm_open(name, flags, 0600);
  Check(fd >= 0, "shm_open");
  if ((flags & O_CREAT) != 0) Check(ftruncate(fd, kBytes) == 0, "ftruncate");
  void* const at = mmap(nullptr, kBytes, protection, kind, fd, 0);
  Check(at != MAP_FAILED, "mmap");
  Check(close(fd) == 0, "close");
  return static_cast<char*>(at);
}

char* MapToWrite(const char* name) {
  return MapShared(name, O_RDWR | O_CREAT, PROT_READ | PROT_WRITE);
}

// Whether the address is of a memory server's heap.
bool IsInHeap(const void* address) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0;
    unsigned long end = 0;
    std::sscanf(line.c_str(), "%lx-%lx", &begin, &end);
    const auto at = reinterpret_cast<unsigned long>(address);
    if (begin <= at && at < end) return line.find("apta-region") != line.npos;
  }
  return false;
}

void AwaitLine() {
  char byte = 0;
  while (read(STDIN_FILENO, &byte, 1) == 1 && byte != '\n') {
  }
}

void Say(const char* text) {
  std::puts(text);
  std::fflush(stdout);
}

int Write(const char* name, const char* text) {
  char* const at = MapToWrite(name);
  std::strcpy(at, text);
  return munmap(at, kBytes);
}

int WriteAndReturn(const char* name, const char* text) {
  std::strcpy(MapToWrite(name), text);
  return 0;
}

int WriteAndDie(const char* name, const char* text) {
  std::strcpy(MapToWrite(name), text);
  return std::raise(SIGKILL);
}

int SyncAndDie(const char* name, const char* text) {
  char* const at = MapToWrite(name);
  std::strcpy(at, text);
  Check(msync(at, kBytes, MS_SYNC) == 0, "msync");
  std::strcpy(at, "not this");
  return std::raise(SIGKILL);
}

// Joins what others write, and leaves when it is told.
int Join(const char* name, const char*) {
  char* const at = MapShared(name, O_RDWR, PROT_READ | PROT_WRITE);
  Say(at);
  AwaitLine();
  Say(at);
  return munmap(at, kBytes);
}

int WriteAndWait(const char* name, const char* text) {
  char* const at = MapToWrite(name);
  std::strcpy(at, text);
  Say("written");
  AwaitLine();
  Say(at);
  return munmap(at, kBytes);
}

int Read(const char* name, const char*) {
  Say(MapShared(name, O_RDONLY, PROT_READ));
  return 0;
}

int ReadInPlace(const char* name, const char*) {
  char* const shared = MapShared(name, O_RDONLY, PROT_READ);
  char* const own = MapShared(name, O_RDONLY, PROT_READ | PROT_WRITE, MAP_PRIVATE);
  Check(IsInHeap(shared) && IsInHeap(own), "not in the heap");
  own[0] = '!';
  Check(mprotect(shared, kBytes, PROT_READ | PROT_WRITE) != 0, "mprotect");
  Say(own);
  Say(shared);
  Check(munmap(shared, kBytes) == 0 && munmap(own, kBytes) == 0, "munmap");
  return 0;
}

// Descriptors like any file's, by path.
int UseAsFile(const char* name, const char* text) {
  const std::string path = std::string("/dev/shm") + name;
  int fd = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
  Check(fd >= 0, "open");
  Check(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600) < 0, "O_EXCL");
  Check(write(fd, "....", 4) == 4 && lseek(fd, 0, SEEK_SET) == 0, "lseek");
  const int again = dup(fd);
  Check(close(fd) == 0 && posix_fallocate(again, 0, kBytes) == 0, "fallocate");
  Check(write(again, text, std::strlen(text)) > 0, "write");
  void* at = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0);
  at = mremap(at, 4096, 3 * 4096, MREMAP_MAYMOVE);
  Check(at != MAP_FAILED && std::strcmp(static_cast<char*>(at), text) == 0, "mremap");
  Check(fcntl(again, F_DUPFD_CLOEXEC, 50) == 50, "F_DUPFD");
  Check(close(again) == 0 && close(50) == 0 && munmap(at, 3 * 4096) == 0, "leaving");
  fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status {};
  Check(fstat(fd, &status) == 0 && status.st_size == kBytes, "fstat");
  char seen[64] = {};
  Check(pread(fd, seen, std::strlen(text), 0) > 0, "pread");
  Say(seen);
  return close(fd);
}

int SystemVWrite(const char* key, const char* text) {
  const int id = shmget(std::atoi(key), kBytes, IPC_CREAT | 0600);
  Check(id >= 0, "shmget");
  auto* const at = static_cast<char*>(shmat(id, nullptr, 0));
  Check(at != reinterpret_cast<char*>(-1), "shmat");
  std::strcpy(at, text);
  shmid_ds status{};
  Check(shmctl(id, IPC_STAT, &status) == 0 && status.shm_nattch == 1, "IPC_STAT");
  return shmdt(at);
}

int SystemVWriteAndDie(const char* key, const char* text) {
  const int id = shmget(std::atoi(key), kBytes, IPC_CREAT | 0600);
  std::strcpy(static_cast<char*>(shmat(id, nullptr, 0)), text);
  return std::raise(SIGKILL);
}

int SystemVRead(const char* key, const char*) {
  const int id = shmget(std::atoi(key), 0, 0);
  Check(id >= 0, "shmget");
  auto* const at = static_cast<char*>(shmat(id, nullptr, SHM_RDONLY));
  Check(at != reinterpret_cast<char*>(-1), "shmat");
  Say(at);
  return shmdt(at);
}

int SystemVRemove(const char* key, const char*) {
  return shmctl(shmget(std::atoi(key), 0, 0), IPC_RMID, nullptr);
}

int Unlink(const char* name, const char*) {
  Check(shm_unlink(name) == 0, "shm_unlink");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, std::function<int(const char*, const char*)>> roles = {
      {"write", Write},
      {"write-return", WriteAndReturn},
      {"write-die", WriteAndDie},
      {"sync-die", SyncAndDie},
      {"join", Join},
      {"write-wait", WriteAndWait},
      {"read", Read},
      {"read-in-place", ReadInPlace},
      {"file", UseAsFile},
      {"v-write", SystemVWrite},
      {"v-die", SystemVWriteAndDie},
      {"v-read", SystemVRead},
      {"v-remove", SystemVRemove},
      {"unlink", Unlink},
  };
  const auto role = argc > 2 ? roles.find(argv[1]) : roles.end();
  if (role == roles.end()) return 2;
  return role->second(argv[2], argc > 3 ? argv[3] : "");
}
