// System V segments by key. A node's working copy is a segment of the kernel's own (IPC_PRIVATE),
// whose identifier the program gets: permissions, attachment counts and IPC_STAT are the kernel's.
// Which identifier a key has on this node is recorded in the node's folder.
//
// Committed, filled and shared as Shim's copies are; the last writer is the last that detaches what
// it may write. Thread-safe; results are those of the calls, with errno.
#pragma once

#include <sys/shm.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "shim/shim.h"

namespace apta::shim {

class SystemV {
 public:
  static SystemV& Get();  // never destroyed
  static SystemV* Existing() { return s_system_v.load(std::memory_order_acquire); }

  static std::string NameOf(key_t key);
  int GetSegment(key_t key, std::size_t bytes, int flags);
  void* Attach(int id, const void* address, int flags);
  int Detach(const void* address);
  int Remove(int id);
  void LeaveAll();

 private:
  struct Attachment {
    int id = 0;
    key_t key = 0;
    std::size_t bytes = 0;
    bool writes = false;
  };
  struct Record {
    key_t key = 0;
    int id = -1;
  };

  SystemV() = default;
  std::string IdRecord(int id) const;
  std::string KeyRecord(key_t key) const;
  std::optional<Record> Read(const std::string& path) const;
  std::optional<Record> OfId(int id);
  absl::StatusOr<int> Make(key_t key, std::size_t bytes, int flags);
  absl::Status Fill(const Record& record, const shmid_ds& kernels);
  absl::Status Leave(const Attachment& attachment, const void* address);

  static std::atomic<SystemV*> s_system_v;

  std::map<std::uintptr_t, Attachment> attachments_;  // by address; under the shim's mutex
};

}  // namespace apta::shim
