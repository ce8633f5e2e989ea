// The committed versions of segments: objects of the memory server.
//
// Attaches at the first call that needs it, as one more process of $APTA_NODE, with $APTA_SOCKET
// and $APTA_SHMEM_POOL. Callers serialise. After a fork the child's attaches anew.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "apta/client.h"

namespace apta::shim {

class Store {
 public:
  // Nullopt: the segment has no committed version.
  absl::StatusOr<std::optional<Object>> Newest(const std::string& segment);
  absl::StatusOr<Version> Commit(const std::string& segment, BytesView bytes);
  // Whether there was a version.
  absl::StatusOr<bool> Remove(const std::string& segment);
  // See Client::Pages.
  std::optional<ObjectPages> Pages(const Object& object);
  // In a forked child: what was attached is the parent's, and not even dropped here.
  void Forget() { static_cast<void>(client_.release()); }

 private:
  absl::StatusOr<Client*> Attached();

  std::unique_ptr<Client> client_;
};

// $APTA_SOCKET, $APTA_SHMEM_POOL and $APTA_NODE, or what stands for them.
struct Place {
  std::string socket;
  std::string pool;
  std::string node;
  static Place FromEnvironment();
};

}  // namespace apta::shim
