// Videos as bytes: where their key frames are, parts of them, what happens in them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace video {

struct KeyFrames {
  int frames = 0;
  std::vector<int> at;  // numbers of frames in decoding order, from 0
};
// By the packets' marks; nothing is decoded.
absl::StatusOr<KeyFrames> LocateKeyFrames(std::string_view video);

// Where to begin each of `parts` parts of about the same length: key frames, the first one first.
// Fewer, if there are fewer key frames.
std::vector<int> ChooseCuts(const KeyFrames& key_frames, int parts);

// Parts that begin at `cuts` and at nothing else, packets as they are. INVALID_ARGUMENT: the video
// cannot be cut there. Other streams than the picture are dropped.
absl::StatusOr<std::vector<std::string>> Split(std::string_view video,
                                               const std::vector<int>& cuts);

struct Analysis {
  int frames = 0;
  double brightness = 0;  // mean of luma, 0 to 255
  double motion = 0;      // mean difference in luma between neighbouring frames
  std::string video;      // at most 640 pixels wide; a bar at each frame's foot shows its motion
};
absl::StatusOr<Analysis> Analyze(std::string_view video);

struct Properties {
  int frames = 0;
  int width = 0;
  int height = 0;
  double seconds = 0;  // from the first frame's beginning to the last one's end
};
// By decoding all of it. DATA_LOSS: frames of different sizes, or not one after the other.
absl::StatusOr<Properties> Inspect(std::string_view video);

// One after the other, packets as they are. INVALID_ARGUMENT: they are not of one kind.
absl::StatusOr<std::string> Concatenate(const std::vector<std::string_view>& parts);

struct Format {
  int width, height, frames_per_second, frames, key_interval;
};
// A video that nobody filmed: a square wanders, the light changes. The same for the same format.
absl::StatusOr<std::string> MakeVideo(const Format& format);

}  // namespace video
