// Pictures: smaller ones, the words that stand in them, and those words marked. Encoded pictures
// (JPEG, PNG and what else Leptonica reads) go in, JPEG comes out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace image {

struct Size {
  int width, height;
};
// INVALID_ARGUMENT: not a picture.
absl::StatusOr<Size> SizeOf(std::string_view picture);

// At most `longest` pixels wide and high, in the same proportions; never larger than it was.
absl::StatusOr<std::string> Resize(std::string_view picture, int longest);

struct Word {
  std::string text;
  float confidence;  // percent
  int left, top, width, height;
};
// What Tesseract's trained model for English reads, in reading order; words that it is less sure of
// than `confidence` percent are left out. FAILED_PRECONDITION: the model is not installed.
absl::StatusOr<std::vector<Word>> Predict(std::string_view picture, float confidence);

// A frame around each word, and the word as it was read beneath.
absl::StatusOr<std::string> Render(std::string_view picture, const std::vector<Word>& words);

// A photograph that nobody took: a sign with these lines, in uneven light, a little askew, out of
// focus and noisy. The same for the same arguments on any machine with the same libraries.
absl::StatusOr<std::string> MakePhotograph(std::uint32_t seed,
                                           const std::vector<std::string>& lines);

}  // namespace image
