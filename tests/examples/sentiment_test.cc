// The sentiment workflow against scores computed straight from the input, without Āpta and without
// the example's own code: an independent reading of the rules in examples/sentiment/scoring.h.

#include <gmock/gmock.h>
#include <sqlite3.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <sstream>

#include "fmt/format.h"
#include "sentiment/csv.h"
#include "sentiment/reviews.h"
#include "sentiment/scoring.h"
#include "tests/examples/examples_run.h"

namespace {

using apta::test::ExampleTest;
using apta::test::ExpectCounts;
using apta::test::Slurp;
using ::testing::_;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SentimentTest : public ExampleTest {
 protected:
  // What the runner takes as a folder of inputs.
  std::string GiveReviews(const std::string& csv) const {
    std::filesystem::create_directories(folder() / "sentiment");
    std::ofstream(folder() / "sentiment/repeat_reviews.csv", std::ios::binary) << csv;
    return folder();
  }
};

// --- the independent path

using Table = std::vector<std::vector<std::string>>;

Table ReadTable(const std::string& text) {
  Table table(1, std::vector<std::string>(1));
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      if (quoted && i + 1 < text.size() && text[i + 1] == '"') {
        table.back().back() += text[++i];
      } else {
        quoted = !quoted;
      }
    } else if (!quoted && c == ',') {
      table.back().emplace_back();
    } else if (!quoted && c == '\n') {
      table.emplace_back(1);
    } else if (quoted || c != '\r') {
      table.back().back() += c;
    }
  }
  if (table.back().size() == 1 && table.back()[0].empty()) table.pop_back();
  return table;
}

std::map<std::string, double> ReadValences(const std::string& text) {
  std::map<std::string, double> valences;
  std::istringstream lines(text);
  std::string word;
  double valence;
  while (lines >> word >> valence) valences[word] = valence;
  return valences;
}

double ScoreByHand(const std::string& text, const std::map<std::string, double>& valences) {
  static const std::string boosters =
      " absolutely amazingly completely deeply enormously entirely especially extremely fully "
      "greatly highly hugely incredibly most particularly purely quite really remarkably so "
      "thoroughly totally tremendously unbelievably utterly very ";
  static const std::string dampers =
      " almost barely hardly less little marginally partly scarcely slightly somewhat ";
  static const std::string negations =
      " cannot neither never no nobody none nor not nothing nowhere without ";
  const auto in = [](const std::string& list, const std::string& word) {
    return list.find(" " + word + " ") != std::string::npos;
  };
  std::vector<std::string> raw, low;
  std::istringstream stream(text);
  for (std::string word; stream >> word;) {
    while (!word.empty() && ispunct(static_cast<unsigned char>(word.back()))) word.pop_back();
    while (!word.empty() && ispunct(static_cast<unsigned char>(word[0]))) word.erase(0, 1);
    if (word.empty()) continue;
    raw.push_back(word);
    for (char& c : word) c = static_cast<char>(tolower(static_cast<unsigned char>(c)));
    low.push_back(word);
  }
  const auto shouts = [&](std::size_t i) {
    if (raw[i].size() < 2) return false;
    for (const char c : raw[i]) {
      if (islower(static_cast<unsigned char>(c))) return false;
    }
    return true;
  };
  std::size_t shouted = 0;
  for (std::size_t i = 0; i < raw.size(); ++i) shouted += shouts(i);
  const bool mixed = shouted > 0 && shouted < raw.size();
  double sum = 0;
  for (std::size_t i = 0; i < low.size(); ++i) {
    if (!valences.contains(low[i])) continue;
    double v = valences.at(low[i]);
    const double away = v < 0 ? -1 : 1;
    if (mixed && shouts(i)) v += away * 0.733;
    bool negated = false;
    const double weight[] = {0.293, 0.293 * 0.95, 0.293 * 0.9};
    for (std::size_t d = 0; d < 3 && i > d; ++d) {
      const std::string& before = low[i - d - 1];
      if (in(boosters, before)) v += away * weight[d];
      if (in(dampers, before)) v -= away * weight[d];
      negated |= in(negations, before) ||
                 (before.size() >= 3 && before.substr(before.size() - 3) == "n't");
    }
    sum += negated ? v * -0.74 : v;
  }
  double marks = 0;
  for (const char c : text) marks += c == '!';
  if (sum > 0) sum += 0.292 * std::min(marks, 4.0);
  if (sum < 0) sum -= 0.292 * std::min(marks, 4.0);
  return sum / std::sqrt(sum * sum + 15);
}

// All rows, by position.
Table ReadDatabase(const std::filesystem::path& path) {
  Table rows;
  sqlite3* database = nullptr;
  EXPECT_EQ(sqlite3_open_v2(path.c_str(), &database, SQLITE_OPEN_READONLY, nullptr), SQLITE_OK);
  sqlite3_stmt* statement = nullptr;
  EXPECT_EQ(sqlite3_prepare_v2(database,
                               "SELECT reviewID, customerID, productID, score, label FROM reviews "
                               "ORDER BY position",
                               -1, &statement, nullptr),
            SQLITE_OK);
  while (sqlite3_step(statement) == SQLITE_ROW) {
    std::vector<std::string>& row = rows.emplace_back();
    for (int i = 0; i < sqlite3_column_count(statement); ++i) {
      row.emplace_back(reinterpret_cast<const char*>(sqlite3_column_text(statement, i)));
    }
  }
  sqlite3_finalize(statement);
  sqlite3_close(database);
  return rows;
}

void ExpectResultsMatch(const std::string& csv, const std::filesystem::path& folder) {
  const Table reviews = ReadTable(csv);
  const Table results = ReadDatabase(folder / "reviews.db");
  const std::string summary = Slurp(folder / "summary.txt");
  const auto valences = ReadValences(Slurp(EXAMPLES_DIR "/sentiment/lexicon.txt"));
  ASSERT_EQ(results.size(), reviews.size() - 1);
  std::map<std::string, int> labels;
  for (std::size_t i = 0; i < results.size(); ++i) {
    const std::vector<std::string>& review = reviews[i + 1];
    ASSERT_EQ(review.size(), 5u) << i;
    EXPECT_THAT(results[i], ElementsAre(review[1], review[2], review[3], _, _));
    const double score = ScoreByHand(review[4], valences);
    EXPECT_NEAR(std::stod(results[i][3]), score, 1e-9) << review[4];
    const std::string label = score >= 0.05 ? "positive" : score <= -0.05 ? "negative" : "neutral";
    EXPECT_EQ(results[i][4], label) << review[4];
    ++labels[label];
  }
  EXPECT_THAT(summary, HasSubstr(fmt::format("{} reviews\n", results.size())));
  for (const char* label : {"positive", "neutral", "negative"}) {
    EXPECT_THAT(summary, HasSubstr(fmt::format("  {:8} {:6} ", label, labels[label])));
  }
}

// --- the workflow

TEST_F(SentimentTest, ScoresOfTheShippedReviewsEqualThoseComputedWithoutApta) {
  const auto measured = Run({"sentiment", "--pinned"});
  ExpectCounts(measured, {2, 2}, {1, 1}, "c1 c2 c2 c2");
  ExpectResultsMatch(Slurp(EXAMPLES_DIR "/sentiment/reviews.csv"), folder());
}

TEST_F(SentimentTest, ScoresOfTenThousandReviewsEqualThoseComputedWithoutApta) {
  const Table shipped = ReadTable(Slurp(EXAMPLES_DIR "/sentiment/reviews.csv"));
  std::string csv = "reviewType,reviewID,customerID,productID,feedback\r\n";
  for (int i = 0; i < 10'000; ++i) {
    // Pairs of shipped reviews: texts that no shipped review has.
    const auto& a = shipped[1 + static_cast<std::size_t>(i) % (shipped.size() - 1)];
    const auto& b = shipped[1 + static_cast<std::size_t>(i) / 60 % (shipped.size() - 1)];
    std::string text = a[4] + " " + b[4];
    for (std::size_t at = 0; (at = text.find('"', at)) != text.npos; at += 2)
      text.insert(at, 1, '"');
    csv += fmt::format("0,{},{},{},\"{}\"\r\n", i, i % 97, a[3], text);
  }
  Run({"sentiment", "--data", GiveReviews(csv)});
  ExpectResultsMatch(csv, folder());
}

TEST_F(SentimentTest, BadInputIsOneClearLine) {
  const auto expect_refused = [&](const std::string& csv, const std::string& says) {
    const auto ran = Execute({"sentiment", "--data", GiveReviews(csv)});
    EXPECT_EQ(ran.exit_code, 1);
    EXPECT_THAT(ran.err, HasSubstr(says));
    EXPECT_EQ(std::count(ran.err.begin(), ran.err.end(), '\n'), 1) << ran.err;
  };
  expect_refused("", "empty");
  expect_refused("reviewType,reviewID,customerID,productID,feedback\n", "no review");
  expect_refused("reviewType,reviewID,customerID,feedback\n0,1,2,fine\n", "no column productID");
  expect_refused("reviewID,customerID,productID,feedback\n1,2\n", "record 2");
  expect_refused("reviewID,customerID,productID,feedback\n1,2,3,\"open\n", "quoted");
  const auto missing = Execute({"sentiment", "--data", "/does/not/exist"});
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_THAT(missing.err, HasSubstr("/does/not/exist"));
  EXPECT_EQ(Execute({"--no-such-flag"}).exit_code, 2);
  EXPECT_EQ(Execute({"no-such-application"}).exit_code, 1);
}

// --- its parts

TEST(SentimentCsvTest, QuotedFieldsKeepCommasQuotesAndLineBreaks) {
  const auto records = sentiment::ParseCsv("a,\"b,c\",\"d \"\"e\"\"\"\r\n\"f\ng\",,h");
  ASSERT_TRUE(records.ok());
  EXPECT_EQ(*records, (Table{{"a", "b,c", "d \"e\""}, {"f\ng", "", "h"}}));
}

TEST(SentimentReviewsTest, LinesKeepAllFieldsAndRefuseOthers) {
  const std::vector<sentiment::ScoredReview> reviews = {
      {.review = {"1", "2", "3", "two\nlines \"quoted\""}, .score = -0.5, .label = "negative"}};
  const auto back = sentiment::FromLines(sentiment::ToLines(reviews));
  ASSERT_TRUE(back.ok()) << back.status();
  ASSERT_EQ(back->size(), 1u);
  EXPECT_EQ((*back)[0].review.text, reviews[0].review.text);
  EXPECT_EQ((*back)[0].score, -0.5);
  EXPECT_EQ((*back)[0].label, "negative");
  for (const char* garbage : {"x\n", "{}\n", "[1]\n", "{\"id\":1}\n"}) {
    EXPECT_EQ(sentiment::FromLines(garbage).status().code(), absl::StatusCode::kDataLoss);
  }
}

TEST_F(SentimentTest, WritingTheDatabaseAgainChangesNothing) {
  const std::string path = folder() / "again.db";
  const std::vector<sentiment::ScoredReview> reviews = {
      {.review = {"1", "2", "it's", "text"}, .score = 0.25, .label = "positive"}};
  for (int attempt = 1; attempt <= 2; ++attempt) {
    ASSERT_TRUE(sentiment::WriteDatabase(path, reviews).ok());
    EXPECT_EQ(ReadDatabase(path), (Table{{"1", "2", "it's", "0.25", "positive"}}));
  }
  EXPECT_FALSE(sentiment::WriteDatabase(folder() / "no/such/folder.db", reviews).ok());
}

TEST(SentimentScoringTest, HandComputedScores) {
  const sentiment::Lexicon lexicon = {{"good", 2.0}, {"bad", -2.0}};
  const auto compound = [](double sum) { return sum / std::sqrt(sum * sum + 15); };
  EXPECT_DOUBLE_EQ(sentiment::Score("good", lexicon), compound(2));
  EXPECT_DOUBLE_EQ(sentiment::Score("not good", lexicon), compound(2 * -0.74));
  EXPECT_DOUBLE_EQ(sentiment::Score("isn't good", lexicon), compound(2 * -0.74));
  EXPECT_DOUBLE_EQ(sentiment::Score("very bad!", lexicon), compound(-2 - 0.293 - 0.292));
  EXPECT_DOUBLE_EQ(sentiment::Score("a GOOD one", lexicon), compound(2 + 0.733));
  EXPECT_DOUBLE_EQ(sentiment::Score("GOOD", lexicon), compound(2));
  EXPECT_DOUBLE_EQ(sentiment::Score("nothing to see", lexicon), 0);
  EXPECT_EQ(sentiment::Label(0.05), "positive");
  EXPECT_EQ(sentiment::Label(-0.05), "negative");
  EXPECT_EQ(sentiment::Label(0), "neutral");
}

}  // namespace
