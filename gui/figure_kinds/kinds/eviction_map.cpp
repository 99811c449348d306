#include <algorithm>

#include "gui/figure_kinds/selection.h"

namespace kvreplay::figure {
namespace {

// How long a token lives: 0 when it was evicted as the prompt ended, s after decode step s, one step more than there are
// when it was kept to the end.
float lifetime(std::int32_t evicted_at, std::int64_t steps) {
  return evicted_at < 0 ? static_cast<float>(steps + 1) : static_cast<float>(evicted_at);
}

struct Rows {
  std::int64_t count = 0;
  std::vector<float> values;  // [count, end - begin]
};

// The tokens of one layer by head, as lifetimes; heads of a coarser run are repeated to `heads`.
Rows head_rows(const RunSummary& run, std::int64_t layer, std::int64_t heads, std::int64_t begin, std::int64_t end) {
  const auto evicted_at = run.file->evicted_at(run.run, layer);
  const std::int64_t steps = run.tokens - run.prompt_length;
  Rows rows{heads, {}};
  for (std::int64_t head = 0; head < heads; ++head)
    for (std::int64_t i = begin; i < end; ++i)
      rows.values.push_back(lifetime(evicted_at(head * run.heads / heads, i), steps));
  return rows;
}

// The share of heads that keep each token to the end, a row a layer.
Rows layer_rows(const RunSummary& run, const std::vector<std::int64_t>& layers, std::int64_t begin, std::int64_t end) {
  Rows rows{static_cast<std::int64_t>(layers.size()), {}};
  for (std::int64_t layer : layers) {
    const std::vector<float> share = kept_share(run, layer);
    rows.values.insert(rows.values.end(), share.begin() + begin, share.begin() + end);
  }
  return rows;
}

void subtract(std::vector<float>& values, const std::vector<float>& other) {
  for (std::size_t i = 0; i < values.size(); ++i) values[i] -= other[i];
}

std::string heads_label(const RunSummary& run) {
  return run.info.granularity == "query_head" ? "query head" : run.info.granularity == "layer" ? "all heads" : "KV head";
}

void by_layer(const RunSummary& run, const RunSummary* other, const std::vector<std::int64_t>& layers,
              const FigureRequest& request, std::int64_t begin, std::int64_t end, HeatMap& map) {
  Rows rows = layer_rows(run, layers, begin, end);
  map.rows = rows.count;
  map.row_label = "layer";
  for (std::int64_t layer : layers) map.row_names.push_back(std::to_string(layer_number(request, run, layer)));
  map.value_label = "share of the layer's heads that keep the token to the end";
  map.color_map = ColorMap::cividis;
  map.reduction = Reduction::mean;
  if (other != nullptr) {
    subtract(rows.values, layer_rows(*other, layers, begin, end).values);
    map.color_map = ColorMap::diverging;
    map.value_label = "share of heads that keep the token: " + run.label + " minus " + other->label;
  }
  map.minimum = other == nullptr ? 0 : -1, map.maximum = 1;
  map.panels.push_back({"", std::move(rows.values)});
}

void by_head(const RunSummary& run, const RunSummary* other, const std::vector<std::int64_t>& layers,
             const FigureRequest& request, std::int64_t begin, std::int64_t end, HeatMap& map) {
  const std::int64_t steps = run.tokens - run.prompt_length;
  const std::int64_t heads = other == nullptr ? run.heads : std::max(run.heads, other->heads);
  map.rows = heads * static_cast<std::int64_t>(layers.size());
  map.row_group = layers.size() > 1 ? heads : 1;
  const std::string of = heads_label(other != nullptr && other->heads > run.heads ? *other : run);
  map.row_label = layers.size() > 1 ? "layer" : of;
  if (layers.size() > 1)
    for (std::int64_t layer : layers) map.row_names.push_back(std::to_string(layer_number(request, run, layer)));
  map.subtitle += heads == 1 ? "; one set for all heads" : layers.size() > 1 ? "; a layer's rows are its " + of + "s" : "";
  if (layers.size() == 1) map.subtitle += "; layer " + std::to_string(layer_number(request, run, layers[0]));
  if (other == nullptr) {
    map.value_label = "decode step after which the token was evicted";
    map.color_start = 0.25;
    map.minimum = 1, map.maximum = static_cast<double>(std::max<std::int64_t>(2, steps));
    map.states = {{0, "evicted when the prompt ended", false}, {static_cast<float>(steps + 1), "kept to the end", true}};
  } else {
    map.value_label = "decode steps that a token lives longer with " + run.label + " than with " + other->label + " (" +
                      std::to_string(steps + 1) + ": kept to the end instead of evicted with the prompt)";
    map.color_map = ColorMap::diverging;
    map.minimum = -static_cast<double>(steps + 1), map.maximum = static_cast<double>(steps + 1);
  }
  map.panels.push_back({"", {}});
  for (std::int64_t layer : layers) {
    Rows rows = head_rows(run, layer, heads, begin, end);
    if (other != nullptr) subtract(rows.values, head_rows(*other, layer, heads, begin, end).values);
    map.panels[0].values.insert(map.panels[0].values.end(), rows.values.begin(), rows.values.end());
  }
  // Where nothing was evicted while decoding there is no scale of steps to explain.
  if (other != nullptr) return;
  for (float value : map.panels[0].values)
    if (value != 0 && value != static_cast<float>(steps + 1)) return;
  map.value_label = "when each token was evicted";
}

std::unique_ptr<Figure> make(const FigureRequest& request) {
  const RunSummary& run = chosen_run(request);
  const RunSummary* other = request.options.text("minus") == "none" ? nullptr : &chosen_run(request, "minus");
  for (const RunSummary* one : {&run, other})
    if (one != nullptr && one->info.summary_only)
      throw figure_error(request, "these results do not say which tokens were evicted",
                         "they were written with --summary-only");
  if (other != nullptr && (other->tokens != run.tokens || other->layers != run.layers))
    throw figure_error(request, run.label + " and " + other->label + " are from traces of different shapes");
  const auto [begin, end] = chosen_tokens(request, run.tokens);
  const bool heads = request.options.text("rows") == "heads";
  auto map = std::make_unique<HeatMap>();
  map->columns = end - begin;
  map->first_column = static_cast<double>(begin);
  map->column_label = "position";
  map->marks = marks_of(request, run, begin, end);
  const auto layers = chosen_layers(request, run);
  map->title = other == nullptr ? (heads ? "When " + run.label + " evicts each token" : "What " + run.label + " keeps")
                                : "What " + run.label + " and " + other->label + " keep differently";
  map->subtitle = "Budget " + chosen_budget(request).text;
  if (map->columns > 1500)
    map->subtitle += std::string("; where a column stands for several tokens, ") +
                     (heads ? (other == nullptr ? "the one kept longest" : "the one that gains most") : "their mean");
  heads ? by_head(run, other, layers, request, begin, end, *map) : by_layer(run, other, layers, request, begin, end, *map);
  return map;
}

}  // namespace

const FigureKind& eviction_map_kind() {
  static const FigureKind kind = {
      .name = "eviction_map",
      .idea =
          "Tokens × heads: when each token died; or tokens × layers: the share of heads that keep it. One run, or two as "
          "a difference.",
      .needs = "results; with their trace its marked spans are named",
      .parameters = {policy_option(), minus_option(), budget_option(),
                     choice_option("rows", "heads: when each token died. layers: the share of heads that keep it",
                                   {"heads", "layers"}, "heads"),
                     text_option("layer", "model layers, or all", "all"),
                     text_option("tokens", "a stretch BEGIN:END of the text, or all", "all")},
      .make = make,
  };
  return kind;
}

}  // namespace kvreplay::figure
