// A session: one attachment of this process to a memory server, from the control handshake to the
// end of the socket. Owns the mappings, the lanes and the cache, and asks homes.
//
// Thread-safe. A session ends once (Fail) and never comes back: NodeRuntime makes a new one. Its
// memory stays as long as something is pinned; calls on an ended session fail with UNAVAILABLE.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "apta/client.h"
#include "compute/cache.h"
#include "compute/getc.h"
#include "compute/lanes.h"
#include "compute/pins.h"
#include "compute/putc.h"
#include "compute/write_set.h"
#include "fabric/control.h"
#include "fabric/copy.h"
#include "fabric/doorbell.h"
#include "fabric/group_message.h"
#include "fabric/index.h"
#include "fabric/life.h"
#include "fabric/link.h"
#include "fabric/port.h"
#include "fabric/region.h"
#include "fabric/superblock.h"

namespace apta::compute {

// kAnyVersion is no version that a caller can mean; nothing ever has the one before it either.
inline std::uint64_t Precondition(const PutOptions& options) {
  if (!options.if_version) return fabric::kAnyVersion;
  return std::min(*options.if_version, fabric::kAnyVersion - 1);
}

class Session {
 public:
  // A request to a home. Views must stay valid until Ask returns.
  struct Question {
    fabric::Op op;
    std::uint8_t flags = 0;
    std::string_view key;
    BytesView payload;
    std::uint64_t argument = 0;
    fabric::TimeNs timeout_ns = 0;  // ~0 = none
    bool past_caches = false;       // how its body is staged
    // Takes what comes in the lane (kInLane), up to kLanePayloadBytes; of requests whose replies
    // have payloads.
    std::byte* lane_payload = nullptr;
  };
  static constexpr fabric::TimeNs kNoTimeout = ~fabric::TimeNs{0};

  // Connects, says hello, maps what comes back. Errors as Client::Connect.
  static absl::StatusOr<std::shared_ptr<Session>> Attach(const ClientOptions& options,
                                                         const std::string& socket);
  ~Session();

  absl::StatusOr<Object> Get(std::string_view key);
  absl::StatusOr<Version> Put(std::string_view key, BytesView value, std::uint64_t if_version);
  absl::StatusOr<Version> Delete(std::string_view key, std::uint64_t if_version);
  absl::StatusOr<ObjectInfo> Stat(std::string_view key);
  absl::StatusOr<std::vector<ObjectInfo>> List(std::string_view prefix, std::size_t limit,
                                               std::string_view after);

  // As Client::GetMany and Transaction::Commit (transaction.cc). REQUIRES: valid keys.
  absl::StatusOr<std::vector<Object>> GetMany(absl::Span<const std::string> keys);
  absl::StatusOr<Version> Commit(const WriteSet& writes);
  // Ends an attempt that has run here and has written: when this returns OK, that is committed
  // together with the result. Else nothing is, and the attempt has to end with an error, which
  // changes nothing if it does not count any more.
  absl::Status FinishWith(const WriteSet& writes, std::uint64_t attempt, BytesView result);

  // In trusted pools: a fresh extent to fill in place, its commit, its abandonment.
  bool trusted() const { return trusted_; }
  // Whether this node may fill extents itself. Not on an emulated link: it would carry nothing.
  bool writes_in_place() const { return trusted_ && !is_link_emulated_; }
  // RESOURCE_EXHAUSTED: no pool of this size can ever hold such an object.
  absl::Status CheckSize(std::string_view key, std::size_t size) const;
  absl::StatusOr<std::uint64_t> Create(std::string_view key, std::size_t size);
  absl::Span<std::byte> PayloadOf(std::uint64_t extent);
  absl::StatusOr<Version> CommitDraft(std::string_view key, std::uint64_t extent);
  void AbortDraft(std::uint64_t extent);

  // One message to the shard's home, one back. UNAVAILABLE: the session has ended;
  // DEADLINE_EXCEEDED: no answer in time. What the home answered, good or bad, is in the reply.
  absl::StatusOr<fabric::Reply> Ask(int shard, const Question& question);
  // The same, of the first shard, for as long as it takes: kWait, in a lane that is there for that.
  absl::StatusOr<fabric::Reply> AskForLong(const Question& question);
  // One message, nothing back. Lost when the session ends.
  void Tell(int shard, fabric::Op op, std::uint64_t argument);
  // The payload of an extent that a reply has lent; Tell(kRelease) when it is not read any more. A
  // Reading must have begun before the question was asked.
  BytesView PayloadAt(std::uint64_t extent) const;
  // The same, of a reply that may have come with its payload: that is in `lane_payload`.
  BytesView PayloadOf(const fabric::Reply& reply, const std::byte* lane_payload) const {
    if ((reply.extent_offset & fabric::kInLane) == 0) return PayloadAt(reply.extent_offset);
    return {lane_payload, fabric::LanePayloadBytes(reply)};
  }

  // The agent's part. Each returns at once.
  int socket() const { return socket_.get(); }
  int wake_fd() const { return pins_->wake_fd(); }
  void OnNudge();  // the memory server asks for acknowledgements
  void OnPinsDropped() { cache_->ReleaseHolds(); }
  void Fail();  // the session is over; wakes everybody who waits
  // As Fail: the memory server has cut this node off, because it ... (why).
  void FailFenced(std::string_view why = "");
  // As Fail: the life word says so. Any thread.
  void FailDead();
  // The node leaves: the memory server forgets it, and reuses what it could read.
  void HangUp();
  // Applies what has been issued, on the agent's thread; returns whether there was something.
  bool ApplyInBackground();
  // Gets what was read without the home (Want), so that later gets are hits; returns whether there
  // was something. Waits for a home 1 ms at most.
  bool FetchWanted();
  // The agent is about to sleep for long, unless this returns true: then something is wanted soon.
  // Want wakes it from then on, until EndSleep.
  bool BeginSleep();
  void EndSleep() { agent_asleep_.store(false); }
  absl::Status Ended() const;  // why it has failed
  bool has_failed() const { return failed_.load(std::memory_order_acquire); }
  // Whether Objects of this session live. Makes the last drop ring wake_fd().
  bool IsPinned() { return !pins_->WatchAll().empty(); }

  // After Fail, once nothing is pinned and nobody reads what a reply has lent: gives the memory of
  // the dead memory server back. The session stays, an empty shell, for calls that are late.
  void RetireIfUnused();

  // Held by whoever reads what PayloadAt returned: keeps the memory.
  class Reading {
   public:
    explicit Reading(Session* session) : session_(session) { session_->readers_.fetch_add(1); }
    ~Reading() { session_->EndReading(); }
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;

   private:
    Session* session_;
  };

  // See Client::Pages. The object's pin keeps the region from being given back meanwhile.
  std::optional<ObjectPages> Pages(const Object& object) const;

  void AddStats(ClientStats* stats) const;

 private:
  Session() = default;

  int ShardOf(std::uint64_t key_hash) const { return static_cast<int>(view_.ShardOf(key_hash)); }
  absl::Status MakeError(const fabric::Reply& reply, std::string_view key) const;
  Object MakeObject(const PinnedExtent& pinned) const;
  Object MakeObject(Got got) const;
  // For what an emulated link may still delay; nobody asks the clock where there is none.
  fabric::TimeNs NowOfLink() const { return is_link_emulated_ ? fabric::RealClock::ReadNow() : 0; }
  absl::StatusOr<Object> GetMissed(std::uint64_t key_hash, std::string_view key, PinTable* table);
  // A get that has begun with `step`.
  absl::StatusOr<Object> EndGet(Getc* get, Getc::Step step, int shard, std::string_view key,
                                fabric::TimeNs timeout_ns);
  void Want(std::string_view key);
  Getc::Step ReadHeap(Getc* get);
  absl::Status Ask(int shard, const Question& question, fabric::Reply* reply);
  absl::Status AskRoomy(int shard, const Question& question, fabric::Reply* reply);
  absl::Status AskLarge(int shard, Question question, fabric::Reply* reply);
  void ApplyIfNeeded(int shard);
  absl::StatusOr<std::vector<fabric::GroupWrite>> Ship(const WriteSet& writes);
  void Unship(const std::vector<fabric::GroupWrite>& shipped);
  std::deque<Putc> BeginPuts(const std::vector<fabric::GroupWrite>& shipped);
  void EndPuts(std::deque<Putc>* puts, const std::vector<fabric::GroupWrite>& shipped,
               const WriteSet& set, const fabric::Reply& reply);
  void AwaitHeap(std::size_t objects);
  absl::StatusOr<Version> Change(Putc* put, std::string_view key, std::size_t bytes,
                                 const absl::Status& status, const fabric::Reply& reply);

  // A body in the lane's staging ring.
  struct Staged {
    std::uint16_t page = 0;  // where it begins
    std::uint64_t bytes = 0;
    std::uint64_t of_bytes = 0;
  };
  absl::StatusOr<int> AwaitLane(fabric::TimeNs timeout_ns);
  absl::Status Push(int shard, int lane, std::uint32_t request_id, const Question& question);
  void RingIfAsleep(int shard);
  Staged BeginStaging(int lane, const Question& question);
  absl::Status UploadRest(int shard, int lane, const Question& question, Staged staged);
  std::uint64_t StageSome(int lane, std::uint16_t staging_page, const Question& question,
                          std::uint64_t from, std::uint64_t to);
  absl::Status AwaitReply(int lane, std::uint32_t request_id, const Question& question);
  void EndReading();
  void KeepPinned();

  std::string pool_;
  std::string socket_path_;
  fabric::TimeNs timeout_ns_ = 0;
  bool trusted_ = false;
  bool copies_ = false;  // versions are read from private copies
  fabric::UniqueFd socket_;
  fabric::Region region_;
  fabric::Port port_;
  fabric::Life life_;
  std::vector<fabric::Doorbell> homes_;  // doorbells, by shard
  fabric::IndexView view_;
  const fabric::Superblock* superblock_ = nullptr;
  std::vector<std::unique_ptr<fabric::SubmissionProducer<>>> submissions_;  // by shard
  Lanes lanes_;
  fabric::HandOverWay hand_over_;
  PinDomain* pins_ = nullptr;
  std::unique_ptr<Cache> cache_;
  std::atomic<bool> failed_{false};
  std::atomic<int> readers_{0};
  bool is_retired_ = false;  // the agent's
  mutable std::mutex why_mutex_;
  std::string why_ended_;  // under why_mutex_; "" = the memory server is gone

  static constexpr std::size_t kMaxWanted = 64;
  std::mutex wanted_mutex_;
  std::vector<std::string> wanted_;  // keys, under wanted_mutex_
  bool is_wanted_soon_ = false;      // under wanted_mutex_
  std::atomic<bool> agent_asleep_{false};

  bool is_link_emulated_ = false;
  std::mutex link_mutex_;
  fabric::LinkDirection to_home_;  // under link_mutex_
};

}  // namespace apta::compute
