#include "identify.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <regex>
#include <set>

namespace phi {

namespace {

struct Pattern {
  const char* kind;
  std::regex expression;  // group 1 is what has to go
};

// A word of a name: Maria, O'Brien, McDonald, Al-Amin; with small words between: van Dyke.
constexpr const char* kName =
    "((?:(?:van|von|de|del|la|bin) )*[A-Z][A-Za-z]*(?:['-][A-Z][a-z]+)?"
    "(?: (?:(?:van|von|de|del|la|bin) )*[A-Z][A-Za-z]*(?:['-][A-Z][a-z]+)?){0,2})";

constexpr const char* kMonth =
    "(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|"
    "Sep(?:tember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)";

// Common given names of the United States' census, most frequent first: the list that a name
// without title or label is known by.
constexpr const char* kCommonGivenNames =
    "(?:James|John|Robert|Michael|William|David|Richard|Joseph|Thomas|Charles|Mary|Patricia|"
    "Jennifer|Linda|Elizabeth|Barbara|Susan|Jessica|Sarah|Karen|Maria|Emily|Anna|Daniel|Mark)";

const std::vector<Pattern>& Patterns() {
  static const auto& patterns = *new std::vector<Pattern>{
      {"EMAIL", std::regex(R"(([A-Za-z0-9._%+'-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+))")},
      {"ADDRESS",
       std::regex(R"((\b\d{1,5} (?:[A-Z][A-Za-z]+ ){1,4}(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|)"
                  R"(Blvd|Lane|Ln|Drive|Dr|Court|Ct|Way|Place|Pl)\b\.?)"
                  R"((?:, [A-Z][A-Za-z]+(?: [A-Z][A-Za-z]+)*, [A-Z]{2} \d{5}(?:-\d{4})?)?))")},
      {"SSN", std::regex(R"((\b\d{3}-\d{2}-\d{4}\b))")},
      {"PHONE", std::regex(R"(((?:\+1[ .-]?)?(?:\(\d{3}\) ?|\b\d{3}[ .-])\d{3}[ .-]\d{4}\b))")},
      {"MRN", std::regex(R"(\b(?:MRN|[Mm]edical [Rr]ecord(?: [Nn]umber)?)[:# ]+(\d[\d-]{4,}\d))")},
      {"DATE", std::regex(R"((\b\d{1,2}[/-]\d{1,2}[/-]\d{4}\b|\b\d{4}-\d{2}-\d{2}\b))")},
      {"DATE",
       std::regex(fmt::format(R"((\b{}\.? \d{{1,2}}(?:st|nd|rd|th)?, \d{{4}}\b))", kMonth))},
      {"DATE", std::regex(fmt::format(R"((\b\d{{1,2}}[ -]{}\.?[ -]\d{{4}}\b))", kMonth))},
      {"NAME", std::regex(fmt::format(R"(\b(?:Mr|Mrs|Ms|Miss|Dr|Prof)\.? {})", kName))},
      {"NAME", std::regex(fmt::format(
                   R"(\b(?:Patient|Name|Physician|Attending|Next of kin|Nurse): *{})", kName))},
      {"NAME", std::regex(fmt::format(R"(\b(?:daughter|son|wife|husband|mother|father|sister|)"
                                      R"(brother|spouse|partner|guardian),? {})",
                                      kName))},
      {"NAME", std::regex(fmt::format(R"(\b({}(?: {})?))", kCommonGivenNames, kName))},
  };
  return patterns;
}

void Match(const Pattern& pattern, const std::string& note, std::vector<Span>& found) {
  for (std::sregex_iterator match(note.begin(), note.end(), pattern.expression), end; match != end;
       ++match) {
    const auto begin = static_cast<std::size_t>(match->position(1));
    found.push_back({begin, begin + static_cast<std::size_t>(match->length(1)), pattern.kind});
  }
}

bool IsLetter(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; }

// Words of names that have been found, wherever else they stand.
void MatchAgain(const std::string& note, std::vector<Span>& found) {
  std::set<std::string> words;
  for (const Span& span : found) {
    if (span.kind != "NAME") continue;
    const std::string name = note.substr(span.begin, span.end - span.begin);
    for (std::size_t begin = 0; begin < name.size();) {
      const std::size_t end = std::min(name.find(' ', begin), name.size());
      if (end - begin > 2 && std::isupper(static_cast<unsigned char>(name[begin])) != 0) {
        words.insert(name.substr(begin, end - begin));
      }
      begin = end + 1;
    }
  }
  for (const std::string& word : words) {
    for (std::size_t at = 0; (at = note.find(word, at)) != note.npos; at += word.size()) {
      const std::size_t end = at + word.size();
      const bool is_word = (at == 0 || !IsLetter(note[at - 1])) &&  //
                           (end == note.size() || !IsLetter(note[end]));
      if (is_word) found.push_back({at, end, "NAME"});
    }
  }
}

using Ymd = std::chrono::year_month_day;

// Any of the forms that Identify finds, as a day.
Ymd ParseDate(const std::string& text) {
  static const std::regex iso(R"((\d{4})-(\d{2})-(\d{2}))");
  static const std::regex american(R"((\d{1,2})[/-](\d{1,2})[/-](\d{4}))");
  static const std::regex number(R"(\d+)");
  const auto make = [](int y, int m, int d) {
    return Ymd(std::chrono::year(y), std::chrono::month(static_cast<unsigned>(m)),
               std::chrono::day(static_cast<unsigned>(d)));
  };
  std::smatch part;
  if (std::regex_match(text, part, iso)) {
    return make(std::stoi(part[1]), std::stoi(part[2]), std::stoi(part[3]));
  }
  if (std::regex_match(text, part, american)) {
    return make(std::stoi(part[3]), std::stoi(part[1]), std::stoi(part[2]));
  }
  static const std::string months = "JanFebMarAprMayJunJulAugSepOctNovDec";
  const auto letter = std::find_if(text.begin(), text.end(), IsLetter);
  const std::string month(letter, letter + 3);
  const std::sregex_iterator day(text.begin(), text.end(), number);
  return make(std::stoi(std::next(day)->str()), static_cast<int>(months.find(month) / 3) + 1,
              std::stoi(day->str()));
}

std::string MoveDate(const std::string& text, int days) {
  const Ymd date = ParseDate(text);
  if (!date.ok()) return "[DATE]";
  const Ymd moved = std::chrono::sys_days(date) + std::chrono::days(days);
  return fmt::format("{:04}-{:02}-{:02}", int(moved.year()), unsigned(moved.month()),
                     unsigned(moved.day()));
}

template <typename StandIn>
std::string Replace(std::string_view note, const std::vector<Span>& spans, StandIn&& stand_in) {
  std::string text;
  std::size_t at = 0;
  for (const Span& span : spans) {
    if (span.begin < at || span.end > note.size() || span.end < span.begin) continue;
    text += note.substr(at, span.begin - at);
    text += stand_in(std::string(note.substr(span.begin, span.end - span.begin)), span.kind);
    at = span.end;
  }
  return text += note.substr(at);
}

}  // namespace

std::vector<Span> Identify(const std::string& note) {
  std::vector<Span> found;
  for (const Pattern& pattern : Patterns()) Match(pattern, note, found);
  MatchAgain(note, found);
  // Of those that overlap, the longest at the first place; what it leaves of others goes as well.
  std::stable_sort(found.begin(), found.end(), [](const Span& a, const Span& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
  });
  std::vector<Span> spans;
  for (const Span& span : found) {
    if (!spans.empty() && span.begin < spans.back().end) {
      spans.back().end = std::max(spans.back().end, span.end);
    } else {
      spans.push_back(span);
    }
  }
  return spans;
}

std::string DeIdentify(std::string_view note, const std::vector<Span>& spans) {
  return Replace(note, spans,
                 [](const std::string&, const std::string& kind) { return "[" + kind + "]"; });
}

std::string Pseudonyms::NameOf(std::string_view person) {
  const std::size_t space = person.rfind(' ');
  const std::string family(space == person.npos ? person : person.substr(space + 1));
  const auto [entry, is_new] = by_family_name_.try_emplace(family);
  if (is_new) entry->second = fmt::format("Person-{}", by_family_name_.size());
  return entry->second;
}

std::string Pseudonyms::Anonymize(std::string_view note, const std::vector<Span>& spans) {
  // Half a year to a year and a half back: enough to hide the day, not the decade.
  const int days = -180 - static_cast<int>(std::hash<std::string_view>()(note) % 365);
  return Replace(note, spans, [&](const std::string& text, const std::string& kind) {
    if (kind == "NAME") return NameOf(text);
    if (kind == "DATE") return MoveDate(text, days);
    return "[" + kind + "]";
  });
}

Statistics Analyze(const std::vector<std::string>& notes) {
  static const std::regex age(R"((?:^|\n)Age: (\d{1,3}))");
  static const std::regex diagnosis(R"((?:^|\n)Diagnosis: ([^\n]+))");
  Statistics statistics;
  int ages = 0;
  double sum = 0;
  for (const std::string& note : notes) {
    ++statistics.notes;
    std::smatch match;
    if (std::regex_search(note, match, age)) {
      ++ages;
      sum += std::stod(match[1]);
    }
    if (std::regex_search(note, match, diagnosis)) ++statistics.diagnoses[match[1]];
  }
  if (ages > 0) statistics.mean_age = sum / ages;
  return statistics;
}

}  // namespace phi
