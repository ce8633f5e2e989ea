#include "notes.h"

#include <fmt/format.h>

#include <array>
#include <random>
#include <string_view>

namespace phi {

namespace {

using List = std::vector<std::string_view>;

const List kGiven = {"Maria",    "James",  "Aisha",  "Chen",  "Olga",  "Kwame", "Linda", "Robert",
                     "Patricia", "Tomasz", "Ingrid", "Rahul", "Emily", "David", "Sarah", "Michael"};
const List kFamily = {"Okafor",  "Lindqvist", "Hernandez", "O'Brien",  "Nakamura",
                      "Smith",   "Kowalski",  "Banerjee",  "van Dyke", "Johnson",
                      "Al-Amin", "Fischer",   "Dubois",    "Moreau",   "McDonald"};
const List kStreets = {"Maple", "Old Mill", "Washington", "Lake View", "Elm", "Martin Luther King"};
const List kWays = {"Street", "Ave.", "Road", "Boulevard", "Ln", "Drive", "Court"};
const List kTowns = {"Springfield, IL 62704", "Portland, OR 97201", "Salem, MA 01970-1234",
                     "Baton Rouge, LA 70801"};
const List kMonths = {"January", "February", "March",     "April",   "May",      "June",
                      "July",    "August",   "September", "October", "November", "December"};
const List kDiagnoses = {"hypertension",        "type 2 diabetes", "Parkinson's disease",
                         "atrial fibrillation", "asthma",          "Crohn's disease",
                         "chronic migraine",    "osteoarthritis"};
const List kFindings = {"Blood pressure 132/84, pulse 72/min, temperature 98.6 F.",
                        "Lungs clear to auscultation bilaterally, no wheezing.",
                        "HbA1c 7.2 %, creatinine 1.1 mg/dL, potassium 4.3 mmol/L.",
                        "ECG shows no acute change; ejection fraction 55-60 %.",
                        "Gait steady, reflexes 2+ and symmetric in all limbs."};
const List kPlans = {"Continue metformin 500 mg twice a day.", "Start lisinopril 10 mg once a day.",
                     "Physical therapy 3 times a week for 6 weeks.",
                     "Repeat laboratory tests before the next visit."};

// std::uniform_int_distribution differs between libraries; this does not.
class Dice {
 public:
  explicit Dice(std::uint32_t seed) : engine_(seed) {}
  int Roll(int sides) { return static_cast<int>(engine_() % static_cast<std::uint32_t>(sides)); }
  std::string Pick(const List& list) {
    return std::string(list[static_cast<std::size_t>(Roll(static_cast<int>(list.size())))]);
  }

 private:
  std::mt19937 engine_;
};

class Writer {
 public:
  explicit Writer(Dice& dice) : dice_(dice) {}

  Writer& Text(std::string_view text) {
    note_.text += text;
    return *this;
  }
  Writer& Phi(const char* kind, std::string text) {
    note_.planted.push_back({kind, text, note_.text.size()});
    return Text(text);
  }
  Writer& Date() {
    const int day = 1 + dice_.Roll(28);
    const int month = 1 + dice_.Roll(12);
    const int year = 1935 + dice_.Roll(89);
    const std::string name(kMonths[static_cast<std::size_t>(month - 1)]);
    switch (dice_.Roll(5)) {
      case 0:
        return Phi("DATE", fmt::format("{:02}/{:02}/{}", month, day, year));
      case 1:
        return Phi("DATE", fmt::format("{}-{:02}-{:02}", year, month, day));
      case 2:
        return Phi("DATE", fmt::format("{} {}, {}", name, day, year));
      case 3:
        return Phi("DATE", fmt::format("{} {} {}", day, name, year));
      default:
        return Phi("DATE", fmt::format("{:02}-{}-{}", day, name.substr(0, 3), year));
    }
  }
  Writer& Phone() {
    const int area = 200 + dice_.Roll(700), exchange = 200 + dice_.Roll(700),
              line = dice_.Roll(10000);
    switch (dice_.Roll(4)) {
      case 0:
        return Phi("PHONE", fmt::format("({}) {}-{:04}", area, exchange, line));
      case 1:
        return Phi("PHONE", fmt::format("{}-{}-{:04}", area, exchange, line));
      case 2:
        return Phi("PHONE", fmt::format("+1 {} {} {:04}", area, exchange, line));
      default:
        return Phi("PHONE", fmt::format("{}.{}.{:04}", area, exchange, line));
    }
  }
  Note Take() { return std::move(note_); }

 private:
  Dice& dice_;
  Note note_;
};

std::string Email(const std::string& given, const std::string& family, Dice& dice) {
  std::string local = given + "." + family;
  std::erase_if(local, [](char c) { return c == ' ' || c == '\''; });
  return fmt::format("{}{}@{}", local, dice.Roll(100),
                     dice.Roll(2) == 0 ? "example.com" : "mail.example.org");
}

Note MakeNote(Dice& dice) {
  const std::string given = dice.Pick(kGiven), family = dice.Pick(kFamily);
  const std::string doctor = dice.Pick(kFamily);
  Writer note(dice);
  note.Text("Patient: ").Phi("NAME", given + " " + family).Text("   DOB: ").Date();
  note.Text("   MRN: ").Phi("MRN", fmt::format("{:07}", dice.Roll(10'000'000)));
  if (dice.Roll(2) == 0) {
    note.Text("   SSN: ")
        .Phi("SSN", fmt::format("{:03}-{:02}-{:04}", 100 + dice.Roll(600), 10 + dice.Roll(80),
                                1000 + dice.Roll(8000)));
  }
  note.Text("\nAddress: ");
  note.Phi("ADDRESS", fmt::format("{} {} {}, {}", 1 + dice.Roll(9999), dice.Pick(kStreets),
                                  dice.Pick(kWays), dice.Pick(kTowns)));
  note.Text("\nContact: ").Phone();
  if (dice.Roll(3) > 0) note.Text(", ").Phi("EMAIL", Email(given, family, dice));
  note.Text("\nAge: ").Text(std::to_string(18 + dice.Roll(70)));
  note.Text("\nDiagnosis: ").Text(dice.Pick(kDiagnoses)).Text("\n\nSeen on ").Date();
  note.Text(" by Dr. ").Phi("NAME", doctor).Text(". ").Text(dice.Pick(kFindings));
  note.Text(dice.Roll(2) == 0 ? " Mr. " : " Mrs. ").Phi("NAME", family);
  note.Text(" reports no new symptoms since the last visit. ").Text(dice.Pick(kFindings));
  note.Text("\nPlan: ").Text(dice.Pick(kPlans)).Text(" ");
  note.Phi("NAME", given).Text(" was told to call ").Phone().Text(" if symptoms get worse");
  if (dice.Roll(2) == 0) {
    note.Text("; daughter ").Phi("NAME", dice.Pick(kGiven) + " " + family);
    note.Text(" was present");
  }
  note.Text(". Next visit ").Date().Text(".\n");
  return note.Take();
}

}  // namespace

std::vector<Note> MakeNotes(std::uint32_t seed, int count) {
  Dice dice(seed);
  std::vector<Note> notes;
  for (int i = 0; i < count; ++i) notes.push_back(MakeNote(dice));
  return notes;
}

}  // namespace phi
