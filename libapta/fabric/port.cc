#include "fabric/port.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "fmt/format.h"

namespace apta::fabric {
namespace {

struct ShardPart {
  SubmissionRing<> submissions;
  InvalidationRing<> invalidations;
};
static_assert(std::is_standard_layout_v<ShardPart>);

constexpr std::uint64_t kShardPartBytes = AlignUp(sizeof(ShardPart), kPageBytes);

absl::Status ErrnoStatus(const char* what) {
  return absl::ErrnoToStatus(errno, fmt::format("port: {}", what));
}

}  // namespace

std::uint64_t Port::HoldsOffset(int shards) {
  return kPageBytes + static_cast<std::uint64_t>(shards) * kShardPartBytes;
}

std::uint64_t Port::BytesFor(int shards) {
  return HoldsOffset(shards) + sizeof(HoldTable) + kLanesBytes + kLanes * kStagingBytes;
}

Port::Port(std::byte* data, int shards, UniqueFd fd)
    : data_(data), shards_(shards), holds_offset_(HoldsOffset(shards)), fd_(std::move(fd)) {}

Port::Port(Port&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      shards_(other.shards_),
      holds_offset_(other.holds_offset_),
      fd_(std::move(other.fd_)) {}

Port& Port::operator=(Port&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(shards_, other.shards_);
  std::swap(holds_offset_, other.holds_offset_);
  std::swap(fd_, other.fd_);
  return *this;
}

Port::~Port() {
  if (data_ != nullptr) munmap(data_, BytesFor(shards_));
}

absl::StatusOr<Port> Port::Create(NodeId node, int shards) {
  UniqueFd fd(memfd_create("apta-port", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return ErrnoStatus("memfd_create");
  const std::uint64_t bytes = BytesFor(shards);
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) return ErrnoStatus("ftruncate");
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return ErrnoStatus("sealing");
  }
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) return ErrnoStatus("mmap");
  auto* header = static_cast<PortHeader*>(data);
  *header = {kPortMagic, kPortLayoutVersion, static_cast<std::uint32_t>(shards), node};
  return Port(static_cast<std::byte*>(data), shards, std::move(fd));
}

absl::StatusOr<Port> Port::Map(UniqueFd fd, int shards) {
  const std::uint64_t bytes = BytesFor(shards);
  struct stat file;
  if (fstat(fd.get(), &file) != 0) return ErrnoStatus("fstat");
  if (static_cast<std::uint64_t>(file.st_size) != bytes) {
    return absl::FailedPreconditionError(
        fmt::format("port: {} bytes where this version of Āpta uses {}; run aptad and its clients "
                    "from one version",
                    file.st_size, bytes));
  }
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) return ErrnoStatus("mmap");
  // A forked child has no business in its parent's rings.
  madvise(data, bytes, MADV_DONTFORK);
  Port port(static_cast<std::byte*>(data), shards, UniqueFd());
  const auto* header = static_cast<const PortHeader*>(data);
  if (header->magic != kPortMagic || header->layout_version != kPortLayoutVersion) {
    return absl::FailedPreconditionError(
        fmt::format("port: layout {} where this version of Āpta uses {}; run aptad and its clients "
                    "from one version",
                    header->layout_version, kPortLayoutVersion));
  }
  return port;
}

void Port::Retire() {
  syscall(SYS_mmap, data_, BytesFor(shards_), PROT_READ | PROT_WRITE,  // as Region::Retire
          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

void Port::PopulateStaging(int lane_index) const {
#ifndef MADV_POPULATE_WRITE
  constexpr int MADV_POPULATE_WRITE = 23;  // Linux 5.14
#endif
  madvise(staging(lane_index), kStagingBytes, MADV_POPULATE_WRITE);
}

SubmissionRing<>* Port::submissions(int shard) const {
  auto* part = data_ + kPageBytes + static_cast<std::uint64_t>(shard) * kShardPartBytes;
  return &reinterpret_cast<ShardPart*>(part)->submissions;
}

InvalidationRing<>* Port::invalidations(int shard) const {
  auto* part = data_ + kPageBytes + static_cast<std::uint64_t>(shard) * kShardPartBytes;
  return &reinterpret_cast<ShardPart*>(part)->invalidations;
}

}  // namespace apta::fabric
