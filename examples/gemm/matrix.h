// Sparse and dense matrices, whole and in the parts that map and reduce work on.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace gemm {

struct Entry {
  int row, column;
  double value;
  bool operator==(const Entry&) const = default;
};

// A·B for square matrices of `size` rows.
struct Factors {
  int size = 0;
  std::vector<Entry> a, b;  // by row, then column; what is not there is zero
};

// Lines of A,row,column,value and B,row,column,value in any order. INVALID_ARGUMENT names the line.
absl::StatusOr<Factors> ParseFactors(std::string_view lines);
// About `percent` of the entries, small integers: products are exact. The same for the same
// arguments on any machine.
std::string MakeFactors(std::uint32_t seed, int size, int percent);

// Row by row.
struct Dense {
  int size = 0;
  std::vector<double> values;
  explicit Dense(int n = 0)
      : size(n), values(static_cast<std::size_t>(n) * static_cast<std::size_t>(n)) {}
};
Dense ToDense(int size, const std::vector<Entry>& entries);

// A part of the product: the columns [begin, end) of A with the same rows of B. The sum over all
// parts is A·B.
struct Slice {
  int size, begin, end;
  std::vector<Entry> a, b;
};
std::vector<Slice> CutSlices(const Factors& factors, int count);

Dense MultiplySparse(const Slice& slice);
// The same by OpenBLAS, block by block.
Dense MultiplyBlocked(const Slice& slice, int block);

// What travels between functions: native, for machines of one kind.
std::string Pack(const Slice& slice);
absl::StatusOr<Slice> UnpackSlice(std::string_view bytes);
std::string Pack(const Dense& matrix);
// In place: the view ends with the bytes, which are 8-byte aligned as objects are.
struct DenseView {
  int size;
  const double* values;
};
absl::StatusOr<DenseView> ViewDense(std::string_view bytes);

}  // namespace gemm
