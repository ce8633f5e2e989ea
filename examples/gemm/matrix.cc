#include "matrix.h"

#include <cblas.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <iterator>
#include <random>
#include <tuple>

namespace gemm {

namespace {

constexpr int kMaxSize = 100'000;

std::size_t Index(int n) { return static_cast<std::size_t>(n); }

template <typename Number>
bool TakeNumber(std::string_view& text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}
bool TakeComma(std::string_view& text) {
  if (!text.starts_with(',')) return false;
  text.remove_prefix(1);
  return true;
}

bool ParseEntry(std::string_view line, Entry& entry) {
  return TakeComma(line) && TakeNumber(line, entry.row) && TakeComma(line) &&
         TakeNumber(line, entry.column) && TakeComma(line) && TakeNumber(line, entry.value) &&
         line.empty() && entry.row >= 0 && entry.column >= 0 && entry.row < kMaxSize &&
         entry.column < kMaxSize;
}

struct PackedSlice {
  std::int32_t size, begin, end, a_count, b_count, padding;
};
static_assert(sizeof(PackedSlice) % alignof(Entry) == 0);

template <typename Value>
void Append(std::string& bytes, const Value* values, std::size_t count) {
  bytes.append(reinterpret_cast<const char*>(values), count * sizeof(Value));
}

// Rows and columns of A's part and rows of B's are where the slice says.
bool IsSound(const Slice& slice) {
  const auto is_row = [&](int i) { return i >= 0 && i < slice.size; };
  const auto is_shared = [&](int i) { return i >= slice.begin && i < slice.end; };
  return slice.size <= kMaxSize && slice.begin >= 0 && slice.begin <= slice.end &&
         slice.end <= slice.size &&
         std::all_of(slice.a.begin(), slice.a.end(),
                     [&](const Entry& e) { return is_row(e.row) && is_shared(e.column); }) &&
         std::all_of(slice.b.begin(), slice.b.end(),
                     [&](const Entry& e) { return is_shared(e.row) && is_row(e.column); });
}

}  // namespace

absl::StatusOr<Factors> ParseFactors(std::string_view lines) {
  Factors factors;
  for (int number = 1; !lines.empty(); ++number) {
    const std::size_t end = std::min(lines.find('\n'), lines.size());
    std::string_view line = lines.substr(0, end);
    lines.remove_prefix(std::min(end + 1, lines.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    Entry entry{};
    if ((line[0] != 'A' && line[0] != 'B') || !ParseEntry(line.substr(1), entry)) {
      return absl::InvalidArgumentError(
          fmt::format("line {} is not A,row,column,value or B,row,column,value", number));
    }
    (line[0] == 'A' ? factors.a : factors.b).push_back(entry);
    factors.size = std::max({factors.size, entry.row + 1, entry.column + 1});
  }
  for (std::vector<Entry>* matrix : {&factors.a, &factors.b}) {
    std::sort(matrix->begin(), matrix->end(), [](const Entry& x, const Entry& y) {
      return std::tie(x.row, x.column) < std::tie(y.row, y.column);
    });
  }
  return factors;
}

std::string MakeFactors(std::uint32_t seed, int size, int percent) {
  std::mt19937 engine(seed);
  std::string lines;
  for (const char name : {'A', 'B'}) {
    for (int row = 0; row < size; ++row) {
      for (int column = 0; column < size; ++column) {
        // The last one gives the matrix its size.
        const bool is_last = row == size - 1 && column == size - 1;
        if (!is_last && engine() % 100 >= static_cast<std::uint32_t>(percent)) continue;
        lines += fmt::format("{},{},{},{}\n", name, row, column, 1 + engine() % 99);
      }
    }
  }
  return lines;
}

Dense ToDense(int size, const std::vector<Entry>& entries) {
  Dense matrix(size);
  for (const Entry& entry : entries) {
    matrix.values[Index(entry.row) * Index(size) + Index(entry.column)] = entry.value;
  }
  return matrix;
}

std::vector<Slice> CutSlices(const Factors& factors, int count) {
  std::vector<Slice> slices;
  for (int i = 0; i < count; ++i) {
    Slice slice{.size = factors.size,
                .begin = factors.size * i / count,
                .end = factors.size * (i + 1) / count,
                .a = {},
                .b = {}};
    const auto is_shared = [&](int k) { return k >= slice.begin && k < slice.end; };
    std::copy_if(factors.a.begin(), factors.a.end(), std::back_inserter(slice.a),
                 [&](const Entry& entry) { return is_shared(entry.column); });
    std::copy_if(factors.b.begin(), factors.b.end(), std::back_inserter(slice.b),
                 [&](const Entry& entry) { return is_shared(entry.row); });
    slices.push_back(std::move(slice));
  }
  return slices;
}

Dense MultiplySparse(const Slice& slice) {
  // Where each row of B begins: Gustavson's algorithm, row by row of A.
  std::vector<std::size_t> begins(Index(slice.end - slice.begin) + 1);
  for (const Entry& entry : slice.b) ++begins[Index(entry.row - slice.begin) + 1];
  for (std::size_t i = 1; i < begins.size(); ++i) begins[i] += begins[i - 1];
  Dense product(slice.size);
  for (const Entry& left : slice.a) {
    double* const row = &product.values[Index(left.row) * Index(slice.size)];
    const std::size_t k = Index(left.column - slice.begin);
    for (std::size_t i = begins[k]; i < begins[k + 1]; ++i) {
      row[slice.b[i].column] += left.value * slice.b[i].value;
    }
  }
  return product;
}

Dense MultiplyBlocked(const Slice& slice, int block) {
  const Dense a = ToDense(slice.size, slice.a);
  const Dense b = ToDense(slice.size, slice.b);
  Dense product(slice.size);
  const auto at = [&](int row, int column) {
    return Index(row) * Index(slice.size) + Index(column);
  };
  for (int i = 0; i < slice.size; i += block) {
    for (int k = slice.begin; k < slice.end; k += block) {
      for (int j = 0; j < slice.size; j += block) {
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, std::min(block, slice.size - i),
                    std::min(block, slice.size - j), std::min(block, slice.end - k), 1.0,
                    &a.values[at(i, k)], slice.size, &b.values[at(k, j)], slice.size, 1.0,
                    &product.values[at(i, j)], slice.size);
      }
    }
  }
  return product;
}

std::string Pack(const Slice& slice) {
  const PackedSlice head{slice.size,
                         slice.begin,
                         slice.end,
                         static_cast<std::int32_t>(slice.a.size()),
                         static_cast<std::int32_t>(slice.b.size()),
                         0};
  std::string bytes;
  Append(bytes, &head, 1);
  Append(bytes, slice.a.data(), slice.a.size());
  Append(bytes, slice.b.data(), slice.b.size());
  return bytes;
}

absl::StatusOr<Slice> UnpackSlice(std::string_view bytes) {
  const auto garbled = [] { return absl::DataLossError("these bytes are no slice of factors"); };
  PackedSlice head;
  if (bytes.size() < sizeof(head)) return garbled();
  std::memcpy(&head, bytes.data(), sizeof(head));
  if (head.a_count < 0 || head.b_count < 0 ||
      bytes.size() != sizeof(head) + sizeof(Entry) * (Index(head.a_count) + Index(head.b_count))) {
    return garbled();
  }
  Slice slice{.size = head.size, .begin = head.begin, .end = head.end, .a = {}, .b = {}};
  slice.a.resize(Index(head.a_count));
  slice.b.resize(Index(head.b_count));
  const char* at = bytes.data() + sizeof(head);
  for (std::vector<Entry>* part : {&slice.a, &slice.b}) {
    if (!part->empty()) std::memcpy(part->data(), at, part->size() * sizeof(Entry));
    at += part->size() * sizeof(Entry);
  }
  if (!IsSound(slice)) return garbled();
  return slice;
}

std::string Pack(const Dense& matrix) {
  const std::int64_t size = matrix.size;
  std::string bytes;
  Append(bytes, &size, 1);
  Append(bytes, matrix.values.data(), matrix.values.size());
  return bytes;
}

absl::StatusOr<DenseView> ViewDense(std::string_view bytes) {
  std::int64_t size = -1;
  if (bytes.size() >= sizeof(size)) std::memcpy(&size, bytes.data(), sizeof(size));
  if (size < 0 || size > kMaxSize ||
      bytes.size() != sizeof(size) + sizeof(double) * static_cast<std::size_t>(size * size)) {
    return absl::DataLossError("these bytes are no matrix");
  }
  return DenseView{static_cast<int>(size),
                   reinterpret_cast<const double*>(bytes.data() + sizeof(size))};
}

}  // namespace gemm
