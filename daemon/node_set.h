// A set of nodes: a few words, no allocation.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "fabric/message.h"

namespace apta::daemon {

using fabric::NodeId;

class NodeSet {
 public:
  static constexpr std::size_t kWords = fabric::kMaxNodes / 64;

  static NodeSet Of(NodeId node) {
    NodeSet set;
    set.Add(node);
    return set;
  }

  void Add(NodeId node) { word_[WordOf(node)] |= BitOf(node); }
  void Remove(NodeId node) { word_[WordOf(node)] &= ~BitOf(node); }
  void Remove(const NodeSet& other) {
    ForEachWord([&](std::size_t i) { word_[i] &= ~other.word_[i]; });
  }
  void Keep(const NodeSet& other) {
    ForEachWord([&](std::size_t i) { word_[i] &= other.word_[i]; });
  }
  void AddAll(const NodeSet& other) {
    ForEachWord([&](std::size_t i) { word_[i] |= other.word_[i]; });
  }
  bool Contains(NodeId node) const { return (word_[WordOf(node)] & BitOf(node)) != 0; }
  bool empty() const {
    std::uint64_t any = 0;
    ForEachWord([&](std::size_t i) { any |= word_[i]; });
    return any == 0;
  }
  int size() const {
    int count = 0;
    for (const std::uint64_t word : word_) count += std::popcount(word);
    return count;
  }
  bool operator==(const NodeSet& other) const {
    std::uint64_t differs = 0;
    ForEachWord([&](std::size_t i) { differs |= word_[i] ^ other.word_[i]; });
    return differs == 0;
  }

  // Its words, for who keeps them apart.
  static constexpr std::size_t WordOf(NodeId node) { return node / 64; }
  static constexpr std::uint64_t BitOf(NodeId node) { return std::uint64_t{1} << (node % 64); }
  std::uint64_t& word(std::size_t index) { return word_[index]; }
  std::uint64_t word(std::size_t index) const { return word_[index]; }

  // In ascending order. `visit` may change this set.
  template <typename Visit>
  void ForEach(Visit&& visit) const {
    ForEachWord([&](std::size_t i) {
      for (std::uint64_t rest = word_[i]; rest != 0; rest &= rest - 1) {
        visit(static_cast<NodeId>(i * 64 + static_cast<std::size_t>(std::countr_zero(rest))));
      }
    });
  }

 private:
  // Unrolled: there are four, and most sets have nodes in the first alone.
  template <typename Visit>
  static void ForEachWord(Visit&& visit) {
#pragma GCC unroll 4
    for (std::size_t i = 0; i < kWords; ++i) visit(i);
  }

  std::array<std::uint64_t, kWords> word_{};
};
static_assert(fabric::kMaxNodes % 64 == 0);

}  // namespace apta::daemon
