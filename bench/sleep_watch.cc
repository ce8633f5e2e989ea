#include "sleep_watch.h"

#include <chrono>
#include <thread>

#include "fabric/control.h"
#include "fabric/doorbell.h"
#include "fabric/superblock.h"
#include "harness.h"
#include "measure.h"

namespace apta::bench {

SleepWatch::SleepWatch(const std::string& socket, const std::string& pool) {
  absl::StatusOr<fabric::UniqueFd> connected = fabric::ConnectSocket(socket);
  if (!connected.ok()) Die(connected.status());
  socket_ = *std::move(connected);
  fabric::Hello hello{};
  hello.magic = fabric::kControlMagic;
  hello.version = fabric::kControlVersion;
  hello.kind = fabric::Hello::kAttach;
  fabric::CopyText(hello.pool, pool);
  fabric::CopyText(hello.node, "sleep-watch");
  fabric::Welcome welcome{};
  if (auto sent = fabric::SendPacket(socket_.get(), &hello, sizeof(hello)); !sent.ok()) Die(sent);
  const auto got = fabric::ReceivePacket(socket_.get(), &welcome, sizeof(welcome), &fds_,
                                         2 + fabric::kMaxShards);
  if (!got.ok() || welcome.code != 0) Die(absl::UnavailableError(welcome.message));
  absl::StatusOr<fabric::Region> region =
      fabric::Region::Map(std::move(fds_[0]), welcome.region_bytes, welcome.trusted != 0);
  if (!region.ok()) Die(region.status());
  region_ = *std::move(region);
}

bool SleepWatch::IsAsleep() const {
  return reinterpret_cast<const fabric::Superblock*>(region_.data())->home[0].asleep.load() != 0;
}

bool SleepWatch::AwaitSleep() const {
  for (const auto began = Clock::now(); NsSince(began) < 1e9;) {
    if (!IsAsleep()) {
      std::this_thread::sleep_for(std::chrono::microseconds(20));
      continue;
    }
    Spin(20'000);
    if (IsAsleep()) return true;
  }
  return false;
}

void SleepWatch::Spin(double ns) {
  for (const auto began = Clock::now(); NsSince(began) < ns;) fabric::CpuRelax();
}

Sleeper::~Sleeper() {
  stop_.store(true);
  Wake();
  thread_.join();
}

double Sleeper::Wake() {
  const std::uint32_t round = ping_.load() + 1;
  const auto began = Clock::now();
  ping_.store(round);
  fabric::FutexWake(&ping_);
  while (pong_.load() != round) fabric::CpuRelax();
  return NsSince(began);
}

void Sleeper::Run() {
  UseCores(Cores::kHomes);
  for (std::uint32_t seen = 0; !stop_.load();) {
    while (ping_.load() == seen) fabric::FutexWait(&ping_, seen, 10'000'000'000);
    pong_.store(++seen);
  }
}

}  // namespace apta::bench
