#include "fabric/write_back.h"

#include <cpuid.h>
#include <immintrin.h>

#include "fabric/extent.h"

namespace apta::fabric {
namespace {

__attribute__((target("clwb"))) void Clwb(void* line) { _mm_clwb(line); }
__attribute__((target("clflushopt"))) void Clflushopt(void* line) { _mm_clflushopt(line); }
void Clflush(void* line) { _mm_clflush(line); }

class MachineLines final : public WriteBack {
 public:
  MachineLines() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return;
    if ((ebx & bit_CLFLUSHOPT) != 0) line_ = Clflushopt;
    if ((ebx & bit_CLWB) != 0) line_ = Clwb;
  }

  void Lines(const void* from, std::uint64_t bytes) override {
    const auto begin = reinterpret_cast<std::uintptr_t>(from) / kCacheLineBytes * kCacheLineBytes;
    const auto end = reinterpret_cast<std::uintptr_t>(from) + bytes;
    for (std::uintptr_t line = begin; line < end; line += kCacheLineBytes) {
      line_(reinterpret_cast<void*>(line));
    }
  }
  void Fence() override { _mm_sfence(); }

 private:
  void (*line_)(void*) = Clflush;
};

}  // namespace

WriteBack* MachineWriteBack() {
  static MachineLines lines;
  return &lines;
}

}  // namespace apta::fabric
