#include "core/policy/retained_layer.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/trace/memory_trace.h"

namespace kvreplay {
namespace {

// Rows `index` of every head: heads[h] of `all` gives out[h].
Tensor<float, 3> gather(const Tensor<float, 3>& all, const std::vector<int>& heads,
                        const std::vector<std::vector<std::int32_t>>& rows) {
  const std::int64_t dim = all.dim(2), count = static_cast<std::int64_t>(rows.front().size());
  Tensor<float, 3> out({static_cast<std::int64_t>(heads.size()), count, dim});
  float* to = out.data();
  for (std::size_t h = 0; h < heads.size(); ++h)
    for (const std::int32_t row : rows[rows.size() == 1 ? 0 : h]) {
      const float* from = all.data() + (heads[h] * all.dim(1) + row) * dim;
      to = std::copy(from, from + dim, to);
    }
  return out;
}

// The columns of W_o and the Gram matrices of the query heads that the view has.
void add_projections(LayerWorkspace& layer, int first_query_head, MemoryTraceContents& contents) {
  const Trace& trace = layer.trace();
  const int index = layer.layer(), heads = contents.model.num_query_heads, d = contents.model.head_dim;
  if (trace.has(index, LayerDataset::output_projection)) {
    const Tensor<float, 3>& all = layer.host(LayerDataset::output_projection);
    Tensor<float, 3> part({1, all.dim(1), static_cast<std::int64_t>(heads) * d});
    for (std::int64_t row = 0; row < all.dim(1); ++row)
      std::copy_n(all.data() + row * all.dim(2) + static_cast<std::int64_t>(first_query_head) * d, part.dim(2),
                  part.data() + row * part.dim(2));
    contents.tensors[{index, LayerDataset::output_projection}] = std::move(part);
  }
  if (trace.has(index, LayerDataset::output_gram))
    contents.tensors[{index, LayerDataset::output_gram}] =
        trace.read(index, LayerDataset::output_gram, {first_query_head, first_query_head + heads});
}

}  // namespace

std::unique_ptr<Trace> retained_layer(LayerWorkspace& layer, const RetainedHeads& retained) {
  for (const auto& head : retained.positions)
    if (head.size() != retained.positions.front().size())
      throw Error("retained_layer", "heads of one view hold different numbers of tokens", "make a view for each head");
  const ModelInfo& model = layer.model();
  const bool by_query_head = retained.granularity == Granularity::query_head;
  const int group = model.group_size();
  const int stored =
      retained.granularity == Granularity::layer ? model.num_kv_heads : static_cast<int>(retained.positions.size());
  const int queries_each = by_query_head ? 1 : group;
  const int first_query_head = by_query_head ? retained.first_head : retained.first_head * group;

  MemoryTraceContents contents;
  contents.path = layer.trace().path();
  contents.model = model;
  contents.model.num_kv_heads = stored;
  contents.model.num_query_heads = stored * queries_each;
  contents.layers = {layer.layer()};
  const auto slots = static_cast<std::int32_t>(retained.positions.front().size());
  contents.prompt_length = slots;
  contents.token_ids.assign(static_cast<std::size_t>(slots), 0);
  contents.key_positions = retained.positions;

  std::vector<int> kv_heads, query_heads;
  for (int h = 0; h < stored; ++h)
    kv_heads.push_back(by_query_head ? (retained.first_head + h) / group : retained.first_head + h);
  for (int h = 0; h < stored * queries_each; ++h) query_heads.push_back(first_query_head + h);
  contents.tensors[{layer.layer(), LayerDataset::key}] = gather(layer.host(LayerDataset::key), kv_heads, retained.positions);
  contents.tensors[{layer.layer(), LayerDataset::value}] =
      gather(layer.host(LayerDataset::value), kv_heads, retained.positions);

  const auto& recorded = layer.trace().query_positions();
  const std::size_t sets = retained.positions.size();
  std::vector<std::vector<std::int32_t>> rows(sets);  // of the recorded queries
  for (std::size_t slot = 0; slot < static_cast<std::size_t>(slots); ++slot) {
    std::vector<std::int32_t> found;
    for (const auto& head : retained.positions) {
      const auto row = std::lower_bound(recorded.begin(), recorded.end(), head[slot]);
      if (row != recorded.end() && *row == head[slot]) found.push_back(static_cast<std::int32_t>(row - recorded.begin()));
    }
    if (found.size() < sets) continue;
    contents.query_positions.push_back(static_cast<std::int32_t>(slot));
    for (std::size_t h = 0; h < sets; ++h) rows[h].push_back(found[h]);
  }
  std::vector<std::vector<std::int32_t>> query_rows;
  for (std::size_t h = 0; h < query_heads.size(); ++h)
    query_rows.push_back(rows[sets == 1 ? 0 : h / static_cast<std::size_t>(queries_each)]);
  contents.tensors[{layer.layer(), LayerDataset::query}] = gather(layer.host(LayerDataset::query), query_heads, query_rows);
  add_projections(layer, first_query_head, contents);
  return make_memory_trace(std::move(contents));
}

}  // namespace kvreplay
