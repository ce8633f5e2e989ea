#include "turns.h"

#include <dlfcn.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

#include <atomic>
#include <string_view>
#include <utility>

#include "fabric/clock.h"
#include "fabric/doorbell.h"

namespace apta::guard {
namespace {

// Whose turn it is. kFree: there are none yet, everybody waits as ever.
enum Turn : std::uint32_t { kFree, kClients, kHomes };
std::atomic<std::uint32_t> g_turn{kFree};

enum class Role : std::uint8_t { kUnknown, kClient, kHome, kOther };
// Without constructors: also read by the first allocations of a thread.
constinit thread_local Role t_role = Role::kUnknown;
constinit thread_local bool t_counts = false;
// The kernel looks at it with every system call of the thread, once that is asked for.
constinit thread_local char t_block = 0;
constinit thread_local bool t_blocks = false;

// Of the one whose turn it is.
Counted g_counted;
Side g_side = Side::kClient;
bool g_counting = false;

Role RoleOfThread() {
  if (t_role != Role::kUnknown) return t_role;
  char name[16] = "";
  pthread_getname_np(pthread_self(), name, sizeof(name));
  if (getpid() == gettid()) {
    t_role = Role::kClient;
  } else {
    t_role = std::string_view(name) == "apta-home-0" ? Role::kHome : Role::kOther;
  }
  return t_role;
}

// A system call of a thread that counts: noticed, then done. Further ones of this turn pass.
void OnSystemCall(int, siginfo_t* why, void* context) {
  t_block = SYSCALL_DISPATCH_FILTER_ALLOW;
  ++g_counted.system_calls;
  if (g_counted.system_calls == 1) {
    g_counted.first_system_call = static_cast<std::uint64_t>(why->si_syscall);
  }
  // Back to the instruction, of two bytes, which puts the number where the result will be.
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  registers[REG_RIP] -= 2;
  registers[REG_RAX] = why->si_syscall;
}

// Under valgrind there is no such thing, and it is not needed: the run without it counts them.
void WatchSystemCalls() {
  if (t_blocks || RUNNING_ON_VALGRIND) return;
  t_blocks = true;
  struct sigaction action = {};
  action.sa_sigaction = OnSystemCall;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSYS, &action, nullptr);
  if (prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &t_block) != 0) {
    static constexpr char kText[] = "guard: this kernel cannot tell system calls (before 5.11)\n";
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kText, sizeof(kText) - 1);
    _exit(1);
  }
}

void Begin() {
  t_counts = true;
  t_block = t_blocks ? SYSCALL_DISPATCH_FILTER_BLOCK : SYSCALL_DISPATCH_FILTER_ALLOW;
  CALLGRIND_TOGGLE_COLLECT;
}
void End() {
  CALLGRIND_TOGGLE_COLLECT;
  t_block = SYSCALL_DISPATCH_FILTER_ALLOW;
  t_counts = false;
}

void HandTo(Turn turn) {
  g_turn.store(turn);
  g_turn.notify_all();
}
void AwaitTurn(Turn mine) {
  for (std::uint32_t now; (now = g_turn.load()) != mine;) g_turn.wait(now);
}

void GiveTurnAway(Role role) {
  const bool counted = t_counts;
  if (counted) End();
  if (role == Role::kClient) {
    if (g_counting) ++g_counted.turns;
    HandTo(kHomes);
    AwaitTurn(kClients);
    if (counted) Begin();
    return;
  }
  WatchSystemCalls();
  // The first time it may be idle without having been asked.
  if (g_turn.load() == kHomes) HandTo(kClients);
  AwaitTurn(kHomes);
  if (g_counting && g_side == Side::kHome) Begin();
}

}  // namespace

void BeginTurns() {
  WatchSystemCalls();
  g_turn.store(kClients);
}

void StartCounting(Side side) {
  g_side = side;
  g_counting = true;
  if (side == Side::kClient) Begin();
}

void StopCounting() {
  if (t_counts) End();
  g_counting = false;
}

Counted TakeCounted() { return std::exchange(g_counted, {}); }

}  // namespace apta::guard

// What the linker puts in the place of the function of the same name, and that function. Their
// names are the linker's, hence reserved ones.
using apta::fabric::IdleStrategy;
using apta::guard::g_counted;
using apta::guard::g_turn;
using apta::guard::Role;
using apta::guard::RoleOfThread;
using apta::guard::t_counts;

extern "C" {

IdleStrategy::Advice __real__ZN4apta6fabric12IdleStrategy4IdleEv(IdleStrategy* self);
IdleStrategy::Advice __wrap__ZN4apta6fabric12IdleStrategy4IdleEv(IdleStrategy* self) {
  // A thread gets its name a moment after it has begun: not asked for before there are turns.
  if (g_turn.load() == apta::guard::kFree || RoleOfThread() == Role::kOther) {
    return __real__ZN4apta6fabric12IdleStrategy4IdleEv(self);
  }
  apta::guard::GiveTurnAway(RoleOfThread());
  return IdleStrategy::Advice::kLookAgain;
}

// Agents wait here first of all, for ever; what they do between calls is no part of a call. Nobody
// else polls. Not told by its name, which a thread gets a moment after it has begun.
int __real_poll(pollfd* fds, nfds_t count, int timeout_ms);
int __wrap_poll(pollfd* fds, nfds_t count, int timeout_ms) {
  while (gettid() != getpid()) pause();
  return __real_poll(fds, count, timeout_ms);
}

// valgrind 3.19 does not know that io_uring_enter may block, and lets no other thread run.
int __wrap_io_uring_submit_and_wait_timeout(io_uring* ring, io_uring_cqe** first, unsigned,
                                            __kernel_timespec*, sigset_t*) {
  io_uring_submit(ring);
  pollfd fd = {ring->ring_fd, POLLIN, 0};
  __real_poll(&fd, 1, 20);
  return io_uring_peek_cqe(ring, first);
}

void* __real_memcpy(void* to, const void* from, std::size_t bytes);
void* __wrap_memcpy(void* to, const void* from, std::size_t bytes) {
  if (t_counts) g_counted.copied_bytes += bytes;
  return __real_memcpy(to, from, bytes);
}
void* __real_memmove(void* to, const void* from, std::size_t bytes);
void* __wrap_memmove(void* to, const void* from, std::size_t bytes) {
  if (t_counts) g_counted.copied_bytes += bytes;
  return __real_memmove(to, from, bytes);
}

// Not by --wrap, from here on: shared libraries (std::chrono, operator new) must meet them too.
int clock_gettime(clockid_t clock, timespec* now) {
  static const auto real =
      reinterpret_cast<int (*)(clockid_t, timespec*)>(dlsym(RTLD_NEXT, "clock_gettime"));
  static const timespec beginning = [] {
    timespec read;
    real(CLOCK_MONOTONIC, &read);
    return read;
  }();
  if (t_counts) ++g_counted.clock_readings;
  const bool stands = g_turn.load() != apta::guard::kFree && RoleOfThread() != Role::kOther;
  if (!stands || clock != CLOCK_MONOTONIC) return real(clock, now);
  *now = beginning;
  return 0;
}

void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* old, std::size_t bytes);
void* __libc_memalign(std::size_t alignment, std::size_t bytes);
void* malloc(std::size_t bytes) {
  if (t_counts) ++g_counted.allocations;
  return __libc_malloc(bytes);
}
void* calloc(std::size_t count, std::size_t bytes) {
  if (t_counts) ++g_counted.allocations;
  return __libc_calloc(count, bytes);
}
void* realloc(void* old, std::size_t bytes) {
  if (t_counts) ++g_counted.allocations;
  return __libc_realloc(old, bytes);
}
void* aligned_alloc(std::size_t alignment, std::size_t bytes) {
  if (t_counts) ++g_counted.allocations;
  return __libc_memalign(alignment, bytes);
}

}  // extern "C"
