// Sessions: who is attached. The control plane of the memory server, on one thread.
//
// A process connects to the Unix socket, says which pool it wants and gets, if the pool's owner,
// group and mode let it in (SO_PEERCRED), a node slot, the region's descriptor, a port and one
// doorbell per shard. The session ends with the socket or with the process (pidfd), whichever
// goes first; then every shard forgets the node, and only when all have, port and slot are reused.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "apta/server.h"
#include "daemon/io_loop.h"
#include "daemon/pool.h"
#include "daemon/shard.h"
#include "fabric/control.h"
#include "fabric/port.h"

namespace apta::daemon {

class Sessions {
 public:
  // `listener`: a bound, listening, non-blocking SOCK_SEQPACKET socket; taken over.
  Sessions(IoLoop* loop, fabric::UniqueFd listener, std::vector<std::unique_ptr<Pool>>* pools,
           std::vector<std::unique_ptr<Shard>>* shards, const LinkOptions& link, int life_fd);
  ~Sessions();

  // A shard has forgotten a node / wants it cut off / has fenced it.
  void OnForgotten(NodeId node);
  void OnHostile(NodeId node);
  void OnFenced(NodeId node, const FenceReason& reason);

  // Closes connections that have not said what they want in time. Returns how long until the next
  // one is due.
  fabric::TimeNs CloseSilent(fabric::TimeNs now_ns);

 private:
  // Connected, and has not said Hello.
  struct Guest {
    fabric::UniqueFd socket;
    fabric::TimeNs deadline_ns;
    IoLoop::WatchId watch = 0;
  };
  struct Session {
    NodeId node;
    std::size_t pool_index;
    std::string name;
    pid_t pid;
    fabric::UniqueFd socket;
    fabric::UniqueFd pidfd;
    fabric::Port port;
    std::vector<fabric::Doorbell> doorbells;  // one per shard
    IoLoop::WatchId socket_watch = 0;
    IoLoop::WatchId pidfd_watch = 0;
    int shards_left = 0;  // that have not forgotten the node
    bool has_ended = false;
    bool is_fenced = false;
  };

  void Accept();
  void Receive(std::list<Guest>::iterator guest);
  void RemoveGuest(std::list<Guest>::iterator guest);
  void AnswerHello(const fabric::Hello& hello, fabric::UniqueFd socket);
  absl::Status Attach(const fabric::Hello& hello, fabric::UniqueFd* socket);
  absl::Status SendWelcome(const Session& session, const Pool& pool);
  absl::Status CheckAccess(int socket, const PoolOptions& pool) const;
  void End(NodeId node);
  void OnSocketReadable(NodeId node);
  void SendState(int socket);
  std::string StateAsJson();

  IoLoop* loop_;
  fabric::UniqueFd listener_;
  std::vector<std::unique_ptr<Pool>>& pools_;
  std::vector<std::unique_ptr<Shard>>& shards_;
  LinkOptions link_;
  int life_fd_;  // the Server's
  IoLoop::WatchId listener_watch_;
  std::list<Guest> guests_;
  std::array<std::unique_ptr<Session>, fabric::kMaxNodes> session_;
};

// Access of a peer with these credentials to a pool, as for a file's read permission.
// PERMISSION_DENIED names the pool, the peer and who may.
absl::Status CheckPoolAccess(const PoolOptions& pool, uid_t peer_uid,
                             const std::vector<gid_t>& peer_gids);

}  // namespace apta::daemon
