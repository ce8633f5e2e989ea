// What this process has of segments: descriptors and mapped ranges, and how many of them write.
//
// A pure table: no system calls, no locks. Knows and MayCover may be asked by any thread at any
// time, and are what an unmatched call costs; callers serialise all else.
// 1. A segment's uses are its descriptors and its ranges; a range that is cut in two is two.
// 2. Ranges do not overlap.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace apta::shim {

using SegmentId = std::uint32_t;  // from 1

struct Use {
  SegmentId segment = 0;
  bool writes = false;
};

// Mapped addresses, and what was asked of mmap.
struct Range {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  std::uint64_t file_offset = 0;  // of the first byte
  int protection = 0;
  int flags = 0;
  Use use;
};

// A segment lost uses: perhaps the last of this process.
struct Left {
  SegmentId segment = 0;
  bool last_writer = false;
  bool last_use = false;
};

class Segments {
 public:
  static constexpr int kMaxFds = 1 << 16;

  // Relaxed, both: who passes a descriptor or an address to another thread orders it himself.
  bool Knows(int fd) const {
    return static_cast<unsigned>(fd) < kMaxFds &&
           fds_[static_cast<unsigned>(fd)].load(std::memory_order_relaxed) != 0;
  }
  bool MayCover(std::uintptr_t begin, std::uintptr_t end) const {
    return begin < end_.load(std::memory_order_relaxed) &&
           end > begin_.load(std::memory_order_relaxed);
  }

  SegmentId NewSegment();
  Use UseOf(int fd) const;  // segment 0: none
  // REQUIRES: 0 <= fd < kMaxFds, and unknown.
  void AddFd(int fd, Use use);
  std::optional<Left> RemoveFd(int fd);
  void AddRange(const Range& range);
  // What of [begin, end) is mapped, cut to it.
  std::vector<Range> RangesIn(std::uintptr_t begin, std::uintptr_t end) const;
  std::vector<Left> RemoveRanges(std::uintptr_t begin, std::uintptr_t end);
  bool IsWritten(SegmentId segment) const;
  bool IsUsed(SegmentId segment) const;
  // Forgets all; which segments were in use.
  std::vector<Left> Clear();

 private:
  struct Counts {
    std::uint32_t uses = 0;
    std::uint32_t writers = 0;
  };
  void Add(Use use);
  Left Remove(Use use);
  void UpdateBounds();

  // segment * 2 + writes; 0 = not a segment's
  std::array<std::atomic<std::uint32_t>, kMaxFds> fds_{};
  std::atomic<std::uintptr_t> begin_{0};  // of all ranges; empty: 0, 0
  std::atomic<std::uintptr_t> end_{0};
  std::map<std::uintptr_t, Range> ranges_;  // by begin
  std::map<SegmentId, Counts> counts_;
  SegmentId last_segment_ = 0;
};

}  // namespace apta::shim
