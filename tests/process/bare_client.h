// A client that makes its own handshake and may then write what it likes: for tests of what the
// memory server makes of that.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fabric/control.h"
#include "fabric/doorbell.h"
#include "fabric/port.h"
#include "tests/process/aptad.h"

namespace apta::test {

inline fabric::Hello GoodHello(const std::string& node, const std::string& pool = "default") {
  fabric::Hello hello{};
  hello.magic = fabric::kControlMagic;
  hello.version = fabric::kControlVersion;
  hello.kind = fabric::Hello::kAttach;
  fabric::CopyText(hello.pool, pool);
  fabric::CopyText(hello.node, node);
  return hello;
}

class BareClient {
 public:
  explicit BareClient(const std::string& path, const std::string& pool = "default") {
    socket_ = *fabric::ConnectSocket(path);
    const fabric::Hello hello = GoodHello("bare", pool);
    EXPECT_TRUE(fabric::SendPacket(socket_.get(), &hello, sizeof(hello)).ok());
    const auto bytes = fabric::ReceivePacket(socket_.get(), &welcome_, sizeof(welcome_), &fds_,
                                             fabric::kWelcomeDescriptors + fabric::kMaxShards);
    EXPECT_EQ(bytes.value_or(0), sizeof(welcome_));
    EXPECT_EQ(welcome_.code, 0u) << welcome_.message;
    const int shards = static_cast<int>(welcome_.shards);
    port_ = *fabric::Port::Map(fabric::UniqueFd(dup(port_fd())), shards);
    port_bytes_ = fabric::Port::BytesFor(shards);
    memory_ = static_cast<std::byte*>(
        mmap(nullptr, port_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, port_fd(), 0));
    EXPECT_NE(static_cast<void*>(memory_), MAP_FAILED);
    for (int shard = 0; shard < shards; ++shard) {
      rings_.push_back(std::make_unique<fabric::SubmissionProducer<>>(port_.submissions(shard)));
      doorbells_.emplace_back(
          std::move(fds_[fabric::kWelcomeDescriptors + static_cast<std::size_t>(shard)]));
    }
  }
  ~BareClient() { munmap(memory_, port_bytes_); }
  BareClient(const BareClient&) = delete;
  BareClient& operator=(const BareClient&) = delete;

  int region_fd() const { return fds_[0].get(); }
  int port_fd() const { return fds_[1].get(); }
  const fabric::Port& port() const { return port_; }
  // The whole port, writable.
  absl::Span<std::byte> memory() { return {memory_, port_bytes_}; }

  // Submits a request and wakes the home. False: cut off while the ring was full.
  bool Submit(const fabric::Request& request, std::size_t shard = 0) {
    while (!rings_[shard]->TryPush([&](fabric::Request& slot) { slot = request; })) {
      Ring();
      if (IsCutOff()) return false;
      std::this_thread::yield();
    }
    doorbells_[shard].Ring();
    return true;
  }
  void Ring() {
    for (const fabric::Doorbell& doorbell : doorbells_) doorbell.Ring();
  }
  // The reply to a request that was submitted with an id of its own.
  fabric::Reply Await(const fabric::Request& request) {
    const fabric::Lane* lane = port_.lane(request.lane);
    EXPECT_TRUE(Eventually([&] { return lane->done_id.load() == request.request_id; }));
    return lane->reply;
  }
  // The memory server has ended the session: it is closed, or fenced.
  bool IsCutOff() {
    fabric::Notice notice{};
    ssize_t bytes;
    while ((bytes = recv(socket_.get(), &notice, sizeof(notice), MSG_DONTWAIT)) > 0) {
      is_fenced_ = is_fenced_ || notice.kind == fabric::Notice::kFenced;
    }
    return bytes == 0 || is_fenced_;
  }

 private:
  fabric::UniqueFd socket_;
  bool is_fenced_ = false;
  fabric::Welcome welcome_;
  std::vector<fabric::UniqueFd> fds_;  // region, port, life word, doorbells
  fabric::Port port_;
  std::size_t port_bytes_ = 0;
  std::byte* memory_ = nullptr;
  std::vector<std::unique_ptr<fabric::SubmissionProducer<>>> rings_;
  std::vector<fabric::Doorbell> doorbells_;
};

// A request whose key and payload, if any, stand in it.
inline fabric::Request MakeRequest(fabric::Op op, std::string_view key = "",
                                   std::string_view payload = "", std::uint64_t argument = 0) {
  static std::uint32_t last_id = 0;
  fabric::Request request{};
  request.request_id = ++last_id;
  request.op = op;
  request.key_bytes = static_cast<std::uint16_t>(key.size());
  request.payload_bytes = payload.size() & fabric::kMaxPayloadBytes;
  request.argument = argument;
  std::memcpy(request.body, key.data(), key.size());
  std::memcpy(request.body + key.size(), payload.data(), payload.size());
  return request;
}

}  // namespace apta::test
