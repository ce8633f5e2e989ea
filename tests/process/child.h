// Programs under test, and the pipes, memory files and terminals that connect a test to them.
//
// Not thread-safe, but the test may run other threads. Nothing outlives the test.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

namespace apta::test {

// A process; killed if it still runs when this is dropped, or when the test dies.
class Child {
 public:
  Child(const std::vector<std::string>& command, int in, int out, int err) {
    std::vector<char*> argv;
    for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ != 0) return;
    // Other threads may hold locks: nothing but system calls from here on.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    execv(argv[0], argv.data());
    _exit(127);
  }
  ~Child() {
    if (pid_ <= 0) return;
    Signal(SIGKILL);
    Wait();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  void Signal(int number) const { kill(pid_, number); }
  pid_t pid() const { return pid_; }
  bool HasEnded() const {
    siginfo_t ended{};
    const auto id = static_cast<id_t>(pid_);
    return waitid(P_PID, id, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == pid_;
  }
  // The exit code, or minus the signal that ended it.
  int Wait() {
    int status = 0;
    EXPECT_EQ(waitpid(std::exchange(pid_, -1), &status, 0) > 0, true);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  pid_t pid_;
};

// A descriptor of the test: closed on exec, so that pipes end when their last user does.
class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) { EXPECT_GE(fd, 0); }
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&&) = delete;
  ~Fd() { Close(); }
  int get() const { return fd_; }
  void Close() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }

 private:
  int fd_;
};

struct Pipe {
  Fd read_end, write_end;
  static Pipe Make() {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    return {Fd(ends[0]), Fd(ends[1])};
  }
};

inline Fd Memory(const std::string& text = "") {
  Fd fd(memfd_create("cli_test", MFD_CLOEXEC));
  EXPECT_EQ(write(fd.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  lseek(fd.get(), 0, SEEK_SET);
  return fd;
}

inline std::string Contents(const Fd& file) {
  struct stat status {};  // no seek: a child may be writing at the shared position
  EXPECT_EQ(fstat(file.get(), &status), 0);
  std::string text(static_cast<std::size_t>(status.st_size), '\0');
  EXPECT_EQ(pread(file.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  return text;
}

// What comes until `enough` holds for all of it; all there is if it never does.
template <typename Enough>
std::string ReadUntil(const Fd& fd, Enough enough) {
  std::string seen;
  char piece[256];
  while (!enough(seen)) {
    const ssize_t got = read(fd.get(), piece, sizeof(piece));
    if (got <= 0) break;  // a terminal says EIO at its end
    seen.append(piece, static_cast<std::size_t>(got));
  }
  return seen;
}
inline std::string ReadUntilText(const Fd& fd, const std::string& text) {
  return ReadUntil(fd, [&](const std::string& seen) { return seen.find(text) != seen.npos; });
}
inline std::string ReadToEnd(const Fd& fd) {
  return ReadUntil(fd, [](const std::string&) { return false; });
}

struct Result {
  int exit_code;
  std::string out;
  std::string err;
};

inline Result Execute(const std::vector<std::string>& command, const std::string& input = "") {
  const Fd in = Memory(input);
  const Fd out = Memory();
  const Fd err = Memory();
  const int exit_code = Child(command, in.get(), out.get(), err.get()).Wait();
  return {exit_code, Contents(out), Contents(err)};
}

// A terminal of which the test holds the other side.
struct Terminal {
  Fd screen, line;
  static Terminal Make() {
    int screen = -1;
    int line = -1;
    EXPECT_EQ(openpty(&screen, &line, nullptr, nullptr, nullptr), 0);
    for (const int fd : {screen, line}) fcntl(fd, F_SETFD, FD_CLOEXEC);
    return {Fd(screen), Fd(line)};
  }
};

}  // namespace apta::test
