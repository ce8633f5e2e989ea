// A history that outlives the processes that write it: records in memory that all of them share.
//
// The test makes a Recording, other processes open it by its path. Each thread claims a Log and is
// its only writer; the test reads when all writers have ended.
//
// 1. A record is there, without its outcome, before its call begins: a process that is killed at
//    any instruction leaves it as an operation that never returned.
// 2. `end_ns` is written last: a record that has it has its whole outcome.
// 3. [begin_ns, end_ns] holds the whole call: no load of it moves past either clock read.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <time.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tests/process/child.h"
#include "tests/sim/history.h"

namespace apta::test {

struct History {
  std::vector<sim::Operation> operations;
  std::vector<bool> is_scheduled;      // of each operation: a get inside an invocation
  std::vector<std::uint32_t> process;  // of each client
};

class Recording {
 public:
  enum class Calls : std::uint32_t { kDirect, kScheduled };

 private:
  // One thread's part. Only the mapping's bytes are shared: a page that nobody wrote costs nothing.
  struct alignas(64) Area {
    std::atomic<std::uint64_t> record_count;  // published
    std::uint32_t process;
    Calls calls;
  };
  struct alignas(64) Control {
    std::uint64_t area_count, area_records;  // written before anybody else looks
    alignas(64) std::atomic<std::uint32_t> claimed_count;
    std::atomic<std::uint64_t> fault_count;
    std::atomic<std::uint64_t> unknown_count;
    alignas(64) std::atomic<bool> stopped;  // read before each operation: on a line of its own
  };
  static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
  static_assert(sizeof(sim::Operation) == 64, "one record, one cache line");

 public:
  Recording(std::uint64_t area_count, std::uint64_t area_records)
      : fd_(memfd_create("history", MFD_CLOEXEC)) {
    bytes_ = sizeof(Control) + area_count * (sizeof(Area) + area_records * sizeof(sim::Operation));
    EXPECT_EQ(ftruncate(fd_.get(), static_cast<off_t>(bytes_)), 0);
    Map();
    control_->area_count = area_count;
    control_->area_records = area_records;
  }
  explicit Recording(const std::string& path) : fd_(open(path.c_str(), O_RDWR | O_CLOEXEC)) {
    struct stat status {};
    EXPECT_EQ(fstat(fd_.get(), &status), 0);
    bytes_ = static_cast<std::size_t>(status.st_size);
    Map();
  }
  ~Recording() { munmap(control_, bytes_); }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  // For processes that this one starts.
  std::string path() const { return "/proc/" + std::to_string(getpid()) + "/fd/" + number(); }

  void Stop() { control_->stopped.store(true, std::memory_order_relaxed); }  // a hint: no partner
  bool stopped() const { return control_->stopped.load(std::memory_order_relaxed); }

  // What should not happen and is no part of a history: bytes of two values, an error.
  // How many there are, with this one.
  std::uint64_t CountFault() { return ++control_->fault_count; }
  std::uint64_t fault_count() const { return control_->fault_count; }
  // Calls that ended with UNAVAILABLE or DEADLINE_EXCEEDED.
  void CountUnknown() { ++control_->unknown_count; }
  std::uint64_t unknown_count() const { return control_->unknown_count; }

  std::uint64_t record_count() const {
    std::uint64_t records = 0;
    for (std::uint32_t i = 0; i < control_->area_count; ++i) {
      records += area(i).record_count.load(std::memory_order_relaxed);  // about: no partner
    }
    return records;
  }

  // REQUIRES: all writers have ended.
  History Collect() const {
    History history;
    const std::uint64_t count = record_count();
    history.operations.reserve(count);
    history.process.push_back(0);  // clients begin at 1
    history.is_scheduled.reserve(count);
    for (std::uint32_t i = 0; i < control_->area_count; ++i) {
      history.process.push_back(area(i).process);
      for (std::uint64_t record = 0; record < area(i).record_count; ++record) {
        sim::Operation operation = records(i)[record];
        if (operation.end_ns == sim::kNever) {
          if (operation.kind == sim::Operation::Kind::kGet) continue;  // it says nothing
          operation.version = 0;  // invariant 2: the rest of its outcome may be half there
          operation.failed = false;
        }
        history.operations.push_back(operation);
        history.is_scheduled.push_back(area(i).calls == Calls::kScheduled);
      }
    }
    return history;
  }

 private:
  friend class Log;

  std::string number() const { return std::to_string(fd_.get()); }
  void Map() {
    void* const at = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    if (at == MAP_FAILED) std::abort();
    control_ = static_cast<Control*>(at);
  }
  Area& area(std::uint32_t i) const { return reinterpret_cast<Area*>(control_ + 1)[i]; }
  sim::Operation* records(std::uint32_t i) const {
    Area* const end_of_areas = &area(static_cast<std::uint32_t>(control_->area_count));
    return reinterpret_cast<sim::Operation*>(end_of_areas) + i * control_->area_records;
  }

  Fd fd_;
  std::size_t bytes_ = 0;
  Control* control_ = nullptr;
};

// What one thread does: Begin, the call, then End, Forget, or neither, if nobody knows how it
// ended.
class Log {
 public:
  using Kind = sim::Operation::Kind;
  static constexpr int kAtOnce = 2;

  Log(Recording* recording, std::uint32_t process,
      Recording::Calls calls = Recording::Calls::kDirect)
      : index_(recording->control_->claimed_count.fetch_add(1)),
        area_(&recording->area(index_)),
        next_(recording->records(index_)),
        end_(next_ + recording->control_->area_records) {
    EXPECT_LT(index_, recording->control_->area_count);
    if (index_ >= recording->control_->area_count) std::abort();
    area_->process = process;
    area_->calls = calls;
  }

  // Of all threads of all processes, above 0.
  std::uint32_t client() const { return index_ + 1; }
  // No room for kAtOnce more.
  bool full() const { return end_ - next_ < kAtOnce; }

  // REQUIRES: !full() at most kAtOnce calls ago.
  void Begin(Kind kind, std::uint64_t key, std::uint64_t value = 0, std::uint64_t expected = 0) {
    sim::Operation& record = *next_++;
    record = {.kind = kind,
              .client = client(),
              .key = key,
              .value = value,
              .end_ns = sim::kNever,
              .expected = expected};
    record.begin_ns = Now();
    Publish(1);
  }
  void End(std::uint64_t value, std::uint64_t version, bool failed = false) {
    const std::uint64_t end_ns = Now();
    sim::Operation& record = next_[-1];
    record.value = value;
    record.version = version;
    record.failed = failed;
    // Release: partner of whoever learns that this process has ended, and then reads the record.
    std::atomic_ref(record.end_ns).store(end_ns, std::memory_order_release);
  }
  // The call certainly did nothing, and what it says of the key is not part of the model.
  void Forget() {
    --next_;
    Publish(-1);
  }

 private:
  static std::uint64_t Now() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);  // the loads before it are done,
    __builtin_ia32_lfence();               // and those after it have not begun: invariant 3
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(now.tv_nsec);
  }
  void Publish(std::int64_t change) {
    const std::uint64_t count = area_->record_count.load(std::memory_order_relaxed);  // our own
    // Release: as in End.
    area_->record_count.store(count + static_cast<std::uint64_t>(change),
                              std::memory_order_release);
  }

  std::uint32_t index_;
  Recording::Area* area_;
  sim::Operation* next_;
  sim::Operation* end_;
};

}  // namespace apta::test
