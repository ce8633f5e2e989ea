#include "shim/segments.h"

#include <algorithm>

namespace apta::shim {

SegmentId Segments::NewSegment() { return ++last_segment_; }

Use Segments::UseOf(int fd) const {
  if (!Knows(fd)) return {};
  const std::uint32_t word = fds_[static_cast<unsigned>(fd)].load(std::memory_order_relaxed);
  return {.segment = word >> 1, .writes = (word & 1) != 0};
}

void Segments::Add(Use use) {
  Counts& counts = counts_[use.segment];
  ++counts.uses;
  counts.writers += use.writes;
}

Left Segments::Remove(Use use) {
  const auto counts = counts_.find(use.segment);
  --counts->second.uses;
  counts->second.writers -= use.writes;
  const Left left{.segment = use.segment,
                  .last_writer = use.writes && counts->second.writers == 0,
                  .last_use = counts->second.uses == 0};
  if (left.last_use) counts_.erase(counts);
  return left;
}

void Segments::AddFd(int fd, Use use) {
  Add(use);
  fds_[static_cast<unsigned>(fd)].store(use.segment * 2 + use.writes, std::memory_order_relaxed);
}

std::optional<Left> Segments::RemoveFd(int fd) {
  const Use use = UseOf(fd);
  if (use.segment == 0) return std::nullopt;
  fds_[static_cast<unsigned>(fd)].store(0, std::memory_order_relaxed);
  return Remove(use);
}

void Segments::AddRange(const Range& range) {
  Add(range.use);
  ranges_[range.begin] = range;
  UpdateBounds();
}

std::vector<Range> Segments::RangesIn(std::uintptr_t begin, std::uintptr_t end) const {
  std::vector<Range> found;
  auto at = ranges_.upper_bound(begin);
  if (at != ranges_.begin()) --at;
  for (; at != ranges_.end() && at->first < end; ++at) {
    Range range = at->second;
    if (range.end <= begin) continue;
    if (range.begin < begin) {
      range.file_offset += begin - range.begin;
      range.begin = begin;
    }
    range.end = std::min(range.end, end);
    found.push_back(range);
  }
  return found;
}

std::vector<Left> Segments::RemoveRanges(std::uintptr_t begin, std::uintptr_t end) {
  std::vector<Left> left;
  for (const Range& cut : RangesIn(begin, end)) {
    const auto at = std::prev(ranges_.upper_bound(cut.begin));
    Range before = at->second;
    Range after = at->second;
    ranges_.erase(at);
    // What stays is counted before what goes, so that nothing is taken for the last use.
    if (before.begin < cut.begin) {
      before.end = cut.begin;
      Add(before.use);
      ranges_[before.begin] = before;
    }
    if (after.end > cut.end) {
      after.file_offset += cut.end - after.begin;
      after.begin = cut.end;
      Add(after.use);
      ranges_[after.begin] = after;
    }
    left.push_back(Remove(cut.use));
  }
  UpdateBounds();
  return left;
}

bool Segments::IsWritten(SegmentId segment) const {
  const auto counts = counts_.find(segment);
  return counts != counts_.end() && counts->second.writers != 0;
}

bool Segments::IsUsed(SegmentId segment) const { return counts_.contains(segment); }

std::vector<Left> Segments::Clear() {
  std::vector<Left> left;
  for (const auto& [segment, counts] : counts_) {
    left.push_back({.segment = segment, .last_writer = counts.writers != 0, .last_use = true});
  }
  counts_.clear();
  ranges_.clear();
  for (std::atomic<std::uint32_t>& fd : fds_) {
    if (fd.load(std::memory_order_relaxed) != 0) fd.store(0, std::memory_order_relaxed);
  }
  UpdateBounds();
  return left;
}

void Segments::UpdateBounds() {
  const bool is_empty = ranges_.empty();
  begin_.store(is_empty ? 0 : ranges_.begin()->first, std::memory_order_relaxed);
  end_.store(is_empty ? 0 : ranges_.rbegin()->second.end, std::memory_order_relaxed);
}

}  // namespace apta::shim
