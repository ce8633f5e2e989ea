// The coordinator of a commit group: the order of steps in which the homes of several shards make
// writes of several keys visible as one.
//
//   prepare   shard after shard, in ascending order: conditions hold, the drafts are the home's own
//             from here on, whoever dies, and requests for the keys wait
//   log       in a pool of durability `log`: one record of all writes is durable; until then gets
//             of the keys go on, and find the old versions. In one of durability `region` a record
//             of them is in the region, until all have flipped
//   publish   all shards: every sharer of every key has its invalidation (mode sync: has
//   acknowledged) flip      all shards: the index names the new versions, and requests for the keys
//   go on abort     instead, when one shard refuses to prepare: nothing has happened
//
// A pure state machine: says what is to be told to whom, and is told what they answer. The shell
// carries messages between the homes' threads, which live or die together. Nothing waits for a
// client: a group that was prepared everywhere commits, whatever becomes of its node.
//
// Invariants
//   1. No shard flips before all have published: whoever has read one of the new versions finds, of
//      the others, his own cached old ones invalidated, and asks a home that has flipped or keeps
//      him waiting until it has.
//   2. No shard flips unless all are prepared, and the group is in the log, where there is one: all
//      of it becomes visible and durable, or nothing; nobody reads what a crash can take back.
//   3. A group that waits for a key at one shard holds keys only at lower shards, so no groups wait
//      for each other in a circle.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "apta/object.h"
#include "fabric/group_message.h"
#include "fabric/message.h"

namespace apta::daemon {

// Unique among the groups of a pool: shards count their own.
struct GroupId {
  int coordinator = 0;  // shard
  std::uint64_t serial = 0;
  auto operator<=>(const GroupId&) const = default;
};

// Between the homes of one pool.
struct GroupMessage {
  enum class Kind : std::uint8_t {
    kPrepare,  // writes, of this shard; node, attachment, keeps_copies
    kPublish,  // version
    kFlip,
    kEnd,    // of a group that is recorded: its record is gone
    kAbort,  // writes, node, attachment: whether or not it has been prepared
    kPrepared,
    kRefused,  // error
    kPublished,
    kFlipped,   // untracked, issued
    kLogged,    // from the log: the group is durable
    kUnlogged,  // error: it is not
  };
  Kind kind = Kind::kPrepare;
  GroupId group;
  int from_shard = 0;
  fabric::NodeId node = 0;       // whose drafts they are
  std::uint64_t attachment = 0;  // of that slot: the node may be gone, and another one there
  bool is_single = false;        // a put or a delete, no transaction
  bool is_recorded = false;      // in the region, until kEnd
  bool keeps_copies = false;     // the node caches what it writes: it is their sharer
  std::vector<fabric::GroupWrite> writes;
  Version version = 0;
  fabric::Reply error{};
  bool untracked = false;    // the node is not the sharer of all that it wrote
  std::uint64_t issued = 0;  // invalidations, to the node by that home, up to the commit
};

class CommitGroup {
 public:
  enum class State : std::uint8_t {
    kPreparing,
    kLogging,
    kPublishing,
    kFlipping,
    kCommitted,
    kRefused
  };
  // What the shell has to do next.
  enum class Order : std::uint8_t {
    kNothing,  // wait for more answers
    kPrepare,  // tell next_shard()
    kLog,      // append the group to the log
    kPublish,  // tell all shards
    kFlip,     // tell all shards
    kFinish,   // all have flipped
    kAbort,    // tell all shards but refusing_shard(), and forget the group
  };

  // `shards`: those that have writes, ascending. `is_logged`: the pool has a log.
  explicit CommitGroup(std::vector<int> shards, bool is_logged = false)
      : shards_(std::move(shards)), is_logged_(is_logged) {}

  Order Begin();
  // REQUIRES: it answers what it was told last.
  Order OnAnswer(GroupMessage::Kind answer);

  State state() const { return state_; }
  const std::vector<int>& shards() const { return shards_; }
  // REQUIRES: not all are prepared.
  int next_shard() const { return shards_[prepared_]; }
  // -1: it was the log that refused.
  int refusing_shard() const { return prepared_ < shards_.size() ? next_shard() : -1; }

 private:
  Order Publish();

  std::vector<int> shards_;
  bool is_logged_;
  State state_ = State::kPreparing;
  std::size_t prepared_ = 0;  // shards, from the front
  std::size_t awaited_ = 0;   // answers to the last thing that was told to all
};

}  // namespace apta::daemon
