// The floor of every message: two processes, a submission ring there, a lane back, and nothing
// behind it. Both ends spin, each on a core of its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fabric/port.h"
#include "fabric/ring.h"
#include "harness.h"
#include "measure.h"

namespace apta::bench {

// What the two ends of a floor share.
struct Echo {
  // 1: the echo spins; 0: it sleeps, as soon as it has seen it, and the other end's core is free.
  alignas(fabric::kCacheLineBytes) std::atomic<std::uint32_t> awake;
  alignas(fabric::kCacheLineBytes) std::atomic<std::uint32_t> asleep;
  alignas(fabric::kCacheLineBytes) std::atomic<std::uint32_t> ping;  // the bare flags
  alignas(fabric::kCacheLineBytes) std::atomic<std::uint32_t> pong;
  alignas(fabric::kCacheLineBytes) fabric::SubmissionRing<> ring;
  alignas(fabric::kCacheLineBytes) fabric::Lane lane;
};

class Floor {
 public:
  // kFlags: one line each way. kLean: a ring and a lane, of which only what it takes is read.
  // kHome: the whole request is copied and a whole reply written, as homes do.
  enum class Kind { kFlags, kLean, kHome };
  explicit Floor(Kind kind);
  Floor(const Floor&) = delete;
  Floor& operator=(const Floor&) = delete;

  // While awake, the core of homes is taken.
  void Wake();
  void Sleep();
  bool RoundTrip();  // while awake; false = the ring was full, which it never is
  // A median of some round trips; asleep before and after it.
  double TakeNs();

 private:
  const Kind kind_;
  SharedBytes shared_;
  Echo* echo_;
  Process process_;
  fabric::SubmissionProducer<> requests_;
  std::uint32_t id_ = 0;
};

// The lean ring round trip, of a floor that this process starts once.
const Reference* RingReference();
void DropRingReference();  // before the end of main

// The role "echo".
int RunEcho(const std::vector<std::string>& words);

}  // namespace apta::bench
