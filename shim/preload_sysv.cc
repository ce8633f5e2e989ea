// System V shared memory: a key that is matched leads to an identifier of the kernel's that is
// ours.

#include <sys/shm.h>
#include <unistd.h>

#include "shim/preload.h"
#include "shim/sysv.h"

using apta::shim::Real;
using apta::shim::Shim;
using apta::shim::SystemV;

APTA_INTERPOSED int shmget(key_t key, std::size_t bytes, int flags) noexcept {
  if (key != IPC_PRIVATE && Shim::Matches(SystemV::NameOf(key))) {
    return SystemV::Get().GetSegment(key, bytes, flags);
  }
  return Real().shmget(key, bytes, flags);
}

// An identifier may have come from another process of the node.
APTA_INTERPOSED void* shmat(int id, const void* address, int flags) noexcept {
  return SystemV::Get().Attach(id, address, flags);
}

APTA_INTERPOSED int shmdt(const void* address) noexcept {
  SystemV* const system_v = SystemV::Existing();
  return system_v != nullptr ? system_v->Detach(address) : Real().shmdt(address);
}

APTA_INTERPOSED int shmctl(int id, int command, shmid_ds* status) noexcept {
  if (command == IPC_RMID) return SystemV::Get().Remove(id);
  return Real().shmctl(id, command, status);
}
