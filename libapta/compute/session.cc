// A session's life and its verbs; how it talks to homes is in session_ask.cc.

#include "compute/session.h"

#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <queue>
#include <set>

#include "fabric/hash.h"
#include "fmt/format.h"

namespace apta::compute {

using fabric::Op;
using fabric::Reply;

namespace {

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
  const absl::StatusOr<std::size_t> bytes =
      fabric::ReceivePacket(socket, &welcome, sizeof(welcome), fds, 2 + fabric::kMaxShards);
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
  if (welcome.shards < 1 || welcome.shards > fabric::kMaxShards ||
      fds->size() != 2 + welcome.shards) {
    return absl::InternalError("the memory server's welcome does not carry what it should");
  }
  return welcome;
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
  for (int shard = 0; shard < shards; ++shard) {
    session->homes_.emplace_back(std::move(fds[static_cast<std::size_t>(2 + shard)]));
    session->submissions_.push_back(
        std::make_unique<fabric::SubmissionProducer<>>(session->port_.submissions(shard)));
  }
  session->link_ = {.latency_ns = welcome->link_latency_ns,
                    .bandwidth_gbps = welcome->link_bandwidth_gbps,
                    .jitter_ns = welcome->link_jitter_ns,
                    .call_ns = welcome->link_call_ns};
  session->to_home_ = fabric::LinkDirection(session->link_, welcome->node * 2 + 1);
  session->view_ = fabric::IndexView(session->region_.data(), *session->superblock_);
  session->pins_ = PinDomain::Acquire();
  session->cache_ =
      std::make_unique<Cache>(session->view_, options.cache_bytes, shards, &session->port_,
                              session->pins_, session->link_.enabled());
  return session;
}

Session::~Session() {
  if (pins_ != nullptr) PinDomain::Return(pins_);
}

absl::Status Session::Ended() const {
  return absl::UnavailableError(
      fmt::format("the memory server at {} is gone; trying to reach it again", socket_path_));
}

// The end of everything that waits: see AwaitReply for its other half.
void Session::Fail() {
  failed_.store(true);
  // Ours until then; a process that has forked must not end its parent's session by closing.
  shutdown(socket_.get(), SHUT_RDWR);
  for (int lane = 0; lane < fabric::kLanes; ++lane) {
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
  region_.Retire();
  port_.Retire();
}

void Session::EndReading() {
  if (readers_.fetch_sub(1) == 1 && failed_.load()) pins_->Wake();
}

void Session::OnNudge() {
  cache_->ApplyAll(fabric::RealClock::ReadNow());
  // The home asked because something needs the answer: it may be asleep by now.
  for (int shard = 0; shard < static_cast<int>(homes_.size()); ++shard) RingIfAsleep(shard);
}

void Session::AddStats(ClientStats* stats) const {
  const Cache::Counters counters = cache_->counters();
  stats->hits += pins_->hits();
  stats->misses += misses_.load(std::memory_order_relaxed);  // statistics
  stats->puts += puts_.load(std::memory_order_relaxed);
  stats->invalidations_applied += counters.invalidations_applied;
  stats->evictions += counters.evictions;
  stats->placement = Placement::kInPlace;
  if (has_failed()) return;
  stats->objects_cached += counters.objects;
  stats->bytes_cached += counters.bytes;
  std::set<std::uint64_t> pinned;  // several threads may pin one extent
  pins_->ForEachPinned([&](std::uint64_t extent) { pinned.insert(extent); });
  for (const std::uint64_t extent : pinned) {
    const fabric::ExtentHeader* header = view_.HeaderAt(extent);
    if (header != nullptr) stats->bytes_pinned += header->payload_bytes;
  }
}

Object Session::MakeObject(const PinnedExtent& pinned) const {
  Object object;
  object.pin_ = pinned.pin;
  object.key_ = pinned.header->key();
  object.version_ = pinned.header->version;
  object.bytes_ = BytesView(pinned.header->payload(), pinned.header->payload_bytes);
  return object;
}

absl::Status Session::MakeError(const Reply& reply, std::string_view key) const {
  return fabric::MakeStatus(reply, fmt::format("pool {}: {}", pool_, key));
}

// The look at the invalidation word.
void Session::ApplyIfNeeded(int shard) {
  if (cache_->IsCurrent(shard)) return;
  cache_->Apply(shard, link_.enabled() ? fabric::RealClock::ReadNow() : 0);
}

// ---------------------------------------------------------------------------------------------
// GETC

absl::StatusOr<Object> Session::Get(std::string_view key) {
  const std::uint64_t key_hash = fabric::KeyHash(key);
  PinTable* table = pins_->ThreadTable();
  ApplyIfNeeded(ShardOf(key_hash));
  if (const std::optional<PinnedExtent> hit = cache_->Lookup(key_hash, key, table)) {
    table->CountHit();
    return MakeObject(*hit);
  }
  return GetFromHome(key_hash, key, table);
}

absl::StatusOr<Object> Session::GetFromHome(std::uint64_t key_hash, std::string_view key,
                                            PinTable* table) {
  while (true) {
    const Cache::Miss miss = cache_->BeginGet(key_hash);
    misses_.fetch_add(1, std::memory_order_relaxed);  // a statistic
    std::optional<PinnedExtent> pinned;
    if (miss.leads) {
      const absl::StatusOr<Reply> reply =
          Ask(ShardOf(key_hash),
              {.op = Op::kGet, .key = key, .payload = {}, .timeout_ns = timeout_ns_});
      if (!reply.ok() || reply->code != 0) {
        cache_->AbandonFill(miss.fill);
        RingIfHeldBack(*miss.fill);
        return reply.ok() ? MakeError(*reply, key) : reply.status();
      }
      pinned = cache_->EndGet(miss.fill, reply->version, reply->extent_offset, table);
      RingIfHeldBack(*miss.fill);
      if (!pinned) return Ended();
    } else {
      pinned = cache_->Follow(miss.fill);
    }
    // Another key may have the same hash; and a fill that brought nothing says nothing to us.
    if (pinned && pinned->header->key() == key) return MakeObject(*pinned);
    if (pinned) pinned->pin->Drop();
    if (has_failed()) return Ended();
  }
}

// ---------------------------------------------------------------------------------------------
// PUTC

// Replaces our own entry before the put returns: "a put followed by a get in one process reads that
// put or a newer one".
void Session::FinishPut(const std::shared_ptr<Cache::Fill>& fill,
                        const absl::StatusOr<Reply>& reply) {
  if (reply.ok() && reply->code == 0) {
    puts_.fetch_add(1, std::memory_order_relaxed);  // a statistic
    cache_->EndPut(fill, reply->version, reply->extent_offset);
    ApplyIfNeeded(fill->shard());
  } else {
    cache_->AbandonFill(fill);
  }
  RingIfHeldBack(*fill);
}

// A fill that was overtaken has held an acknowledgement back. The home may have asked for it, and
// gone to sleep.
void Session::RingIfHeldBack(const Cache::Fill& fill) {
  if (fill.was_overtaken()) RingIfAsleep(fill.shard());
}

absl::StatusOr<Version> Session::Put(std::string_view key, BytesView value,
                                     std::uint64_t if_version) {
  const std::uint64_t key_hash = fabric::KeyHash(key);
  const std::shared_ptr<Cache::Fill> fill = cache_->BeginPut(key_hash);
  const absl::StatusOr<Reply> reply = AskRoomy(fill->shard(), {.op = Op::kPut,
                                                               .key = key,
                                                               .payload = value,
                                                               .argument = if_version,
                                                               .timeout_ns = timeout_ns_});
  FinishPut(fill, reply);
  if (!reply.ok()) return reply.status();
  if (reply->code != 0) return MakeError(*reply, key);
  return reply->version;
}

absl::StatusOr<Version> Session::Delete(std::string_view key, std::uint64_t if_version) {
  const std::uint64_t key_hash = fabric::KeyHash(key);
  const std::shared_ptr<Cache::Fill> fill = cache_->BeginPut(key_hash);
  const absl::StatusOr<Reply> reply = Ask(fill->shard(), {.op = Op::kDelete,
                                                          .key = key,
                                                          .payload = {},
                                                          .argument = if_version,
                                                          .timeout_ns = timeout_ns_});
  FinishPut(fill, reply);
  if (!reply.ok()) return reply.status();
  if (reply->code != 0) return MakeError(*reply, key);
  return reply->version;
}

absl::StatusOr<std::uint64_t> Session::Create(std::string_view key, std::size_t size) {
  const absl::StatusOr<Reply> reply = AskRoomy(
      ShardOf(fabric::KeyHash(key)),
      {.op = Op::kCreate, .key = key, .payload = {}, .argument = size, .timeout_ns = timeout_ns_});
  if (!reply.ok()) return reply.status();
  if (reply->code != 0) return MakeError(*reply, key);
  return reply->extent_offset;
}

absl::Span<std::byte> Session::PayloadOf(std::uint64_t extent) {
  const fabric::ExtentHeader* header = view_.HeaderAt(extent);
  if (header == nullptr) return {};
  return {region_.data() + extent + header->payload_offset, header->payload_bytes};
}

absl::StatusOr<Version> Session::CommitDraft(std::string_view key, std::uint64_t extent) {
  const std::uint64_t key_hash = fabric::KeyHash(key);
  const std::shared_ptr<Cache::Fill> fill = cache_->BeginPut(key_hash);
  const absl::StatusOr<Reply> reply =
      Ask(fill->shard(),
          {.op = Op::kCommit, .payload = {}, .argument = extent, .timeout_ns = timeout_ns_});
  FinishPut(fill, reply);
  if (!reply.ok()) return reply.status();
  if (reply->code != 0) return MakeError(*reply, key);
  return reply->version;
}

void Session::AbortDraft(std::uint64_t extent) {
  const fabric::ExtentHeader* header = view_.HeaderAt(extent);
  if (header != nullptr) Tell(ShardOf(header->key_hash), Op::kAbort, extent);
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
    if (limit == 0 || slot.load(std::memory_order_relaxed) == 0)
      return;  // a hint: read again below
    std::optional<fabric::IndexEntry> entry;
    // A slot that changes under us still names something: look until it holds still.
    do {
      entry = view_.ReadUnregistered(slot);
    } while (!entry && slot.load() != 0 && !has_failed());
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

}  // namespace apta::compute

namespace apta {

// The pin can be shared but for a slot that is full of references: then the copy takes its own.
Object::Object(const Object& other)
    : pin_(other.pin_), key_(other.key_), version_(other.version_), bytes_(other.bytes_) {
  if (pin_ != nullptr && !pin_->TryShare()) pin_ = pin_->PinAgain();
}

void Object::Unpin() { pin_->Drop(); }

}  // namespace apta
