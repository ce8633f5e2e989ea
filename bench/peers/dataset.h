// The objects of a run, what they hold, and in which order clients ask for them. Everything comes
// from fixed seeds: each system gets the same operations in the same order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/peers/peer.h"

namespace apta::peers {

enum class Popularity { kUniform, kZipf };  // Zipf: exponent 0.99
std::string_view NameOf(Popularity popularity);

// The access probability of each of `count` keys; popular ones lie anywhere among the others.
std::vector<double> AccessShares(Popularity popularity, std::size_t count);

// Sizes as accesses see them: what is published about the blobs of the Azure Functions trace.
struct SizeMoments {
  double median_bytes = 0;
  double mean_bytes = 0;
  double share_below_12kb = 0;  // 0 to 1
};
inline constexpr SizeMoments kAzureMoments = {28, 62e3, 0.8};

// A size for each key, so that accesses with these shares see kAzureMoments (see README.md for the
// model). INTERNAL: with so few keys they cannot.
absl::StatusOr<std::vector<std::uint32_t>> AzureSizes(const std::vector<double>& shares);
SizeMoments MomentsOf(const std::vector<std::uint32_t>& sizes, const std::vector<double>& shares);

// Immutable; read by all clients at once.
class Dataset {
 public:
  static constexpr std::size_t kKeyBytes = 32;
  // `label` names the sizes, and stands in the keys: datasets share none.
  Dataset(std::string label, std::vector<std::uint32_t> sizes);

  const std::string& label() const { return label_; }
  std::size_t size() const { return sizes_.size(); }
  std::uint32_t min_bytes() const { return min_bytes_; }
  std::uint32_t max_bytes() const { return max_bytes_; }
  std::size_t mean_bytes() const { return total_bytes_ / sizes_.size() + 1; }
  const std::vector<std::uint32_t>& sizes() const { return sizes_; }
  std::vector<std::string_view> keys() const;

  // `generation` tells the values apart that one key has over time.
  Op Put(std::uint32_t index, std::uint32_t generation) const {
    return {Key(index), Value(index, generation), true};
  }
  Op Get(std::uint32_t index, std::uint32_t generation) const {
    return {Key(index), Value(index, generation), false};
  }

 private:
  std::string_view Key(std::uint32_t index) const {
    return {key_text_.data() + index * kKeyBytes, kKeyBytes};
  }
  // A window into random bytes, on a cache line: 64 different ones follow each other.
  BytesView Value(std::uint32_t index, std::uint32_t generation) const {
    return {source_.data() + 64 * ((index * 7 + generation * 13) % 64), sizes_[index]};
  }

  std::string label_;
  std::vector<std::uint32_t> sizes_;
  std::uint32_t min_bytes_ = 0;
  std::uint32_t max_bytes_ = 0;
  std::size_t total_bytes_ = 0;
  std::string key_text_;
  std::vector<std::byte> source_;
};

// What one client does, again and again.
struct Sequence {
  static constexpr std::size_t kSteps = 1 << 17;
  struct Step {
    std::uint32_t key : 31;
    std::uint32_t is_put : 1;
  };
  std::vector<Step> steps;
  const Step& at(std::size_t position) const { return steps[position % kSteps]; }
};

Sequence MakeSequence(const std::vector<double>& shares, double put_share, std::uint32_t seed);

// That the sequence's accesses have these moments, within sampling error; INTERNAL says how not.
absl::Status CheckAzureAccesses(const Sequence& sequence, const std::vector<std::uint32_t>& sizes);

}  // namespace apta::peers
