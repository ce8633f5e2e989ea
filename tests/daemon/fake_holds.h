// The hold table of a node that a test plays, as a set.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>

#include "fabric/hold_table.h"

namespace apta::daemon {

class FakeHolds {
 public:
  void insert(std::uint64_t extent) {
    if (!contains(extent)) slot_[extent] = table_->List(extent);
  }
  void clear() {
    for (const auto& [extent, slot] : slot_) table_->TakeOff(slot);
    slot_.clear();
    table_->Publish(/*all_listed=*/true);
  }
  void operator=(std::initializer_list<std::uint64_t> extents) {
    clear();
    for (const std::uint64_t extent : extents) insert(extent);
  }
  bool contains(std::uint64_t extent) const { return slot_.contains(extent); }
  const fabric::HoldTable& table() const { return *table_; }

 private:
  std::unique_ptr<fabric::HoldTable> table_ = std::make_unique<fabric::HoldTable>();
  std::map<std::uint64_t, std::uint64_t> slot_;
};

}  // namespace apta::daemon
