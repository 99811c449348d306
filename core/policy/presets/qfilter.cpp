// Keys by their part along the one direction that queries share (Godey et al. 2025).
#include <algorithm>

#include "core/policy/stages/host_tensors.h"
#include "core/policy/stages/per_step.h"
#include "core/policy/stages/query_filter.h"
#include "core/policy/stages/scorers.h"

namespace kvreplay {
namespace {

// The authors' cache: after every forward pass the newest `recent` stay, and of the others the best that fill the budget.
class FilteredCachePolicy final : public Policy {
 public:
  FilteredCachePolicy(FilterSource source, std::int64_t recent) : source_(std::move(source)), recent_(recent) {}
  Granularity granularity() const override { return Granularity::kv_head; }
  std::int64_t minimum_budget() const override { return recent_; }
  bool evicts_while_decoding() const override { return true; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = layer.nothing_evicted(Granularity::kv_head);
    const Tensor<float, 2>& filters = source_.of(layer);
    for (std::int64_t h = 0; h < result.evicted_at.dim(0); ++h) {
      const auto keys = layer.trace().read(layer.layer(), LayerDataset::key, {h, h + 1}, {layer.first_candidate(), -1});
      std::vector<std::int32_t> rows;  // of keys
      std::vector<double> score;
      for (std::int64_t step = 0; step <= layer.loaded().steps(); ++step) {
        const std::int64_t read = layer.candidates() + step;
        for (auto row = static_cast<std::int64_t>(score.size()); row < read; ++row) {
          rows.push_back(static_cast<std::int32_t>(row));
          score.push_back(filter_score(filters.view()[h].flat(), keys.view()[0][row].flat()));
        }
        cut(rows, score, budget, static_cast<std::int32_t>(step),
            result.evicted_at.view()[h].data() + layer.first_candidate());
      }
    }
    return result;
  }

 private:
  void cut(std::vector<std::int32_t>& rows, const std::vector<double>& score, std::int64_t budget, std::int32_t step,
           std::int32_t* evicted_at) const {
    if (std::ssize(rows) <= budget) return;
    std::vector<double> cached;
    for (const auto row : rows) cached.push_back(score[static_cast<std::size_t>(row)]);
    const std::size_t older = rows.size() - static_cast<std::size_t>(recent_);
    const auto slots = top_slots(cached, older, static_cast<std::size_t>(budget - recent_));
    std::vector<std::int32_t> kept;
    for (const std::size_t slot : slots) kept.push_back(rows[slot]);
    kept.insert(kept.end(), rows.begin() + static_cast<std::ptrdiff_t>(older), rows.end());
    for (const auto row : rows) evicted_at[row] = step;
    for (const auto row : kept) evicted_at[row] = -1;
    rows = std::move(kept);
  }

  FilterSource source_;
  std::int64_t recent_;
};

Parameter filters_parameter() {
  Parameter parameter;
  parameter.key = "filters";
  parameter.type = ParameterType::text;
  parameter.doc = "a file that `kvreplay filters` wrote (without commas in its path), or own: from this prompt's queries";
  parameter.defaults = {{"kvpress", FilterSource::own_name}, {"original", FilterSource::own_name}};
  return parameter;
}

}  // namespace

std::unique_ptr<Indicator> qfilter_scorer(const PolicySpec& spec) {
  return query_filter_indicator(FilterSource::named(spec.values.text("filters")));
}

const PolicyDescription& qfilter_policy() {
  static const PolicyDescription description = {
      .name = "qfilter",
      .idea = "Keeps the keys that reach furthest along the one direction which a model's queries share, whatever the text.",
      .paper = "Godey et al., Q-Filters: Leveraging QK Geometry for Efficient KV Cache Compression, 2025",
      .stages = "query_filter (keys) → top-k; once when the prompt ends (kvpress), after every forward pass (original)",
      .needs = "keys, and filters of the model (kvreplay filters) or every prompt query",
      .variants = {{"kvpress", "NVIDIA/kvpress at 8bb29b9",
                    "Once, nothing protected. The published filters are downloaded for each model; here they are derived by "
                    "the same recipe, from traces or from the prompt itself."},
                   {"original", "NathanGodey/qfilters", "After every forward pass; the newest tokens always stay."}},
      .parameters = {filters_parameter(),
                     integer_parameter("recent", "newest tokens, which always stay and count in the budget", 0, 65536,
                                       {{"original", "32"}})},
      .make = [](const PolicySpec& spec) -> std::unique_ptr<Policy> {
        if (spec.variant == "kvpress") return make_scorer_policy(qfilter_scorer(spec));
        return std::make_unique<FilteredCachePolicy>(FilterSource::named(spec.values.text("filters")),
                                                     spec.values.integer("recent"));
      },
  };
  return description;
}

}  // namespace kvreplay
