// apta: the command line of Āpta.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <string_view>

#include "tools/apta/arguments.h"
#include "tools/apta/commands.h"
#include "tools/apta/output.h"

int main(int argc, char** argv) {
  // Where a standard stream is closed, the next socket would be taken for it.
  int fd = 0;
  while (fd >= 0 && fd <= STDERR_FILENO) fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (fd > STDERR_FILENO) close(fd);
  std::signal(SIGPIPE, SIG_IGN);  // a reader that is gone is seen by Output
  const auto arguments = apta::tool::ParseArguments(argc, argv);
  if (!arguments.ok()) {
    const auto message = arguments.status().message();
    apta::tool::Tell(fmt::format("apta: {}\n", std::string_view(message.data(), message.size())));
    return 2;
  }
  apta::tool::Output output(STDOUT_FILENO);
  if (!arguments->answer.empty()) {
    return output.Write(arguments->answer).ok() || output.reader_gone() ? 0 : 1;
  }
  return apta::tool::RunCommand(*arguments, &output);
}
