// What simulated compute servers do: operations of their threads, driven through GETC and PUTC, and
// the agent.

#include <algorithm>
#include <cstring>

#include "fabric/call_head.h"
#include "fmt/format.h"
#include "tests/sim/world.h"

namespace apta::sim {

using compute::Getc;
using compute::Got;
using compute::Putc;
using fabric::ExtentHeader;
using fabric::Op;
using fabric::Reply;
using fabric::Request;

namespace {

constexpr std::string_view kFunction = "function";

std::string_view OpName(Op op) {
  switch (op) {
    case Op::kGet:
      return "get";
    case Op::kPut:
      return "put";
    case Op::kDelete:
      return "delete";
    case Op::kStat:
      return "stat";
    case Op::kCreate:
      return "create";
    case Op::kCommit:
      return "commit";
    case Op::kAbort:
      return "abort";
    case Op::kRelease:
      return "release";
    case Op::kRegister:
      return "register";
    case Op::kReady:
      return "ready";
    case Op::kUnready:
      return "unready";
    case Op::kCall:
      return "call";
    case Op::kStart:
      return "start";
    case Op::kWait:
      return "wait";
    case Op::kPoll:
      return "poll";
    case Op::kExplain:
      return "explain";
    case Op::kForget:
      return "forget";
    case Op::kCommitGroup:
      return "commit group";
    case Op::kEffects:
      return "effects";
  }
  return "?";
}

std::string MeaningOf(Op op, std::uint64_t argument) {
  if (op == Op::kGet && argument != 0) return fmt::format(" (has v{})", argument);
  if (op == Op::kReady && argument != 0) return fmt::format(" (has done invocation {})", argument);
  if ((op == Op::kPut || op == Op::kDelete) && argument != fabric::kAnyVersion) {
    return fmt::format(" (if v{})", argument);
  }
  return "";
}

}  // namespace

std::string PayloadOf(std::uint64_t value, std::size_t words) {
  std::string payload(words * sizeof(value), '\0');
  for (std::size_t i = 0; i < words; ++i) {
    std::memcpy(payload.data() + i * sizeof(value), &value, sizeof(value));
  }
  return payload;
}

// 0 and a failure when it is no value.
std::uint64_t World::ReadValue(const ExtentHeader* header) {
  std::uint64_t value = 0;
  if (header->payload_bytes < sizeof(value) || header->payload_bytes % sizeof(value) != 0) {
    Fail(fmt::format("a payload of {} bytes that nobody wrote", header->payload_bytes));
    return 0;
  }
  std::memcpy(&value, header->payload(), sizeof(value));
  // Each word is the one before it.
  if (std::memcmp(header->payload(), header->payload() + sizeof(value),
                  header->payload_bytes - sizeof(value)) != 0) {
    Fail(fmt::format("version {} is torn: value {} and another", header->version, value));
    return 0;
  }
  return value;
}

void World::CheckHeld(Node* node) {
  if (node->is_orphan) return;  // may change: see Orphan
  for (const Held& held : node->held) {
    const ExtentHeader* header =
        held.got.pinned ? held.got.pinned->header : held.got.copy->header();
    if (ReadValue(header) != held.value) {
      Fail(fmt::format("node {}: a pinned version changed: value {} became {}", node->index,
                       held.value, ReadValue(header)));
    }
  }
}

void World::StartNode(Node* node) {
  for (std::size_t i = 0; i < node->threads.size(); ++i) {
    Thread* thread = &node->threads[i];
    thread->lane = static_cast<std::uint16_t>(i);
    const bool is_worker = profile_.functions && i == 0;
    AtNode(Soon(), node, [this, node, thread, is_worker] {
      if (is_worker) {
        thread->on_reply = [this, node, thread](const Reply&) {
          AskForWork(node, thread, Result::kPlain);
        };
        Send(node, thread, Op::kRegister, kFunction, "", fabric::FunctionLimits{}.Pack());
      } else {
        NextOperation(node, thread);
      }
    });
  }
  if (profile_.agents_sleep) return;
  AtNode(Soon(), node, [this, node] { AgentTurn(node, false); });
}

// Applies what may be seen, and comes again; one that sleeps, only when it could not see all yet.
void World::AgentTurn(Node* node, bool nudged) {
  CheckHeld(node);
  node->cache->ReleaseHolds();
  node->cache->Apply(0, now_ns_);
  TraceApplied(node);
  if (node->cache->is_fenced()) {
    LoseSession(node);
    return;
  }
  const bool comes_again = profile_.agents_sleep ? nudged && !node->cache->IsCurrent(0) : !nudged;
  if (!comes_again) return;
  AtNode(now_ns_ + 2'000 + Random(40'000), node, [this, node, nudged] { AgentTurn(node, nudged); });
}

// The last reader of something that is listed wakes the agent.
void World::LetGo(Node* node) {
  CheckHeld(node);
  std::erase_if(node->held, [&](Held& held) {
    if (held.until_ns > now_ns_) return false;
    if (held.got.pinned) held.got.pinned->pin->Drop();
    return true;
  });
  AtNode(Soon(), node, [node] { node->cache->ReleaseHolds(); });
}

void World::TraceApplied(Node* node) {
  if (trace_lines_ == 0) return;
  const std::pair<std::uint64_t, std::uint64_t> now = {
      node->cache->counters().invalidations_applied,
      node->port->invalidations(0)->acknowledged.load()};
  if (now == node->told) return;
  node->told = now;
  Trace("n{} has applied {} records, acknowledges #{}", node->index, now.first, now.second);
}

void World::NextOperation(Node* node, Thread* thread) {
  if (operations_left_ == 0 || !outcome_.failure.empty()) return;
  --operations_left_;
  progress_ns_ = now_ns_;
  MaybeFault();
  if (!node->attached) return;  // it was this node
  thread->busy = true;
  thread->key_index = std::min(Random(profile_.keys), Random(profile_.keys));  // some are hot
  thread->key = key_name_[thread->key_index];
  const std::uint64_t dice = Random(100);
  if (profile_.functions && dice < 15) {
    BeginCall(node, thread);
  } else if (dice < 58) {
    BeginGet(node, thread);
  } else if (dice < 65) {
    BeginCut(node, thread);
  } else if (dice < 82) {
    BeginPut(node, thread, Operation::Kind::kPut);
  } else if (dice < 88) {
    BeginPut(node, thread, Operation::Kind::kConditionalPut);
  } else if (dice < 94) {
    BeginPut(node, thread, Operation::Kind::kDelete);
  } else {
    BeginTransaction(node, thread);
  }
}

void World::EndOperation(Node* node, Thread* thread) {
  thread->busy = false;
  thread->get.reset();
  thread->put.reset();
  const TimeNs pause_ns = Chance(4) ? Random(20'000) : 50 + Random(1'000);
  AtNode(now_ns_ + pause_ns, node, [this, node, thread] { NextOperation(node, thread); });
}

// --- gets

void World::BeginGet(Node* node, Thread* thread) {
  if (thread->cut == nullptr) {  // members of a cut are recorded when it stands
    thread->record = history_.size();
    history_.push_back(
        {.kind = Operation::Kind::kGet,
         .client = static_cast<std::uint32_t>(node->index) * kClientsPerNode + thread->lane,
         .key = thread->key_index,
         .begin_ns = now_ns_,
         .end_ns = kNever});
    is_void_.push_back(false);
  }
  compute::PinTable* table = node->pins->ThreadTable();
  const std::uint64_t hash = key_hash_[thread->key_index];
  if (const auto hit = Getc::Find(node->cache.get(), hash, thread->key, table)) {
    ++outcome_.hits;
    Trace("n{}.{} hits {}", node->index, thread->lane, thread->key);
    EndGet(node, thread, Got{.pinned = *hit, .copy = nullptr}, true);
    return;
  }
  thread->get =
      std::make_unique<Getc>(node->cache.get(), hash, thread->key, table, profile_.copies);
  const Getc::Step step = thread->get->Begin(/*home_sleeps=*/Chance(6), now_ns_);
  TraceApplied(node);
  if (node->cache->is_fenced()) {
    LoseSession(node);
    return;
  }
  if (step == Getc::Step::kFound) {
    ++outcome_.hits;
    Trace("n{}.{} hits {}", node->index, thread->lane, thread->key);
  }
  if (step == Getc::Step::kFollow) {
    Trace("n{}.{} waits for another's fill of {}", node->index, thread->lane, thread->key);
  }
  AdvanceGet(node, thread, step);
}

void World::AdvanceGet(Node* node, Thread* thread, Getc::Step step) {
  switch (step) {
    case Getc::Step::kAsk:
      thread->on_reply = [this, node, thread](const Reply& reply) {
        AdvanceGet(node, thread, thread->get->OnReply(reply));
      };
      Send(node, thread, Op::kGet, thread->key, "", thread->get->argument());
      return;
    case Getc::Step::kReadHeap: {
      const TimeNs there_ns = node->to_home.VisibleAt(now_ns_, 64, false) + Random(200);
      Trace("n{}.{} reads {} in the heap", node->index, thread->lane, thread->key);
      AtNode(there_ns, node, [this, node, thread] {
        const Getc::Step found = thread->get->OnReadHeap();
        AtNode(node->to_node.VisibleAt(now_ns_, 64, false) + Random(200), node,
               [this, node, thread, found] { AdvanceGet(node, thread, found); });
      });
      return;
    }
    case Getc::Step::kFollow:
      AtNode(Soon(), node, [this, node, thread] {
        const bool has_ended = thread->get->fill().has_ended();
        AdvanceGet(node, thread, has_ended ? thread->get->OnFillEnded() : Getc::Step::kFollow);
      });
      return;
    case Getc::Step::kFound:
      EndGet(node, thread, thread->get->Take(), true);
      return;
    case Getc::Step::kDead:
      LoseSession(node);
      return;
    case Getc::Step::kNotFound:
      EndGet(node, thread, Got{}, false);
      return;
  }
}

void World::EndGet(Node* node, Thread* thread, Got got, bool found) {
  if (thread->cut != nullptr) {
    OnMember(node, thread, std::move(got), found);
    return;
  }
  Operation& record = history_[thread->record];
  record.end_ns = now_ns_;
  if (found) {
    const ExtentHeader* header = got.pinned ? got.pinned->header : got.copy->header();
    record.version = header->version;
    record.value = ReadValue(header);
  }
  if (found) {
    Trace("n{}.{} got {} v{}, value {}{}", node->index, thread->lane, thread->key, record.version,
          record.value, got.pinned ? "" : ", a copy");
  } else {
    Trace("n{}.{} got {}: not found", node->index, thread->lane, thread->key);
  }
  TraceApplied(node);
  if (thread->invocation_ns) {
    scheduled_.push_back({.key = record.key,
                          .version = found ? record.version : 0,
                          .invocation_started_ns = *thread->invocation_ns,
                          .end_ns = now_ns_});
  }
  if (found && Chance(3)) {
    const TimeNs until_ns = now_ns_ + Random(Chance(8) ? 3'000'000 : 200'000);
    node->held.push_back({std::move(got), record.value, until_ns});
    AtNode(until_ns, node, [this, node] { LetGo(node); });
  } else if (got.pinned) {
    got.pinned->pin->Drop();  // listed already, if the fill was overtaken
    AtNode(Soon(), node, [node] { node->cache->ReleaseHolds(); });
  }
  if (!thread->invocation_ns) {
    EndOperation(node, thread);
    return;
  }
  thread->get.reset();
  AtNode(Soon(), node, [this, node, thread] {
    RunInvocation(node, thread, thread->invocation, *thread->invocation_ns);
  });
}

// --- puts

void World::BeginPut(Node* node, Thread* thread, Operation::Kind kind) {
  thread->record = history_.size();
  Operation record{
      .kind = kind,
      .client = static_cast<std::uint32_t>(node->index) * kClientsPerNode + thread->lane,
      .key = thread->key_index,
      .begin_ns = now_ns_,
      .end_ns = kNever};
  std::uint64_t argument = fabric::kAnyVersion;
  std::string payload;
  if (kind != Operation::Kind::kDelete) {
    record.value = ++next_value_;
    const std::size_t words = Chance(6) ? 1 + Random(4'000) : 1 + Random(20);
    payload = PayloadOf(record.value, words);
  }
  const bool is_conditional =
      kind == Operation::Kind::kConditionalPut || (kind == Operation::Kind::kDelete && Chance(2));
  if (is_conditional) {
    // The latest version of the key that anybody got to know, or none.
    for (const Operation& operation : history_) {
      if (operation.key != record.key) continue;
      record.expected = std::max(record.expected, operation.version);
    }
    if (Chance(4)) record.expected = 0;
    if (kind == Operation::Kind::kConditionalPut || record.expected != 0) {
      argument = record.expected;
    }
  }
  history_.push_back(record);
  is_void_.push_back(false);
  thread->put = std::make_unique<Putc>(node->cache.get(), key_hash_[thread->key_index]);
  thread->on_reply = [this, node, thread, bytes = payload.size()](const Reply& reply) {
    Operation& done = history_[thread->record];
    done.end_ns = now_ns_;
    if (reply.code == 0) {
      done.version = reply.version;
      if (Upholds(fabric::Rule::kOwnPutReplaces) || done.kind != Operation::Kind::kDelete) {
        thread->put->OnReply(reply, bytes, profile_.copies, now_ns_);
      }
    } else if (reply.reason == fabric::Reason::kVersionMoved ||
               reply.reason == fabric::Reason::kNoSuchObject) {
      done.failed = true;
    } else {
      EndRefused(thread->record, reply);
    }
    Trace("n{}.{} has ended its {}", node->index, thread->lane, sim::Describe(done));
    EndOperation(node, thread);
  };
  Send(node, thread, kind == Operation::Kind::kDelete ? Op::kDelete : Op::kPut, thread->key,
       payload, argument);
}

// --- messages

void World::Send(Node* node, Thread* thread, Op op, std::string_view key, std::string_view payload,
                 std::uint64_t argument, std::uint8_t flags) {
  Request request{};
  request.op = op;
  request.flags = flags;
  request.lane = thread->lane;
  request.request_id = ++thread->request_id;
  request.argument = argument;
  request.key_bytes = static_cast<std::uint16_t>(key.size());
  request.payload_bytes = payload.size() & fabric::kMaxPayloadBytes;
  if (key.size() + payload.size() <= fabric::kInlineBytes) {
    std::copy(key.begin(), key.end(), reinterpret_cast<char*>(request.body));
    std::copy(payload.begin(), payload.end(), reinterpret_cast<char*>(request.body + key.size()));
  } else {
    request.flags |= fabric::kBodyStaged;
    thread->upload.assign(key);
    thread->upload.resize(fabric::StagedPayloadOffset(key.size()));
    thread->upload += payload;
    fabric::Lane* lane = node->port->lane(thread->lane);
    lane->drained_bytes.store(0);
    lane->staged_bytes.store(0);
    StageMore(node, thread);
  }
  Trace("n{}.{} -> home #{}: {} {}{}", node->index, thread->lane, thread->request_id, OpName(op),
        op == Op::kCall ? kFunction : key, MeaningOf(op, argument));
  node->requests.emplace_back(
      node->to_home.VisibleAt(now_ns_, fabric::kCacheLineBytes + payload.size(), true), request);
}

// The upload in slices: a node may die between any two.
void World::StageMore(Node* node, Thread* thread) {
  fabric::Lane* lane = node->port->lane(thread->lane);
  const std::uint64_t staged = lane->staged_bytes.load();
  if (staged == thread->upload.size()) return;
  const std::uint64_t slice =
      std::min<std::uint64_t>({thread->upload.size() - staged, 1'000 + Random(20'000),
                               fabric::kStagingBytes - staged % fabric::kStagingBytes,
                               lane->drained_bytes.load() + fabric::kStagingBytes - staged});
  std::memcpy(node->port->staging(thread->lane) + staged % fabric::kStagingBytes,
              thread->upload.data() + staged, slice);
  lane->staged_bytes.store(staged + slice);
  AtNode(Soon(), node, [this, node, thread, id = thread->request_id] {
    if (thread->request_id == id) StageMore(node, thread);
  });
}

// --- functions

void World::BeginCall(Node* node, Thread* thread) {
  const std::uint64_t token = ++next_token_;
  thread->on_reply = [this, node, thread, token](const Reply& reply) {
    // Of what the log could not finish nobody knows.
    const bool is_open =
        disk_ && reply.code == static_cast<std::uint16_t>(absl::StatusCode::kUnavailable);
    if (reply.code != 0 && !is_open) {
      failed_tokens_.insert(token);
      if (committed_tokens_.contains(token))
        Fail("a caller is told of a failure, and it has written");
    }
    if (reply.extent_offset != 0 && (reply.extent_offset & fabric::kInLane) == 0) {
      Request release{};
      release.op = Op::kRelease;
      release.lane = fabric::kNoLane;
      release.argument = reply.extent_offset;
      AtNode(Soon(), node, [this, node, thread, release] {
        node->requests.emplace_back(now_ns_, release);
        EndOperation(node, thread);
      });
      return;
    }
    EndOperation(node, thread);
  };
  // A call that would wait for an agent to be asked is not saved by its deadline.
  const TimeNs patience_ns = profile_.agents_sleep ? 1'000'000'000 : 5'000'000;
  if (!profile_.declared_reads || Chance(2)) {
    Send(node, thread, Op::kCall, kFunction, PayloadOf(token, 1), patience_ns);
    return;
  }
  std::vector<std::uint64_t>& keys = declared_[token];
  keys = SomeKeys();
  std::vector<std::uint64_t> hashes;
  for (const std::uint64_t key : keys) hashes.push_back(key_hash_[key]);
  std::array<char, fabric::kMaxHeadBytes> head;
  Send(node, thread, Op::kCall,
       fabric::MakeCallHead({.flags = fabric::CallHead::kDeclaresReads}, hashes, "", kFunction,
                            head.data()),
       PayloadOf(token, 1), patience_ns, fabric::kHeaded);
}

// As Session::FinishWith does.
void World::FinishWithEffects(Node* node, Thread* thread) {
  BeginPuts(node, thread);
  thread->on_reply = [this, node, thread](const Reply& reply) {
    if (reply.code == 0) EndPuts(thread, reply);
    thread->puts.clear();
    AskForWork(node, thread, Result::kPlain);
  };
  Send(node, thread, Op::kReady, "", Chance(2) ? "result" : "",
       std::exchange(thread->invocation, 0), fabric::kHasEffects);
}

void World::AskForWork(Node* node, Thread* thread, Result result) {
  thread->busy = false;
  thread->on_reply = [this, node, thread](const Reply& reply) {
    if (reply.code != 0) return;
    thread->busy = true;
    thread->gets_left = 1 + static_cast<int>(Random(3));
    if (node->is_orphan) return;
    // A token is small: it comes in the lane.
    thread->token = thread->in_lane;
    RunInvocation(node, thread, reply.value[0], thread->answered_ns);
  };
  const std::uint64_t ended = std::exchange(thread->invocation, 0);
  constexpr int kAborted = static_cast<int>(absl::StatusCode::kAborted);
  std::uint8_t flags = 0;
  if (result == Result::kError) flags = kAborted << fabric::kStatusShift;
  Send(node, thread, Op::kReady, "", ended != 0 && Chance(2) ? "result" : "", ended, flags);
}

void World::RunInvocation(Node* node, Thread* thread, std::uint64_t invocation, TimeNs started_ns) {
  thread->invocation = invocation;
  thread->invocation_ns = started_ns;
  if (thread->gets_left-- > 0) {
    const auto declared = declared_.find(thread->token);
    if (declared != declared_.end()) {
      thread->key_index = declared->second[Random(declared->second.size())];
      ++outcome_.declared_gets;
    } else {
      thread->key_index = Random(profile_.keys);
    }
    thread->key = key_name_[thread->key_index];
    BeginGet(node, thread);
    return;
  }
  EndInvocation(node, thread);
}

}  // namespace apta::sim
