// memcpy and its rivals: what a copy of so many bytes costs at best on this machine, in this run.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "measure.h"

namespace apta::bench {

// A private buffer that is all there, on 2 MiB pages where it is large enough and the kernel gives
// them (madvise).
class Buffer {
 public:
  explicit Buffer(std::size_t bytes, bool huge = true);
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();
  std::byte* data() const { return data_; }
  std::size_t size() const { return size_bytes_; }

 private:
  std::size_t size_bytes_;
  std::size_t mapped_bytes_;
  std::byte* base_;
  std::byte* data_;
};

// The ways to copy: memcpy, rep_movsb, streaming (whole cache lines only).
struct CopyWay {
  const char* name;
  void (*copy)(std::byte* to, const std::byte* from, std::size_t bytes);
};
extern const std::array<CopyWay, 3> kCopyWays;

// The best of the three, measured when asked.
class BestCopy {
 public:
  explicit BestCopy(std::size_t bytes);
  const Reference* reference() const { return &reference_; }

 private:
  Buffer from_, to_;
  Reference reference_;
};

// Registers "copy/how:memcpy|rep_movsb|streaming/size:N" for each size.
void AddCopies(const std::vector<std::int64_t>& sizes);

}  // namespace apta::bench
