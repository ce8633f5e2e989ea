// A pool with a log: its disk, crashes of both, and what the next memory server must find.

#include <algorithm>
#include <cerrno>
#include <map>

#include "daemon/pool_objects.h"
#include "fmt/format.h"
#include "tests/sim/world.h"

namespace apta::sim {

using daemon::log::LoggedObject;
using daemon::log::ObjectVisitor;
using fabric::Reply;

void World::OpenLog() {
  disk_->fails = [this](const std::string&) {
    return now_ns_ < disk_good_from_ns_ ? disk_error_ : 0;
  };
  log_.emplace(
      &*disk_,
      DiskLog::Owner{.now_ns = [this] { return now_ns_; },
                     .random = [this](std::uint64_t below) { return Random(below); },
                     .later =
                         [this](TimeNs after_ns, Step step) {
                           At(now_ns_ + after_ns,
                              [this, life = server_life_, step = std::move(step)] {
                                if (life == server_life_) step();
                              });
                         },
                     .visit_objects =
                         [this](const ObjectVisitor& visit) { return VisitWhileOthersWork(visit); },
                     .last_version = [this] { return pool_->superblock()->last_version.load(); },
                     .deliver =
                         [this](std::vector<daemon::LogOutcome> outcomes) {
                           // In order, and the home's thread may not run for a while.
                           const TimeNs delay_ns = 200 + Random(Chance(4) ? 60'000 : 3'000);
                           delivered_until_ns_ = std::max(delivered_until_ns_, now_ns_ + delay_ns);
                           logged_.push_back(std::move(outcomes));
                           At(delivered_until_ns_, [this, life = server_life_] {
                             if (life == server_life_) DeliverLogged();
                           });
                         },
                     .trace = [this](const std::string& line) { Trace("{}", line); }});
  const auto found = log_->Open([this](const LoggedObject& object) {
    ++outcome_.recovered;
    return daemon::LoadObject(pool_.get(), object);
  });
  if (!found.ok()) {
    Fail(fmt::format("the log is of no use: {}", std::string(found.status().message())));
    return;
  }
  if (!found->cut_at.empty()) Fail("the log is damaged at " + found->cut_at);
  Trace("the log had {} objects, up to version {}", found->objects, found->last_version);
  pool_->superblock()->last_version.store(found->last_version);
  pool_->set_journal(&*log_);
  CheckRecovered();
  log_->Start();
}

// Power is lost, or only the process: then the disk gets all that it was given.
void World::CrashLog() {
  ++server_life_;
  outcome_.checkpoints += log_->checkpoints();
  outcome_.refused_by_log += log_->refusals();
  const bool is_power_loss = Chance(2);
  const std::uint64_t one_in = 1 + Random(4);
  auto left = disk_->Crash([&] { return !is_power_loss || Chance(one_in); });
  log_.reset();
  logged_.clear();
  disk_.emplace(std::move(left));
}

void World::DeliverLogged() {
  if (!home_ || logged_.empty()) return;
  const std::vector<daemon::LogOutcome> outcomes = std::move(logged_.front());
  logged_.pop_front();
  home_->OnLogged(outcomes, now_ns_);
  std::erase_if(unjudged_,
                [this](const auto& effects) { return AreVisible(effects.first, effects.second); });
  CheckInvariants();
}

void World::FailDisk() {
  ++outcome_.disk_faults;
  disk_error_ = Chance(2) ? EIO : ENOSPC;
  disk_good_from_ns_ = now_ns_ + Random(Chance(4) ? 1'000'000 : 50'000);
  Trace("the disk is bad for {} ns: {}", disk_good_from_ns_ - now_ns_, disk_error_);
}

absl::Status World::VisitWhileOthersWork(const ObjectVisitor& visit) {
  return daemon::VisitObjects(*pool_, [&](const LoggedObject& object) {
    if (Chance(2)) DeliverLogged();
    const absl::Status visited = visit(object);
    if (Chance(2)) DeliverLogged();
    return visited;
  });
}

// A write that was not to be. Of one that its log could not finish nobody knows until later.
void World::EndRefused(std::size_t record, const Reply& reply) {
  const bool is_open = reply.reason == fabric::Reason::kLogFailed && reply.value[1] == 0;
  if (is_open) {
    history_[record].end_ns = kNever;
  } else {
    is_void_[record] = true;
  }
}

// Before anybody has attached: whatever somebody was told, or has read, is there or superseded,
// groups are whole, versions go on, and there is nothing that nobody wrote.
void World::CheckRecovered() {
  std::vector<std::uint64_t> known(profile_.keys), deleted(profile_.keys);  // versions
  std::uint64_t newest = 0;
  for (std::size_t i = 0; i < history_.size(); ++i) {
    const Operation& operation = history_[i];
    if (is_void_[i] || operation.failed) continue;
    known[operation.key] = std::max(known[operation.key], operation.version);
    newest = std::max(newest, operation.version);
    if (operation.kind != Operation::Kind::kDelete) continue;
    const bool has_returned = operation.end_ns != kNever;
    deleted[operation.key] =
        std::max(deleted[operation.key], has_returned ? operation.version : kNever);
  }
  if (pool_->superblock()->last_version.load() < newest) {
    Fail(fmt::format("version {} was given, and the next one is {}", newest,
                     pool_->superblock()->last_version.load() + 1));
  }
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint64_t> version_of;  // key and value
  for (std::uint64_t key = 0; key < profile_.keys; ++key) {
    const fabric::ExtentHeader* const now = Current(key);
    if (now == nullptr) {
      if (deleted[key] >= known[key]) continue;
      Fail(fmt::format("{} is lost, and was at version {}", key_name_[key], known[key]));
      return;
    }
    if (now->version < known[key]) {
      Fail(fmt::format("{} is at version {} again, and was at {}", key_name_[key], now->version,
                       known[key]));
    }
    version_of[{key, ReadValue(now)}] = now->version;
  }
  std::size_t written = 0;
  for (std::size_t i = 0; i < history_.size(); ++i) {
    const Operation& operation = history_[i];
    const bool is_put = operation.kind == Operation::Kind::kPut ||
                        operation.kind == Operation::Kind::kConditionalPut;
    if (!is_put || !version_of.contains({operation.key, operation.value})) continue;
    ++written;
    if (is_void_[i]) Fail("what was refused is there: " + sim::Describe(operation));
  }
  if (written < version_of.size()) Fail("there is an object that nobody put");
  for (const std::vector<std::size_t>& group : groups_) {
    std::uint64_t version = 0;
    for (const std::size_t index : group) {
      const auto seen = version_of.find({history_[index].key, history_[index].value});
      if (seen != version_of.end()) version = seen->second;
    }
    if (version == 0) continue;
    for (const std::size_t index : group) CheckWhole(history_[index], version);
  }
  std::erase_if(unjudged_,
                [this](const auto& effects) { return AreVisible(effects.first, effects.second); });
}

// Once the disk is good again, so is the pool.
void World::CheckLogRecovers() {
  outcome_.checkpoints += log_->checkpoints();
  outcome_.refused_by_log += log_->refusals();
  constexpr TimeNs kLongEnoughNs = 2'500'000;
  if (now_ns_ > disk_good_from_ns_ + kLongEnoughNs && log_->error() != 0) {
    Fail(fmt::format("the disk is good, and the pool is read-only: {}", log_->error()));
  }
}

}  // namespace apta::sim
