// Checks of our own invariants, on in every build. What a client can cause is never checked like
// this: it is rejected, counted and answered.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace apta::fabric {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: invariant broken: %s\n", file, line, condition);
  std::abort();
}

}  // namespace apta::fabric

#define APTA_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::apta::fabric::CheckFailed(__FILE__, __LINE__, #condition))
