#include "core/policy/stages/host_tensors.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/trace/rope.h"

namespace kvreplay {
namespace {

using Shared = std::shared_ptr<const Tensor<float, 3>>;

const Tensor<float, 3>& candidate_rows(LayerWorkspace& layer, LayerDataset which, std::int64_t first_row) {
  if (first_row == 0 && layer.candidates() == layer.trace().shape(layer.layer(), which)[1]) return layer.host(which);
  return *layer.shared<Shared>("host:" + std::string(layer_dataset_name(which)), [&] {
    const IndexRange rows{first_row, first_row + layer.candidates()};
    return std::make_shared<const Tensor<float, 3>>(layer.trace().read(layer.layer(), which, {}, rows));
  });
}

struct RotationsBack {
  Rope rope;
  std::vector<Rotation> each;  // at the candidates' own positions: as large as one head
};

const RotationsBack& rotations_back(LayerWorkspace& layer) {
  using SharedRotations = std::shared_ptr<const RotationsBack>;
  return *layer.shared<SharedRotations>("host:rotations back", [&] {
    RotationsBack back{Rope::of(layer.trace()), {}};
    for (std::int64_t i = 0; i < layer.candidates(); ++i)
      back.each.push_back(back.rope.inverse(layer.first_candidate() + i));
    return std::make_shared<const RotationsBack>(std::move(back));
  });
}

}  // namespace

const Tensor<float, 3>& candidate_keys(LayerWorkspace& layer) {
  return candidate_rows(layer, LayerDataset::key, layer.first_candidate());
}

const Tensor<float, 3>& candidate_values(LayerWorkspace& layer) {
  return candidate_rows(layer, LayerDataset::value, layer.first_candidate());
}

const Tensor<float, 3>& candidate_queries(LayerWorkspace& layer) {
  const auto& positions = layer.trace().query_positions();
  const auto first = std::lower_bound(positions.begin(), positions.end(), layer.first_candidate());
  for (std::int64_t i = 0; i < layer.candidates(); ++i) {
    const bool there = i < positions.end() - first && first[i] == layer.first_candidate() + i;
    if (!there) throw layer.trace().missing_query(layer.first_candidate() + i, "a score from all prompt queries");
  }
  return candidate_rows(layer, LayerDataset::query, first - positions.begin());
}

void prepare_before_rope(LayerWorkspace& layer) { rotations_back(layer); }

Tensor<double, 2> before_rope(LayerWorkspace& layer, TensorView<const float, 2> head, std::int64_t kv_head) {
  const RotationsBack& back = rotations_back(layer);
  Tensor<double, 2> out({head.dim(0), head.dim(1)});
  std::copy(head.flat().begin(), head.flat().end(), out.data());
  for (std::size_t i = 0; i < back.each.size(); ++i) {
    const std::int64_t slot = layer.first_candidate() + static_cast<std::int64_t>(i);
    const std::int64_t position = layer.trace().text_position(static_cast<int>(kv_head), slot);
    const auto row = out.view()[static_cast<std::int64_t>(i)].flat();
    position == slot ? back.each[i].apply(row) : back.rope.inverse(position).apply(row);
  }
  return out;
}

Array upload_scores(LayerWorkspace& layer, const Tensor<double, 2>& scores) {
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(scores.size()));
  for (const double score : scores.flat()) values.push_back(static_cast<float>(score));
  return layer.backend().upload({scores.dim(0), scores.dim(1)}, values);
}

void standardize(Tensor<double, 2>& scores) {
  constexpr double least_deviation = 1e-6;
  const auto count = static_cast<double>(scores.size());
  double mean = 0, squared = 0;
  for (const double x : scores.flat()) mean += x / count;
  for (const double x : scores.flat()) squared += (x - mean) * (x - mean);
  const double deviation = std::max(std::sqrt(squared / (count - 1)), least_deviation);
  for (double& x : scores.flat()) x = (x - mean) / deviation;
}

double length_of(std::span<const float> head) {
  double squared = 0;
  for (const float x : head) squared += static_cast<double>(x) * x;
  return std::sqrt(squared);
}

}  // namespace kvreplay
