#include "core/replay/worth.h"

#include <algorithm>
#include <cmath>

#include "core/base/parallel.h"

namespace kvreplay {
namespace {

// Sums of one row over its query heads and steps.
struct RowSums {
  std::vector<double> gain;   // [T] Σ of what restoring the token takes off the squared error
  std::vector<char> evicted;  // [T] was it out of sight at any measured step?
  double error = 0;
  std::int64_t count = 0;
};

// One query: adds to the row's sums. logits [T] by position, values [T, d], evicted_at [T].
class QueryRestorations {
 public:
  QueryRestorations(const LoadedLayer& layer, const float* values) : layer_(layer), values_(values), d_(layer.head_dim) {}

  void add(std::int64_t step, const float* logits, const std::int32_t* evicted_at, RowSums& sums) {
    const std::int64_t position = layer_.prompt + step, low = layer_.first_visible(position);
    const auto kept = [&](std::int64_t i) { return evicted_at[i] < 0 || evicted_at[i] >= step + 1 || i == position; };
    const double top = *std::max_element(logits + low, logits + position + 1);
    output_.assign(static_cast<std::size_t>(d_), 0.0);
    delta_.assign(static_cast<std::size_t>(d_), 0.0);
    double full_sum = 0, kept_sum = 0;
    for (std::int64_t i = low; i <= position; ++i) {
      const double e = std::exp(logits[i] - top);
      full_sum += e;
      accumulate(e, i, output_);
      if (!kept(i)) continue;
      kept_sum += e;
      accumulate(e, i, delta_);
    }
    kept_sum = std::max(kept_sum, 1e-300);
    double output_squared = 0, delta_squared = 0;
    for (std::size_t k = 0; k < output_.size(); ++k) {
      output_[k] /= full_sum;
      delta_[k] = delta_[k] / kept_sum - output_[k];
      output_squared += output_[k] * output_[k];
      delta_squared += delta_[k] * delta_[k];
    }
    // An output of 0: the error is 0 where nothing changes, else 1, and no single token is told from another.
    const double scale = output_squared > 0 ? 1 / output_squared : 0;
    const double before = output_squared > 0 ? delta_squared * scale : delta_squared > 0 ? 1 : 0;
    sums.error += before;
    ++sums.count;
    for (std::int64_t i = low; i <= position; ++i) {
      if (kept(i)) continue;
      sums.evicted[static_cast<std::size_t>(i)] = 1;
      const auto [along, squared] = products(i);
      const double e = std::exp(logits[i] - top), sum = kept_sum + e;
      const double after = (kept_sum * kept_sum * delta_squared + 2 * kept_sum * e * along + e * e * squared) / (sum * sum);
      if (scale > 0) sums.gain[static_cast<std::size_t>(i)] += before - after * scale;
    }
  }

 private:
  void accumulate(double weight, std::int64_t i, std::vector<double>& out) const {
    const float* value = values_ + i * d_;
    for (std::size_t k = 0; k < out.size(); ++k) out[k] += weight * value[k];
  }
  // <δ, v - o> and ‖v - o‖².
  std::pair<double, double> products(std::int64_t i) const {
    const float* value = values_ + i * d_;
    double along = 0, squared = 0;
    for (std::size_t k = 0; k < output_.size(); ++k) {
      const double difference = value[k] - output_[k];
      along += delta_[k] * difference;
      squared += difference * difference;
    }
    return {along, squared};
  }

  const LoadedLayer& layer_;
  const float* values_;
  std::int64_t d_;
  std::vector<double> output_, delta_;  // o, o' - o
};

void best_of_row(const RowSums& sums, std::int64_t count, TokenWorth worth, std::vector<TokenWorth>& out) {
  std::vector<std::int64_t> tokens;
  for (std::size_t i = 0; i < sums.evicted.size(); ++i)
    if (sums.evicted[i] != 0) tokens.push_back(static_cast<std::int64_t>(i));
  const auto gain = [&](std::int64_t token) { return sums.gain[static_cast<std::size_t>(token)]; };
  const auto end = tokens.begin() + std::min<std::int64_t>(count, static_cast<std::int64_t>(tokens.size()));
  std::partial_sort(tokens.begin(), end, tokens.end(),
                    [&](std::int64_t a, std::int64_t b) { return gain(a) != gain(b) ? gain(a) > gain(b) : a < b; });
  for (auto token = tokens.begin(); token != end; ++token) {
    worth.token = *token;
    worth.error = sums.error / static_cast<double>(sums.count);
    worth.restored_error = worth.error - gain(*token) / static_cast<double>(sums.count);
    out.push_back(worth);
  }
}

}  // namespace

std::vector<TokenWorth> most_worth_restoring(LayerWorkspace& layer, TensorView<const std::int32_t, 2> evicted_at,
                                             const std::vector<bool>& measured, std::int64_t count) {
  const LoadedLayer& loaded = layer.loaded();
  const std::int64_t rows = evicted_at.dim(0), heads = loaded.num_query_heads;
  const auto values = layer.trace().read(layer.layer(), LayerDataset::value);
  std::vector<RowSums> sums(static_cast<std::size_t>(rows));
  const auto tokens = static_cast<std::size_t>(layer.tokens());
  for (auto& row : sums) row.gain.assign(tokens, 0.0), row.evicted.assign(tokens, 0);
  const auto add_row = [&](std::int64_t row) {
    // Query heads one after the other: their sums meet in one row, and the order of additions stays the same.
    for (std::int64_t head = row * heads / rows; head < (row + 1) * heads / rows; ++head) {
      const Tensor<float, 2> logits = layer.backend().decode_logits(loaded, static_cast<int>(head));
      QueryRestorations query(loaded, values.data() + head / loaded.group() * layer.tokens() * loaded.head_dim);
      for (std::int64_t step = 0; step < loaded.steps(); ++step) {
        if (!measured.empty() && !measured[static_cast<std::size_t>(step)]) continue;
        if (std::isnan(logits(step, layer.prompt() + step))) continue;  // the query was not recorded
        query.add(step, &logits(step, 0), evicted_at[row].data(), sums[static_cast<std::size_t>(row)]);
      }
    }
  };
  parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) add_row(row);
  });
  std::vector<TokenWorth> out;
  for (std::int64_t row = 0; row < rows; ++row)
    best_of_row(sums[static_cast<std::size_t>(row)], count, {layer.layer(), row, 0, 0, 0}, out);
  return out;
}

}  // namespace kvreplay
