#include "core/report/comparison.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <set>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/report/metric_info.h"
#include "core/report/policy_label.h"

namespace kvreplay {
namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

std::size_t axis_place(const MetricValues& values, const std::string& axis) {
  return static_cast<std::size_t>(std::find(values.axes.begin(), values.axes.end(), axis) - values.axes.begin());
}

// Mean over all axes but the first `kept_axes`, NaN left out; NaN where nothing is left.
std::vector<double> mean_over_rest(const MetricValues& values, std::size_t kept_axes) {
  std::int64_t kept = 1, rest = 1;
  for (std::size_t axis = 0; axis < values.shape.size(); ++axis) (axis < kept_axes ? kept : rest) *= values.shape[axis];
  std::vector<double> means(static_cast<std::size_t>(kept), not_a_number);
  for (std::int64_t i = 0; i < kept; ++i) {
    double sum = 0;
    std::int64_t count = 0;
    for (std::int64_t k = 0; k < rest; ++k) {
      const float value = values.values[static_cast<std::size_t>(i * rest + k)];
      if (std::isnan(value)) continue;
      sum += value;
      ++count;
    }
    if (count > 0) means[static_cast<std::size_t>(i)] = sum / static_cast<double>(count);
  }
  return means;
}

// For files that do not name their axes: those of the registry where the rank is right.
std::vector<std::string> usual_axes(const std::string& name, std::size_t rank) {
  std::vector<std::string> axes = metric_info(name).axes;
  if (axes.size() != rank) axes = {"layer", "query_head", "step", "region"}, axes.resize(rank);
  return axes;
}

constexpr std::int64_t usual_early_steps = 16;  // of files that do not say how many were asked for

// Means over the first steps after the prompt and over the rest, NaN left out.
void split_regimes(const MetricValues& values, std::int64_t early_steps, MetricSummary& summary) {
  summary.early = summary.late = not_a_number;
  if (values.axes.empty() || values.axes.back() != "step") return;
  const auto steps = static_cast<std::size_t>(values.shape.back());
  std::vector<double> early, late;
  for (std::size_t i = 0; i < values.values.size(); ++i)
    (static_cast<std::int64_t>(i % steps) < early_steps ? early : late).push_back(values.values[i]);
  summary.early = distribution_of(std::move(early)).mean;
  summary.late = distribution_of(std::move(late)).mean;
}

MetricSummary summarise(const MetricValues& values, std::int64_t early_steps) {
  MetricSummary summary;
  split_regimes(values, early_steps, summary);
  summary.regret = not_a_number;
  summary.interval = {not_a_number, not_a_number};
  summary.by_layer = mean_over_rest(values, 1);
  const bool heads = axis_place(values, "query_head") == 1;
  if (heads) summary.by_head = mean_over_rest(values, 2);
  summary.over = heads ? "heads" : "layers";
  summary.distribution = distribution_of(heads ? summary.by_head : summary.by_layer);
  return summary;
}

RegionSummary summarise_regions(const MetricValues& values) {
  const auto regions = static_cast<std::size_t>(values.shape.back());
  RegionSummary summary;
  std::vector<double> sums(regions, 0.0);
  std::vector<std::int64_t> counts(regions, 0);
  for (std::size_t i = 0; i < values.values.size(); ++i) {
    if (std::isnan(values.values[i])) continue;
    sums[i % regions] += values.values[i];
    ++counts[i % regions];
  }
  for (std::size_t r = 0; r < regions; ++r) {
    summary.names.push_back(r < values.region_names.size() ? values.region_names[r] : "region " + std::to_string(r));
    summary.means.push_back(counts[r] > 0 ? sums[r] / static_cast<double>(counts[r]) : not_a_number);
  }
  return summary;
}

// What was evicted, counted layer by layer so that no more than one layer is in memory.
void count_evicted(const Results& file, RunSummary& run) {
  std::int64_t kept_entries = 0;
  for (std::int64_t layer = 0; layer < run.layers; ++layer) {
    const Tensor<std::int32_t, 2> evicted_at = file.evicted_at(run.run, layer);
    for (std::int64_t head = 0; head < run.heads; ++head) {
      std::int64_t kept = 0;
      for (std::int64_t token = 0; token < run.tokens; ++token) {
        const std::int32_t when = evicted_at(head, token);
        if (when >= 0) ++run.evicted;
        if (token < run.prompt_length && when != 0) ++kept;
      }
      if (kept == 0 && run.prompt_length > 0) ++run.empty_heads;
      kept_entries += kept;
    }
  }
  const auto rows = static_cast<double>(std::max<std::int64_t>(1, run.layers * run.heads));
  run.evicted_per_head = static_cast<double>(run.evicted) / rows;
  const double kept_share =
      static_cast<double>(kept_entries) / (rows * static_cast<double>(std::max<std::int64_t>(1, run.prompt_length)));
  if (kept_share > 0 && run.info.full_cache_bytes > 0 && run.info.granularity == "query_head")
    run.bytes_factor =
        static_cast<double>(run.info.cache_bytes) / static_cast<double>(run.info.full_cache_bytes) / kept_share;
}

// Of a file that has summaries only: means, without layers and heads.
void read_summaries(RunSummary& run) {
  const auto& summary = run.info.summary;
  const auto value = [&](const std::string& key) {
    const auto found = summary.find(key);
    return found == summary.end() ? not_a_number : found->second;
  };
  for (const auto& name : metric_order()) {
    if (!summary.contains(name)) continue;
    const MetricInfo& info = metric_info(name);
    if (!info.axes.empty() && info.axes.back() == "region") {
      RegionSummary regions;
      for (const char* region : region_names) {
        regions.names.emplace_back(region);
        regions.means.push_back(value(name + "." + region));
      }
      run.regions.emplace(name, std::move(regions));
      continue;
    }
    MetricSummary metric;
    metric.over = "runs";
    metric.distribution = distribution_of({});
    metric.distribution.count = 1;
    metric.distribution.mean = value(name);
    metric.early = value(name + ".early");
    metric.late = value(name + ".late");
    metric.regret = not_a_number;
    metric.interval = {not_a_number, not_a_number};
    run.metrics.emplace(name, std::move(metric));
  }
  const double evicted = value("evicted_tokens");
  run.evicted = std::isnan(evicted) ? 0 : std::llround(evicted);
  run.evicted_per_head =
      static_cast<double>(run.evicted) / static_cast<double>(std::max<std::int64_t>(1, run.layers * run.heads));
}

void add_notes(RunSummary& run) {
  run.notes = run.info.notes;
  // It evicts nothing by definition: no warning, also in files of versions that had one.
  if (keeps_everything(run.info.preset))
    std::erase_if(run.notes, [](const std::string& note) { return note.find("nothing was evicted") == 0; });
  const auto noted = [&](const char* words) {
    return std::any_of(run.notes.begin(), run.notes.end(),
                       [words](const std::string& note) { return note.find(words) != std::string::npos; });
  };
  if (run.evicted == 0 && !keeps_everything(run.info.preset) && !noted("evicted"))
    run.notes.emplace_back("nothing was evicted");
  if (run.empty_heads > 0 && !noted("empty"))
    run.notes.push_back(std::to_string(run.empty_heads) + (run.empty_heads == 1 ? " head is" : " heads are") +
                        " empty: no prompt token is left");
  if (run.info.summary_only)
    run.notes.emplace_back("summaries only: what was evicted, layers, heads and steps are not in the file");
  if (run.steps == 0)
    run.notes.emplace_back("nothing was measured: the trace has no generated tokens (capture with --generate N makes some)");
  // 1.01: kept counts are whole numbers, bytes are exact.
  if (run.bytes_factor > 1.01)
    run.notes.push_back("evicts per query head: " + format_number(std::round(run.bytes_factor * 100) / 100) +
                        " times the bytes of as many tokens per KV head");
}

RunSummary read_run(const Results& file, int number, const ComparisonOptions& options) {
  RunSummary run;
  run.results = file.path();
  run.results_name = std::filesystem::path(file.path()).filename().string();
  run.run = number;
  run.file = &file;
  run.info = file.info(number);
  run.label = policy_label(run.info.policy);
  run.bound = is_hindsight_bound(run.info.preset);
  run.early_steps = run.info.early_steps > 0 ? run.info.early_steps : usual_early_steps;
  for (const auto& name : file.metric_names(number)) {
    MetricValues values = file.metric(number, name);
    if (values.axes.size() != values.shape.size()) values.axes = usual_axes(name, values.shape.size());
    const std::size_t step = axis_place(values, "step");
    if (step < values.shape.size()) run.steps = values.shape[step];
    // A value a region is a table of its own, not a number of a head.
    if (axis_place(values, "region") < values.shape.size()) {
      run.regions.emplace(name, summarise_regions(values));
    } else {
      run.metrics.emplace(name, summarise(values, run.early_steps));
    }
  }
  const auto [layers, heads, tokens] = file.shape(number);
  run.layers = layers, run.heads = heads, run.tokens = tokens;
  run.prompt_length = run.info.prompt_length > 0 ? run.info.prompt_length
                      : run.steps >= 0           ? tokens - run.steps
                      : options.prompt_length    ? options.prompt_length(run.info)
                                                 : 0;
  if (run.prompt_length <= 0 || run.prompt_length > tokens) run.prompt_length = tokens;
  run.budget = run.info.equal_bytes > 0 ? run.info.equal_bytes_tokens : run.info.budget;
  run.ratio = static_cast<double>(run.budget) / static_cast<double>(std::max<std::int64_t>(1, run.prompt_length));
  run.info.summary_only ? read_summaries(run) : count_evicted(file, run);
  add_notes(run);
  return run;
}

// Runs of several traces stand beside each other at the same number of tokens where every trace has the same budgets, else
// at the same share of the prompt.
bool same_budgets_everywhere(const Comparison& comparison) {
  std::map<std::string, std::set<std::int64_t>> budgets;
  for (const auto& run : comparison.runs) budgets[run.info.trace].insert(run.budget);
  return std::all_of(budgets.begin(), budgets.end(),
                     [&](const auto& entry) { return entry.second == budgets.begin()->second; });
}

std::int64_t budget_key(const RunSummary& run, bool by_tokens) {
  // Ratios to a tenth of a percent: ⌊P·x/100⌋ differs from x by less than one token.
  return by_tokens ? run.budget : std::llround(run.ratio * 1000);
}

std::string percent(double ratio) {
  const double value = std::round(ratio * 1000) / 10;
  return format_number(value) + " %";
}

MetricSummary pool(const std::vector<const MetricSummary*>& parts) {
  if (parts.size() == 1) return *parts[0];
  MetricSummary all;
  std::vector<double> values, means, regrets, early, late;
  all.over = parts[0]->over;
  for (const auto* part : parts) {
    const auto& source = part->by_head.empty() ? part->by_layer : part->by_head;
    values.insert(values.end(), source.begin(), source.end());
    if (source.empty()) values.push_back(part->distribution.mean);  // summaries only
    means.push_back(part->distribution.mean);
    regrets.push_back(part->regret);
    early.push_back(part->early), late.push_back(part->late);
  }
  // By layer and by head where the traces agree in shape: the mean over traces.
  const auto mean_of = [&](auto member) {
    std::vector<double> mean((parts[0]->*member).size(), 0.0);
    for (const auto* part : parts) {
      if ((part->*member).size() != mean.size()) return std::vector<double>();
      for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += (part->*member)[i] / static_cast<double>(parts.size());
    }
    return mean;
  };
  all.by_layer = mean_of(&MetricSummary::by_layer);
  all.by_head = mean_of(&MetricSummary::by_head);
  all.distribution = distribution_of(std::move(values));
  all.distribution.mean = distribution_of(means).mean;  // every trace counts the same
  all.regret = distribution_of(regrets).mean;
  all.early = distribution_of(early).mean, all.late = distribution_of(late).mean;
  std::erase_if(means, [](double value) { return std::isnan(value); });
  all.interval = bootstrap_mean(means);
  return all;
}

void set_regrets(Comparison& comparison, bool by_tokens) {
  for (auto& run : comparison.runs) {
    for (const auto& bound : comparison.runs) {
      // Where nothing was evicted there is no choice to regret.
      if (run.evicted == 0 || !bound.bound || !bound.info.edit.empty() || bound.info.trace != run.info.trace ||
          bound.info.scope != run.info.scope || budget_key(bound, by_tokens) != budget_key(run, by_tokens))
        continue;
      for (auto& [name, summary] : run.metrics) {
        const auto other = bound.metrics.find(name);
        if (other == bound.metrics.end() || metric_info(name).direction == Direction::neither) continue;
        const double difference = summary.distribution.mean - other->second.distribution.mean;
        summary.regret = higher_is_better(metric_info(name)) ? -difference : difference;
      }
      break;  // the first bound: where there are several, the one listed first
    }
  }
}

void group_by_budget(Comparison& comparison, bool by_tokens) {
  std::map<std::int64_t, std::vector<std::size_t>> groups;
  for (std::size_t i = 0; i < comparison.runs.size(); ++i) groups[budget_key(comparison.runs[i], by_tokens)].push_back(i);
  for (const auto& [key, members] : groups) {
    BudgetGroup group;
    const RunSummary& first = comparison.runs[members[0]];
    group.budget = first.budget, group.ratio = first.ratio;
    const bool one_ratio = std::all_of(members.begin(), members.end(), [&](std::size_t i) {
      return std::abs(comparison.runs[i].ratio - first.ratio) < 5e-4;
    });
    const bool one_budget = std::all_of(members.begin(), members.end(),
                                        [&](std::size_t i) { return comparison.runs[i].budget == first.budget; });
    group.text = one_budget ? std::to_string(group.budget) + " tokens per head" : percent(group.ratio) + " of the prompt";
    const bool equal_bytes = std::all_of(members.begin(), members.end(), [&](std::size_t i) {
      return first.info.equal_bytes > 0 && comparison.runs[i].info.equal_bytes == first.info.equal_bytes;
    });
    if (equal_bytes) group.text = std::to_string(first.info.equal_bytes) + " bytes, as " + group.text;
    if (one_budget && one_ratio) group.text += ", " + percent(group.ratio) + " of the prompt";
    for (const auto& label : comparison.labels) {
      Cell cell;
      cell.label = label;
      std::map<std::string, std::vector<const MetricSummary*>> parts;
      for (std::size_t i : members) {
        const RunSummary& run = comparison.runs[i];
        if (run.label != label) continue;
        cell.bound = run.bound;
        cell.runs.push_back(i);
        for (const auto& [name, summary] : run.metrics) parts[name].push_back(&summary);
      }
      if (cell.runs.empty()) continue;
      for (const auto& [name, list] : parts) cell.metrics.emplace(name, pool(list));
      group.cells.push_back(std::move(cell));
    }
    comparison.budgets.push_back(std::move(group));
  }
}

void list_names(Comparison& comparison) {
  std::set<std::string> present;
  for (const auto& run : comparison.runs) {
    if (std::find(comparison.traces.begin(), comparison.traces.end(), run.info.trace) == comparison.traces.end())
      comparison.traces.push_back(run.info.trace);
    for (const auto& [name, summary] : run.metrics) present.insert(name);
  }
  for (const auto& name : metric_order())
    if (present.erase(name) > 0) comparison.metrics.push_back(name);
  comparison.metrics.insert(comparison.metrics.end(), present.begin(), present.end());
  for (bool bound : {false, true})
    for (const auto& run : comparison.runs)
      if (run.bound == bound &&
          std::find(comparison.labels.begin(), comparison.labels.end(), run.label) == comparison.labels.end())
        comparison.labels.push_back(run.label);
}

// Runs of one policy with other queries scoring or judged, or with a token restored or dropped, are other rows.
void tell_runs_apart(Comparison& comparison) {
  const bool one_scope = std::all_of(comparison.runs.begin(), comparison.runs.end(),
                                     [&](const RunSummary& run) { return run.info.scope == comparison.runs[0].info.scope; });
  for (RunSummary& run : comparison.runs) {
    if (!one_scope && !run.info.scope.empty()) run.label += " [" + run.info.scope + "]";
    if (!run.info.edit.empty()) run.label += " [" + run.info.edit + "]";
  }
}

}  // namespace

const BudgetGroup* Comparison::find_budget(std::int64_t budget) const {
  for (const auto& group : budgets)
    if (group.budget == budget) return &group;
  return nullptr;
}

bool Comparison::has_values(const std::string& metric) const {
  return std::any_of(runs.begin(), runs.end(), [&](const RunSummary& run) {
    const auto found = run.metrics.find(metric);
    return found != run.metrics.end() && found->second.distribution.count > 0;
  });
}

Comparison compare(const std::vector<const Results*>& files, const ComparisonOptions& options, Job& job) {
  Comparison comparison;
  double total = 0, done = 0;
  for (const Results* file : files) total += file->num_runs();
  job.begin("reading results", total, "runs");
  for (const Results* file : files) {
    for (int run = 0; run < file->num_runs(); ++run) {
      job.check();
      comparison.runs.push_back(read_run(*file, run, options));
      job.advance_to(++done);
    }
  }
  job.end();
  if (comparison.runs.empty())
    throw Error(files.empty() ? "report" : files[0]->path(), "there are no runs in it", "`kvreplay replay` makes some");
  tell_runs_apart(comparison);
  list_names(comparison);
  const bool by_tokens = same_budgets_everywhere(comparison);
  set_regrets(comparison, by_tokens);
  group_by_budget(comparison, by_tokens);
  return comparison;
}

std::vector<float> kept_share(const RunSummary& run, std::int64_t layer_index) {
  std::vector<float> share;
  if (run.info.summary_only) return share;
  std::int64_t rows = 0;
  const auto add_layer = [&](const Tensor<std::int32_t, 2>& evicted_at) {
    share.resize(static_cast<std::size_t>(evicted_at.dim(1)), 0.0F);
    for (std::int64_t head = 0; head < evicted_at.dim(0); ++head, ++rows)
      for (std::int64_t token = 0; token < evicted_at.dim(1); ++token)
        if (evicted_at(head, token) < 0) share[static_cast<std::size_t>(token)] += 1.0F;
  };
  if (layer_index >= 0) {
    add_layer(run.file->evicted_at(run.run, layer_index));
  } else {
    for (std::int64_t layer = 0; layer < run.layers; ++layer) add_layer(run.file->evicted_at(run.run, layer));
  }
  for (auto& value : share) value /= static_cast<float>(std::max<std::int64_t>(1, rows));
  return share;
}

const Cell* best_cell(const Comparison& comparison, const BudgetGroup& group, const std::string& metric) {
  if (metric_info(metric).direction == Direction::neither) return nullptr;
  const bool higher = higher_is_better(metric_info(metric));
  const Cell* best = nullptr;
  double best_mean = 0;
  for (const auto& cell : group.cells) {
    const auto found = cell.metrics.find(metric);
    // An edited run is what a policy did not do.
    const bool edited = !comparison.runs[cell.runs.front()].info.edit.empty();
    if (cell.bound || edited || found == cell.metrics.end() || std::isnan(found->second.distribution.mean)) continue;
    // A run that evicted nothing has no error by construction and competes with nobody.
    if (std::all_of(cell.runs.begin(), cell.runs.end(), [&](std::size_t i) { return comparison.runs[i].evicted == 0; }))
      continue;
    const double mean = found->second.distribution.mean;
    if (best == nullptr || (higher ? mean > best_mean : mean < best_mean)) best = &cell, best_mean = mean;
  }
  return best;
}

}  // namespace kvreplay
