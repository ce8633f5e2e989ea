// A disk in memory that can lose power: each file has what is durable, and the blocks that were
// written since, which are there after a crash or not, each for itself, in any combination.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "daemon/log/format.h"
#include "daemon/log/medium.h"

namespace apta::daemon::log {

class SimMedium final : public Medium {
 public:
  struct Pending {
    std::uint64_t offset;
    Bytes bytes;  // a block at most
  };
  struct File {
    Bytes durable;
    std::vector<Pending> pending;  // in order

    // As its writer sees it.
    Bytes Now() const {
      Bytes now = durable;
      for (const Pending& write : pending) Apply(write, &now);
      return now;
    }
    static void Apply(const Pending& write, Bytes* to) {
      to->resize(std::max<std::size_t>(to->size(), write.offset + write.bytes.size()));
      std::copy(write.bytes.begin(), write.bytes.end(),
                to->begin() + static_cast<std::ptrdiff_t>(write.offset));
    }
    void Write(std::uint64_t offset, BytesView bytes) {
      while (!bytes.empty()) {
        const std::size_t part = std::min<std::size_t>(bytes.size(), kBlockBytes);
        pending.push_back({offset, Bytes(bytes.begin(), bytes.begin() + part)});
        bytes.remove_prefix(part);
        offset += part;
      }
    }
    void Sync() {
      durable = Now();
      pending.clear();
    }
  };
  using Files = std::map<std::string, File>;

  explicit SimMedium(Files files = {}) : files_(std::move(files)) {}
  Files& files() { return files_; }

  // What may be there after a power loss now: of each file's unflushed blocks those that
  // `survives`. A rename or a removal that was not made durable is as if it had been, here.
  Files Crash(const std::function<bool()>& survives) const {
    Files after;
    for (const auto& [name, file] : files_) {
      File& left = after[name];
      left.durable = file.durable;
      for (const Pending& write : file.pending) {
        if (survives()) File::Apply(write, &left.durable);
      }
    }
    return after;
  }
  // How many blocks are in doubt.
  std::size_t unflushed() const {
    std::size_t count = 0;
    for (const auto& [name, file] : files_) count += file.pending.size();
    return count;
  }

  // Called before each step that changes the disk.
  std::function<void()> on_step;
  // The error that the next durable write, or whatever makes a file longer, is to fail with; 0 =
  // none.
  std::function<int(const std::string&)> fails = [](const std::string&) { return 0; };

  absl::StatusOr<std::vector<std::string>> List() override {
    std::vector<std::string> names;
    for (const auto& [name, file] : files_) names.push_back(name);
    return names;
  }
  absl::StatusOr<std::unique_ptr<MediumFile>> Open(const std::string& name) override {
    if (!files_.contains(name)) return absl::NotFoundError(name);
    return std::make_unique<Opened>(this, name);
  }
  absl::StatusOr<std::unique_ptr<MediumFile>> Create(const std::string& name) override {
    Step();
    files_[name] = File{};
    return std::make_unique<Opened>(this, name);
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    Step();
    files_[to] = std::exchange(files_[from], {});
    files_.erase(from);
    return absl::OkStatus();
  }
  absl::Status SyncFolder() override { return absl::OkStatus(); }
  absl::Status Remove(const std::string& name) override {
    Step();
    files_.erase(name);
    return absl::OkStatus();
  }

  // In two steps: the blocks are in doubt from the first on, and there after the second.
  void BeginWrite(const std::string& name, std::uint64_t offset, BytesView bytes) override {
    writing_ = name;
    Step();
    files_.at(name).Write(offset, bytes);
  }
  std::optional<int> PollWrite() override {
    if (writing_.empty()) return std::nullopt;
    Step();
    const std::string name = std::exchange(writing_, "");
    const int error = fails(name);
    // Of a write that has failed anything may be there, for good.
    File& file = files_.at(name);
    if (error != 0) {
      std::erase_if(file.pending, [this](const Pending&) { return random_() % 2 == 0; });
    }
    file.Sync();
    return error;
  }
  void Wait(fabric::TimeNs) override {}
  void Forget(const std::string&) override {}
  void Wake() override {}

 private:
  class Opened final : public MediumFile {
   public:
    Opened(SimMedium* medium, std::string name) : medium_(medium), name_(std::move(name)) {}
    absl::StatusOr<std::uint64_t> Size() override { return file().Now().size(); }
    absl::Status Read(std::uint64_t offset, absl::Span<std::byte> to) override {
      const Bytes now = file().Now();
      if (offset + to.size() > now.size()) return absl::OutOfRangeError(name_);
      std::memcpy(to.data(), now.data() + offset, to.size());
      return absl::OkStatus();
    }
    absl::Status Write(std::uint64_t offset, BytesView bytes) override {
      medium_->Step();
      if (const int error = medium_->fails(name_)) return absl::ErrnoToStatus(error, name_);
      file().Write(offset, bytes);
      return absl::OkStatus();
    }
    absl::Status Sync() override {
      medium_->Step();
      file().Sync();
      return absl::OkStatus();
    }

   private:
    File& file() { return medium_->files_.at(name_); }
    SimMedium* const medium_;
    const std::string name_;
  };

  void Step() {
    if (on_step) on_step();
  }

  Files files_;
  std::string writing_;
  std::mt19937 random_{7};
};

}  // namespace apta::daemon::log
