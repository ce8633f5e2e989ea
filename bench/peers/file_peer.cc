// One plain file per object on tmpfs: what needs no library at all.
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <utility>

#include "bench/peers/peer.h"

namespace apta::peers {
namespace {

// From here on mapping a file and unmapping it costs less than copying it out.
constexpr std::size_t kMapFromBytes = 256 << 10;

absl::Status Fault(std::string_view what) {
  return absl::UnavailableError(fmt::format("file: {}: {}", what, strerrordesc_np(errno)));
}

class FileConnection : public Connection {
 public:
  FileConnection(int folder_fd, int id)
      : folder_fd_(folder_fd),
        draft_(fmt::format("draft-{}", id)),
        buffer_(new std::byte[kMapFromBytes]) {}
  ~FileConnection() override { close(folder_fd_); }

  absl::Status Execute(absl::Span<const Op> ops, Reader* reader) override {
    for (const Op& op : ops) {
      name_.assign(op.key);  // the system calls want it ended by a NUL
      const absl::Status status = op.is_put ? Put(op) : Get(op, reader);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  // The buffer takes any file that is not mapped, so a short read tells the size, and no fstat is
  // needed for small ones.
  absl::Status Get(const Op& op, Reader* reader) {
    const int fd = openat(folder_fd_, name_.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return Fault("open");
    absl::Status status;
    const ssize_t size = op.value.size() < kMapFromBytes
                             ? pread(fd, buffer_.get(), kMapFromBytes, 0)
                             : static_cast<ssize_t>(kMapFromBytes);
    if (size < 0) {
      status = Fault("pread");
    } else if (static_cast<std::size_t>(size) < kMapFromBytes) {
      reader->Take(op, {buffer_.get(), static_cast<std::size_t>(size)});
    } else {
      status = GetMapped(fd, op, reader);
    }
    close(fd);
    return status;
  }

  absl::Status GetMapped(int fd, const Op& op, Reader* reader) {
    struct stat info;
    if (fstat(fd, &info) != 0) return Fault("fstat");
    const auto size = static_cast<std::size_t>(info.st_size);
    void* const at = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) return Fault("mmap");
    reader->Take(op, {static_cast<const std::byte*>(at), size});
    munmap(at, size);
    return absl::OkStatus();
  }

  // Written aside and renamed: a get finds the old value or the new one, as with all the others.
  absl::Status Put(const Op& op) {
    const int fd =
        openat(folder_fd_, draft_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return Fault("create");
    const ssize_t written = write(fd, op.value.data(), op.value.size());
    close(fd);
    if (written != static_cast<ssize_t>(op.value.size())) return Fault("write");
    if (renameat(folder_fd_, draft_.c_str(), folder_fd_, name_.c_str()) != 0) {
      return Fault("rename");
    }
    return absl::OkStatus();
  }

  int folder_fd_;
  std::string draft_;
  std::string name_;
  std::unique_ptr<std::byte[]> buffer_;
};

class FileSystem : public System {
 public:
  explicit FileSystem(std::string folder) : System("file", false), folder_(std::move(folder)) {}

  absl::Status Empty(absl::Span<const std::string_view> /*keys*/) override {
    std::error_code fault;
    std::filesystem::remove_all(folder_, fault);
    std::filesystem::create_directories(folder_, fault);
    return fault ? absl::UnavailableError(fmt::format("file: {}", fault.message()))
                 : absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Connection>> Connect() override {
    const int fd = open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return Fault(folder_);
    return std::make_unique<FileConnection>(fd, ++clients_);
  }

 private:
  std::string folder_;
  int clients_ = 0;
};

}  // namespace

absl::Status StartFile(const Setup& setup, Systems* systems) {
  if (!setup.Wants("file")) return absl::OkStatus();
  systems->push_back(std::make_unique<FileSystem>(setup.folder + "/objects"));
  return absl::OkStatus();
}

}  // namespace apta::peers
