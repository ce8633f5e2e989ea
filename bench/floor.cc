#include "floor.h"

#include <cstring>

#include "fabric/doorbell.h"

namespace apta::bench {
namespace {

using fabric::CpuRelax;
using fabric::Request;

struct RingFloor {
  Floor floor{Floor::Kind::kLean};
  Reference reference{"ring", [this] { return floor.TakeNs(); }};
};
std::unique_ptr<RingFloor> g_ring;

// Sleeps while nobody measures; returns when the echo is awake.
void AwaitMeasurement(Echo* echo) {
  if (echo->awake.load(std::memory_order_relaxed) != 0) return;
  echo->asleep.store(1);
  while (echo->awake.load() == 0) fabric::FutexWait(&echo->awake, 0, 1'000'000'000);
  echo->asleep.store(0);
}

// A pause between looks, and exchanges: measured here, they make it faster.
[[noreturn]] void EchoFlags(Echo* echo) {
  for (std::uint32_t seen = 0;;) {
    const std::uint32_t now = echo->ping.load(std::memory_order_acquire);
    if (now == seen) {
      AwaitMeasurement(echo);
      CpuRelax();
      continue;
    }
    seen = now;
    echo->pong.exchange(now);
  }
}

template <typename Answer>
[[noreturn]] void EchoRing(Echo* echo, Answer answer) {
  fabric::SubmissionConsumer<> requests(&echo->ring);
  while (true) {
    const Request* request = requests.Peek();
    if (request != nullptr) {
      answer(request, &requests);
    } else {
      AwaitMeasurement(echo);
      CpuRelax();
    }
  }
}

}  // namespace

int RunEcho(const std::vector<std::string>& words) {
  const SharedBytes shared(std::stoi(words[0]), sizeof(Echo));
  Echo* echo = shared.as<Echo>();
  const auto kind = static_cast<Floor::Kind>(std::stoi(words[1]));
  if (kind == Floor::Kind::kFlags) EchoFlags(echo);
  if (kind == Floor::Kind::kLean) {
    EchoRing(echo, [&](const Request* request, fabric::SubmissionConsumer<>* requests) {
      const std::uint32_t id = request->request_id;
      requests->Consume();
      echo->lane.done_id.exchange(id);
    });
  }
  EchoRing(echo, [&](const Request* request, fabric::SubmissionConsumer<>* requests) {
    Request copy;
    fabric::CopyRequest(*request, &copy);
    benchmark::DoNotOptimize(copy);
    requests->Consume();
    echo->lane.SetReply({.version = copy.request_id});
    echo->lane.done_id.store(copy.request_id);
  });
}

Floor::Floor(Kind kind)
    : kind_(kind),
      shared_(sizeof(Echo)),
      echo_(shared_.as<Echo>()),
      process_("echo", {std::to_string(shared_.fd()), std::to_string(static_cast<int>(kind))},
               Cores::kHomes),
      requests_(&echo_->ring) {
  Sleep();  // it is there
}

void Floor::Wake() {
  echo_->awake.store(1);
  fabric::FutexWake(&echo_->awake);
  while (echo_->asleep.load() != 0) CpuRelax();
}

void Floor::Sleep() {
  echo_->awake.store(0);
  while (echo_->asleep.load() == 0) {
    if (process_.has_ended()) Die(absl::UnavailableError("the echo has ended"));
    CpuRelax();
  }
}

bool Floor::RoundTrip() {
  const std::uint32_t id = ++id_;
  if (kind_ == Kind::kFlags) {
    echo_->ping.exchange(id);
    while (echo_->pong.load(std::memory_order_acquire) != id) CpuRelax();
    return true;
  }
  const bool pushed = requests_.TryPush([&](Request& request) {
    request.request_id = id;
    request.key_bytes = 16;
    std::memset(request.body, 'k', 16);
  });
  while (pushed && echo_->lane.done_id.load(std::memory_order_acquire) != id) CpuRelax();
  return pushed;
}

double Floor::TakeNs() {
  constexpr int kWarm = 16, kBatches = 5, kBatch = 32;
  Wake();
  for (int i = 0; i < kWarm; ++i) RoundTrip();
  Samples samples;
  for (int batch = 0; batch < kBatches; ++batch) {
    const auto began = Clock::now();
    for (int i = 0; i < kBatch; ++i) RoundTrip();
    samples.Add(NsSince(began) / kBatch);
  }
  Sleep();
  return samples.Median();
}

const Reference* RingReference() {
  if (g_ring == nullptr) g_ring = std::make_unique<RingFloor>();
  return &g_ring->reference;
}

void DropRingReference() { g_ring.reset(); }

}  // namespace apta::bench
