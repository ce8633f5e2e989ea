// The memory server: what aptad runs, and what a program can embed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace apta {

// An emulated fabric link between the memory server and every compute server. The default is no
// emulation. A message becomes visible to its receiver latency + bytes/bandwidth (+ call on a
// request) ± jitter after it was sent; senders are never delayed.
struct LinkOptions {
  std::uint64_t latency_ns = 0;  // one way
  double bandwidth_gbps = 0;     // Gbit/s in each direction; 0 = unlimited
  std::uint64_t jitter_ns = 0;   // uniform, added to the latency: 0 … jitter_ns
  std::uint64_t call_ns = 0;     // added to each request

  bool enabled() const {
    return latency_ns != 0 || bandwidth_gbps != 0 || jitter_ns != 0 || call_ns != 0;
  }
  // "none", "cxl", "rdma", "rdma-fast" or "latency=500ns,bandwidth=80Gbps,jitter=0,call=0" (any
  // of the four, any order). INVALID_ARGUMENT names the part that cannot be read.
  static absl::StatusOr<LinkOptions> Parse(std::string_view text);
};

struct PoolOptions {
  std::string name = "default";      // 1 to 63 of [A-Za-z0-9_.-]
  std::uint64_t bytes = 1 << 30;     // of the region: index, headers and objects
  std::string backing = "memfd";     // memfd | shm:NAME | file:PATH | hugetlb
  std::string coherence = "strict";  // strict | lazy | sync | versioned | uncached
  std::string access = "isolated";   // isolated | trusted (writers fill extents in place)
  // none: nothing is promised. region: what was acknowledged survives the memory server's end,
  // however it ends, in a file: or shm: backing. log: it survives a power loss, in a log of its
  // own; acknowledged when it does, and not visible before.
  std::string durability = "none";
  std::string log;                             // the folder of a log; made if there is none
  std::uint64_t log_segment_bytes = 16 << 20;  // of the files of a new log
  // How long reading the log may take at start, besides reading the objects themselves: as long as
  // that, it grows before a checkpoint is made.
  std::uint64_t recovery_target_ms = 2000;
  // Of durability `region`: how many bytes a second of objects get their checksums, or are compared
  // with them, in the background; 0 = none ever.
  std::uint64_t scrub_bytes_per_second = 16 << 20;
  std::uint64_t directory_entries = 0;  // objects whose sharers are known at a time; 0 = by size
  // A node that owes acknowledgements and sends none for so long is fenced: its session ends.
  std::uint64_t ack_deadline_ms = 2000;
  std::uint64_t node_quota_bytes = 0;  // of old versions held for one node; 0 = half the region
  std::string numa = "any";            // any | near | far | a node's number
  std::string owner;                   // user who may attach; "" = the memory server's; root always
  std::string group;                   // group that may attach when mode allows; "" = the server's
  std::uint32_t mode = 0600;           // who may attach: read bits of owner, group, others
};

struct ServerOptions {
  std::string socket;  // "" = $APTA_SOCKET, else /run/apta/aptad.sock
  std::vector<PoolOptions> pools = {PoolOptions{}};
  int shards = 1;                // 1 to 16
  std::string threads = "auto";  // auto | folded: a shard's controllers share one polling thread
  LinkOptions link;
  // Which of the nodes that may run an invocation does: criterion+locality | random | round-robin |
  // least-loaded. None of them ever chooses one that owes an acknowledgement.
  std::string policy = "criterion+locality";
};

// What is wrong with a pool that no memory server is using: the file of a region, or the folder of
// a log. One line each, empty: nothing that could be seen; changes nothing. An object that a region
// had no time to make a checksum of is taken as it is. UNAVAILABLE: somebody uses it; other errors:
// it cannot be read, or is no pool. `on_progress` is told now and then which share of it (0 to 1)
// has been looked at.
absl::StatusOr<std::vector<std::string>> CheckStored(
    const std::string& path, const std::function<void(double)>& on_progress = {});

namespace daemon {
class Server;
}

// An embedded memory server, running on threads of its own until it is dropped: then its nodes
// are told (their calls fail with UNAVAILABLE) and its socket and volatile memory are gone.
class MemoryServer {
 public:
  // INVALID_ARGUMENT: an option cannot be right; ALREADY_EXISTS: a live memory server owns the
  // socket (a dead one's is taken over); RESOURCE_EXHAUSTED: a pool is larger than its memory;
  // DATA_LOSS / FAILED_PRECONDITION: an existing region is damaged / of a foreign layout.
  static absl::StatusOr<MemoryServer> Start(const ServerOptions& options);
  MemoryServer(MemoryServer&&) noexcept;
  MemoryServer& operator=(MemoryServer&&) noexcept;
  ~MemoryServer();

  const std::string& socket() const;

 private:
  explicit MemoryServer(std::unique_ptr<daemon::Server> server);
  std::unique_ptr<daemon::Server> server_;
};

}  // namespace apta
