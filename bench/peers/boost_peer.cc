// Boost.Interprocess: a managed_shared_memory with a hash map of blocks from allocate().
//
// What a careful user would write: a reader takes the block out of the map under a mutex, counts
// itself in, and uses the bytes in place; a writer fills a new block, exchanges it under the mutex,
// and who lets go of a block last gives it back.
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <boost/interprocess/allocators/allocator.hpp>
#include <boost/interprocess/managed_shared_memory.hpp>
#include <boost/interprocess/shared_memory_object.hpp>
#include <boost/interprocess/sync/interprocess_mutex.hpp>
#include <boost/interprocess/sync/scoped_lock.hpp>
#include <boost/unordered_map.hpp>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <utility>

#include "bench/peers/peer.h"

namespace apta::peers {
namespace {

namespace ipc = boost::interprocess;

struct Block {
  std::atomic<std::uint32_t> users{1};  // the map is one
  std::uint64_t value_bytes = 0;
  std::byte* bytes() { return reinterpret_cast<std::byte*>(this + 1); }
};

using Key = std::array<char, 32>;

struct HashKey {
  std::size_t operator()(const Key& key) const {
    return std::hash<std::string_view>()({key.data(), key.size()});
  }
};

using Entry = std::pair<const Key, ipc::offset_ptr<Block>>;
using EntryAllocator = ipc::allocator<Entry, ipc::managed_shared_memory::segment_manager>;
using Map =
    boost::unordered_map<Key, ipc::offset_ptr<Block>, HashKey, std::equal_to<Key>, EntryAllocator>;

struct Index {
  explicit Index(const EntryAllocator& allocator)
      : map(16, HashKey(), std::equal_to<Key>(), allocator) {}
  ipc::interprocess_mutex mutex;
  Map map;
};

class BoostConnection : public Connection {
 public:
  BoostConnection(ipc::managed_shared_memory* segment, Index* index)
      : segment_(segment), index_(index) {}

  absl::Status Execute(absl::Span<const Op> ops, Reader* reader) override {
    try {
      for (const Op& op : ops) {
        Key key;
        if (op.key.size() != key.size()) return absl::InvalidArgumentError("boost: a key's size");
        std::memcpy(key.data(), op.key.data(), key.size());
        if (op.is_put) {
          Put(key, op.value);
        } else if (!Get(key, op, reader)) {
          return absl::NotFoundError("boost: no such key");
        }
      }
    } catch (const ipc::interprocess_exception& fault) {
      return absl::ResourceExhaustedError(fmt::format("boost: {}", fault.what()));
    }
    return absl::OkStatus();
  }

 private:
  using Lock = ipc::scoped_lock<ipc::interprocess_mutex>;

  bool Get(const Key& key, const Op& op, Reader* reader) {
    Block* block = nullptr;
    {
      const Lock lock(index_->mutex);
      const auto entry = index_->map.find(key);
      if (entry == index_->map.end()) return false;
      block = entry->second.get();
      block->users.fetch_add(1, std::memory_order_relaxed);
    }
    reader->Take(op, {block->bytes(), block->value_bytes});
    LetGo(block);
    return true;
  }

  void Put(const Key& key, BytesView value) {
    auto* block = new (segment_->allocate(sizeof(Block) + value.size())) Block;
    block->value_bytes = value.size();
    std::memcpy(block->bytes(), value.data(), value.size());
    Block* old = nullptr;
    {
      const Lock lock(index_->mutex);
      ipc::offset_ptr<Block>& place = index_->map[key];
      old = place.get();
      place = block;
    }
    if (old != nullptr) LetGo(old);
  }

  void LetGo(Block* block) {
    // Acquire and release: the last one's deallocation comes after every other's reads.
    if (block->users.fetch_sub(1, std::memory_order_acq_rel) == 1) segment_->deallocate(block);
  }

  ipc::managed_shared_memory* segment_;
  Index* index_;
};

class BoostSystem : public System {
 public:
  BoostSystem() : System("boost", false) {}

  absl::Status Open(std::uint64_t bytes) {
    const std::string name = fmt::format("apta-peers-{}", getpid());
    try {
      segment_.emplace(ipc::create_only, name.c_str(), bytes);
      // Its users share this process; nameless, it is gone with it, however that ends.
      ipc::shared_memory_object::remove(name.c_str());
      // Every page is touched now: otherwise puts would be about the kernel's clearing of pages.
      segment_->zero_free_memory();
      index_ = segment_->construct<Index>(ipc::anonymous_instance)(
          EntryAllocator(segment_->get_segment_manager()));
    } catch (const ipc::interprocess_exception& fault) {
      return absl::UnavailableError(fmt::format("boost: {}", fault.what()));
    }
    return absl::OkStatus();
  }

  absl::Status Empty(absl::Span<const std::string_view> /*keys*/) override {
    for (const auto& [key, block] : index_->map) segment_->deallocate(block.get());
    index_->map.clear();
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Connection>> Connect() override {
    return std::make_unique<BoostConnection>(&*segment_, index_);
  }

 private:
  std::optional<ipc::managed_shared_memory> segment_;
  Index* index_ = nullptr;
};

}  // namespace

absl::Status StartBoost(const Setup& setup, Systems* systems) {
  if (!setup.Wants("boost")) return absl::OkStatus();
  auto system = std::make_unique<BoostSystem>();
  const absl::Status status = system->Open(setup.capacity_bytes);
  if (!status.ok()) return status;
  systems->push_back(std::move(system));
  return absl::OkStatus();
}

}  // namespace apta::peers
