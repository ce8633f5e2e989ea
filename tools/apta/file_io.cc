#include "tools/apta/file_io.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>

namespace apta::tool {
namespace {

absl::Status Errno(std::string_view what, const std::string& path) {
  const int error = errno;  // before fmt can change it
  return absl::ErrnoToStatus(error, fmt::format("cannot {} {}", what, path));
}

// The file itself where `path` is a symbolic link to it, so that a rename keeps the link.
std::string Resolve(const std::string& path) {
  const std::unique_ptr<char, void (*)(void*)> resolved(realpath(path.c_str(), nullptr), std::free);
  return resolved == nullptr ? path : resolved.get();
}

}  // namespace

Source::Source(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}

Source::Source(Source&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      name_(std::move(other.name_)),
      size_bytes_(other.size_bytes_) {}

Source::~Source() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<Source> Source::Open(const std::string& path) {
  const bool is_standard = path == "-";
  const std::string name = is_standard ? "standard input" : path;
  const int fd = is_standard ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0)
                             : open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Errno("open", name);
  Source source(fd, name);
  struct stat status {};
  if (fstat(fd, &status) != 0) return Errno("look at", name);
  if (S_ISDIR(status.st_mode)) {
    return absl::InvalidArgumentError(fmt::format("{} is a directory", name));
  }
  // Files of /proc say 0 whatever they hold.
  if (S_ISREG(status.st_mode) && status.st_size > 0) {
    const off_t position = lseek(fd, 0, SEEK_CUR);
    if (position >= 0 && position <= status.st_size) {
      source.size_bytes_ = static_cast<std::uint64_t>(status.st_size - position);
    }
  }
  return source;
}

absl::StatusOr<std::size_t> Source::Read(absl::Span<std::byte> into) {
  while (true) {
    const ssize_t got = read(fd_, into.data(), into.size());
    if (got >= 0) return static_cast<std::size_t>(got);
    if (errno != EINTR) return Errno("read", name_);
  }
}

FileReplacement::FileReplacement(int fd, std::string path, std::string temporary_path)
    : fd_(fd), path_(std::move(path)), temporary_path_(std::move(temporary_path)) {}

FileReplacement::FileReplacement(FileReplacement&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      temporary_path_(std::exchange(other.temporary_path_, {})) {}

FileReplacement::~FileReplacement() {
  if (fd_ >= 0) close(fd_);
  if (!temporary_path_.empty()) unlink(temporary_path_.c_str());
}

absl::StatusOr<FileReplacement> FileReplacement::Create(const std::string& path) {
  struct stat status {};
  const bool exists = stat(path.c_str(), &status) == 0;
  if (exists && S_ISDIR(status.st_mode)) {
    return absl::InvalidArgumentError(fmt::format("{} is a directory", path));
  }
  if (exists && !S_ISREG(status.st_mode)) {
    const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) return Errno("open", path);
    return FileReplacement(fd, path, "");
  }
  const std::string target = Resolve(path);
  std::string temporary = target + ".XXXXXX";
  const int fd = mkostemp(temporary.data(), O_CLOEXEC);
  if (fd < 0) return Errno("make a file beside", path);
  FileReplacement file(fd, target, temporary);
  // What open would have given a new file; an old one keeps its mode.
  const mode_t mask = umask(0);
  umask(mask);
  if (fchmod(fd, exists ? status.st_mode & 07777 : 0666 & ~mask) != 0) {
    return Errno("set the mode of", temporary);
  }
  return file;
}

absl::Status FileReplacement::Commit() {
  // close tells of errors that a network file system has kept back.
  if (close(std::exchange(fd_, -1)) != 0) return Errno("write", path_);
  if (temporary_path_.empty()) return absl::OkStatus();
  if (rename(temporary_path_.c_str(), path_.c_str()) != 0) return Errno("replace", path_);
  temporary_path_.clear();
  return absl::OkStatus();
}

}  // namespace apta::tool
