#include "daemon/config.h"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <set>
#include <vector>

#include "absl/time/time.h"
#include "daemon/log/format.h"
#include "fabric/coherence.h"
#include "fabric/region.h"
#include "fabric/superblock.h"
#include "scheduler/placement.h"

namespace apta::daemon {
namespace {

constexpr std::string_view kServerKeys = "socket, shards, threads, link, policy";
constexpr std::string_view kPoolKeys =
    "name, bytes, backing, numa, coherence, access, durability, owner, group, mode, "
    "directory_entries, ack_deadline, node_quota, log, log_segment, recovery_target, scrub";
constexpr std::size_t kMaxPoolNameBytes = 63;
constexpr std::uint64_t kMaxDirectoryEntries = std::uint64_t{1} << 32;
// Below, a node that merely waits for its turn on a busy machine would be fenced.
constexpr std::uint64_t kMinAckDeadlineMs = 10;
constexpr std::uint64_t kMaxAckDeadlineMs = 3'600'000;
constexpr std::uint64_t kMaxLogSegmentBytes = std::uint64_t{1} << 30;
constexpr std::uint64_t kMinRecoveryTargetMs = 10;
constexpr std::uint64_t kMaxRecoveryTargetMs = 3'600'000;
constexpr std::uint64_t kMaxLinkDelayNs = 1'000'000'000;

std::string_view Message(const absl::Status& status) {
  return {status.message().data(), status.message().size()};
}

template <typename Number>
std::optional<Number> ParseNumber(std::string_view text, int base = 10) {
  Number number{};
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number, base);
  if (error != std::errc() || rest != end) return std::nullopt;
  return number;
}

absl::StatusOr<std::uint32_t> ParseMode(std::string_view text) {
  const auto mode = ParseNumber<std::uint32_t>(text, 8);
  if (!mode.has_value() || *mode > 0777) {
    return absl::InvalidArgumentError(
        fmt::format("mode={} is no octal file mode such as 0640", text));
  }
  return *mode;
}

bool IsPoolName(std::string_view name) {
  const auto allowed = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == '-';
  };
  return !name.empty() && name.size() <= kMaxPoolNameBytes && std::ranges::all_of(name, allowed);
}

bool IsNuma(std::string_view numa) {
  return numa == "any" || numa == "near" || numa == "far" ||
         ParseNumber<std::uint16_t>(numa).has_value();
}

// "" when right, else what is wrong.
std::string CoherenceFault(std::string_view coherence) {
  if (fabric::ParseCoherence(coherence)) return "";
  return fmt::format("coherence={} is none of {}", coherence,
                     fmt::join(fabric::kCoherenceNames, ", "));
}

std::string BytesFault(std::uint64_t bytes) {
  if (bytes < kMinPoolBytes) {
    return fmt::format(
        "bytes={} is too small; a region needs at least {}, because superblock, index and the "
        "alignment to 2 MiB pages come off it before the first object",
        bytes, FormatBytes(kMinPoolBytes));
  }
  if (bytes > kMaxPoolBytes) {
    return fmt::format("bytes={} is too large; a process can map at most {}", bytes,
                       FormatBytes(kMaxPoolBytes));
  }
  return "";
}

std::string DurabilityFault(const PoolOptions& pool, bool is_persistent) {
  const bool is_log = pool.durability == "log";
  if (!is_log && pool.durability != "none" && pool.durability != "region") {
    return fmt::format("durability={} is none of none, region, log", pool.durability);
  }
  if (pool.durability == "region" && !is_persistent) {
    return fmt::format(
        "durability=region needs backing=file:PATH or shm:NAME, not {}, which is gone with the "
        "memory server; or use durability=log",
        pool.backing);
  }
  if (is_log && is_persistent) {
    return fmt::format(
        "durability=log keeps the objects in log=FOLDER, and fills the region from there; use "
        "backing=memfd or hugetlb, not {}",
        pool.backing);
  }
  if (is_log && pool.log.empty()) return "durability=log needs log=FOLDER";
  if (!is_log && !pool.log.empty()) {
    return fmt::format("log={} is of durability=log only, not {}", pool.log, pool.durability);
  }
  if (pool.log.find('\0') != std::string::npos) return "log: a path cannot contain a NUL";
  if (pool.log_segment_bytes < log::kMinSegmentBytes ||
      pool.log_segment_bytes > kMaxLogSegmentBytes ||
      pool.log_segment_bytes % log::kBlockBytes != 0) {
    return fmt::format("log_segment={} is no multiple of {} from {} to {}", pool.log_segment_bytes,
                       FormatBytes(log::kBlockBytes), FormatBytes(log::kMinSegmentBytes),
                       FormatBytes(kMaxLogSegmentBytes));
  }
  if (pool.recovery_target_ms < kMinRecoveryTargetMs ||
      pool.recovery_target_ms > kMaxRecoveryTargetMs) {
    return fmt::format("recovery_target={}ms is not {}ms to {}ms", pool.recovery_target_ms,
                       kMinRecoveryTargetMs, kMaxRecoveryTargetMs);
  }
  return "";
}

std::string PoolFault(const PoolOptions& pool) {
  if (std::string fault = BytesFault(pool.bytes); !fault.empty()) return fault;
  if (const auto backing = fabric::Backing::Parse(pool.backing); !backing.ok()) {
    return fmt::format("backing={}: {}", pool.backing, Message(backing.status()));
  }
  if (std::string fault = CoherenceFault(pool.coherence); !fault.empty()) return fault;
  if (pool.access != "isolated" && pool.access != "trusted") {
    return fmt::format("access={} is neither isolated nor trusted", pool.access);
  }
  const bool is_persistent = pool.backing.starts_with("file:") || pool.backing.starts_with("shm:");
  if (pool.access == "trusted" && is_persistent) {
    return fmt::format(
        "access=trusted needs backing=memfd or hugetlb, not {}: whoever may write to "
        "a file may also truncate it under the memory server",
        pool.backing);
  }
  if (std::string fault = DurabilityFault(pool, is_persistent); !fault.empty()) return fault;
  if (!IsNuma(pool.numa)) {
    return fmt::format("numa={} is none of any, near, far or a node's number", pool.numa);
  }
  if (pool.directory_entries > kMaxDirectoryEntries) {
    return fmt::format("directory_entries={} is more than {}", pool.directory_entries,
                       kMaxDirectoryEntries);
  }
  if (pool.ack_deadline_ms < kMinAckDeadlineMs || pool.ack_deadline_ms > kMaxAckDeadlineMs) {
    return fmt::format("ack_deadline={}ms is not {}ms to {}ms", pool.ack_deadline_ms,
                       kMinAckDeadlineMs, kMaxAckDeadlineMs);
  }
  if (!pool.owner.empty() && getpwnam(pool.owner.c_str()) == nullptr) {
    return fmt::format("owner={} is no user of this machine", pool.owner);
  }
  if (!pool.group.empty() && getgrnam(pool.group.c_str()) == nullptr) {
    return fmt::format("group={} is no group of this machine", pool.group);
  }
  if (pool.mode > 0777) {
    return fmt::format("mode={:#o} is no file mode; at most 0777", pool.mode);
  }
  return "";
}

absl::Status ValidatePools(const std::vector<PoolOptions>& pools) {
  if (pools.empty()) {
    return absl::InvalidArgumentError("no pool; a memory server needs at least one");
  }
  std::set<std::string_view> names;
  std::set<std::string_view> persistent_backings;
  std::set<std::string_view> logs;
  for (const PoolOptions& pool : pools) {
    if (!IsPoolName(pool.name)) {
      return absl::InvalidArgumentError(fmt::format(
          "pool name '{}' is not 1 to {} of A-Z, a-z, 0-9, _ . -", pool.name, kMaxPoolNameBytes));
    }
    if (!names.insert(pool.name).second) {
      return absl::InvalidArgumentError(
          fmt::format("two pools are called '{}'; give each its own name=", pool.name));
    }
    if (const std::string fault = PoolFault(pool); !fault.empty()) {
      return absl::InvalidArgumentError(fmt::format("pool '{}': {}", pool.name, fault));
    }
    if (fabric::Backing::Parse(pool.backing)->persistent() &&
        !persistent_backings.insert(pool.backing).second) {
      return absl::InvalidArgumentError(
          fmt::format("pool '{}': backing={} is another pool's already", pool.name, pool.backing));
    }
    if (!pool.log.empty() && !logs.insert(pool.log).second) {
      return absl::InvalidArgumentError(
          fmt::format("pool '{}': log={} is another pool's already", pool.name, pool.log));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateLink(const LinkOptions& link) {
  if (!std::isfinite(link.bandwidth_gbps) || link.bandwidth_gbps < 0) {
    return absl::InvalidArgumentError(
        fmt::format("link: bandwidth={}Gbps is no bandwidth; 0 is unlimited", link.bandwidth_gbps));
  }
  const std::pair<std::string_view, std::uint64_t> delays[] = {
      {"latency", link.latency_ns}, {"jitter", link.jitter_ns}, {"call", link.call_ns}};
  for (const auto& [name, delay_ns] : delays) {
    if (delay_ns > kMaxLinkDelayNs) {
      return absl::InvalidArgumentError(
          fmt::format("link: {}={}ns is more than a second", name, delay_ns));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::uint64_t> ParseBytes(std::string_view text) {
  struct Unit {
    std::string_view name;
    int shift;
  };
  constexpr Unit kUnits[] = {{"", 0},   {"K", 10},   {"KiB", 10}, {"M", 20},  {"MiB", 20},
                             {"G", 30}, {"GiB", 30}, {"T", 40},   {"TiB", 40}};
  const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto* unit = std::ranges::find(kUnits, text.substr(digits), &Unit::name);
  if (digits == 0 || unit == std::end(kUnits)) {
    return absl::InvalidArgumentError(fmt::format(
        "'{}' is no size; write a whole number of bytes, KiB, MiB, GiB or TiB, such as 4GiB",
        text));
  }
  const auto count = ParseNumber<std::uint64_t>(text.substr(0, digits));
  if (!count.has_value() || *count > (std::numeric_limits<std::uint64_t>::max() >> unit->shift)) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' is no size; it does not fit into 64 bits", text));
  }
  return *count << unit->shift;
}

std::string FormatBytes(std::uint64_t bytes) {
  constexpr std::array<std::string_view, 5> kUnits = {"KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  for (; value >= 1023.95 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

absl::Status SetServerOption(std::string_view key, std::string_view value, ServerOptions* options) {
  if (key == "socket") {
    options->socket = value;
  } else if (key == "shards") {
    const auto shards = ParseNumber<int>(value);
    if (!shards.has_value()) {
      return absl::InvalidArgumentError(fmt::format("shards={} is no number", value));
    }
    options->shards = *shards;
  } else if (key == "threads") {
    options->threads = value;
  } else if (key == "policy") {
    options->policy = value;
  } else if (key == "link") {
    auto link = LinkOptions::Parse(value);
    if (!link.ok()) return link.status();
    options->link = *link;
  } else {
    return absl::NotFoundError(
        fmt::format("unknown key '{}'; there are {} and [[pool]]", key, kServerKeys));
  }
  return absl::OkStatus();
}

absl::Status SetPoolOption(std::string_view key, std::string_view value, PoolOptions* options) {
  if (key == "bytes" || key == "node_quota" || key == "log_segment" || key == "scrub") {
    const auto bytes = ParseBytes(value);
    if (!bytes.ok()) {
      return absl::InvalidArgumentError(fmt::format("{}: {}", key, Message(bytes.status())));
    }
    (key == "bytes"        ? options->bytes
     : key == "node_quota" ? options->node_quota_bytes
     : key == "scrub"      ? options->scrub_bytes_per_second
                           : options->log_segment_bytes) = *bytes;
    return absl::OkStatus();
  }
  if (key == "directory_entries") {
    const auto entries = ParseNumber<std::uint64_t>(value);
    if (!entries || *entries > kMaxDirectoryEntries) {
      return absl::InvalidArgumentError(fmt::format("directory_entries={} is not 0 (by size) to {}",
                                                    value, kMaxDirectoryEntries));
    }
    options->directory_entries = *entries;
    return absl::OkStatus();
  }
  if (key == "ack_deadline" || key == "recovery_target") {
    absl::Duration deadline;
    if (!absl::ParseDuration(std::string(value), &deadline) || deadline < absl::ZeroDuration()) {
      return absl::InvalidArgumentError(
          fmt::format("{}={} is no time; write ms, s or m, such as 2s", key, value));
    }
    if (deadline != absl::Floor(deadline, absl::Milliseconds(1))) {
      return absl::InvalidArgumentError(
          fmt::format("{}={} is no whole number of milliseconds", key, value));
    }
    (key == "ack_deadline" ? options->ack_deadline_ms : options->recovery_target_ms) =
        static_cast<std::uint64_t>(absl::ToInt64Milliseconds(deadline));
    return absl::OkStatus();
  }
  if (key == "mode") {
    const auto mode = ParseMode(value);
    if (!mode.ok()) return mode.status();
    options->mode = *mode;
    return absl::OkStatus();
  }
  const std::pair<std::string_view, std::string*> texts[] = {
      {"name", &options->name},     {"backing", &options->backing},
      {"numa", &options->numa},     {"coherence", &options->coherence},
      {"access", &options->access}, {"durability", &options->durability},
      {"owner", &options->owner},   {"group", &options->group},
      {"log", &options->log}};
  for (const auto& [name, field] : texts) {
    if (key != name) continue;
    *field = value;
    return absl::OkStatus();
  }
  return absl::NotFoundError(
      fmt::format("unknown key '{}' of a pool; there are {}", key, kPoolKeys));
}

absl::StatusOr<PoolOptions> ParsePool(std::string_view text) {
  PoolOptions pool;
  std::set<std::string_view> seen;
  std::string_view rest = text;
  while (true) {
    const std::size_t comma = rest.find(',');
    const std::string_view part = rest.substr(0, comma);
    const std::size_t equals = part.find('=');
    if (equals == std::string_view::npos) {
      return absl::InvalidArgumentError(fmt::format("'{}' is not key=value", part));
    }
    const std::string_view key = part.substr(0, equals);
    if (!seen.insert(key).second) {
      return absl::InvalidArgumentError(fmt::format("'{}' is given twice", key));
    }
    const absl::Status status = SetPoolOption(key, part.substr(equals + 1), &pool);
    if (!status.ok()) return absl::InvalidArgumentError(status.message());
    if (comma == std::string_view::npos) return pool;
    rest.remove_prefix(comma + 1);
  }
}

absl::Status Validate(const ServerOptions& options) {
  if (options.socket.size() >= sizeof(sockaddr_un::sun_path)) {
    return absl::InvalidArgumentError(
        fmt::format("socket: '{}' is {} bytes long; the kernel takes paths of up to {}",
                    options.socket, options.socket.size(), sizeof(sockaddr_un::sun_path) - 1));
  }
  if (options.socket.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("socket: a path cannot contain a NUL");
  }
  if (options.shards < 1 || options.shards > fabric::kMaxShards) {
    return absl::InvalidArgumentError(
        fmt::format("shards={} is not 1 to {}", options.shards, fabric::kMaxShards));
  }
  if (options.threads == "split") {
    return absl::InvalidArgumentError(
        "threads=split: this version has folded shards only; use auto or folded");
  }
  if (options.threads != "auto" && options.threads != "folded") {
    return absl::InvalidArgumentError(
        fmt::format("threads={} is neither auto nor folded", options.threads));
  }
  if (scheduler::FindPolicy(options.policy) == nullptr) {
    return absl::InvalidArgumentError(fmt::format("policy={} is none of {}", options.policy,
                                                  fmt::join(scheduler::kPolicyNames, ", ")));
  }
  if (const absl::Status status = ValidateLink(options.link); !status.ok()) return status;
  return ValidatePools(options.pools);
}

}  // namespace apta::daemon
