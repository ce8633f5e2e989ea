// SQLite with synchronous=FULL: a write-ahead log, or a rollback journal that is overwritten. One
// connection that nobody else uses (so its index of the log is in memory, and no file is locked for
// each put), shared by the clients: what waits for a mutex waits less than what is told
// SQLITE_BUSY.
#include <fmt/format.h>
#include <sqlite3.h>

#include <filesystem>
#include <memory>
#include <mutex>
#include <system_error>
#include <utility>

#include "bench/peers/peer.h"

namespace apta::peers {
namespace {

struct CloseDatabase {
  void operator()(sqlite3* database) const { sqlite3_close_v2(database); }
};
struct Finalize {
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Statement = std::unique_ptr<sqlite3_stmt, Finalize>;

class Database {
 public:
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path,
                                                        std::string_view journal_mode) {
    auto database = std::unique_ptr<Database>(new Database);
    sqlite3* opened = nullptr;
    const int code = sqlite3_open(path.c_str(), &opened);
    database->database_.reset(opened);
    if (code != SQLITE_OK) return database->Fault("open");
    const std::string set_up = fmt::format(
        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode={}; PRAGMA synchronous=FULL;"
        "CREATE TABLE objects(key TEXT PRIMARY KEY, value BLOB)",
        journal_mode);
    if (sqlite3_exec(opened, set_up.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) {
      return database->Fault("set-up");
    }
    database->put_ = database->Prepare(
        "INSERT INTO objects VALUES(?1, ?2) ON CONFLICT(key) DO UPDATE SET value=excluded.value");
    database->get_ = database->Prepare("SELECT value FROM objects WHERE key=?1");
    if (database->put_ == nullptr || database->get_ == nullptr) return database->Fault("prepare");
    return database;
  }

  absl::Status Put(const Op& op) {
    const std::lock_guard<std::mutex> lock(mutex_);
    sqlite3_stmt* const put = put_.get();
    BindKey(put, op);
    sqlite3_bind_blob64(put, 2, op.value.data(), op.value.size(), SQLITE_STATIC);
    const int code = sqlite3_step(put);
    sqlite3_reset(put);
    return code == SQLITE_DONE ? absl::OkStatus() : Fault("put");
  }

  absl::Status Get(const Op& op, Reader* reader) {
    const std::lock_guard<std::mutex> lock(mutex_);
    sqlite3_stmt* const get = get_.get();
    BindKey(get, op);
    const bool is_there = sqlite3_step(get) == SQLITE_ROW;
    if (is_there) {
      const auto* value = static_cast<const std::byte*>(sqlite3_column_blob(get, 0));
      reader->Take(op, {value, static_cast<std::size_t>(sqlite3_column_bytes(get, 0))});
    }
    sqlite3_reset(get);
    return is_there ? absl::OkStatus() : Fault("get");
  }

 private:
  Database() = default;
  Statement Prepare(std::string_view text) {
    sqlite3_stmt* statement = nullptr;
    sqlite3_prepare_v3(database_.get(), text.data(), static_cast<int>(text.size()),
                       SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
    return Statement(statement);
  }
  static void BindKey(sqlite3_stmt* statement, const Op& op) {
    sqlite3_bind_text(statement, 1, op.key.data(), static_cast<int>(op.key.size()), SQLITE_STATIC);
  }
  absl::Status Fault(std::string_view what) const {
    return absl::UnavailableError(
        fmt::format("sqlite: {}: {}", what, sqlite3_errmsg(database_.get())));
  }

  std::mutex mutex_;
  std::unique_ptr<sqlite3, CloseDatabase> database_;  // outlives its statements
  Statement put_, get_;
};

class SqliteConnection : public Connection {
 public:
  explicit SqliteConnection(Database* database) : database_(database) {}

  absl::Status Execute(absl::Span<const Op> ops, Reader* reader) override {
    for (const Op& op : ops) {
      const absl::Status status = op.is_put ? database_->Put(op) : database_->Get(op, reader);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  Database* const database_;
};

class SqliteSystem : public System {
 public:
  SqliteSystem(std::string name, std::string journal_mode, std::string folder)
      : System(std::move(name), false),
        journal_mode_(std::move(journal_mode)),
        folder_(std::move(folder)) {}

  absl::Status Empty(absl::Span<const std::string_view> /*keys*/) override {
    database_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
    std::filesystem::create_directories(folder_, ignored);
    auto database = Database::Open(folder_ + "/objects.db", journal_mode_);
    if (!database.ok()) return database.status();
    database_ = *std::move(database);
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Connection>> Connect() override {
    return std::make_unique<SqliteConnection>(database_.get());
  }

 private:
  const std::string journal_mode_;
  const std::string folder_;
  std::unique_ptr<Database> database_;
};

}  // namespace

absl::Status StartSqlite(const Setup& setup, Systems* systems) {
  for (const auto& [name, journal_mode] :
       {std::pair("sqlite-wal", "WAL"), std::pair("sqlite-journal", "PERSIST")}) {
    if (!setup.Wants(name)) continue;
    systems->push_back(std::make_unique<SqliteSystem>(name, journal_mode,
                                                      fmt::format("{}/{}", setup.folder, name)));
  }
  return absl::OkStatus();
}

}  // namespace apta::peers
