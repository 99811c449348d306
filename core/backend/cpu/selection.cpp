// Exact, tie-stable selection. Scores become integers that sort the same way, with the position in the low bits, so that
// a plain integer selection settles ties.
#include <algorithm>
#include <array>

#include "core/backend/cpu/cpu_backend.h"
#include "core/base/parallel.h"

namespace kvreplay {
namespace {

// The threshold key such that exactly `count` keys are larger or equal: keys are distinct.
std::uint64_t kth_largest(std::vector<std::uint64_t>& keys, std::int64_t count) {
  const auto at = keys.begin() + (count - 1);
  std::nth_element(keys.begin(), at, keys.end(), std::greater<>());
  return *at;
}

// The count-th largest of `keys`, by the histogram of their upper bits: only the keys of one bin are compared.
class KeySelector {
 public:
  std::uint32_t kth_largest(const std::vector<std::uint32_t>& keys, std::int64_t count) {
    histogram_.fill(0);
    for (const std::uint32_t key : keys) ++histogram_[key >> shift];
    std::size_t bin = histogram_.size() - 1;
    while (histogram_[bin] < count) count -= histogram_[bin--];
    inside_.clear();
    for (const std::uint32_t key : keys)
      if (key >> shift == bin) inside_.push_back(key);
    const auto at = inside_.begin() + (count - 1);
    std::nth_element(inside_.begin(), at, inside_.end(), std::greater<>());
    return *at;
  }

 private:
  static constexpr int shift = 19;
  std::array<std::int64_t, std::size_t{1} << (32 - shift)> histogram_{};  // sign, exponent and 4 bits of the mantissa
  std::vector<std::uint32_t> inside_;
};

}  // namespace

std::vector<std::vector<std::int32_t>> CpuBackend::select_top(const Array& scores, const std::vector<std::int64_t>& count) {
  const std::int64_t heads = scores.dim(0), m = scores.dim(1);
  std::vector<std::vector<std::int32_t>> kept(static_cast<std::size_t>(heads));
  parallel_for(heads, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::uint64_t> keys(static_cast<std::size_t>(m));
    for (std::int64_t h = begin; h < end; ++h) {
      auto& out = kept[static_cast<std::size_t>(h)];
      const std::int64_t n = std::min(count[static_cast<std::size_t>(h)], m);
      if (n <= 0) continue;
      const float* row = host_data(scores) + h * m;
      const auto key = [&](std::int64_t i) {
        return static_cast<std::uint64_t>(order_key(row[i])) << 32 | (0xffffffffU - static_cast<std::uint32_t>(i));
      };
      for (std::int64_t i = 0; i < m; ++i) keys[static_cast<std::size_t>(i)] = key(i);
      const std::uint64_t threshold = kth_largest(keys, n);
      out.reserve(static_cast<std::size_t>(n));
      for (std::int64_t i = 0; i < m; ++i)
        if (key(i) >= threshold) out.push_back(static_cast<std::int32_t>(i));
    }
  });
  return kept;
}

std::vector<std::vector<double>> CpuBackend::mean_top_column(const Array& rows, std::int64_t count, Ties ties) {
  const std::int64_t heads = rows.dim(0), w = rows.dim(1), n = rows.dim(2);
  count = std::min(count, n);
  std::vector<std::vector<double>> mean(static_cast<std::size_t>(heads),
                                        std::vector<double>(static_cast<std::size_t>(w), 0.0));
  if (count <= 0) return mean;
  parallel_for(heads * w, 8, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::uint32_t> keys(static_cast<std::size_t>(n));
    KeySelector selector;
    for (std::int64_t r = begin; r < end; ++r) {
      const float* row = host_data(rows) + r * n;
      std::transform(row, row + n, keys.begin(), order_key);
      const std::uint32_t threshold = selector.kth_largest(keys, count);
      std::int64_t above = 0, total = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        const bool larger = keys[static_cast<std::size_t>(i)] > threshold;
        above += larger ? 1 : 0;
        total += larger ? i : 0;
      }
      std::int64_t left = count - above;  // taken from those that equal the threshold
      const std::int64_t step = ties == Ties::lowest ? 1 : -1;
      for (std::int64_t i = ties == Ties::lowest ? 0 : n - 1; left > 0; i += step)
        if (keys[static_cast<std::size_t>(i)] == threshold) {
          total += i;
          --left;
        }
      mean[static_cast<std::size_t>(r / w)][static_cast<std::size_t>(r % w)] =
          static_cast<double>(total) / static_cast<double>(count);
    }
  });
  return mean;
}

}  // namespace kvreplay
