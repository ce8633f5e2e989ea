#include "tools/apta/stored_commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <system_error>
#include <vector>

#include "apta/server.h"
#include "tools/apta/dump.h"
#include "tools/apta/file_io.h"
#include "tools/apta/progress.h"

namespace apta::tool {
namespace {

constexpr std::size_t kListedObjects = 1000;
constexpr int kCutAttempts = 20;

struct Cut {
  std::vector<std::string> keys;
  std::vector<Object> objects;  // as many
};

absl::StatusOr<std::vector<std::string>> AllKeys(Client* client) {
  std::vector<std::string> keys;
  while (true) {
    const auto page = client->List("", kListedObjects, keys.empty() ? "" : keys.back());
    if (!page.ok()) return page.status();
    if (page->empty()) return keys;
    for (const ObjectInfo& object : *page) keys.push_back(object.key);
  }
}

// GetMany is of one moment for the keys that it is given; and they were all, if none of those that
// there are afterwards is another.
absl::StatusOr<Cut> TakeCut(Client* client) {
  const Progress progress("looking at all objects", 0);
  for (int attempt = 0; attempt < kCutAttempts; ++attempt) {
    auto keys = AllKeys(client);
    if (!keys.ok()) return keys.status();
    auto objects = keys->empty() ? std::vector<Object>() : client->GetMany(*keys);
    if (absl::IsNotFound(objects.status())) continue;  // deleted meanwhile
    if (!objects.ok()) return objects.status();
    const auto afterwards = AllKeys(client);
    if (!afterwards.ok()) return afterwards.status();
    if (std::ranges::includes(*keys, *afterwards)) {
      return Cut{*std::move(keys), *std::move(objects)};
    }
  }
  return absl::AbortedError(
      "objects are made and deleted faster than they can be listed; try when there is less to do");
}

// Of a file, or of all files of a folder; 0: it cannot be told.
std::uint64_t StoredBytes(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) {
    const std::uintmax_t bytes = std::filesystem::file_size(path, error);
    return error ? 0 : bytes;
  }
  std::uint64_t bytes = 0;
  for (std::filesystem::directory_iterator file(path, error), end; !error && file != end;
       file.increment(error)) {
    std::error_code has_no_size;
    const std::uintmax_t file_bytes = file->file_size(has_no_size);
    if (!has_no_size) bytes += file_bytes;
  }
  return bytes;
}

absl::Status VisitDump(const std::string& path, const char* phase,
                       const std::function<absl::Status(const DumpedObject&)>& visit) {
  auto source = Source::Open(path);
  if (!source.ok()) return source.status();
  Progress progress(phase, source->size_bytes().value_or(0));
  DumpReader reader(&*source);
  while (true) {
    const auto object = reader.Next();
    if (!object.ok()) return object.status();
    if (!object->has_value()) return absl::OkStatus();
    if (absl::Status status = visit(**object); !status.ok()) return status;
    progress.Set(reader.read_bytes());
  }
}

}  // namespace

absl::StatusOr<bool> Fsck(const Arguments& arguments, Output* output) {
  absl::StatusOr<std::vector<std::string>> findings;
  {
    const std::uint64_t total_bytes = StoredBytes(arguments.file);
    Progress progress("checking", total_bytes);
    findings = CheckStored(arguments.file, [&](double share) {
      progress.Set(static_cast<std::uint64_t>(share * static_cast<double>(total_bytes)));
    });
  }
  if (!findings.ok()) return findings.status();
  std::string text;
  for (const std::string& finding : *findings) text += Printable(finding) + "\n";
  if (absl::Status status = output->Write(text); !status.ok()) return status;
  return !findings->empty();
}

absl::Status DumpPool(Client* client, const Arguments& arguments) {
  const auto cut = TakeCut(client);
  if (!cut.ok()) return cut.status();
  auto file = FileReplacement::Create(arguments.file);
  if (!file.ok()) return file.status();
  Output output(file->fd());
  std::uint64_t total_bytes = 0, done_bytes = 0;
  for (const Object& object : cut->objects) total_bytes += object.size();
  {
    Progress progress("writing", total_bytes);
    DumpWriter writer(&output);
    for (std::size_t i = 0; i < cut->keys.size(); ++i) {
      absl::Status status = writer.Add(cut->keys[i], cut->objects[i].bytes());
      if (!status.ok()) return status;
      progress.Set(done_bytes += cut->objects[i].size());
    }
    if (absl::Status status = writer.End(); !status.ok()) return status;
  }
  if (absl::Status status = file->Commit(); !status.ok()) return status;
  const auto pools = client->Pools();
  if (!pools.ok()) return pools.status();
  for (const PoolInfo& pool : *pools) {
    if (pool.name != arguments.client.pool || pool.objects_damaged == 0) continue;
    return absl::DataLossError(
        fmt::format("the dump is written; {} objects of the pool that are damaged are not in it",
                    pool.objects_damaged));
  }
  return absl::OkStatus();
}

absl::Status RestorePool(Client* client, const Arguments& arguments) {
  absl::Status status =
      VisitDump(arguments.file, "checking", [](const DumpedObject&) { return absl::OkStatus(); });
  if (!status.ok()) return status;
  return VisitDump(arguments.file, "restoring", [client](const DumpedObject& object) {
    return client->Put(object.key, object.payload).status();
  });
}

}  // namespace apta::tool
