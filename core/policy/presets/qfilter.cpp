// Keys by their part along the one direction that queries share (Godey et al. 2025).
#include <algorithm>

#include "core/policy/stages/host_tensors.h"
#include "core/policy/stages/per_step.h"
#include "core/policy/stages/query_filter.h"
#include "core/policy/stages/scorers.h"
#include "core/policy/timeline.h"

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
    const Tensor<float, 3>& keys = layer.host(LayerDataset::key);
    for (std::int64_t h = 0; h < result.evicted_at.dim(0); ++h) {
      const auto row = replay_timeline(layer, [&](const Moment& moment) {
        if (std::ssize(moment.cached) <= budget) return moment.cached;
        const RetainedSet cache{moment.cached};
        std::vector<double> score;
        for (const auto position : cache.positions)
          score.push_back(filter_score(filters.view()[h].flat(), keys.view()[h][position].flat()));
        auto kept = cache.at(
            top_slots(score, score.size() - static_cast<std::size_t>(recent_), static_cast<std::size_t>(budget - recent_)));
        kept.insert(kept.end(), cache.positions.end() - recent_, cache.positions.end());
        return kept;
      });
      std::copy(row.begin(), row.end(), &result.evicted_at(h, 0));
    }
    return result;
  }

 private:
  FilterSource source_;
  std::int64_t recent_;
};

Parameter filters_parameter() {
  return text_parameter(
      "filters", "a file that `kvreplay filters` wrote (without commas in its path), or own: from this prompt's queries",
      {{"kvpress", FilterSource::own_name}, {"original", FilterSource::own_name}});
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
