#include "gui/model/explain.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "core/base/parallel.h"
#include "core/base/text.h"
#include "core/policy/stages/stages.h"
#include "core/policy/wrappers/wrapper.h"
#include "gui/model/token_values.h"

namespace kvreplay::gui {
namespace {

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }
constexpr double not_known = std::numeric_limits<double>::quiet_NaN();

// ---- where a score stands -----------------------------------------------------------------------------------------------

// Positions without a score at either end of a row that has scores are those that the policy always keeps.
Fate fate_of(const Run& run, std::span<const float> scores, std::int64_t token, std::int32_t evicted_at) {
  if (evicted_at >= 0) return Fate::evicted;
  if (token >= run.prompt) return Fate::generated;
  if (scores.empty() || !std::isnan(scores[at(token)])) return Fate::kept;
  const auto is_scored = [](float score) { return !std::isnan(score); };
  if (std::none_of(scores.begin(), scores.end(), is_scored)) return Fate::kept;
  if (std::none_of(scores.begin() + token, scores.end(), is_scored)) return Fate::in_window;
  if (std::none_of(scores.begin(), scores.begin() + token, is_scored)) return Fate::in_sinks;
  return Fate::kept;
}

// ---- what a score is made of
// ----------------------------------------------------------------------------------------------

struct WindowRecipe {
  enum class Kind : std::uint8_t { attention, attention_value, reconstruction };
  Kind kind = Kind::attention;
  int window = 0;
  std::string temporal;
  double alpha = 0;
  bool before = true;
  ReconstructionForm form;
  Grouping grouping;
  std::string pooling;  // "max, kernel 7"
  int reach = 0;        // of pooling, to either side; of an adaptive one at least
};

bool has_text(const ParameterValues& values, const std::string& key, const std::string& text) {
  return values.has(key) && values.text(key) == text;
}

// The window policies: presets of an attention indicator, ReST-KV, and free compositions of either.
std::optional<WindowRecipe> recipe_of(const PolicySpec& spec) {
  const std::string& name = spec.description->name;
  const ParameterValues& values = spec.values;
  WindowRecipe recipe;
  const bool composed = name == "compose";
  if (spec.variant == "kvpress" || !values.has("window") || !values.has("granularity")) return std::nullopt;
  if (name == "restkv" || (composed && values.text("indicator") == "reconstruction"))
    recipe.kind = WindowRecipe::Kind::reconstruction;
  else if (composed && values.text("indicator") == "attention_value")
    recipe.kind = WindowRecipe::Kind::attention_value;
  else if (name != "snapkv" && name != "pyramidkv" && name != "adakv" && name != "headkv" &&
           !(composed && values.text("indicator") == "attention"))
    return std::nullopt;
  recipe.window = values.integer("window");
  recipe.temporal = values.has("temporal") ? values.text("temporal") : name == "adakv" || name == "headkv" ? "mean" : "sum";
  recipe.alpha = values.has("alpha") ? values.real("alpha") : 0;
  recipe.grouping = grouping_of(values);
  recipe.before = !has_text(values, "metric", "after");
  recipe.form.project = !has_text(values, "project", "false");
  recipe.form.normalize = has_text(values, "normalize", "true");
  recipe.form.tau = !recipe.before && values.has("tau") ? values.real("tau") : 1;
  recipe.form.prefix_output = (name == "restkv" && spec.variant == "released") || has_text(values, "scope", "prefix");
  recipe.pooling = values.has("pooling") ? values.text("pooling") : "none";
  if (recipe.pooling != "none" && values.has("kernel")) {
    recipe.pooling += ", kernel " + values.text("kernel");
    recipe.reach = values.integer("kernel") / 2;
  }
  return recipe;
}

std::string stages_text(const PolicySpec& spec) {
  std::string text = spec.description->stages;
  for (const PolicyWrapper* wrapper : wrapper_registry())
    if (wrapper->is_active(spec.values)) text += "; around it " + wrapper->name + "=" + spec.values.text(wrapper->name);
  return text;
}

// One column of an array [H, W, n] or [H, n], of one row: [W] or one number.
std::vector<double> column_of(Backend& backend, const Array& array, std::int64_t row, std::int64_t column) {
  const std::vector<float> values = backend.download(array);
  const std::int64_t queries = array.shape().size() == 3 ? array.dim(1) : 1, n = array.shape().back();
  std::vector<double> out;
  for (std::int64_t query = 0; query < queries; ++query)
    out.push_back(static_cast<double>(values[at((row * queries + query) * n + column)]));
  return out;
}

double weighted(const std::vector<double>& weights, const std::vector<double>& values) {
  double sum = 0;
  for (std::size_t i = 0; i < values.size(); ++i) sum += weights[i] * values[i];
  return sum;
}

std::string over_window(const WindowRecipe& recipe) {
  const std::string queries = "the last " + std::to_string(recipe.window) + " prompt queries";
  if (recipe.temporal == "ema" || recipe.temporal == "inv-ema")
    return recipe.temporal + " (alpha " + format_number(recipe.alpha) + ") over " + queries;
  return recipe.temporal == "last" || recipe.temporal == "none" ? "the last prompt query"
                                                                : recipe.temporal + " over " + queries;
}

struct RowPlace {
  std::int64_t row = 0, column = 0;
  std::string group;  // ", mean of 4 query heads"
};

std::string group_text(const WindowRecipe& recipe, const ModelInfo& model) {
  const std::int64_t heads = model.num_query_heads / granularity_heads(recipe.grouping.granularity, model);
  if (heads == 1) return {};
  const char* how = recipe.grouping.reduction == Reduction::mean  ? "mean"
                    : recipe.grouping.reduction == Reduction::max ? "max"
                                                                  : "sum";
  return ", " + std::string(how) + " of " + std::to_string(heads) + " query heads";
}

// Odds averaged as the errors are, so that odds times the displacement below is the error exactly.
double reconstruction_odds(LayerWorkspace& workspace, const WindowRecipe& recipe, const std::vector<double>& weights,
                           const RowPlace& place) {
  const AttentionRows& rows = workspace.window_attention(recipe.window);
  const std::vector<float> weight = workspace.backend().download(rows.weight),
                           dominant = workspace.backend().download(rows.dominant);
  const std::int64_t n = rows.weight.dim(2), queries = recipe.window, heads = rows.weight.dim(0);
  const std::int64_t stored = granularity_heads(recipe.grouping.granularity, workspace.model());
  double total = 0, count = 0;
  for (std::int64_t head = place.row * heads / stored; head < (place.row + 1) * heads / stored; ++head, ++count) {
    std::vector<double> attention, rest;
    for (std::int64_t query = 0; query < queries; ++query) {
      const double a = static_cast<double>(weight[at((head * queries + query) * n + place.column)]);
      const bool is_dominant = static_cast<std::int64_t>(dominant[at((head * queries + query) * 2)]) == place.column;
      attention.push_back(a);
      rest.push_back(is_dominant ? static_cast<double>(dominant[at((head * queries + query) * 2 + 1)]) : 1 - a);
    }
    if (!recipe.before) {
      total += weighted(weights, attention) / weighted(weights, rest);
      continue;
    }
    for (std::size_t query = 0; query < attention.size(); ++query) total += weights[query] * attention[query] / rest[query];
  }
  return recipe.grouping.reduction == Reduction::sum ? total : total / count;
}

// Fills everything that comes before pooling.
void explain_window(LayerWorkspace& workspace, const WindowRecipe& recipe, const RowPlace& place, ScoreTerms& out) {
  Backend& backend = workspace.backend();
  const std::vector<double> weights = temporal_weights(recipe.temporal, recipe.alpha, recipe.window);
  out.weight = weights;
  const AttentionRows& rows = workspace.window_attention(recipe.window);
  const Array grouped = recipe.grouping.apply(workspace, rows.weight);
  out.attention = column_of(backend, grouped, place.row, place.column);
  out.terms.push_back({"attention a", over_window(recipe) + place.group, weighted(weights, out.attention)});

  std::unique_ptr<Indicator> indicator;
  if (recipe.kind == WindowRecipe::Kind::reconstruction) {
    ReconstructionSettings settings{recipe.window, weights, recipe.before, recipe.form,
                                    recipe.temporal + "," + format_number(recipe.alpha)};
    indicator = reconstruction_indicator(settings, recipe.grouping);
  } else if (recipe.kind == WindowRecipe::Kind::attention_value) {
    indicator = attention_value_indicator(recipe.window, weights, recipe.grouping);
  } else {
    indicator = attention_indicator(recipe.window, weights, recipe.grouping);
  }
  const std::vector<float> scores = backend.download(indicator->score(workspace, 0));
  const std::int64_t n = workspace.candidates();
  const auto score_at = [&](std::int64_t column) { return static_cast<double>(scores[at(place.row * n + column)]); };
  out.before_pooling = score_at(place.column);
  for (std::size_t i = 0; i < out.neighbours_after.size(); ++i)
    out.neighbours_before.push_back(score_at(out.around + static_cast<std::int64_t>(i) - workspace.first_candidate()));

  if (recipe.kind == WindowRecipe::Kind::reconstruction) {
    const double odds = reconstruction_odds(workspace, recipe, weights, place);
    const std::string norm = recipe.form.project ? "‖W_o (o − v)‖" : "‖o − v‖";
    out.terms.push_back(
        {"odds a / (1 − a)",
         recipe.before ? "of every query, " + over_window(recipe) + place.group : "of the averaged attention" + place.group,
         odds});
    out.terms.push_back({"value displacement " + norm + (recipe.form.normalize ? " / ‖W_o o‖" : ""),
                         "how far the output is from the token's value, mean weighted by the odds",
                         odds > 0 ? out.before_pooling / odds : not_known});
    out.terms.push_back(
        {"removal error: odds × displacement", "what the output changes by if this token alone goes", out.before_pooling});
    if (recipe.before)
      out.error = column_of(
          backend, recipe.grouping.apply(workspace, backend.removal_error_rows(workspace.loaded(), rows, recipe.form)),
          place.row, place.column);
  } else if (recipe.kind == WindowRecipe::Kind::attention_value) {
    const double attention = out.terms.front().value;
    out.terms.push_back({"value norm ‖v‖", "", attention > 0 ? out.before_pooling / attention : not_known});
    out.terms.push_back({"attention × ‖v‖", "", out.before_pooling});
  }
}

// ---- removing one token
// -----------------------------------------------------------------------------------------------------

// One head with the full cache in float64: of each recorded query ln Σ exp(z) and o.
struct FullHead {
  std::vector<double> log_sum_exp;          // [S], NaN where the query was not recorded
  std::vector<std::vector<double>> output;  // [S][d]
};

struct Head {
  const ModelInfo& model;
  const Tensor<float, 3>&key, &value, &query;  // [1, T, d], [1, T, d], [1, rows, d]

  double logit(std::int64_t row, std::int64_t token) const {
    double product = 0;
    const float *q = &query(0, row, 0), *k = &key(0, token, 0);
    for (int i = 0; i < model.head_dim; ++i) product += static_cast<double>(q[i]) * static_cast<double>(k[i]);
    product *= model.attention_scale;
    return model.logit_softcap ? *model.logit_softcap * std::tanh(product / *model.logit_softcap) : product;
  }
};

// The rows of recorded decode queries: [S], -1 where there is none.
std::vector<std::int64_t> decode_rows(const Trace& trace) {
  std::vector<std::int64_t> rows(at(trace.num_decode_steps()), -1);
  const auto& positions = trace.query_positions();
  for (std::size_t row = 0; row < positions.size(); ++row)
    if (positions[row] >= trace.prompt_length())
      rows[at(positions[row] - trace.prompt_length())] = static_cast<std::int64_t>(row);
  return rows;
}

FullHead full_head(const LoadedLayer& layer, const Head& head, const std::vector<std::int64_t>& rows) {
  FullHead full;
  full.log_sum_exp.assign(rows.size(), not_known);
  full.output.resize(rows.size());
  std::vector<double> logits;
  for (std::size_t step = 0; step < rows.size(); ++step) {
    if (rows[step] < 0) continue;
    const std::int64_t position = layer.prompt + static_cast<std::int64_t>(step), low = layer.first_visible(position);
    logits.clear();
    for (std::int64_t token = low; token <= position; ++token) logits.push_back(head.logit(rows[step], token));
    const double top = *std::max_element(logits.begin(), logits.end());
    double total = 0;
    auto& output = full.output[step];
    output.assign(at(layer.head_dim), 0.0);
    for (std::int64_t token = low; token <= position; ++token) {
      const double weight = std::exp(logits[at(token - low)] - top);
      const float* v = &head.value(0, token, 0);
      total += weight;
      for (std::size_t i = 0; i < output.size(); ++i) output[i] += weight * static_cast<double>(v[i]);
    }
    for (double& x : output) x /= total;
    full.log_sum_exp[step] = top + std::log(total);
  }
  return full;
}

double norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double each : x) sum += each * each;
  return std::sqrt(sum);
}

// ‖W_h x‖ through W_o, its Gram matrices, or without either ‖x‖.
class OutputNorm {
 public:
  OutputNorm(const Document& document, int layer) : dim_(document.model().head_dim) {
    if (document.has(layer, LayerDataset::output_projection))
      projection_ = document.tensor(layer, LayerDataset::output_projection);
    else if (document.has(layer, LayerDataset::output_gram))
      gram_ = document.tensor(layer, LayerDataset::output_gram);
  }
  bool projected() const { return projection_ != nullptr || gram_ != nullptr; }
  double operator()(int head, const std::vector<double>& x) const {
    if (projection_ != nullptr) {
      double sum = 0;
      for (std::int64_t c = 0; c < projection_->dim(1); ++c) {
        const double y = product(&(*projection_)(0, c, head * dim_), x);
        sum += y * y;
      }
      return std::sqrt(sum);
    }
    if (gram_ == nullptr) return norm(x);
    double sum = 0;
    for (std::int64_t i = 0; i < dim_; ++i) sum += x[at(i)] * product(&(*gram_)(head, i, 0), x);
    return std::sqrt(std::max(0.0, sum));
  }

 private:
  static double product(const float* row, const std::vector<double>& x) {
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += static_cast<double>(row[i]) * x[i];
    return sum;
  }
  std::int64_t dim_;
  std::shared_ptr<const Tensor<float, 3>> projection_, gram_;
};

// Of all tokens but one: Σ exp(z) in logarithms, and the mean of their values weighted by it.
std::pair<double, std::vector<double>> all_but(const LoadedLayer& layer, const Head& head, std::int64_t row,
                                               std::int64_t position, std::int64_t token) {
  double top = -std::numeric_limits<double>::infinity(), total = 0;
  std::vector<double> logits, mean(at(layer.head_dim), 0.0);
  const std::int64_t low = layer.first_visible(position);
  for (std::int64_t other = low; other <= position; ++other) {
    logits.push_back(other == token ? -std::numeric_limits<double>::infinity() : head.logit(row, other));
    top = std::max(top, logits.back());
  }
  for (std::int64_t other = low; other <= position; ++other) {
    if (other == token) continue;
    const double weight = std::exp(logits[at(other - low)] - top);
    total += weight;
    for (std::size_t i = 0; i < mean.size(); ++i)
      mean[i] += weight * static_cast<double>(head.value(0, other, static_cast<std::int64_t>(i)));
  }
  for (double& x : mean) x /= total;
  return {top + std::log(total), std::move(mean)};
}

// Of a weight above 1/2, 1 - a and o - v come from the other tokens: as differences they would be of nearly equal numbers.
Removal removal_at(const LoadedLayer& layer, const Head& head, const FullHead& full, const OutputNorm& output_norm,
                   std::int64_t row, std::size_t step, std::int64_t token, int number) {
  Removal removal;
  removal.head = number;
  const std::int64_t position = layer.prompt + static_cast<std::int64_t>(step);
  if (row < 0 || token > position || token < layer.first_visible(position)) return removal;
  removal.recorded = true;
  const double logit = head.logit(row, token);
  removal.attention = std::exp(logit - full.log_sum_exp[step]);
  const auto apart = [&](const std::vector<double>& from) {
    std::vector<double> moved = from;
    for (std::size_t i = 0; i < moved.size(); ++i)
      moved[i] -= static_cast<double>(head.value(0, token, static_cast<std::int64_t>(i)));
    return output_norm(number, moved);
  };
  if (removal.attention > 0.5 && position > layer.first_visible(position)) {
    const auto [others, mean] = all_but(layer, head, row, position, token);
    const double rest = std::exp(others - full.log_sum_exp[step]);
    removal.odds = std::exp(logit - others);
    removal.displacement = rest * apart(mean);
    removal.error = removal.attention * apart(mean);
  } else {
    removal.odds = removal.attention / (1 - removal.attention);
    removal.displacement = apart(full.output[step]);
    removal.error = removal.odds * removal.displacement;
  }
  const double size = output_norm(number, full.output[step]);
  removal.relative = size > 0 ? removal.error / size : 0;
  return removal;
}

}  // namespace

Standing standing_of(const Run& run, int layer, int row, std::int64_t token) {
  const RunLayer& of_layer = *run.layer(layer);
  const auto evicted_at = of_layer.evicted_at().view()[row].flat();
  std::span<const float> scores;
  if (!of_layer.scores().empty()) scores = of_layer.scores().view()[row].flat();
  Standing standing;
  standing.row = row;
  standing.evicted_at = evicted_at[at(token)];
  standing.fate = fate_of(run, scores, token, standing.evicted_at);
  if (scores.empty() || token >= run.prompt || std::isnan(scores[at(token)])) return standing;

  standing.scored = true;
  standing.score = scores[at(token)];
  standing.rank = 1;
  float lowest_kept = std::numeric_limits<float>::infinity(), highest_gone = -lowest_kept;
  for (std::int64_t other = 0; other < run.prompt; ++other) {
    const float score = scores[at(other)];
    if (std::isnan(score)) continue;
    ++standing.candidates;
    if (score > standing.score || (score == standing.score && other < token)) ++standing.rank;
    if (evicted_at[at(other)] != 0) {
      ++standing.kept_candidates;
      lowest_kept = std::min(lowest_kept, score);
    } else {
      highest_gone = std::max(highest_gone, score);
    }
  }
  standing.cut = lowest_kept;
  standing.by_score = !(highest_gone > lowest_kept);
  return standing;
}

ScoreTerms score_terms(LayerWorkspace& workspace, const Run& run, int layer, int row, std::int64_t token) {
  ScoreTerms out;
  const PolicySpec spec = parse_policy(run.info.policy);
  out.stages = stages_text(spec);
  if (token >= run.prompt || token < workspace.first_candidate()) return out;
  const auto recipe = recipe_of(spec);
  const std::int64_t reach = recipe ? recipe->reach : 0;
  const Tensor<float, 2>& scores = run.layer(layer)->scores();
  double ranked = not_known;
  if (!scores.empty()) {
    ranked = static_cast<double>(scores(row, token));
    out.around = std::max(workspace.first_candidate(), token - reach);
    for (std::int64_t other = out.around; other < std::min(run.prompt, token + reach + 1); ++other)
      out.neighbours_after.push_back(static_cast<double>(scores(row, other)));
  }
  if (recipe) {
    const RowPlace place{row, token - workspace.first_candidate(), group_text(*recipe, workspace.model())};
    explain_window(workspace, *recipe, place, out);
    if (recipe->pooling != "none") out.terms.push_back({"after pooling", recipe->pooling, ranked});
  } else if (!std::isnan(ranked)) {
    out.terms.push_back({"score", "what the policy ranked by", ranked});
  }
  return out;
}

Removals removals_of(LayerWorkspace& workspace, const Document& document, int layer, const std::vector<int>& heads,
                     std::int64_t token, int step) {
  const Trace& trace = document.trace();
  const ModelInfo& model = trace.model();
  const LoadedLayer& loaded = workspace.loaded();
  const int number = document.layer_number(layer);
  const std::vector<std::int64_t> rows = decode_rows(trace);
  const OutputNorm output_norm(document, layer);
  Removals removals;
  removals.projected = output_norm.projected();
  removals.heads.resize(heads.size());
  const std::int64_t shown = query_position(document, step) - document.prompt_length();
  parallel_for(static_cast<std::int64_t>(heads.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const int head = heads[at(i)], kv_head = head / model.group_size();
      const auto key = trace.read(number, LayerDataset::key, {kv_head, kv_head + 1});
      const auto value = trace.read(number, LayerDataset::value, {kv_head, kv_head + 1});
      const auto query = trace.read(number, LayerDataset::query, {head, head + 1});
      const Head tensors{model, key, value, query};
      const FullHead& full = workspace.shared<FullHead>("explain:full head " + std::to_string(head),
                                                        [&] { return full_head(loaded, tensors, rows); });
      double sum = 0;
      std::int64_t count = 0;
      Removal& out = removals.heads[at(i)];
      out.head = head;
      for (std::size_t s = 0; s < rows.size(); ++s) {
        const Removal one = removal_at(loaded, tensors, full, output_norm, rows[s], s, token, head);
        if (!one.recorded) continue;
        sum += one.relative;
        ++count;
        if (static_cast<std::int64_t>(s) == shown) out = one;
      }
      if (count > 0) out.mean_relative = sum / static_cast<double>(count);
    }
  });
  return removals;
}

}  // namespace kvreplay::gui
