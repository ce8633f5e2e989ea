#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "application.h"
#include "common/task.h"
#include "picture.h"

namespace image {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Word, text, confidence, left, top, width, height)

const std::vector<std::string> kSign = {"Harbour Office", "Open Monday to Friday",
                                        "Visitors please ring twice", "Room 204"};

namespace {

using apta::AsText;
using examples::Task;
using nlohmann::json;

constexpr int kLongest = 1'000;       // pixels that the model gets
constexpr float kConfidence = 85.0f;  // percent

std::string Sibling(const std::string& key, const char* name) {
  return key.substr(0, key.rfind('/') + 1) + name;
}

absl::StatusOr<json> ResizePhoto(Task& task, const json& input) {
  const absl::StatusOr<apta::Object> photo = task.Get(input.at("photo"));
  if (!photo.ok()) return photo.status();
  const absl::StatusOr<std::string> resized = Resize(AsText(photo->bytes()), kLongest);
  if (!resized.ok()) return resized.status();
  const std::string key = Sibling(input.at("photo"), "resized");
  task.Put(key, *resized);
  return json{{"resized", key}};
}

// The words are an object of their own, for whoever wants them, and small enough to go along.
absl::StatusOr<json> PredictWords(Task& task, const json& input) {
  const absl::StatusOr<apta::Object> resized = task.Get(input.at("resized"));
  if (!resized.ok()) return resized.status();
  const absl::StatusOr<std::vector<Word>> words = Predict(AsText(resized->bytes()), kConfidence);
  if (!words.ok()) return words.status();
  const std::string key = Sibling(input.at("resized"), "words");
  task.Put(key, json(*words).dump(2));
  return json{{"resized", input.at("resized")}, {"words", key}, {"prediction", *words}};
}

absl::StatusOr<json> RenderWords(Task& task, const json& input) {
  const absl::StatusOr<apta::Object> resized = task.Get(input.at("resized"));
  if (!resized.ok()) return resized.status();
  const absl::StatusOr<std::string> rendered =
      Render(AsText(resized->bytes()), input.at("prediction").get<std::vector<Word>>());
  if (!rendered.ok()) return rendered.status();
  const std::string key = Sibling(input.at("resized"), "rendered");
  task.Put(key, *rendered);
  return json{{"resized", input.at("resized")}, {"words", input.at("words")}, {"rendered", key}};
}

absl::StatusOr<examples::Input> MakeInput(const examples::InputOptions& options) {
  absl::StatusOr<std::string> photo = options.data.empty()
                                          ? MakePhotograph(/*seed=*/17, kSign)
                                          : examples::ReadFile(options.data + "/image/image.jpg");
  if (!photo.ok()) return photo.status();
  const std::string key = options.run + "/photo";
  return examples::Input{{{key, *std::move(photo)}}, {{"photo", key}}};
}

absl::StatusOr<examples::Outcome> Collect(apta::Client& client, const json& result) {
  examples::Outcome outcome;
  for (const auto& [name, file] : {std::pair("resized", "resized.jpg"),
                                   {"words", "words.json"},
                                   {"rendered", "rendered.jpg"}}) {
    const absl::StatusOr<apta::Object> object = client.Get(result.at(name).get<std::string>());
    if (!object.ok()) return object.status();
    outcome.files[file] = AsText(object->bytes());
  }
  const auto words = json::parse(outcome.files["words.json"]).get<std::vector<Word>>();
  outcome.summary = fmt::format("{} words in the picture\n", words.size());
  for (const Word& word : words) {
    outcome.summary += fmt::format("  {:12} {:3.0f} %  at {},{}\n", word.text, word.confidence,
                                   word.left, word.top);
  }
  return outcome;
}

}  // namespace

const examples::Application& Application() {
  static const auto& application = *new examples::Application{
      .name = "image",
      .folder = APTA_EXAMPLES_DIR "/image",
      .pattern = "pipeline",
      .steps = {{"resize", ResizePhoto, {"c1"}},
                {"predict", PredictWords, {"c1"}},
                {"render", RenderWords, {"c1"}}},
      .paper = {.hits = 2, .misses = 1, .puts = 3, .invalidating_puts = 0},
      .make_input = MakeInput,
      .collect = Collect};
  return application;
}

}  // namespace image
