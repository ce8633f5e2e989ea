// Clinical notes that nobody wrote about anybody: made from a seed, with protected health
// information (PHI) planted in known places.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace phi {

struct Planted {
  std::string kind;  // NAME, DATE, PHONE, MRN, SSN, ADDRESS or EMAIL
  std::string text;
  std::size_t offset;  // in the note
};

struct Note {
  std::string text;
  std::vector<Planted> planted;  // by offset
};

// The same for the same arguments, on any machine.
std::vector<Note> MakeNotes(std::uint32_t seed, int count);

}  // namespace phi
