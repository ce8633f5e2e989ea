// The sentiment workflow against scores computed straight from the input, without Āpta and without
// the example's own code: an independent reading of the rules in examples/sentiment/scoring.h.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "csv.h"
#include "fmt/format.h"
#include "scoring.h"

namespace {

namespace fs = std::filesystem;

std::string Slurp(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

class SentimentTest : public ::testing::Test {
 protected:
  SentimentTest() {
    std::string name = fs::temp_directory_path() / "sentiment-test-XXXXXX";
    folder_ = mkdtemp(name.data());
  }
  ~SentimentTest() override { fs::remove_all(folder_); }

  struct Ran {
    int exit_code;
    std::string output;  // both streams
  };
  Ran Run(const std::string& arguments) {
    FILE* pipe = popen(fmt::format("{} {} 2>&1", SENTIMENT_PATH, arguments).c_str(), "r");
    Ran ran;
    std::array<char, 4096> buffer;
    for (std::size_t n; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
      ran.output.append(buffer.data(), n);
    }
    const int status = pclose(pipe);
    ran.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
    return ran;
  }

  fs::path folder_;
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

void ExpectResultsMatch(const fs::path& input, const fs::path& results_path,
                        const std::string& summary) {
  const Table reviews = ReadTable(Slurp(input));
  const Table results = ReadTable(Slurp(results_path));
  const auto valences = ReadValences(Slurp(fs::path(SENTIMENT_DIR) / "lexicon.txt"));
  ASSERT_EQ(results.size(), reviews.size());
  EXPECT_EQ(results[0], (std::vector<std::string>{"reviewID", "productID", "score", "label"}));
  std::map<std::string, int> labels;
  for (std::size_t i = 1; i < reviews.size(); ++i) {
    ASSERT_EQ(reviews[i].size(), 5u) << i;
    const double score = ScoreByHand(reviews[i][4], valences);
    EXPECT_EQ(results[i][0], reviews[i][1]);
    EXPECT_EQ(results[i][1], reviews[i][3]);
    EXPECT_NEAR(std::stod(results[i][2]), score, 1e-6) << reviews[i][4];
    const std::string label = score >= 0.05 ? "positive" : score <= -0.05 ? "negative" : "neutral";
    EXPECT_EQ(results[i][3], label) << reviews[i][4];
    ++labels[label];
  }
  EXPECT_NE(summary.find(fmt::format("{} reviews\n", reviews.size() - 1)), std::string::npos);
  for (const char* label : {"positive", "neutral", "negative"}) {
    EXPECT_NE(summary.find(fmt::format("  {:8} {:6} ", label, labels[label])), std::string::npos)
        << label << ' ' << labels[label] << "\n"
        << summary;
  }
}

// --- the workflow

TEST_F(SentimentTest, ScoresOfTheShippedReviewsEqualThoseComputedWithoutApta) {
  const Ran ran = Run(fmt::format("--output {}", folder_.string()));
  ASSERT_EQ(ran.exit_code, 0) << ran.output;
  ExpectResultsMatch(fs::path(SENTIMENT_DIR) / "reviews.csv", folder_ / "results.csv",
                     Slurp(folder_ / "summary.txt"));
  for (const char* function : {"readcsv", "sentimentAnalysis", "publishSNS", "writeDB"}) {
    EXPECT_NE(ran.output.find(function), std::string::npos);
  }
}

TEST_F(SentimentTest, ScoresOfTenThousandReviewsEqualThoseComputedWithoutApta) {
  const Table shipped = ReadTable(Slurp(fs::path(SENTIMENT_DIR) / "reviews.csv"));
  std::ofstream file(folder_ / "many.csv", std::ios::binary);
  file << "reviewType,reviewID,customerID,productID,feedback\r\n";
  for (int i = 0; i < 10'000; ++i) {
    // Pairs of shipped reviews: texts that no shipped review has.
    const auto& a = shipped[1 + static_cast<std::size_t>(i) % (shipped.size() - 1)];
    const auto& b = shipped[1 + static_cast<std::size_t>(i) / 60 % (shipped.size() - 1)];
    file << fmt::format("0,{},{},{},{}\r\n", i, i % 97, a[3],
                        sentiment::CsvField(a[4] + " " + b[4]));
  }
  file.close();
  const Ran ran =
      Run(fmt::format("--input {0}/many.csv --output {0} --repeat 2", folder_.string()));
  ASSERT_EQ(ran.exit_code, 0) << ran.output;
  ExpectResultsMatch(folder_ / "many.csv", folder_ / "results.csv", Slurp(folder_ / "summary.txt"));
}

TEST_F(SentimentTest, BadInputIsOneClearLine) {
  const auto expect_refused = [&](const std::string& csv, const std::string& says) {
    std::ofstream(folder_ / "bad.csv", std::ios::binary) << csv;
    const Ran ran = Run(fmt::format("--input {}/bad.csv", folder_.string()));
    EXPECT_EQ(ran.exit_code, 1) << ran.output;
    EXPECT_NE(ran.output.find(says), std::string::npos) << ran.output;
    EXPECT_EQ(std::count(ran.output.begin(), ran.output.end(), '\n'), 1) << ran.output;
  };
  expect_refused("", "empty");
  expect_refused("reviewType,reviewID,customerID,productID,feedback\n", "no review");
  expect_refused("reviewType,reviewID,customerID,feedback\n0,1,2,fine\n", "no column productID");
  expect_refused("reviewID,customerID,productID,feedback\n1,2\n", "record 2");
  expect_refused("reviewID,customerID,productID,feedback\n1,2,3,\"open\n", "quoted");
  const Ran missing = Run("--input /does/not/exist.csv");
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_NE(missing.output.find("/does/not/exist.csv"), std::string::npos);
  EXPECT_EQ(Run("--no-such-flag").exit_code, 2);
}

// --- its parts

TEST(SentimentCsvTest, QuotedFieldsKeepCommasQuotesAndLineBreaks) {
  const auto records = sentiment::ParseCsv("a,\"b,c\",\"d \"\"e\"\"\"\r\n\"f\ng\",,h");
  ASSERT_TRUE(records.ok());
  EXPECT_EQ(*records, (Table{{"a", "b,c", "d \"e\""}, {"f\ng", "", "h"}}));
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
