#include "core/report/metric_text.h"

#include <map>
#include <mutex>

namespace kvreplay {
namespace {

const std::vector<MetricText>& known() {
  static const std::vector<MetricText> all = {
      {"output_error", "output error", "relative error",
       "Relative error of a layer's attention output, heads joined by the output projection: the length of the change over "
       "the length of the full cache's output.",
       false, true, true},
      {"output_error_unprojected", "output error, unprojected", "relative error",
       "The same with the heads side by side, for traces without the output projection.", false, true, true},
      {"evicted_mass", "evicted mass", "share of attention",
       "Share of the full cache's attention that was on tokens that are evicted.", false, true, true},
      {"head_output_error", "head output error", "relative error",
       "Relative error of one head's attention output before the output projection.", false, true, true},
      {"oracle_overlap", "oracle overlap", "share of tokens",
       "Of as many tokens as are kept, those with the most attention at this step: the share that is kept.", true, false,
       true},
      {"evidence_recall", "evidence recall", "share of tokens",
       "Share of the tokens in the marked spans that are still in the cache at the end.", true, false, true},
      {"output_cosine", "output cosine", "cosine", "Cosine between a layer's output with and without eviction.", true, false,
       false},
      {"redistribution_kl", "redistribution KL", "nats",
       "Divergence of the attention over the kept tokens from the full attention: minus the logarithm of the kept mass.",
       false, true, false},
      {"value_displacement", "value displacement", "length",
       "Distance between the output over the kept and the output over the evicted tokens; times the evicted mass it is the "
       "error.",
       false, true, false},
      {"additivity", "additivity", "ratio",
       "Joint error over the sum of single-removal errors: far above 1 where evicted tokens stood in for each other.", false,
       true, false},
      {"attention_entropy", "attention entropy", "nats", "Entropy of the full attention: a property of the trace.", false,
       false, false},
      {"region_mass_before", "attention by region, before", "share of attention",
       "Share of the full attention on each region of the prompt.", false, false, false},
      {"region_mass_after", "attention by region, after", "share of attention",
       "Share of the attention over the kept tokens on each region of the prompt.", false, false, false},
  };
  return all;
}

}  // namespace

const MetricText& metric_text(const std::string& name) {
  static std::map<std::string, MetricText> others;
  static std::mutex guard;
  for (const auto& text : known())
    if (text.name == name) return text;
  const std::lock_guard lock(guard);
  return others.try_emplace(name, MetricText{name, name, "", "", false, false, false}).first->second;
}

const std::vector<std::string>& metric_order() {
  static const std::vector<std::string> order = [] {
    std::vector<std::string> names;
    for (const auto& text : known()) names.push_back(text.name);
    return names;
  }();
  return order;
}

}  // namespace kvreplay
