// How invocations are numbered, and what a call says besides function, input and deadline.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

#include "absl/types/span.h"
#include "fabric/message.h"

namespace apta::fabric {

// An identifier names an attempt: a sequence (40 bits), the Executor Manager's slot (16), the
// attempt's number modulo 256. With attempt 0 it names the invocation.
inline constexpr std::uint64_t kMaxInvocationSlots = 1 << 16;
constexpr std::uint64_t MakeInvocationId(std::uint64_t sequence, std::uint32_t slot) {
  return sequence << 24 | std::uint64_t{slot} << 8;
}
constexpr std::uint64_t InvocationOf(std::uint64_t attempt) {
  return attempt & ~std::uint64_t{0xff};
}
constexpr std::uint64_t AttemptOf(std::uint64_t invocation, std::uint32_t number) {
  return invocation | (number & 0xff);
}
constexpr std::uint32_t SlotOf(std::uint64_t id) {
  return static_cast<std::uint32_t>(id >> 8 & 0xffff);
}

// Stands where the function's name alone would, in kCall and kStart with the flag kHeaded:
// CallHead, hashes of the declared keys, the node's name, the function's name.
struct CallHead {
  static constexpr std::uint16_t kExplain = 1;         // keep why it was placed as it was
  static constexpr std::uint16_t kDeclaresReads = 2;   // it reads nothing but these keys
  static constexpr std::uint16_t kErrorsAreFinal = 4;  // one that it returns is not tried again
  static constexpr std::size_t kMaxReads = 32;
  static constexpr std::size_t kMaxNodeBytes = 127;

  std::uint64_t parent;    // the attempt that calls, 0 = none
  std::uint64_t workflow;  // the caller's number for what the call is a part of, 0 = none
  std::uint16_t flags;
  std::uint16_t reads;
  std::uint16_t node_bytes;
  std::uint16_t reserved;
};
static_assert(sizeof(CallHead) == 24 && std::is_trivially_copyable_v<CallHead>);

inline constexpr std::size_t kMaxHeadBytes = sizeof(CallHead) +
                                             CallHead::kMaxReads * sizeof(std::uint64_t) +
                                             CallHead::kMaxNodeBytes + kMaxKeyBytes;

// A head taken apart. Views into the bytes it was parsed from.
struct CallSaid {
  CallHead head{};
  std::array<std::uint64_t, CallHead::kMaxReads> read;  // the first head.reads
  std::string_view node;
  std::string_view function;

  absl::Span<const std::uint64_t> reads() const {
    return absl::MakeConstSpan(read.data(), head.reads);
  }
};

// Nullopt: no correct client wrote this.
inline std::optional<CallSaid> ParseCallHead(std::string_view bytes) {
  CallSaid said;
  if (bytes.size() < sizeof(CallHead)) return std::nullopt;
  std::memcpy(&said.head, bytes.data(), sizeof(CallHead));
  bytes.remove_prefix(sizeof(CallHead));
  const std::size_t hash_bytes = said.head.reads * sizeof(std::uint64_t);
  if (said.head.reads > CallHead::kMaxReads || said.head.node_bytes > CallHead::kMaxNodeBytes ||
      bytes.size() < hash_bytes + said.head.node_bytes) {
    return std::nullopt;
  }
  std::memcpy(said.read.data(), bytes.data(), hash_bytes);
  said.node = bytes.substr(hash_bytes, said.head.node_bytes);
  said.function = bytes.substr(hash_bytes + said.head.node_bytes);
  return said;
}

// Writes a head to `out`, of kMaxHeadBytes. REQUIRES: no more than the limits above.
inline std::string_view MakeCallHead(const CallHead& head, absl::Span<const std::uint64_t> reads,
                                     std::string_view node, std::string_view function, char* out) {
  CallHead whole = head;
  whole.reads = static_cast<std::uint16_t>(reads.size());
  whole.node_bytes = static_cast<std::uint16_t>(node.size());
  char* to = out;
  const auto append = [&to](const void* from, std::size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
    to += bytes;
  };
  append(&whole, sizeof(whole));
  append(reads.data(), reads.size() * sizeof(std::uint64_t));
  append(node.data(), node.size());
  append(function.data(), function.size());
  return {out, static_cast<std::size_t>(to - out)};
}

}  // namespace apta::fabric
