#include <nlohmann/json.hpp>

#include "application.h"
#include "common/task.h"
#include "csv.h"
#include "reviews.h"
#include "scoring.h"

namespace sentiment {

namespace {

using apta::AsText;
using examples::Task;
using nlohmann::json;

constexpr const char* kFolder = APTA_EXAMPLES_DIR "/sentiment";

absl::StatusOr<json> ReadCsv(Task& task, const json& input) {
  const std::string csv_key = input.at("csv");
  const absl::StatusOr<apta::Object> csv = task.Get(csv_key);
  if (!csv.ok()) return csv.status();
  const absl::StatusOr<std::vector<Review>> parsed = ParseReviews(AsText(csv->bytes()));
  if (!parsed.ok()) return parsed.status();
  std::vector<ScoredReview> reviews;
  for (const Review& review : *parsed) reviews.push_back({.review = review});
  const std::string key = csv_key.substr(0, csv_key.rfind('/')) + "/reviews";
  task.Put(key, ToLines(reviews));
  return json{{"reviews", key}};
}

absl::StatusOr<std::vector<ScoredReview>> GetReviews(Task& task, const std::string& key) {
  const absl::StatusOr<apta::Object> object = task.Get(key);
  if (!object.ok()) return object.status();
  return FromLines(AsText(object->bytes()));
}

// A part of the function, as its code is: read once, no object of the workflow.
absl::StatusOr<Lexicon> LoadLexicon() {
  const absl::StatusOr<std::string> text =
      examples::ReadFile(std::string(kFolder) + "/lexicon.txt");
  if (!text.ok()) return text.status();
  return ParseLexicon(*text);
}

// The scores go where the reviews are.
absl::StatusOr<json> AnalyzeSentiment(Task& task, const json& input) {
  static const auto& lexicon = *new absl::StatusOr<Lexicon>(LoadLexicon());
  if (!lexicon.ok()) return lexicon.status();
  const std::string key = input.at("reviews");
  absl::StatusOr<std::vector<ScoredReview>> reviews = GetReviews(task, key);
  if (!reviews.ok()) return reviews.status();
  ScoreAll(*lexicon, *reviews);
  task.Put(key, ToLines(*reviews));
  return json{{"reviews", key}, {"count", reviews->size()}};
}

absl::StatusOr<json> PublishSns(Task& task, const json& input) {
  const absl::StatusOr<std::vector<ScoredReview>> reviews = GetReviews(task, input.at("reviews"));
  if (!reviews.ok()) return reviews.status();
  return json{{"message", Summarize(*reviews)}};
}

absl::StatusOr<json> WriteDb(Task& task, const json& input) {
  const absl::StatusOr<std::vector<ScoredReview>> reviews = GetReviews(task, input.at("reviews"));
  if (!reviews.ok()) return reviews.status();
  if (absl::Status s = WriteDatabase(input.at("database"), *reviews); !s.ok()) return s;
  return json{{"database", input.at("database")}, {"rows", reviews->size()}};
}

absl::StatusOr<examples::Input> MakeInput(const examples::InputOptions& options) {
  absl::StatusOr<std::string> csv =
      examples::ReadFile(options.data.empty() ? std::string(kFolder) + "/reviews.csv"
                                              : options.data + "/sentiment/repeat_reviews.csv");
  if (!csv.ok()) return csv.status();
  const std::string key = options.run + "/csv";
  return examples::Input{{{key, *std::move(csv)}},
                         {{"csv", key}, {"database", options.scratch + "/reviews.db"}}};
}

absl::StatusOr<examples::Outcome> Collect(apta::Client&, const json& result) {
  examples::Outcome outcome;
  outcome.summary = result.at("message");
  outcome.files["summary.txt"] = outcome.summary;
  absl::StatusOr<std::string> database = examples::ReadFile(result.at("database"));
  if (!database.ok()) return database.status();
  outcome.files["reviews.db"] = *std::move(database);
  return outcome;
}

}  // namespace

const examples::Application& Application() {
  static const auto& application = *new examples::Application{
      .name = "sentiment",
      .folder = kFolder,
      .pattern = "broadcast, pipeline",
      .steps = {{"readcsv", ReadCsv, {"c1"}},
                {"sentimentAnalysis", AnalyzeSentiment, {"c2"}},
                {"publishSNS", PublishSns, {"c2"}},
                {"writeDB", WriteDb, {"c2"}}},
      .paper = {.hits = 2, .misses = 2, .puts = 1, .invalidating_puts = 1},
      .make_input = MakeInput,
      .collect = Collect};
  return application;
}

}  // namespace sentiment
