#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "application.h"
#include "clip.h"
#include "common/task.h"

namespace video {

namespace {

using apta::AsText;
using examples::Task;
using nlohmann::json;

constexpr int kParts = 2;
constexpr Format kFormat = {
    .width = 320, .height = 180, .frames_per_second = 25, .frames = 100, .key_interval = 12};

absl::StatusOr<json> Locate(Task& task, const json& input) {
  const absl::StatusOr<apta::Object> video = task.Get(input.at("video"));
  if (!video.ok()) return video.status();
  const absl::StatusOr<KeyFrames> found = LocateKeyFrames(AsText(video->bytes()));
  if (!found.ok()) return found.status();
  return json{{"frames", found->frames}, {"at", found->at}};
}

absl::StatusOr<json> SplitVideo(Task& task, const json& input) {
  const std::string key = input.at("video");
  const KeyFrames found{.frames = input.at("keyFrames").at("frames"),
                        .at = input.at("keyFrames").at("at")};
  std::vector<int> cuts = ChooseCuts(found, kParts);
  const absl::StatusOr<apta::Object> video = task.Get(key);
  if (!video.ok()) return video.status();
  const absl::StatusOr<std::vector<std::string>> parts = Split(AsText(video->bytes()), cuts);
  if (!parts.ok()) return parts.status();
  json result = json::array();
  cuts.push_back(found.frames);
  for (std::size_t i = 0; i < parts->size(); ++i) {
    result.push_back(
        {{"part", fmt::format("{}/part-{}", key, i)}, {"frames", cuts[i + 1] - cuts[i]}});
    task.Put(result.back().at("part"), (*parts)[i]);
  }
  return json{{"parts", result}};
}

// The part as it is marked takes the place of the part as it was.
absl::StatusOr<json> AnalyzePart(Task& task, const json& input) {
  const std::string key = input.at("part");
  const absl::StatusOr<apta::Object> part = task.Get(key);
  if (!part.ok()) return part.status();
  const absl::StatusOr<Analysis> analysis = Analyze(AsText(part->bytes()));
  if (!analysis.ok()) return analysis.status();
  task.Put(key, analysis->video);
  return json{{"part", key},
              {"frames", input.at("frames")},
              {"brightness", analysis->brightness},
              {"motion", analysis->motion}};
}

absl::StatusOr<json> Validate(Task& task, const json& input) {
  double seconds = 0;
  json result = input;
  for (const json& part : input.at("parts")) {
    const absl::StatusOr<apta::Object> object = task.Get(part.at("part"));
    if (!object.ok()) return object.status();
    const absl::StatusOr<Properties> found = Inspect(AsText(object->bytes()));
    if (!found.ok()) return found.status();
    if (found->frames != part.at("frames").get<int>()) {
      return absl::DataLossError(fmt::format("{} has {} frames, not {}",
                                             part.at("part").get<std::string>(), found->frames,
                                             part.at("frames").get<int>()));
    }
    seconds += found->seconds;
  }
  const std::string key = input.at("video").get<std::string>() + "/report";
  task.Put(key, json{{"parts", input.at("parts")}, {"seconds", seconds}}.dump(2));
  result["report"] = key;
  return result;
}

absl::StatusOr<json> Concat(Task& task, const json& input) {
  std::vector<apta::Object> objects;  // pinned until their parts are written
  std::vector<std::string_view> parts;
  for (const json& part : input.at("parts")) {
    absl::StatusOr<apta::Object> object = task.Get(part.at("part"));
    if (!object.ok()) return object.status();
    parts.push_back(AsText(object->bytes()));
    objects.push_back(*std::move(object));
  }
  const absl::StatusOr<std::string> whole = Concatenate(parts);
  if (!whole.ok()) return whole.status();
  const std::string key = input.at("video").get<std::string>() + "/analyzed";
  task.Put(key, *whole);
  return json{{"analyzed", key}, {"report", input.at("report")}};
}

absl::StatusOr<examples::Input> MakeInput(const examples::InputOptions& options) {
  absl::StatusOr<std::string> video =
      options.data.empty()
          ? MakeVideo(kFormat)
          : examples::ReadFile(options.data + "/video/big_buck_bunny_720p_2mb.mp4");
  if (!video.ok()) return video.status();
  const std::string key = options.run + "/video";
  return examples::Input{{{key, *std::move(video)}}, {{"video", key}}};
}

absl::StatusOr<examples::Outcome> Collect(apta::Client& client, const json& result) {
  examples::Outcome outcome;
  for (const auto& [name, file] :
       {std::pair("analyzed", "analyzed.mp4"), {"report", "report.json"}}) {
    const absl::StatusOr<apta::Object> object = client.Get(result.at(name).get<std::string>());
    if (!object.ok()) return object.status();
    outcome.files[file] = AsText(object->bytes());
  }
  const json report = json::parse(outcome.files["report.json"]);
  outcome.summary = fmt::format("{:.2f} s of video\n", report.at("seconds").get<double>());
  for (const json& part : report.at("parts")) {
    outcome.summary += fmt::format(
        "  {:4} frames  brightness {:5.1f}  motion {:5.2f}\n", part.at("frames").get<int>(),
        part.at("brightness").get<double>(), part.at("motion").get<double>());
  }
  return outcome;
}

}  // namespace

const examples::Application& Application() {
  static const auto& application = *new examples::Application{
      .name = "video",
      .folder = APTA_EXAMPLES_DIR "/video",
      .pattern = "scatter-gather, pipeline",
      .steps = {{"locateKeyFrames", Locate, {"c1"}},
                {"splitVideo", SplitVideo, {"c1"}},
                {"analyze", AnalyzePart, {"c1", "c2"}},
                {"validate", Validate, {"c3"}},
                {"concat", Concat, {"c3"}}},
      .paper = {.hits = 2, .misses = 3, .puts = 5, .invalidating_puts = 1},
      .make_input = MakeInput,
      .collect = Collect};
  return application;
}

}  // namespace video
