// What the processes of one compute server share: a folder of working copies in /dev/shm, and who
// uses them.
//
// A working copy is a file of tmpfs: the program's own descriptors and mappings are of it, and the
// kernel does the rest. It is there for as long as somebody uses it. Who uses and who writes it is
// said by locks, which the kernel drops when their process dies; a Gate makes opening, committing
// and leaving one segment one step for the whole node.
// Callers serialise. Errors have errno in them: see ErrnoOf.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "apta/object.h"

namespace apta::shim {

// Our descriptors: out of the way of programs that count on getting the lowest ones.
inline constexpr int kFirstOwnFd = 1000;

// What a working copy was filled from, or was committed as.
struct Base {
  Version version = 0;  // 0 = nothing is committed that it could equal
  std::uint64_t bytes = 0;
  std::uint64_t hash[2] = {};
};
Base BaseOf(Version version, BytesView bytes);
bool Equals(const Base& a, const Base& b);  // whatever the versions

absl::Status ErrnoStatus(int error, const std::string& what);
// Of a Status from here or from libapta.
int ErrnoOf(const absl::Status& status);

class Node {
 public:
  Node() = default;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  // Makes or joins the folder; at once when that is done.
  absl::Status Join();

  // One process of the node at a time.
  class Gate {
   public:
    Gate(Node* node, const std::string& segment);
    ~Gate();
    Gate(const Gate&) = delete;
    Gate& operator=(const Gate&) = delete;

   private:
    Node* node_;
    std::uint64_t at_;
  };

  std::string CopyPath(const std::string& segment) const { return folder_ + "/copy/" + segment; }
  // A file of records that outlive processes.
  std::string RecordPath(const std::string& segment) const { return folder_ + "/base/" + segment; }
  void WriteBase(const std::string& segment, const Base& base);
  Base ReadBase(const std::string& segment) const;
  void RemoveCopy(const std::string& segment);

  // What a process does with the copy of this inode.
  enum class Part : std::uint64_t { kUses = 0, kWrites = 1 };
  void Begin(ino_t copy, Part part) { Lock(LockAt(copy, part), true); }
  void End(ino_t copy, Part part) { Unlock(LockAt(copy, part)); }
  bool AnotherProcess(ino_t copy, Part part) const;

  // Around a fork: locks belong to an open file, which parent and child would share. The parent
  // prepares a second one, takes there what the child will have, and each keeps its own.
  void PrepareFork();
  void TakeForChild(ino_t copy, Part part);
  void EndFork(bool in_child);

  int locks_fd() const { return locks_fd_; }
  bool joined() const { return locks_fd_ >= 0; }

 private:
  static std::uint64_t LockAt(ino_t copy, Part part) {
    return static_cast<std::uint64_t>(copy) * 2 + static_cast<std::uint64_t>(part);
  }
  void Lock(std::uint64_t at, bool shared);
  void Unlock(std::uint64_t at);

  std::string folder_;
  int locks_fd_ = -1;
  int child_locks_fd_ = -1;
};

}  // namespace apta::shim
