// What libapta_shmem.so costs a program: calls that are none of its business, and mapping segments
// in place. See --help.

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "suite.h"

namespace apta::bench {
namespace {

constexpr char kAbout[] =
    "The interposed calls of libapta_shmem.so, against the C library's.\n"
    "  unmatched        a call that is passed on, and what it costs without us (libc)\n"
    "  map, unmap       a segment that nobody writes, in place, of 64 bytes (a copy) to 256 MiB\n"
    "  open_to_close    the same with shm_open, fstat, one access and close\n";

// The calls under test: the library's, or the C library's.
struct Calls {
  explicit Calls(void* from)
      : close(reinterpret_cast<int (*)(int)>(dlsym(from, "close"))),
        read(reinterpret_cast<ssize_t (*)(int, void*, std::size_t)>(dlsym(from, "read"))),
        shm_open(reinterpret_cast<int (*)(const char*, int, mode_t)>(dlsym(from, "shm_open"))),
        mmap(reinterpret_cast<void* (*)(void*, std::size_t, int, int, int, off_t)>(
            dlsym(from, "mmap"))),
        munmap(reinterpret_cast<int (*)(void*, std::size_t)>(dlsym(from, "munmap"))) {}
  int (*close)(int);
  ssize_t (*read)(int, void*, std::size_t);
  int (*shm_open)(const char*, int, mode_t);
  void* (*mmap)(void*, std::size_t, int, int, int, off_t);
  int (*munmap)(void*, std::size_t);
};

// Without it, its calls would be taken from the C library.
void* Load(const char* path) {
  void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    std::fprintf(stderr, "shim_bench: %s\n", dlerror());
    std::exit(1);
  }
  return library;
}

const Calls& Ours() {
  static const Calls calls(Load(LIBAPTA_SHMEM_PATH));
  return calls;
}
const Calls& Libc() {
  static const Calls calls(Load("libc.so.6"));
  return calls;
}

std::unique_ptr<Server> g_server;

void UnmatchedRead(benchmark::State& state, const Calls& calls) {
  const int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  char byte = 0;
  for (auto _ : state) benchmark::DoNotOptimize(calls.read(fd, &byte, 0));
  close(fd);
}

void UnmatchedClose(benchmark::State& state, const Calls& calls) {
  for (auto _ : state) benchmark::DoNotOptimize(calls.close(-1));
}

void UnmatchedUnmap(benchmark::State& state, const Calls& calls) {
  void* const odd = reinterpret_cast<void*>(1);  // refused at once
  for (auto _ : state) benchmark::DoNotOptimize(calls.munmap(odd, 4096));
}

void PutSegment(std::size_t bytes) {
  const Bytes contents(bytes, std::byte{1});
  Client client = Connect(g_server->socket(), "bench", "default");
  client.Put("shm/" + std::to_string(bytes), contents).status().IgnoreError();
}

void MapAndUnmap(benchmark::State& state, std::size_t bytes) {
  PutSegment(bytes);
  const int fd = Ours().shm_open(("/" + std::to_string(bytes)).c_str(), O_RDONLY, 0);
  if (fd < 0) return state.SkipWithError("shm_open");
  for (auto _ : state) {
    void* const at = Ours().mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
    benchmark::DoNotOptimize(at);
    if (Ours().munmap(at, bytes) != 0) return state.SkipWithError("munmap");
  }
  Ours().close(fd);
}

void OpenToClose(benchmark::State& state, std::size_t bytes) {
  PutSegment(bytes);
  const std::string name = "/" + std::to_string(bytes);
  for (auto _ : state) {
    const int fd = Ours().shm_open(name.c_str(), O_RDONLY, 0);
    struct stat status {};
    fstat(fd, &status);
    void* const at = Ours().mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED || *static_cast<char*>(at) != 1) return state.SkipWithError("mmap");
    Ours().munmap(at, bytes);
    Ours().close(fd);
  }
}

template <typename Function, typename Argument>
void AddLoop(const std::string& name, Function function, const Argument& argument) {
  auto* const loop = benchmark::RegisterBenchmark(
      name.c_str(), [function, &argument](benchmark::State& state) { function(state, argument); });
  if (CurrentRun().quick) loop->Iterations(10);
}

void RegisterAll() {
  static const std::vector<std::size_t> sizes = {64, std::size_t{1} << 20, std::size_t{256} << 20};
  g_server = std::make_unique<Server>(
      std::vector<PoolOptions>{{.name = "default", .bytes = std::uint64_t{1} << 30}}, 1);
  setenv("APTA_SOCKET", g_server->socket().c_str(), 1);
  setenv("APTA_NODE", g_server->socket().c_str(), 1);
  for (const auto& [who, calls] : {std::pair("libc", &Libc()), std::pair("shim", &Ours())}) {
    AddLoop(Name("unmatched", {{"call", "read"}, {"who", who}}), UnmatchedRead, *calls);
    AddLoop(Name("unmatched", {{"call", "close"}, {"who", who}}), UnmatchedClose, *calls);
    AddLoop(Name("unmatched", {{"call", "munmap"}, {"who", who}}), UnmatchedUnmap, *calls);
  }
  for (const std::size_t& bytes : sizes) {
    if (CurrentRun().quick && bytes == sizes.back()) continue;
    const Where where = {{"bytes", std::to_string(bytes)}};
    AddLoop(Name("map_unmap", where), MapAndUnmap, bytes);
    AddLoop(Name("open_to_close", where), OpenToClose, bytes);
  }
}

}  // namespace
}  // namespace apta::bench

int main(int argc, char** argv) {
  using namespace apta::bench;
  return Main(argc, argv,
              {.name = "shim_bench", .about = kAbout, .register_all = RegisterAll, .clean_up = [] {
                 g_server.reset();
               }});
}
