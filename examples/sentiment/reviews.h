// Reviews on their way through the workflow, what is told of them, and where they end.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "csv.h"
#include "scoring.h"

namespace sentiment {

struct ScoredReview {
  Review review;
  double score = 0;
  std::string label;  // "" = not scored yet
};

// One JSON line each. Bytes that are not UTF-8 are replaced.
std::string ToLines(const std::vector<ScoredReview>& reviews);
// DATA_LOSS: not what ToLines wrote.
absl::StatusOr<std::vector<ScoredReview>> FromLines(std::string_view lines);

void ScoreAll(const Lexicon& lexicon, std::vector<ScoredReview>& reviews);

// The notification: how many of each label, the best products, what should be answered first.
std::string Summarize(const std::vector<ScoredReview>& reviews);

// Makes table `reviews` (position, reviewID, customerID, productID, score, label) of the SQLite
// file hold these and nothing else, in one transaction: running it again changes nothing.
absl::Status WriteDatabase(const std::string& path, const std::vector<ScoredReview>& reviews);

}  // namespace sentiment
