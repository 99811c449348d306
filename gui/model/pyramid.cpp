#include "gui/model/pyramid.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/base/error.h"
#include "core/base/parallel.h"

namespace kvreplay::gui {
namespace {

constexpr int first_stored = 3;  // its cells stand for 2^3 columns
constexpr float nothing = std::numeric_limits<float>::quiet_NaN();

// Each takes the n-th value b to the result a of those before. Selections instead of branches: states look random to a
// branch predictor.
struct Maximum {
  static constexpr bool counts = false;
  float operator()(float a, float b, float /*n*/ = 2) const { return (b > a) | std::isnan(a) ? b : a; }
};

struct Magnitude {
  static constexpr bool counts = false;
  float operator()(float a, float b, float /*n*/ = 2) const { return (std::fabs(b) > std::fabs(a)) | std::isnan(a) ? b : a; }
};

struct Share {
  static constexpr bool counts = true;
  float operator()(float a, float b, float n = 2) const {
    constexpr float least = 1e-6F;
    const float mean = a + (b - a) / n;
    // Neither rounding nor opposites that cancel may make a mixture look like "none" or "all".
    float mixed = std::fabs(mean) < least ? least : mean;
    mixed = mixed > 1 - least ? 1 - least : mixed;
    mixed = mixed < least - 1 ? least - 1 : mixed;
    mixed = a == b ? a : mixed;
    mixed = std::isnan(b) ? a : mixed;
    return std::isnan(a) ? b : mixed;
  }
};

template <class Function>
auto with_reduction(Reduction reduction, const Function& function) {
  switch (reduction) {
    case Reduction::maximum: return function(Maximum());
    case Reduction::magnitude: return function(Magnitude());
    case Reduction::share: break;
  }
  return function(Share());
}

// out[i] = in[2i] with in[2i + 1]; an odd last one stays alone.
template <class Combine>
void halve(const float* in, std::int64_t count, float* out, const Combine& combine) {
  constexpr std::int64_t lanes = 8;  // constant, so that the compiler makes vector instructions of them
  const std::int64_t whole = count / 2 / lanes * lanes;
  for (std::int64_t begin = 0; begin < whole; begin += lanes) {
    std::array<float, lanes> halved;
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      const float* pair = in + 2 * (begin + static_cast<std::int64_t>(lane));
      halved[lane] = combine(pair[0], pair[1]);
    }
    std::copy(halved.begin(), halved.end(), out + begin);
  }
  for (std::int64_t i = whole; i < count / 2; ++i) out[i] = combine(in[2 * i], in[2 * i + 1]);
  if (count % 2 != 0) out[count / 2] = in[count - 1];
}

void count_values(const std::vector<float>& values, std::vector<float>& count) {
  for (std::size_t i = 0; i < values.size(); ++i) count[i] = std::isnan(values[i]) ? 0.0F : 1.0F;
}

// Another row into `joined`; count: how many values are in each of its cells.
template <class Combine>
void join(const float* more, std::vector<float>& joined, std::vector<float>& count, const Combine& combine) {
  for (std::size_t i = 0; i < joined.size(); ++i) {
    if (combine.counts) count[i] += std::isnan(more[i]) ? 0.0F : 1.0F;
    joined[i] = combine(joined[i], more[i], count[i]);
  }
}

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr Pyramid::Extent no_extent{infinity, -infinity, infinity, false};

Pyramid::Extent joined_extent(const Pyramid::Extent& a, const Pyramid::Extent& b) {
  return {std::min(a.low, b.low), std::max(a.high, b.high), std::min(a.smallest, b.smallest),
          a.any_missing || b.any_missing};
}

// In lanes that the compiler turns into vector instructions.
Pyramid::Extent extent_of(const float* values, std::int64_t count) {
  constexpr int lanes = 8;
  std::array<float, lanes> low, high, smallest, missing{};
  low.fill(infinity), high.fill(-infinity), smallest.fill(infinity);
  const auto take = [&](std::size_t lane, float value) {
    low[lane] = value < low[lane] ? value : low[lane];
    high[lane] = value > high[lane] ? value : high[lane];
    const float magnitude = std::fabs(value), above = magnitude > 0 ? magnitude : infinity;
    smallest[lane] = above < smallest[lane] ? above : smallest[lane];
    missing[lane] = value != value ? 1.0F : missing[lane];
  };
  const std::int64_t whole = count / lanes * lanes;
  for (std::int64_t i = 0; i < whole; i += lanes)
    for (std::size_t lane = 0; lane < lanes; ++lane) take(lane, values[i + static_cast<std::int64_t>(lane)]);
  for (std::int64_t i = whole; i < count; ++i) take(0, values[i]);
  Pyramid::Extent extent = no_extent;
  for (std::size_t lane = 0; lane < lanes; ++lane)
    extent = joined_extent(extent, {low[lane], high[lane], smallest[lane], missing[lane] > 0});
  return extent;
}

// The cells of a level under each pixel: [begin, end), at least one.
struct Stretch {
  std::int64_t begin, end;
};

std::vector<Stretch> stretches(double low, double high, int pixels, double cell, std::int64_t cells) {
  std::vector<Stretch> all(static_cast<std::size_t>(pixels));
  const double step = (high - low) / pixels;
  for (int pixel = 0; pixel < pixels; ++pixel) {
    Stretch& one = all[static_cast<std::size_t>(pixel)];
    if (step <= 1) {  // a column is wider than a pixel: the one under the pixel's middle
      const double at = low + (pixel + 0.5) * step;
      one.begin = static_cast<std::int64_t>(std::floor(at / cell));
      one.end = one.begin + 1;
    } else {
      one.begin = static_cast<std::int64_t>(std::floor((low + pixel * step) / cell));
      one.end = static_cast<std::int64_t>(std::ceil((low + (pixel + 1) * step) / cell));
    }
    one.begin = std::clamp<std::int64_t>(one.begin, 0, cells);
    one.end = std::clamp<std::int64_t>(one.end, one.begin, cells);
    if (low + (pixel + 1) * step <= 0 || one.begin >= cells) one.end = one.begin;
  }
  return all;
}

}  // namespace

StoredMatrix::StoredMatrix(std::int64_t rows, std::int64_t columns, std::vector<float> values)
    : rows_(rows), columns_(columns), values_(std::move(values)) {
  if (values_.size() != static_cast<std::size_t>(rows * columns)) throw Error("matrix", "values are not rows × columns");
}

void StoredMatrix::read(std::int64_t row, std::int64_t begin, std::int64_t end, float* out) const {
  std::copy(values_.data() + row * columns_ + begin, values_.data() + row * columns_ + end, out);
}

Pyramid::Pyramid(std::shared_ptr<const Matrix> matrix, Reduction reduction, const Pyramid* previous)
    : matrix_(std::move(matrix)), reduction_(reduction) {
  const std::int64_t block = std::int64_t{1} << first_stored;
  std::int64_t size = (columns() + block - 1) / block, begin = 0;
  while (size > 0) {
    level_begin_.push_back(begin);
    level_size_.push_back(size);
    if (size == 1) break;
    begin += size;
    size = (size + 1) / 2;
  }
  const bool comparable = previous != nullptr && previous->reduction_ == reduction_ && previous->rows() == rows() &&
                          previous->columns() == columns();
  std::vector<float> scratch;
  rows_.reserve(static_cast<std::size_t>(rows()));
  for (std::int64_t row = 0; row < rows(); ++row) {
    check_cancelled();
    const bool same = comparable && matrix_->same_row(previous->matrix(), row);
    rows_.push_back(same ? previous->rows_[static_cast<std::size_t>(row)] : make_row(row, scratch));
  }
}

std::shared_ptr<const Pyramid::Row> Pyramid::make_row(std::int64_t row, std::vector<float>& scratch) const {
  auto made = std::make_shared<Row>();
  made->extent = no_extent;
  if (columns() == 0) return made;
  // Read in pieces that stay in the cache while they are reduced.
  constexpr std::int64_t piece = 8192;
  scratch.resize(static_cast<std::size_t>(2 * piece));
  made->cells.resize(static_cast<std::size_t>(level_begin_.back() + level_size_.back()));
  with_reduction(reduction_, [&](const auto& combine) {
    for (std::int64_t begin = 0; begin < columns(); begin += piece) {
      const std::int64_t count = std::min(piece, columns() - begin);
      float* values = scratch.data();
      float* halves = scratch.data() + piece;
      matrix_->read(row, begin, begin + count, values);
      made->extent = joined_extent(made->extent, extent_of(values, count));
      std::int64_t left = count;
      for (int level = 1; level < first_stored; ++level, left = (left + 1) / 2) {
        halve(values, left, halves, combine);
        std::swap(values, halves);
      }
      halve(values, left, made->cells.data() + begin / (std::int64_t{1} << first_stored), combine);
    }
    for (std::size_t level = 1; level < level_size_.size(); ++level)
      halve(made->cells.data() + level_begin_[level - 1], level_size_[level - 1], made->cells.data() + level_begin_[level],
            combine);
  });
  return made;
}

float Pyramid::value(std::int64_t row, std::int64_t column) const {
  if (row < 0 || row >= rows() || column < 0 || column >= columns()) return nothing;
  float value = nothing;
  matrix_->read(row, column, column + 1, &value);
  return value;
}

Pyramid::Extent Pyramid::extent() const {
  Extent all = no_extent;
  for (const auto& row : rows_) all = joined_extent(all, row->extent);
  if (!(all.low <= all.high)) all.low = all.high = nothing;
  if (!std::isfinite(all.smallest)) all.smallest = nothing;
  return all;
}

const float* Pyramid::cells(std::int64_t row, int level, std::int64_t begin, std::int64_t end,
                            std::vector<float>& scratch) const {
  if (level >= first_stored)
    return rows_[static_cast<std::size_t>(row)]->cells.data() +
           level_begin_[static_cast<std::size_t>(level - first_stored)] + begin;
  scratch.resize(static_cast<std::size_t>(end - begin));
  matrix_->read(row, begin, end, scratch.data());
  return scratch.data();
}

void Pyramid::render(double left, double right, double top, double bottom, int width, int height, float* out) const {
  std::fill(out, out + static_cast<std::int64_t>(width) * height, nothing);
  if (!(left < right) || !(top < bottom) || rows() == 0 || columns() == 0) return;
  // The coarsest level of which a pixel takes two cells: then none is wider than half a pixel.
  const double columns_a_pixel = (right - left) / width;
  int level = 0;
  if (columns_a_pixel >= 2 << first_stored)
    level = std::min(first_stored + static_cast<int>(level_size_.size()) - 1,
                     static_cast<int>(std::floor(std::log2(columns_a_pixel / 2))));
  const auto cell = static_cast<double>(std::int64_t{1} << level);
  const std::int64_t size = level == 0 ? columns() : level_size_[static_cast<std::size_t>(level - first_stored)];
  const auto across = stretches(left, right, width, cell, size);
  const auto down = stretches(top, bottom, height, 1, rows());
  std::int64_t first = size, last = 0;
  for (const Stretch& one : across)
    if (one.begin < one.end) first = std::min(first, one.begin), last = std::max(last, one.end);
  if (first >= last) return;

  std::vector<float> scratch, joined(static_cast<std::size_t>(last - first)), count(joined.size());
  with_reduction(reduction_, [&](const auto& combine) {
    const float* above = nullptr;  // the line of pixels above, where it shows the same rows
    for (int y = 0; y < height; ++y) {
      const Stretch rows = down[static_cast<std::size_t>(y)];
      float* line = out + static_cast<std::int64_t>(y) * width;
      if (rows.begin >= rows.end) continue;
      const Stretch* before = y > 0 ? &down[static_cast<std::size_t>(y - 1)] : nullptr;
      if (above != nullptr && before->begin == rows.begin && before->end == rows.end) {
        std::copy(above, above + width, line);
        continue;
      }
      const float* source = cells(rows.begin, level, first, last, scratch);
      if (rows.end > rows.begin + 1) {
        std::copy(source, source + (last - first), joined.data());
        if (combine.counts) count_values(joined, count);
        for (std::int64_t row = rows.begin + 1; row < rows.end; ++row)
          join(cells(row, level, first, last, scratch), joined, count, combine);
        source = joined.data();
      }
      for (int x = 0; x < width; ++x) {
        const Stretch columns = across[static_cast<std::size_t>(x)];
        if (columns.begin >= columns.end) continue;
        float value = source[columns.begin - first];
        float n = std::isnan(value) ? 0 : 1;
        for (std::int64_t i = columns.begin + 1; i < columns.end; ++i) {
          n += std::isnan(source[i - first]) ? 0 : 1;
          value = combine(value, source[i - first], n);
        }
        line[x] = value;
      }
      above = line;
    }
  });
}

}  // namespace kvreplay::gui
