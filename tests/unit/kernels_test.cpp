// Every instruction set that this machine has, against the plain form, over sizes that fill no vector and no block.
#include "core/kernels/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/base/element_type.h"
#include "core/base/parallel.h"
#include "core/base/tensor.h"
#include "core/kernels/plain.h"
#include "core/kernels/table.h"

namespace kvreplay::kernels {

extern const KernelTable wide_kernels;  // wide_kernels.cpp

namespace {

constexpr unsigned seed = 20240611;
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float guard = 12345.0F;  // written around outputs; must survive

std::vector<const KernelTable*> supported() {
  std::vector<const KernelTable*> tables = {&baseline_kernels, &wide_kernels};
#if defined(__x86_64__)
  const std::string best = active_kernels().name;
  if (best != "baseline") tables.push_back(&avx2_kernels);
  if (best == "avx512") tables.push_back(&avx512_kernels);
#endif
  return tables;
}

std::vector<float> random_floats(std::size_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (auto& v : values) v = normal(random);
  return values;
}

class KernelsAgreeWithPlain : public testing::TestWithParam<const KernelTable*> {
 protected:
  const KernelTable& table() const { return *GetParam(); }
  float* scratch() {
    if (scratch_.empty()) scratch_ = Tensor<float, 1>({static_cast<std::int64_t>(table().scratch_floats)});
    return scratch_.data();
  }
  Tensor<float, 1> scratch_;
  std::mt19937 random_{seed};
};

struct Shape {
  std::int64_t m, n, k;
};

std::vector<Shape> shapes() {
  return {{1, 1, 1},    {1, 37, 19},   {2, 64, 64},   {3, 5, 300},  {4, 16, 8},    {5, 33, 257},  {6, 16, 256},
          {7, 31, 31},  {12, 32, 128}, {13, 17, 511}, {32, 80, 64}, {61, 300, 70}, {97, 65, 300}, {100, 513, 64},
          {193, 40, 9}, {4, 4, 0},     {0, 4, 4},     {3, 0, 4},    {96, 256, 256}};
}

// Sums of k products of standard normal numbers, added in another order: each of the k additions rounds a partial sum of
// size sqrt(k) by up to 2^-24 of it, and the errors add up as a random walk, so k * 2^-24 is typical; 3 times that is rare.
// One product too many or too few would be off by about 1.
float product_tolerance(std::int64_t k) { return 2e-7F * static_cast<float>(k + 8); }

TEST_P(KernelsAgreeWithPlain, InProductsOfAnyShape) {
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  for (const auto& [m, n, k] : shapes())
    for (const bool transposed : {false, true})
      for (const bool accumulate : {false, true}) {
        const std::int64_t lda = k + 3, ldb = (transposed ? k : n) + 5, ldc = n + 2;
        const auto a = random_floats(static_cast<std::size_t>(m * lda + 1), random_);
        const auto b = random_floats(static_cast<std::size_t>((transposed ? n : k) * ldb + 1), random_);
        std::vector<float> expected(static_cast<std::size_t>(m * ldc + 1), guard);
        for (std::int64_t i = 0; i < m; ++i)
          for (std::int64_t j = 0; j < n; ++j) expected[static_cast<std::size_t>(i * ldc + j)] = 0.25F;
        auto actual = expected;
        (transposed ? plain::gemm_nt : plain::gemm_nn)(m, n, k, 0.5F, a.data(), lda, b.data(), ldb, expected.data(), ldc,
                                                       accumulate);
        table().gemm({m, n, k, 0.5F, a.data(), lda, b.data(), ldb, actual.data(), ldc, transposed, accumulate}, scratch());
        for (std::size_t i = 0; i < actual.size(); ++i)
          ASSERT_NEAR(actual[i], expected[i], product_tolerance(k))
              << m << "x" << n << "x" << k << " transposed " << transposed << " accumulate " << accumulate << " at " << i;
      }
}

TEST_P(KernelsAgreeWithPlain, InProductsWithAPackedMatrix) {
  for (const auto& [m, n, k] : shapes()) {
    if (k == 0) continue;
    const auto a = random_floats(static_cast<std::size_t>(m * k + 1), random_);
    const auto b = random_floats(static_cast<std::size_t>(n * k + 1), random_);
    Tensor<float, 1> packed({static_cast<std::int64_t>(table().packed_floats(n, k))});
    table().pack(n, k, b.data(), k, true, packed.data());
    std::vector<float> expected(static_cast<std::size_t>(m * n), 1.0F), actual = expected;
    plain::gemm_nt(m, n, k, 2.0F, a.data(), k, b.data(), k, expected.data(), n, true);
    // In two calls, as the parallel form cuts it.
    const std::int64_t first = n > 32 ? 32 : n;
    table().gemm_packed({m, first, k, 2.0F, a.data(), k, nullptr, 0, actual.data(), n, true, true}, packed.data(),
                        {n, k, 0, 0}, scratch());
    table().gemm_packed({m, n - first, k, 2.0F, a.data(), k, nullptr, 0, actual.data() + first, n, true, true},
                        packed.data(), {n, k, first, 0}, scratch());
    for (std::size_t i = 0; i < actual.size(); ++i)
      ASSERT_NEAR(actual[i], expected[i], 2 * product_tolerance(k)) << m << "x" << n << "x" << k << " at " << i;
  }
}

TEST_P(KernelsAgreeWithPlain, InProductsWithPartOfAPackedMatrix) {
  const std::int64_t m = 25, n = 70, k = 700;
  const auto a = random_floats(static_cast<std::size_t>(m * k), random_);
  const auto b = random_floats(static_cast<std::size_t>(n * k), random_);
  Tensor<float, 1> packed({static_cast<std::int64_t>(table().packed_floats(n, k))});
  table().pack(n, k, b.data(), n, false, packed.data());
  for (const auto& [first, end] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {0, k}, {0, 5}, {0, 256}, {0, 257}, {3, 4}, {255, 257}, {256, 512}, {300, 700}, {512, 699}, {10, 650}}) {
    std::vector<float> expected(static_cast<std::size_t>(m * n), 1.0F), actual = expected;
    plain::gemm_nn(m, n, end - first, 1.0F, a.data() + first, k, b.data() + first * n, n, expected.data(), n);
    table().gemm_packed({m, n, end - first, 1.0F, a.data() + first, k, nullptr, 0, actual.data(), n, true, false},
                        packed.data(), {n, k, 0, first}, scratch());
    for (std::size_t i = 0; i < actual.size(); ++i)
      ASSERT_NEAR(actual[i], expected[i], product_tolerance(end - first)) << first << " to " << end << " at " << i;
  }
}

TEST_P(KernelsAgreeWithPlain, InSumsAndElementwise) {
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  for (const std::int64_t n : {0, 1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 1001}) {
    const auto size = static_cast<std::size_t>(n);
    const auto a = random_floats(size, random_), b = random_floats(size, random_);
    EXPECT_NEAR(table().dot(a.data(), b.data(), n), plain::dot(a.data(), b.data(), n), product_tolerance(n));
    EXPECT_EQ(table().maximum(a.data(), n), plain::maximum(a.data(), n));
    EXPECT_NEAR(table().sum(a.data(), n), plain::sum(a.data(), n), 1e-12 * static_cast<double>(n + 1));
    auto x = a, y = a;
    x.push_back(guard), y.push_back(guard);
    table().scale_in_place(x.data(), n, 0.3F), plain::scale_in_place(y.data(), n, 0.3F);
    EXPECT_EQ(x, y);
    table().add_scaled(x.data(), b.data(), n, -0.7F), plain::add_scaled(y.data(), b.data(), n, -0.7F);
    for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], y[i], 1e-6F);  // one rounding less with FMA
    EXPECT_EQ(x.back(), guard);
  }
}

TEST_P(KernelsAgreeWithPlain, InMaximaThatIgnoreNaN) {
  std::vector<float> x(37, -2.0F);
  x[3] = x[36] = std::nanf("");
  x[20] = -1.0F;
  EXPECT_EQ(table().maximum(x.data(), 37), -1.0F);
  EXPECT_EQ(table().maximum(x.data(), 0), -infinity);
}

TEST_P(KernelsAgreeWithPlain, InExponentialsToTheLastBits) {
  double worst = 0;
  std::vector<float> x;
  for (double v = -86.0; v < 88.7; v += 0.00313) x.push_back(static_cast<float>(v));
  auto y = x;
  const double total = table().exponentiate(y.data(), static_cast<std::int64_t>(y.size()), 0.25F);
  double expected_total = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = std::exp(static_cast<double>(x[i] - 0.25F));
    expected_total += expected;
    worst = std::max(worst, std::abs(y[i] - expected) / expected);
  }
  EXPECT_LT(worst, 0x1p-22);
  EXPECT_NEAR(total / expected_total, 1.0, 1e-6);
}

TEST_P(KernelsAgreeWithPlain, InExponentialsOfExtremes) {
  for (const std::size_t padding : {0U, 20U}) {  // through the vector loop and through the tail
    std::vector<float> x = {-infinity, -1e30F, -200.0F, -104.0F, 0.0F, infinity, 200.0F, std::nanf(""), 88.72F, -87.5F};
    x.resize(x.size() + padding, 0.0F);
    table().exponentiate(x.data(), static_cast<std::int64_t>(x.size()), 0.0F);
    for (const std::size_t i : {0U, 1U, 2U, 3U, 9U}) EXPECT_EQ(x[i], 0.0F) << i;
    EXPECT_EQ(x[4], 1.0F);
    EXPECT_EQ(x[5], infinity);
    EXPECT_EQ(x[6], infinity);
    EXPECT_TRUE(std::isnan(x[7]));
    EXPECT_NEAR(x[8] / std::exp(static_cast<double>(88.72F)), 1.0, 1e-6);
  }
}

TEST_P(KernelsAgreeWithPlain, InSoftCaps) {
  std::vector<float> x;
  for (double v = -400; v < 400; v += 0.037) x.push_back(static_cast<float>(v));
  for (double v = 1e-6; v < 10; v *= 1.1) x.push_back(static_cast<float>(v));
  auto y = x;
  table().soft_cap(y.data(), static_cast<std::int64_t>(y.size()), 30.0F);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = 30.0 * std::tanh(static_cast<double>(x[i]) / 30.0);
    ASSERT_NEAR(y[i], expected, 4e-7 * std::abs(expected)) << x[i];
  }
}

TEST_P(KernelsAgreeWithPlain, InSquaredDistances) {
  for (const std::int64_t dim : {1, 7, 8, 24, 64, 129})
    for (const std::int64_t count : {0, 1, 3, 4, 9}) {
      const std::int64_t stride = dim + 2;
      const auto points = random_floats(static_cast<std::size_t>(count * stride + 1), random_);
      const auto center = random_floats(static_cast<std::size_t>(dim), random_);
      std::vector<float> x(static_cast<std::size_t>(count) + 1, guard), y = x;
      table().squared_distances(points.data(), count, dim, stride, center.data(), x.data());
      plain::squared_distances(points.data(), count, dim, stride, center.data(), y.data());
      for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], y[i], 1e-6F * y[i] + 1e-7F);
      EXPECT_EQ(x.back(), guard);
    }
}

// Baseline has no fast form for halves; the plain one in element_type.cpp is the reference.
TEST_P(KernelsAgreeWithPlain, InConversionsOfEveryHalf) {
  std::vector<std::uint16_t> bits(65536 + 3), back(bits.size());
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<std::uint16_t>(i);
  std::vector<float> values(bits.size());
  if (table().half_to_float != nullptr) {
    table().half_to_float(bits.data(), values.data(), bits.size());
    table().float_to_half(values.data(), back.data(), bits.size());
    for (std::size_t i = 0; i < bits.size(); ++i) {
      const unsigned quiet = (bits[i] & 0x7c00U) == 0x7c00U && (bits[i] & 0x3ffU) != 0 ? 0x200U : 0U;
      ASSERT_EQ(back[i], bits[i] | quiet) << i;
    }
    EXPECT_EQ(values[0x3c00], 1.0F);
    EXPECT_EQ(values[1], 0x1p-24F);
  }
  table().bfloat16_to_float(bits.data(), values.data(), bits.size());
  table().float_to_bfloat16(values.data(), back.data(), bits.size());
  for (std::size_t i = 0; i < bits.size(); ++i) {
    const unsigned quiet = (bits[i] & 0x7f80U) == 0x7f80U && (bits[i] & 0x7fU) != 0 ? 0x40U : 0U;
    ASSERT_EQ(back[i], bits[i] | quiet) << i;
  }
  const float ties[] = {1.00390625F, 1.01171875F, 1.004F};  // half way down to even, half way up to even, above half
  std::uint16_t rounded[3];
  table().float_to_bfloat16(ties, rounded, 3);
  EXPECT_EQ(rounded[0], 0x3f80);
  EXPECT_EQ(rounded[1], 0x3f82);
  EXPECT_EQ(rounded[2], 0x3f81);
}

INSTANTIATE_TEST_SUITE_P(EveryInstructionSet, KernelsAgreeWithPlain, testing::ValuesIn(supported()),
                         [](const auto& test) { return std::string(test.param->name); });

TEST(ParallelProducts, GiveTheSameBitsForAnyNumberOfThreads) {
  std::mt19937 random(seed);
  const std::int64_t m = 401, n = 523, k = 130;
  const auto a = random_floats(static_cast<std::size_t>(m * k), random);
  const auto b = random_floats(static_cast<std::size_t>(n * k), random);
  Tensor<float, 1> packed({static_cast<std::int64_t>(packed_floats(n, k))});
  pack(n, k, b.data(), k, packed.data());
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    std::vector<float> nt(static_cast<std::size_t>(m * n)), nn = nt, with_packed = nt;
    parallel_gemm_nt(m, n, k, 1.0F, a.data(), k, b.data(), k, nt.data(), n);
    parallel_gemm_nn(m, n, k, 1.0F, a.data(), k, b.data(), n, nn.data(), n);
    parallel_gemm_packed(m, n, k, 1.0F, a.data(), k, packed.data(), with_packed.data(), n);
    EXPECT_EQ(nt, with_packed);
    nt.insert(nt.end(), nn.begin(), nn.end());
    results.push_back(nt);
  }
  set_thread_count(0);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
  std::vector<float> expected(static_cast<std::size_t>(m * n));
  plain::gemm_nt(m, n, k, 1.0F, a.data(), k, b.data(), k, expected.data(), n);
  for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(results[0][i], expected[i], product_tolerance(k));
}

}  // namespace
}  // namespace kvreplay::kernels
