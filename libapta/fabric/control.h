// The control plane's messages: what a node and the memory server say over the Unix socket
// (SOCK_SEQPACKET, one message a packet). Everything fast goes through ports instead.
//
//   node -> server   Hello (attach, or ask for the server's state)
//   server -> node   Welcome with descriptors (attach): region, port, life word, one home doorbell
//                    per shard
//                    state as JSON text in packets, then end of file (ask)
//   server -> node   later, any one-byte packet: "look at your invalidation rings"
// The session lives as long as the socket: end of file on either side ends it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fabric/coherence.h"
#include "fabric/fd.h"
#include "fabric/message.h"

namespace apta::fabric {

inline constexpr std::uint64_t kControlMagic = 0x4c4f52544e4f4341;
inline constexpr std::uint32_t kControlVersion = 2;
// Before the doorbells.
inline constexpr std::size_t kWelcomeDescriptors = 3;
inline constexpr const char* kDefaultSocket = "/run/apta/aptad.sock";

struct Hello {
  enum Kind : std::uint32_t { kAttach = 1, kAskState = 2 };

  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t kind;
  char pool[64];   // NUL-terminated
  char node[128];  // NUL-terminated
};
static_assert(sizeof(Hello) == 208 && std::is_trivially_copyable_v<Hello>);

struct Welcome {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t code;  // absl::StatusCode; not 0: refused, `message` says why, no descriptors
  std::uint64_t region_bytes;
  std::uint32_t shards;
  std::uint32_t node;
  std::uint32_t trusted;  // 1: the region's descriptor may be mapped writable
  Coherence coherence;
  std::uint64_t link_latency_ns;
  double link_bandwidth_gbps;
  std::uint64_t link_jitter_ns;
  std::uint64_t link_call_ns;
  char message[256];  // NUL-terminated
};
static_assert(sizeof(Welcome) == 328 && std::is_trivially_copyable_v<Welcome>);

// From the memory server to an attached node; a nudge ("acknowledge, somebody waits") is its kind
// alone.
struct Notice {
  enum Kind : std::uint32_t { kNudge = 1, kFenced = 2 };

  std::uint32_t kind;
  char message[252];  // NUL-terminated: why
};
static_assert(sizeof(Notice) == 256 && std::is_trivially_copyable_v<Notice>);

// Copies `text` into a NUL-terminated field, cut to its size.
template <std::size_t kBytes>
void CopyText(char (&field)[kBytes], std::string_view text) {
  const std::size_t bytes = text.size() < kBytes ? text.size() : kBytes - 1;
  text.copy(field, bytes);
  for (std::size_t i = bytes; i < kBytes; ++i) field[i] = '\0';
}
// The text of a field that another process wrote; nullopt-like "" when it is not terminated.
template <std::size_t kBytes>
std::string_view FieldText(const char (&field)[kBytes]) {
  const std::string_view all(field, kBytes);
  const std::size_t end = all.find('\0');
  return end == std::string_view::npos ? std::string_view() : all.substr(0, end);
}

// One packet with descriptors (SCM_RIGHTS). Blocking unless the socket is not.
absl::Status SendPacket(int socket, const void* data, std::size_t bytes,
                        const std::vector<int>& fds = {});
// Returns the packet's size, 0 at end of file; descriptors are close-on-exec. A packet that is
// larger than `bytes` or carries more than `max_fds` descriptors is an error.
absl::StatusOr<std::size_t> ReceivePacket(int socket, void* data, std::size_t bytes,
                                          std::vector<UniqueFd>* fds, std::size_t max_fds);

// "" = $APTA_SOCKET, else kDefaultSocket.
std::string ResolveSocket(std::string_view socket);
// Connects to a memory server. UNAVAILABLE: nobody serves it.
absl::StatusOr<UniqueFd> ConnectSocket(const std::string& socket);

// INVALID_ARGUMENT unless 1 to kMaxKeyBytes bytes without NUL.
absl::Status CheckKey(std::string_view key);
inline bool IsValidKey(std::string_view key) {
  return !key.empty() && key.size() <= kMaxKeyBytes && key.find('\0') == std::string_view::npos;
}

// What a reply says, in words: `what` names the operation's object ("pool default: object foo").
absl::Status MakeStatus(const Reply& reply, std::string_view what);

}  // namespace apta::fabric
