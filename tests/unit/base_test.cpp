// Do the small things that everything stands on hold?
#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>

#include "core/base/element_type.h"
#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/base/parameter.h"
#include "core/base/tensor.h"
#include "core/base/text.h"

namespace kvreplay {
namespace {

TEST(ElementType, EveryHalfSurvivesTheRoundTrip) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    float value = 0;
    std::uint16_t back = 0;
    to_float32(ElementType::float16, &half, &value, 1);
    from_float32(ElementType::float16, &value, &back, 1);
    if (std::isnan(value)) {
      EXPECT_EQ(back & 0x7c00, 0x7c00);
      EXPECT_NE(back & 0x3ff, 0);
    } else {
      ASSERT_EQ(back, half) << "value " << value;
    }
  }
}

TEST(ElementType, RoundsToNearestEven) {
  const float values[] = {1.0F + 0x1p-11F, 1.0F + 3 * 0x1p-11F, 65519.0F, 65520.0F, 0x1p-25F, 0x1.8p-25F, -0.0F};
  const std::uint16_t halves[] = {0x3c00, 0x3c02, 0x7bff, 0x7c00, 0x0000, 0x0001, 0x8000};
  for (std::size_t i = 0; i < std::size(values); ++i) {
    std::uint16_t half = 0;
    from_float32(ElementType::float16, &values[i], &half, 1);
    EXPECT_EQ(half, halves[i]) << values[i];
  }
}

TEST(Tensor, SlicesAlongTheFirstAxis) {
  Tensor<int, 3> t({2, 3, 4});
  int n = 0;
  for (int& x : t.flat()) x = n++;
  EXPECT_EQ(t(1, 2, 3), 23);
  EXPECT_EQ(t.view()[1](2, 0), 20);
}

TEST(Parallel, CoversEveryIndexOnceAndPassesOnFailures) {
  std::vector<std::atomic<int>> seen(1000);
  parallel_for(1000, 7, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
  });
  for (auto& count : seen) EXPECT_EQ(count, 1);
  EXPECT_THROW(parallel_for(100, 1,
                            [](std::int64_t begin, std::int64_t) {
                              if (begin == 37) throw Error("x", "y");
                            }),
               Error);
}

TEST(Parameter, RefusalNamesOwnerKeyAndWhatIsAllowed) {
  Parameter window;
  window.key = "window";
  window.minimum = 1;
  EXPECT_EQ(window.check("policy snapkv", "32"), "32");
  try {
    window.check("policy snapkv", "0");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "policy snapkv: \"0\" is not allowed for \"window\"; it takes an integer of at least 1");
  }
}

TEST(Text, NumbersAndNames) {
  EXPECT_EQ(format_number(0.3), "0.3");
  EXPECT_EQ(format_number(2000), "2000");
  EXPECT_EQ(closest("snapvk", {"snapkv", "restkv"}), "snapkv");
  EXPECT_EQ(closest("zzz", {"snapkv", "restkv"}), "");
  EXPECT_EQ(printable("a\x1b[1m\n\xff"), "a\\x1b[1m\\n\\xff");
}

}  // namespace
}  // namespace kvreplay
