// Writes that are kept back until they commit together: a transaction's, or an invocation's.
// Not thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "apta/object.h"
#include "fabric/control.h"
#include "fabric/group_message.h"
#include "fmt/format.h"

namespace apta::compute {

class WriteSet {
 public:
  struct Write {
    std::string key;
    std::optional<Bytes> value;  // nullopt: a delete
    std::uint64_t if_version = fabric::kAnyVersion;
  };

  // Of several writes of one key the last one counts; conditions are about what there was before.
  void Put(std::string_view key, BytesView value, std::uint64_t if_version) {
    if (Write* write = Find(key, if_version)) write->value.emplace(value.begin(), value.end());
  }
  void Delete(std::string_view key, std::uint64_t if_version) {
    if (Write* write = Find(key, if_version)) write->value.reset();
  }

  const std::vector<Write>& writes() const { return writes_; }
  // What is wrong with the first write that cannot be right.
  const absl::Status& status() const { return status_; }

 private:
  Write* Find(std::string_view key, std::uint64_t if_version) {
    if (!status_.ok()) return nullptr;
    status_ = fabric::CheckKey(key);
    const auto [entry, is_new] = index_.try_emplace(std::string(key), writes_.size());
    if (status_.ok() && is_new && writes_.size() == fabric::kMaxGroupWrites) {
      status_ = absl::InvalidArgumentError(
          fmt::format("{}: more than {} keys are written together", key, fabric::kMaxGroupWrites));
    }
    if (!status_.ok()) return nullptr;
    if (is_new) writes_.push_back({.key = std::string(key), .value = {}});
    Write* write = &writes_[entry->second];
    if (if_version == fabric::kAnyVersion) return write;
    if (write->if_version != fabric::kAnyVersion && write->if_version != if_version) {
      status_ = absl::InvalidArgumentError(fmt::format(
          "{}: is to be at version {} and at version {} before it is written; one cannot hold", key,
          write->if_version, if_version));
      return nullptr;
    }
    write->if_version = if_version;
    return write;
  }

  std::vector<Write> writes_;
  absl::flat_hash_map<std::string, std::size_t> index_;
  absl::Status status_;
};

}  // namespace apta::compute
