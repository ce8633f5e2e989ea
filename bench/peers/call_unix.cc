// A plain Unix socket: the caller writes a length and the input, the function's process reads them
// and writes them back; both block in the kernel.
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "bench/peers/call_peer.h"
#include "bench/peers/process.h"

namespace apta::peers {
namespace {

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&&) = delete;
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  int fd() const { return fd_; }

  // One message, one system call, unless it is cut.
  bool Send(std::string_view text) {
    const auto bytes = static_cast<std::uint32_t>(text.size());
    message_.assign(reinterpret_cast<const char*>(&bytes), sizeof(bytes));
    message_.append(text);
    for (std::size_t sent = 0; sent < message_.size();) {
      const ssize_t more = write(fd_, message_.data() + sent, message_.size() - sent);
      if (more <= 0) return false;
      sent += static_cast<std::size_t>(more);
    }
    return true;
  }
  bool Receive(std::string* text) {
    constexpr std::uint32_t kMostBytes = 1 << 20;
    std::uint32_t bytes = 0;
    message_.resize(4096);
    std::size_t got = 0;
    while (got < sizeof(bytes) || got < sizeof(bytes) + bytes) {
      const ssize_t more = read(fd_, message_.data() + got, message_.size() - got);
      if (more <= 0) return false;
      got += static_cast<std::size_t>(more);
      if (got >= sizeof(bytes)) std::memcpy(&bytes, message_.data(), sizeof(bytes));
      if (bytes > kMostBytes) return false;
      if (message_.size() < sizeof(bytes) + bytes) message_.resize(sizeof(bytes) + bytes);
    }
    text->assign(message_, sizeof(bytes), bytes);
    return true;
  }

 private:
  int fd_;
  std::string message_;
};

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(fmt::format("socket {}: its path is too long", path));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

class UnixCaller : public Caller {
 public:
  UnixCaller(ServerProcess server, Socket socket)
      : server_(std::move(server)), socket_(std::move(socket)) {}

  absl::Status Call(std::string_view input, std::string* output) override {
    if (socket_.Send(input) && socket_.Receive(output)) return absl::OkStatus();
    return absl::UnavailableError("the function's process closed the connection");
  }

 private:
  ServerProcess server_;
  Socket socket_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Caller>> StartUnixCalls(const CallSetup& setup) {
  const std::string path = setup.folder + "/unix.sock";
  auto server = ServerProcess::Start({setup.self, "--serve", "unix-socket", path}, path,
                                     setup.folder + "/unix.log");
  if (!server.ok()) return server.status();
  const absl::StatusOr<sockaddr_un> address = AddressOf(path);
  if (!address.ok()) return address.status();
  Socket connected(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(connected.fd(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) !=
      0) {
    return absl::ErrnoToStatus(errno, "connect");
  }
  return std::make_unique<UnixCaller>(*std::move(server), std::move(connected));
}

absl::Status ServeUnix(const std::string& path) {
  const absl::StatusOr<sockaddr_un> address = AddressOf(path);
  if (!address.ok()) return address.status();
  const Socket listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (bind(listener.fd(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) != 0 ||
      listen(listener.fd(), 16) != 0) {
    return absl::ErrnoToStatus(errno, "listen");
  }
  std::string input;
  while (true) {  // one caller after the other
    Socket caller(accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    if (caller.fd() < 0) return absl::ErrnoToStatus(errno, "accept");
    while (caller.Receive(&input) && caller.Send(input)) {
    }
  }
}

}  // namespace apta::peers
