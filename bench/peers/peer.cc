#include "bench/peers/peer.h"

#include <algorithm>
#include <cstring>

namespace apta::peers {
namespace {

// Four sums, so that the loop waits for memory and not for its own additions.
std::uint64_t SumOf(BytesView value) {
  constexpr std::size_t kStepBytes = 4 * sizeof(std::uint64_t);
  std::uint64_t sums[4] = {};
  std::size_t at = 0;
  for (; at + kStepBytes <= value.size(); at += kStepBytes) {
    std::uint64_t words[4];
    std::memcpy(words, value.data() + at, kStepBytes);
    for (int i = 0; i < 4; ++i) sums[i] += words[i];
  }
  for (; at < value.size(); ++at) sums[0] += static_cast<std::uint64_t>(value[at]);
  return sums[0] + sums[1] + sums[2] + sums[3];
}

}  // namespace

void Reader::Take(const Op& op, BytesView value) {
  ++taken_;
  if (value.size() != op.value.size() || value.empty()) {
    ++faults_;
    return;
  }
  switch (mode_) {
    case Mode::kFirstByte:
      sum_ += static_cast<std::uint64_t>(value[0]);
      return;
    case Mode::kAllBytes:
      sum_ += SumOf(value);
      return;
    case Mode::kCompare:
      faults_ += std::memcmp(value.data(), op.value.data(), value.size()) != 0;
      return;
  }
}

bool Setup::Wants(std::string_view name) const {
  return wanted.empty() || std::ranges::find(wanted, name) != wanted.end();
}

}  // namespace apta::peers
