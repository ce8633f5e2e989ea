// gemm: products equal those of three nested loops.

#include <gmock/gmock.h>

#include <fstream>
#include <map>
#include <sstream>

#include "fmt/format.h"
#include "gemm/matrix.h"
#include "tests/examples/examples_run.h"

namespace {

using apta::test::ExampleTest;
using apta::test::ExpectCounts;
using apta::test::Slurp;
using gemm::Dense;

class GemmTest : public ExampleTest {};

std::vector<double> MultiplyNaively(const Dense& a, const Dense& b) {
  const auto n = static_cast<std::size_t>(a.size);
  std::vector<double> product(n * n);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      for (std::size_t k = 0; k < n; ++k) {
        product[i * n + j] += a.values[i * n + k] * b.values[k * n + j];
      }
    }
  }
  return product;
}

// An independent reading of the lines.
Dense ReadMatrix(const std::string& lines, char name, int size) {
  Dense matrix(size);
  std::istringstream stream(lines);
  for (std::string line; std::getline(stream, line);) {
    int row, column, value;
    if (line[0] == name && std::sscanf(line.c_str() + 1, ",%d,%d,%d", &row, &column, &value) == 3) {
      matrix.values[static_cast<std::size_t>(row * size + column)] = value;
    }
  }
  return matrix;
}

TEST(GemmMatrixTest, SumsOfAllSlicesEqualTheNaiveProduct) {
  for (const int size : {1, 2, 7, 65, 100}) {
    for (const int percent : {0, 10, 100}) {
      const std::string lines = gemm::MakeFactors(3, size, percent);
      const auto factors = gemm::ParseFactors(lines);
      ASSERT_TRUE(factors.ok()) << factors.status();
      ASSERT_EQ(factors->size, size);
      const std::vector<double> naive =
          MultiplyNaively(ReadMatrix(lines, 'A', size), ReadMatrix(lines, 'B', size));
      for (const int parts : {1, 2, 3}) {
        std::vector<double> sparse(naive.size());
        std::vector<double> blocked(naive.size());
        for (const gemm::Slice& cut : gemm::CutSlices(*factors, parts)) {
          const auto slice = gemm::UnpackSlice(gemm::Pack(cut));
          ASSERT_TRUE(slice.ok()) << slice.status();
          const Dense one = gemm::MultiplySparse(*slice);
          const Dense two = gemm::MultiplyBlocked(*slice, /*block=*/16);
          for (std::size_t i = 0; i < naive.size(); ++i) {
            sparse[i] += one.values[i];
            blocked[i] += two.values[i];
          }
        }
        EXPECT_EQ(sparse, naive) << size << " rows, " << percent << " %, " << parts << " parts";
        EXPECT_EQ(blocked, naive) << size << " rows, " << percent << " %, " << parts << " parts";
      }
    }
  }
}

TEST(GemmMatrixTest, LinesInAnyOrderAndOnesThatAreNone) {
  const auto factors = gemm::ParseFactors("B,1,0,2\r\nA,1,1,3\n\nA,0,1,-1.5");
  ASSERT_TRUE(factors.ok()) << factors.status();
  EXPECT_EQ(factors->size, 2);
  EXPECT_THAT(factors->a, ::testing::ElementsAre(gemm::Entry{0, 1, -1.5}, gemm::Entry{1, 1, 3}));
  for (const char* line : {"C,1,1,1", "A,1,1", "A,-1,0,1", "A,1,1,1,1", "A,1,x,1", "A",
                           "A,99999999,0,1", "A,1,1,1 "}) {
    const auto refused = gemm::ParseFactors(std::string("A,0,0,1\n") + line);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_THAT(std::string(refused.status().message()), ::testing::HasSubstr("line 2"));
  }
}

TEST(GemmMatrixTest, GarbledBytesAreRefused) {
  const gemm::Slice slice{.size = 2, .begin = 0, .end = 1, .a = {{1, 0, 2}}, .b = {{0, 1, 3}}};
  const std::string packed = gemm::Pack(slice);
  ASSERT_TRUE(gemm::UnpackSlice(packed).ok());
  for (std::size_t size = 0; size < packed.size(); ++size) {
    EXPECT_FALSE(gemm::UnpackSlice(packed.substr(0, size)).ok()) << size;
  }
  gemm::Slice outside = slice;
  outside.a[0].row = 2;
  EXPECT_FALSE(gemm::UnpackSlice(gemm::Pack(outside)).ok());
  outside = slice;
  outside.b[0].row = 1;
  EXPECT_FALSE(gemm::UnpackSlice(gemm::Pack(outside)).ok());
  const std::string matrix = gemm::Pack(Dense(3));
  EXPECT_TRUE(gemm::ViewDense(matrix).ok());
  EXPECT_FALSE(gemm::ViewDense(matrix.substr(1)).ok());
  EXPECT_FALSE(gemm::ViewDense("").ok());
}

// C,row,column,value lines against the naive product.
void ExpectProduct(const std::string& csv, const std::string& factors, int size) {
  const std::vector<double> naive =
      MultiplyNaively(ReadMatrix(factors, 'A', size), ReadMatrix(factors, 'B', size));
  EXPECT_EQ(ReadMatrix(csv, 'C', size).values, naive);
}

TEST_F(GemmTest, SparseProductEqualsTheNaiveOne) {
  const auto measured = Run({"gemm", "--pinned"});
  // One miss more than the paper: each reducer reads the other node's product.
  ExpectCounts(measured, {3, 4}, {6, 0}, "c1 (c1 c2) c1 (c1 c2)");
  ExpectProduct(Slurp(folder() / "product.csv"), gemm::MakeFactors(42, 200, 25), 200);
}

TEST_F(GemmTest, DenseProductEqualsTheNaiveOne) {
  Run({"gemm", "--variant", "dense"});
  ExpectProduct(Slurp(folder() / "product.csv"), gemm::MakeFactors(42, 200, 25), 200);
}

}  // namespace
