#include "fabric/region.h"

#include <fcntl.h>
#include <numa.h>
#include <numaif.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <set>
#include <utility>

#include "fabric/extent.h"
#include "fabric/numa.h"
#include "fmt/format.h"

namespace apta::fabric {
namespace {

constexpr const char* kNodeRoot = "/sys/devices/system/node";
// One madvise of the populating thread: long enough to be cheap, short enough to be stopped.
constexpr std::uint64_t kPopulateSliceBytes = 8 << 20;
constexpr int kSamples = 64;

std::string_view BackingName(Backing::Kind kind) {
  switch (kind) {
    case Backing::Kind::kMemfd:
      return "memfd";
    case Backing::Kind::kShm:
      return "shm";
    case Backing::Kind::kFile:
      return "file";
    case Backing::Kind::kHugetlb:
      return "hugetlb";
  }
  return "";
}

absl::Status ErrnoError(const Backing& backing, const char* what) {
  return absl::ErrnoToStatus(errno, fmt::format("{}: {}", backing.ToString(), what));
}

absl::Status TooLarge(const Backing& backing, std::uint64_t bytes, std::uint64_t free_bytes,
                      std::string_view where) {
  return absl::ResourceExhaustedError(
      fmt::format("{}: {} bytes are more than the {} bytes that {} has free; make the pool smaller",
                  backing.ToString(), bytes, free_bytes, where));
}

// "Name:   123 kB" in a file of /proc, in bytes; 0 = not there.
std::uint64_t ReadKilobytes(const char* path, std::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(name)) continue;
    const std::size_t digits = line.find_first_of("0123456789", name.size());
    std::uint64_t value = 0;
    if (digits != std::string::npos) {
      std::from_chars(line.data() + digits, line.data() + line.size(), value);
    }
    return value * 1024;
  }
  return 0;
}

std::uint64_t ReadCgroupRoom() {
  const auto read = [](const char* path) -> std::uint64_t {
    std::ifstream file(path);
    std::uint64_t value = 0;
    return file >> value ? value : ~std::uint64_t{0};  // "max" is no number
  };
  const std::uint64_t limit = read("/sys/fs/cgroup/memory.max");
  const std::uint64_t used = read("/sys/fs/cgroup/memory.current");
  if (limit == ~std::uint64_t{0} || used == ~std::uint64_t{0}) return limit;
  return limit > used ? limit - used : 0;
}

absl::StatusOr<std::byte*> MapAligned(const Backing& backing, int fd, std::uint64_t bytes,
                                      bool writable, bool* is_medium) {
  // Reserve more than is needed, map on the 2 MiB boundary inside, give the rest back.
  const std::uint64_t reserved_bytes = bytes + kHugePageBytes;
  void* reserved =
      mmap(nullptr, reserved_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return ErrnoError(backing, "no address space");
  const auto begin = reinterpret_cast<std::uintptr_t>(reserved);
  const std::uintptr_t aligned = AlignUp(begin, kHugePageBytes);
  const int protection = PROT_READ | (writable ? PROT_WRITE : 0);
  void* mapped = MAP_FAILED;
  // Only a DAX file system agrees to MAP_SYNC: there the pages are the medium.
  *is_medium = false;
  if (writable && backing.kind == Backing::Kind::kFile) {
    mapped = mmap(reinterpret_cast<void*>(aligned), bytes, protection,
                  MAP_SHARED_VALIDATE | MAP_SYNC | MAP_FIXED, fd, 0);
    *is_medium = mapped != MAP_FAILED;
  }
  if (mapped == MAP_FAILED) {
    mapped =
        mmap(reinterpret_cast<void*>(aligned), bytes, protection, MAP_SHARED | MAP_FIXED, fd, 0);
  }
  const int map_error = errno;
  if (mapped == MAP_FAILED) {
    munmap(reserved, reserved_bytes);
    if (map_error == EACCES || map_error == EPERM) {
      return absl::PermissionDeniedError(fmt::format("{}: the descriptor cannot be mapped {}",
                                                     backing.ToString(),
                                                     writable ? "writable" : "readable"));
    }
    errno = map_error;
    return ErrnoError(backing, "mmap");
  }
  if (aligned > begin) munmap(reserved, aligned - begin);
  const std::uintptr_t end = aligned + bytes;
  if (end < begin + reserved_bytes) {
    munmap(reinterpret_cast<void*>(end), begin + reserved_bytes - end);
  }
  // Best effort: the kernel may be told not to.
  if (backing.kind != Backing::Kind::kHugetlb) madvise(mapped, bytes, MADV_HUGEPAGE);
  return static_cast<std::byte*>(mapped);
}

// Before the first touch, so that every page comes from `node`.
absl::Status BindTo(const Backing& backing, std::byte* data, std::uint64_t bytes, int node) {
  if (node < 0) return absl::OkStatus();
  bitmask* mask = numa_allocate_nodemask();
  numa_bitmask_setbit(mask, static_cast<unsigned>(node));
  const long bound = mbind(data, bytes, MPOL_BIND, mask->maskp, mask->size + 1, 0);
  const int bind_error = errno;
  numa_free_nodemask(mask);
  errno = bind_error;
  if (bound != 0) return ErrnoError(backing, fmt::format("binding to NUMA node {}", node).c_str());
  return absl::OkStatus();
}

struct Opened {
  UniqueFd fd;
  std::uint64_t existing_bytes = 0;  // 0 = new or empty
  bool made = false;                 // remove it if opening fails later
};

void Remove(const Backing& backing) {
  if (backing.kind == Backing::Kind::kShm) shm_unlink(backing.path.c_str());
  if (backing.kind == Backing::Kind::kFile) unlink(backing.path.c_str());
}

absl::StatusOr<Opened> OpenPersistent(const Backing& backing, std::uint32_t mode) {
  const auto open_with = [&](int flags) {
    return backing.kind == Backing::Kind::kShm
               ? shm_open(backing.path.c_str(), flags | O_RDWR, mode)
               : open(backing.path.c_str(), flags | O_RDWR | O_CLOEXEC, mode);
  };
  Opened opened;
  opened.fd = UniqueFd(open_with(O_CREAT | O_EXCL));
  opened.made = opened.fd.valid();
  if (!opened.fd.valid() && errno == EEXIST) opened.fd = UniqueFd(open_with(0));
  if (!opened.fd.valid()) return ErrnoError(backing, "opening it");
  if (flock(opened.fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        fmt::format("{}: another memory server uses it; stop that one or name another backing",
                    backing.ToString()));
  }
  struct stat file;
  if (fstat(opened.fd.get(), &file) != 0) return ErrnoError(backing, "fstat");
  if (!S_ISREG(file.st_mode)) {
    return absl::InvalidArgumentError(fmt::format("{}: is not a regular file", backing.ToString()));
  }
  opened.existing_bytes = static_cast<std::uint64_t>(file.st_size);
  if (opened.existing_bytes % kHugePageBytes != 0) {
    return absl::DataLossError(
        fmt::format("{}: has {} bytes, which is no whole number of 2 MiB: truncated, or no Āpta "
                    "region; restore it from a copy or name another",
                    backing.ToString(), opened.existing_bytes));
  }
  return opened;
}

absl::Status CheckRoom(const Backing& backing, int fd, std::uint64_t bytes, int node) {
  if (backing.kind == Backing::Kind::kHugetlb) {
    const std::uint64_t pages = ReadKilobytes("/proc/meminfo", "HugePages_Free:") / 1024;
    if (pages * kHugePageBytes < bytes) {
      return absl::ResourceExhaustedError(fmt::format(
          "hugetlb: {} bytes need {} pages of 2 MiB, {} are free; sysctl -w vm.nr_hugepages={}",
          bytes, bytes / kHugePageBytes, pages, bytes / kHugePageBytes));
    }
    return absl::OkStatus();
  }
  if (backing.persistent()) {
    struct statvfs system;
    if (fstatvfs(fd, &system) != 0) return ErrnoError(backing, "statvfs");
    const std::uint64_t free_bytes = std::uint64_t{system.f_bavail} * system.f_frsize;
    if (free_bytes < bytes) return TooLarge(backing, bytes, free_bytes, "its file system");
  }
  if (backing.kind == Backing::Kind::kFile) return absl::OkStatus();
  const std::uint64_t free_bytes = FreeBytesOfNode(node);
  if (free_bytes < bytes) {
    return TooLarge(backing, bytes, free_bytes,
                    node < 0 ? "this machine" : fmt::format("NUMA node {}", node));
  }
  return absl::OkStatus();
}

}  // namespace

// ---------------------------------------------------------------------------------------------

absl::StatusOr<Backing> Backing::Parse(std::string_view text) {
  if (text == "memfd") return Backing{};
  if (text == "hugetlb") return Backing{Kind::kHugetlb, ""};
  if (text.starts_with("shm:")) {
    const std::string_view name = text.substr(4);
    if (name.empty() || name.size() > 200 || name == "." || name == ".." ||
        name.find_first_of(std::string_view("/\0", 2)) != std::string_view::npos) {
      return absl::InvalidArgumentError(fmt::format(
          "backing {}: a shared-memory object's name has 1 to 200 bytes and no slash", text));
    }
    return Backing{Kind::kShm, fmt::format("/{}", name)};
  }
  if (text.starts_with("file:")) {
    const std::string_view path = text.substr(5);
    if (path.empty() || path.find('\0') != std::string_view::npos) {
      return absl::InvalidArgumentError(fmt::format("backing {}: needs a path", text));
    }
    return Backing{Kind::kFile, std::string(path)};
  }
  return absl::InvalidArgumentError(
      fmt::format("backing {}: is none of memfd, shm:NAME, file:PATH, hugetlb", text));
}

std::string Backing::ToString() const {
  if (kind == Kind::kShm) return fmt::format("shm:{}", path.substr(1));
  if (kind == Kind::kFile) return fmt::format("file:{}", path);
  return std::string(BackingName(kind));
}

absl::StatusOr<int> ResolveNumaNode(std::string_view text) {
  if (text == "any") return -1;
  const bool has_numa = numa_available() >= 0;
  const int here = has_numa ? std::max(0, numa_node_of_cpu(sched_getcpu())) : 0;
  if (text == "near") return has_numa ? here : -1;
  if (text == "far") {
    const std::vector<FarNode> far = RankFarNodes(kNodeRoot, here);
    if (!far.empty()) return far.front().node;
    return absl::NotFoundError(
        "numa=far: this machine has no memory node without CPUs; use numa=any, near or a number");
  }
  int node = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), node);
  if (error != std::errc() || end != text.data() + text.size() || node < 0) {
    return absl::InvalidArgumentError(
        fmt::format("numa={}: is none of any, near, far, or a node's number", text));
  }
  if (!has_numa || node > numa_max_node() || numa_node_size64(node, nullptr) <= 0) {
    return absl::NotFoundError(fmt::format("numa={}: this machine has no memory there", node));
  }
  return node;
}

std::uint64_t FreeBytesOfNode(int node) {
  if (node >= 0) {
    long long free_bytes = 0;
    return numa_node_size64(node, &free_bytes) > 0 ? static_cast<std::uint64_t>(free_bytes) : 0;
  }
  return std::min(ReadKilobytes("/proc/meminfo", "MemAvailable:"), ReadCgroupRoom());
}

// ---------------------------------------------------------------------------------------------

// Faults pages in on a thread of its own.
struct Region::Populator {
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> done_bytes{0};
  std::thread thread;

  ~Populator() {
    stop.store(true);
    if (thread.joinable()) thread.join();
  }

  void Run(std::byte* data, std::uint64_t first, std::uint64_t end) {
    // Behind everything else: who needs a page sooner faults it in itself.
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 19);
    for (std::uint64_t at = first; at < end && !stop.load(std::memory_order_relaxed);) {
      const std::uint64_t bytes = std::min(kPopulateSliceBytes, end - at);
      if (madvise(data + at, bytes, MADV_POPULATE_WRITE) != 0) Touch(data + at, bytes);
      Collapse(data + at, bytes);
      at += bytes;
      // Relaxed: progress to be shown.
      done_bytes.store(at, std::memory_order_relaxed);
    }
  }
  // Into 2 MiB pages, which the mappings of clients then have as well: a kernel whose shared memory
  // does not get them by itself (shmem_enabled) makes them when asked (Linux 6.1). Who cannot have
  // them keeps what there is.
  static void Collapse(std::byte* data, std::uint64_t bytes) {
#ifndef MADV_COLLAPSE
    constexpr int MADV_COLLAPSE = 25;
#endif
    madvise(data, bytes, MADV_COLLAPSE);
  }
  // Older kernels. Adding nothing faults a page in and never changes what others write.
  static void Touch(std::byte* data, std::uint64_t bytes) {
    for (std::uint64_t at = 0; at < bytes; at += kPageBytes) {
      std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(data + at))
          .fetch_add(0, std::memory_order_relaxed);
    }
  }
};

Region::Region() = default;
Region::Region(Region&& other) noexcept { *this = std::move(other); }
Region& Region::operator=(Region&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  std::swap(existed_, other.existed_);
  std::swap(clients_write_, other.clients_write_);
  std::swap(is_persistent_memory_, other.is_persistent_memory_);
  std::swap(outlives_server_, other.outlives_server_);
  std::swap(backing_, other.backing_);
  std::swap(fd_, other.fd_);
  std::swap(populator_, other.populator_);
  return *this;
}
Region::~Region() {
  populator_.reset();
  if (data_ != nullptr) munmap(data_, size_bytes_);
}

void Region::Retire() {
  fd_.Reset();
  // The system call itself: the thread sanitizer takes mmap() for a write, and late readers of what
  // changes anyway for a race.
  syscall(SYS_mmap, data_, size_bytes_, PROT_READ | PROT_WRITE,
          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

void Region::KeepPrivately(std::uint64_t offset, std::uint64_t bytes) {
  const std::uint64_t begin = offset / kPageBytes * kPageBytes;
  const std::uint64_t length = AlignUp(offset + bytes, kPageBytes) - begin;
  void* copy = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (copy == MAP_FAILED) return;  // no memory: what is pinned may change, as it would have
  std::memcpy(copy, data_ + begin, length);
  mprotect(copy, length, PROT_READ);
  if (mremap(copy, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, data_ + begin) == MAP_FAILED) {
    munmap(copy, length);
  }
}

absl::StatusOr<Region> Region::Open(const RegionOptions& options) {
  const absl::StatusOr<int> node = ResolveNumaNode(options.numa);
  if (!node.ok()) return node.status();
  Region region;
  region.backing_ = options.backing;
  region.clients_write_ = options.clients_write;
  region.size_bytes_ = AlignUp(options.bytes, kHugePageBytes);
  bool made = false;
  absl::Status opened = region.OpenBacking(options, *node, &made);
  if (opened.ok()) return region;
  if (made) Remove(options.backing);
  return opened;
}

absl::Status Region::OpenBacking(const RegionOptions& options, int node, bool* made) {
  if (backing_.persistent()) {
    absl::StatusOr<Opened> opened = OpenPersistent(backing_, options.file_mode);
    if (!opened.ok()) return opened.status();
    fd_ = std::move(opened->fd);
    *made = opened->made;
    existed_ = opened->existing_bytes != 0;
    if (existed_) size_bytes_ = opened->existing_bytes;
  } else {
    const unsigned huge = backing_.kind == Backing::Kind::kHugetlb ? MFD_HUGETLB : 0;
    fd_ = UniqueFd(memfd_create("apta-region", MFD_CLOEXEC | MFD_ALLOW_SEALING | huge));
    if (!fd_.valid()) return ErrnoError(backing_, "memfd_create");
  }
  if (!existed_) {
    if (absl::Status room = CheckRoom(backing_, fd_.get(), size_bytes_, node); !room.ok()) {
      return room;
    }
    if (ftruncate(fd_.get(), static_cast<off_t>(size_bytes_)) != 0) {
      return ErrnoError(backing_, "giving it its size");
    }
    if (backing_.kind == Backing::Kind::kFile) {
      // Now, so that a file system that fills up later cannot kill us with SIGBUS.
      const int error = posix_fallocate(fd_.get(), 0, static_cast<off_t>(size_bytes_));
      if (error != 0) {
        errno = error;
        return ErrnoError(backing_, "allocating it");
      }
    }
  }
  absl::StatusOr<std::byte*> data =
      MapAligned(backing_, fd_.get(), size_bytes_, true, &is_persistent_memory_);
  if (!data.ok()) return data.status();
  data_ = *data;
  if (absl::Status bound = BindTo(backing_, data_, size_bytes_, node); !bound.ok()) return bound;
  if (backing_.persistent()) return absl::OkStatus();
  // Our writable mapping stays; nobody, root included, gets another one (isolated pools).
  const int seals = F_SEAL_SHRINK | F_SEAL_GROW | (clients_write_ ? 0 : F_SEAL_FUTURE_WRITE);
  if (fcntl(fd_.get(), F_ADD_SEALS, seals | F_SEAL_SEAL) != 0) {
    return ErrnoError(backing_, "sealing");
  }
  return absl::OkStatus();
}

absl::StatusOr<Region> Region::Map(UniqueFd fd, std::uint64_t bytes, bool writable) {
  Region region;
  struct stat file;
  if (fstat(fd.get(), &file) != 0) return ErrnoError(region.backing_, "fstat");
  if (static_cast<std::uint64_t>(file.st_size) < bytes) {
    return absl::DataLossError(
        fmt::format("the region's descriptor has {} bytes where the memory server says {}",
                    file.st_size, bytes));
  }
  absl::StatusOr<std::byte*> data =
      MapAligned(region.backing_, fd.get(), bytes, writable, &region.is_persistent_memory_);
  if (!data.ok()) return data.status();
  region.data_ = *data;
  region.size_bytes_ = bytes;
  region.clients_write_ = writable;
  const int seals = fcntl(fd.get(), F_GET_SEALS);
  region.fd_ = std::move(fd);
  region.outlives_server_ = seals < 0 || (seals & F_SEAL_SHRINK) == 0;
  return region;
}

absl::StatusOr<UniqueFd> Region::client_fd() const {
  if (clients_write_) {
    UniqueFd fd(fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0));
    if (!fd.valid()) return ErrnoError(backing_, "dup");
    return fd;
  }
  return ReadOnlyFd();
}

// A description of its own that was opened for reading.
absl::StatusOr<UniqueFd> Region::ReadOnlyFd() const {
  UniqueFd fd(open(fmt::format("/proc/self/fd/{}", fd_.get()).c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoError(backing_, "opening it read-only");
  return fd;
}

void Region::PopulateInBackground(std::uint64_t first_offset) {
  populator_ = std::make_unique<Populator>();
  Populator* populator = populator_.get();
  populator->thread = std::thread([populator, data = data_, end = size_bytes_, first_offset] {
    populator->Run(data, first_offset, end);
  });
}

std::uint64_t Region::populated_bytes() const {
  return populator_ != nullptr ? populator_->done_bytes.load(std::memory_order_relaxed) : 0;
}

void Region::WaitUntilPopulated() {
  if (populator_ != nullptr && populator_->thread.joinable()) populator_->thread.join();
}

std::vector<int> Region::SampleNumaNodes() const {
  std::array<void*, kSamples> pages;
  std::array<int, kSamples> nodes;
  for (std::size_t i = 0; i < kSamples; ++i) {
    pages[i] = data_ + size_bytes_ / kSamples * i / kPageBytes * kPageBytes;
  }
  std::set<int> distinct;
  // Without target nodes it moves nothing and says where each page is; negative = nowhere yet.
  if (move_pages(0, kSamples, pages.data(), nullptr, nodes.data(), 0) == 0) {
    for (const int node : nodes) {
      if (node >= 0) distinct.insert(node);
    }
  }
  return {distinct.begin(), distinct.end()};
}

// From smaps: how much of our mapping is mapped with 2 MiB entries.
std::uint64_t Region::SamplePageBytes() const {
  std::ifstream smaps("/proc/self/smaps");
  const std::string begins = fmt::format("{:x}-", reinterpret_cast<std::uintptr_t>(data_));
  bool is_ours = false;
  std::uint64_t resident = 0, huge = 0, kernel_page = 0;
  const auto kilobytes = [](const std::string& line) {
    const std::size_t digits = line.find_first_of("0123456789", line.find(':'));
    return digits == std::string::npos ? 0 : std::strtoull(line.c_str() + digits, nullptr, 10);
  };
  for (std::string line; std::getline(smaps, line);) {
    if (!is_ours) {
      is_ours = line.starts_with(begins);
      continue;
    }
    if (line.starts_with("KernelPageSize:")) kernel_page = kilobytes(line) * 1024;
    if (line.starts_with("Rss:")) resident = kilobytes(line) * 1024;
    if (line.starts_with("ShmemPmdMapped:") || line.starts_with("FilePmdMapped:")) {
      huge += kilobytes(line) * 1024;
    }
    if (line.starts_with("VmFlags:")) break;
  }
  if (kernel_page >= kHugePageBytes) return kernel_page;
  if (resident == 0) return 0;
  return huge >= resident / 2 ? kHugePageBytes : kPageBytes;
}

}  // namespace apta::fabric
