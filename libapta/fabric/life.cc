#include "fabric/life.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "absl/status/status.h"
#include "fabric/check.h"
#include "fabric/extent.h"

namespace apta::fabric {

// One entry, which stands for the word. The entry's distance from the word is ours to choose, so
// that the list can be in private memory while the word is not.
struct Life::RobustList {
  robust_list_head head;
  robust_list entry;
  robust_list_head* before;  // the C library's, for this thread
};

void Life::Unmap::operator()(Page* page) const { munmap(page, kPageBytes); }
void Life::DeleteList::operator()(RobustList* list) const { delete list; }

Life::~Life() = default;

absl::StatusOr<Life> Life::Create() {
  Life life;
  life.fd_ = UniqueFd(memfd_create("apta-life", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!life.fd_.valid() || ftruncate(life.fd_.get(), kPageBytes) != 0) {
    return absl::ErrnoToStatus(errno, "a page for the life word");
  }
  void* page = mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, life.fd_.get(), 0);
  if (page == MAP_FAILED) return absl::ErrnoToStatus(errno, "mapping the life word");
  life.page_.reset(static_cast<Page*>(page));
  constexpr int kSeals = F_SEAL_FUTURE_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
  if (fcntl(life.fd_.get(), F_ADD_SEALS, kSeals) != 0) {
    return absl::ErrnoToStatus(errno, "sealing the life word");
  }
  return life;
}

absl::StatusOr<Life> Life::Map(UniqueFd fd) {
  Life life;
  void* page = mmap(nullptr, kPageBytes, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (page == MAP_FAILED) return absl::ErrnoToStatus(errno, "mapping the life word");
  life.page_.reset(static_cast<Page*>(page));
  return life;
}

// In one step for readers: they find the old page or the zeros. (Not by mmap(3), which a thread
// sanitizer takes for a write to the page.)
void Life::Retire() {
  syscall(SYS_mmap, page_.get(), kPageBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
          0);
}

void Life::Begin() {
  APTA_CHECK(list_ == nullptr);
  list_.reset(new RobustList{});
  std::size_t bytes = 0;
  APTA_CHECK(syscall(SYS_get_robust_list, 0, &list_->before, &bytes) == 0);
  list_->head.list.next = &list_->entry;
  list_->entry.next = &list_->head.list;
  list_->head.futex_offset =
      reinterpret_cast<char*>(&page_->word) - reinterpret_cast<char*>(&list_->entry);
  // The kernel changes the word only if it says that the dying thread owns it.
  page_->word.store(static_cast<std::uint32_t>(syscall(SYS_gettid)));
  APTA_CHECK(syscall(SYS_set_robust_list, &list_->head, sizeof(list_->head)) == 0);
}

void Life::End() {
  if (list_ == nullptr) return;
  page_->word.store(0);
  APTA_CHECK(syscall(SYS_set_robust_list, list_->before, sizeof(*list_->before)) == 0);
  list_.reset();
}

}  // namespace apta::fabric
