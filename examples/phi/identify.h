// Finding protected health information in English clinical notes by pattern and context, and
// writing notes without it.
//
// A name is known by a title before it ("Dr."), a label ("Patient:"), a kinship word, or a common
// given name at its beginning; the words of a name found so are names anywhere else in its note.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace phi {

struct Span {
  std::size_t begin, end;  // bytes of the note
  std::string kind;        // NAME, DATE, PHONE, MRN, SSN, ADDRESS or EMAIL
  bool operator==(const Span&) const = default;
};

// By position; no two overlap.
std::vector<Span> Identify(const std::string& note);

// Each span as its kind: "Seen on [DATE] by [NAME]."
std::string DeIdentify(std::string_view note, const std::vector<Span>& spans);

// Stand-ins that keep what research needs: the same person is the same pseudonym throughout one
// Pseudonyms, and all dates of one note move by the same number of days, so that intervals stay.
class Pseudonyms {
 public:
  std::string Anonymize(std::string_view note, const std::vector<Span>& spans);

 private:
  std::string NameOf(std::string_view person);

  std::map<std::string, std::string, std::less<>> by_family_name_;
};

// What anonymous notes still tell.
struct Statistics {
  int notes = 0;
  double mean_age = 0;
  std::map<std::string, int> diagnoses;
};
Statistics Analyze(const std::vector<std::string>& notes);

}  // namespace phi
