#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/policy/stages/counter_random.h"
#include "core/policy/stages/host_tensors.h"
#include "core/policy/stages/indicators_before_rope.h"

namespace kvreplay {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// A file may record under /expected what published code computed on it. What that code drew at random is no result of the
// policy but an input, without which nobody can repeat it. "": nothing recorded for the policy.
std::string recorded_case(const Trace& trace, const std::string& policy) {
  const std::string group = "/expected";
  for (const std::string& name : trace.extension_members(group)) {
    const std::string text = trace.extension_text(group + "/" + name, "policy");
    try {
      if (!text.empty() && parse_policy(text).text() == policy) return group + "/" + name;
    } catch (const Error&) {
      continue;  // a policy that this version does not have
    }
  }
  return "";
}

class LeverageIndicator final : public Indicator {
 public:
  explicit LeverageIndicator(SketchSettings settings) : settings_(std::move(settings)) {}

  std::string key(std::int64_t) const override {
    return "leverage:" + std::to_string(settings_.columns) + "," + std::to_string(settings_.seed) + "," + settings_.policy;
  }

  Array score(LayerWorkspace& layer, std::int64_t) const override {
    const Tensor<float, 3>& keys = candidate_keys(layer);
    const Tensor<double, 3> sketch = sketch_of(layer, settings_);
    prepare_before_rope(layer);
    Tensor<double, 2> scores({keys.dim(0), keys.dim(1)});
    parallel_for(keys.dim(0), 1, [&](std::int64_t h, std::int64_t) {
      const auto head = leverage_scores(before_rope(layer, keys.view()[h], h), sketch.view()[h]);
      std::copy(head.begin(), head.end(), scores.view()[h].data());
    });
    standardize(scores);
    return upload_scores(layer, scores);
  }

 private:
  SketchSettings settings_;
};

}  // namespace

SketchSettings sketch_settings_of(const PolicySpec& spec, const std::string& policy) {
  return {spec.values.integer("sketch"), spec.values.integer("seed"),
          spec.description->name == policy ? spec.text() : std::string()};
}

Tensor<double, 3> sketch_of(LayerWorkspace& layer, const SketchSettings& settings) {
  const std::int64_t heads = layer.loaded().num_kv_heads, d = layer.loaded().head_dim;
  Tensor<double, 3> sketch({heads, d, settings.columns});
  const std::string& recorded = layer.shared_across_layers<std::string>("recorded case:" + settings.policy, [&] {
    return settings.policy.empty() ? std::string() : recorded_case(layer.trace(), settings.policy);
  });
  const std::string node = recorded + "/" + layer_name(layer.layer()) + "/sketch";
  if (!recorded.empty() && layer.trace().extension_shape(node) == sketch.shape()) {
    const Tensor<float, 3> stored = layer.trace().read_extension(node);
    std::copy(stored.flat().begin(), stored.flat().end(), sketch.data());
    layer.remark("the random sketch is the one that " + recorded + " of the trace records");
    return sketch;
  }
  const double scale = 1 / std::sqrt(static_cast<double>(settings.columns));
  for (std::int64_t h = 0; h < heads; ++h)
    for (std::int64_t i = 0; i < d * settings.columns; ++i)
      sketch.data()[h * d * settings.columns + i] =
          scale * random_normal(static_cast<std::uint64_t>(settings.seed), static_cast<std::uint64_t>(layer.layer()),
                                static_cast<std::uint64_t>(h), static_cast<std::uint64_t>(i));
  return sketch;
}

std::vector<double> leverage_scores(TensorView<const double, 2> rows, TensorView<const double, 2> sketch) {
  constexpr double ridge = 0.01;
  Matrix x = Eigen::Map<const Matrix>(rows.data(), rows.dim(0), rows.dim(1));
  const Eigen::RowVectorXd mean = x.colwise().mean();
  x.rowwise() -= mean;
  const Matrix y = x * Eigen::Map<const Matrix>(sketch.data(), sketch.dim(0), sketch.dim(1));
  Matrix gram = y.transpose() * y;
  gram.diagonal().array() += ridge;
  // ‖L⁻¹ y_j‖² with gram = L Lᵀ.
  Matrix solved = y.transpose();
  Eigen::LLT<Matrix>(gram).matrixL().solveInPlace(solved);
  const Eigen::RowVectorXd squared = solved.colwise().squaredNorm();
  return {squared.data(), squared.data() + squared.size()};
}

std::unique_ptr<Indicator> leverage_indicator(SketchSettings settings) {
  return std::make_unique<LeverageIndicator>(std::move(settings));
}

}  // namespace kvreplay
