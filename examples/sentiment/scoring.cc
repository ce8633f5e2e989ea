#include "scoring.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <set>

#include "absl/status/status.h"
#include "fmt/format.h"

namespace sentiment {
namespace {

constexpr double kCapitals = 0.733;
constexpr double kBooster = 0.293;
constexpr double kExclamation = 0.292;
constexpr double kNegation = -0.74;
constexpr double kNormalisation = 15;
constexpr std::array<double, 3> kByDistance = {1.0, 0.95, 0.9};

const std::set<std::string_view> kStrengthen = {
    "absolutely", "amazingly", "completely",   "deeply",  "enormously",   "entirely",
    "especially", "extremely", "fully",        "greatly", "highly",       "hugely",
    "incredibly", "most",      "particularly", "purely",  "quite",        "really",
    "remarkably", "so",        "thoroughly",   "totally", "tremendously", "unbelievably",
    "utterly",    "very"};
const std::set<std::string_view> kWeaken = {"almost",   "barely",     "hardly", "less",
                                            "little",   "marginally", "partly", "scarcely",
                                            "slightly", "somewhat"};
const std::set<std::string_view> kNegate = {"cannot",  "neither", "never",  "no",
                                            "nobody",  "none",    "nor",    "not",
                                            "nothing", "nowhere", "without"};

bool IsPunctuation(char c) { return std::ispunct(static_cast<unsigned char>(c)) != 0; }

struct Word {
  std::string lower;
  bool in_capitals;
};

std::vector<Word> SplitWords(std::string_view text) {
  std::vector<Word> words;
  for (std::size_t i = 0; i < text.size();) {
    const auto is_space = [&](std::size_t at) {
      return std::isspace(static_cast<unsigned char>(text[at])) != 0;
    };
    while (i < text.size() && is_space(i)) ++i;
    std::size_t end = i;
    while (end < text.size() && !is_space(end)) ++end;
    std::string_view word = text.substr(i, end - i);
    i = end;
    while (!word.empty() && IsPunctuation(word.front())) word.remove_prefix(1);
    while (!word.empty() && IsPunctuation(word.back())) word.remove_suffix(1);
    if (word.empty()) continue;
    Word split{std::string(word), word.size() > 1};
    for (char& c : split.lower) {
      if (std::islower(static_cast<unsigned char>(c))) split.in_capitals = false;
      c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
    words.push_back(std::move(split));
  }
  return words;
}

double Valence(const std::vector<Word>& words, std::size_t at, bool capitals_mean_something,
               const Lexicon& lexicon) {
  const auto entry = lexicon.find(words[at].lower);
  if (entry == lexicon.end()) return 0;
  double valence = entry->second;
  const double sign = valence < 0 ? -1 : 1;
  if (capitals_mean_something && words[at].in_capitals) valence += sign * kCapitals;
  bool is_negated = false;
  for (std::size_t distance = 1; distance <= kByDistance.size() && distance <= at; ++distance) {
    const std::string& before = words[at - distance].lower;
    const double boost = sign * kBooster * kByDistance[distance - 1];
    if (kStrengthen.contains(before)) valence += boost;
    if (kWeaken.contains(before)) valence -= boost;
    if (kNegate.contains(before) || before.ends_with("n't")) is_negated = true;
  }
  return is_negated ? valence * kNegation : valence;
}

}  // namespace

absl::StatusOr<Lexicon> ParseLexicon(std::string_view text) {
  Lexicon lexicon;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string line(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line == "\r") continue;
    const std::size_t tab = line.find('\t');
    char* after = nullptr;
    const double valence =
        tab == std::string::npos ? 0 : std::strtod(line.c_str() + tab + 1, &after);
    if (tab == 0 || tab == std::string::npos || after == line.c_str() + tab + 1) {
      return absl::InvalidArgumentError(
          fmt::format("line {} of the lexicon is not word<TAB>valence", number));
    }
    lexicon[line.substr(0, tab)] = valence;
  }
  if (lexicon.empty()) return absl::InvalidArgumentError("the lexicon is empty");
  return lexicon;
}

double Score(std::string_view text, const Lexicon& lexicon) {
  const std::vector<Word> words = SplitWords(text);
  const auto capitals = static_cast<std::size_t>(
      std::count_if(words.begin(), words.end(), [](const Word& w) { return w.in_capitals; }));
  const bool capitals_mean_something = capitals > 0 && capitals < words.size();
  double sum = 0;
  for (std::size_t i = 0; i < words.size(); ++i) {
    sum += Valence(words, i, capitals_mean_something, lexicon);
  }
  const auto marks = std::min<std::ptrdiff_t>(4, std::count(text.begin(), text.end(), '!'));
  if (sum != 0) sum += (sum < 0 ? -1 : 1) * kExclamation * static_cast<double>(marks);
  return sum / std::sqrt(sum * sum + kNormalisation);
}

std::string_view Label(double score) {
  return score >= 0.05 ? "positive" : score <= -0.05 ? "negative" : "neutral";
}

}  // namespace sentiment
