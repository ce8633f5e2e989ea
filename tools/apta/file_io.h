// Files that objects come from and go to, standard input and output among them.
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "apta/object.h"

namespace apta::tool {

// What is read. Movable.
class Source {
 public:
  static absl::StatusOr<Source> Open(const std::string& path);  // "-": standard input
  Source(Source&& other) noexcept;
  Source& operator=(Source&&) = delete;
  ~Source();

  // How many bytes are still to come, where that is known before they are read: regular files.
  std::optional<std::uint64_t> size_bytes() const { return size_bytes_; }
  // 0 bytes = the end.
  absl::StatusOr<std::size_t> Read(absl::Span<std::byte> into);
  const std::string& name() const { return name_; }

 private:
  Source(int fd, std::string name);

  int fd_;
  std::string name_;
  std::optional<std::uint64_t> size_bytes_;
};

// A file that is written beside its place and appears there, whole, with Commit; dropped without
// it, nothing changed. A path that names a device or pipe is written as it stands.
class FileReplacement {
 public:
  static absl::StatusOr<FileReplacement> Create(const std::string& path);
  FileReplacement(FileReplacement&& other) noexcept;
  FileReplacement& operator=(FileReplacement&&) = delete;
  ~FileReplacement();

  int fd() const { return fd_; }
  absl::Status Commit();

 private:
  FileReplacement(int fd, std::string path, std::string temporary_path);

  int fd_;
  std::string path_;
  std::string temporary_path_;  // "" = none: written in place
};

}  // namespace apta::tool
