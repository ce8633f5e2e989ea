#include "fabric/life.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <optional>
#include <thread>

namespace apta::fabric {
namespace {

TEST(LifeTest, WhoeverIsNamedByNothingLivesForEver) { EXPECT_TRUE(LifeView().IsAlive()); }

TEST(LifeTest, EndsWithEndAndWithItsThread) {
  for (const bool ends : {true, false}) {
    Life life = *Life::Create();
    std::optional<LifeView> view;
    std::thread([&] {
      life.Begin();
      view = life.view();
      EXPECT_TRUE(view->IsAlive());
      if (ends) life.End();
    }).join();
    EXPECT_FALSE(view->IsAlive()) << ends;
  }
}

TEST(LifeTest, AThreadMayLiveOnAfterItsEnd) {
  Life first = *Life::Create(), second = *Life::Create();
  first.Begin();
  first.End();
  second.Begin();
  EXPECT_TRUE(second.view().IsAlive());
  second.End();
}

TEST(LifeTest, AKilledProcessIsDeadToWhoeverMappedItsWord) {
  Life life = *Life::Create();
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  const pid_t child = fork();
  if (child == 0) {
    life.Begin();
    (void)!write(pipes[1], "x", 1);
    pause();
  }
  char byte;
  ASSERT_EQ(read(pipes[0], &byte, 1), 1);
  const Life mapped = *Life::Map(UniqueFd(dup(life.fd())));
  const LifeView view = mapped.view();
  EXPECT_TRUE(view.IsAlive());
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_FALSE(view.IsAlive());
  close(pipes[0]);
  close(pipes[1]);
}

TEST(LifeTest, NobodyElseCanWriteToIt) {
  const Life life = *Life::Create();
  EXPECT_EQ(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, life.fd(), 0), MAP_FAILED);
}

}  // namespace
}  // namespace apta::fabric
