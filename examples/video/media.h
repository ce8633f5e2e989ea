// FFmpeg's libraries over bytes in memory: containers in and out, frames in and out. Video streams
// only. Errors carry FFmpeg's words; bytes that are no video are INVALID_ARGUMENT.
#pragma once

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
}

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace video {

struct DropMedia {
  void operator()(AVPacket* packet) const { av_packet_free(&packet); }
  void operator()(AVFrame* frame) const { av_frame_free(&frame); }
  void operator()(AVCodecContext* codec) const { avcodec_free_context(&codec); }
};
using Packet = std::unique_ptr<AVPacket, DropMedia>;
using Frame = std::unique_ptr<AVFrame, DropMedia>;
using Codec = std::unique_ptr<AVCodecContext, DropMedia>;

// What FFmpeg reads from and writes to.
struct Memory {
  std::string_view input;
  std::string output;
  std::int64_t position = 0;
};

// A file in memory, its best video stream. The bytes must outlive it.
class Demuxer {
 public:
  static absl::StatusOr<std::unique_ptr<Demuxer>> Open(std::string_view bytes);
  ~Demuxer();
  Demuxer(const Demuxer&) = delete;
  Demuxer& operator=(const Demuxer&) = delete;

  const AVStream& stream() const { return *format_->streams[stream_index_]; }
  AVRational frame_rate() const { return av_guess_frame_rate(format_, stream_, nullptr); }
  // The stream's next packet, in decoding order; false at its end.
  absl::StatusOr<bool> Read(AVPacket* packet);
  // Each frame in the order of its showing.
  absl::Status Decode(const std::function<absl::Status(AVFrame*)>& visit);

 private:
  Demuxer() = default;

  Memory memory_;
  AVFormatContext* format_ = nullptr;
  AVStream* stream_ = nullptr;
  int stream_index_ = -1;
};

// An MP4 file in memory with one video stream.
class Muxer {
 public:
  static absl::StatusOr<std::unique_ptr<Muxer>> Open(const AVCodecParameters& parameters,
                                                     AVRational time_base, AVRational frame_rate);
  ~Muxer();
  Muxer(const Muxer&) = delete;
  Muxer& operator=(const Muxer&) = delete;

  // Takes what the packet refers to; times are in `time_base`.
  absl::Status Write(AVPacket* packet, AVRational time_base);
  absl::StatusOr<std::string> Finish();

 private:
  Muxer() = default;

  Memory memory_;
  AVFormatContext* format_ = nullptr;
};

// MPEG-4 frames into an MP4 file.
class Encoder {
 public:
  // Every `key_interval`-th frame, and no other, is a key frame.
  static absl::StatusOr<std::unique_ptr<Encoder>> Open(int width, int height, AVRational frame_rate,
                                                       int key_interval);
  AVRational time_base() const { return codec_->time_base; }
  // The next frame, YUV 4:2:0, with pts in time_base().
  absl::Status Encode(const AVFrame* frame);
  absl::StatusOr<std::string> Finish();

 private:
  absl::Status Drain();

  Codec codec_;
  std::unique_ptr<Muxer> muxer_;
  std::int64_t frame_ticks_ = 1;
};

// Writable, YUV 4:2:0. Null if there is no memory.
Frame MakeFrame(int width, int height);

}  // namespace video
