// Ports: the memory that one node shares with the memory server, one memfd per attached node,
// created by the server, sealed in size, mapped writable by both. No keys of other objects, no
// pointers. Whatever the node writes harms only the node.
//
//   [header][per shard: submission ring, invalidation ring][hold table][lanes][staging]
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>

#include "absl/status/statusor.h"
#include "fabric/extent.h"
#include "fabric/fd.h"
#include "fabric/hold_table.h"
#include "fabric/message.h"
#include "fabric/ring.h"
#include "fabric/superblock.h"

namespace apta::fabric {

inline constexpr std::uint64_t kPortMagic = 0x3154524f50414d41;
inline constexpr std::uint32_t kPortLayoutVersion = 4;

// A lane's share of the staging area: a ring of bytes through which a body that does not fit into
// its request flows. The node fills one slice while the home drains another, so the node is never
// far ahead; but each body begins where the last one ended, in a ring several times as large as a
// core's own cache: a line that the home has read lately costs its next writer an invalidation of
// the home's copy (64 KiB there and back: 9 us in a ring of 128 KiB, 3.4 us in one of 4 MiB).
inline constexpr std::uint64_t kStagingBytes = 4 << 20;
inline constexpr std::uint64_t kStagingPages = kStagingBytes / kPageBytes;
inline constexpr std::uint64_t kAheadBytes = 128 << 10;
inline constexpr std::uint64_t kSliceBytes = 32 << 10;
// How much of one upload the home copies between two polls.
inline constexpr std::uint64_t kHomeCopyBytes = 64 << 10;

// Where the payload begins in a staged body: after the key, on a cache line.
constexpr std::uint64_t StagedPayloadOffset(std::uint64_t key_bytes) {
  return AlignUp(key_bytes, kCacheLineBytes);
}

struct PortHeader {
  std::uint64_t magic;
  std::uint32_t layout_version;
  std::uint32_t shards;
  std::uint32_t node;
};

// One request at a time of one thread of the node. Those from kLanes on have no staging area.
struct Lane {
  // Written by the home.
  alignas(kCacheLineBytes) std::atomic<std::uint32_t> done_id;  // futex: the reply below is whole
  // 1: when the reply came, whoever it was waited for ran where the waiting thread ran. Written
  // before done_id, and meant for the next wait.
  std::atomic<std::uint32_t> shares_core;
  Reply reply;  // written by SetReply before done_id
  alignas(kCacheLineBytes) std::atomic<std::uint64_t> drained_bytes;  // of the staged body
  std::uint64_t visible_at_ns;  // of the reply; used only where a link is emulated

  // Written by the node.
  alignas(kCacheLineBytes) std::atomic<std::uint32_t> asleep;  // 1: wake done_id's futex
  std::atomic<std::uint64_t> staged_bytes;  // of the body, whole slices; reset before each request

  // Written by the home before done_id: the first bytes, as many as the reply says.
  alignas(kCacheLineBytes) std::array<std::uint64_t, kLanePayloadBytes / 8> payload;

  // Relaxed words, ordered by the store of done_id that follows: a node that uses one lane for two
  // homes at once gets nonsense, and the homes do not race.
  void SetReply(const Reply& from) {
    std::array<std::uint64_t, sizeof(Reply) / sizeof(std::uint64_t)> words;
    std::memcpy(words.data(), &from, sizeof(from));
    auto* to = reinterpret_cast<std::uint64_t*>(&reply);
#pragma GCC unroll 8
    for (std::size_t i = 0; i < words.size(); ++i) {
      std::atomic_ref<std::uint64_t>(to[i]).store(words[i], std::memory_order_relaxed);
    }
  }
  // Likewise. REQUIRES: at most kLanePayloadBytes.
  void SetPayload(const std::byte* from, std::size_t bytes) {
    for (std::size_t i = 0; i * 8 < bytes; ++i) {
      std::uint64_t word = 0;
      std::memcpy(&word, from + i * 8, std::min<std::size_t>(8, bytes - i * 8));
      std::atomic_ref<std::uint64_t>(payload[i]).store(word, std::memory_order_relaxed);
    }
  }
  void SetVisibleAt(std::uint64_t time_ns) {  // likewise
    std::atomic_ref<std::uint64_t>(visible_at_ns).store(time_ns, std::memory_order_relaxed);
  }
};
static_assert(sizeof(Lane) == 3 * kCacheLineBytes + kLanePayloadBytes);
static_assert(offsetof(Lane, drained_bytes) == kCacheLineBytes);
static_assert(offsetof(Lane, asleep) == 2 * kCacheLineBytes);

inline constexpr std::uint64_t kLanesBytes =
    AlignUp((kLanes + kWaitLanes) * sizeof(Lane), kPageBytes);

// A mapped port. Movable.
class Port {
 public:
  static std::uint64_t BytesFor(int shards);

  // Memory server: makes, sizes, seals and maps a port for `node`.
  static absl::StatusOr<Port> Create(NodeId node, int shards);
  // Node: maps a port that it was sent. FAILED_PRECONDITION: foreign magic or layout.
  static absl::StatusOr<Port> Map(UniqueFd fd, int shards);

  Port() = default;
  Port(Port&& other) noexcept;
  Port& operator=(Port&& other) noexcept;
  ~Port();

  // Memory server: the descriptor to send; closed once TakeFd's result is dropped.
  int fd() const { return fd_.get(); }
  UniqueFd TakeFd() { return std::move(fd_); }

  // Node: as Region::Retire.
  void Retire();

  SubmissionRing<>* submissions(int shard) const;
  InvalidationRing<>* invalidations(int shard) const;
  HoldTable* holds() const { return reinterpret_cast<HoldTable*>(data_ + holds_offset_); }
  Lane* lane(int lane_index) const {
    return reinterpret_cast<Lane*>(data_ + holds_offset_ + sizeof(HoldTable)) + lane_index;
  }
  // Node: faults the lane's staging ring in, 1 to 4 ms; whether it could does not matter.
  void PopulateStaging(int lane_index) const;
  std::byte* staging(int lane_index) const {
    return data_ + holds_offset_ + sizeof(HoldTable) + kLanesBytes +
           static_cast<std::uint64_t>(lane_index) * kStagingBytes;
  }

 private:
  explicit Port(std::byte* data, int shards, UniqueFd fd);
  static std::uint64_t HoldsOffset(int shards);

  std::byte* data_ = nullptr;
  int shards_ = 0;
  std::uint64_t holds_offset_ = 0;
  UniqueFd fd_;
};

}  // namespace apta::fabric
