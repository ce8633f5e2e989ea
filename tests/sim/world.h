// The deterministic simulator: homes, caches, GETC, PUTC and the Executor Manager that ship, on
// nodes and links of one thread in virtual time. One seed is one run, exactly repeatable.
//
// What is real: every controller on both sides, the pool and its object manager, the index, the
// invalidation rings, hold tables and staging areas (in the memory of real ports), pins. What is
// simulated: time, links, when each process gets to run, and what may befall a process.
//
// Faults are those that the protocol admits: a node is killed at any of its steps, or stopped and
// continued; it is fenced; its invalidation ring overflows (the simulator is built with a short
// one); the directory is too small; the memory server is killed and started on the same region,
// while some nodes are stopped and continue later with what they had. A pool may have a log
// (disk_log.h): then the next memory server starts with what the crash has left on the disk, which
// fails or is full for a while, too. Messages are late, and
// reordered where lanes and rings are independent, but never lost: between two live processes
// nothing is.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "compute/cache.h"
#include "compute/cut.h"
#include "compute/getc.h"
#include "compute/putc.h"
#include "daemon/home.h"
#include "fabric/link.h"
#include "fabric/port.h"
#include "fabric/region.h"
#include "fmt/format.h"
#include "tests/sim/authors_otc.h"
#include "tests/sim/disk_log.h"
#include "tests/sim/history.h"
#include "tests/sim/profile.h"

namespace apta::sim {

using fabric::NodeId;
using fabric::TimeNs;

struct Outcome {
  std::string failure;  // "" = every check held
  std::size_t operations = 0;
  std::size_t hits = 0;
  std::size_t stale_gets = 0;                 // outside functions; only lazy may have any
  std::size_t scheduled_gets = 0;             // inside functions
  std::size_t declared_gets = 0;              // of them, of what their call had declared
  std::size_t failed_attempts = 0;            // of functions that returned an error
  std::size_t transactions = 0, effects = 0;  // that ended; of invocations, that were committed
  std::size_t cuts = 0, cuts_by_words = 0;
  std::size_t kills = 0, stalls = 0, restarts = 0;
  std::size_t checkpoints = 0, disk_faults = 0, refused_by_log = 0;
  std::size_t recovered = 0;  // objects, from the log
  std::size_t orphans = 0;    // nodes that were stopped while the memory server was started again
  std::size_t fenced_silent = 0, fenced_over_quota = 0;
  std::size_t evictions = 0, untracked = 0, overflows = 0;
  std::size_t deferred_holds = 0;   // extents that were listed because they were being read
  std::size_t hold_everything = 0;  // ... when the table had no room
  OtcCoverage otc = {};             // what the directory was asked
  std::vector<std::string> trace;   // the last messages before a failure, if asked for

  void Add(const Outcome& other);  // all but failure and trace
  std::string Describe() const;    // the counts
};

// Runs one profile. `trace_lines`: how many of the last messages to keep.
Outcome Run(const Profile& profile, std::size_t trace_lines = 0);
// The smallest run found that still fails: fewer operations, nodes, keys, faults.
Profile Shrink(const Profile& failing);

// ---------------------------------------------------------------------------------------------

inline constexpr std::uint64_t kPoolBytes = 8 << 20;
inline constexpr std::uint32_t kClientsPerNode = 16;  // of a history: its threads

// A payload that is one value all through, so that a mixture of two shows.
std::string PayloadOf(std::uint64_t value, std::size_t words);

class World : private daemon::NodeGate {
 public:
  World(const Profile& profile, std::size_t trace_lines);
  ~World() override;
  Outcome Run();

 private:
  // A version that a thread goes on reading after its get has returned.
  struct Held {
    compute::Got got;
    std::uint64_t value;
    TimeNs until_ns;
  };
  struct Node;
  // A thread of a node: one operation at a time.
  struct Thread {
    std::uint16_t lane = 0;
    bool busy = false;
    std::size_t record = 0;               // of the operation under way, in history_
    TimeNs answered_ns = 0;               // when the home sent the reply that is being processed
    std::optional<TimeNs> invocation_ns;  // when the invocation that it runs was started
    int gets_left = 0;                    // of that invocation
    std::uint64_t invocation = 0;
    std::uint64_t in_lane = 0;  // the first word of the payload beside its last reply
    std::unique_ptr<compute::Getc> get;
    std::unique_ptr<compute::Putc> put;
    std::string key;
    std::uint64_t key_index = 0;
    std::uint32_t request_id = 0;
    std::function<void(const fabric::Reply&)> on_reply;
    std::string upload;  // what is still to be staged
    // GetMany
    struct Member {
      std::uint64_t key_index = 0;
      compute::Got got = {};
      std::uint64_t version = 0;
      std::uint64_t value = 0;
    };
    std::unique_ptr<compute::Cut> cut;
    std::vector<Member> members;
    std::vector<std::size_t> wanted;  // of members
    TimeNs cut_begin_ns = 0;
    int cut_rounds = 0;
    // A transaction, or what an invocation writes
    struct Planned {
      Operation record;
      std::string payload;
      fabric::GroupWrite write;
    };
    std::vector<Planned> group;
    std::size_t group_index = 0;  // in groups_
    std::vector<std::unique_ptr<compute::Putc>> puts;
    std::uint64_t token = 0;  // of the invocation that it runs, or has called
  };
  // What a memory server shows to its nodes, and what stays of it for those that outlive it.
  struct Server {
    std::optional<fabric::Region> region;  // as nodes map it, if the heap outlives the server
    std::atomic<std::uint32_t> life{1};
  };
  // A compute server. Killed, it comes back as another process.
  struct Node {
    int index = 0;
    std::uint64_t incarnation = 0;
    bool attached = false;
    bool fenced = false;
    NodeId slot = 0;
    TimeNs stalled_until_ns = 0;
    bool is_orphan = false;  // its memory server is dead, and it does not know yet
    std::shared_ptr<Server> server;
    fabric::Port* port = nullptr;
    compute::PinDomain* pins = nullptr;
    std::unique_ptr<compute::Cache> cache;
    std::optional<fabric::InvalidationIssuer<>> issuer;
    fabric::LinkDirection to_home, to_node;
    std::deque<std::pair<TimeNs, fabric::Request>> requests;  // visible from
    std::vector<Thread> threads;
    std::vector<Held> held;
    std::pair<std::uint64_t, std::uint64_t> told;  // applied, acknowledged: as in the trace
  };

  // --- world.cc: time, the home, faults
  using Step = std::function<void()>;
  void At(TimeNs time_ns, Step step);
  void AtNode(TimeNs time_ns, Node* node, Step step);  // when it runs then, and is the same process
  std::uint64_t Random(std::uint64_t below) { return random_() % below; }
  bool Chance(std::uint64_t one_in) { return one_in > 0 && Random(one_in) == 0; }
  template <typename... Args>
  void Trace(fmt::format_string<Args...> format, Args&&... args) {
    if (trace_lines_ > 0) TraceLine(fmt::format(format, std::forward<Args>(args)...));
  }
  void TraceLine(const std::string& line);
  void TraceApplied(Node* node);  // if there is something new
  void Fail(const std::string& what);
  void OpenPool();
  void StartHome();
  void HomeTurn();
  void PollHome();
  void Interleave();
  void StepRequest(Node* node);
  void Attach(Node* node);
  void Kill(Node* node);
  void LoseSession(Node* node);
  void Forget(Node* node, NodeId slot, TimeNs after_ns);
  void EndProcess(Node* node, TimeNs after_ns);
  void AttachAgain(Node* node, TimeNs after_ns);
  void Restart();
  void Orphan(Node* node);
  void MaybeFault();
  bool IsQuiet() const;
  bool NobodyWaits() const;  // and nobody will: all operations are done
  std::string WhoIsBusy() const;
  Node* AtSlot(NodeId slot);
  const std::string& NameOf(std::uint64_t key_hash) const;
  TimeNs Soon() { return now_ns_ + 20 + Random(400); }

  // --- node.cc: what nodes do
  void StartNode(Node* node);
  void AgentTurn(Node* node, bool nudged);
  void LetGo(Node* node);  // of what it has read long enough
  void NextOperation(Node* node, Thread* thread);
  void BeginGet(Node* node, Thread* thread);
  void AdvanceGet(Node* node, Thread* thread, compute::Getc::Step step);
  void EndGet(Node* node, Thread* thread, compute::Got got, bool found);
  void BeginPut(Node* node, Thread* thread, Operation::Kind kind);
  void EndOperation(Node* node, Thread* thread);
  void BeginCall(Node* node, Thread* thread);
  enum class Result { kPlain, kError };
  void AskForWork(Node* node, Thread* thread, Result result);
  void FinishWithEffects(Node* node, Thread* thread);
  void BeginPuts(Node* node, Thread* thread);
  void EndPuts(Thread* thread, const fabric::Reply& reply);
  void RunInvocation(Node* node, Thread* thread, std::uint64_t invocation, TimeNs started_ns);
  void Send(Node* node, Thread* thread, fabric::Op op, std::string_view key,
            std::string_view payload, std::uint64_t argument, std::uint8_t flags = 0);
  void StageMore(Node* node, Thread* thread);
  std::uint64_t ReadValue(const fabric::ExtentHeader* header);
  void CheckHeld(Node* node);

  // --- groups.cc: several keys at once
  using CutRecord = std::vector<std::pair<std::uint64_t, std::uint64_t>>;  // key, version
  std::vector<std::uint64_t> SomeKeys();
  void BeginCut(Node* node, Thread* thread);
  void NextMember(Node* node, Thread* thread);
  void OnMember(Node* node, Thread* thread, compute::Got got, bool found);
  void JudgeCut(Node* node, Thread* thread);
  void RecordCut(Node* node, Thread* thread);
  static void DropCut(Thread* thread);
  void EndCut(Node* node, Thread* thread);
  void PlanGroup(Thread* thread, std::uint32_t client, bool may_fail);
  void BeginTransaction(Node* node, Thread* thread);
  void Ship(Node* node, Thread* thread, std::size_t next, std::function<void(bool)> then);
  static std::string GroupPayload(const Thread& thread);
  void RecordGroup(Thread* thread);
  void CommitGroup(Node* node, Thread* thread);
  void OnGroupReply(Thread* thread, const fabric::Reply& reply);
  void EndInvocation(Node* node, Thread* thread);
  const fabric::ExtentHeader* Current(std::size_t key) const;
  void JudgeEffects(std::size_t group, std::uint64_t token);
  bool AreVisible(std::size_t group, std::uint64_t token);
  void CheckGroups();
  void CheckWhole(const Operation& write, std::uint64_t version);
  void CheckCut(const CutRecord& cut, const std::vector<std::size_t>& group, std::uint64_t version);
  void CheckCutInOrder(const CutRecord& cut);

  // --- logged.cc: a pool with a log
  void OpenLog();
  void CrashLog();
  void DeliverLogged();
  void FailDisk();
  absl::Status VisitWhileOthersWork(const daemon::log::ObjectVisitor& visit);
  void EndRefused(std::size_t record, const fabric::Reply& reply);
  void CheckRecovered();
  void CheckLogRecovers();

  // --- checks.cc
  void CheckInvariants();
  void CheckCaches(Node* node);
  void CheckReaders(const Node& node);
  void CheckDebtsOf(const Node& node);
  void CheckFence(NodeId slot);
  void CheckEnd();
  void CheckHistory();
  void WitnessOtc(fabric::Asked asked, std::uint64_t key_hash, NodeId node, bool has_answered);
  OtcEvent EventOf(fabric::Asked asked, std::uint64_t key_hash, NodeId node);

  // NodeGate
  void Issue(NodeId node, std::uint64_t sequence, const fabric::Invalidation& record) override;
  void IssueDropAll(NodeId node, std::uint64_t sequence) override;
  std::uint64_t Acknowledged(NodeId node) override;
  const fabric::HoldTable& Holds(NodeId node) override;
  void AnswerWith(const scheduler::Waiter& to, const fabric::Reply& reply,
                  BytesView payload) override {
    Node* node = AtSlot(to.node);
    if (node != nullptr && to.lane < node->threads.size()) {
      std::memcpy(&node->threads[to.lane].in_lane, payload.data(),
                  std::min(payload.size(), sizeof(std::uint64_t)));
    }
    fabric::Reply with = reply;
    with.extent_offset = fabric::kInLane + payload.size();
    Answer(to, with, payload.size());
  }
  void Answer(const scheduler::Waiter& to, const fabric::Reply& reply,
              std::uint64_t payload_bytes) override;
  std::uint64_t StagedBytes(NodeId node, std::uint16_t lane) override;
  const std::byte* Staging(NodeId node, std::uint16_t lane) override;
  void SetDrained(NodeId node, std::uint16_t lane, std::uint64_t bytes) override;
  void Nudge(NodeId node) override;
  void Fence(NodeId node, const daemon::FenceReason& reason) override;
  void OnNodeForgotten(NodeId node) override;
  void OnDamaged(const daemon::Pool*, std::string_view, std::uint64_t) override {}  // never
  void SendToHome(const daemon::Pool*, int, daemon::GroupMessage) override {}       // there is one

  struct Event {
    TimeNs time_ns;
    std::uint64_t order;
    Step step;
    bool operator>(const Event& other) const {
      return time_ns != other.time_ns ? time_ns > other.time_ns : order > other.order;
    }
  };

  const Profile profile_;
  std::mt19937_64 random_;
  TimeNs now_ns_ = 1'000'000;
  std::uint64_t last_order_ = 0;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::uint64_t turns_ = 0;
  TimeNs progress_ns_ = now_ns_;  // when an operation began last

  std::string region_path_;  // "" = a memfd
  std::optional<daemon::log::SimMedium> disk_;
  std::uint64_t server_life_ = 0;
  TimeNs disk_good_from_ns_ = 0;
  int disk_error_ = 0;
  TimeNs delivered_until_ns_ = 0;
  std::deque<std::vector<daemon::LogOutcome>> logged_;           // on their way to the home
  std::vector<std::pair<std::size_t, std::uint64_t>> unjudged_;  // effects: group, token
  std::unique_ptr<daemon::Pool> pool_;
  std::optional<DiskLog> log_;
  std::optional<daemon::Home> home_;
  std::uint64_t home_incarnation_ = 0;
  std::shared_ptr<Server> server_;
  std::vector<std::unique_ptr<Node>> nodes_;
  // By slot: its process, dead or alive, until the home has forgotten it. A dead one's port stays.
  struct Slot {
    fabric::Port* port = nullptr;
    Node* node = nullptr;  // nullptr: dead
    // Our own books of its debts, against the home's.
    std::uint64_t acknowledged = 0;
    TimeNs answered_ns = 0;    // when it owed nothing, or acknowledged something, last
    TimeNs over_quota_ns = 0;  // since when; 0 = it is not
    std::uint64_t holds_everything = 0;
  };
  std::array<Slot, fabric::kMaxNodes> slots_;
  int answered_ = 0;  // since the last step

  std::vector<Operation> history_;
  std::vector<bool> is_void_;  // says nothing: by index in history_
  std::vector<ScheduledGet> scheduled_;
  std::vector<std::vector<std::size_t>> groups_;  // of history_, that were committed together
  std::vector<CutRecord> cuts_;
  // Invocations, by a number in their input: whose effects have been seen; whose callers were told
  // that they failed.
  std::set<std::uint64_t> committed_tokens_, failed_tokens_;
  std::uint64_t next_token_ = 0;
  std::map<std::uint64_t, std::vector<std::uint64_t>> declared_;  // keys that it reads, by token
  std::vector<std::string> key_name_;
  std::vector<std::uint64_t> key_hash_;
  // What the directory is being asked, and how many rounds of each object are outstanding.
  OtcState state_before_ = OtcState::kI;
  daemon::NodeSet sharers_before_;
  std::unordered_map<std::uint64_t, int> rounds_;
  bool a_node_dies_ = false;
  std::set<std::pair<NodeId, std::uint64_t>> deferred_;  // slot, extent
  std::uint64_t next_value_ = 0;
  std::uint64_t operations_left_;
  Outcome outcome_;
  std::deque<std::string> trace_;
  const std::size_t trace_lines_;
};

}  // namespace apta::sim
