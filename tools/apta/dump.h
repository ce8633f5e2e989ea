// Dumps: the objects of a pool in one file, to be put into another pool, elsewhere.
//
// After eight bytes that say what it is, records: a head, key and payload (if any), and XXH3-64 of
// all that with the checksum of the record before as its seed: so nothing can be missing, exchanged
// or added without being noticed. The last record has no key and says how many there were. Numbers
// are little endian. Not thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "apta/object.h"
#include "tools/apta/file_io.h"
#include "tools/apta/output.h"

namespace apta::tool {

struct DumpedObject {
  std::string key;
  Bytes payload;
};

class DumpWriter {
 public:
  explicit DumpWriter(Output* output) : output_(output) {}
  absl::Status Add(std::string_view key, BytesView payload);
  absl::Status End();

 private:
  absl::Status WriteRecord(std::string_view key, BytesView payload, std::uint64_t said_bytes);

  Output* const output_;
  std::uint64_t objects_ = 0;
  std::uint64_t seed_ = 0;
  bool has_begun_ = false;
};

class DumpReader {
 public:
  explicit DumpReader(Source* source) : source_(source) {}
  // nullopt: the end, and all of it was there. DATA_LOSS: the dump is damaged; INVALID_ARGUMENT: it
  // is none. Both say where.
  absl::StatusOr<std::optional<DumpedObject>> Next();
  std::uint64_t read_bytes() const { return read_bytes_; }

 private:
  absl::Status Read(void* to, std::uint64_t bytes);
  absl::Status Damaged(std::string_view how) const;

  Source* const source_;
  std::uint64_t objects_ = 0;
  std::uint64_t seed_ = 0;
  std::uint64_t read_bytes_ = 0;
};

}  // namespace apta::tool
