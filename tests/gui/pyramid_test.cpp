// Does a pyramid show at every zoom what is in the matrix?
#include "gui/model/pyramid.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <random>

#include "core/base/error.h"
#include "core/base/parallel.h"

namespace kvreplay::gui {
namespace {

constexpr float missing = std::numeric_limits<float>::quiet_NaN();

std::vector<float> picture(const Pyramid& pyramid, double left, double right, double top, double bottom, int width,
                           int height) {
  std::vector<float> out(static_cast<std::size_t>(width * height));
  pyramid.render(left, right, top, bottom, width, height, out.data());
  return out;
}

std::shared_ptr<StoredMatrix> random_matrix(std::int64_t rows, std::int64_t columns, unsigned seed, bool states = false) {
  std::mt19937 random(seed);
  std::vector<float> values(static_cast<std::size_t>(rows * columns));
  for (float& value : values) {
    value = static_cast<float>(random() % 1000) / 1000 - 0.3F;
    if (states) value = static_cast<float>(random() % 2);
    if (random() % 11 == 0) value = missing;
  }
  return std::make_shared<StoredMatrix>(rows, columns, std::move(values));
}

TEST(PyramidPeaks, OneAmongManyIsThereAtEveryZoom) {
  constexpr std::int64_t columns = 131072, rows = 5;
  std::mt19937 random(3);
  for (int trial = 0; trial < 20; ++trial) {
    const std::int64_t column = random() % columns, row = random() % rows;
    std::vector<float> values(rows * columns, 0.25F);
    values[static_cast<std::size_t>(row * columns + column)] = 1;
    for (const Reduction reduction : {Reduction::maximum, Reduction::magnitude}) {
      const Pyramid pyramid(std::make_shared<StoredMatrix>(rows, columns, values), reduction);
      for (double span = columns; span >= 4; span /= 1.7) {
        const double left = std::clamp<double>(static_cast<double>(column) - span * 0.3, 0, columns - span);
        const auto shown = picture(pyramid, left, left + span, 0, rows, 333, 3);
        EXPECT_EQ(*std::max_element(shown.begin(), shown.end()), 1) << "column " << column << ", visible " << span;
      }
    }
  }
}

// Every pixel shows a value of the stretch that it stands for, widened by at most half a pixel to either side, and none of
// that stretch is larger.
TEST(PyramidPeaks, EveryPixelIsTheMaximumOfItsStretch) {
  const std::int64_t columns = 5003, rows = 7;
  const auto matrix = random_matrix(rows, columns, 5);
  const Pyramid pyramid(matrix, Reduction::maximum);
  const auto maximum = [&](std::int64_t row, double from, double to) {
    float most = missing;
    const auto end = std::min<std::int64_t>(columns, static_cast<std::int64_t>(std::ceil(to)));
    for (auto i = std::max<std::int64_t>(0, static_cast<std::int64_t>(std::floor(from))); i < end; ++i) {
      const float value = pyramid.value(row, i);
      if (std::isnan(most) || value > most) most = value;
    }
    return most;
  };
  for (const auto& [left, right, width] :
       {std::tuple{0.0, 5003.0, 100}, {17.3, 4000.9, 331}, {999.0, 1400.5, 57}, {-50.0, 5200.0, 640}, {100.0, 260.0, 150}}) {
    const auto shown = picture(pyramid, left, right, 0, rows, width, rows);
    const double step = (right - left) / width;
    for (int y = 0; y < rows; ++y)
      for (int x = 0; x < width; ++x) {
        const float value = shown[static_cast<std::size_t>(y * width + x)];
        const float inner = maximum(y, left + x * step, left + (x + 1) * step);
        const float outer = maximum(y, left + (x - 0.5) * step, left + (x + 1.5) * step);
        const std::string where = std::to_string(left) + ": pixel " + std::to_string(x) + "," + std::to_string(y);
        if (left + (x + 1) * step <= 0 || left + x * step >= columns) {
          EXPECT_TRUE(std::isnan(value)) << where;
        } else if (std::isnan(value)) {
          EXPECT_TRUE(std::isnan(inner)) << where;
        } else {
          EXPECT_LE(value, outer) << where;
          if (!std::isnan(inner)) {
            EXPECT_GE(value, inner) << where;
          }
        }
      }
  }
}

TEST(PyramidPeaks, RowsThatShareAPixelAreReduced) {
  const auto matrix = random_matrix(64, 40, 9);
  const Pyramid pyramid(matrix, Reduction::maximum);
  const auto shown = picture(pyramid, 0, 40, 0, 64, 40, 16);
  for (int y = 0; y < 16; ++y)
    for (int x = 0; x < 40; ++x) {
      float most = -1;
      for (int row = 4 * y; row < 4 * y + 4; ++row) most = std::fmax(most, pyramid.value(row, x));
      EXPECT_EQ(shown[static_cast<std::size_t>(y * 40 + x)], most);
    }
}

TEST(PyramidZoom, SingleCellsAreRepeatedExactly) {
  const auto matrix = random_matrix(2, 50, 11);
  const Pyramid pyramid(matrix, Reduction::share);
  const auto shown = picture(pyramid, 10, 18, 0, 2, 80, 6);
  for (int y = 0; y < 6; ++y)
    for (int x = 0; x < 80; ++x) {
      const float expected = pyramid.value(y / 3, 10 + x / 10), value = shown[static_cast<std::size_t>(y * 80 + x)];
      EXPECT_TRUE(value == expected || (std::isnan(value) && std::isnan(expected)));
    }
}

TEST(PyramidDifferences, TheFarthestFromNoneStaysWithItsSign) {
  std::vector<float> values(4096, 0.1F);
  values[1000] = -0.5F;
  values[1001] = 0.4F;
  const Pyramid pyramid(std::make_shared<StoredMatrix>(1, 4096, values), Reduction::magnitude);
  const auto shown = picture(pyramid, 0, 4096, 0, 1, 16, 1);
  EXPECT_EQ(shown[3], -0.5F);
  EXPECT_EQ(shown[9], 0.1F);
}

TEST(PyramidShares, AreMeansThatNeverHideASingleCell) {
  constexpr std::int64_t columns = 65536;
  std::vector<float> none(columns, 0.0F), all(columns, 1.0F), half;
  for (std::int64_t i = 0; i < columns; ++i) half.push_back(static_cast<float>(i % 2));
  none[12345] = 1;
  all[54321] = 0;
  const auto whole = [&](const std::vector<float>& values, int width) {
    const Pyramid pyramid(std::make_shared<StoredMatrix>(1, columns, values), Reduction::share);
    return picture(pyramid, 0, columns, 0, 1, width, 1);
  };
  EXPECT_GT(whole(none, 1)[0], 0);
  EXPECT_LT(whole(none, 1)[0], 0.01);
  EXPECT_LT(whole(all, 1)[0], 1);
  EXPECT_GT(whole(all, 1)[0], 0.99);
  EXPECT_EQ(whole(none, 64)[40], 0);
  for (const float share : whole(half, 700)) EXPECT_NEAR(share, 0.5, 1e-4);  // whole cells of eight: exact but for rounding
  // Opposites: half of it +1, half -1, nothing 0.
  for (float& value : half) value = 2 * value - 1;
  EXPECT_NE(whole(half, 1)[0], 0);
}

TEST(PyramidShares, OfAPixelAreTheMeanOfItsCells) {
  const auto matrix = random_matrix(12, 96, 13, true);
  const Pyramid pyramid(matrix, Reduction::share);
  const auto shown = picture(pyramid, 0, 96, 0, 12, 32, 4);
  for (int y = 0; y < 4; ++y)
    for (int x = 0; x < 32; ++x) {
      // Each column is the mean of its rows, each pixel the mean of its columns.
      double total = 0;
      int columns = 0;
      for (int column = 3 * x; column < 3 * x + 3; ++column) {
        double sum = 0;
        int rows = 0;
        for (int row = 3 * y; row < 3 * y + 3; ++row) {
          const float value = pyramid.value(row, column);
          if (!std::isnan(value)) sum += value, ++rows;
        }
        if (rows > 0) total += sum / rows, ++columns;
      }
      EXPECT_NEAR(shown[static_cast<std::size_t>(y * 32 + x)], total / columns, 3e-6);  // kept 1e-6 away from 0 and 1
    }
}

// A matrix whose rows have versions.
class Versioned final : public Matrix {
 public:
  explicit Versioned(std::vector<int> versions) : versions_(std::move(versions)) {}
  std::int64_t rows() const override { return static_cast<std::int64_t>(versions_.size()); }
  std::int64_t columns() const override { return 1000; }
  void read(std::int64_t row, std::int64_t begin, std::int64_t end, float* out) const override {
    if (end - begin > 500) ++whole_rows_read;
    std::fill(out, out + (end - begin), static_cast<float>(versions_[static_cast<std::size_t>(row)]));
  }
  bool same_row(const Matrix& other, std::int64_t row) const override {
    return dynamic_cast<const Versioned&>(other).versions_[static_cast<std::size_t>(row)] ==
           versions_[static_cast<std::size_t>(row)];
  }
  mutable int whole_rows_read = 0;

 private:
  std::vector<int> versions_;
};

TEST(PyramidRows, ThatAreTheSameAreTakenOver) {
  const Pyramid old(std::make_shared<Versioned>(std::vector<int>{1, 2, 3}), Reduction::maximum);
  const auto changed = std::make_shared<Versioned>(std::vector<int>{1, 7, 3});
  const Pyramid next(changed, Reduction::maximum, &old);
  EXPECT_EQ(changed->whole_rows_read, 1);
  EXPECT_EQ(picture(next, 0, 1000, 0, 3, 1, 3), (std::vector<float>{1, 7, 3}));
  EXPECT_EQ(next.extent().high, 7);
}

// Its third row tells the others to stop.
class Stopping final : public Matrix {
 public:
  explicit Stopping(std::atomic<bool>& stop) : stop_(stop) {}
  std::int64_t rows() const override { return 9; }
  std::int64_t columns() const override { return 100; }
  void read(std::int64_t row, std::int64_t begin, std::int64_t end, float* out) const override {
    std::fill(out, out + (end - begin), 0.0F);
    if (row == 2) stop_ = true;
    if (row > 2) ADD_FAILURE() << "row " << row << " was read";
  }

 private:
  std::atomic<bool>& stop_;
};

TEST(PyramidRows, StopWhenNobodyWaits) {
  std::atomic<bool> stop{false};
  const CancelScope scope(stop);
  EXPECT_THROW(Pyramid(std::make_shared<Stopping>(stop), Reduction::maximum), Cancelled);
}

TEST(PyramidExtent, IsOfAllValues) {
  const Pyramid pyramid(std::make_shared<StoredMatrix>(2, 3, std::vector<float>{0, -2, missing, 0.5F, 0.125F, 3}),
                        Reduction::maximum);
  EXPECT_EQ(pyramid.extent().low, -2);
  EXPECT_EQ(pyramid.extent().high, 3);
  EXPECT_EQ(pyramid.extent().smallest, 0.125F);
  EXPECT_TRUE(pyramid.extent().any_missing);
  const Pyramid empty(std::make_shared<StoredMatrix>(0, 0, std::vector<float>{}), Reduction::maximum);
  EXPECT_TRUE(std::isnan(empty.extent().low));
}

}  // namespace
}  // namespace kvreplay::gui
