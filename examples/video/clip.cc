#include "clip.h"

#include <fmt/format.h>

extern "C" {
#include <libswscale/swscale.h>
}

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>

#include "media.h"

namespace video {

namespace {

constexpr int kWidest = 640;
constexpr int kKeyInterval = 25;  // of what Analyze makes

struct DropScaler {
  void operator()(SwsContext* scaler) const { sws_freeContext(scaler); }
};

double Mean(const AVFrame& frame) {
  std::int64_t sum = 0;
  for (int y = 0; y < frame.height; ++y) {
    const std::uint8_t* const row = frame.data[0] + std::ptrdiff_t{y} * frame.linesize[0];
    for (int x = 0; x < frame.width; ++x) sum += row[x];
  }
  return static_cast<double>(sum) / (double{1} * frame.width * frame.height);
}

double MeanDifference(const AVFrame& a, const AVFrame& b) {
  std::int64_t sum = 0;
  for (int y = 0; y < a.height; ++y) {
    const std::uint8_t* const left = a.data[0] + std::ptrdiff_t{y} * a.linesize[0];
    const std::uint8_t* const right = b.data[0] + std::ptrdiff_t{y} * b.linesize[0];
    for (int x = 0; x < a.width; ++x) sum += std::abs(left[x] - right[x]);
  }
  return static_cast<double>(sum) / (double{1} * a.width * a.height);
}

void FillLuma(AVFrame& frame, int left, int top, int width, int height, int luma) {
  for (int y = std::max(0, top); y < std::min(frame.height, top + height); ++y) {
    const int begin = std::max(0, left);
    const int end = std::min(frame.width, left + width);
    if (begin >= end) continue;
    std::memset(frame.data[0] + std::ptrdiff_t{y} * frame.linesize[0] + begin, luma,
                static_cast<std::size_t>(end - begin));
  }
}

void FillChroma(AVFrame& frame, int blue, int red) {
  const int rows = (frame.height + 1) / 2;
  std::memset(frame.data[1], blue, static_cast<std::size_t>(frame.linesize[1] * rows));
  std::memset(frame.data[2], red, static_cast<std::size_t>(frame.linesize[2] * rows));
}

// Scaled frames, measured, marked and encoded.
class Analyst {
 public:
  Analyst(const Demuxer& demuxer) : demuxer_(demuxer) {}

  absl::Status Take(AVFrame* decoded) {
    if (encoder_ == nullptr) {
      if (absl::Status begun = Begin(*decoded); !begun.ok()) return begun;
    }
    Frame frame = MakeFrame(width_, height_);
    scaler_.reset(sws_getCachedContext(
        scaler_.release(), decoded->width, decoded->height,
        static_cast<AVPixelFormat>(decoded->format), width_, height_, AV_PIX_FMT_YUV420P,
        SWS_BILINEAR | SWS_BITEXACT | SWS_ACCURATE_RND, nullptr, nullptr, nullptr));
    if (frame == nullptr || scaler_ == nullptr) return absl::InternalError("swscale failed");
    sws_scale(scaler_.get(), decoded->data, decoded->linesize, 0, decoded->height, frame->data,
              frame->linesize);
    const double motion = previous_ == nullptr ? 0 : MeanDifference(*frame, *previous_);
    brightness_ += Mean(*frame);
    motion_ += motion;
    ++frames_;
    previous_.reset(av_frame_clone(frame.get()));
    if (av_frame_make_writable(frame.get()) < 0) return absl::InternalError("no memory");
    const double share = std::min(1.0, motion / 16);
    FillLuma(*frame, 0, height_ - 8, static_cast<int>(share * width_), 8, 235);
    frame->pts = av_rescale_q(decoded->pts, demuxer_.stream().time_base, encoder_->time_base());
    return encoder_->Encode(frame.get());
  }

  absl::StatusOr<Analysis> Finish() {
    if (encoder_ == nullptr) return absl::InvalidArgumentError("a video without frames");
    absl::StatusOr<std::string> encoded = encoder_->Finish();
    if (!encoded.ok()) return encoded.status();
    return Analysis{.frames = frames_,
                    .brightness = brightness_ / frames_,
                    .motion = frames_ > 1 ? motion_ / (frames_ - 1) : 0,
                    .video = *std::move(encoded)};
  }

 private:
  absl::Status Begin(const AVFrame& first) {
    // Even numbers: chroma has half of them.
    width_ = std::max(2, std::min(first.width, kWidest) & ~1);
    height_ = std::max(2, static_cast<int>(std::int64_t{first.height} * width_ / first.width) & ~1);
    absl::StatusOr<std::unique_ptr<Encoder>> encoder =
        Encoder::Open(width_, height_, demuxer_.frame_rate(), kKeyInterval);
    if (!encoder.ok()) return encoder.status();
    encoder_ = *std::move(encoder);
    return absl::OkStatus();
  }

  const Demuxer& demuxer_;
  std::unique_ptr<Encoder> encoder_;
  std::unique_ptr<SwsContext, DropScaler> scaler_;
  Frame previous_;
  int width_ = 0;
  int height_ = 0;
  int frames_ = 0;
  double brightness_ = 0;
  double motion_ = 0;
};

bool AreOfOneKind(const AVCodecParameters& a, const AVCodecParameters& b) {
  return a.codec_id == b.codec_id && a.width == b.width && a.height == b.height &&
         a.extradata_size == b.extradata_size &&
         (a.extradata_size == 0 ||
          std::memcmp(a.extradata, b.extradata, static_cast<std::size_t>(a.extradata_size)) == 0);
}

}  // namespace

absl::StatusOr<KeyFrames> LocateKeyFrames(std::string_view video) {
  const auto demuxer = Demuxer::Open(video);
  if (!demuxer.ok()) return demuxer.status();
  const Packet packet(av_packet_alloc());
  KeyFrames found;
  for (;; ++found.frames) {
    const absl::StatusOr<bool> got = (*demuxer)->Read(packet.get());
    if (!got.ok()) return got.status();
    if (!*got) return found;
    if ((packet->flags & AV_PKT_FLAG_KEY) != 0) found.at.push_back(found.frames);
  }
}

std::vector<int> ChooseCuts(const KeyFrames& key_frames, int parts) {
  std::vector<int> cuts;
  for (int i = 0; i < parts; ++i) {
    const int wanted = static_cast<int>(std::int64_t{key_frames.frames} * i / parts);
    int best = -1;
    for (const int at : key_frames.at) {
      const bool is_free = cuts.empty() || at > cuts.back();
      if (is_free && (best < 0 || std::abs(at - wanted) < std::abs(best - wanted))) best = at;
    }
    if (best >= 0) cuts.push_back(best);
  }
  return cuts;
}

absl::StatusOr<std::vector<std::string>> Split(std::string_view video,
                                               const std::vector<int>& cuts) {
  const auto opened = Demuxer::Open(video);
  if (!opened.ok()) return opened.status();
  Demuxer& demuxer = **opened;
  const AVRational time_base = demuxer.stream().time_base;
  const Packet packet(av_packet_alloc());
  std::vector<std::string> parts;
  std::unique_ptr<Muxer> muxer;
  std::int64_t begin = 0;  // of the part, in the stream's time
  std::size_t next_cut = 0;
  for (int number = 0;; ++number) {
    const absl::StatusOr<bool> got = demuxer.Read(packet.get());
    if (!got.ok()) return got.status();
    const bool is_cut = *got && next_cut < cuts.size() && number == cuts[next_cut];
    if ((is_cut || !*got) && muxer != nullptr) {
      absl::StatusOr<std::string> part = muxer->Finish();
      if (!part.ok()) return part.status();
      parts.push_back(*std::move(part));
    }
    if (!*got) break;
    if (is_cut) {
      if ((packet->flags & AV_PKT_FLAG_KEY) == 0) {
        return absl::InvalidArgumentError(fmt::format("frame {} is no key frame", number));
      }
      auto made = Muxer::Open(*demuxer.stream().codecpar, time_base, demuxer.frame_rate());
      if (!made.ok()) return made.status();
      muxer = *std::move(made);
      begin = packet->pts;
      ++next_cut;
    }
    if (muxer == nullptr) continue;  // before the first cut
    packet->pts -= begin;
    packet->dts -= begin;
    if (absl::Status s = muxer->Write(packet.get(), time_base); !s.ok()) return s;
  }
  if (parts.size() != cuts.size()) {
    return absl::InvalidArgumentError(fmt::format("the video has no frame {}", cuts[next_cut]));
  }
  return parts;
}

absl::StatusOr<Analysis> Analyze(std::string_view video) {
  const auto demuxer = Demuxer::Open(video);
  if (!demuxer.ok()) return demuxer.status();
  Analyst analyst(**demuxer);
  if (absl::Status s = (*demuxer)->Decode([&](AVFrame* frame) { return analyst.Take(frame); });
      !s.ok()) {
    return s;
  }
  return analyst.Finish();
}

absl::StatusOr<Properties> Inspect(std::string_view video) {
  const auto demuxer = Demuxer::Open(video);
  if (!demuxer.ok()) return demuxer.status();
  Properties found;
  std::int64_t first = 0;
  std::int64_t last = 0;
  const absl::Status decoded = (*demuxer)->Decode([&](AVFrame* frame) {
    if (found.frames == 0) {
      found.width = frame->width;
      found.height = frame->height;
      first = frame->pts;
    } else if (frame->width != found.width || frame->height != found.height || frame->pts <= last) {
      return absl::DataLossError(fmt::format("frame {} does not follow the others", found.frames));
    }
    last = frame->pts;
    ++found.frames;
    return absl::OkStatus();
  });
  if (!decoded.ok()) return decoded;
  if (found.frames == 0) return absl::InvalidArgumentError("a video without frames");
  found.seconds = static_cast<double>(last - first) * av_q2d((*demuxer)->stream().time_base) +
                  1 / av_q2d((*demuxer)->frame_rate());
  return found;
}

absl::StatusOr<std::string> Concatenate(const std::vector<std::string_view>& parts) {
  std::unique_ptr<Demuxer> first;
  std::unique_ptr<Muxer> muxer;
  std::int64_t end = 0;  // of what has been written, in the first one's time
  const Packet packet(av_packet_alloc());
  for (const std::string_view part : parts) {
    auto opened = Demuxer::Open(part);
    if (!opened.ok()) return opened.status();
    std::unique_ptr<Demuxer> demuxer = *std::move(opened);
    const AVStream& stream = demuxer->stream();
    const AVStream& model = first == nullptr ? stream : first->stream();
    if (muxer == nullptr) {
      auto made = Muxer::Open(*stream.codecpar, stream.time_base, demuxer->frame_rate());
      if (!made.ok()) return made.status();
      muxer = *std::move(made);
    } else if (!AreOfOneKind(*stream.codecpar, *model.codecpar) ||
               av_cmp_q(stream.time_base, model.time_base) != 0) {
      return absl::InvalidArgumentError("these parts are not of one kind");
    }
    const std::int64_t begin = end;
    const std::int64_t frame_ticks =
        av_rescale_q(1, av_inv_q(demuxer->frame_rate()), stream.time_base);
    for (;;) {
      const absl::StatusOr<bool> got = demuxer->Read(packet.get());
      if (!got.ok()) return got.status();
      if (!*got) break;
      packet->pts += begin;
      packet->dts += begin;
      if (packet->duration <= 0) packet->duration = frame_ticks;
      end = std::max(end, packet->pts + packet->duration);
      if (absl::Status s = muxer->Write(packet.get(), stream.time_base); !s.ok()) return s;
    }
    if (first == nullptr) first = std::move(demuxer);
  }
  if (muxer == nullptr) return absl::InvalidArgumentError("no parts to concatenate");
  return muxer->Finish();
}

absl::StatusOr<std::string> MakeVideo(const Format& format) {
  const AVRational frame_rate{format.frames_per_second, 1};
  const auto encoder = Encoder::Open(format.width, format.height, frame_rate, format.key_interval);
  if (!encoder.ok()) return encoder.status();
  for (int i = 0; i < format.frames; ++i) {
    const Frame frame = MakeFrame(format.width, format.height);
    if (frame == nullptr) return absl::InternalError("no memory");
    const double turn = 2 * M_PI * i / format.frames;
    FillLuma(*frame, 0, 0, format.width, format.height, 90 + static_cast<int>(50 * std::sin(turn)));
    for (int x = 0; x < format.width; x += 16) {
      FillLuma(*frame, x, 0, 8, format.height / 2, 60 + (x * 7 + i) % 120);
    }
    const int side = format.height / 4;
    FillLuma(*frame, static_cast<int>((format.width - side) * (0.5 + 0.5 * std::cos(3 * turn))),
             static_cast<int>((format.height - side) * (0.5 + 0.5 * std::sin(2 * turn))), side,
             side, 220);
    FillChroma(*frame, 128 + static_cast<int>(40 * std::cos(turn)), 120);
    frame->pts = av_rescale_q(i, av_inv_q(frame_rate), (*encoder)->time_base());
    if (absl::Status s = (*encoder)->Encode(frame.get()); !s.ok()) return s;
  }
  return (*encoder)->Finish();
}

}  // namespace video
