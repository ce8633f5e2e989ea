// Regions: shared memory of a pool, whatever backs it.
//
// The memory server creates or opens a region and keeps it mapped writable; clients map the
// descriptor that client_fd() yields. Mappings are aligned to 2 MiB so that 2 MiB pages can serve
// them. A Region is movable and not thread-safe, but for populated_bytes().
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fabric/fd.h"

namespace apta::fabric {

// What backs a region.
//   memfd       anonymous; vanishes with its last user
//   shm:NAME    a POSIX shared-memory object; survives the memory server
//   file:PATH   a file, also on a DAX file system; survives the memory server
//   hugetlb     anonymous, of 2 MiB pages from the kernel's reserved pool
// (dax:/dev/daxX.Y takes its size from the device and is never truncated: Open() therefore
// decides the size, callers read it from size_bytes().)
struct Backing {
  enum class Kind { kMemfd, kShm, kFile, kHugetlb };
  Kind kind = Kind::kMemfd;
  std::string path;  // of kFile; the object's name, with its leading slash, of kShm

  static absl::StatusOr<Backing> Parse(std::string_view text);  // INVALID_ARGUMENT says why
  std::string ToString() const;
  bool persistent() const { return kind == Kind::kShm || kind == Kind::kFile; }
};

// Where a region's memory is to come from: any | near | far | N. INVALID_ARGUMENT: cannot be read;
// NOT_FOUND: this machine has no such node ("far": a memory node without CPUs, ranked by HMAT read
// latency where the kernel knows it, then by distance; "near": the calling thread's node).
// -1 = any.
absl::StatusOr<int> ResolveNumaNode(std::string_view text);

// How many bytes node `node` (-1: the whole machine) can still hand out now. Binding more than a
// node has gets the process killed, so Open compares first.
std::uint64_t FreeBytesOfNode(int node);

struct RegionOptions {
  Backing backing;
  std::uint64_t bytes = 0;  // rounded up to 2 MiB; ignored where the region exists already
  std::string numa = "any";
  // false (isolated): clients' descriptors can never be used for writing, whatever they try.
  bool clients_write = false;
  std::uint32_t file_mode = 0600;  // permission bits of a file or object that is made
};

class Region {
 public:
  // Memory server: makes the region, or opens the existing one of a persistent backing. A region
  // that exists must be a whole number of 2 MiB; an empty file counts as new. Takes an exclusive
  // lock on a file or object: FAILED_PRECONDITION when another memory server uses it.
  // RESOURCE_EXHAUSTED: more than the NUMA node, the machine, /dev/shm or the file system has free
  // (says how much), nothing is left behind. New memory reads as zero.
  static absl::StatusOr<Region> Open(const RegionOptions& options);

  // Client: maps `fd` (taken over) whole, read-only or writable. PERMISSION_DENIED: the descriptor
  // does not allow it.
  static absl::StatusOr<Region> Map(UniqueFd fd, std::uint64_t bytes, bool writable);

  Region();
  Region(Region&&) noexcept;
  Region& operator=(Region&&) noexcept;
  ~Region();  // stops population, unmaps; a persistent backing stays

  // Client: gives the memory back and leaves private zeros at the same addresses, so that a late
  // look at them finds nothing, and does not fault.
  void Retire();

  // Client of a file or a shared-memory object: its next memory server may write anywhere. Replaces
  // the pages of this range with private copies at the same addresses, in one step for readers.
  void KeepPrivately(std::uint64_t offset, std::uint64_t bytes);
  bool outlives_server() const { return outlives_server_; }

  std::byte* data() const { return data_; }
  std::uint64_t size_bytes() const { return size_bytes_; }
  // Memory server: the mapped pages are persistent memory, so that what was written back is
  // durable.
  bool is_persistent_memory() const { return is_persistent_memory_; }
  bool existed() const { return existed_; }  // opened, not made

  // A descriptor to send to a client: read-only for good unless options.clients_write (a sealed
  // memfd; for files and objects a descriptor that was opened read-only, and permissions).
  absl::StatusOr<UniqueFd> client_fd() const;
  // One that is open for reading only, whatever else there is.
  absl::StatusOr<UniqueFd> ReadOnlyFd() const;

  // Faults all pages in, on a thread of its own, in slices from `first_offset` on, without
  // disturbing contents, and makes them the 2 MiB pages that can be had. What populated_bytes()
  // counts keeps its pages: it is size_bytes() when all is done. Called once, after the NUMA policy
  // has been applied by Open.
  void PopulateInBackground(std::uint64_t first_offset = 0);
  std::uint64_t populated_bytes() const;
  void WaitUntilPopulated();

  // What the kernel says, from sample pages that are populated already.
  std::vector<int> SampleNumaNodes() const;  // distinct node numbers, ascending; empty = unknown
  std::uint64_t SamplePageBytes() const;     // 2 MiB, 4 KiB, or 0 = nothing populated yet

 private:
  struct Populator;

  absl::Status OpenBacking(const RegionOptions& options, int node, bool* made);

  std::byte* data_ = nullptr;
  std::uint64_t size_bytes_ = 0;
  bool existed_ = false;
  bool clients_write_ = false;
  bool is_persistent_memory_ = false;
  bool outlives_server_ = false;  // client: the region is no memfd
  Backing backing_;
  UniqueFd fd_;
  std::unique_ptr<Populator> populator_;
};

}  // namespace apta::fabric
