// How a session asks a home: claims a lane, stages the body, submits, waits.

#include <sched.h>

#include <algorithm>
#include <cstring>

#include "compute/session.h"
#include "fmt/format.h"

namespace apta::compute {

using fabric::IdleStrategy;
using fabric::kInlineBytes;
using fabric::kSliceBytes;
using fabric::kStagingBytes;
using fabric::Lane;
using fabric::Op;
using fabric::RealClock;
using fabric::Reply;
using fabric::TimeNs;

namespace {

// How long a put is tried again while old versions that other nodes hold fill the pool: they have
// been asked to let go.
constexpr TimeNs kPatienceNs = 200'000'000;

absl::Status NoAnswer(TimeNs timeout_ns) {
  return absl::DeadlineExceededError(
      fmt::format("the memory server did not answer within {} ms", timeout_ns / 1'000'000));
}

// Time left, counted from the first look: the clock is read only once waiting is slow anyway.
class Deadline {
 public:
  explicit Deadline(TimeNs timeout_ns) : timeout_ns_(timeout_ns) {}
  bool IsOver() { return Left() == 0; }
  TimeNs Left() {
    if (timeout_ns_ == Session::kNoTimeout) return 1'000'000'000;
    const TimeNs now_ns = RealClock::ReadNow();
    if (began_ns_ == 0) began_ns_ = now_ns;
    return now_ns - began_ns_ >= timeout_ns_ ? 0 : timeout_ns_ - (now_ns - began_ns_);
  }

 private:
  TimeNs timeout_ns_;
  TimeNs began_ns_ = 0;
};

}  // namespace

absl::StatusOr<Reply> Session::Ask(int shard, const Question& question) {
  Reply reply;
  absl::Status status = Ask(shard, question, &reply);
  if (!status.ok()) return status;
  return reply;
}

absl::Status Session::Ask(int shard, const Question& question, Reply* reply) {
  int lane = lanes_.TryClaim();
  if (lane < 0) [[unlikely]] {
    const absl::StatusOr<int> awaited = AwaitLane(question.timeout_ns);
    if (!awaited.ok()) return awaited.status();
    lane = *awaited;
  }
  if (lanes_.has_abandoned()) lanes_.Reap(port_);
  const std::uint32_t request_id = lanes_.NextId(lane);
  absl::Status status = Push(shard, lane, request_id, question);
  if (status.ok()) status = AwaitReply(lane, request_id, question);
  if (!status.ok()) {
    // The home may still read the staging area: nobody else may use the lane.
    lanes_.Abandon(lane);
    return status;
  }
  *reply = port_.lane(lane)->reply;
  if (question.lane_payload != nullptr && (reply->extent_offset & fabric::kInLane) != 0) {
    std::memcpy(question.lane_payload, port_.lane(lane)->payload.data(),
                fabric::LanePayloadBytes(*reply));
  }
  lanes_.Free(lane);
  return status;
}

absl::StatusOr<int> Session::AwaitLane(TimeNs timeout_ns) {
  Deadline deadline(timeout_ns);
  IdleStrategy idle;
  while (true) {
    if (const int lane = lanes_.TryClaim(); lane >= 0) return lane;
    if (has_failed()) return Ended();
    if (idle.Idle() != IdleStrategy::Advice::kSleep) continue;
    lanes_.Reap(port_);
    if (deadline.IsOver()) return NoAnswer(timeout_ns);
    sched_yield();
  }
}

absl::StatusOr<Reply> Session::AskForLong(const Question& question) {
  const int lane = lanes_.ClaimForWaiting();
  if (lane < 0) return absl::ResourceExhaustedError("too many functions wait at a time");
  const std::uint32_t request_id = lanes_.NextId(lane);
  absl::Status status = Push(0, lane, request_id, question);
  if (status.ok()) status = AwaitReply(lane, request_id, question);
  if (!status.ok()) return status;  // the session is over, and the lane with it
  const Reply reply = port_.lane(lane)->reply;
  if (question.lane_payload != nullptr && (reply.extent_offset & fabric::kInLane) != 0) {
    std::memcpy(question.lane_payload, port_.lane(lane)->payload.data(),
                fabric::LanePayloadBytes(reply));
  }
  lanes_.FreeForWaiting(lane);
  return reply;
}

void Session::Tell(int shard, Op op, std::uint64_t argument) {
  const Question question{.op = op, .payload = {}, .argument = argument};
  [[maybe_unused]] const absl::Status status = Push(shard, fabric::kNoLane, 0, question);
}

// Puts into a pool that is full of versions which other nodes have been asked to let go of.
absl::Status Session::AskRoomy(int shard, const Question& question, Reply* reply) {
  TimeNs began_ns = 0;
  while (true) {
    const bool is_large = question.payload.size() >= fabric::HandOverWay::kLeastBytes;
    absl::Status status = is_large ? AskLarge(shard, question, reply) : Ask(shard, question, reply);
    if (!status.ok() || reply->reason != fabric::Reason::kPoolFull || reply->value[2] == 0) {
      return status;
    }
    ApplyIfNeeded(shard);  // some of it may be ours
    const TimeNs now_ns = RealClock::ReadNow();
    if (began_ns == 0) began_ns = now_ns;
    if (now_ns - began_ns > std::min(kPatienceNs, question.timeout_ns)) return status;
    sched_yield();
  }
}

// With a body that is worth a look at how it is staged.
absl::Status Session::AskLarge(int shard, Question question, Reply* reply) {
  const std::uint64_t bytes = question.payload.size();
  question.past_caches = hand_over_.NextIsPastCaches(bytes);
  const TimeNs began_ns = RealClock::ReadNow();
  absl::Status status = Ask(shard, question, reply);
  if (status.ok() && reply->code == 0) {
    hand_over_.Took(question.past_caches, bytes, RealClock::ReadNow() - began_ns);
  }
  return status;
}

absl::Status Session::Push(int shard, int lane, std::uint32_t request_id,
                           const Question& question) {
  const std::size_t body_bytes = question.key.size() + question.payload.size();
  const bool is_inline = body_bytes <= kInlineBytes;
  Staged staged;
  if (!is_inline) staged = BeginStaging(lane, question);
  TimeNs visible_at_ns = 0;
  if (is_link_emulated_) {
    std::lock_guard<std::mutex> lock(link_mutex_);
    visible_at_ns =
        to_home_.VisibleAt(RealClock::ReadNow(), fabric::kCacheLineBytes + body_bytes, true);
  }
  const auto fill = [&](fabric::Request& request) {
    request.request_id = request_id;
    request.op = question.op;
    request.flags =
        static_cast<std::uint8_t>(question.flags | (is_inline ? 0 : fabric::kBodyStaged));
    request.lane = static_cast<std::uint16_t>(lane);
    request.payload_bytes = question.payload.size() & fabric::kMaxPayloadBytes;
    request.argument = question.argument;
    request.key_bytes = static_cast<std::uint16_t>(question.key.size());
    request.staging_page = staged.page;
    request.core = question.lane_payload != nullptr ? fabric::ThisCore() : std::uint16_t{0};
    if (is_inline) {
      // Either may be empty, and then it has no address.
      std::copy(question.key.begin(), question.key.end(), reinterpret_cast<char*>(request.body));
      std::copy(question.payload.begin(), question.payload.end(),
                request.body + question.key.size());
    }
    if (is_link_emulated_) request.visible_at_ns = visible_at_ns;
  };
  fabric::SubmissionProducer<>& submissions = *submissions_[static_cast<std::size_t>(shard)];
  Deadline deadline(question.timeout_ns != 0 ? question.timeout_ns : timeout_ns_);
  for (IdleStrategy idle; !submissions.TryPush(fill);) {
    if (has_failed()) return Ended();
    RingIfAsleep(shard);
    if (idle.Idle() != IdleStrategy::Advice::kSleep) continue;
    if (deadline.IsOver()) return NoAnswer(question.timeout_ns);
    sched_yield();
  }
  RingIfAsleep(shard);
  return staged.bytes < staged.of_bytes ? UploadRest(shard, lane, question, staged)
                                        : absl::OkStatus();
}

// The key and the first slice.
Session::Staged Session::BeginStaging(int lane, const Question& question) {
  const std::uint64_t payload_offset = fabric::StagedPayloadOffset(question.key.size());
  Staged staged{.of_bytes = payload_offset + question.payload.size()};
  staged.page = lanes_.TakeStaging(lane, staged.of_bytes);
  if (lanes_.TakePopulating(lane)) port_.PopulateStaging(lane);
  std::copy(question.key.begin(), question.key.end(),
            reinterpret_cast<char*>(port_.staging(lane) + staged.page * fabric::kPageBytes));
  staged.bytes = StageSome(lane, staged.page, question, payload_offset,
                           std::min(staged.of_bytes, kSliceBytes));
  Lane* shared = port_.lane(lane);
  // Relaxed: ordered before the request by the ring's publishing exchange.
  shared->drained_bytes.store(0, std::memory_order_relaxed);
  shared->staged_bytes.store(staged.bytes, std::memory_order_relaxed);
  return staged;
}

// Sequentially consistent, after the request (or slice) was published: see doorbell.h.
void Session::RingIfAsleep(int shard) {
  if (superblock_->home[shard].asleep.load() != 0) {
    homes_[static_cast<std::size_t>(shard)].Ring();
  }
}

// Copies the body's bytes [from, to) to the staging ring; `to` is at most one slice further.
std::uint64_t Session::StageSome(int lane, std::uint16_t staging_page, const Question& question,
                                 std::uint64_t from, std::uint64_t to) {
  const std::uint64_t payload_offset = fabric::StagedPayloadOffset(question.key.size());
  while (from < to) {
    const std::uint64_t position = (staging_page * fabric::kPageBytes + from) % kStagingBytes;
    const std::uint64_t bytes = std::min(to - from, kStagingBytes - position);
    std::byte* const to_here = port_.staging(lane) + position;
    const std::byte* const from_here = question.payload.data() + (from - payload_offset);
    if (question.past_caches) {
      fabric::CopyPastCaches(to_here, from_here, bytes);
    } else {
      std::memcpy(to_here, from_here, bytes);
    }
    from += bytes;
  }
  return to;
}

// The client fills one slice while the home drains another.
absl::Status Session::UploadRest(int shard, int lane, const Question& question, Staged staged) {
  Lane* shared = port_.lane(lane);
  const std::uint32_t request_id = lanes_.last_id(lane);
  IdleStrategy idle;
  Deadline deadline(question.timeout_ns);
  std::uint64_t last_drained = 0;
  while (staged.bytes < staged.of_bytes) {
    const std::uint64_t to = std::min(staged.of_bytes, staged.bytes + kSliceBytes);
    // Acquire: the home has read what we are about to overwrite; partner of its release store.
    const std::uint64_t drained = shared->drained_bytes.load(std::memory_order_acquire);
    if (to <= drained + fabric::kAheadBytes) {
      staged.bytes = StageSome(lane, staged.page, question, staged.bytes, to);
      // Sequentially consistent: published before we look whether the home sleeps.
      shared->staged_bytes.store(staged.bytes);
      RingIfAsleep(shard);
      idle.Reset();
      continue;
    }
    // The home may have refused it before it was whole.
    if (shared->done_id.load(std::memory_order_relaxed) == request_id) return absl::OkStatus();
    if (has_failed()) return Ended();
    if (drained != last_drained) {
      last_drained = drained;
      deadline = Deadline(question.timeout_ns);  // it goes on
      idle.Reset();
    }
    if (idle.Idle() != IdleStrategy::Advice::kSleep) continue;
    if (deadline.IsOver()) return NoAnswer(question.timeout_ns);
    sched_yield();
  }
  return absl::OkStatus();
}

absl::Status Session::AwaitReply(int lane, std::uint32_t request_id, const Question& question) {
  Lane* shared = port_.lane(lane);
  IdleStrategy idle;
  // What comes with a payload comes from another node, through the home: a third thread, which may
  // need this one's core before it can answer. Relaxed: a hint, written before the last reply.
  if (question.lane_payload != nullptr) {
    idle.Reset(shared->shares_core.load(std::memory_order_relaxed) != 0);
  }
  Deadline deadline(question.timeout_ns);
  // Acquire: the reply is whole; partner of the home's store of done_id.
  while (shared->done_id.load(std::memory_order_acquire) != request_id) {
    if (idle.Idle() != IdleStrategy::Advice::kSleep) continue;
    if (has_failed()) return Ended();
    const TimeNs left_ns = deadline.Left();
    if (left_ns == 0) return NoAnswer(question.timeout_ns);
    // Announce, look again, sleep (doorbell.h). Fail() changes done_id after it has set failed_, so
    // that either we see failed_ below or the futex does not sleep.
    const std::uint32_t seen = shared->done_id.load();
    shared->asleep.store(1);
    if (shared->done_id.load() == seen && seen != request_id && !has_failed()) {
      fabric::FutexWait(&shared->done_id, seen, left_ns);
    }
    shared->asleep.store(0);
  }
  if (is_link_emulated_) {
    while (RealClock::ReadNow() < shared->visible_at_ns) sched_yield();
  }
  return absl::OkStatus();
}

}  // namespace apta::compute
