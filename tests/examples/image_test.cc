// image: the model reads what stands on the sign, and the picture is marked there and nowhere else.

#include <algorithm>

#include "image/application.h"
#include "image/picture.h"
#include "tests/examples/examples_run.h"

namespace {

using apta::test::ExampleTest;
using apta::test::ExpectCounts;
using apta::test::Slurp;
using image::Word;

class ImageTest : public ExampleTest {};

std::string Joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}
std::string Read(const std::string& picture) {
  const auto words = image::Predict(picture, 85);
  EXPECT_TRUE(words.ok()) << words.status();
  std::vector<std::string> texts;
  for (const Word& word : *words) texts.push_back(word.text);
  return Joined(texts);
}

TEST(ImagePictureTest, ResizingKeepsProportionsAndNeverEnlarges) {
  const auto photo = image::MakePhotograph(1, {"x"});
  ASSERT_TRUE(photo.ok()) << photo.status();
  const auto small = image::Resize(*photo, 400);
  ASSERT_TRUE(small.ok()) << small.status();
  EXPECT_EQ(image::SizeOf(*small)->width, 400);
  EXPECT_EQ(image::SizeOf(*small)->height, 250);
  const auto same = image::Resize(*photo, 5'000);
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_EQ(image::SizeOf(*same)->width, 1'600);
}

TEST(ImagePictureTest, WhatIsReadIsWhatStandsThere) {
  const auto sign = image::MakePhotograph(2, {"Lighthouse Keeper", "Beware of dogs"});
  ASSERT_TRUE(sign.ok()) << sign.status();
  EXPECT_EQ(Read(*sign), "Lighthouse Keeper Beware of dogs");
  const auto empty = image::MakePhotograph(3, {});
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_EQ(Read(*empty), "");
}

TEST(ImagePictureTest, BytesThatAreNoPictureAreRefused) {
  const auto photo = image::MakePhotograph(1, {"x"});
  ASSERT_TRUE(photo.ok()) << photo.status();
  for (const std::string& bytes : {std::string(), std::string("text"), photo->substr(0, 200)}) {
    EXPECT_EQ(image::Resize(bytes, 10).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(image::Predict(bytes, 0).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(image::Render(bytes, {}).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(ImageTest, TheSignIsReadAndTheResultEqualsThatOfPlainCalls) {
  const auto measured = Run({"image", "--pinned"});
  ExpectCounts(measured, {2, 1}, {3, 0}, "c1 c1 c1");
  std::vector<std::string> texts;
  std::vector<Word> words;
  for (const auto& word : Json("words.json")) {
    texts.push_back(word["text"]);
    words.push_back({word["text"], word["confidence"], word["left"], word["top"], word["width"],
                     word["height"]});
  }
  EXPECT_EQ(Joined(texts), Joined(image::kSign));
  const auto photo = image::MakePhotograph(17, image::kSign);
  ASSERT_TRUE(photo.ok()) << photo.status();
  const auto resized = image::Resize(*photo, 1'000);
  ASSERT_TRUE(resized.ok()) << resized.status();
  EXPECT_TRUE(Slurp(folder() / "resized.jpg") == *resized);
  const auto rendered = image::Render(*resized, words);
  ASSERT_TRUE(rendered.ok()) << rendered.status();
  EXPECT_TRUE(Slurp(folder() / "rendered.jpg") == *rendered);
  EXPECT_FALSE(*rendered == *resized);
}

}  // namespace
