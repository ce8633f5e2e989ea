#include "daemon/commit_group.h"

#include "fabric/check.h"

namespace apta::daemon {

using Kind = GroupMessage::Kind;

// A group without effect commits as well: it has a version.
CommitGroup::Order CommitGroup::Begin() {
  if (!shards_.empty()) return Order::kPrepare;
  state_ = State::kCommitted;
  return Order::kFinish;
}

// Invariant 2.
CommitGroup::Order CommitGroup::Publish() {
  state_ = State::kPublishing;
  awaited_ = shards_.size();
  return Order::kPublish;
}

CommitGroup::Order CommitGroup::OnAnswer(Kind answer) {
  switch (state_) {
    case State::kPreparing:
      if (answer == Kind::kRefused) {
        state_ = State::kRefused;
        return Order::kAbort;
      }
      APTA_CHECK(answer == Kind::kPrepared);
      if (++prepared_ < shards_.size()) return Order::kPrepare;  // invariant 3: in order
      if (!is_logged_) return Publish();
      state_ = State::kLogging;
      return Order::kLog;
    case State::kLogging:
      if (answer == Kind::kUnlogged) {
        state_ = State::kRefused;
        return Order::kAbort;
      }
      APTA_CHECK(answer == Kind::kLogged);
      return Publish();
    case State::kPublishing:
      APTA_CHECK(answer == Kind::kPublished);
      if (--awaited_ > 0) return Order::kNothing;
      state_ = State::kFlipping;  // invariant 1
      awaited_ = shards_.size();
      return Order::kFlip;
    case State::kFlipping:
      APTA_CHECK(answer == Kind::kFlipped);
      if (--awaited_ > 0) return Order::kNothing;
      state_ = State::kCommitted;
      return Order::kFinish;
    case State::kCommitted:
    case State::kRefused:
      break;
  }
  APTA_CHECK(false);  // the group is forgotten by now
  return Order::kNothing;
}

}  // namespace apta::daemon
