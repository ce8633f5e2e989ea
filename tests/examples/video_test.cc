// video: what the workflow makes has all frames of what went in, for as long, cut at key frames
// that libavformat's own index knows.

#include <fstream>

#include "tests/examples/examples_run.h"
#include "video/clip.h"
#include "video/media.h"

namespace {

using apta::test::ExampleTest;
using apta::test::ExpectCounts;
using apta::test::Slurp;
using video::Format;

constexpr Format kFormat = {320, 180, 25, 100, 12};  // the example's own input

class VideoTest : public ExampleTest {};

std::string Make(const Format& format) {
  auto made = video::MakeVideo(format);
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *std::move(made) : std::string();
}

// By the container's sample table, which LocateKeyFrames does not look at. From a file, by
// libavformat's own I/O.
video::KeyFrames IndexOf(const std::filesystem::path& path) {
  video::KeyFrames found;
  AVFormatContext* format = nullptr;
  EXPECT_EQ(avformat_open_input(&format, path.c_str(), nullptr, nullptr), 0);
  if (format == nullptr) return found;
  const AVStream* const stream = format->streams[0];
  found.frames = avformat_index_get_entries_count(stream);
  for (int i = 0; i < found.frames; ++i) {
    auto* const entry = avformat_index_get_entry(format->streams[0], i);
    if ((entry->flags & AVINDEX_KEYFRAME) != 0) found.at.push_back(i);
  }
  avformat_close_input(&format);
  return found;
}

TEST_F(VideoTest, KeyFramesAreThoseOfTheContainersIndex) {
  for (const Format& format : {kFormat, Format{64, 48, 30, 1, 5}, Format{64, 48, 10, 47, 10}}) {
    const std::string made = Make(format);
    const auto found = video::LocateKeyFrames(made);
    ASSERT_TRUE(found.ok()) << found.status();
    std::ofstream(folder() / "made.mp4", std::ios::binary) << made;
    const video::KeyFrames indexed = IndexOf(folder() / "made.mp4");
    EXPECT_EQ(found->frames, format.frames);
    EXPECT_EQ(found->frames, indexed.frames);
    EXPECT_EQ(found->at, indexed.at);
    std::vector<int> asked;
    for (int i = 0; i < format.frames; i += format.key_interval) asked.push_back(i);
    EXPECT_EQ(found->at, asked);
  }
}

TEST(VideoCutsTest, PartsAreAboutTheSameAndBeginAtKeyFrames) {
  using Cuts = std::vector<int>;
  EXPECT_EQ(video::ChooseCuts({100, {0, 12, 24, 36, 48, 60, 72, 84, 96}}, 2), (Cuts{0, 48}));
  EXPECT_EQ(video::ChooseCuts({100, {0, 90}}, 2), (Cuts{0, 90}));
  EXPECT_EQ(video::ChooseCuts({100, {0}}, 3), (Cuts{0}));
  EXPECT_EQ(video::ChooseCuts({100, {0, 1, 2}}, 3), (Cuts{0, 2}));
  EXPECT_EQ(video::ChooseCuts({0, {}}, 2), (Cuts{}));
}

TEST(VideoClipTest, PartsTogetherAreTheWhole) {
  const std::string whole = Make(kFormat);
  for (const std::vector<int>& cuts : {std::vector<int>{0}, {0, 48}, {0, 12, 96}}) {
    const auto parts = video::Split(whole, cuts);
    ASSERT_TRUE(parts.ok()) << parts.status();
    ASSERT_EQ(parts->size(), cuts.size());
    for (std::size_t i = 0; i < cuts.size(); ++i) {
      const auto part = video::Inspect((*parts)[i]);
      ASSERT_TRUE(part.ok()) << part.status();
      EXPECT_EQ(part->frames, (i + 1 < cuts.size() ? cuts[i + 1] : kFormat.frames) - cuts[i]);
      EXPECT_NEAR(part->seconds, part->frames / 25.0, 1e-3);
    }
    const auto joined =
        video::Concatenate(std::vector<std::string_view>(parts->begin(), parts->end()));
    ASSERT_TRUE(joined.ok()) << joined.status();
    const auto properties = video::Inspect(*joined);
    ASSERT_TRUE(properties.ok()) << properties.status();
    EXPECT_EQ(properties->frames, kFormat.frames);
    EXPECT_NEAR(properties->seconds, 4.0, 1e-3);
    EXPECT_EQ(properties->width, kFormat.width);
    EXPECT_EQ(properties->height, kFormat.height);
    EXPECT_EQ(video::LocateKeyFrames(*joined)->at, video::LocateKeyFrames(whole)->at);
  }
}

TEST(VideoClipTest, AnalysisKeepsFramesAndSeesMotion) {
  const std::string moving = Make({320, 180, 25, 50, 10});
  const auto analysis = video::Analyze(moving);
  ASSERT_TRUE(analysis.ok()) << analysis.status();
  EXPECT_EQ(analysis->frames, 50);
  EXPECT_GT(analysis->motion, 1);
  const auto marked = video::Inspect(analysis->video);
  ASSERT_TRUE(marked.ok()) << marked.status();
  EXPECT_EQ(marked->frames, 50);
  EXPECT_NEAR(marked->seconds, 2.0, 1e-3);
  // One frame has nothing to differ from, and large ones are made smaller.
  const auto still = video::Analyze(Make({1280, 720, 25, 1, 10}));
  ASSERT_TRUE(still.ok()) << still.status();
  EXPECT_EQ(still->motion, 0);
  EXPECT_EQ(video::Inspect(still->video)->width, 640);
  EXPECT_EQ(video::Inspect(still->video)->height, 360);
}

TEST(VideoClipTest, WhatCannotBeIsRefused) {
  const std::string whole = Make(kFormat);
  for (const std::string& bytes : {std::string(), std::string("text"), whole.substr(0, 1'000)}) {
    EXPECT_FALSE(video::LocateKeyFrames(bytes).ok());
    EXPECT_FALSE(video::Analyze(bytes).ok());
    EXPECT_FALSE(video::Inspect(bytes).ok());
    EXPECT_FALSE(video::Concatenate({bytes}).ok());
  }
  EXPECT_FALSE(video::Split(whole, {0, 13}).ok());   // no key frame
  EXPECT_FALSE(video::Split(whole, {0, 500}).ok());  // no such frame
  EXPECT_FALSE(video::Concatenate({}).ok());
  const std::string other = Make({64, 48, 25, 3, 12});
  EXPECT_FALSE(video::Concatenate({whole, other}).ok());
}

TEST_F(VideoTest, TheResultEqualsThatOfPlainCalls) {
  const auto measured = Run({"video", "--pinned"});
  // Validate and concat get both parts each; the paper counts one get for the two functions.
  ExpectCounts(measured, {4, 4}, {5, 1}, "c1 c1 (c1 c2) c3 c3");
  const std::string whole = Make(kFormat);
  const auto parts = video::Split(whole, {0, 48});
  ASSERT_TRUE(parts.ok()) << parts.status();
  std::vector<std::string> marked;
  const auto report = Json("report.json");
  EXPECT_NEAR(report["seconds"].get<double>(), 4.0, 1e-3);
  for (std::size_t i = 0; i < 2; ++i) {
    const auto analysis = video::Analyze((*parts)[i]);
    ASSERT_TRUE(analysis.ok()) << analysis.status();
    EXPECT_DOUBLE_EQ(report["parts"][i]["brightness"].get<double>(), analysis->brightness);
    EXPECT_DOUBLE_EQ(report["parts"][i]["motion"].get<double>(), analysis->motion);
    marked.push_back(analysis->video);
  }
  const auto joined = video::Concatenate({marked[0], marked[1]});
  ASSERT_TRUE(joined.ok()) << joined.status();
  const std::string made = Slurp(folder() / "analyzed.mp4");
  EXPECT_TRUE(made == *joined);
  EXPECT_EQ(IndexOf(folder() / "analyzed.mp4").frames, kFormat.frames);
}

}  // namespace
