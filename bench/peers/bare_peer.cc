// What the disk takes for a durable write, and nothing else: each object has its place in one file,
// written once when it is loaded, and overwritten by puts. Through the page cache with fdatasync,
// or past it (O_DIRECT, O_DSYNC), then in whole blocks. No put is atomic.
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <string.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <utility>

#include "bench/peers/peer.h"
#include "fabric/fd.h"

namespace apta::peers {
namespace {

constexpr std::size_t kBlockBytes = 4096;

constexpr std::size_t BlocksOf(std::size_t bytes) {
  return (bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
}

absl::Status Fault(std::string_view what) {
  return absl::UnavailableError(fmt::format("bare: {}: {}", what, strerrordesc_np(errno)));
}

// All objects are of one size.
struct Places {
  fabric::UniqueFd fd;
  bool is_direct = false;
  std::unordered_map<std::string_view, std::size_t> index_of;  // of a key
};

class BareConnection : public Connection {
 public:
  BareConnection(const Places* places, std::size_t max_value_bytes)
      : places_(places),
        buffer_(
            static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, BlocksOf(max_value_bytes)))) {
    std::memset(buffer_.get(), 0, BlocksOf(max_value_bytes));
  }

  absl::Status Execute(absl::Span<const Op> ops, Reader* reader) override {
    for (const Op& op : ops) {
      const auto place = places_->index_of.find(op.key);
      if (place == places_->index_of.end()) return absl::NotFoundError("bare: no such key");
      const auto at = static_cast<off_t>(place->second * BlocksOf(op.value.size()));
      const absl::Status status = op.is_put ? Put(op, at) : Get(op, at, reader);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Put(const Op& op, off_t at) {
    const int fd = places_->fd.get();
    if (places_->is_direct) {
      const std::size_t bytes = BlocksOf(op.value.size());
      std::memcpy(buffer_.get(), op.value.data(), op.value.size());
      if (pwrite(fd, buffer_.get(), bytes, at) == static_cast<ssize_t>(bytes)) {
        return absl::OkStatus();
      }
      return Fault("pwrite");
    }
    if (pwrite(fd, op.value.data(), op.value.size(), at) != static_cast<ssize_t>(op.value.size())) {
      return Fault("pwrite");
    }
    return fdatasync(fd) == 0 ? absl::OkStatus() : Fault("fdatasync");
  }

  absl::Status Get(const Op& op, off_t at, Reader* reader) {
    const std::size_t bytes = BlocksOf(op.value.size());
    const ssize_t got = pread(places_->fd.get(), buffer_.get(), bytes, at);
    if (got < static_cast<ssize_t>(op.value.size())) return Fault("pread");
    reader->Take(op, {buffer_.get(), op.value.size()});
    return absl::OkStatus();
  }

  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  const Places* const places_;
  std::unique_ptr<std::byte, Free> buffer_;
};

class BareSystem : public System {
 public:
  BareSystem(std::string name, bool is_direct, const Setup& setup)
      : System(std::move(name), false),
        path_(fmt::format("{}/{}", setup.folder, this->name())),
        max_value_bytes_(setup.max_value_bytes) {
    places_.is_direct = is_direct;
  }

  absl::Status Empty(absl::Span<const std::string_view> keys) override {
    const int flags =
        O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | (places_.is_direct ? O_DIRECT | O_DSYNC : 0);
    places_.fd = fabric::UniqueFd(open(path_.c_str(), flags, 0600));
    if (!places_.fd.valid()) return Fault(path_);
    places_.index_of.clear();
    for (const std::string_view key : keys) places_.index_of.emplace(key, places_.index_of.size());
    return absl::OkStatus();
  }

  // Nothing of the file itself is to be written by what is timed.
  absl::Status Loaded() override {
    return fsync(places_.fd.get()) == 0 ? absl::OkStatus() : Fault("fsync");
  }

  absl::StatusOr<std::unique_ptr<Connection>> Connect() override {
    return std::make_unique<BareConnection>(&places_, max_value_bytes_);
  }

 private:
  const std::string path_;
  const std::size_t max_value_bytes_;
  Places places_;
};

}  // namespace

absl::Status StartBare(const Setup& setup, Systems* systems) {
  for (const auto& [name, is_direct] :
       {std::pair("bare-fdatasync", false), std::pair("bare-direct", true)}) {
    if (!setup.Wants(name)) continue;
    systems->push_back(std::make_unique<BareSystem>(name, is_direct, setup));
  }
  return absl::OkStatus();
}

}  // namespace apta::peers
