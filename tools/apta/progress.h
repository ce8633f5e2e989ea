// A progress bar on standard error for whatever takes longer than a second.
//
// Draws from a thread of its own, so that it also lives while its owner waits in a call. Nothing
// happens, and no thread is started, unless standard error is a terminal. Set and SetPhase are
// thread-safe.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "absl/time/time.h"

namespace apta::tool {

// One line of at most 79 columns. Without a total (0) it shows what was done and for how long.
std::string RenderProgress(std::string_view phase, std::uint64_t done_bytes,
                           std::uint64_t total_bytes, absl::Duration elapsed);

class Progress {
 public:
  Progress(std::string phase, std::uint64_t total_bytes, bool wanted = true);
  ~Progress();  // wipes the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void Set(std::uint64_t done_bytes) { done_bytes_ = done_bytes; }
  void SetPhase(std::string phase);

 private:
  void Draw();

  const std::uint64_t total_bytes_;
  std::atomic<std::uint64_t> done_bytes_{0};
  std::mutex mutex_;
  std::condition_variable ended_;
  bool end_ = false;   // guarded by mutex_
  std::string phase_;  // guarded by mutex_
  std::thread drawer_;
};

}  // namespace apta::tool
