#include "daemon/object_manager.h"

#include <algorithm>
#include <array>
#include <bit>

#include "fabric/check.h"
#include "fabric/extent.h"
#include "fabric/lazy_array.h"

namespace apta::daemon {
namespace {

constexpr std::uint64_t kGranuleBytes = 64;
constexpr std::uint64_t kPage = fabric::kPageBytes;
constexpr std::uint64_t kSlabPages = ObjectManager::kSlabBytes / kPage;
constexpr std::uint32_t kNone = ~std::uint32_t{0};

// Size buckets of slabs: multiples of 64 bytes up to 256, then four per doubling.
constexpr int kBuckets = 4 + 4 * 6;

constexpr std::uint64_t BucketSize(int bucket) {
  if (bucket < 4) return static_cast<std::uint64_t>(bucket + 1) * kGranuleBytes;
  const int doubling = (bucket - 4) / 4;
  const auto step = static_cast<std::uint64_t>((bucket - 4) % 4 + 1);
  return (256u << doubling) + step * (64u << doubling);
}
static_assert(BucketSize(kBuckets - 1) == ObjectManager::kMaxSlabExtentBytes);

// Each bucket's size, and 2^32 by its granules, rounded up: a division that an extent's release
// would pay for is a multiplication.
struct BucketScale {
  std::uint32_t bytes;
  std::uint32_t inverse;
};
constexpr std::array<BucketScale, kBuckets> kScale = [] {
  std::array<BucketScale, kBuckets> scale{};
  for (int bucket = 0; bucket < kBuckets; ++bucket) {
    const std::uint64_t granules = BucketSize(bucket) / kGranuleBytes;
    // A granule's inverse is 2^32 itself, and has no place here: one less is exact as well.
    scale[static_cast<std::size_t>(bucket)] = {
        static_cast<std::uint32_t>(BucketSize(bucket)),
        static_cast<std::uint32_t>(
            std::min<std::uint64_t>(((std::uint64_t{1} << 32) + granules - 1) / granules, ~0u))};
  }
  return scale;
}();
// Which extent of a slab begins at or before this byte.
constexpr std::uint64_t IndexInSlab(std::uint64_t in_slab_bytes, int bucket) {
  // + 1: between two multiples, so that no rounding of the inverse matters.
  const std::uint64_t twice = 2 * (in_slab_bytes / kGranuleBytes) + 1;
  return twice * kScale[static_cast<std::size_t>(bucket)].inverse >> 33;
}
static_assert([] {
  for (int bucket = 0; bucket < kBuckets; ++bucket) {
    for (std::uint64_t at = 0; at < ObjectManager::kSlabBytes; at += kGranuleBytes) {
      if (IndexInSlab(at, bucket) != at / BucketSize(bucket)) return false;
    }
  }
  return true;
}());

constexpr int BucketOf(std::uint64_t bytes) {
  if (bytes <= 256) return static_cast<int>((bytes + kGranuleBytes - 1) / kGranuleBytes) - 1;
  const int doubling = static_cast<int>(std::bit_width((bytes - 1) / 256)) - 1;
  const std::uint64_t base = 256u << doubling;
  const std::uint64_t step = 64u << doubling;
  return 4 + 4 * doubling + static_cast<int>((bytes - base + step - 1) / step) - 1;
}
static_assert(BucketOf(1) == 0 && BucketOf(64) == 0 && BucketOf(65) == 1 && BucketOf(256) == 3);
static_assert(BucketOf(257) == 4 && BucketOf(320) == 4 && BucketOf(321) == 5 &&
              BucketOf(512) == 7 && BucketOf(513) == 8 && BucketOf(16384) == kBuckets - 1);

// Free runs of pages by length: for each power of two, four lists.
constexpr int kFirstLevels = 33;
constexpr int kSecondLevels = 4;
struct ListIndex {
  int first;
  int second;
};
constexpr ListIndex ListOf(std::uint64_t pages) {
  if (pages < kSecondLevels) return {0, static_cast<int>(pages)};
  const int width = static_cast<int>(std::bit_width(pages)) - 1;
  return {width - 1, static_cast<int>(pages >> (width - 2)) - kSecondLevels};
}

}  // namespace

struct ObjectManager::State {
  // What a page is; kept at a run's first page, and for free runs at its last as well.
  enum Kind : std::uint8_t { kUnknown, kFree, kRun, kSlab, kInner };
  struct Page {
    Kind kind;
    std::uint8_t bucket;       // of a slab
    std::uint16_t live;        // extents in a slab
    std::uint32_t run_pages;   // at a run's first page; a free run's last page too
    std::uint32_t prev, next;  // free list of a free run, list of partial slabs
  };
  struct Slab {
    std::array<std::uint64_t, kSlabBytes / kGranuleBytes / 64> used;  // bit per extent
  };

  State(std::uint64_t begin_offset, std::uint64_t end_offset)
      : begin(fabric::AlignUp(begin_offset, kSlabBytes)),
        page_count(end_offset > begin ? (end_offset - begin) / kSlabBytes * kSlabPages : 0),
        page(page_count + 1),
        slab(page_count / kSlabPages + 1) {
    for (auto& lists : free_list) lists.fill(kNone);
    partial.fill(kNone);
  }

  std::uint64_t OffsetOf(std::uint32_t index) const { return begin + index * kPage; }
  std::uint32_t PageOf(std::uint64_t offset) const {
    return static_cast<std::uint32_t>((offset - begin) / kPage);
  }

  std::uint32_t SlabOf(std::uint64_t offset) const {
    return static_cast<std::uint32_t>(PageOf(offset) / kSlabPages * kSlabPages);
  }

  // --- lists

  void Link(std::uint32_t* head, std::uint32_t index) {
    page[index].prev = kNone;
    page[index].next = *head;
    if (*head != kNone) page[*head].prev = index;
    *head = index;
  }
  void Unlink(std::uint32_t* head, std::uint32_t index) {
    const Page& p = page[index];
    if (p.prev != kNone) page[p.prev].next = p.next;
    if (p.next != kNone) page[p.next].prev = p.prev;
    if (*head == index) *head = p.next;
  }

  // --- runs of pages

  void AddFree(std::uint32_t first, std::uint32_t pages) {
    page[first].kind = kFree;
    page[first].run_pages = pages;
    page[first + pages - 1].kind = kFree;
    page[first + pages - 1].run_pages = pages;
    const ListIndex list = ListOf(pages);
    Link(&free_list[list.first][list.second], first);
    first_level |= std::uint64_t{1} << list.first;
    second_level[list.first] |= 1u << list.second;
  }
  void RemoveFree(std::uint32_t first) {
    const std::uint32_t pages = page[first].run_pages;
    const ListIndex list = ListOf(pages);
    Unlink(&free_list[list.first][list.second], first);
    if (free_list[list.first][list.second] == kNone) {
      second_level[list.first] &= ~(1u << list.second);
      if (second_level[list.first] == 0) first_level &= ~(std::uint64_t{1} << list.first);
    }
    page[first].kind = page[first + pages - 1].kind = kInner;
  }

  // A free run of at least `pages`, the shortest list that surely has one, its latest addition.
  std::uint32_t FindFree(std::uint64_t pages) const {
    const ListIndex own = ListOf(pages);
    // The list of the length itself may hold shorter runs; its head is worth a look, because runs
    // come back with the lengths that were asked for.
    const std::uint32_t head = free_list[own.first][own.second];
    if (head != kNone && page[head].run_pages >= pages) return head;
    ListIndex list = {own.first, own.second + 1};
    if (list.second == kSecondLevels) list = {own.first + 1, 0};
    std::uint32_t seconds = second_level[list.first] & (~0u << list.second);
    if (seconds == 0) {
      const std::uint64_t firsts = first_level & (~std::uint64_t{1} << list.first);
      if (firsts == 0) return FindInList(head, pages);
      list.first = std::countr_zero(firsts);
      seconds = second_level[list.first];
    }
    return free_list[list.first][std::countr_zero(seconds)];
  }

  // The last resort: a list whose runs may be too short, up to a bound.
  std::uint32_t FindInList(std::uint32_t run, std::uint64_t pages) const {
    for (int i = 0; i < 64 && run != kNone; ++i, run = page[run].next) {
      if (page[run].run_pages >= pages) return run;
    }
    return kNone;
  }

  // The first page of a run, aligned to `alignment` pages; kNone = no run is large enough.
  std::uint32_t TakeRun(std::uint64_t pages, std::uint32_t alignment) {
    std::uint32_t run = TryTakeRun(pages, alignment);
    if (run == kNone && GiveBackEmptySlabs()) run = TryTakeRun(pages, alignment);
    return run;
  }
  std::uint32_t TryTakeRun(std::uint64_t pages, std::uint32_t alignment) {
    std::uint32_t found = FindFree(pages);
    if (found != kNone && AlignedFirst(found, alignment) + pages > found + page[found].run_pages) {
      found = kNone;
    }
    if (found == kNone && alignment > 1) found = FindFree(pages + alignment - 1);
    if (found == kNone) return kNone;
    const std::uint32_t end = found + page[found].run_pages;
    RemoveFree(found);
    const std::uint32_t first = AlignedFirst(found, alignment);
    const auto after = static_cast<std::uint32_t>(first + pages);
    if (first > found) AddFree(found, first - found);
    if (end > after) AddFree(after, end - after);
    page[first].run_pages = static_cast<std::uint32_t>(pages);
    return first;
  }
  static std::uint32_t AlignedFirst(std::uint32_t first, std::uint32_t alignment) {
    return (first + alignment - 1) / alignment * alignment;
  }

  void GiveRun(std::uint32_t first) {
    std::uint32_t pages = page[first].run_pages;
    page[first].kind = kInner;
    const std::uint32_t after = first + pages;
    if (after < page_count && page[after].kind == kFree) {
      pages += page[after].run_pages;
      RemoveFree(after);
    }
    if (first > 0 && page[first - 1].kind == kFree) {
      const std::uint32_t before = first - page[first - 1].run_pages;
      pages += page[before].run_pages;
      RemoveFree(before);
      first = before;
    }
    AddFree(first, pages);
  }

  // --- slabs

  static std::uint16_t SlabCapacity(int bucket) {
    return static_cast<std::uint16_t>(kSlabBytes / BucketSize(bucket));
  }

  void MakeSlab(std::uint32_t first, int bucket) {
    page[first].kind = kSlab;
    page[first].bucket = static_cast<std::uint8_t>(bucket);
    page[first].live = 0;
    page[first].run_pages = kSlabPages;
    slab[first / kSlabPages].used.fill(0);
    ++empty_slabs;
    Link(&partial[static_cast<std::size_t>(bucket)], first);
  }

  std::uint64_t TakeFromSlab(int bucket) {
    std::uint32_t& head = partial[static_cast<std::size_t>(bucket)];
    if (head == kNone) {
      const std::uint32_t first = TakeRun(kSlabPages, kSlabPages);
      if (first == kNone) return 0;
      MakeSlab(first, bucket);
    }
    const std::uint32_t first = head;
    auto& used = slab[first / kSlabPages].used;
    std::size_t word = 0;
    while (used[word] == ~std::uint64_t{0}) ++word;  // not full: it is in the list
    const int bit = std::countr_one(used[word]);
    used[word] |= std::uint64_t{1} << bit;
    if (page[first].live == 0) --empty_slabs;
    if (++page[first].live == SlabCapacity(bucket)) Unlink(&head, first);
    const std::uint64_t index = word * 64 + static_cast<std::uint64_t>(bit);
    return OffsetOf(first) + index * kScale[static_cast<std::size_t>(bucket)].bytes;
  }

  // What lives at an offset: the first page of its run or slab, its number there, and its size;
  // 0 bytes = nothing.
  struct Live {
    std::uint32_t first;
    std::uint32_t index;
    std::uint64_t bytes;
  };
  Live LiveAt(std::uint64_t offset) const {
    if (offset < begin || offset >= OffsetOf(0) + page_count * kPage) return {};
    const std::uint32_t own = PageOf(offset);
    if (page[own].kind == kRun && offset == OffsetOf(own)) {
      return {own, 0, page[own].run_pages * kPage};
    }
    const std::uint32_t first = SlabOf(offset);
    if (page[first].kind != kSlab) return {};
    const int bucket = page[first].bucket;
    const std::uint64_t bytes = kScale[static_cast<std::size_t>(bucket)].bytes;
    const std::uint64_t in_slab = offset - OffsetOf(first);
    const std::uint64_t index = IndexInSlab(in_slab, bucket);
    const bool is_used = (slab[first / kSlabPages].used[index / 64] >> (index % 64) & 1) != 0;
    if (index * bytes != in_slab || !is_used) return {};
    return {first, static_cast<std::uint32_t>(index), bytes};
  }

  // REQUIRES: a live extent of this slab.
  void GiveToSlab(std::uint32_t first, std::uint32_t index) {
    Page& p = page[first];
    const int bucket = p.bucket;
    slab[first / kSlabPages].used[index / 64] &= ~(std::uint64_t{1} << (index % 64));
    std::uint32_t& head = partial[static_cast<std::size_t>(bucket)];
    if (p.live-- == SlabCapacity(bucket)) Link(&head, first);
    // One empty slab may stay (invariant 2), so that an extent that comes and goes costs no slab.
    const bool is_only = head == first && p.next == kNone;
    if (p.live > 0) return;
    if (is_only) {
      ++empty_slabs;
      return;
    }
    Unlink(&head, first);
    GiveRun(first);
  }

  // Slabs that were kept although they are empty must not be what a large extent fails for.
  bool GiveBackEmptySlabs() {
    if (empty_slabs == 0) return false;
    for (std::uint32_t& head : partial) {
      for (std::uint32_t first = head; first != kNone;) {
        const std::uint32_t next = page[first].next;
        if (page[first].live == 0) {
          Unlink(&head, first);
          GiveRun(first);
        }
        first = next;
      }
    }
    empty_slabs = 0;
    return true;
  }

  const std::uint64_t begin;
  const std::uint64_t page_count;
  fabric::LazyArray<Page> page;
  fabric::LazyArray<Slab> slab;  // by slab-aligned page
  std::array<std::array<std::uint32_t, kSecondLevels>, kFirstLevels> free_list;
  std::uint64_t first_level = 0;
  std::array<std::uint32_t, kFirstLevels> second_level{};
  std::array<std::uint32_t, kBuckets> partial;
  std::uint64_t empty_slabs = 0;
  std::uint64_t used_bytes = 0;
  std::uint64_t live_extents = 0;
  bool adopting = true;  // until the first Allocate, or FinishAdopting
};

ObjectManager::ObjectManager(std::uint64_t begin_offset, std::uint64_t end_offset)
    : state_(std::make_unique<State>(begin_offset, end_offset)) {}
ObjectManager::~ObjectManager() = default;

std::uint64_t ObjectManager::BucketBytes(std::uint64_t bytes) {
  return bytes <= kMaxSlabExtentBytes ? BucketSize(BucketOf(std::max<std::uint64_t>(bytes, 1)))
                                      : fabric::AlignUp(bytes, kPage);
}

std::uint64_t ObjectManager::Allocate(std::uint64_t bytes) {
  State& state = *state_;
  if (state.adopting) FinishAdopting();
  std::uint64_t offset = 0;
  std::uint64_t taken = 0;
  if (bytes <= kMaxSlabExtentBytes) {
    const int bucket = BucketOf(std::max<std::uint64_t>(bytes, 1));
    offset = state.TakeFromSlab(bucket);
    taken = kScale[static_cast<std::size_t>(bucket)].bytes;
  } else if (bytes <= capacity_bytes()) {
    const std::uint32_t first = state.TakeRun((bytes + kPage - 1) / kPage, 1);
    if (first != kNone) {
      state.page[first].kind = State::kRun;
      offset = state.OffsetOf(first);
      taken = state.page[first].run_pages * kPage;
    }
  }
  if (offset == 0) return 0;
  state.used_bytes += taken;
  ++state.live_extents;
  return offset;
}

bool ObjectManager::Free(std::uint64_t offset) {
  State& state = *state_;
  const State::Live live = state.LiveAt(offset);
  if (live.bytes == 0) return false;
  if (state.page[live.first].kind == State::kSlab) {
    state.GiveToSlab(live.first, live.index);
  } else {
    state.GiveRun(live.first);
  }
  state.used_bytes -= live.bytes;
  --state.live_extents;
  return true;
}

std::uint64_t ObjectManager::LiveBytes(std::uint64_t offset) const {
  return state_->LiveAt(offset).bytes;
}

bool ObjectManager::Adopt(std::uint64_t offset, std::uint64_t bytes) {
  State& state = *state_;
  const std::uint64_t taken = BucketBytes(bytes);
  if (!state.adopting || offset < state.begin || taken > capacity_bytes() ||
      offset - state.begin > capacity_bytes() - taken) {
    return false;
  }
  if (bytes > kMaxSlabExtentBytes) {
    if ((offset - state.begin) % kPage != 0) return false;
    const std::uint32_t first = state.PageOf(offset);
    const auto pages = static_cast<std::uint32_t>(taken / kPage);
    for (std::uint32_t i = 0; i < pages; ++i) {
      if (state.page[first + i].kind != State::kUnknown) return false;
    }
    for (std::uint32_t i = 0; i < pages; ++i) state.page[first + i].kind = State::kInner;
    state.page[first].kind = State::kRun;
    state.page[first].run_pages = pages;
  } else {
    const int bucket = BucketOf(std::max<std::uint64_t>(bytes, 1));
    const std::uint32_t first = state.SlabOf(offset);
    State::Page& page = state.page[first];
    const std::uint64_t in_slab = offset - state.OffsetOf(first);
    if (in_slab % BucketSize(bucket) != 0 || in_slab + BucketSize(bucket) > kSlabBytes) {
      return false;
    }
    if (page.kind == State::kUnknown) {
      for (std::uint32_t i = 0; i < kSlabPages; ++i) {
        if (state.page[first + i].kind != State::kUnknown) return false;
      }
      for (std::uint32_t i = 1; i < kSlabPages; ++i) state.page[first + i].kind = State::kInner;
      state.MakeSlab(first, bucket);
    }
    if (page.kind != State::kSlab || page.bucket != bucket) return false;
    const std::uint64_t index = in_slab / BucketSize(bucket);
    auto& word = state.slab[first / kSlabPages].used[index / 64];
    const std::uint64_t bit = std::uint64_t{1} << (index % 64);
    if ((word & bit) != 0) return false;
    word |= bit;
    if (page.live == 0) --state.empty_slabs;
    if (++page.live == State::SlabCapacity(bucket)) {
      state.Unlink(&state.partial[static_cast<std::size_t>(bucket)], first);
    }
  }
  state.used_bytes += taken;
  ++state.live_extents;
  return true;
}

// What nobody has adopted is free.
void ObjectManager::FinishAdopting() {
  State& state = *state_;
  state.adopting = false;
  if (state.live_extents == 0) {  // the common case touches nothing
    if (state.page_count > 0) state.AddFree(0, static_cast<std::uint32_t>(state.page_count));
    return;
  }
  for (std::uint32_t first = 0; first < state.page_count;) {
    if (state.page[first].kind != State::kUnknown) {
      ++first;
      continue;
    }
    std::uint32_t end = first;
    while (end < state.page_count && state.page[end].kind == State::kUnknown) ++end;
    state.AddFree(first, end - first);
    first = end;
  }
}

std::uint64_t ObjectManager::capacity_bytes() const { return state_->page_count * kPage; }
std::uint64_t ObjectManager::used_bytes() const { return state_->used_bytes; }
std::uint64_t ObjectManager::live_extents() const { return state_->live_extents; }

std::uint64_t ObjectManager::largest_free_bytes() const {
  const State& state = *state_;
  if (state.adopting || state.first_level == 0) return 0;
  const int first = static_cast<int>(std::bit_width(state.first_level)) - 1;
  const int second =
      static_cast<int>(std::bit_width(state.second_level[static_cast<std::size_t>(first)])) - 1;
  std::uint64_t pages = 0;
  for (std::uint32_t run =
           state.free_list[static_cast<std::size_t>(first)][static_cast<std::size_t>(second)];
       run != kNone; run = state.page[run].next) {
    pages = std::max<std::uint64_t>(pages, state.page[run].run_pages);
  }
  return pages * kPage;
}

}  // namespace apta::daemon
