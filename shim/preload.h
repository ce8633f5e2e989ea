// What the files of interposed symbols share.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "shim/real.h"
#include "shim/shim.h"

// A symbol that programs find before the C library's.
#define APTA_INTERPOSED extern "C" __attribute__((visibility("default")))

namespace apta::shim {

// The segment that a path means: of /dev/shm, and matched.
inline std::optional<std::string> SegmentOfPath(const char* path) {
  constexpr std::string_view kFolder = "/dev/shm/";
  // Almost every path differs early on.
  if (path == nullptr || path[0] != '/' || path[1] != 'd' || path[2] != 'e' ||
      !std::string_view(path).starts_with(kFolder)) {
    return std::nullopt;
  }
  std::string name(path + kFolder.size());
  if (!Shim::Matches(name)) return std::nullopt;
  return name;
}

inline Shim* ShimOf(int fd) {
  Shim* const shim = Shim::Existing();
  return shim != nullptr && shim->Knows(fd) ? shim : nullptr;
}

inline Shim* ShimOf(const void* begin, std::size_t bytes) {
  Shim* const shim = Shim::Existing();
  return shim != nullptr && shim->MayCover(begin, bytes) ? shim : nullptr;
}

}  // namespace apta::shim
