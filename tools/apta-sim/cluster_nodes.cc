// What compute servers do: gets through GETC, puts through PUTC, invalidations, functions.

#include <array>
#include <cstring>
#include <utility>

#include "fabric/call_head.h"
#include "fabric/hash.h"
#include "tools/apta-sim/cluster.h"

namespace apta::perf {

using compute::Getc;
using compute::Putc;
using fabric::kCacheLineBytes;
using fabric::Op;
using fabric::Reply;
using fabric::Request;

void Cluster::Send(Node* node, std::uint16_t lane, const Sending& sending,
                   std::function<void(const Reply&)> on_reply) {
  const bool is_small = sending.payload_bytes == 0;
  const std::uint64_t stored = is_small ? sending.small.size() : Stored(sending.payload_bytes);
  Message message{.node = node->index,
                  .incarnation = node->incarnation,
                  .shard = sending.shard,
                  .request = {},
                  .staged_key = {},
                  .cost_ns = sending.cost_ns};
  Request& request = message.request;
  request.op = sending.op;
  request.flags = sending.flags;
  request.lane = lane;
  request.request_id = ++node->lanes[lane].request_id;
  request.argument = sending.argument;
  request.key_bytes = static_cast<std::uint16_t>(sending.key.size());
  request.payload_bytes = stored & fabric::kMaxPayloadBytes;
  if (sending.key.size() + stored <= fabric::kInlineBytes) {
    std::memcpy(request.body, sending.key.data(), sending.key.size());
    std::memcpy(request.body + sending.key.size(), sending.small.data(), sending.small.size());
  } else {
    request.flags |= fabric::kBodyStaged;
    message.staged_key = sending.key;
  }
  node->lanes[lane].on_reply = std::move(on_reply);
  const std::uint64_t bytes = kCacheLineBytes + sending.payload_bytes;
  // What software coherence costs is of gets and puts.
  const bool is_call = sending.op == Op::kGet || sending.op == Op::kPut;
  AtNode(now() + static_cast<TimeNs>(scenario_.costs.client_ns), node,
         [this, node, bytes, is_call, payload_bytes = sending.payload_bytes,
          message = std::move(message)]() mutable {
           const TimeNs there_ns = Up(node, message.shard, bytes, is_call) +
                                   static_cast<TimeNs>(LinesNs(payload_bytes, 2));
           events_->At(there_ns, [this, message = std::move(message)]() mutable {
             Arrive(std::move(message));
           });
         });
}

// --- gets

void Cluster::Get(int index, std::uint16_t lane, const std::string& key, Then then) {
  Node* const node = &NodeOf(index);
  const auto op = std::make_shared<GetOp>(GetOp{.node = node,
                                                .lane = lane,
                                                .key = key,
                                                .key_hash = fabric::KeyHash(key),
                                                .begin_ns = now(),
                                                .then = std::move(then),
                                                .get = nullptr});
  node->lanes[lane].get = op;
  op->get = std::make_unique<Getc>(node->cache.get(), op->key_hash, op->key, node->table, copies_);
  AdvanceGet(op, op->get->Begin(/*home_sleeps=*/false, now()));
  Settle(node);
}

void Cluster::AdvanceGet(const std::shared_ptr<GetOp>& op, Getc::Step step) {
  Node* const node = op->node;
  const int shard = ShardOf(op->key_hash);
  switch (step) {
    case Getc::Step::kAsk: {
      // A version that is only confirmed is a hit all the same.
      op->has_asked = op->has_asked || op->get->argument() == 0;
      const std::uint64_t held = op->get->argument();
      Send(node, op->lane,
           {.op = Op::kGet,
            .key = op->key,
            .argument = held,
            .cost_ns = scenario_.costs.otc_ns + scenario_.costs.osc_ns,
            .shard = shard},
           [this, op, held](const Reply& reply) {
             if (held != 0 && reply.version != held) op->has_asked = true;
             AdvanceGet(op, op->get->OnReply(reply));
           });
      return;
    }
    case Getc::Step::kReadHeap: {  // one-sided: no controller is asked
      op->has_asked = true;
      const TimeNs there_ns = Up(node, shard, kCacheLineBytes, /*is_call=*/false);
      AtNode(there_ns, node, [this, op, node, shard] {
        const Getc::Step found = op->get->OnReadHeap();
        std::uint64_t bytes = 0;
        if (found == Getc::Step::kFound && op->get->got().copy != nullptr) {
          bytes = op->get->got().copy->header()->payload_bytes *
                  static_cast<std::uint64_t>(scenario_.memory.scale);
        }
        const TimeNs back_ns =
            Down(node, shard, kCacheLineBytes + bytes) + static_cast<TimeNs>(LinesNs(bytes, 1));
        AtNode(back_ns, node, [this, op, node, found] {
          AdvanceGet(op, found);
          Settle(node);
        });
      });
      return;
    }
    case Getc::Step::kFollow:
      op->has_asked = true;
      node->followers.push_back(op);
      return;
    case Getc::Step::kFound:
      EndGet(op, true);
      return;
    case Getc::Step::kNotFound:
    case Getc::Step::kDead:
      EndGet(op, false);
      return;
  }
}

void Cluster::EndGet(const std::shared_ptr<GetOp>& op, bool found) {
  Node* const node = op->node;
  std::uint64_t stored = 0;
  if (found) {
    compute::Got got = op->get->Take();
    stored = got.pinned ? got.pinned->header->payload_bytes : got.copy->header()->payload_bytes;
    if (got.pinned) got.pinned->pin->Drop();
  }
  // Another place than the network: its own memory.
  double local_ns = 0;
  if (!op->has_asked) {
    const double bytes = static_cast<double>(stored) * static_cast<double>(scenario_.memory.scale);
    local_ns = scenario_.costs.hit_ns;
    if (scenario_.costs.local_gbps > 0) local_ns += bytes * 8 / scenario_.costs.local_gbps;
  }
  After(node->index, local_ns, [this, op, node, found] {
    op->get.reset();
    if (found) {
      metrics_->Add(op->has_asked ? Kind::kMiss : Kind::kHit, node->index, op->lane, op->begin_ns,
                    now(), op->key);
    } else {
      ++metrics_->failed;
    }
    op->then(found);
  });
}

// After whatever a node did: threads that waited for another's fill go on, and acknowledgements
// that it has published are on their way.
void Cluster::Settle(Node* node) {
  if (!node->attached) return;
  for (std::size_t i = 0; i < node->followers.size();) {
    const std::shared_ptr<GetOp> op = node->followers[i];
    if (!op->get->fill().has_ended()) {
      ++i;
      continue;
    }
    node->followers.erase(node->followers.begin() + static_cast<std::ptrdiff_t>(i));
    AdvanceGet(op, op->get->OnFillEnded());
    i = 0;
  }
  node->cache->ReleaseHolds();
  for (std::size_t shard = 0; shard < shards_.size(); ++shard) {
    const std::uint64_t published =
        node->port->invalidations(static_cast<int>(shard))->acknowledged.load();
    if (published == node->published[shard]) continue;
    node->published[shard] = published;
    const TimeNs there_ns = Up(node, static_cast<int>(shard), kCacheLineBytes, false);
    AtNode(there_ns, node, [this, node, shard, published] {
      node->acknowledged[shard] = std::max(node->acknowledged[shard], published);
      std::deque<Sent>& sent = node->sent[shard];
      while (!sent.empty() && sent.front().sequence <= published) {
        metrics_->outstanding.Add(now() - sent.front().issued_ns);
        sent.pop_front();
      }
      PollHome(static_cast<int>(shard));
    });
  }
}

void Cluster::Apply(Node* node, int shard) {
  node->cache->Apply(shard, now());
  Settle(node);
}

// --- puts

void Cluster::Put(int index, std::uint16_t lane, const std::string& key, std::uint64_t bytes,
                  Then then) {
  Node* const node = &NodeOf(index);
  const std::uint64_t key_hash = fabric::KeyHash(key);
  const auto put = std::make_shared<Putc>(node->cache.get(), key_hash);
  double cost_ns = scenario_.costs.otc_ns + scenario_.costs.opc_ns;
  if (scenario_.costs.copy_gbps > 0) {
    cost_ns += static_cast<double>(bytes) * 8 / scenario_.costs.copy_gbps;
  }
  Send(node, lane,
       {.op = Op::kPut,
        .key = key,
        .payload_bytes = bytes,
        .argument = fabric::kAnyVersion,
        .cost_ns = cost_ns,
        .shard = ShardOf(key_hash)},
       [this, node, lane, key, bytes, put, begin_ns = now(),
        then = std::move(then)](const Reply& reply) {
         if (reply.code == 0) {
           put->OnReply(reply, Stored(bytes), copies_, now());
           metrics_->Add(Kind::kPut, node->index, lane, begin_ns, now(), key);
         } else {
           ++metrics_->failed;
         }
         then(reply.code == 0);
       });
}

// --- functions

void Cluster::Register(int index, std::uint16_t lane, const std::string& function, Then then) {
  const fabric::FunctionLimits limits{
      .max_concurrency = static_cast<std::uint16_t>(scenario_.servers.threads),
      .threads = static_cast<std::uint8_t>(scenario_.servers.threads)};
  Send(&NodeOf(index), lane,
       {.op = Op::kRegister,
        .key = function,
        .argument = limits.Pack(),
        .cost_ns = scenario_.costs.em_ns},
       [then = std::move(then)](const Reply& reply) { then(reply.code == 0); });
}

void Cluster::Ready(int index, std::uint16_t lane, std::uint64_t attempt, Work work) {
  Node* const node = &NodeOf(index);
  Send(node, lane,
       {.op = Op::kReady, .key = "", .argument = attempt, .cost_ns = scenario_.costs.em_ns},
       [node, lane, work = std::move(work)](const Reply& reply) {
         if (reply.code == 0) work(reply.value[0], node->lanes[lane].token);
       });
}

void Cluster::Call(int index, std::uint16_t lane, const CallTo& to, std::uint64_t token,
                   Then then) {
  constexpr std::uint64_t kPatienceNs = 3'600'000'000'000;
  std::vector<std::uint64_t> reads;
  for (const std::string& key : to.reads) reads.push_back(fabric::KeyHash(key));
  std::array<char, fabric::kMaxHeadBytes> buffer;
  const std::string_view head = fabric::MakeCallHead({.flags = fabric::CallHead::kDeclaresReads},
                                                     reads, to.node, to.function, buffer.data());
  Node* const node = &NodeOf(index);
  const std::string_view payload(reinterpret_cast<const char*>(&token), sizeof(token));
  Send(node, lane,
       {.op = Op::kCall,
        .key = head,
        .small = payload,
        .argument = kPatienceNs,
        .flags = fabric::kHeaded,
        .cost_ns = scenario_.costs.em_ns},
       [this, node, lane, begin_ns = now(), function = to.function,
        then = std::move(then)](const Reply& reply) {
         metrics_->Add(Kind::kCall, node->index, lane, begin_ns, now(), function);
         then(reply.code == 0);
       });
}

}  // namespace apta::perf
