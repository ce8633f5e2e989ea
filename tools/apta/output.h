// What people and programs see: standard output, tables, sizes.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace apta::tool {

// A descriptor that is written whole, without a buffer of its own: hand it large pieces.
class Output {
 public:
  explicit Output(int fd);

  absl::Status Write(std::string_view bytes);
  bool on_terminal() const { return on_terminal_; }
  // A Write failed because nobody reads any more (`apta ls | head`): reason to stop, no failure.
  bool reader_gone() const { return reader_gone_; }

 private:
  int fd_;
  bool on_terminal_;
  bool reader_gone_ = false;
};

// Writes on standard error what people may want to know. If it cannot be written they do without:
// no reason to end what it tells of.
void Tell(std::string_view text);

// Rows in aligned columns; a header that begins with '>' is aligned to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> headers);
  void Add(std::vector<std::string> row);  // as many cells as headers
  std::string Render() const;              // a header line and a line per row

 private:
  std::vector<bool> align_right_;
  std::vector<std::vector<std::string>> rows_;
};

// "1.0 GiB"; exact below 1 KiB.
std::string FormatBytes(std::uint64_t bytes);

// The text with control characters as \xNN: a key must not be able to drive a terminal.
std::string Printable(std::string_view text);

}  // namespace apta::tool
