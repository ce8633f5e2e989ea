#include "tools/apta/dump.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace apta::tool {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::string_view kMagic = "APTADMP1";
constexpr std::uint64_t kReadBytes = std::uint64_t{1} << 20;
constexpr std::uint64_t kMaxKeyBytes = 1024;

struct Head {
  std::uint64_t key_bytes;
  std::uint64_t payload_bytes;  // of the last record: how many objects there were
};

std::string_view TextOf(const void* from, std::size_t bytes) {
  return {static_cast<const char*>(from), bytes};
}

std::uint64_t Checksum(const Head& head, std::string_view key, BytesView payload,
                       std::uint64_t seed) {
  XXH3_state_t state;
  XXH3_INITSTATE(&state);
  XXH3_64bits_reset_withSeed(&state, seed);
  XXH3_64bits_update(&state, &head, sizeof(head));
  XXH3_64bits_update(&state, key.data(), key.size());
  XXH3_64bits_update(&state, payload.data(), payload.size());
  return XXH3_64bits_digest(&state);
}

}  // namespace

absl::Status DumpWriter::WriteRecord(std::string_view key, BytesView payload,
                                     std::uint64_t said_bytes) {
  const Head head{key.size(), said_bytes};
  seed_ = Checksum(head, key, payload, seed_);
  std::string front;
  if (!has_begun_) front = kMagic;
  has_begun_ = true;
  front += TextOf(&head, sizeof(head));
  front += key;
  absl::Status status = output_->Write(front);
  if (status.ok()) status = output_->Write(AsText(payload));
  if (status.ok()) status = output_->Write(TextOf(&seed_, sizeof(seed_)));
  return status;
}

absl::Status DumpWriter::Add(std::string_view key, BytesView payload) {
  ++objects_;
  return WriteRecord(key, payload, payload.size());
}

absl::Status DumpWriter::End() { return WriteRecord("", {}, objects_); }

absl::Status DumpReader::Damaged(std::string_view how) const {
  return absl::DataLossError(
      fmt::format("{}: the dump is damaged at byte {}: {}", source_->name(), read_bytes_, how));
}

absl::Status DumpReader::Read(void* to, std::uint64_t bytes) {
  for (std::uint64_t done = 0; done < bytes;) {
    const auto got = source_->Read({static_cast<std::byte*>(to) + done, bytes - done});
    if (!got.ok()) return got.status();
    if (*got == 0) return Damaged("it ends there");
    done += *got;
    read_bytes_ += *got;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<DumpedObject>> DumpReader::Next() {
  if (read_bytes_ == 0) {
    std::string magic(kMagic.size(), '\0');
    const absl::Status status = Read(magic.data(), magic.size());
    if (!status.ok() || magic != kMagic) {
      return absl::InvalidArgumentError(
          fmt::format("{}: this is no dump of a pool", source_->name()));
    }
  }
  Head head;
  if (const absl::Status status = Read(&head, sizeof(head)); !status.ok()) return status;
  if (head.key_bytes > kMaxKeyBytes) return Damaged("no key is as long as that");
  DumpedObject object;
  object.key.resize(head.key_bytes);
  absl::Status status = Read(object.key.data(), head.key_bytes);
  // Slice by slice: a length that is damaged must not take memory that the file does not have.
  std::uint64_t rest = head.key_bytes == 0 ? 0 : head.payload_bytes;
  while (status.ok() && rest > 0) {
    const std::uint64_t slice = std::min(rest, kReadBytes);
    const std::size_t filled = object.payload.size();
    object.payload.resize(filled + slice);
    status = Read(object.payload.data() + filled, slice);
    rest -= slice;
  }
  std::uint64_t checksum = 0;
  if (status.ok()) status = Read(&checksum, sizeof(checksum));
  if (!status.ok()) return status;
  seed_ = Checksum(head, object.key, object.payload, seed_);
  if (checksum != seed_) return Damaged("the checksum before it is wrong");
  if (head.key_bytes != 0) {
    ++objects_;
    return std::make_optional(std::move(object));
  }
  if (head.payload_bytes != objects_) return Damaged("objects are missing");
  std::byte beyond{};
  const auto more = source_->Read({&beyond, 1});
  if (!more.ok()) return more.status();
  if (*more != 0) return Damaged("something follows its end");
  return std::optional<DumpedObject>();
}

}  // namespace apta::tool
