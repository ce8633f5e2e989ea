#include "fabric/control.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "fmt/format.h"

namespace apta::fabric {
namespace {

constexpr std::size_t kMaxFdsPerPacket = 32;

}  // namespace

absl::Status SendPacket(int socket, const void* data, std::size_t bytes,
                        const std::vector<int>& fds) {
  iovec part{const_cast<void*>(data), bytes};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxFdsPerPacket * sizeof(int))];
  if (fds.size() > kMaxFdsPerPacket) return absl::InternalError("too many descriptors in a packet");
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
  }
  ssize_t sent;
  do {
    sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return absl::ErrnoToStatus(errno, "sending on the control socket");
  return absl::OkStatus();
}

absl::StatusOr<std::size_t> ReceivePacket(int socket, void* data, std::size_t bytes,
                                          std::vector<UniqueFd>* fds, std::size_t max_fds) {
  iovec part{data, bytes};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxFdsPerPacket * sizeof(int))];
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(std::min(max_fds, kMaxFdsPerPacket) * sizeof(int));
  ssize_t received;
  do {
    received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  if (received < 0) return absl::ErrnoToStatus(errno, "receiving on the control socket");
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      UniqueFd owned(fd);  // closed when nobody asked for it
      if (fds != nullptr) fds->push_back(std::move(owned));
    }
  }
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return absl::InvalidArgumentError("a control packet is larger than any that Āpta sends");
  }
  return static_cast<std::size_t>(received);
}

std::string ResolveSocket(std::string_view socket) {
  if (!socket.empty()) return std::string(socket);
  const char* from_environment = std::getenv("APTA_SOCKET");
  return from_environment != nullptr && *from_environment != '\0' ? from_environment
                                                                  : kDefaultSocket;
}

absl::StatusOr<UniqueFd> ConnectSocket(const std::string& socket) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(fmt::format("socket {}: a socket's path has at most {} bytes",
                                                  socket, sizeof(address.sun_path) - 1));
  }
  socket.copy(address.sun_path, socket.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, "socket");
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno == EACCES || errno == EPERM) {
      return absl::PermissionDeniedError(fmt::format("socket {}: {}", socket, strerror(errno)));
    }
    return absl::UnavailableError(
        fmt::format("no memory server at {} ({}); start one with aptad --socket {}", socket,
                    strerror(errno), socket));
  }
  return fd;
}

absl::Status CheckKey(std::string_view key) {
  if (IsValidKey(key)) return absl::OkStatus();
  if (key.empty()) return absl::InvalidArgumentError("the key is empty; a key has 1 to 1024 bytes");
  if (key.size() > kMaxKeyBytes) {
    return absl::InvalidArgumentError(
        fmt::format("the key has {} bytes; a key has 1 to {} bytes", key.size(), kMaxKeyBytes));
  }
  return absl::InvalidArgumentError(
      fmt::format("the key has a NUL at byte {}; keys have none", key.find('\0')));
}

absl::Status MakeStatus(const Reply& reply, std::string_view what) {
  const auto code = static_cast<absl::StatusCode>(reply.code);
  const auto& value = reply.value;
  std::string text;
  switch (reply.reason) {
    case Reason::kNone:
      if (code == absl::StatusCode::kOk) return absl::OkStatus();
      text = fmt::format("{}: the memory server refused it", what);
      break;
    case Reason::kNoSuchObject:
      text = fmt::format("{}: no such object", what);
      break;
    case Reason::kDamaged:
      text = fmt::format(
          "{}: was found damaged in the pool's memory, and is lost; put it anew, or delete it",
          what);
      break;
    case Reason::kVersionMoved:
      text = value[0] == 0
                 ? fmt::format("{}: does not exist, so if_version does not hold", what)
                 : fmt::format("{}: is at version {}, so if_version does not hold", what, value[0]);
      break;
    case Reason::kPoolFull:
      text = fmt::format(
          "{}: the pool is full: no room for {} bytes; {} bytes are in live objects, {} bytes in "
          "old "
          "versions that nodes still hold (apta nodes); delete objects or give the pool more bytes",
          what, value[0], value[1], value[2]);
      break;
    case Reason::kObjectTooLarge:
      text =
          fmt::format("{}: {} bytes are more than the pool can ever hold in one object ({} bytes)",
                      what, value[0], value[1]);
      break;
    case Reason::kBadKey:
      text = fmt::format("{}: not a key; keys have 1 to {} bytes and no NUL", what, kMaxKeyBytes);
      break;
    case Reason::kBadRequest:
      text = fmt::format("{}: the memory server could not make sense of the request", what);
      break;
    case Reason::kNotTrusted:
      text = fmt::format("{}: the pool is isolated, its extents cannot be filled in place", what);
      break;
    case Reason::kNoSuchDraft:
      text = fmt::format("{}: the draft is gone", what);
      break;
    case Reason::kNoSuchFunction:
      text = fmt::format("{}: no attached node has this function", what);
      break;
    case Reason::kAlreadyRegistered:
      text = fmt::format("{}: this node has registered it before", what);
      break;
    case Reason::kQueueFull:
      text = fmt::format("{}: {} invocations are waiting already; try again later", what, value[0]);
      break;
    case Reason::kNoSuchInvocation:
      text = fmt::format("{}: no such invocation, or its result was taken already", what);
      break;
    case Reason::kDeadline:
      text = fmt::format("{}: not done by its deadline; attempts begun: {}", what, value[0]);
      break;
    case Reason::kNodeLost:
      text = fmt::format("{}: the node that ran it died; attempts begun: {}", what, value[0]);
      break;
    case Reason::kCancelled:
      text = fmt::format("{}: cancelled; the attempt that called it does not count any more", what);
      break;
    case Reason::kOtherLimits:
      text = fmt::format("{}: this node has registered it before, with other options", what);
      break;
    case Reason::kNotOnThatNode:
      text = fmt::format("{}: no attached node of that name has this function (apta nodes)", what);
      break;
    case Reason::kCallerQueueFull:
      text = fmt::format("{}: {} invocations of this caller are waiting already; try again later",
                         what, value[0]);
      break;
    case Reason::kAttemptDeadline:
      text = fmt::format("{}: not done by the function's own deadline; attempts begun: {}", what,
                         value[0]);
      break;
    case Reason::kFunctionFailed:
      text = fmt::format("{}: the function failed", what);
      break;
    case Reason::kKeptBackFull:
      text = fmt::format(
          "{}: this node's transactions and invocations keep back {} bytes, of {} that they may "
          "(node_quota); commit smaller ones",
          what, value[0], value[1]);
      break;
    case Reason::kLogFailed:
      text = fmt::format(
          "{}: the pool is read-only, because its log cannot be written ({}){}; the memory server "
          "tries again by itself: see that the log's file system has room and works",
          what, strerror(static_cast<int>(value[0])),
          value[1] != 0 ? "" : "; whether this will be there after a restart is not known");
      break;
  }
  return absl::Status(code, text);
}

}  // namespace apta::fabric
