#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "application.h"
#include "common/task.h"
#include "identify.h"
#include "notes.h"

namespace phi {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Span, begin, end, kind)

namespace {

using apta::AsText;
using examples::Task;
using nlohmann::json;

constexpr int kNotes = 60;
constexpr int kPaperNotes = 500;

std::string Sibling(const std::string& key, const char* name) {
  return key.substr(0, key.rfind('/') + 1) + name;
}

// The notes and what is to go: one object, so that its readers get once.
absl::StatusOr<json> IdentifyPhi(Task& task, const json& input) {
  const absl::StatusOr<apta::Object> notes = task.Get(input.at("notes"));
  if (!notes.ok()) return notes.status();
  json identified = json::array();
  for (const json& note : json::parse(AsText(notes->bytes()))) {
    identified.push_back({{"text", note}, {"phi", Identify(note.get<std::string>())}});
  }
  const std::string key = Sibling(input.at("notes"), "identified");
  task.Put(key, identified.dump());
  return json{{"identified", key}};
}

template <typename Rewrite>
absl::StatusOr<json> RewriteNotes(Task& task, const json& input, const char* name,
                                  Rewrite&& rewrite) {
  const absl::StatusOr<apta::Object> identified = task.Get(input.at("identified"));
  if (!identified.ok()) return identified.status();
  json rewritten = json::array();
  for (const json& note : json::parse(AsText(identified->bytes()))) {
    rewritten.push_back(
        rewrite(note.at("text").get<std::string>(), note.at("phi").get<std::vector<Span>>()));
  }
  const std::string key = Sibling(input.at("identified"), name);
  task.Put(key, rewritten.dump());
  return json{{"notes", key}};
}

absl::StatusOr<json> DeIdentifyNotes(Task& task, const json& input) {
  return RewriteNotes(task, input, "deidentified", DeIdentify);
}

absl::StatusOr<json> AnonymizeNotes(Task& task, const json& input) {
  Pseudonyms pseudonyms;
  return RewriteNotes(task, input, "anonymous",
                      [&](const std::string& note, const std::vector<Span>& spans) {
                        return pseudonyms.Anonymize(note, spans);
                      });
}

absl::StatusOr<json> Analytics(Task& task, const json& input) {
  const absl::StatusOr<apta::Object> notes = task.Get(input.at("anonymous"));
  if (!notes.ok()) return notes.status();
  const Statistics statistics =
      Analyze(json::parse(AsText(notes->bytes())).get<std::vector<std::string>>());
  const std::string key = Sibling(input.at("anonymous"), "statistics");
  task.Put(key, json{{"notes", statistics.notes},
                     {"mean age", statistics.mean_age},
                     {"diagnoses", statistics.diagnoses}}
                    .dump(2));
  return json{{"statistics", key},
              {"deidentified", input.at("deidentified")},
              {"anonymous", input.at("anonymous")}};
}

absl::StatusOr<examples::Input> MakeInput(const examples::InputOptions& options) {
  json notes = json::array();
  for (Note& note : MakeNotes(/*seed=*/1996, options.data.empty() ? kNotes : kPaperNotes)) {
    notes.push_back(std::move(note.text));
  }
  const std::string key = options.run + "/notes";
  return examples::Input{{{key, notes.dump()}}, {{"notes", key}}};
}

absl::StatusOr<examples::Outcome> Collect(apta::Client& client, const json& result) {
  examples::Outcome outcome;
  for (const char* name : {"deidentified", "anonymous", "statistics"}) {
    const absl::StatusOr<apta::Object> object = client.Get(result.at(name).get<std::string>());
    if (!object.ok()) return object.status();
    outcome.files[fmt::format("{}.json", name)] = AsText(object->bytes());
  }
  const json statistics = json::parse(outcome.files["statistics.json"]);
  outcome.summary =
      fmt::format("{} notes without their PHI; mean age {:.1f}\n",
                  statistics.at("notes").get<int>(), statistics.at("mean age").get<double>());
  for (const auto& [diagnosis, count] : statistics.at("diagnoses").items()) {
    outcome.summary += fmt::format("  {:24} {:4}\n", diagnosis, count.get<int>());
  }
  const std::string first = json::parse(outcome.files["deidentified.json"]).at(0);
  outcome.summary += "the first of them:\n  " + first.substr(0, first.find('\n')) + "\n";
  return outcome;
}

}  // namespace

const examples::Application& Application() {
  static const auto& application = *new examples::Application{
      .name = "phi",
      .folder = APTA_EXAMPLES_DIR "/phi",
      .pattern = "broadcast, pipeline",
      .steps = {{"identifyPHI", IdentifyPhi, {"c1"}},
                {"deIdentify", DeIdentifyNotes, {"c2"}},
                {"anonymize", AnonymizeNotes, {"c1"}},
                {"analytics", Analytics, {"c1"}}},
      .paper = {.hits = 2, .misses = 2, .puts = 4, .invalidating_puts = 0},
      .make_input = MakeInput,
      .collect = Collect};
  return application;
}

}  // namespace phi
