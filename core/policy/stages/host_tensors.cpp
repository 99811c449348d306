#include "core/policy/stages/host_tensors.h"

#include <algorithm>
#include <cmath>

#include "core/base/parallel.h"
#include "core/trace/rope.h"

namespace kvreplay {
namespace {

using Shared = std::shared_ptr<const Tensor<float, 3>>;
using SharedDouble = std::shared_ptr<const Tensor<double, 3>>;

const Tensor<float, 3>& candidate_rows(LayerWorkspace& layer, LayerDataset which, std::int64_t first_row) {
  return *layer.shared<Shared>("host:" + std::string(layer_dataset_name(which)), [&] {
    const IndexRange rows{first_row, first_row + layer.candidates()};
    return std::make_shared<const Tensor<float, 3>>(layer.trace().read(layer.layer(), which, {}, rows));
  });
}

Tensor<double, 3> unrotated(LayerWorkspace& layer, const Tensor<float, 3>& heads) {
  const Rope rope = Rope::of(layer.trace());
  const std::int64_t sharing = heads.dim(0) / layer.loaded().num_kv_heads;
  Tensor<double, 3> out(heads.shape());
  parallel_for(heads.dim(1), 256, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::int64_t position = layer.trace().text_position(0, layer.first_candidate() + i);
      Rotation back = rope.inverse(position);
      for (std::int64_t h = 0; h < heads.dim(0); ++h) {
        const auto own = layer.trace().text_position(static_cast<int>(h / sharing), layer.first_candidate() + i);
        if (own != position) back = rope.inverse(position = own);
        const auto from = heads.view()[h][i].flat();
        const auto to = out.view()[h][i].flat();
        std::copy(from.begin(), from.end(), to.begin());
        back.apply(to);
      }
    }
  });
  return out;
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

const Tensor<double, 3>& unrotated_keys(LayerWorkspace& layer) {
  return *layer.shared<SharedDouble>("host:key before RoPE", [&] {
    return std::make_shared<const Tensor<double, 3>>(unrotated(layer, candidate_keys(layer)));
  });
}

const Tensor<double, 3>& unrotated_queries(LayerWorkspace& layer) {
  return *layer.shared<SharedDouble>("host:query before RoPE", [&] {
    return std::make_shared<const Tensor<double, 3>>(unrotated(layer, candidate_queries(layer)));
  });
}

Array upload_scores(LayerWorkspace& layer, const Tensor<double, 2>& scores) {
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(scores.size()));
  for (const double score : scores.flat()) values.push_back(static_cast<float>(score));
  return layer.backend().upload({scores.dim(0), scores.dim(1)}, values);
}

double length_of(std::span<const float> head) {
  double squared = 0;
  for (const float x : head) squared += static_cast<double>(x) * x;
  return std::sqrt(squared);
}

}  // namespace kvreplay
