// What the interposed calls do with segments: between the program, its node's working copies and
// the committed versions.
//
// A segment is opened either as its node's working copy (to write, or because the node has one),
// or, to read only, as a view: a file of the right size whose mappings are the heap's own pages,
// and which is filled when somebody reads it otherwise.
// 1. What the node's first writer finds is the newest version; what its last writer leaves is
//    committed, if it differs.
// 2. An in-place mapping's object is pinned for as long as a range or descriptor of its view is
// there,
//    by this process alone: before a fork such ranges are made copies.
// Thread-safe; the descriptors' and addresses' first look takes no lock. Results are those of the
// calls, with errno.
#pragma once

#include <sys/stat.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "apta/object.h"
#include "shim/node.h"
#include "shim/segments.h"
#include "shim/store.h"

namespace apta::shim {

void Tell(const absl::Status& status);  // one line on standard error

class Shim {
 public:
  // The process's; never destroyed. Made when the first matched name is opened.
  static Shim& Get();
  // Whether Get() has been called here; costs one load.
  static Shim* Existing() { return s_shim.load(std::memory_order_acquire); }  // partner: Get
  // Whether $APTA_SHMEM says that this name is ours.
  static bool Matches(std::string_view segment);

  // In the child of a vfork, whose memory is its parent's: nothing is known there.
  bool Knows(int fd) const { return segments_.Knows(fd) && IsHere(); }
  bool MayCover(const void* begin, std::size_t bytes) const {
    const auto at = reinterpret_cast<std::uintptr_t>(begin);
    return segments_.MayCover(at, at + bytes) && IsHere();
  }

  int Open(const std::string& segment, int flags, mode_t mode);
  int Unlink(const std::string& segment);
  int Stat(const std::string& segment, struct stat* status);
  int Close(int fd);  // without closing it: 0, or -1 where what it wrote could not be committed
  bool Owns(int fd);  // ours, not the program's
  void Duplicated(int fd, int new_fd, bool is_inherited);
  void FillForReading(int fd);
  void* Map(void* address, std::size_t bytes, int protection, int flags, int fd, off_t offset);
  // Of any address: matched or not.
  int Unmap(void* address, std::size_t bytes);
  void MappedOver(const void* address, std::size_t bytes);
  void* Remap(void* address, std::size_t old_bytes, std::size_t bytes, int flags, void* to);
  int Sync(void* address, std::size_t bytes, int flags);
  void LeaveAll();  // the process ends in good order

  void BeforeFork();
  void AfterFork(bool in_child);

  // For what is like a segment but no file (System V): the same store, node and lock.
  Store& store() { return store_; }
  Node& node() { return node_; }
  std::mutex& mutex() { return mutex_; }
  bool IsHere() const;
  // Its writers of this process, which a forked child has too. Under mutex().
  bool WritesElsewhere(ino_t locks) const { return writers_elsewhere_.contains(locks); }
  void BeginWriting(ino_t locks);
  bool EndWriting(ino_t locks);  // whether it was the last; its lock is still held

 private:
  struct Segment {
    std::string name;
    int fd = -1;  // ours
    ino_t inode = 0;
    bool is_view = false;
    Object object;           // of a view
    bool is_filled = false;  // a view's file has its contents
  };

  Shim() = default;
  absl::StatusOr<int> OpenSegment(const std::string& name, int flags, mode_t mode);
  absl::StatusOr<int> OpenView(const std::string& name, int flags, const Object& object);
  absl::StatusOr<SegmentId> MakeView(const std::string& name, const Object& object);
  absl::StatusOr<int> OpenCopy(const std::string& name, int flags, mode_t mode, int fd,
                               bool is_live, const std::optional<Object>& newest);
  absl::Status FillCopy(const std::string& name, int fd, const std::optional<Object>& newest);
  absl::Status FillView(Segment* view);
  absl::Status Commit(const Segment& copy, bool alone);
  absl::Status Refresh(const Segment& copy);
  absl::Status RefreshView(const Range& range);
  void Forget(const void* address, std::size_t bytes);
  absl::Status Leave(const Left& left);
  absl::Status LeaveEach(const std::vector<Left>& left);
  bool IsWrittenHere(const std::string& name, ino_t inode);
  SegmentId Find(const std::string& name, ino_t inode) const;
  Use CheckedUse(int fd);
  bool MapInPlace(Segment* view, const Range& range);
  void MakePrivate(const Range& range);
  int Adopt(int fd);
  void Abandon(int fd);
  void Mark(int own_fd);
  void Unmark(int own_fd);

  static std::atomic<Shim*> s_shim;

  Segments segments_;       // changed under both mutexes, or under table_mutex_ by Unmap
  std::mutex table_mutex_;  // short; what it covers asks nobody
  std::mutex mutex_;        // taken first; what it covers may wait for the memory server
  std::map<SegmentId, Segment> segment_;
  SegmentId own_ = 0;                       // whose descriptors are ours
  std::map<ino_t, int> writers_elsewhere_;  // how many, by their locks
  Store store_;
  Node node_;
  std::atomic<pid_t> pid_{0};
};

}  // namespace apta::shim
