// What the suites share: processes (this binary once more, in another role), memory servers whose
// memory is there, clients and cores.
//
// Invariants
//   1. Nothing outlives a suite: every process is killed with its starter, by the kernel.
//   2. Nothing is measured while a pool is being populated.
// Processes are started from the main thread (the kernel kills them when that thread ends).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "apta/apta.h"
#include "cores.h"

namespace apta::bench {

// --- processes

[[noreturn]] void Die(const absl::Status& status);

// Another role of this binary, see Suite::roles. Killed when it is dropped.
class Process {
 public:
  Process(std::string_view role, const std::vector<std::string>& words,
          Cores cores = Cores::kCallers);
  Process(Process&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  Process& operator=(Process&&) = delete;
  ~Process();
  void End(int signal_number);
  void Signal(int signal_number, int wait_until);  // SIGSTOP, SIGCONT, and that it has happened
  bool has_ended() const;
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

// Memory that this process and those it starts map; zeroed. T is of atomics and plain numbers.
class SharedBytes {
 public:
  explicit SharedBytes(std::uint64_t bytes);
  SharedBytes(int fd, std::uint64_t bytes);  // in the other role: by descriptor
  SharedBytes(const SharedBytes&) = delete;
  SharedBytes& operator=(const SharedBytes&) = delete;
  ~SharedBytes();
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int fd() const { return fd_; }  // inherited by processes

 private:
  int fd_;
  std::uint64_t bytes_;
  void* data_;
};

// This run's, below TMPDIR; removed with all in it however the run ends. Made by the suite's Main,
// before all else.
const std::string& RunFolder();
absl::Status MakeRunFolder();
void DropRunFolder();

// A memory server in a process of its own. When the constructor returns, its pools are populated
// and have the pages that they will keep.
class Server {
 public:
  explicit Server(const std::vector<PoolOptions>& pools, int shards = 1,
                  const std::string& link = "none");
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  ~Server();
  const std::string& socket() const { return socket_; }
  pid_t pid() const { return process_->pid(); }

 private:
  std::string socket_;
  std::unique_ptr<Process> process_;
};
// The role "server".
int RunServer(const std::vector<std::string>& words);

// Sum over a process's mappings of a field of /proc/PID/smaps, bytes; `path` is part of their name.
std::uint64_t MappedBytes(pid_t pid, std::string_view field, std::string_view path);

Client Connect(ClientOptions options);
// Gets until it is a hit: a small object that is read while its home sleeps is cached a little
// later. False: a get failed, or none was a hit within 10 s.
bool GetUntilHit(Client* client, std::string_view key);
inline Client Connect(const std::string& socket, const std::string& node, const std::string& pool,
                      std::size_t cache_bytes = 256 << 20) {
  return Connect({.socket = socket, .pool = pool, .node = node, .cache_bytes = cache_bytes});
}
PoolInfo PoolOf(const Client& client, std::string_view pool);

// A key of 32 bytes, as in the targets.
std::string Key(std::string_view kind, std::uint64_t number);

}  // namespace apta::bench
