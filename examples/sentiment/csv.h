// Reviews as CSV (RFC 4180): reviewType,reviewID,customerID,productID,feedback in any order.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace sentiment {

struct Review {
  std::string id;
  std::string customer;
  std::string product;
  std::string text;
};

// Records of fields. Quoted fields may contain commas, line breaks and doubled quotes; lines end
// with LF or CRLF. INVALID_ARGUMENT: a quote that is never closed.
absl::StatusOr<std::vector<std::vector<std::string>>> ParseCsv(std::string_view text);

// INVALID_ARGUMENT: a column is missing, a record has too few fields, or there is no review.
absl::StatusOr<std::vector<Review>> ParseReviews(std::string_view csv);

}  // namespace sentiment
