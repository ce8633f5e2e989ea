#include "csv.h"

#include <algorithm>
#include <map>

#include "absl/status/status.h"
#include "fmt/format.h"

namespace sentiment {

absl::StatusOr<std::vector<std::vector<std::string>>> ParseCsv(std::string_view text) {
  std::vector<std::vector<std::string>> records;
  std::vector<std::string> record;
  std::string field;
  bool in_quotes = false;
  bool any = false;  // something of this record was seen
  const auto end_field = [&] {
    record.push_back(std::move(field));
    field.clear();
  };
  const auto end_record = [&] {
    if (any) {
      end_field();
      records.push_back(std::move(record));
    }
    record.clear();
    any = false;
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_quotes) {
      if (c != '"') {
        field += c;
      } else if (i + 1 < text.size() && text[i + 1] == '"') {
        field += '"';
        ++i;
      } else {
        in_quotes = false;
      }
      continue;
    }
    if (c == '"' && field.empty()) {
      in_quotes = any = true;
    } else if (c == ',') {
      any = true;
      end_field();
    } else if (c == '\n') {
      end_record();
    } else if (c == '\r' && (i + 1 == text.size() || text[i + 1] == '\n')) {
      continue;
    } else {
      any = true;
      field += c;
    }
  }
  if (in_quotes) {
    return absl::InvalidArgumentError(
        fmt::format("the CSV ends inside a quoted field (record {})", records.size() + 1));
  }
  end_record();
  return records;
}

absl::StatusOr<std::vector<Review>> ParseReviews(std::string_view csv) {
  const auto records = ParseCsv(csv);
  if (!records.ok()) return records.status();
  if (records->empty()) return absl::InvalidArgumentError("the CSV is empty");
  std::map<std::string, std::size_t> column;
  for (std::size_t i = 0; i < records->front().size(); ++i) column[records->front()[i]] = i;
  std::size_t last = 0;
  for (const char* name : {"reviewID", "customerID", "productID", "feedback"}) {
    if (!column.contains(name)) {
      return absl::InvalidArgumentError(fmt::format("the CSV has no column {}", name));
    }
    last = std::max(last, column[name]);
  }
  std::vector<Review> reviews;
  for (std::size_t i = 1; i < records->size(); ++i) {
    const std::vector<std::string>& record = (*records)[i];
    if (record.size() <= last) {
      return absl::InvalidArgumentError(fmt::format("record {} of the CSV has {} fields, not {}",
                                                    i + 1, record.size(), records->front().size()));
    }
    reviews.push_back({record[column["reviewID"]], record[column["customerID"]],
                       record[column["productID"]], record[column["feedback"]]});
  }
  if (reviews.empty()) return absl::InvalidArgumentError("the CSV has a header and no review");
  return reviews;
}

}  // namespace sentiment
