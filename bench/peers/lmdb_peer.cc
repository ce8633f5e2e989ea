// LMDB on tmpfs: no syncs, a writable map, values read in place, read transactions used again. Or
// durable: as it is unless one asks for less.
#include <fmt/format.h>
#include <lmdb.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>

#include "bench/peers/peer.h"

namespace apta::peers {
namespace {

absl::Status Fault(std::string_view what, int code) {
  return absl::UnavailableError(fmt::format("lmdb: {}: {}", what, mdb_strerror(code)));
}

MDB_val KeyOf(const Op& op) { return {op.key.size(), const_cast<char*>(op.key.data())}; }

class LmdbConnection : public Connection {
 public:
  LmdbConnection(MDB_env* env, MDB_dbi dbi, MDB_txn* reading)
      : env_(env), dbi_(dbi), reading_(reading) {}
  ~LmdbConnection() override { mdb_txn_abort(reading_); }

  absl::Status Execute(absl::Span<const Op> ops, Reader* reader) override {
    for (const Op& op : ops) {
      const absl::Status status = op.is_put ? Put(op) : Get(op, reader);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  // Renewed for each get, so that it sees what was committed last; reset after it, so that pages
  // of old versions can be used again.
  absl::Status Get(const Op& op, Reader* reader) {
    if (const int code = mdb_txn_renew(reading_); code != 0) return Fault("renew", code);
    MDB_val key = KeyOf(op), value;
    const int code = mdb_get(reading_, dbi_, &key, &value);
    if (code == 0) reader->Take(op, {static_cast<const std::byte*>(value.mv_data), value.mv_size});
    mdb_txn_reset(reading_);
    return code == 0 ? absl::OkStatus() : Fault("get", code);
  }

  // MDB_RESERVE: the value is copied once, into the page that will be read.
  absl::Status Put(const Op& op) {
    MDB_txn* writing = nullptr;
    if (const int code = mdb_txn_begin(env_, nullptr, 0, &writing); code != 0) {
      return Fault("begin", code);
    }
    MDB_val key = KeyOf(op), value = {op.value.size(), nullptr};
    if (const int code = mdb_put(writing, dbi_, &key, &value, MDB_RESERVE); code != 0) {
      mdb_txn_abort(writing);
      return Fault("put", code);
    }
    std::memcpy(value.mv_data, op.value.data(), op.value.size());
    const int code = mdb_txn_commit(writing);
    return code == 0 ? absl::OkStatus() : Fault("commit", code);
  }

  MDB_env* env_;
  MDB_dbi dbi_;
  MDB_txn* reading_;
};

class LmdbSystem : public System {
 public:
  LmdbSystem(std::string folder, std::uint64_t capacity_bytes, bool is_durable)
      : System("lmdb", false),
        folder_(std::move(folder)),
        capacity_bytes_(capacity_bytes),
        is_durable_(is_durable) {}
  ~LmdbSystem() override { Close(); }

  absl::Status Empty(absl::Span<const std::string_view> /*keys*/) override {
    Close();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
    std::filesystem::create_directories(folder_, ignored);
    return Open();
  }

  absl::StatusOr<std::unique_ptr<Connection>> Connect() override {
    MDB_txn* reading = nullptr;
    if (const int code = mdb_txn_begin(env_, nullptr, MDB_RDONLY, &reading); code != 0) {
      return Fault("begin", code);
    }
    mdb_txn_reset(reading);
    return std::make_unique<LmdbConnection>(env_, dbi_, reading);
  }

 private:
  absl::Status Open() {
    int code = mdb_env_create(&env_);
    if (code == 0) code = mdb_env_set_mapsize(env_, capacity_bytes_);
    // NOTLS: a read transaction is its connection's, whichever thread uses that. NOMEMINIT: pages
    // that are about to be written need not be cleared.
    constexpr unsigned kDurable = MDB_NOTLS | MDB_NOMEMINIT | MDB_NORDAHEAD;
    constexpr unsigned kInMemory = kDurable | MDB_NOSYNC | MDB_WRITEMAP;
    const unsigned flags = is_durable_ ? kDurable : kInMemory;
    if (code == 0) code = mdb_env_set_maxreaders(env_, 512);
    if (code == 0) code = mdb_env_open(env_, folder_.c_str(), flags, 0600);
    MDB_txn* txn = nullptr;
    if (code == 0) code = mdb_txn_begin(env_, nullptr, 0, &txn);
    if (code == 0) code = mdb_dbi_open(txn, nullptr, 0, &dbi_);
    if (code == 0) code = mdb_txn_commit(txn);
    return code == 0 ? absl::OkStatus() : Fault("open", code);
  }

  void Close() {
    if (env_ != nullptr) mdb_env_close(env_);
    env_ = nullptr;
  }

  std::string folder_;
  std::uint64_t capacity_bytes_;
  bool is_durable_;
  MDB_env* env_ = nullptr;
  MDB_dbi dbi_ = 0;
};

}  // namespace

absl::Status StartLmdb(const Setup& setup, Systems* systems) {
  if (!setup.Wants("lmdb")) return absl::OkStatus();
  // Room for copies on write and the list of free pages; the file stays sparse.
  systems->push_back(std::make_unique<LmdbSystem>(setup.folder + "/lmdb", 4 * setup.capacity_bytes,
                                                  setup.is_durable));
  return absl::OkStatus();
}

}  // namespace apta::peers
