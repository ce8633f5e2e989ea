// The compute side of Āpta: one Client is one node (compute server) with one object cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "apta/object.h"

namespace apta {

class Pending;
class Workflow;
struct CallOptions;
struct RunInfo;
struct RunOptions;
namespace compute {
class NodeRuntime;
class DraftState;
class WriteSet;
class PendingState;
class Caller;
}  // namespace compute

// Where a cached object's bytes are read from.
enum class Placement { kAuto, kInPlace, kLocalCopy };

struct ClientOptions {
  std::string socket;                   // "" = $APTA_SOCKET, else /run/apta/aptad.sock
  std::string pool = "default";         // one of the memory server's pools
  std::string node;                     // "" = $APTA_NODE, else "<hostname>/<pid>"; up to 127 bytes
  std::size_t cache_bytes = 256 << 20;  // limit on the bytes of unpinned cached objects
  Placement placement = Placement::kAuto;
  absl::Duration timeout = absl::Seconds(5);  // of any one request; past it DEADLINE_EXCEEDED
};

struct PutOptions {
  // Commit only if the key's current version is this one; 0 = only if the key does not exist.
  std::optional<Version> if_version;
};

struct CallOptions {
  // Keys of the objects that the invocation declares to read, up to 32 (with more, none counts as
  // declared). It is placed where most of their bytes are cached, and waits for acknowledgements
  // of these objects only: what else it reads may be stale in a pool of mode lazy.
  std::vector<std::string> reads;
  absl::Duration deadline = absl::Seconds(60);  // of the invocation: queue and all attempts
  std::string node;                             // only on an attached node of this name; "" = any
  std::uint64_t workflow = 0;  // calls of one node with the same number, not 0, belong together
  bool explain = false;        // keep what Pending::Explain says
  // An error that the function returns ends the invocation at once, however many attempts are left:
  // for callers that decide themselves what is worth another one.
  bool errors_are_final = false;
};

// Why an invocation was placed as it was, when it was looked at last.
struct Explanation {
  struct Candidate {
    std::string node;
    bool eligible = false;
    std::string verdict;             // "eligible", or why not
    std::uint64_t local_bytes = 0;   // of the declared reads, cached there, as far as is known
    std::uint64_t predecessors = 0;  // invocations of the same workflow that were placed there
    std::uint64_t active = 0;        // invocations of any function that ran there
    std::uint64_t threads = 0;
    std::uint64_t running = 0;  // invocations of this function
    std::uint64_t max_concurrency = 0;
  };
  std::string policy;
  std::string chosen;   // the node; "" = none yet
  std::string because;  // what decided
  std::uint64_t attempt = 0;
  absl::Duration queued;  // how long it waited
  std::vector<Candidate> candidates;
};

// Counters since Connect, over all threads of the node; monotonic but for the bytes_* gauges.
struct ClientStats {
  std::uint64_t hits = 0;                   // gets served from the cache, without a message
  std::uint64_t misses = 0;                 // gets that no cached version served at once
  std::uint64_t puts = 0;                   // committed puts, drafts and deletes
  std::uint64_t invalidations_applied = 0;  // records taken from the invalidation rings
  std::uint64_t evictions = 0;              // entries that left the cache for lack of room
  std::uint64_t reconnects = 0;
  std::uint64_t objects_cached = 0;
  std::uint64_t bytes_cached = 0;             // payload bytes of cached objects
  std::uint64_t bytes_pinned = 0;             // payload bytes that live Objects hold
  Placement placement = Placement::kInPlace;  // what kAuto decided
};

// Where an object's bytes stand in a file.
struct ObjectPages {
  int fd;                // open for reading only, its owner closes it
  std::uint64_t offset;  // of the first byte, a multiple of 4,096
};

// A node as the memory server sees it.
struct NodeInfo {
  std::uint32_t id = 0;  // slot; reused after the node is gone
  std::string name;
  std::int64_t pid = 0;
  std::string pool;
  std::uint64_t outstanding = 0;       // invalidations issued and not yet acknowledged
  std::vector<std::string> functions;  // registered there
  std::uint64_t running = 0;           // invocations running there now, those of the next two too
  std::uint64_t waiting = 0;           // ... that wait for invocations of their own
  std::uint64_t stuck = 0;             // ... that are past their deadline
  std::uint64_t threads = 0;           // of its function host; 0 = none
  std::uint64_t held_bytes = 0;        // of old versions that wait for it (and perhaps others)
  bool fenced = false;                 // cut off; its process has not gone yet
};

struct PoolInfo {
  std::string name;
  std::string backing;
  std::string coherence;
  std::string access;
  std::string durability;
  std::string numa;              // as verified: the nodes where sample pages really are
  std::uint64_t bytes = 0;       // of the region
  std::uint64_t bytes_used = 0;  // in extents of current versions
  std::uint64_t bytes_held = 0;  // in extents of old versions that some node has not released
  std::uint64_t bytes_free = 0;
  std::uint64_t objects = 0;
  // How much of the region has been populated, in the background: its pages are there, and of the
  // size that they will have. When it is `bytes`, nothing more happens to them.
  std::uint64_t bytes_populated = 0;
  std::uint64_t page_bytes = 0;  // what the kernel backs the region with
  Version last_version = 0;
  // Of a pool of durability `region`: objects that were found damaged, and are answered DATA_LOSS
  // until they are put anew or deleted; how often all objects' checksums have been looked at since
  // the memory server started, and how many bytes of theirs.
  std::uint64_t objects_damaged = 0;
  std::uint64_t scrubs = 0;
  std::uint64_t bytes_scrubbed = 0;
  // Of a pool of durability `log`, since the memory server started: durable writes; puts, deletes
  // and transactions that they made durable (log_records / log_writes shared one); their bytes, and
  // the time that they took (log_write_ns / log_writes is a write's latency); checkpoints; and what
  // a start would read beside the last of these.
  std::uint64_t log_writes = 0;
  std::uint64_t log_records = 0;
  std::uint64_t log_bytes = 0;
  std::uint64_t log_write_ns = 0;
  std::uint64_t log_checkpoints = 0;
  std::uint64_t log_bytes_since_checkpoint = 0;
};

// An object being written: fill bytes(), then Commit(). Dropped without Commit, nothing happened.
// In a pool with access=trusted the bytes are the extent itself and Commit copies nothing;
// otherwise they are private memory and Commit is a Put. (A Put of 32 KiB or more into such a pool
// is a draft, too: filled with one copy.) Not thread-safe; outlives its Client.
class Draft {
 public:
  Draft(Draft&&) noexcept;
  Draft& operator=(Draft&&) noexcept;
  ~Draft();
  absl::Span<std::byte> bytes();
  // Once; FAILED_PRECONDITION afterwards. Errors as Client::Put.
  absl::StatusOr<Version> Commit();

 private:
  friend class Client;
  explicit Draft(std::unique_ptr<compute::DraftState> state);
  std::unique_ptr<compute::DraftState> state_;
};

// An invocation that was started and whose result has not been taken yet. Dropping it forgets
// the result, not the invocation. Not thread-safe; outlives its Client.
class Pending {
 public:
  Pending(Pending&&) noexcept;
  Pending& operator=(Pending&&) noexcept;
  ~Pending();
  // Blocks until the invocation has ended; once, FAILED_PRECONDITION afterwards.
  absl::StatusOr<Bytes> Wait();
  // Whether Wait would return without blocking. One message to the memory server.
  bool done() const;
  // How it was placed; also after Wait. NOT_FOUND: it was started without CallOptions::explain, or
  // it was long ago.
  absl::StatusOr<Explanation> Explain() const;

 private:
  friend class compute::Caller;
  explicit Pending(std::unique_ptr<compute::PendingState> state);
  std::unique_ptr<compute::PendingState> state_;
};

// Writes of several keys that become visible at once, or not at all, to every reader, in every
// coherence mode as a put does. Kept in this process until Commit; dropped without it, nothing
// happened. Of several writes of one key the last counts. Not thread-safe; outlives its Client.
class Transaction {
 public:
  Transaction(Transaction&&) noexcept;
  Transaction& operator=(Transaction&&) noexcept;
  ~Transaction();
  // if_version is about what there was before the transaction. What cannot be right (a bad key,
  // more than 4,096 keys) is Commit's error.
  void Put(std::string_view key, BytesView value, const PutOptions& options = {});
  // Of what does not exist: changes nothing.
  void Delete(std::string_view key, const PutOptions& options = {});
  // Once; FAILED_PRECONDITION afterwards. The version that all of it has; waits for no other node,
  // but in mode sync. FAILED_PRECONDITION: an if_version does not hold, the message names its key;
  // RESOURCE_EXHAUSTED: the pool is full, or more is kept back for this node than its quota.
  absl::StatusOr<Version> Commit();

 private:
  friend class Client;
  explicit Transaction(std::shared_ptr<compute::NodeRuntime> runtime);
  std::shared_ptr<compute::NodeRuntime> runtime_;
  std::unique_ptr<compute::WriteSet> writes_;
};

// One node (compute server). Movable; every method is thread-safe, and threads of one Client
// share its cache. After the memory server restarts, a Client reconnects by itself with an empty
// cache; meanwhile calls fail with UNAVAILABLE at once. In a forked child every call is refused
// with FAILED_PRECONDITION.
//
// Keys: 1 to 1,024 bytes, no NUL, else INVALID_ARGUMENT. After UNAVAILABLE or DEADLINE_EXCEEDED a
// put may or may not have taken effect, never in part; any other error changed nothing.
class Client {
 public:
  // Attaches to the memory server. UNAVAILABLE: nobody serves the socket; NOT_FOUND: no such pool;
  // PERMISSION_DENIED: the pool's owner does not let this process in; RESOURCE_EXHAUSTED: no node
  // slot is free; INVALID_ARGUMENT: an option cannot be right.
  static absl::StatusOr<Client> Connect(const ClientOptions& options = {});
  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();

  // The newest version. A hit is tens of nanoseconds: no message, system call, lock or copy; a
  // miss is one message to the home and one back, whatever the size; while the home sleeps, an
  // object of up to 4 KiB is read without it, and is a hit a little later. NOT_FOUND: no such
  // object; DATA_LOSS: what the pool's file or device held of it was damaged.
  absl::StatusOr<Object> Get(std::string_view key);

  // The newest versions at one moment, in the order of `keys`: one consistent cut, of transactions
  // too, in every coherence mode. In place, as Get; of cached objects hardly more than their gets.
  // Objects that change meanwhile are got again, DEADLINE_EXCEEDED: too often for
  // ClientOptions::timeout. NOT_FOUND: one of them does not exist.
  absl::StatusOr<std::vector<Object>> GetMany(absl::Span<const std::string> keys);

  // See Transaction.
  Transaction Begin();

  // Makes `value` the object's next version and returns when it is committed, without waiting for
  // any other node. FAILED_PRECONDITION: options.if_version does not hold; RESOURCE_EXHAUSTED: the
  // pool is full (says what holds it).
  absl::StatusOr<Version> Put(std::string_view key, BytesView value,
                              const PutOptions& options = {});

  // An object of `size` bytes to be filled in place, see Draft. Errors as Put.
  absl::StatusOr<Draft> Create(std::string_view key, std::size_t size);

  // Returns the version of the deletion. NOT_FOUND: no such object.
  absl::StatusOr<Version> Delete(std::string_view key, const PutOptions& options = {});

  // NOT_FOUND: no such object. Never counts as a sharer.
  absl::StatusOr<ObjectInfo> Stat(std::string_view key);

  // Up to `limit` objects whose keys begin with `prefix` and are greater than `after`, by key. An
  // object that exists throughout the call is listed; cost is a scan of the pool's index.
  absl::StatusOr<std::vector<ObjectInfo>> List(std::string_view prefix, std::size_t limit = 1000,
                                               std::string_view after = "");

  // Runs `function` on a node that has it and returns its result: what the function returned, also
  // if that is an error. NOT_FOUND: no node has it; RESOURCE_EXHAUSTED: too many invocations wait.
  // An attempt whose node dies, or that is past the function's own deadline, is made again
  // elsewhere, up to max_attempts times, as long as the call's deadline is not over; when none is
  // left the error (UNAVAILABLE, DEADLINE_EXCEEDED) tells how the attempts ended. A caller that
  // dies cancels its calls.
  absl::StatusOr<Bytes> Call(std::string_view function, BytesView input,
                             const CallOptions& options = {});
  absl::StatusOr<Pending> Start(std::string_view function, BytesView input,
                                const CallOptions& options = {});

  // Runs a workflow (workflow.h) and returns its output. `input` is JSON; empty is {}.
  // INVALID_ARGUMENT: the input is not JSON; ALREADY_EXISTS: there is a run of this name. A run
  // that fails: the status code that its error names, DEADLINE_EXCEEDED for States.Timeout, else
  // ABORTED; the message names the state.
  absl::StatusOr<Bytes> Run(const Workflow& workflow, BytesView input);
  absl::StatusOr<Bytes> Run(const Workflow& workflow, BytesView input, const RunOptions& options);
  // What is known of a run of this pool, whoever made it. NOT_FOUND: there is none.
  absl::StatusOr<RunInfo> FindRun(std::string_view name);
  // All runs, by name; without their outputs.
  absl::StatusOr<std::vector<RunInfo>> Runs();

  // For mapping an object once more, at an address of one's own or copy-on-write: what is mapped
  // keeps its contents for as long as `object` lives. Nullopt: this object cannot be mapped, being
  // smaller than 64 KiB, a private copy, of an earlier session, or in a pool whose region outlives
  // its memory server.
  std::optional<ObjectPages> Pages(const Object& object) const;

  ClientStats stats() const;
  const std::string& node() const;

  // What the memory server knows of its nodes and pools; over the socket, not for hot paths.
  absl::StatusOr<std::vector<NodeInfo>> Nodes() const;
  absl::StatusOr<std::vector<PoolInfo>> Pools() const;

 private:
  friend class FunctionHost;
  explicit Client(std::shared_ptr<compute::NodeRuntime> runtime);
  std::shared_ptr<compute::NodeRuntime> runtime_;
};

}  // namespace apta
