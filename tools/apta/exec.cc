#include "tools/apta/exec.h"

#include <elf.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <vector>

namespace apta::tool {
namespace {

constexpr char kLibrary[] = "libapta_shmem.so";

template <typename Header>
bool ReadAt(std::ifstream& file, std::uint64_t offset, Header* header) {
  file.clear();
  file.seekg(static_cast<std::streamoff>(offset));
  return static_cast<bool>(file.read(reinterpret_cast<char*>(header), sizeof(*header)));
}

absl::Status CheckElf(std::ifstream& file, const std::string& path) {
  Elf64_Ehdr elf;
  if (!ReadAt(file, 0, &elf) || elf.e_ident[EI_CLASS] != ELFCLASS64) {
    return absl::FailedPreconditionError(
        fmt::format("{} is no 64-bit program: {} cannot be loaded into it", path, kLibrary));
  }
  for (std::uint64_t i = 0; i < elf.e_phnum; ++i) {
    Elf64_Phdr part;
    if (!ReadAt(file, elf.e_phoff + i * elf.e_phentsize, &part)) break;
    if (part.p_type == PT_INTERP) return absl::OkStatus();
  }
  return absl::FailedPreconditionError(fmt::format(
      "{} is a static binary: it calls the kernel by itself, and its shared memory would stay on "
      "this machine; link it dynamically",
      path));
}

// In the build's tree or an installed one.
absl::StatusOr<std::string> FindLibrary() {
  std::error_code error;
  const std::filesystem::path here = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path folder = here.parent_path();
  for (const char* place : {"../shim", "../" APTA_LIBRARY_FOLDER, "."}) {
    const std::filesystem::path path = std::filesystem::canonical(folder / place / kLibrary, error);
    if (!error) return path.string();
  }
  return absl::NotFoundError(fmt::format("{} is neither beside {} nor in ../" APTA_LIBRARY_FOLDER,
                                         kLibrary, here.string()));
}

}  // namespace

absl::StatusOr<std::string> FindProgram(const std::string& name) {
  if (name.find('/') != name.npos) {
    if (access(name.c_str(), X_OK) == 0) return name;
    if (errno == ENOENT) return absl::NotFoundError(name + ": no such file");
    return absl::PermissionDeniedError(fmt::format("{}: {}", name, std::strerror(errno)));
  }
  const char* path = std::getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "/usr/bin:/bin");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string file = (folder.empty() ? "." : folder) + "/" + name;
    struct stat status {};
    if (stat(file.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
        access(file.c_str(), X_OK) == 0) {
      return file;
    }
  }
  return absl::NotFoundError(name + ": no such program in $PATH");
}

absl::Status CheckDynamic(const std::string& path) {
  constexpr int kMaxScripts = 4;  // as the kernel
  std::string at = path;
  for (int scripts = 0; scripts <= kMaxScripts; ++scripts) {
    std::ifstream file(at, std::ios::binary);
    char magic[SELFMAG] = {};
    file.read(magic, sizeof(magic));
    if (std::memcmp(magic, ELFMAG, SELFMAG) == 0) return CheckElf(file, at);
    if (std::memcmp(magic, "#!", 2) != 0) return absl::OkStatus();  // exec says what it is
    file.clear();
    file.seekg(2);
    std::string line;
    std::getline(file, line);
    std::istringstream words(line);
    words >> at;
  }
  return absl::OkStatus();
}

absl::Status Exec(const Arguments& arguments) {
  const auto program = FindProgram(arguments.command.front());
  if (!program.ok()) return program.status();
  if (absl::Status dynamic = CheckDynamic(*program); !dynamic.ok()) return dynamic;
  const auto library = FindLibrary();
  if (!library.ok()) return library.status();

  const char* others = std::getenv("LD_PRELOAD");
  const std::string preload =
      others != nullptr && *others != '\0' ? *library + ":" + others : *library;
  setenv("LD_PRELOAD", preload.c_str(), 1);
  if (!arguments.client.node.empty()) setenv("APTA_NODE", arguments.client.node.c_str(), 1);
  if (!arguments.client.socket.empty()) setenv("APTA_SOCKET", arguments.client.socket.c_str(), 1);
  if (arguments.client.pool != "default") {
    setenv("APTA_SHMEM_POOL", arguments.client.pool.c_str(), 1);
  }
  if (!arguments.names.empty()) setenv("APTA_SHMEM", arguments.names.c_str(), 1);
  std::vector<char*> words;
  for (const std::string& word : arguments.command)
    words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  std::signal(SIGPIPE, SIG_DFL);
  execv(program->c_str(), words.data());
  return absl::UnknownError(fmt::format("{}: {}", *program, std::strerror(errno)));
}

}  // namespace apta::tool
