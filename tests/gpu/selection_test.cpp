// Reductions, pooling and selection on given numbers: exact where the operation is, else within a few roundings.
#include <algorithm>
#include <limits>

#include "tests/gpu/comparison.h"

namespace kvreplay::gpu_test {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();

class Numbers : public GpuTest {};
class Pooling : public GpuTest {};
class Selection : public GpuTest {};

// The same numbers in both backends.
struct Pair {
  Pair(std::vector<std::int64_t> shape, const std::vector<float>& values)
      : want(reference_backend().upload(shape, values)), got(tested().upload(shape, values)) {}
  Array want, got;
};

std::vector<float> of(Backend& backend, const Array& array) { return backend.download(array); }

// |x| summed along groups of numbers, for tolerances of sums: float32 results of float64 sums on the CPU, of any order on
// the device.
constexpr double sum_rounding = 4e-7;

TEST_F(Numbers, ComeBackAsTheyWereUploaded) {
  for (const std::int64_t n : {1, 3, 1000, 70001}) {
    auto values = random_values(2 * n, 3);
    values[0] = nan;
    values[1] = -0.0F;
    const Pair pair({2, n}, values);
    const auto back = of(tested(), pair.got);
    ASSERT_EQ(back.size(), values.size());
    EXPECT_TRUE(std::isnan(back[0]));
    EXPECT_TRUE(std::signbit(back[1]));
    expect_same("upload", back, values);
    EXPECT_EQ(pair.got.shape(), (std::vector<std::int64_t>{2, n}));
  }
}

TEST_F(Numbers, ReduceRowsIsTheReferences) {
  for (const auto& [heads, window, n] : {std::tuple{1, 1, 1}, {3, 8, 77}, {8, 32, 2049}, {2, 33, 5000}}) {
    auto values = random_values(std::int64_t{heads} * window * n, 7);
    const auto weights64 = random_values(window, 8);
    std::vector<double> weights(weights64.begin(), weights64.end());
    if (window > 1) weights[1] = 0;  // skipped rows must not spread what they hold
    if (window > 1) values[static_cast<std::size_t>(n)] = infinity;
    const Pair pair({heads, window, n}, values);
    const auto want = of(reference_backend(), reference_backend().reduce_rows(pair.want, weights));
    expect_close("reduce_rows", std::to_string(n), of(tested(), tested().reduce_rows(pair.got, weights)), want,
                 [&](std::size_t i) {
                   double magnitude = 0;
                   const auto h = static_cast<std::int64_t>(i) / n, c = static_cast<std::int64_t>(i) % n;
                   for (int w = 0; w < window; ++w)
                     if (weights[static_cast<std::size_t>(w)] != 0)
                       magnitude += std::abs(weights[static_cast<std::size_t>(w)] *
                                             values[static_cast<std::size_t>((h * window + w) * n + c)]);
                   return sum_rounding * magnitude;
                 });
  }
}

TEST_F(Numbers, ReduceGroupIsTheReferencesAndKeepsNan) {
  for (const int group : {1, 2, 4, 7})
    for (const bool rows : {false, true})
      for (const Reduction how : {Reduction::mean, Reduction::max, Reduction::sum}) {
        const std::int64_t n = 531, window = rows ? 5 : 1, heads = 3 * group;
        auto values = random_values(heads * window * n, 11);
        values[5] = nan;
        values[9] = infinity;
        values[12] = -infinity;
        values[static_cast<std::size_t>(window * n) + 14] = nan;
        const Pair pair(rows ? std::vector<std::int64_t>{heads, window, n} : std::vector<std::int64_t>{heads, n}, values);
        const Array cpu = reference_backend().reduce_group(pair.want, group, how),
                    gpu = tested().reduce_group(pair.got, group, how);
        EXPECT_EQ(gpu.shape(), cpu.shape());
        // A largest is one of the numbers; a mean or a sum of up to 7 rounds.
        expect_close("reduce_group", "group of " + std::to_string(group), of(tested(), gpu), of(reference_backend(), cpu),
                     [&](std::size_t) { return how == Reduction::max ? 0.0 : sum_rounding * 7 * 4; });
      }
}

TEST_F(Numbers, MultiplyRepeatsFactorsOverTheGroup) {
  const std::int64_t n = 333;
  auto values = random_values(6 * n, 13);
  values[4] = infinity;
  const auto factors = random_values(2 * n, 14);
  for (const std::int64_t heads : {2, 6}) {
    const Pair scores({heads, n}, {values.begin(), values.begin() + heads * n}), factor({2, n}, factors);
    const auto want = of(reference_backend(), reference_backend().multiply(scores.want, factor.want, 0.37));
    expect_close("multiply", "", of(tested(), tested().multiply(scores.got, factor.got, 0.37)), want,
                 [&](std::size_t i) { return 0x1p-22 * std::abs(want[i]); });  // two products, rounded once or twice
  }
}

TEST_F(Numbers, PrefixCutsEveryHead) {
  const Pair pair({3, 100}, random_values(300, 15));
  for (const std::int64_t columns : {1, 33, 99, 100}) {
    const Array got = tested().prefix(pair.got, columns);
    EXPECT_EQ(got.shape(), (std::vector<std::int64_t>{3, columns}));
    expect_same("prefix", of(tested(), got), of(reference_backend(), reference_backend().prefix(pair.want, columns)));
  }
}

// ---- pooling -------------------------------------------------------------------------------------------------------------

TEST_F(Pooling, AveragesAreTheReferencesWithEveryKernelShiftAndPadding) {
  for (const std::int64_t n : {1, 5, 1000, 3001})
    for (const int kernel : {1, 2, 5, 7, 63, 500})
      for (const int shift : {0, 1, -3, 40})
        for (const Padding padding : {Padding::zero, Padding::replicate}) {
          auto values = random_values(3 * n, 17);
          for (float& x : values) x = std::abs(x);  // scores; so the magnitude of a sum is the sum
          if (n > 900) values[400] = infinity;
          if (n > 900) values[1400] = nan;
          // A kernel and a shift of its own for each head.
          const std::vector<int> kernels = {kernel, 1, kernel + 2}, shifts = {shift, 0, -shift};
          const Pair pair({3, n}, values);
          const auto want = of(reference_backend(), reference_backend().average_pool(pair.want, kernels, shifts, padding));
          // An infinity or a NaN reaches its own columns and no others: elements are compared one by one.
          expect_close("average_pool", "n " + std::to_string(n) + ", kernel " + std::to_string(kernel),
                       of(tested(), tested().average_pool(pair.got, kernels, shifts, padding)), want,
                       [&](std::size_t i) { return 1e-6 * std::abs(want[i]) + 1e-12; });
        }
}

TEST_F(Pooling, LargestAreExactAndKeepNan) {
  for (const std::int64_t n : {1, 6, 1000, 3001})
    for (const int kernel : {1, 3, 7, 129}) {
      auto values = random_values(2 * n, 19);
      if (n > 900) values[300] = nan;
      if (n > 900) values[777] = infinity;
      const Pair pair({2, n}, values);
      expect_same("max_pool", of(tested(), tested().max_pool(pair.got, kernel)),
                  of(reference_backend(), reference_backend().max_pool(pair.want, kernel)));
    }
}

// ---- selection -----------------------------------------------------------------------------------------------------------

// Rows that a selection can get wrong: all equal, few different values, both zeros, NaN, infinities, denormals, sorted both
// ways, and values that differ in their last bit alone.
std::vector<std::vector<float>> hard_rows(std::int64_t n) {
  const auto size = static_cast<std::size_t>(n);
  std::vector<std::vector<float>> rows = {std::vector<float>(size, 1.5F), std::vector<float>(size, 0.0F),
                                          std::vector<float>(size, nan), std::vector<float>(size, -infinity)};
  std::mt19937 random(23);
  const auto fill = [&](const auto& number) {
    std::vector<float> row(size);
    for (std::size_t i = 0; i < size; ++i) row[i] = number(i);
    rows.push_back(std::move(row));
  };
  fill([&](std::size_t) { return static_cast<float>(random() % 3); });
  fill([&](std::size_t) { return random() % 2 == 0 ? 0.0F : -0.0F; });
  fill([&](std::size_t) {
    const std::array<float, 8> choice = {nan, infinity, -infinity, 0.0F, -0.0F, 1e-42F, -1e-42F, 1.0F};
    return choice[random() % choice.size()];
  });
  fill([&](std::size_t i) { return static_cast<float>(i); });
  fill([&](std::size_t i) { return -static_cast<float>(i); });
  fill([&](std::size_t) { return std::nextafter(1.0F, random() % 2 == 0 ? 2.0F : 0.0F); });
  fill([&](std::size_t i) { return i % 1000 == 7 ? -nan : static_cast<float>(random() % 1000) * 1e-3F; });
  const auto normal = random_values(n, 29);
  fill([&](std::size_t i) { return normal[i]; });
  fill([&](std::size_t i) { return std::exp(20 * normal[i]); });
  return rows;
}

std::vector<float> joined(const std::vector<std::vector<float>>& rows) {
  std::vector<float> all;
  for (const auto& row : rows) all.insert(all.end(), row.begin(), row.end());
  return all;
}

TEST_F(Selection, IsIdenticalOnIdenticalScores) {
  for (const std::int64_t n : {1, 2, 31, 32, 33, 255, 1024, 4097, 40000}) {
    const auto rows = hard_rows(n);
    const auto heads = static_cast<std::int64_t>(rows.size());
    const Pair pair({heads, n}, joined(rows));
    for (const std::int64_t count : {std::int64_t{0}, std::int64_t{1}, n / 2, n - 1, n, n + 7}) {
      std::vector<std::int64_t> counts(rows.size(), count);
      EXPECT_EQ(tested().select_top(pair.got, counts), reference_backend().select_top(pair.want, counts))
          << "n " << n << ", count " << count;
    }
    // A count of its own for each head, as policies with budgets for heads ask for.
    std::vector<std::int64_t> counts;
    for (std::int64_t h = 0; h < heads; ++h) counts.push_back(h * n / heads);
    EXPECT_EQ(tested().select_top(pair.got, counts), reference_backend().select_top(pair.want, counts)) << "n " << n;
  }
}

TEST_F(Selection, OfManyHeads) {
  const std::int64_t heads = 300, n = 700;
  auto values = random_values(heads * n, 31);
  for (float& x : values) x = std::round(x * 8) / 8;  // ties in every row
  const Pair pair({heads, n}, values);
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(heads), 123);
  EXPECT_EQ(tested().select_top(pair.got, counts), reference_backend().select_top(pair.want, counts));
}

TEST_F(Selection, MeanTopColumnIsIdenticalOnIdenticalRows) {
  for (const std::int64_t n : {1, 2, 33, 1024, 4097, 40000}) {
    const auto rows = hard_rows(n);
    const auto count_of_rows = static_cast<std::int64_t>(rows.size());
    const Pair pair({1, count_of_rows, n}, joined(rows));
    for (const std::int64_t count : {std::int64_t{0}, std::int64_t{1}, n / 3, n - 1, n, n + 5})
      for (const Ties ties : {Ties::lowest, Ties::highest})
        // Sums of whole numbers, divided once: equal to the last bit.
        EXPECT_EQ(tested().mean_top_column(pair.got, count, ties),
                  reference_backend().mean_top_column(pair.want, count, ties))
            << "n " << n << ", count " << count;
  }
}

// Arrays are shared and never change: what was made from one does not depend on what is done with it later.
TEST_F(Selection, LeavesItsScoresAlone) {
  const auto values = random_values(2000, 37);
  const Pair pair({2, 1000}, values);
  tested().select_top(pair.got, {10, 20});
  tested().max_pool(pair.got, 5);
  tested().average_pool(pair.got, {5, 7}, {0, 1}, Padding::replicate);
  expect_same("scores after use", of(tested(), pair.got), values);
}

}  // namespace
}  // namespace kvreplay::gpu_test
