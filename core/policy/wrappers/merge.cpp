// Merging instead of dropping (Wan et al., LOOK-M, 2024): what is evicted is folded into the kept row whose key is most
// alike.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/kernels/kernels.h"
#include "core/policy/stages/stages.h"
#include "core/policy/timeline.h"
#include "core/policy/wrappers/wrapper.h"

namespace kvreplay {
namespace {

constexpr std::int64_t row_tile = 256;  // evicted keys compared at once
constexpr double norm_epsilon = 1e-6;

// Rows of d numbers, one after the other.
struct Rows {
  std::int64_t dim = 0;
  std::vector<float> values;

  std::int64_t count() const { return static_cast<std::int64_t>(values.size()) / dim; }
  const float* row(std::int64_t i) const { return values.data() + i * dim; }
  void append(const float* vector) { values.insert(values.end(), vector, vector + dim); }
};

Rows normalised(const Rows& rows) {
  Rows out = rows;
  for (std::int64_t i = 0; i < rows.count(); ++i) {
    double squared = 0;
    for (std::int64_t c = 0; c < rows.dim; ++c) squared += static_cast<double>(rows.row(i)[c]) * rows.row(i)[c];
    const double factor = 1 / std::max(std::sqrt(squared), norm_epsilon);
    for (std::int64_t c = 0; c < rows.dim; ++c)
      out.values[static_cast<std::size_t>(i * rows.dim + c)] = static_cast<float>(rows.row(i)[c] * factor);
  }
  return out;
}

struct Pivot {
  std::int64_t slot = 0;  // the kept row with the largest cosine, the lowest of equals
  double cosine = 0;
};

std::vector<Pivot> pivots(const Rows& evicted, const Rows& kept) {
  const Rows from = normalised(evicted), to = normalised(kept);
  std::vector<Pivot> out(static_cast<std::size_t>(from.count()));
  std::vector<float> cosine(static_cast<std::size_t>(row_tile * to.count()));
  for (std::int64_t first = 0; first < from.count(); first += row_tile) {
    const std::int64_t rows = std::min(row_tile, from.count() - first);
    kernels::gemm_nt(rows, to.count(), from.dim, 1.0F, from.row(first), from.dim, to.values.data(), from.dim, cosine.data(),
                     to.count());
    for (std::int64_t i = 0; i < rows; ++i) {
      const float* row = cosine.data() + i * to.count();
      const float* best = std::max_element(row, row + to.count());
      out[static_cast<std::size_t>(first + i)] = {best - row, *best};
    }
  }
  return out;
}

enum class Weighting : std::uint8_t { pivot, weighted };

// Folds rows into the kept ones: K' = (K + Σ (K_j + K) / 2) / (1 + count), or (K + Σ w K_j) / (1 + Σ w) with
// w = max((cos + 1) / 2, 1e-6). Returns which kept rows changed.
std::vector<bool> fold(const Rows& evicted, const std::vector<Pivot>& pivot, Weighting weighting, Rows& kept) {
  std::vector<double> sum(kept.values.begin(), kept.values.end()), weight(static_cast<std::size_t>(kept.count()), 1.0);
  std::vector<bool> changed(static_cast<std::size_t>(kept.count()), false);
  const auto dim = static_cast<std::size_t>(kept.dim);
  for (std::size_t j = 0; j < pivot.size(); ++j) {
    const auto slot = static_cast<std::size_t>(pivot[j].slot);
    const float* row = evicted.row(static_cast<std::int64_t>(j));
    const double w = weighting == Weighting::pivot ? 1 : std::max((pivot[j].cosine + 1) / 2, 1e-6);
    for (std::size_t c = 0; c < dim; ++c)
      sum[slot * dim + c] +=
          weighting == Weighting::pivot ? (row[c] + static_cast<double>(kept.values[slot * dim + c])) / 2 : w * row[c];
    weight[slot] += w;
    changed[slot] = true;
  }
  for (std::size_t slot = 0; slot < changed.size(); ++slot)
    if (changed[slot])
      for (std::size_t c = 0; c < dim; ++c)
        kept.values[slot * dim + c] = static_cast<float>(sum[slot * dim + c] / weight[slot]);
  return changed;
}

class MergedPolicy final : public WrappedPolicy {
 public:
  MergedPolicy(std::unique_ptr<Policy> inner, Weighting weighting)
      : WrappedPolicy(std::move(inner)), weighting_(weighting) {}
  bool changes_rows() const override { return true; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = inner().evict(layer, budget);
    const ModelInfo& model = layer.model();
    const std::int64_t heads = stored_heads(granularity(), model);
    std::vector<CacheChanges> by_head(static_cast<std::size_t>(heads));
    layer.host(LayerDataset::key), layer.host(LayerDataset::value);  // read before the threads start
    parallel_for(heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t h = begin; h < end; ++h)
        by_head[static_cast<std::size_t>(h)] = merge_head(layer, result.evicted_at, heads, h);
    });
    result.changes = joined(by_head, heads, model.head_dim);
    return result;
  }

 private:
  // What one stored head merges over all steps.
  CacheChanges merge_head(LayerWorkspace& layer, const Tensor<std::int32_t, 2>& evicted_at, std::int64_t heads,
                          std::int64_t head) const {
    const std::int64_t d = layer.model().head_dim, kv_head = head * layer.model().num_kv_heads / heads;
    const std::int32_t* row = &evicted_at(evicted_at.dim(0) == 1 ? 0 : head, 0);
    Rows key{d, {}}, value{d, {}};  // as the cache has them at the moment, by position
    for (std::int64_t i = 0; i < layer.tokens(); ++i) {
      key.append(&layer.host(LayerDataset::key)(kv_head, i, 0));
      value.append(&layer.host(LayerDataset::value)(kv_head, i, 0));
    }
    CacheChanges changes{heads, d, {}, {}};
    replay_timeline(layer, [&](const Moment& moment) {
      std::vector<std::int32_t> kept, evicted;
      for (const auto position : moment.cached) (row[position] == moment.step ? evicted : kept).push_back(position);
      if (!evicted.empty() && !kept.empty())
        merge_step(moment.step, static_cast<std::int32_t>(head), kept, evicted, key, value, changes);
      return kept;
    });
    return changes;
  }

  void merge_step(std::int64_t step, std::int32_t head, const std::vector<std::int32_t>& kept,
                  const std::vector<std::int32_t>& evicted, Rows& key, Rows& value, CacheChanges& changes) const {
    const auto rows_at = [](const Rows& all, const std::vector<std::int32_t>& positions) {
      Rows out{all.dim, {}};
      for (const auto position : positions) out.append(all.row(position));
      return out;
    };
    Rows kept_key = rows_at(key, kept), kept_value = rows_at(value, kept);
    const Rows evicted_key = rows_at(key, evicted);
    const std::vector<Pivot> pivot = pivots(evicted_key, kept_key);
    const std::vector<bool> changed = fold(evicted_key, pivot, weighting_, kept_key);
    fold(rows_at(value, evicted), pivot, weighting_, kept_value);
    for (std::size_t k = 0; k < kept.size(); ++k) {
      if (!changed[k]) continue;
      const auto slot = static_cast<std::int64_t>(k);
      const std::span<const float> new_key(kept_key.row(slot), static_cast<std::size_t>(key.dim)),
          new_value(kept_value.row(slot), static_cast<std::size_t>(key.dim));
      std::copy(new_key.begin(), new_key.end(), key.values.begin() + kept[k] * key.dim);
      std::copy(new_value.begin(), new_value.end(), value.values.begin() + kept[k] * key.dim);
      changes.rows.push_back(
          {static_cast<std::int32_t>(step), head, kept[k], changes.store(new_key), changes.store(new_value)});
    }
  }

  Weighting weighting_;
};

// Pivot merging as an-yongqi/rest-kv at a8bb112 has it. What it merges is one set for all heads: the positions that no head
// selected, among them the window, which is kept as well. Its list of kept keys begins with the window and its list of kept
// values ends with it, so that keys and values of the cache belong to different tokens, and slots of one list index the
// other.
class MisalignedMergedPolicy final : public WrappedPolicy {
 public:
  MisalignedMergedPolicy(std::unique_ptr<Policy> inner, int window) : WrappedPolicy(std::move(inner)), window_(window) {}
  bool changes_rows() const override { return true; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = evict_with_scores(layer, budget);  // which give the order of the list of selected tokens
    const std::int64_t heads = result.evicted_at.dim(0),
                       window = window_ > 0 ? window_ : std::max<std::int64_t>(0, budget - 4);
    const std::int64_t prefix = layer.prompt() - window;
    std::vector<bool> selected_by_any(static_cast<std::size_t>(layer.prompt()), false);
    bool evicts = false;
    for (std::int64_t h = 0; h < heads; ++h)
      for (std::int64_t i = layer.first_candidate(); i < prefix; ++i) {
        evicts |= result.evicted_at(h, i) == 0;
        if (result.evicted_at(h, i) != 0) selected_by_any[static_cast<std::size_t>(i)] = true;
      }
    result.changes = {heads, layer.model().head_dim, {}, {}};
    for (std::int64_t h = 0; evicts && h < heads; ++h) merge_head_misaligned(layer, h, prefix, selected_by_any, result);
    if (!layer.wants_scores()) result.scores = {};
    return result;
  }

 private:
  void merge_head_misaligned(LayerWorkspace& layer, std::int64_t head, std::int64_t prefix,
                             const std::vector<bool>& selected_by_any, LayerEvictions& result) const {
    const std::int64_t d = layer.model().head_dim, kv_head = head / layer.model().group_size();
    const Tensor<float, 3>&key = layer.host(LayerDataset::key), &value = layer.host(LayerDataset::value);
    std::vector<std::int32_t> selected, window;
    for (std::int64_t i = layer.first_candidate(); i < layer.prompt(); ++i)
      if (result.evicted_at(head, i) != 0) (i < prefix ? selected : window).push_back(static_cast<std::int32_t>(i));
    if (!result.scores.empty())
      std::stable_sort(selected.begin(), selected.end(),
                       [&](auto a, auto b) { return result.scores(head, a) > result.scores(head, b); });
    std::vector<std::int32_t> key_list = window, value_list = selected;
    key_list.insert(key_list.end(), selected.begin(), selected.end());
    value_list.insert(value_list.end(), window.begin(), window.end());
    Rows kept_key{d, {}}, kept_value{d, {}}, merged_key{d, {}}, merged_value{d, {}};
    for (const auto i : key_list) kept_key.append(&key(kv_head, i, 0));
    for (const auto i : value_list) kept_value.append(&value(kv_head, i, 0));
    for (std::int64_t i = layer.first_candidate(); i < layer.prompt(); ++i) {
      if (selected_by_any[static_cast<std::size_t>(i)]) continue;
      merged_key.append(&key(kv_head, i, 0));
      merged_value.append(&value(kv_head, i, 0));
    }
    const std::vector<Pivot> pivot = pivots(merged_key, kept_key);
    fold(merged_key, pivot, Weighting::pivot, kept_key);
    fold(merged_value, pivot, Weighting::pivot, kept_value);
    for (std::size_t slot = 0; slot < key_list.size(); ++slot) {
      const auto row = static_cast<std::int64_t>(slot);
      const auto width = static_cast<std::size_t>(d);
      result.changes.rows.push_back({0, static_cast<std::int32_t>(head), key_list[slot],
                                     result.changes.store(std::span<const float>(kept_key.row(row), width)),
                                     result.changes.store(std::span<const float>(kept_value.row(row), width))});
    }
  }

  int window_;
};

}  // namespace

const PolicyWrapper& merge_wrapper() {
  static const PolicyWrapper wrapper = {
      .name = "merge",
      .idea =
          "What is evicted is merged into the kept row whose key has the largest cosine with its own (LOOK-M, Wan et al. "
          "2024): "
          "pivot averages K' = (K + Σ (K_j + K) / 2) / (1 + count), and V likewise; weighted takes w = (cos + 1) / 2 and "
          "(K + Σ w K_j) / (1 + Σ w). Under @released, pivot repeats the code released with ReST-KV: one set of merged "
          "tokens for "
          "all heads, the window among them, and keys and values of the cache belonging to different tokens.",
      .parameters = {choice_parameter("merge", "what becomes of evicted rows: dropped, or merged into kept ones",
                                      {"none", "pivot", "weighted"}, {{wrapper_default, "none"}})},
      .constraints = {},
      .wrap = [](const PolicySpec& spec, std::unique_ptr<Policy> inner,
                 const std::string& owner) -> std::unique_ptr<Policy> {
        if (inner->changes_rows()) throw Error(owner, "\"merge\" cannot be put around a policy that changes rows by itself");
        const bool pivot = spec.values.text("merge") == "pivot";
        if (pivot && spec.variant == "released" && inner->granularity() == Granularity::query_head &&
            spec.values.has("window") && !inner->evicts_while_decoding())
          return std::make_unique<MisalignedMergedPolicy>(std::move(inner), spec.values.integer("window"));
        return std::make_unique<MergedPolicy>(std::move(inner), pivot ? Weighting::pivot : Weighting::weighted);
      },
  };
  return wrapper;
}

}  // namespace kvreplay
