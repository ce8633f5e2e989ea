#include "media.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace video {

namespace {

constexpr std::size_t kBufferBytes = 64 << 10;
constexpr int kTicks = 30'000;  // of encoded video, a second
constexpr int kQuality = 4;     // MPEG-4's quantiser, 1 to 31

absl::Status Failed(const char* what, int error) {
  std::array<char, AV_ERROR_MAX_STRING_SIZE> words{};
  av_strerror(error, words.data(), words.size());
  return absl::InvalidArgumentError(fmt::format("{}: {}", what, words.data()));
}

int ReadMemory(void* opaque, std::uint8_t* to, int wanted) {
  auto& memory = *static_cast<Memory*>(opaque);
  const auto left = static_cast<std::int64_t>(memory.input.size()) - memory.position;
  const auto count = static_cast<int>(std::clamp<std::int64_t>(left, 0, wanted));
  if (count == 0) return AVERROR_EOF;
  std::memcpy(to, memory.input.data() + memory.position, static_cast<std::size_t>(count));
  memory.position += count;
  return count;
}

int WriteMemory(void* opaque, std::uint8_t* from, int count) {
  auto& memory = *static_cast<Memory*>(opaque);
  const auto at = static_cast<std::size_t>(memory.position);
  const auto bytes = static_cast<std::size_t>(count);
  if (memory.output.size() < at + bytes) memory.output.resize(at + bytes);
  std::memcpy(memory.output.data() + at, from, bytes);
  memory.position += count;
  return count;
}

std::int64_t SeekMemory(void* opaque, std::int64_t offset, int whence) {
  auto& memory = *static_cast<Memory*>(opaque);
  const auto size = static_cast<std::int64_t>(std::max(memory.input.size(), memory.output.size()));
  if (whence == AVSEEK_SIZE) return size;
  const int from = whence & ~AVSEEK_FORCE;
  const std::int64_t base = from == SEEK_CUR ? memory.position : from == SEEK_END ? size : 0;
  if (base + offset < 0) return AVERROR(EINVAL);
  return memory.position = base + offset;
}

AVIOContext* OpenMemory(Memory* memory, bool is_output) {
  auto* const buffer = static_cast<unsigned char*>(av_malloc(kBufferBytes));
  return avio_alloc_context(buffer, static_cast<int>(kBufferBytes), is_output ? 1 : 0, memory,
                            is_output ? nullptr : ReadMemory, is_output ? WriteMemory : nullptr,
                            SeekMemory);
}
void CloseMemory(AVIOContext* io) {
  if (io != nullptr) av_freep(&io->buffer);
  avio_context_free(&io);
}

absl::StatusOr<Codec> OpenDecoder(const AVStream& stream) {
  const AVCodec* const decoder = avcodec_find_decoder(stream.codecpar->codec_id);
  if (decoder == nullptr) return absl::UnimplementedError("FFmpeg has no decoder for this video");
  Codec codec(avcodec_alloc_context3(decoder));
  if (const int error = avcodec_parameters_to_context(codec.get(), stream.codecpar); error < 0) {
    return Failed("decoder", error);
  }
  codec->pkt_timebase = stream.time_base;
  codec->thread_count = 1;
  if (const int error = avcodec_open2(codec.get(), decoder, nullptr); error < 0) {
    return Failed("decoder", error);
  }
  return codec;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Demuxer>> Demuxer::Open(std::string_view bytes) {
  av_log_set_level(AV_LOG_QUIET);  // what is wrong is told by our status
  std::unique_ptr<Demuxer> demuxer(new Demuxer);
  demuxer->memory_.input = bytes;
  AVFormatContext* format = avformat_alloc_context();
  AVIOContext* const io = OpenMemory(&demuxer->memory_, /*is_output=*/false);
  format->pb = io;
  if (const int error = avformat_open_input(&format, nullptr, nullptr, nullptr); error < 0) {
    CloseMemory(io);  // the format is gone by now
    return Failed("these bytes are no video", error);
  }
  demuxer->format_ = format;
  if (const int error = avformat_find_stream_info(format, nullptr); error < 0) {
    return Failed("these bytes are no video", error);
  }
  const int index = av_find_best_stream(format, AVMEDIA_TYPE_VIDEO, -1, -1, nullptr, 0);
  if (index < 0) return Failed("these bytes have no video stream", index);
  demuxer->stream_index_ = index;
  demuxer->stream_ = format->streams[index];
  return demuxer;
}

Demuxer::~Demuxer() {
  if (format_ == nullptr) return;
  AVIOContext* const io = format_->pb;
  avformat_close_input(&format_);
  CloseMemory(io);
}

absl::StatusOr<bool> Demuxer::Read(AVPacket* packet) {
  for (;;) {
    av_packet_unref(packet);
    const int error = av_read_frame(format_, packet);
    if (error == AVERROR_EOF) return false;
    if (error < 0) return Failed("reading the video", error);
    if (packet->stream_index == stream_index_) return true;
  }
}

absl::Status Demuxer::Decode(const std::function<absl::Status(AVFrame*)>& visit) {
  const absl::StatusOr<Codec> codec = OpenDecoder(stream());
  if (!codec.ok()) return codec.status();
  const Packet packet(av_packet_alloc());
  const Frame frame(av_frame_alloc());
  for (bool is_more = true; is_more;) {
    const absl::StatusOr<bool> got = Read(packet.get());
    if (!got.ok()) return got.status();
    is_more = *got;
    int error = avcodec_send_packet(codec->get(), is_more ? packet.get() : nullptr);
    if (error < 0) return Failed("decoding", error);
    while ((error = avcodec_receive_frame(codec->get(), frame.get())) >= 0) {
      frame->pts = frame->best_effort_timestamp;
      if (absl::Status visited = visit(frame.get()); !visited.ok()) return visited;
      av_frame_unref(frame.get());
    }
    if (error != AVERROR(EAGAIN) && error != AVERROR_EOF) return Failed("decoding", error);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Muxer>> Muxer::Open(const AVCodecParameters& parameters,
                                                   AVRational time_base, AVRational frame_rate) {
  std::unique_ptr<Muxer> muxer(new Muxer);
  int error = avformat_alloc_output_context2(&muxer->format_, nullptr, "mp4", nullptr);
  if (error < 0) return Failed("MP4", error);
  AVFormatContext* const format = muxer->format_;
  format->pb = OpenMemory(&muxer->memory_, /*is_output=*/true);
  format->flags |= AVFMT_FLAG_BITEXACT;
  AVStream* const stream = avformat_new_stream(format, nullptr);
  error = avcodec_parameters_copy(stream->codecpar, &parameters);
  if (error < 0) return Failed("MP4", error);
  stream->codecpar->codec_tag = 0;  // the container's own
  stream->time_base = time_base;
  stream->avg_frame_rate = frame_rate;
  error = avformat_write_header(format, nullptr);
  if (error < 0) return Failed("MP4", error);
  return muxer;
}

Muxer::~Muxer() {
  if (format_ == nullptr) return;
  AVIOContext* const io = format_->pb;
  avformat_free_context(format_);
  CloseMemory(io);
}

absl::Status Muxer::Write(AVPacket* packet, AVRational time_base) {
  packet->stream_index = 0;
  packet->pos = -1;
  av_packet_rescale_ts(packet, time_base, format_->streams[0]->time_base);
  const int error = av_interleaved_write_frame(format_, packet);
  return error < 0 ? Failed("writing the video", error) : absl::OkStatus();
}

absl::StatusOr<std::string> Muxer::Finish() {
  if (const int error = av_write_trailer(format_); error < 0) {
    return Failed("writing the video", error);
  }
  avio_flush(format_->pb);
  return std::move(memory_.output);
}

absl::StatusOr<std::unique_ptr<Encoder>> Encoder::Open(int width, int height, AVRational frame_rate,
                                                       int key_interval) {
  const AVCodec* const encoder = avcodec_find_encoder(AV_CODEC_ID_MPEG4);
  if (encoder == nullptr) return absl::UnimplementedError("FFmpeg has no MPEG-4 encoder");
  auto made = std::make_unique<Encoder>();
  Codec& codec = made->codec_;
  codec.reset(avcodec_alloc_context3(encoder));
  codec->width = width;
  codec->height = height;
  codec->pix_fmt = AV_PIX_FMT_YUV420P;
  codec->time_base = {1, kTicks};
  codec->framerate = frame_rate;
  codec->gop_size = key_interval;
  codec->max_b_frames = 0;
  codec->thread_count = 1;
  codec->flags |= AV_CODEC_FLAG_GLOBAL_HEADER | AV_CODEC_FLAG_QSCALE | AV_CODEC_FLAG_BITEXACT;
  codec->global_quality = FF_QP2LAMBDA * kQuality;
  // Key frames where the interval says, not where the encoder sees a new scene.
  AVDictionary* options = nullptr;
  av_dict_set(&options, "sc_threshold", "1000000000", 0);
  const int error = avcodec_open2(codec.get(), encoder, &options);
  av_dict_free(&options);
  if (error < 0) return Failed("encoder", error);
  AVCodecParameters* parameters = avcodec_parameters_alloc();
  avcodec_parameters_from_context(parameters, codec.get());
  absl::StatusOr<std::unique_ptr<Muxer>> muxer =
      Muxer::Open(*parameters, codec->time_base, frame_rate);
  avcodec_parameters_free(&parameters);
  if (!muxer.ok()) return muxer.status();
  made->muxer_ = *std::move(muxer);
  made->frame_ticks_ = av_rescale_q(1, av_inv_q(frame_rate), codec->time_base);
  return made;
}

absl::Status Encoder::Drain() {
  const Packet packet(av_packet_alloc());
  int error;
  while ((error = avcodec_receive_packet(codec_.get(), packet.get())) >= 0) {
    packet->duration = frame_ticks_;
    if (absl::Status done = muxer_->Write(packet.get(), time_base()); !done.ok()) return done;
  }
  return error == AVERROR(EAGAIN) || error == AVERROR_EOF ? absl::OkStatus()
                                                          : Failed("encoding", error);
}

absl::Status Encoder::Encode(const AVFrame* frame) {
  if (const int error = avcodec_send_frame(codec_.get(), frame); error < 0) {
    return Failed("encoding", error);
  }
  return Drain();
}

absl::StatusOr<std::string> Encoder::Finish() {
  if (absl::Status done = Encode(nullptr); !done.ok()) return done;
  return muxer_->Finish();
}

Frame MakeFrame(int width, int height) {
  Frame frame(av_frame_alloc());
  frame->format = AV_PIX_FMT_YUV420P;
  frame->width = width;
  frame->height = height;
  if (av_frame_get_buffer(frame.get(), 0) < 0) frame.reset();
  return frame;
}

}  // namespace video
