#include <fmt/format.h>
#include <sqlite3.h>

#include <memory>

#include "reviews.h"

namespace sentiment {

namespace {

// The connection; each step is skipped after one that failed.
class Database {
 public:
  explicit Database(const std::string& path) {
    sqlite3* database = nullptr;
    const int error = sqlite3_open(path.c_str(), &database);
    database_.reset(database);
    Keep(error);
    if (error == SQLITE_OK) sqlite3_busy_timeout(database, 5'000);
  }

  void Execute(const char* sql) {
    if (!status_.ok()) return;
    Keep(sqlite3_exec(database_.get(), sql, nullptr, nullptr, nullptr));
  }

  void Insert(const std::vector<ScoredReview>& reviews) {
    if (!status_.ok()) return;
    sqlite3_stmt* prepared = nullptr;
    Keep(sqlite3_prepare_v2(database_.get(), "INSERT INTO reviews VALUES (?, ?, ?, ?, ?, ?)", -1,
                            &prepared, nullptr));
    const std::unique_ptr<sqlite3_stmt, int (*)(sqlite3_stmt*)> statement(prepared,
                                                                          sqlite3_finalize);
    for (std::size_t i = 0; i < reviews.size() && status_.ok(); ++i) {
      const ScoredReview& scored = reviews[i];
      const auto bind = [&](int column, const std::string& text) {
        sqlite3_bind_text(prepared, column, text.data(), static_cast<int>(text.size()),
                          SQLITE_STATIC);
      };
      sqlite3_bind_int64(prepared, 1, static_cast<sqlite3_int64>(i));
      bind(2, scored.review.id);
      bind(3, scored.review.customer);
      bind(4, scored.review.product);
      sqlite3_bind_double(prepared, 5, scored.score);
      bind(6, scored.label);
      const int error = sqlite3_step(prepared);
      Keep(error == SQLITE_DONE ? SQLITE_OK : error);
      sqlite3_reset(prepared);
    }
  }

  const absl::Status& status() const { return status_; }

 private:
  void Keep(int error) {
    if (error != SQLITE_OK && status_.ok()) {
      status_ = absl::UnknownError(fmt::format("SQLite: {}", sqlite3_errmsg(database_.get())));
    }
  }

  std::unique_ptr<sqlite3, int (*)(sqlite3*)> database_{nullptr, sqlite3_close};
  absl::Status status_;
};

}  // namespace

absl::Status WriteDatabase(const std::string& path, const std::vector<ScoredReview>& reviews) {
  Database database(path);
  database.Execute("BEGIN IMMEDIATE");
  database.Execute(
      "CREATE TABLE IF NOT EXISTS reviews (position INTEGER PRIMARY KEY, reviewID TEXT, "
      "customerID TEXT, productID TEXT, score REAL, label TEXT)");
  database.Execute("DELETE FROM reviews");
  database.Insert(reviews);
  database.Execute("COMMIT");
  return database.status();  // closing rolls back what was not committed
}

}  // namespace sentiment
