#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

#include "core/base/parallel.h"
#include "core/base/text.h"
#include "core/policy/stages/host_tensors.h"
#include "core/policy/stages/indicators_before_rope.h"
#include "core/policy/stages/kvpress.h"
#include "core/trace/rope.h"

namespace kvreplay {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Vector = Eigen::VectorXd;

Matrix to_matrix(TensorView<const float, 2> rows, std::int64_t first) {
  Matrix out(rows.dim(0) - first, rows.dim(1));
  std::copy(rows.flat().begin() + first * rows.dim(1), rows.flat().end(), out.data());
  return out;
}

class ExpectedAttentionIndicator final : public Indicator {
 public:
  explicit ExpectedAttentionIndicator(ExpectedAttentionSettings settings) : settings_(settings) {}

  std::string key(std::int64_t) const override {
    return "expected_attention:" + std::to_string(settings_.future) + "," + std::to_string(settings_.sinks) +
           (settings_.covariance ? ",covariance" : "") + (settings_.value_norm ? ",norm" : "") + "," +
           format_number(settings_.epsilon);
  }

  Array score(LayerWorkspace& layer, std::int64_t) const override {
    const std::int64_t n = layer.candidates(), sinks = std::min<std::int64_t>(settings_.sinks, n), rest = n - sinks;
    const std::int64_t heads = layer.loaded().num_kv_heads;
    Tensor<double, 2> scores({heads, rest}, 0.0);
    if (rest > 0) {
      add_attention(layer, sinks, scores);
      if (settings_.value_norm) multiply_by_value_norms(layer, sinks, scores);
    }
    return with_forced_ends(layer, upload_scores(layer, scores), sinks, 0);
  }

 private:
  // The mean over each group of what its query heads are expected to attend to.
  void add_attention(LayerWorkspace& layer, std::int64_t sinks, Tensor<double, 2>& scores) const {
    const int group = layer.loaded().group();
    const Tensor<float, 3>&queries = candidate_queries(layer), &keys = candidate_keys(layer);
    const std::int64_t next = layer.trace().text_position(0, layer.prompt() - 1) + 1;
    const Rotation future = Rope::of(layer.trace()).mean(next, settings_.future);
    prepare_before_rope(layer);
    Tensor<double, 2> attention({queries.dim(0), scores.dim(1)});
    parallel_for(queries.dim(0), 1, [&](std::int64_t h, std::int64_t) {
      const Matrix key = to_matrix(keys.view()[h / group], sinks);
      attend(before_rope(layer, queries.view()[h], h / group), key, sinks, future, layer.loaded().attention_scale,
             attention.view()[h].flat());
    });
    for (std::int64_t h = 0; h < attention.dim(0); ++h)
      for (std::int64_t j = 0; j < scores.dim(1); ++j) scores(h / group, j) += attention(h, j) / group;
  }

  // Softmax over the keys of the logarithm of the expected exp(scale · q·k), q normal: its mean turned by the mean rotation.
  void attend(Tensor<double, 2> queries, const Matrix& key, std::int64_t sinks, const Rotation& future, double scale,
              std::span<double> attention) const {
    const std::int64_t d = queries.dim(1), count = queries.dim(0) - sinks;
    Eigen::Map<Matrix> q(queries.data() + sinks * d, count, d);
    for (std::int64_t i = 0; i < count; ++i) future.apply({q.row(i).data(), static_cast<std::size_t>(d)});
    const Vector mean = q.colwise().mean();
    Vector logit = scale * (key * mean);
    if (settings_.covariance) {
      q.rowwise() -= mean.transpose();
      const Matrix covariance = q.transpose() * q / static_cast<double>(count);
      logit += 0.5 * scale * scale * (key * covariance).cwiseProduct(key).rowwise().sum();
    }
    const Vector weight = (logit.array() - logit.maxCoeff()).exp();
    const double total = weight.sum();
    for (std::size_t j = 0; j < attention.size(); ++j) attention[j] = weight[static_cast<Eigen::Index>(j)] / total;
  }

  void multiply_by_value_norms(LayerWorkspace& layer, std::int64_t sinks, Tensor<double, 2>& scores) const {
    const Tensor<float, 3>& values = candidate_values(layer);
    for (std::int64_t h = 0; h < scores.dim(0); ++h)
      for (std::int64_t j = 0; j < scores.dim(1); ++j)
        scores(h, j) = (scores(h, j) + settings_.epsilon) * length_of(values.view()[h][sinks + j].flat());
  }

  ExpectedAttentionSettings settings_;
};

}  // namespace

std::unique_ptr<Indicator> expected_attention_indicator(ExpectedAttentionSettings settings) {
  return std::make_unique<ExpectedAttentionIndicator>(settings);
}

}  // namespace kvreplay
