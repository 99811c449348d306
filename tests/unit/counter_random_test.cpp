// Are the numbers of the counter-based generator what they claim to be, wherever they are asked for?
#include "core/policy/stages/counter_random.h"

#include <gtest/gtest.h>

#include <cmath>

namespace kvreplay {
namespace {

constexpr int count = 40000;

TEST(CounterRandom, UniformNumbersFillTheUnitInterval) {
  double total = 0;
  int low = 0;
  for (int i = 0; i < count; ++i) {
    const double x = random_uniform(1, 2, 3, static_cast<std::uint64_t>(i));
    ASSERT_GE(x, 0);
    ASSERT_LT(x, 1);
    total += x;
    low += x < 0.1 ? 1 : 0;
  }
  // Five deviations of the mean and of the share.
  EXPECT_NEAR(total / count, 0.5, 5 * std::sqrt(1.0 / 12 / count));
  EXPECT_NEAR(static_cast<double>(low) / count, 0.1, 5 * std::sqrt(0.09 / count));
}

TEST(CounterRandom, NormalNumbersHaveTheirMoments) {
  double sum = 0, squares = 0, fourth = 0, neighbours = 0, before = 0;
  for (int i = 0; i < count; ++i) {
    const double x = random_normal(1, 2, 3, static_cast<std::uint64_t>(i));
    sum += x;
    squares += x * x;
    fourth += x * x * x * x;
    neighbours += x * before;
    before = x;
  }
  EXPECT_NEAR(sum / count, 0, 5 / std::sqrt(count));
  EXPECT_NEAR(squares / count, 1, 5 * std::sqrt(2.0 / count));
  EXPECT_NEAR(fourth / count, 3, 5 * std::sqrt(96.0 / count));
  EXPECT_NEAR(neighbours / count, 0, 5 / std::sqrt(count));
}

TEST(CounterRandom, EveryPartOfTheCounterMatters) {
  const auto reference = random_number(1, 2, 3, 4);
  EXPECT_EQ(random_number(1, 2, 3, 4), reference);
  EXPECT_NE(random_number(2, 2, 3, 4), reference);
  EXPECT_NE(random_number(1, 3, 3, 4), reference);
  EXPECT_NE(random_number(1, 2, 4, 4), reference);
  EXPECT_NE(random_number(1, 2, 3, 5), reference);
  EXPECT_NE(random_number(2, 1, 3, 4), reference) << "seed and layer are not interchangeable";
}

}  // namespace
}  // namespace kvreplay
