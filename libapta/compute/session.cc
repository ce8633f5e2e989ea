// A session's life and its verbs; how it talks to homes is in session_ask.cc, what its agent does
// in session_agent.cc.

#include "compute/session.h"

#include <sched.h>
#include <sys/socket.h>
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

#include <algorithm>
#include <cstring>
#include <queue>
#include <set>

#include "fabric/hash.h"
#include "fabric/numa.h"
#include "fmt/format.h"

namespace apta::compute {

using fabric::Op;
using fabric::Reply;

namespace {

// The home hands an extent from the thread that filled it to the next one. A race detector that
// sees only this process is told so.
#ifdef __SANITIZE_THREAD__
void HasFilled(void* session) { __tsan_release(session); }
void FillsAfterOthers(void* session) { __tsan_acquire(session); }
#else
void HasFilled(void*) {}
void FillsAfterOthers(void*) {}
#endif

absl::StatusOr<fabric::Welcome> Handshake(int socket, const ClientOptions& options,
                                          std::vector<fabric::UniqueFd>* fds) {
  fabric::Hello hello{};
  hello.magic = fabric::kControlMagic;
  hello.version = fabric::kControlVersion;
  hello.kind = fabric::Hello::kAttach;
  fabric::CopyText(hello.pool, options.pool);
  fabric::CopyText(hello.node, options.node);
  const timeval timeout = absl::ToTimeval(options.timeout);
  setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  const fabric::TimeNs asked_ns = fabric::RealClock::ReadNow();
  if (absl::Status sent = fabric::SendPacket(socket, &hello, sizeof(hello)); !sent.ok()) {
    return absl::UnavailableError("the memory server closed the connection");
  }
  fabric::Welcome welcome;
  const absl::StatusOr<std::size_t> bytes = fabric::ReceivePacket(
      socket, &welcome, sizeof(welcome), fds, fabric::kWelcomeDescriptors + fabric::kMaxShards);
  if (!bytes.ok()) {
    const std::string text = fmt::format("the memory server did not answer the attach: {}",
                                         std::string(bytes.status().message()));
    const bool is_over = fabric::RealClock::ReadNow() - asked_ns >=
                         static_cast<fabric::TimeNs>(absl::ToInt64Nanoseconds(options.timeout));
    if (is_over) return absl::DeadlineExceededError(text);
    return absl::UnavailableError(text);
  }
  if (*bytes == 0) return absl::UnavailableError("the memory server closed the connection");
  if (*bytes != sizeof(welcome) || welcome.magic != fabric::kControlMagic ||
      welcome.version != fabric::kControlVersion) {
    return absl::FailedPreconditionError(
        "the memory server speaks another version of the protocol; run aptad and its clients from "
        "one version");
  }
  if (welcome.code != 0) {
    return absl::Status(static_cast<absl::StatusCode>(welcome.code),
                        std::string(fabric::FieldText(welcome.message)));
  }
  if (welcome.coherence > fabric::Coherence::kUncached || welcome.shards < 1 ||
      welcome.shards > fabric::kMaxShards ||
      fds->size() != fabric::kWelcomeDescriptors + welcome.shards) {
    return absl::InternalError("the memory server's welcome does not carry what it should");
  }
  return welcome;
}

// Whether versions are read from private copies: what a far or emulated memory is slow at, once
// instead of with every access. Without a directory there is no other way.
bool DecideCopies(Placement placement, const fabric::Welcome& welcome,
                  const fabric::Region& region) {
  if (!fabric::TracksSharers(welcome.coherence)) return true;
  switch (placement) {
    case Placement::kInPlace:
      return false;
    case Placement::kLocalCopy:
      return true;
    case Placement::kAuto:
      break;
  }
  return welcome.link_latency_ns != 0 || welcome.link_bandwidth_gbps != 0 ||
         fabric::IsFarFromHere(region.data());
}

}  // namespace

absl::StatusOr<std::shared_ptr<Session>> Session::Attach(const ClientOptions& options,
                                                         const std::string& socket) {
  absl::StatusOr<fabric::UniqueFd> connected = fabric::ConnectSocket(socket);
  if (!connected.ok()) return connected.status();
  std::vector<fabric::UniqueFd> fds;
  const absl::StatusOr<fabric::Welcome> welcome = Handshake(connected->get(), options, &fds);
  if (!welcome.ok()) return welcome.status();

  std::shared_ptr<Session> session(new Session());
  session->pool_ = options.pool;
  session->socket_path_ = socket;
  session->timeout_ns_ = static_cast<fabric::TimeNs>(
      std::max<std::int64_t>(0, absl::ToInt64Nanoseconds(options.timeout)));
  session->trusted_ = welcome->trusted != 0;
  session->socket_ = *std::move(connected);
  absl::StatusOr<fabric::Region> region =
      fabric::Region::Map(std::move(fds[0]), welcome->region_bytes, session->trusted_);
  if (!region.ok()) return region.status();
  session->region_ = *std::move(region);
  session->superblock_ = reinterpret_cast<const fabric::Superblock*>(session->region_.data());
  if (absl::Status valid = session->superblock_->Validate(welcome->region_bytes); !valid.ok()) {
    return valid;
  }
  const int shards = static_cast<int>(welcome->shards);
  absl::StatusOr<fabric::Port> port = fabric::Port::Map(std::move(fds[1]), shards);
  if (!port.ok()) return port.status();
  session->port_ = *std::move(port);
  absl::StatusOr<fabric::Life> life = fabric::Life::Map(std::move(fds[2]));
  if (!life.ok()) return life.status();
  session->life_ = *std::move(life);
  for (int shard = 0; shard < shards; ++shard) {
    session->homes_.emplace_back(
        std::move(fds[fabric::kWelcomeDescriptors + static_cast<std::size_t>(shard)]));
    session->submissions_.push_back(
        std::make_unique<fabric::SubmissionProducer<>>(session->port_.submissions(shard)));
  }
  const LinkOptions link{.latency_ns = welcome->link_latency_ns,
                         .bandwidth_gbps = welcome->link_bandwidth_gbps,
                         .jitter_ns = welcome->link_jitter_ns,
                         .call_ns = welcome->link_call_ns};
  session->is_link_emulated_ = link.enabled();
  session->to_home_ = fabric::LinkDirection(link, welcome->node * 2 + 1);
  session->view_ = fabric::IndexView(session->region_.data(), *session->superblock_);
  session->pins_ = PinDomain::Acquire();
  session->copies_ = DecideCopies(options.placement, *welcome, session->region_);
  session->cache_ = std::make_unique<Cache>(
      session->view_, welcome->coherence, options.cache_bytes, shards, &session->port_,
      session->pins_, session->is_link_emulated_, session->life_.view(), session->trusted_);
  return session;
}

Session::~Session() {
  if (pins_ != nullptr) PinDomain::Return(pins_);
}

absl::Status Session::Ended() const {
  std::lock_guard<std::mutex> lock(why_mutex_);
  if (!why_ended_.empty()) {
    return absl::UnavailableError(
        fmt::format("the memory server at {} has {}; attaching again with an empty cache",
                    socket_path_, why_ended_));
  }
  return absl::UnavailableError(
      fmt::format("the memory server at {} is gone; trying to reach it again", socket_path_));
}

// The end of everything that waits: see AwaitReply for its other half.
void Session::Fail() {
  failed_.store(true);
  if (region_.outlives_server()) KeepPinned();
  for (int lane = 0; lane < lanes_.end(); ++lane) {
    std::atomic<std::uint32_t>& done_id = port_.lane(lane)->done_id;
    done_id.fetch_xor(0x8000'0000);  // so that nobody falls asleep on it any more
    fabric::FutexWake(&done_id);
  }
  cache_->Clear();
}

// Sequentially consistent, on both sides: a reader that begins after Fail finds in the reply that
// it waits for, or does not get, that the session is over; one that began before is seen here.
void Session::RetireIfUnused() {
  if (is_retired_ || readers_.load() != 0 || IsPinned()) return;
  is_retired_ = true;
  HangUp();
  region_.Retire();
  port_.Retire();
  life_.Retire();
}

// The next memory server of a file knows nothing of our pins, and reuses what is superseded. It
// needs some milliseconds to start; a process that is stopped meanwhile comes too late.
void Session::KeepPinned() {
  pins_->ForEachPinned([&](std::uint64_t place) {
    if (PrivateCopy::IsPlace(place)) return;
    const fabric::ExtentHeader* header = view_.HeaderAt(place);
    if (header == nullptr) return;
    region_.KeepPrivately(place, fabric::ExtentBytes(header->key_bytes, header->payload_bytes));
  });
}

// Not by closing: a process that has forked shares the socket with its child.
void Session::HangUp() { shutdown(socket_.get(), SHUT_RDWR); }

void Session::FailFenced(std::string_view why) {
  {
    std::lock_guard<std::mutex> lock(why_mutex_);
    if (!has_failed()) {
      why_ended_ = why.empty() ? "fenced this node" : fmt::format("fenced this node: it {}", why);
    }
  }
  Fail();
  pins_->Wake();  // the agent attaches again
}

void Session::FailDead() {
  Fail();
  pins_->Wake();  // the agent tries to reach it again
}

void Session::EndReading() {
  if (readers_.fetch_sub(1) == 1 && failed_.load()) pins_->Wake();
}

void Session::AddStats(ClientStats* stats) const {
  const Cache::Counters counters = cache_->counters();
  stats->hits += pins_->Sum(PinTable::kHits);
  stats->misses += pins_->Sum(PinTable::kMisses);
  stats->puts += counters.puts;
  stats->invalidations_applied += counters.invalidations_applied;
  stats->evictions += counters.evictions;
  stats->placement = copies_ ? Placement::kLocalCopy : Placement::kInPlace;
  std::set<std::uint64_t> pinned;  // several threads may pin one version
  pins_->ForEachPinned([&](std::uint64_t place) { pinned.insert(place); });
  for (const std::uint64_t place : pinned) stats->bytes_pinned += cache_->PayloadBytesAt(place);
  if (has_failed()) return;
  stats->objects_cached += counters.objects;
  stats->bytes_cached += counters.bytes;
}

Object Session::MakeObject(const PinnedExtent& pinned) const {
  Object object;
  object.pin_ = reinterpret_cast<std::uintptr_t>(pinned.pin);
  object.key_ = pinned.header->key();
  object.version_ = pinned.header->version;
  object.bytes_ = BytesView(pinned.header->payload(), pinned.header->payload_bytes);
  return object;
}

Object Session::MakeObject(Got got) const {
  if (got.pinned) return MakeObject(*got.pinned);
  Object object;
  const fabric::ExtentHeader* header = got.copy->header();
  object.key_ = header->key();
  object.version_ = header->version;
  object.bytes_ = BytesView(header->payload(), header->payload_bytes);
  object.pin_ = reinterpret_cast<std::uintptr_t>(got.copy.release()) | Object::kCopy;
  return object;
}

absl::Status Session::MakeError(const Reply& reply, std::string_view key) const {
  // What was lost is not the same as what never was, and the index says which.
  if (reply.reason == fabric::Reason::kNoSuchObject &&
      cache_->view().IsLost(fabric::KeyHash(key))) {
    return MakeError({.code = static_cast<std::uint16_t>(absl::StatusCode::kDataLoss),
                      .reason = fabric::Reason::kDamaged},
                     key);
  }
  return fabric::MakeStatus(reply, fmt::format("pool {}: {}", pool_, key));
}

// The look at the invalidation word.
void Session::ApplyIfNeeded(int shard) {
  if (cache_->IsCurrent(shard)) return;
  cache_->Apply(shard, NowOfLink());
}

// ---------------------------------------------------------------------------------------------
// GETC

absl::StatusOr<Object> Session::Get(std::string_view key) {
  const std::uint64_t key_hash = fabric::KeyHash(key);
  PinTable* table = pins_->ThreadTable();
  if (const auto hit = Getc::Find(cache_.get(), key_hash, key, table)) {
    table->Add(PinTable::kHits);
    return MakeObject(*hit);
  }
  return GetMissed(key_hash, key, table);
}

absl::StatusOr<Object> Session::GetMissed(std::uint64_t key_hash, std::string_view key,
                                          PinTable* table) {
  // Over an emulated link sleep is no excuse: there, the home is far away.
  const bool home_sleeps = !is_link_emulated_ && superblock_->home[ShardOf(key_hash)].asleep.load(
                                                     std::memory_order_relaxed) != 0;  // a hint
  Getc get(cache_.get(), key_hash, key, table, copies_);
  const Getc::Step step = get.Begin(home_sleeps, NowOfLink());
  table->Add(step == Getc::Step::kFound ? PinTable::kHits : PinTable::kMisses);
  return EndGet(&get, step, ShardOf(key_hash), key, timeout_ns_);
}

absl::StatusOr<Object> Session::EndGet(Getc* get, Getc::Step step, int shard, std::string_view key,
                                       fabric::TimeNs timeout_ns) {
  if (cache_->is_fenced()) FailFenced();
  Reply reply{};
  while (true) {
    if (has_failed() && step != Getc::Step::kFound) {
      get->OnNoReply();
      return Ended();
    }
    switch (step) {
      case Getc::Step::kAsk: {
        absl::Status asked = Ask(shard,
                                 {.op = Op::kGet,
                                  .key = key,
                                  .payload = {},
                                  .argument = get->argument(),
                                  .timeout_ns = timeout_ns},
                                 &reply);
        if (asked.ok()) {
          step = get->OnReply(reply);
        } else {
          get->OnNoReply();
        }
        if (get->held_back()) RingIfAsleep(shard);
        if (!asked.ok()) return asked;
        break;
      }
      case Getc::Step::kReadHeap:
        step = ReadHeap(get);
        break;
      case Getc::Step::kFollow:
        get->fill().Await();
        step = get->OnFillEnded();
        break;
      case Getc::Step::kFound:
        if (get->was_unregistered() && fabric::TracksSharers(cache_->mode())) Want(key);
        return MakeObject(get->Take());
      case Getc::Step::kDead:
        FailDead();
        return Ended();
      case Getc::Step::kNotFound:
        if (reply.code != 0) return MakeError(reply, key);
        return MakeError({.code = static_cast<std::uint16_t>(absl::StatusCode::kNotFound),
                          .reason = fabric::Reason::kNoSuchObject},
                         key);
    }
  }
}

// Over an emulated link the read is a message there and back, though nobody receives it.
Getc::Step Session::ReadHeap(Getc* get) {
  if (!is_link_emulated_) {
    const Getc::Step step = get->OnReadHeap();
    if (step == Getc::Step::kReadHeap) sched_yield();  // a group is half visible: its home's turn
    return step;
  }
  const auto wait = [](fabric::TimeNs until_ns) {
    while (fabric::RealClock::ReadNow() < until_ns) sched_yield();
  };
  const auto arrival = [this](std::uint64_t bytes) {
    std::lock_guard<std::mutex> lock(link_mutex_);
    return to_home_.VisibleAt(fabric::RealClock::ReadNow(), bytes, /*is_call=*/false);
  };
  wait(arrival(fabric::kCacheLineBytes));
  const Getc::Step step = get->OnReadHeap();
  wait(arrival(step == Getc::Step::kFound ? get->got().copy->header()->payload_bytes
                                          : fabric::kCacheLineBytes));
  return step;
}

// ---------------------------------------------------------------------------------------------
// PUTC

absl::StatusOr<Version> Session::Change(Putc* put, std::string_view key, std::size_t bytes,
                                        const absl::Status& status, const Reply& reply) {
  if (!status.ok()) return status;
  if (reply.code != 0) return MakeError(reply, key);
  put->OnReply(reply, bytes, copies_, NowOfLink());
  return reply.version;
}

absl::StatusOr<Version> Session::Put(std::string_view key, BytesView value,
                                     std::uint64_t if_version) {
  Putc put(cache_.get(), fabric::KeyHash(key));
  Reply reply;
  const absl::Status asked = AskRoomy(ShardOf(put.key_hash()),
                                      {.op = Op::kPut,
                                       .key = key,
                                       .payload = value,
                                       .argument = if_version,
                                       .timeout_ns = timeout_ns_},
                                      &reply);
  return Change(&put, key, value.size(), asked, reply);
}

absl::StatusOr<Version> Session::Delete(std::string_view key, std::uint64_t if_version) {
  Putc put(cache_.get(), fabric::KeyHash(key));
  Reply reply;
  const absl::Status asked = Ask(ShardOf(put.key_hash()),
                                 {.op = Op::kDelete,
                                  .key = key,
                                  .payload = {},
                                  .argument = if_version,
                                  .timeout_ns = timeout_ns_},
                                 &reply);
  return Change(&put, key, 0, asked, reply);
}

absl::Status Session::CheckSize(std::string_view key, std::size_t size) const {
  const std::uint64_t heap_bytes = superblock_->region_bytes - superblock_->heap_offset;
  if (size <= heap_bytes) return absl::OkStatus();
  return MakeError({.code = static_cast<std::uint16_t>(absl::StatusCode::kResourceExhausted),
                    .reason = fabric::Reason::kObjectTooLarge,
                    .value = {size, heap_bytes}},
                   key);
}

absl::StatusOr<std::uint64_t> Session::Create(std::string_view key, std::size_t size) {
  Reply reply;
  const absl::Status asked = AskRoomy(
      ShardOf(fabric::KeyHash(key)),
      {.op = Op::kCreate, .key = key, .payload = {}, .argument = size, .timeout_ns = timeout_ns_},
      &reply);
  if (!asked.ok()) return asked;
  if (reply.code != 0) return MakeError(reply, key);
  FillsAfterOthers(this);
  return reply.extent_offset;
}

absl::Span<std::byte> Session::PayloadOf(std::uint64_t extent) {
  const fabric::ExtentHeader* header = view_.HeaderAt(extent);
  if (header == nullptr) return {};
  return {region_.data() + extent + header->payload_offset, header->payload_bytes};
}

absl::StatusOr<Version> Session::CommitDraft(std::string_view key, std::uint64_t extent) {
  // Looked at before the home is asked: afterwards the extent may be somebody else's.
  const std::size_t size = PayloadOf(extent).size();
  HasFilled(this);
  Putc put(cache_.get(), fabric::KeyHash(key));
  Reply reply;
  const absl::Status asked = Ask(
      ShardOf(put.key_hash()),
      {.op = Op::kCommit, .payload = {}, .argument = extent, .timeout_ns = timeout_ns_}, &reply);
  return Change(&put, key, size, asked, reply);
}

void Session::AbortDraft(std::uint64_t extent) {
  const fabric::ExtentHeader* header = view_.HeaderAt(extent);
  const std::uint64_t hash = header == nullptr ? 0 : header->key_hash;
  HasFilled(this);
  if (header != nullptr) Tell(ShardOf(hash), Op::kAbort, extent);
}

// ---------------------------------------------------------------------------------------------

absl::StatusOr<ObjectInfo> Session::Stat(std::string_view key) {
  const absl::StatusOr<Reply> reply =
      Ask(ShardOf(fabric::KeyHash(key)),
          {.op = Op::kStat, .key = key, .payload = {}, .timeout_ns = timeout_ns_});
  if (!reply.ok()) return reply.status();
  if (reply->code != 0) return MakeError(*reply, key);
  return ObjectInfo{std::string(key), reply->version, reply->value[0], reply->value[1]};
}

// Keys come from the index, read without a message; what is said of each comes from its home.
absl::StatusOr<std::vector<ObjectInfo>> Session::List(std::string_view prefix, std::size_t limit,
                                                      std::string_view after) {
  std::set<std::string> keys;  // the `limit` smallest so far
  view_.ForEachSlot([&](const fabric::IndexSlot& slot) {
    if (limit == 0) return;
    std::optional<fabric::IndexEntry> entry = view_.ReadUnregistered(slot);
    if (!entry || !entry->key.starts_with(prefix) || entry->key <= after) return;
    keys.insert(std::move(entry->key));
    if (keys.size() > limit) keys.erase(std::prev(keys.end()));
  });
  std::vector<ObjectInfo> objects;
  for (const std::string& key : keys) {
    absl::StatusOr<ObjectInfo> object = Stat(key);
    if (object.ok()) {
      objects.push_back(*std::move(object));
    } else if (!absl::IsNotFound(object.status())) {  // not deleted meanwhile
      return object.status();
    }
  }
  return objects;
}

BytesView Session::PayloadAt(std::uint64_t extent) const {
  const fabric::ExtentHeader* header = extent != 0 ? view_.HeaderAt(extent) : nullptr;
  return header != nullptr ? BytesView(header->payload(), header->payload_bytes) : BytesView();
}

std::optional<ObjectPages> Session::Pages(const Object& object) const {
  // A pointer into another mapping compares like any other number.
  const auto at = reinterpret_cast<std::uintptr_t>(object.bytes_.data());
  const auto begin = reinterpret_cast<std::uintptr_t>(region_.data());
  if ((object.pin_ & Object::kCopy) != 0 || region_.outlives_server() || at < begin ||
      at - begin >= region_.size_bytes() || (at - begin) % fabric::kPageBytes != 0 ||
      object.size() < fabric::kPageAlignedPayloadBytes) {
    return std::nullopt;
  }
  absl::StatusOr<fabric::UniqueFd> fd = region_.ReadOnlyFd();
  if (!fd.ok()) return std::nullopt;
  return ObjectPages{.fd = fd->Release(), .offset = at - begin};
}

}  // namespace apta::compute

namespace apta {

// The pin can be shared but for a slot that is full of references: then the copy takes its own.
Object::Object(const Object& other)
    : pin_(other.pin_), key_(other.key_), version_(other.version_), bytes_(other.bytes_) {
  if ((pin_ & kCopy) != 0) {
    reinterpret_cast<compute::PrivateCopy*>(pin_ & ~kCopy)->Share();
  } else if (pin_ != 0) {
    auto* pin = reinterpret_cast<compute::PinSlot*>(pin_);
    if (!pin->TryShare()) pin_ = reinterpret_cast<std::uintptr_t>(pin->PinAgain());
  }
}

void Object::Unpin() {
  if ((pin_ & kCopy) != 0) {
    reinterpret_cast<compute::PrivateCopy*>(pin_ & ~kCopy)->Drop();
  } else {
    reinterpret_cast<compute::PinSlot*>(pin_)->Drop();
  }
}

}  // namespace apta
