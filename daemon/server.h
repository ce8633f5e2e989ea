// The memory server: pools, shards and the control thread, started and stopped together.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "apta/server.h"
#include "daemon/io_loop.h"
#include "daemon/log/pool_log.h"
#include "daemon/mailbox.h"
#include "daemon/pool.h"
#include "daemon/sessions.h"
#include "daemon/shard.h"
#include "fabric/life.h"

namespace apta::daemon {

class Server {
 public:
  // Errors as MemoryServer::Start.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options);
  ~Server();

  const std::string& socket() const { return socket_; }
  const std::vector<std::unique_ptr<Pool>>& pools() const { return pools_; }

 private:
  Server() = default;
  absl::Status OpenPools(const ServerOptions& options);
  absl::Status OpenLog(std::size_t pool_index);
  void StartLogs();
  absl::Status StartShards(const ServerOptions& options);
  void RunControl();

  // Destroyed from the last to the first: threads before what they use.
  std::string socket_;
  fabric::UniqueFd socket_lock_;
  std::vector<std::unique_ptr<Pool>> pools_;
  std::map<std::size_t, std::unique_ptr<log::PoolLog>> logs_;  // by pool; not all have one
  std::vector<std::unique_ptr<Shard>> shards_;
  std::unique_ptr<IoLoop> loop_;
  std::unique_ptr<Mailbox> mailbox_;  // of the control thread
  fabric::Life life_;                 // the control thread's
  std::unique_ptr<Sessions> sessions_;
  std::atomic<bool> stop_{false};
  std::thread control_;
};

}  // namespace apta::daemon
