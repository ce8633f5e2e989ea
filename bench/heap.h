// A region in private memory, for what is measured without a memory server.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "copies.h"
#include "fabric/index.h"

namespace apta::bench {

// With `count` objects of one line of payload each, versions 1 to `count`. 64 MiB: some 10^5 fit.
class Heap {
 public:
  explicit Heap(std::uint64_t count);
  const fabric::IndexView& view() const { return view_; }
  // Of object n, modulo their count.
  const std::string& key(std::uint64_t n) const { return keys_[n % keys_.size()]; }
  std::uint64_t hash(std::uint64_t n) const { return hashes_[n % hashes_.size()]; }
  std::uint64_t extent(std::uint64_t n) const { return extents_[n % extents_.size()]; }

 private:
  Buffer memory_;
  fabric::IndexView view_;
  std::vector<std::string> keys_;
  std::vector<std::uint64_t> hashes_, extents_;
};

}  // namespace apta::bench
