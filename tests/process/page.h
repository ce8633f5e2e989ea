// Memory that a test and its other processes share, for what must not go through Āpta: real-time
// order, flags, counts.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <new>
#include <string>

namespace apta::test {

// T: of lock-free atomics, zero when fresh.
template <typename T>
class SharedPage {
 public:
  // The test's side: inherited by every process that it starts.
  SharedPage() : SharedPage(memfd_create("test-page", 0), true) {}
  // Another process's side, by name().
  explicit SharedPage(const std::string& name) : SharedPage(std::stoi(name), false) {}
  ~SharedPage() {
    munmap(page_, sizeof(T));
    close(fd_);
  }
  SharedPage(const SharedPage&) = delete;
  SharedPage& operator=(const SharedPage&) = delete;

  T* operator->() const { return page_; }
  std::string name() const { return std::to_string(fd_); }

 private:
  SharedPage(int fd, bool is_new) : fd_(fd) {
    EXPECT_TRUE(!is_new || ftruncate(fd, sizeof(T)) == 0);
    void* const memory = mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    EXPECT_NE(memory, MAP_FAILED);
    page_ = is_new ? new (memory) T() : static_cast<T*>(memory);
  }

  int fd_;
  T* page_;
};

}  // namespace apta::test
