// Objects: immutable, versioned byte strings that are used in place in the shared heap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/types/span.h"

namespace apta {

// Commit number of a pool: strictly increasing with every commit, never reused, survives a
// restart of the memory server. 0 means "does not exist".
using Version = std::uint64_t;
using Bytes = std::vector<std::byte>;
using BytesView = absl::Span<const std::byte>;

inline BytesView AsBytes(std::string_view text) {
  return BytesView(reinterpret_cast<const std::byte*>(text.data()), text.size());
}
inline std::string_view AsText(BytesView bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

namespace compute {
class Session;
}  // namespace compute

// One immutable version of an object, pinned: its bytes stay readable and unchanged, in place or in
// a private copy (Placement), until the last copy of this Object is gone, whatever happens to the
// key meanwhile. Copying shares the pin (one atomic increment, no allocation). Thread-safe to copy
// and to drop from any thread; one Object may not be assigned to by two threads at once. Keeps the
// mapping of its session alive: dropping the Client first is fine.
class Object {
 public:
  Object() = default;  // names nothing: version 0, no bytes
  Object(const Object& other);
  Object(Object&& other) noexcept { Swap(other); }
  Object& operator=(const Object& other) {
    Object copy(other);
    Swap(copy);
    return *this;
  }
  Object& operator=(Object&& other) noexcept {
    Object taken(std::move(other));
    Swap(taken);
    return *this;
  }
  ~Object() {
    if (pin_ != 0) Unpin();
  }

  std::string_view key() const { return key_; }
  Version version() const { return version_; }
  BytesView bytes() const { return bytes_; }
  std::size_t size() const { return bytes_.size(); }

 private:
  friend class compute::Session;

  void Unpin();
  void Swap(Object& other) noexcept {
    std::swap(pin_, other.pin_);
    std::swap(key_, other.key_);
    std::swap(version_, other.version_);
    std::swap(bytes_, other.bytes_);
  }

  // Where the reference is counted: the address of a pin, or, with kCopy, of a private copy.
  static constexpr std::uintptr_t kCopy = 1;
  std::uintptr_t pin_ = 0;
  std::string_view key_;
  Version version_ = 0;
  BytesView bytes_;
};

struct ObjectInfo {
  std::string key;
  Version version = 0;
  std::uint64_t size = 0;     // payload, bytes
  std::uint64_t sharers = 0;  // nodes that may hold a cached copy of this version
};

}  // namespace apta
