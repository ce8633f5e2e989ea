// The life word: by one load of it a node knows whether its memory server lives.
//
// The memory server shows the word to all its nodes, read-only. One of its threads owns it, and the
// kernel changes it when that thread ends, however it ends (a robust futex: set_robust_list(2)).
// That happens before the kernel closes the dead process's descriptors, and a memory server starts
// only when it could take its predecessor's socket (server.cc). So what the next memory server
// acknowledges comes after the change: a node that finds the word as it was when it attached, after
// it has found an object, has found what was current when its get began.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "fabric/fd.h"

namespace apta::fabric {

// A node's view of a life word. Copyable; any thread; valid as long as what shows it is mapped.
class LifeView {
 public:
  LifeView() : LifeView(&kForEver) {}  // of somebody who does not die
  explicit LifeView(const std::atomic<std::uint32_t>* word)
      : word_(word), seen_(word->load(std::memory_order_relaxed)) {}

  // Sequentially consistent, which costs nothing on x86: after the reads that it vouches for.
  bool IsAlive() const { return word_->load() == seen_; }

 private:
  static inline const std::atomic<std::uint32_t> kForEver{1};

  const std::atomic<std::uint32_t>* word_;
  std::uint32_t seen_;
};

// The word itself, in a page of its own. Movable.
class Life {
 public:
  // Memory server: makes and seals the page; nobody else can write to it. Dead until Begin.
  static absl::StatusOr<Life> Create();
  // Node: maps what the memory server has sent.
  static absl::StatusOr<Life> Map(UniqueFd fd);

  Life() = default;
  Life(Life&&) noexcept = default;
  Life& operator=(Life&&) noexcept = default;
  ~Life();

  // The calling thread owns the word from here on: its end is the memory server's. It must take no
  // robust mutex before End, which it calls itself unless it is killed.
  void Begin();
  void End();

  // Node: as Region::Retire. Views find it dead.
  void Retire();

  LifeView view() const { return LifeView(&page_->word); }
  int fd() const { return fd_.get(); }

 private:
  struct Page {
    std::atomic<std::uint32_t> word;
  };
  struct Unmap {
    void operator()(Page* page) const;
  };
  struct RobustList;
  struct DeleteList {
    void operator()(RobustList* list) const;
  };

  std::unique_ptr<Page, Unmap> page_;
  UniqueFd fd_;
  std::unique_ptr<RobustList, DeleteList> list_;  // the kernel's way to the word; private memory
};

}  // namespace apta::fabric
