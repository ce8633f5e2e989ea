// Mappings, and forks of processes that have some.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "shim/real.h"
#include "shim/shim.h"

namespace apta::shim {
namespace {

constexpr std::size_t kPageBytes = 4096;

thread_local bool t_is_forking = false;

std::uintptr_t AddressOf(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }
void* PointerTo(std::uintptr_t address) { return reinterpret_cast<void*>(address); }
std::size_t PagesOf(std::size_t bytes) {
  return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}
bool IsShared(int flags) { return (flags & MAP_TYPE) != MAP_PRIVATE; }

// For laying a mapping over one that is there.
int FlagsOver(int flags) { return (flags & ~MAP_FIXED_NOREPLACE) | MAP_FIXED; }

}  // namespace

// Lays the heap's pages over a view's mapping: all that the object fills.
bool Shim::MapInPlace(Segment* view, const Range& range) {
  const std::uint64_t end = std::min<std::uint64_t>(range.file_offset + (range.end - range.begin),
                                                    view->object.size() / kPageBytes * kPageBytes);
  if (end <= range.file_offset) return true;
  const std::optional<ObjectPages> pages = store_.Pages(view->object);
  if (!pages.has_value()) return false;
  void* const mapped = Real().mmap(PointerTo(range.begin), end - range.file_offset,
                                   range.protection, FlagsOver(range.flags), pages->fd,
                                   static_cast<off_t>(pages->offset + range.file_offset));
  Real().close(pages->fd);
  return mapped != MAP_FAILED;
}

void* Shim::Map(void* address, std::size_t bytes, int protection, int flags, int fd, off_t offset) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if ((flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) == MAP_FIXED) Forget(address, bytes);
  const Use of_fd = CheckedUse(fd);
  void* const mapped = Real().mmap(address, bytes, protection, flags, fd, offset);
  if (mapped == MAP_FAILED || of_fd.segment == 0) return mapped;
  // A shared mapping of a descriptor that may write can be made writable at any time.
  const Use use{.segment = of_fd.segment, .writes = of_fd.writes && IsShared(flags)};
  const Range range{.begin = AddressOf(mapped),
                    .end = AddressOf(mapped) + PagesOf(bytes),
                    .file_offset = static_cast<std::uint64_t>(offset),
                    .protection = protection,
                    .flags = flags,
                    .use = use};
  Segment& segment = segment_[use.segment];
  if (segment.is_view && !segment.is_filled && !MapInPlace(&segment, range)) {
    FillView(&segment).IgnoreError();  // what is mapped already is this file
  }
  const std::lock_guard<std::mutex> table(table_mutex_);
  segments_.AddRange(range);
  return mapped;
}

int Shim::Unmap(void* address, std::size_t bytes) {
  const std::uintptr_t begin = AddressOf(address);
  const std::uintptr_t end = begin + PagesOf(bytes);
  {
    const std::lock_guard<std::mutex> table(table_mutex_);
    if (segments_.RangesIn(begin, end).empty()) return Real().munmap(address, bytes);
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Left> left;
  {
    const std::lock_guard<std::mutex> table(table_mutex_);
    if (Real().munmap(address, bytes) != 0) return -1;
    left = segments_.RemoveRanges(begin, end);
  }
  if (LeaveEach(left).ok()) return 0;
  errno = EIO;
  return -1;
}

// REQUIRES: mutex_ is held, or nothing of it is a segment's.
void Shim::Forget(const void* address, std::size_t bytes) {
  const std::uintptr_t begin = AddressOf(address);
  std::vector<Left> left;
  {
    const std::lock_guard<std::mutex> table(table_mutex_);
    left = segments_.RemoveRanges(begin, begin + PagesOf(bytes));
  }
  LeaveEach(left).IgnoreError();
}

void Shim::MappedOver(const void* address, std::size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Forget(address, bytes);
}

void* Shim::Remap(void* address, std::size_t old_bytes, std::size_t bytes, int flags, void* to) {
  const std::uintptr_t begin = AddressOf(address);
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Range> ranges;
  {
    const std::lock_guard<std::mutex> table(table_mutex_);
    ranges = segments_.RangesIn(begin, begin + std::max(PagesOf(old_bytes), kPageBytes));
  }
  if (ranges.empty()) return Real().mremap(address, old_bytes, bytes, flags, to);
  Range range = ranges.front();
  if ((flags & MREMAP_FIXED) != 0) Forget(to, bytes);
  const auto view = segment_.find(range.use.segment);
  if (view->second.is_view) {
    // The kernel moves no range of two mappings: the heap's pages and what ends within a page.
    if (absl::Status filled = FillView(&view->second); !filled.ok()) {
      errno = ErrnoOf(filled);
      return MAP_FAILED;
    }
    MakePrivate(range);
  }
  void* const moved = Real().mremap(address, old_bytes, bytes, flags, to);
  if (moved == MAP_FAILED) return moved;
  range.begin = AddressOf(moved);
  range.end = range.begin + PagesOf(bytes);
  std::vector<Left> left;
  const std::lock_guard<std::mutex> table(table_mutex_);
  // The new one is counted first, under a number of its own where they overlap.
  if (old_bytes != 0) {
    const Range held{.begin = 1, .end = 2, .use = range.use};
    segments_.AddRange(held);
    segments_.RemoveRanges(begin, begin + PagesOf(old_bytes));
    segments_.AddRange(range);
    segments_.RemoveRanges(1, 2);
  } else {
    segments_.AddRange(range);
  }
  return moved;
}

// What is mapped in place of a view whose file is filled becomes a mapping of that file; what the
// program may have changed becomes its own memory.
void Shim::MakePrivate(const Range& range) {
  const Segment& view = segment_[range.use.segment];
  void* const at = PointerTo(range.begin);
  const std::size_t bytes = range.end - range.begin;
  if (IsShared(range.flags) || (range.protection & PROT_WRITE) == 0) {
    Real().mmap(at, bytes, range.protection, FlagsOver(range.flags), view.fd,
                static_cast<off_t>(range.file_offset));
    return;
  }
  const std::uint64_t in_object = PagesOf(view.object.size());
  const std::size_t copied = in_object <= range.file_offset
                                 ? 0
                                 : std::min<std::uint64_t>(bytes, in_object - range.file_offset);
  if (copied == 0) return;
  void* const copy =
      Real().mmap(nullptr, copied, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (copy == MAP_FAILED) return;
  std::memcpy(copy, at, copied);
  Real().mremap(copy, copied, copied, MREMAP_MAYMOVE | MREMAP_FIXED, at);
}

int Shim::Sync(void* address, std::size_t bytes, int flags) {
  if (Real().msync(address, bytes, flags) != 0) return -1;
  const std::uintptr_t begin = AddressOf(address);
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Range> ranges;
  {
    const std::lock_guard<std::mutex> table(table_mutex_);
    ranges = segments_.RangesIn(begin, begin + PagesOf(bytes));
  }
  absl::Status status;
  std::vector<SegmentId> done;
  for (const Range& range : ranges) {
    const Segment& segment = segment_[range.use.segment];
    if (segment.is_view) {
      if ((flags & MS_INVALIDATE) != 0 && IsShared(range.flags)) {
        status.Update(RefreshView(range));
      }
      continue;
    }
    if (std::ranges::find(done, range.use.segment) != done.end()) continue;
    done.push_back(range.use.segment);
    const Node::Gate gate(&node_, segment.name);
    if ((flags & MS_SYNC) != 0 && range.use.writes) status.Update(Commit(segment, false));
    if ((flags & MS_INVALIDATE) != 0) status.Update(Refresh(segment));
  }
  if (status.ok()) return 0;
  Tell(status);
  errno = ErrnoOf(status);
  return -1;
}

// The range alone becomes one of a view of the newest version.
absl::Status Shim::RefreshView(const Range& range) {
  const Segment& old = segment_[range.use.segment];
  absl::StatusOr<std::optional<Object>> newest = store_.Newest(old.name);
  if (!newest.ok()) return newest.status();
  if (!newest->has_value() || (*newest)->version() == old.object.version()) return absl::OkStatus();
  const absl::StatusOr<SegmentId> id = MakeView(old.name, **newest);
  if (!id.ok()) return id.status();
  Range renewed = range;
  renewed.use.segment = *id;
  Segment& view = segment_[*id];
  Real().mmap(PointerTo(range.begin), range.end - range.begin, range.protection,
              FlagsOver(range.flags), view.fd, static_cast<off_t>(range.file_offset));
  if (!view.is_filled && !MapInPlace(&view, renewed)) FillView(&view).IgnoreError();
  std::vector<Left> left;
  {
    const std::lock_guard<std::mutex> table(table_mutex_);
    left = segments_.RemoveRanges(range.begin, range.end);
    segments_.AddRange(renewed);
  }
  return LeaveEach(left);
}

void Shim::BeginWriting(ino_t locks) {
  if (++writers_elsewhere_[locks] == 1) node_.Begin(locks, Node::Part::kWrites);
}

bool Shim::EndWriting(ino_t locks) {
  const auto writers = writers_elsewhere_.find(locks);
  if (writers == writers_elsewhere_.end() || --writers->second > 0) return false;
  writers_elsewhere_.erase(writers);
  return true;
}

// A child has no pins: what its parent maps in place is copied while the parent still holds it.
void Shim::BeforeFork() {
  if (!IsHere()) return;
  mutex_.lock();
  table_mutex_.lock();
  t_is_forking = true;
  node_.PrepareFork();
  for (const auto& [locks, writers] : writers_elsewhere_) {
    node_.TakeForChild(locks, Node::Part::kWrites);
  }
  for (auto& [id, segment] : segment_) {
    if (segment.is_view) {
      if (!segment.is_filled && FillView(&segment).ok()) {
        for (const Range& range : segments_.RangesIn(0, UINTPTR_MAX)) {
          if (range.use.segment == id) MakePrivate(range);
        }
      }
      continue;
    }
    node_.TakeForChild(segment.inode, Node::Part::kUses);
    if (segments_.IsWritten(id)) node_.TakeForChild(segment.inode, Node::Part::kWrites);
  }
}

void Shim::AfterFork(bool in_child) {
  // A child that is not ours (vfork), and its children, have nothing of ours.
  if (!std::exchange(t_is_forking, false)) return;
  if (in_child) {
    const int parents = node_.locks_fd();
    node_.EndFork(true);
    table_mutex_.unlock();
    Unmark(parents);
    Mark(node_.locks_fd());
    store_.Forget();
    // The parent's pins: not ours to drop.
    for (auto& [id, segment] : segment_) new (&segment.object) Object();
    pid_.store(getpid(), std::memory_order_relaxed);
  } else {
    node_.EndFork(false);
    table_mutex_.unlock();
  }
  mutex_.unlock();
}

}  // namespace apta::shim
