// What is measured: a system that keeps objects under keys, and clients' connections to it.
//
// One file per peer implements both. A System is started, emptied and ended by the main thread; a
// Connection is one client, used by one thread at a time. Connections end before their System.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace apta::peers {

using BytesView = absl::Span<const std::byte>;

// One get or put. A get's `value` is what it should find: compared in untimed passes only.
struct Op {
  std::string_view key;
  BytesView value;
  bool is_put = false;
};

// What a caller does with the values of its gets, the same for every system.
class Reader {
 public:
  enum class Mode {
    kFirstByte,  // the value is there: one byte of it is read
    kAllBytes,   // every byte is read, 8 at a time
    kCompare,    // every byte is compared with what was put
  };
  explicit Reader(Mode mode) : mode_(mode) {}

  // `value` is what the system returned for `op`; used before this returns, and not later. A value
  // of another size is a fault in every mode: a system that returns nothing is not fast.
  void Take(const Op& op, BytesView value);

  std::uint64_t taken() const { return taken_; }
  std::uint64_t faults() const { return faults_; }
  std::uint64_t sum() const { return sum_; }  // keeps the reads from being optimised away

 private:
  Mode mode_;
  std::uint64_t taken_ = 0;
  std::uint64_t faults_ = 0;
  std::uint64_t sum_ = 0;
};

class Connection {
 public:
  virtual ~Connection() = default;
  // Does them in order and lets go of each value after its Take. A pipelined connection sends all
  // of them before it waits for an answer; when this returns, all are done and visible to other
  // clients.
  virtual absl::Status Execute(absl::Span<const Op> ops, Reader* reader) = 0;
};

class System {
 public:
  System(std::string name, bool is_pipelined)
      : name_(std::move(name)), is_pipelined_(is_pipelined) {}
  virtual ~System() = default;

  const std::string& name() const { return name_; }
  bool is_pipelined() const { return is_pipelined_; }

  virtual absl::StatusOr<std::unique_ptr<Connection>> Connect() = 0;
  // Removes all objects; `keys` is what there may be. REQUIRES: no connection is open.
  virtual absl::Status Empty(absl::Span<const std::string_view> keys) = 0;
  // All objects have been put for the first time: brings them into the shape that gets like best.
  virtual absl::Status Loaded() { return absl::OkStatus(); }
  // Waits, untimed, for work that it does behind its callers' backs: the next system's turn is not
  // to be disturbed by it.
  virtual void Settle() {}

 private:
  std::string name_;
  bool is_pipelined_;
};

// What the systems are started with.
struct Setup {
  std::string folder;  // theirs alone; removed with all in it
  // A put has survived a power loss when it returns; `folder` is on a disk. Else nothing is synced,
  // and `folder` is in memory (tmpfs).
  bool is_durable = false;
  std::string aptad;                 // the memory server's program
  std::string pool_backing;          // of Āpta's pools: memfd, hugetlb or file
  std::uint64_t pool_bytes = 0;      // of each of Āpta's pools
  std::uint64_t capacity_bytes = 0;  // that each peer may fill
  std::size_t max_value_bytes = 0;   // the largest object
  std::vector<std::string> wanted;   // names of systems; empty = all
  bool Wants(std::string_view name) const;
};

using Systems = std::vector<std::unique_ptr<System>>;

// Each starts its systems (several may share one server) and appends the wanted ones.
absl::Status StartApta(const Setup& setup, Systems* systems);
absl::Status StartRedis(const Setup& setup, Systems* systems);
absl::Status StartMemcached(const Setup& setup, Systems* systems);
absl::Status StartLmdb(const Setup& setup, Systems* systems);
absl::Status StartRocksdb(const Setup& setup, Systems* systems);
absl::Status StartBoost(const Setup& setup, Systems* systems);
absl::Status StartFile(const Setup& setup, Systems* systems);
// Durable ones only.
absl::Status StartSqlite(const Setup& setup, Systems* systems);
absl::Status StartBare(const Setup& setup, Systems* systems);

// Names, in the order of the tables.
inline constexpr std::string_view kSystemNames[] = {
    "apta",    "apta-uncached", "apta-trusted",    "boost",     "lmdb",
    "rocksdb", "redis",         "redis-pipelined", "memcached", "memcached-pipelined",
    "file"};
inline constexpr std::string_view kDurableSystemNames[] = {
    "apta",       "lmdb",           "rocksdb",        "redis",
    "sqlite-wal", "sqlite-journal", "bare-fdatasync", "bare-direct"};

}  // namespace apta::peers
