#include "tools/apta/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/time/clock.h"
#include "tools/apta/output.h"

namespace apta::tool {

std::string RenderProgress(std::string_view phase, std::uint64_t done_bytes,
                           std::uint64_t total_bytes, absl::Duration elapsed) {
  constexpr std::size_t kBarColumns = 20;
  phase = phase.substr(0, 12);
  const std::int64_t seconds = absl::ToInt64Seconds(elapsed);
  if (total_bytes == 0) {
    if (done_bytes == 0) return fmt::format("{:<12} {} s", phase, seconds);
    return fmt::format("{:<12} {}  {} s", phase, FormatBytes(done_bytes), seconds);
  }
  const double share =
      std::min(1.0, static_cast<double>(done_bytes) / static_cast<double>(total_bytes));
  const auto filled = static_cast<std::size_t>(share * kBarColumns);
  return fmt::format("{:<12} [{}{}] {:3.0f} %  {} of {}  {} s", phase, std::string(filled, '#'),
                     std::string(kBarColumns - filled, '.'), share * 100, FormatBytes(done_bytes),
                     FormatBytes(total_bytes), seconds);
}

Progress::Progress(std::string phase, std::uint64_t total_bytes, bool wanted)
    : total_bytes_(total_bytes), phase_(std::move(phase)) {
  if (wanted && isatty(STDERR_FILENO) == 1) drawer_ = std::thread([this] { Draw(); });
}

Progress::~Progress() {
  if (!drawer_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    end_ = true;
  }
  ended_.notify_one();
  drawer_.join();
}

void Progress::SetPhase(std::string phase) {
  const std::lock_guard lock(mutex_);
  phase_ = std::move(phase);
}

void Progress::Draw() {
  const absl::Time begin = absl::Now();
  std::unique_lock lock(mutex_);
  const auto ended = [this] { return end_; };
  if (ended_.wait_for(lock, std::chrono::seconds(1), ended)) return;
  do {
    Tell(fmt::format("\r{}\x1b[K",
                     RenderProgress(phase_, done_bytes_, total_bytes_, absl::Now() - begin)));
  } while (!ended_.wait_for(lock, std::chrono::milliseconds(100), ended));
  Tell("\r\x1b[K");
}

}  // namespace apta::tool
