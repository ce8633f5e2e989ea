// The memory server's options: how each is written, and which values can be right.
//
// One grammar serves the command line and the configuration file: an option is a key and a text.
// Thread-safe: functions without state.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "apta/server.h"

namespace apta::daemon {

// Below this, superblock, index and the rounding to 2 MiB pages leave no heap worth the name.
inline constexpr std::uint64_t kMinPoolBytes = std::uint64_t{8} << 20;
// Half of the 47-bit address space of a process.
inline constexpr std::uint64_t kMaxPoolBytes = std::uint64_t{1} << 46;

// A whole number of bytes ("4096") or of K, M, G, T (KiB, MiB, GiB, TiB mean the same), without
// sign, fraction or space. INVALID_ARGUMENT says what is wrong, overflow included.
absl::StatusOr<std::uint64_t> ParseBytes(std::string_view text);

// "1.0 GiB"; exact below 1 KiB.
std::string FormatBytes(std::uint64_t bytes);

// Sets what `key` names to what `value` says. NOT_FOUND: no such key (lists those there are);
// INVALID_ARGUMENT: the value cannot be read. One that can be read but not be right is Validate's.
absl::Status SetServerOption(std::string_view key, std::string_view value, ServerOptions* options);
absl::Status SetPoolOption(std::string_view key, std::string_view value, PoolOptions* options);

// "name=…,bytes=4GiB,…": any of a pool's keys, each at most once, in any order.
absl::StatusOr<PoolOptions> ParsePool(std::string_view text);

// INVALID_ARGUMENT when an option cannot be right on any machine, naming pool, key and value. What
// needs the machine to be asked (users, NUMA nodes, free memory) is left to MemoryServer::Start,
// which calls this first.
absl::Status Validate(const ServerOptions& options);

}  // namespace apta::daemon
