#include "gui/figure/redistribution.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/report/numbers.h"
#include "core/report/policy_label.h"
#include "core/report/redistribution.h"
#include "gui/figure_kinds/selection.h"

namespace kvreplay::figure {
namespace {

struct Place {
  std::int64_t layer_index = 0, head = 0, step = 1;
};

// A number of the option, or -1 for auto.
std::int64_t number(const FigureRequest& request, const std::string& key) {
  const std::string& text = request.options.text(key);
  if (text == "auto") return -1;
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 0)
    throw figure_error(request, "\"" + printable(text) + "\" is no " + key, "it takes a number or auto");
  return value;
}

// What is given, and of the rest where the head's output is changed most.
Place chosen_place(const FigureRequest& request, const RunSummary& run) {
  const std::int64_t layer = number(request, "layer"), head = number(request, "head"), step = number(request, "step");
  Place place{0, std::max<std::int64_t>(0, head), std::max<std::int64_t>(1, step)};
  if (layer >= 0) {
    place.layer_index = -1;
    for (std::int64_t i = 0; i < run.layers; ++i)
      if (layer_number(request, run, i) == layer) place.layer_index = i;
    if (place.layer_index < 0)
      throw figure_error(request, "there is no layer " + std::to_string(layer),
                         "layers are " + std::to_string(layer_number(request, run, 0)) + " to " +
                             std::to_string(layer_number(request, run, run.layers - 1)));
  }
  std::string metric;
  for (const auto& name : run.file->metric_names(run.run))
    if (name == "head_output_error" || (metric.empty() && name == "evicted_mass")) metric = name;
  if (metric.empty() || (layer >= 0 && head >= 0 && step >= 0)) return place;
  const MetricValues values = run.file->metric(run.run, metric);
  if (values.shape.size() != 3) return place;
  double worst = -1;
  for (std::int64_t l = 0; l < values.shape[0]; ++l)
    for (std::int64_t h = 0; h < values.shape[1]; ++h)
      for (std::int64_t s = 0; s < values.shape[2]; ++s) {
        if ((layer >= 0 && l != place.layer_index) || (head >= 0 && h != head) || (step >= 0 && s + 1 != step)) continue;
        const double value = values.values[static_cast<std::size_t>((l * values.shape[1] + h) * values.shape[2] + s)];
        if (value > worst) worst = value, place = {l, h, s + 1};
      }
  return place;
}

void refuse_changed_rows(const FigureRequest& request, const RunSummary& run) {
  if (changes_rows(run.info))
    throw figure_error(request, run.label + " changes keys or values, and they are not in the results",
                       "--view mean draws the regions as they were measured");
}

std::vector<RedistributionChart::Bar> region_bars(const double* before, const double* after) {
  std::vector<RedistributionChart::Bar> bars;
  for (std::size_t r = 0; r < num_regions; ++r) bars.push_back({region_names[r], before[r], after[r]});
  return bars;
}

// The tokens with the largest `key`, largest first.
template <class Key>
std::vector<RedistributionChart::Bar> token_bars(const Redistribution& shift, const std::vector<std::string>& texts,
                                                 int count, bool evicted, Key key) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < shift.before.size(); ++i)
    if (shift.evicted[i] == evicted && shift.before[i] > 0) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return key(a) > key(b); });
  order.resize(std::min(order.size(), static_cast<std::size_t>(count)));
  std::vector<RedistributionChart::Bar> bars;
  for (std::size_t i : order)
    bars.push_back({i < texts.size() ? texts[i] : "token", shift.before[i], shift.after[i],
                    "position " + report_count(static_cast<std::int64_t>(i)), evicted});
  return bars;
}

std::unique_ptr<Figure> of_query(const FigureRequest& request, const RunSummary& run, const Trace& trace) {
  refuse_changed_rows(request, run);
  const Place place = chosen_place(request, run);
  if (place.layer_index >= static_cast<std::int64_t>(trace.layers().size()))
    throw figure_error(request, "the trace has fewer layers than the run");
  const int layer = trace.layers()[static_cast<std::size_t>(place.layer_index)];
  const auto evicted_at = run.file->evicted_at(run.run, place.layer_index);
  const auto query_heads = static_cast<std::int64_t>(trace.model().num_query_heads);
  const std::int64_t stored = std::min(place.head, query_heads - 1) * evicted_at.dim(0) / query_heads;
  const Redistribution shift =
      redistribution_of(trace, layer, static_cast<int>(place.head), place.step,
                        std::span(&evicted_at(stored, 0), static_cast<std::size_t>(evicted_at.dim(1))));
  const std::vector<std::string> texts = trace.token_texts();
  auto chart = std::make_unique<RedistributionChart>();
  chart->title = "Where the evicted attention goes";
  chart->subtitle = run.label + ", budget " + chosen_budget(request).text + "; layer " + std::to_string(layer) +
                    ", query head " + std::to_string(place.head) + ", decode step " + std::to_string(place.step);
  chart->has_factors = true;
  chart->factors = {shift.evicted_mass, shift.value_displacement, shift.output_norm, shift.head_output_error};
  const int top = request.options.integer("top");
  chart->sections.push_back({"Attention by region", region_bars(shift.region_before.data(), shift.region_after.data())});
  chart->sections.push_back({"Kept tokens that receive most", token_bars(shift, texts, top, false, [&](std::size_t i) {
                               return shift.after[i] - shift.before[i];
                             })});
  chart->sections.push_back(
      {"Evicted tokens that had most", token_bars(shift, texts, top, true, [&](std::size_t i) { return shift.before[i]; })});
  return chart;
}

std::unique_ptr<Figure> of_means(const FigureRequest& request, const RunSummary& run) {
  const auto before = run.regions.find("region_mass_before"), after = run.regions.find("region_mass_after");
  if (before == run.regions.end() || after == run.regions.end() || before->second.means.size() != num_regions ||
      after->second.means.size() != num_regions)
    throw figure_error(request, run.label + " was replayed without region_mass_before and region_mass_after",
                       "replay with all metrics, or name the trace to see a single query");
  auto chart = std::make_unique<RedistributionChart>();
  chart->title = "Where the evicted attention goes";
  chart->subtitle = run.label + ", budget " + chosen_budget(request).text + "; mean over layers, heads and steps";
  chart->sections.push_back({"Attention by region", region_bars(before->second.means.data(), after->second.means.data())});
  return chart;
}

std::unique_ptr<Figure> make(const FigureRequest& request) {
  const RunSummary& run = chosen_run(request);
  const Trace* trace = results_of(request).trace_of(run.info);
  if (request.options.text("view") == "mean") return of_means(request, run);
  if (run.info.summary_only)
    throw figure_error(request, "these results do not say which tokens were evicted", "--view mean");
  if (trace == nullptr)
    throw figure_error(request, "the trace " + printable(run.info.trace) + " is not there any more",
                       "name it beside the results, or draw the means of the regions with --view mean");
  return of_query(request, run, *trace);
}

}  // namespace

const FigureKind& redistribution_kind() {
  static const FigureKind kind = {
      .name = "redistribution",
      .idea =
          "Attention before and after over regions and tokens, and the two factors of the error: evicted mass × value "
          "displacement.",
      .needs = "results and their trace; the results alone for the mean over all queries",
      .parameters = {policy_option(), budget_option(),
                     choice_option("view", "query: one head at one step. mean: regions, over layers, heads and steps",
                                   {"query", "mean"}, "query"),
                     text_option("layer", "model layer; auto: where the head's output is changed most", "auto"),
                     text_option("head", "query head; auto: likewise", "auto"),
                     text_option("step", "decode step, from 1; auto: likewise", "auto"),
                     integer_option("top", "how many tokens", 1, 6)},
      .make = make,
  };
  return kind;
}

}  // namespace kvreplay::figure
