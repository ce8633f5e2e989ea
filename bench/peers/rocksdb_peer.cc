// RocksDB: no compression, all values in the block cache, pinned gets. On tmpfs without a
// write-ahead log; or durable, with one that is synced by each group of puts, in files that are
// used again.
#include <fmt/format.h>
#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>

#include "bench/peers/peer.h"

namespace apta::peers {
namespace {

absl::Status StatusOf(const rocksdb::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::UnavailableError(fmt::format("rocksdb: {}", status.ToString()));
}

rocksdb::Slice SliceOf(std::string_view text) { return {text.data(), text.size()}; }

rocksdb::WriteOptions WritesOf(bool is_durable) {
  rocksdb::WriteOptions options;
  options.disableWAL = !is_durable;
  options.sync = is_durable;
  return options;
}

class RocksdbConnection : public Connection {
 public:
  RocksdbConnection(rocksdb::DB* db, bool is_durable) : db_(db), writing_(WritesOf(is_durable)) {}

  absl::Status Execute(absl::Span<const Op> ops, Reader* reader) override {
    for (const Op& op : ops) {
      if (op.is_put) {
        const rocksdb::Slice value(reinterpret_cast<const char*>(op.value.data()), op.value.size());
        const rocksdb::Status status = db_->Put(writing_, SliceOf(op.key), value);
        if (!status.ok()) return StatusOf(status);
        continue;
      }
      const rocksdb::Status status =
          db_->Get(reading_, db_->DefaultColumnFamily(), SliceOf(op.key), &value_);
      if (!status.ok()) return StatusOf(status);
      reader->Take(op, {reinterpret_cast<const std::byte*>(value_.data()), value_.size()});
      value_.Reset();
    }
    return absl::OkStatus();
  }

 private:
  rocksdb::DB* db_;
  const rocksdb::WriteOptions writing_;
  const rocksdb::ReadOptions reading_;
  rocksdb::PinnableSlice value_;
};

class RocksdbSystem : public System {
 public:
  RocksdbSystem(std::string folder, std::uint64_t capacity_bytes, std::uint64_t max_value_bytes,
                bool is_durable)
      : System("rocksdb", false), folder_(std::move(folder)), is_durable_(is_durable) {
    // Blocks of a file that was written before are overwritten without a change of its own records.
    if (is_durable) options_.recycle_log_file_num = 4;
    options_.create_if_missing = true;
    options_.compression = rocksdb::kNoCompression;
    options_.write_buffer_size = std::max<std::size_t>(128 << 20, 4 * max_value_bytes);
    options_.max_write_buffer_number = 4;
    options_.avoid_flush_during_shutdown = true;
    options_.IncreaseParallelism(2);
    rocksdb::BlockBasedTableOptions table;
    // As many shards as leave each room for 16 of the largest values: one that does not fit its
    // shard is never cached.
    const std::uint64_t shards =
        std::max<std::uint64_t>(capacity_bytes / (16 * max_value_bytes), 1);
    table.block_cache =
        rocksdb::NewLRUCache(capacity_bytes, static_cast<int>(std::bit_width(shards)) - 1);
    table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
    table.data_block_index_type = rocksdb::BlockBasedTableOptions::kDataBlockBinaryAndHash;
    options_.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  }

  absl::Status Empty(absl::Span<const std::string_view> /*keys*/) override {
    db_.reset();
    rocksdb::DestroyDB(folder_, options_).PermitUncheckedError();
    rocksdb::DB* db = nullptr;
    const absl::Status status = StatusOf(rocksdb::DB::Open(options_, folder_, &db));
    db_.reset(db);
    return status;
  }

  absl::StatusOr<std::unique_ptr<Connection>> Connect() override {
    return std::make_unique<RocksdbConnection>(db_.get(), is_durable_);
  }

  // Gets pin what is in the block cache; what is still in a memtable they copy.
  absl::Status Loaded() override {
    return StatusOf(db_->CompactRange(rocksdb::CompactRangeOptions(), nullptr, nullptr));
  }

  void Settle() override {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (IsBusy() && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));  // it tells nobody when it is done
    }
  }

 private:
  bool IsBusy() const {
    for (const char* property : {"rocksdb.num-running-flushes", "rocksdb.num-running-compactions",
                                 "rocksdb.mem-table-flush-pending", "rocksdb.compaction-pending"}) {
      std::uint64_t count = 0;
      if (db_->GetIntProperty(property, &count) && count != 0) return true;
    }
    return false;
  }

  std::string folder_;
  bool is_durable_;
  rocksdb::Options options_;
  std::unique_ptr<rocksdb::DB> db_;
};

}  // namespace

absl::Status StartRocksdb(const Setup& setup, Systems* systems) {
  if (!setup.Wants("rocksdb")) return absl::OkStatus();
  systems->push_back(std::make_unique<RocksdbSystem>(
      setup.folder + "/rocksdb", setup.capacity_bytes, setup.max_value_bytes, setup.is_durable));
  return absl::OkStatus();
}

}  // namespace apta::peers
