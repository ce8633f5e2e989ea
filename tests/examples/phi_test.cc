// phi: what was planted is found, and what was found is gone.

#include <algorithm>
#include <chrono>
#include <regex>

#include "phi/identify.h"
#include "phi/notes.h"
#include "tests/examples/examples_run.h"

namespace {

using apta::test::ExampleTest;
using apta::test::ExpectCounts;
using phi::Identify;
using phi::Span;

constexpr std::uint32_t kSeed = 1996;  // of the example's own input
constexpr int kNotes = 60;

class PhiTest : public ExampleTest {};

bool Covers(const std::vector<Span>& spans, std::size_t begin, std::size_t end) {
  return std::any_of(spans.begin(), spans.end(),
                     [&](const Span& span) { return span.begin <= begin && end <= span.end; });
}

// The text stands there as a whole, not as a part of longer words or numbers.
bool Contains(const std::string& note, const std::string& text) {
  const auto is_word = [&](std::size_t at) {
    return at < note.size() && std::isalnum(static_cast<unsigned char>(note[at])) != 0;
  };
  for (std::size_t at = 0; (at = note.find(text, at)) != note.npos; ++at) {
    if (!(at > 0 && is_word(at - 1)) && !is_word(at + text.size())) return true;
  }
  return false;
}

TEST(PhiNotesTest, PlantedTextStandsWhereItIsSaidToStand) {
  std::map<std::string, int> kinds;
  for (const phi::Note& note : phi::MakeNotes(7, 100)) {
    for (const phi::Planted& planted : note.planted) {
      EXPECT_EQ(note.text.substr(planted.offset, planted.text.size()), planted.text);
      ++kinds[planted.kind];
    }
  }
  EXPECT_EQ(kinds.size(), 7u);  // NAME, DATE, PHONE, MRN, SSN, ADDRESS, EMAIL
}

TEST(PhiIdentifyTest, EachPlantedItemOfManySeedsIsFound) {
  for (std::uint32_t seed = 1; seed <= 5; ++seed) {
    for (const phi::Note& note : phi::MakeNotes(seed, 30)) {
      const std::vector<Span> spans = Identify(note.text);
      for (const phi::Planted& planted : note.planted) {
        EXPECT_TRUE(Covers(spans, planted.offset, planted.offset + planted.text.size()))
            << planted.kind << " " << planted.text << " in\n"
            << note.text;
      }
      // And little else goes: what a note is for stays.
      const std::string rest = phi::DeIdentify(note.text, spans);
      for (const char* kept : {"Diagnosis: ", "Plan: ", " reports no new symptoms"}) {
        EXPECT_NE(rest.find(kept), rest.npos) << rest;
      }
    }
  }
}

// Written by hand: nothing here comes from the generator's lists.
TEST(PhiIdentifyTest, NotesThatTheGeneratorDidNotWrite) {
  const std::string note =
      "Prof. Zsofia Baranyai-Toth referred Mr. Quillfeather on 5-Jan-2019. Quillfeather (SSN "
      "321-54-9876, medical record number 00-4471-2) lives at 12 Rue Morgue Way, Bangor, ME 04401. "
      "His wife Xanthippe can be reached at (207) 555-0123 or x.quill+er@mail.hospital.example. "
      "Follow-up June 3rd, 2019 or 2019-06-10. Glasgow Coma Scale 15, Crohn's disease, 500 mg.";
  EXPECT_EQ(phi::DeIdentify(note, Identify(note)),
            "Prof. [NAME] referred Mr. [NAME] on [DATE]. [NAME] (SSN "
            "[SSN], medical record number [MRN]) lives at [ADDRESS]. "
            "His wife [NAME] can be reached at [PHONE] or [EMAIL]. "
            "Follow-up [DATE] or [DATE]. Glasgow Coma Scale 15, Crohn's disease, 500 mg.");
  EXPECT_TRUE(Identify("").empty());
  EXPECT_TRUE(Identify("Pulse 72/min, temperature 98.6 F, ratio 1-2-3.").empty());
}

TEST(PhiAnonymizeTest, PersonsAreTheSameThroughoutAndIntervalsStay) {
  phi::Pseudonyms pseudonyms;
  const std::string note = "Dr. Quill saw Ms. Ada Tarn on 2020-02-25 and on March 1, 2020. Tarn";
  const std::string text = pseudonyms.Anonymize(note, Identify(note));
  std::smatch match;
  ASSERT_TRUE(std::regex_match(
      text, match,
      std::regex(R"(Dr\. (\S+) saw Ms\. (\S+) on (\d{4}-\d{2}-\d{2}) and on (\S+)\. (\S+))")))
      << text;
  EXPECT_NE(match[1], match[2]);
  EXPECT_EQ(match[2], match[5]);
  const auto days = [](const std::string& date) {
    return std::chrono::sys_days(std::chrono::year(std::stoi(date)) / std::stoi(date.substr(5, 2)) /
                                 std::stoi(date.substr(8, 2)));
  };
  EXPECT_EQ(days(match[4]) - days(match[3]), std::chrono::days(5));  // 2020 was a leap year
  EXPECT_NE(match[3], "2020-02-25");
  const std::string other = "Mr. Tarn called.";
  EXPECT_EQ(pseudonyms.Anonymize(other, Identify(other)), "Mr. " + match[2].str() + " called.");
}

TEST_F(PhiTest, NothingPlantedIsLeftAndTheStatisticsAreThoseOfTheNotes) {
  const auto measured = Run({"phi", "--pinned"});
  ExpectCounts(measured, {2, 2}, {4, 0}, "c1 c2 c1 c1");
  const auto deidentified = Json("deidentified.json");
  const auto anonymous = Json("anonymous.json");
  const std::vector<phi::Note> notes = phi::MakeNotes(kSeed, kNotes);
  ASSERT_EQ(deidentified.size(), notes.size());
  ASSERT_EQ(anonymous.size(), notes.size());
  double ages = 0;
  std::map<std::string, int> diagnoses;
  for (std::size_t i = 0; i < notes.size(); ++i) {
    for (const phi::Planted& planted : notes[i].planted) {
      EXPECT_FALSE(Contains(deidentified[i], planted.text)) << planted.text << deidentified[i];
      EXPECT_FALSE(Contains(anonymous[i], planted.text)) << planted.text << anonymous[i];
    }
    const std::string& text = notes[i].text;
    const std::size_t diagnosis = text.find("Diagnosis: ") + 11;
    ++diagnoses[text.substr(diagnosis, text.find('\n', diagnosis) - diagnosis)];
    ages += std::atoi(text.c_str() + text.find("Age: ") + 5);
  }
  const auto statistics = Json("statistics.json");
  EXPECT_EQ(statistics["notes"], kNotes);
  EXPECT_DOUBLE_EQ(statistics["mean age"].get<double>(), ages / kNotes);
  EXPECT_EQ(statistics["diagnoses"], nlohmann::json(diagnoses));
}

// What a reader of the README does in two shells.
TEST_F(PhiTest, ItsWorkflowRunsFromAnotherShellWhileComputeServersStay) {
  apta::test::Pipe out = apta::test::Pipe::Make();
  apta::test::Child servers({EXAMPLES_RUN_PATH, "--serve", "phi"}, STDIN_FILENO,
                            out.write_end.get(), STDERR_FILENO);
  out.write_end.Close();
  const std::string said = apta::test::ReadUntilText(out.read_end, "'\n");
  std::smatch match;
  ASSERT_TRUE(std::regex_search(
      said, match, std::regex("export APTA_SOCKET=(\\S+)\n  apta run (\\S+) '(.*)'\n")))
      << said;
  const std::string socket = match[1], workflow = match[2], input = match[3];
  for (int run = 1; run <= 2; ++run) {
    const apta::test::Result result =
        apta::test::Execute({APTA_PATH, "--socket", socket, "run", workflow, input});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const auto output = nlohmann::json::parse(result.out, nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(output.is_object()) << result.out;
    const apta::test::Result statistics = apta::test::Execute(
        {APTA_PATH, "--socket", socket, "get", output["statistics"].get<std::string>()});
    EXPECT_EQ(nlohmann::json::parse(statistics.out, nullptr, false)["notes"], kNotes)
        << statistics.out;
  }
  servers.Signal(SIGTERM);
  EXPECT_EQ(servers.Wait(), 0);
}

}  // namespace
