#include "shim/sysv.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "shim/real.h"

namespace apta::shim {

constinit std::atomic<SystemV*> SystemV::s_system_v{nullptr};

namespace {

// Segments have no inodes: their locks stand behind those of all that have.
ino_t LocksOf(int id) { return (ino_t{1} << 59) + static_cast<ino_t>(id); }
std::string BaseName(key_t key) { return fmt::format(".base-{:08x}", static_cast<unsigned>(key)); }

std::optional<shmid_ds> Kernels(int id) {
  shmid_ds status{};
  if (Real().shmctl(id, IPC_STAT, &status) != 0) return std::nullopt;
  return status;
}
bool IsRemoved(const shmid_ds& status) { return (status.shm_perm.mode & SHM_DEST) != 0; }

}  // namespace

SystemV& SystemV::Get() {
  static SystemV* const system_v = [] {
    Shim::Get();
    auto* made = new SystemV();
    std::atexit([] { Get().LeaveAll(); });
    s_system_v.store(made, std::memory_order_release);
    return made;
  }();
  return *system_v;
}

std::string SystemV::NameOf(key_t key) {
  return fmt::format("sysv.0x{:08x}", static_cast<unsigned>(key));
}
// With a dot in front, no segment's own name.
std::string SystemV::IdRecord(int id) const {
  return Shim::Get().node().RecordPath(fmt::format(".id-{}", id));
}
std::string SystemV::KeyRecord(key_t key) const {
  return Shim::Get().node().RecordPath(fmt::format(".key-{:08x}", static_cast<unsigned>(key)));
}

std::optional<SystemV::Record> SystemV::Read(const std::string& path) const {
  const int fd = Real().open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  Record record;
  const ssize_t got = Real().pread(fd, &record, sizeof(record), 0);
  Real().close(fd);
  if (got != sizeof(record)) return std::nullopt;
  return record;
}

std::optional<SystemV::Record> SystemV::OfId(int id) {
  if (id < 0 || !Shim::Get().node().Join().ok()) return std::nullopt;
  return Read(IdRecord(id));
}

int SystemV::GetSegment(key_t key, std::size_t bytes, int flags) {
  Shim& shim = Shim::Get();
  const std::lock_guard<std::mutex> lock(shim.mutex());
  const absl::Status joined = shim.node().Join();
  absl::StatusOr<int> id = -1;
  if (!joined.ok()) id = joined;
  if (joined.ok()) {
    const Node::Gate gate(&shim.node(), NameOf(key));
    id = Make(key, bytes, flags);
  }
  if (id.ok()) return *id;
  errno = ErrnoOf(id.status());
  if (errno == EIO) Tell(id.status());
  return -1;
}

absl::StatusOr<int> SystemV::Make(key_t key, std::size_t bytes, int flags) {
  Shim& shim = Shim::Get();
  const std::string name = NameOf(key);
  const bool exclusive = (flags & IPC_CREAT) != 0 && (flags & IPC_EXCL) != 0;
  if (const std::optional<Record> record = Read(KeyRecord(key))) {
    const std::optional<shmid_ds> kernels = Kernels(record->id);
    if (kernels.has_value() && !IsRemoved(*kernels)) {
      if (exclusive) return ErrnoStatus(EEXIST, name);
      if (bytes > kernels->shm_segsz) return ErrnoStatus(EINVAL, name);
      return record->id;
    }
    // It went without us: a restart of the machine, ipcrm.
    Real().unlink(KeyRecord(key).c_str());
    Real().unlink(IdRecord(record->id).c_str());
  }
  const absl::StatusOr<std::optional<Object>> newest = shim.store().Newest(name);
  if (!newest.ok()) return newest.status();
  if (newest->has_value()) {
    if (exclusive) return ErrnoStatus(EEXIST, name);
    if (bytes > (*newest)->size()) return ErrnoStatus(EINVAL, name);
    bytes = (*newest)->size();
  } else if ((flags & IPC_CREAT) == 0) {
    return ErrnoStatus(ENOENT, name);
  }
  const int mode = (flags & IPC_CREAT) != 0 ? flags & ~IPC_EXCL : 0600;
  const int id = Real().shmget(IPC_PRIVATE, bytes, mode | IPC_CREAT);
  if (id < 0) return ErrnoStatus(errno, name);
  const Record record{.key = key, .id = id};
  for (const std::string& path : {KeyRecord(key), IdRecord(id)}) {
    const int fd = Real().open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    const bool written = fd >= 0 && pwrite(fd, &record, sizeof(record), 0) == sizeof(record);
    const int error = errno;
    if (fd >= 0) Real().close(fd);
    if (written) continue;
    Real().shmctl(id, IPC_RMID, nullptr);
    return ErrnoStatus(error, path);
  }
  return id;
}

// The newest version, or zeros.
absl::Status SystemV::Fill(const Record& record, const shmid_ds& kernels) {
  Shim& shim = Shim::Get();
  const absl::StatusOr<std::optional<Object>> newest = shim.store().Newest(NameOf(record.key));
  if (!newest.ok()) return newest.status();
  Base base;
  if (newest->has_value()) base = BaseOf((*newest)->version(), (*newest)->bytes());
  shim.node().WriteBase(BaseName(record.key), base);
  if (!newest->has_value() && kernels.shm_atime == 0) return absl::OkStatus();  // never used
  void* const at = Real().shmat(record.id, nullptr, 0);
  if (at == reinterpret_cast<void*>(-1)) return ErrnoStatus(errno, NameOf(record.key));
  std::size_t filled = 0;
  if (newest->has_value()) {
    filled = std::min<std::size_t>((*newest)->size(), kernels.shm_segsz);
    std::memcpy(at, (*newest)->bytes().data(), filled);
  }
  std::memset(static_cast<std::byte*>(at) + filled, 0, kernels.shm_segsz - filled);
  Real().shmdt(at);
  return absl::OkStatus();
}

void* SystemV::Attach(int id, const void* address, int flags) {
  Shim& shim = Shim::Get();
  const std::lock_guard<std::mutex> lock(shim.mutex());
  const std::optional<Record> record = OfId(id);
  if (!record.has_value()) return Real().shmat(id, address, flags);
  const Node::Gate gate(&shim.node(), NameOf(record->key));
  const std::optional<shmid_ds> kernels = Kernels(id);
  const bool writes = (flags & SHM_RDONLY) == 0;
  const bool is_written = shim.WritesElsewhere(LocksOf(id)) ||
                          shim.node().AnotherProcess(LocksOf(id), Node::Part::kWrites);
  if (kernels.has_value() && !IsRemoved(*kernels) && !is_written &&
      (writes || kernels->shm_nattch == 0)) {
    if (absl::Status filled = Fill(*record, *kernels); !filled.ok()) {
      errno = ErrnoOf(filled);
      Tell(filled);
      return reinterpret_cast<void*>(-1);
    }
  }
  void* const at = Real().shmat(id, address, flags);
  if (at == reinterpret_cast<void*>(-1) || !kernels.has_value()) return at;
  attachments_[reinterpret_cast<std::uintptr_t>(at)] = {
      .id = id, .key = record->key, .bytes = kernels->shm_segsz, .writes = writes};
  if (writes) shim.BeginWriting(LocksOf(id));
  return at;
}

absl::Status SystemV::Leave(const Attachment& attachment, const void* address) {
  Shim& shim = Shim::Get();
  if (!attachment.writes || !shim.EndWriting(LocksOf(attachment.id))) return absl::OkStatus();
  absl::Status status;
  const std::optional<shmid_ds> kernels = Kernels(attachment.id);
  if (kernels.has_value() && !IsRemoved(*kernels) &&
      !shim.node().AnotherProcess(LocksOf(attachment.id), Node::Part::kWrites)) {
    const BytesView bytes(static_cast<const std::byte*>(address), attachment.bytes);
    Base now = BaseOf(0, bytes);
    const Base base = shim.node().ReadBase(BaseName(attachment.key));
    if (base.version == 0 || !Equals(base, now)) {
      const absl::StatusOr<Version> version = shim.store().Commit(NameOf(attachment.key), bytes);
      status = version.status();
      if (version.ok()) {
        now.version = *version;
        shim.node().WriteBase(BaseName(attachment.key), now);
      }
    }
  }
  shim.node().End(LocksOf(attachment.id), Node::Part::kWrites);
  return status;
}

int SystemV::Detach(const void* address) {
  Shim& shim = Shim::Get();
  const std::lock_guard<std::mutex> lock(shim.mutex());
  const auto at = attachments_.find(reinterpret_cast<std::uintptr_t>(address));
  if (at == attachments_.end()) return Real().shmdt(address);
  const Node::Gate gate(&shim.node(), NameOf(at->second.key));
  const absl::Status status = Leave(at->second, address);
  attachments_.erase(at);
  if (Real().shmdt(address) != 0) return -1;
  if (status.ok()) return 0;
  Tell(status);
  errno = ErrnoOf(status);
  return -1;
}

int SystemV::Remove(int id) {
  Shim& shim = Shim::Get();
  const std::lock_guard<std::mutex> lock(shim.mutex());
  const std::optional<Record> record = OfId(id);
  if (!record.has_value()) return Real().shmctl(id, IPC_RMID, nullptr);
  const Node::Gate gate(&shim.node(), NameOf(record->key));
  if (Real().shmctl(id, IPC_RMID, nullptr) != 0) return -1;
  Real().unlink(KeyRecord(record->key).c_str());
  Real().unlink(IdRecord(id).c_str());
  Real().unlink(shim.node().RecordPath(BaseName(record->key)).c_str());
  const absl::StatusOr<bool> removed = shim.store().Remove(NameOf(record->key));
  if (removed.ok()) return 0;
  Tell(removed.status());
  errno = EIO;
  return -1;
}

// The kernel detaches what is attached when the process has ended.
void SystemV::LeaveAll() {
  Shim& shim = Shim::Get();
  if (!shim.IsHere()) return;
  const std::lock_guard<std::mutex> lock(shim.mutex());
  for (const auto& [address, attachment] : attachments_) {
    const Node::Gate gate(&shim.node(), NameOf(attachment.key));
    const absl::Status status = Leave(attachment, reinterpret_cast<const void*>(address));
    if (!status.ok()) Tell(status);
  }
  attachments_.clear();
}

}  // namespace apta::shim
