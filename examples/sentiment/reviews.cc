#include "reviews.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

namespace sentiment {

using nlohmann::json;

std::string ToLines(const std::vector<ScoredReview>& reviews) {
  std::string lines;
  for (const ScoredReview& scored : reviews) {
    const json line = {{"id", scored.review.id},
                       {"customer", scored.review.customer},
                       {"product", scored.review.product},
                       {"text", scored.review.text},
                       {"score", scored.score},
                       {"label", scored.label}};
    lines += line.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  }
  return lines;
}

absl::StatusOr<std::vector<ScoredReview>> FromLines(std::string_view lines) {
  std::vector<ScoredReview> reviews;
  while (!lines.empty()) {
    const std::size_t end = std::min(lines.find('\n'), lines.size());
    const json line = json::parse(lines.substr(0, end), nullptr, /*allow_exceptions=*/false);
    lines.remove_prefix(std::min(end + 1, lines.size()));
    const auto is_text = [&](const char* name) {
      return line.contains(name) && line[name].is_string();
    };
    if (!is_text("id") || !is_text("customer") || !is_text("product") || !is_text("text") ||
        !is_text("label") || !line.contains("score") || !line["score"].is_number()) {
      return absl::DataLossError(fmt::format("line {} is no review", reviews.size() + 1));
    }
    reviews.push_back({.review = {line["id"], line["customer"], line["product"], line["text"]},
                       .score = line["score"],
                       .label = line["label"]});
  }
  return reviews;
}

void ScoreAll(const Lexicon& lexicon, std::vector<ScoredReview>& reviews) {
  for (ScoredReview& scored : reviews) {
    scored.score = Score(scored.review.text, lexicon);
    scored.label = Label(scored.score);
  }
}

namespace {

std::string DescribeLabels(const std::vector<ScoredReview>& reviews) {
  std::string text;
  for (const char* label : {"positive", "neutral", "negative"}) {
    const auto count = std::count_if(reviews.begin(), reviews.end(),
                                     [&](const ScoredReview& r) { return r.label == label; });
    const auto percent =
        static_cast<std::size_t>(100 * count) / std::max<std::size_t>(1, reviews.size());
    text += fmt::format("  {:8} {:6}  {:3} %  {}\n", label, count, percent,
                        std::string((percent + 1) / 2, '#'));
  }
  return text;
}

std::string DescribeProducts(const std::vector<ScoredReview>& reviews) {
  std::map<std::string, std::pair<double, int>> products;  // sum of scores, reviews
  for (const ScoredReview& scored : reviews) {
    auto& [sum, count] = products[scored.review.product];
    sum += scored.score;
    ++count;
  }
  std::vector<std::pair<double, std::string>> ranking;
  for (const auto& [product, total] : products) {
    ranking.emplace_back(total.first / total.second, product);
  }
  std::sort(ranking.rbegin(), ranking.rend());
  ranking.resize(std::min<std::size_t>(ranking.size(), 5));
  std::string text;
  for (const auto& [average, product] : ranking) {
    text +=
        fmt::format("  {:12} {:+.3f}  ({} reviews)\n", product, average, products[product].second);
  }
  return text;
}

std::string DescribeWorst(const std::vector<ScoredReview>& reviews) {
  std::vector<std::pair<double, std::size_t>> worst;  // score, position
  for (const ScoredReview& scored : reviews) worst.emplace_back(scored.score, worst.size());
  std::sort(worst.begin(), worst.end());
  worst.resize(std::min<std::size_t>(worst.size(), 3));
  std::string text;
  for (const auto& [score, position] : worst) {
    std::string excerpt = reviews[position].review.text.substr(0, 60);
    std::replace(excerpt.begin(), excerpt.end(), '\n', ' ');
    text += fmt::format("  {:+.3f}  {}\n", score, excerpt);
  }
  return text;
}

}  // namespace

std::string Summarize(const std::vector<ScoredReview>& reviews) {
  return fmt::format("{} reviews\n{}products by average score\n{}to be answered first\n{}",
                     reviews.size(), DescribeLabels(reviews), DescribeProducts(reviews),
                     DescribeWorst(reviews));
}

}  // namespace sentiment
