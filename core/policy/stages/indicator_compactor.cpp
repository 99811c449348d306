#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

#include "core/base/parallel.h"
#include "core/base/text.h"
#include "core/policy/stages/host_tensors.h"
#include "core/policy/stages/indicators_before_rope.h"
#include "core/policy/stages/kvpress.h"

namespace kvreplay {
namespace {

// Logits of the keys that fill up the last chunk: meant to be -1e9, so that they vanish.
constexpr double padding_logit = -1e-9;

TensorView<const float, 2> rows_of(TensorView<const float, 2> head, std::int64_t first, std::int64_t count) {
  return {head.data() + first * head.dim(1), {count, head.dim(1)}};
}

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Floats = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Matrix as_matrix(TensorView<const float, 2> rows, std::int64_t first, std::int64_t count) {
  return Eigen::Map<const Floats>(rows.data() + first * rows.dim(1), count, rows.dim(1)).cast<double>();
}

// Adds to sums [count] what the keys receive from the queries of their own chunk, every query over every key of the chunk.
// The last chunk is filled up with queries and keys that take part (padding_logit).
void add_chunk_attention(TensorView<const float, 2> queries, TensorView<const float, 2> keys, std::int64_t chunk,
                         double weight, std::span<double> sums) {
  const std::int64_t count = keys.dim(0);
  std::vector<double> row(static_cast<std::size_t>(chunk));
  for (std::int64_t begin = 0; begin < count; begin += chunk) {
    const std::int64_t real = std::min(chunk, count - begin);
    const Matrix logits = as_matrix(queries, begin, real) * as_matrix(keys, begin, real).transpose();
    for (std::int64_t i = 0; i < real; ++i) {
      std::fill(row.begin(), row.end(), padding_logit);
      std::copy_n(logits.data() + i * real, real, row.begin());
      const double top = *std::max_element(row.begin(), row.end());
      double total = 0;
      for (double& x : row) total += x = std::exp(x - top);
      for (std::int64_t j = 0; j < real; ++j)
        sums[static_cast<std::size_t>(begin + j)] += weight * row[static_cast<std::size_t>(j)] / total;
    }
    // A query of zeros has the logit 0 with the real keys.
    const double beside = static_cast<double>(chunk - real);
    const double uniform = 1 / (static_cast<double>(real) + beside * std::exp(padding_logit));
    for (std::int64_t j = 0; j < real; ++j) sums[static_cast<std::size_t>(begin + j)] += weight * beside * uniform;
  }
}

class CompactorIndicator final : public Indicator {
 public:
  explicit CompactorIndicator(CompactorSettings settings) : settings_(std::move(settings)) {}

  std::string key(std::int64_t budget) const override {
    return "compactor:" + std::to_string(settings_.sinks_start) + "," + std::to_string(settings_.sinks_end) + "," +
           std::to_string(settings_.chunk) + "," + std::to_string(settings_.sketch.columns) + "," +
           std::to_string(settings_.sketch.seed) + "," + settings_.sketch.policy + "," +
           (settings_.blending ? format_number(*settings_.blending) : "budget " + std::to_string(budget));
  }

  Array score(LayerWorkspace& layer, std::int64_t budget) const override {
    const std::int64_t n = layer.candidates(), first = std::min<std::int64_t>(settings_.sinks_start, n);
    const std::int64_t last = std::min<std::int64_t>(settings_.sinks_end, n - first), count = n - first - last;
    Tensor<double, 2> scores({layer.loaded().num_kv_heads, count}, 0.0);
    if (count > 0) {
      scores = chunk_attention(layer, first, count);
      const Tensor<double, 2> leverage = leverages(layer, first, count);
      const double blending = settings_.blending.value_or(kvpress_ratio(n, budget));
      for (std::int64_t i = 0; i < scores.size(); ++i) scores.data()[i] += blending * leverage.data()[i];
    }
    return with_forced_ends(layer, upload_scores(layer, scores), first, last, 0);
  }

 private:
  Tensor<double, 2> leverages(LayerWorkspace& layer, std::int64_t first, std::int64_t count) const {
    const Tensor<float, 3>& keys = candidate_keys(layer);
    const Tensor<double, 3> sketch = sketch_of(layer, settings_.sketch);
    prepare_before_rope(layer);
    Tensor<double, 2> scores({keys.dim(0), count});
    parallel_for(keys.dim(0), 1, [&](std::int64_t h, std::int64_t) {
      const Tensor<double, 2> key = before_rope(layer, keys.view()[h], h);
      const TensorView<const double, 2> rows(&key(first, 0), {count, key.dim(1)});
      const auto head = leverage_scores(rows, sketch.view()[h]);
      std::copy(head.begin(), head.end(), scores.view()[h].data());
    });
    standardize(scores);
    return scores;
  }

  Tensor<double, 2> chunk_attention(LayerWorkspace& layer, std::int64_t first, std::int64_t count) const {
    const Tensor<float, 3>&queries = candidate_queries(layer), &keys = candidate_keys(layer),
                        &values = candidate_values(layer);
    const int group = layer.loaded().group();
    Tensor<double, 2> scores({keys.dim(0), count}, 0.0);
    parallel_for(keys.dim(0), 1, [&](std::int64_t h, std::int64_t) {
      std::vector<double> sums(static_cast<std::size_t>(count), 0.0);
      for (std::int64_t q = h * group; q < (h + 1) * group; ++q)
        add_chunk_attention(rows_of(queries.view()[q], first, count), rows_of(keys.view()[h], first, count), settings_.chunk,
                            1.0 / group, sums);
      for (std::size_t j = 0; j < sums.size(); ++j)
        sums[j] *= length_of(values.view()[h][first + static_cast<std::int64_t>(j)].flat());
      for (std::int64_t j = 0; j < count; ++j)  // average of three, zeros beside the ends
        for (std::int64_t i = std::max<std::int64_t>(0, j - 1); i <= std::min(count - 1, j + 1); ++i)
          scores(h, j) += sums[static_cast<std::size_t>(i)] / 3;
    });
    standardize(scores);
    return scores;
  }

  CompactorSettings settings_;
};

}  // namespace

std::unique_ptr<Indicator> compactor_indicator(CompactorSettings settings) {
  return std::make_unique<CompactorIndicator>(std::move(settings));
}

}  // namespace kvreplay
