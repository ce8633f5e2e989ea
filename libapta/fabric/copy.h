// How payloads of many lines are copied, by what happens to the bytes next. memcpy sees one slice
// at a time and keeps each in the caches; who copies knows how large the whole is.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "fabric/clock.h"

namespace apta::fabric {

// With streaming stores, past the caches; for any addresses. What the calling thread stores
// afterwards is ordered behind it.
void CopyPastCaches(std::byte* to, const std::byte* from, std::uint64_t bytes);

// From this size on an object is written past the caches: it would push everything else out of them
// before anybody reads it, and each of its lines would be fetched only to be overwritten (8
// MiB: 2.4 ns a line instead of 4.7). One of 1 MiB is found there by its readers, and written in
// half the time, because the version before last lies there too.
inline constexpr std::uint64_t kPastCachesBytes = 8 << 20;

// Copies a part of an object of `object_bytes` to its extent.
inline void CopyToExtent(std::byte* to, const std::byte* from, std::uint64_t bytes,
                         std::uint64_t object_bytes) {
  if (object_bytes >= kPastCachesBytes) return CopyPastCaches(to, from, bytes);
  std::memcpy(to, from, bytes);
}

// Through the caches or past them: which way bytes reach another core sooner that reads them at
// once. Where both cores have one last-level cache, 1 MiB takes a third of the time through it;
// where each has its own, half of the time past them, since lines that the other has read must be
// taken from it one by one. Hosts move the cores of virtual machines, so nobody can know for long:
// bodies are timed, one in kTrialEvery takes the other way, and the next ones the faster way, by
// size.
//
// Thread-safe; a race between two reports loses one of them.
class HandOverWay {
 public:
  static constexpr std::uint64_t kLeastBytes = 32 << 10;  // smaller bodies are not worth a look
  static constexpr std::uint32_t kTrialEvery = 32;

  // Whether the next body of `bytes` (kLeastBytes or more) goes past the caches.
  bool NextIsPastCaches(std::uint64_t bytes);
  // How long it took.
  void Took(bool past_caches, std::uint64_t bytes, TimeNs ns);

 private:
  static constexpr std::size_t kClasses = 6;  // from 32 KiB, 64 KiB, 256 KiB, … 16 MiB on
  struct Class {
    std::atomic<std::uint32_t> bodies{0};
    std::array<std::atomic<std::uint32_t>, 2> ps_per_byte{};  // through, past; 0 = not known yet
  };
  static std::size_t ClassOf(std::uint64_t bytes);

  std::array<Class, kClasses> class_;
};

}  // namespace apta::fabric
