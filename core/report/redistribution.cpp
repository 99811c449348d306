#include "core/report/redistribution.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/error.h"

namespace kvreplay {
namespace {

double norm(const std::vector<double>& vector) {
  double sum = 0;
  for (double x : vector) sum += x * x;
  return std::sqrt(sum);
}

void check_place(const Trace& trace, int layer, int query_head, std::int64_t step, std::size_t tokens) {
  const auto& layers = trace.layers();
  if (std::find(layers.begin(), layers.end(), layer) == layers.end())
    throw Error(trace.path(), "has no layer " + std::to_string(layer),
                "it has " + std::to_string(layers.size()) + " layers, " + std::to_string(layers.front()) + " to " +
                    std::to_string(layers.back()));
  const int heads = trace.model().num_query_heads;
  if (query_head < 0 || query_head >= heads)
    throw Error(trace.path(), "has no query head " + std::to_string(query_head),
                "heads are 0 to " + std::to_string(heads - 1));
  if (step < 1 || step > trace.num_decode_steps())
    throw Error(trace.path(), "has no decode step " + std::to_string(step),
                "steps are 1 to " + std::to_string(trace.num_decode_steps()));
  if (tokens != static_cast<std::size_t>(trace.num_tokens()))
    throw Error(trace.path(), "has " + std::to_string(trace.num_tokens()) + " tokens, the run " + std::to_string(tokens),
                "the run is from another trace");
}

// Logits of the query with the keys in [first, position]; infinitely low outside.
std::vector<double> logits_of(const Trace& trace, int layer, int query_head, std::int64_t position, std::int64_t first) {
  const ModelInfo& model = trace.model();
  const auto& recorded = trace.query_positions();
  const auto at = std::lower_bound(recorded.begin(), recorded.end(), position);
  if (at == recorded.end() || *at != position) throw trace.missing_query(position, "a figure of where its attention goes");
  const std::int64_t row = at - recorded.begin();
  const int kv_head = query_head / model.group_size();
  const auto query = trace.read(layer, LayerDataset::query, {query_head, query_head + 1}, {row, row + 1});
  const auto key = trace.read(layer, LayerDataset::key, {kv_head, kv_head + 1}, {first, position + 1});
  std::vector<double> logits(static_cast<std::size_t>(position + 1), -std::numeric_limits<double>::infinity());
  for (std::int64_t i = first; i <= position; ++i) {
    double product = 0;
    for (std::int64_t c = 0; c < model.head_dim; ++c)
      product += static_cast<double>(query(0, 0, c)) * static_cast<double>(key(0, i - first, c));
    product *= model.attention_scale;
    if (model.logit_softcap) product = *model.logit_softcap * std::tanh(product / *model.logit_softcap);
    logits[static_cast<std::size_t>(i)] = product;
  }
  return logits;
}

}  // namespace

Redistribution redistribution_of(const Trace& trace, int layer, int query_head, std::int64_t step,
                                 std::span<const std::int32_t> evicted_at) {
  check_place(trace, layer, query_head, step, evicted_at.size());
  Redistribution out;
  out.layer = layer, out.query_head = query_head, out.step = step;
  out.position = trace.prompt_length() + step - 1;
  const std::int64_t window = trace.sliding_window(layer);
  const std::int64_t first = window > 0 ? std::max<std::int64_t>(0, out.position - window + 1) : 0;
  const std::vector<double> logits = logits_of(trace, layer, query_head, out.position, first);
  const double highest = *std::max_element(logits.begin(), logits.end());

  const auto count = logits.size();
  out.before.assign(count, 0), out.after.assign(count, 0), out.evicted.assign(count, false);
  double total = 0, kept = 0, gone = 0;
  for (std::size_t i = static_cast<std::size_t>(first); i < count; ++i) {
    // Evicted after step s: the query of step s still read it.
    out.evicted[i] = evicted_at[i] >= 0 && evicted_at[i] < step;
    out.before[i] = std::exp(logits[i] - highest);
    total += out.before[i];
    (out.evicted[i] ? gone : kept) += out.before[i];
  }
  for (std::size_t i = static_cast<std::size_t>(first); i < count; ++i) {
    if (!out.evicted[i]) out.after[i] = kept > 0 ? out.before[i] / kept : 0;
    out.before[i] /= total;
  }
  out.evicted_mass = gone / total;

  const int kv_head = query_head / trace.model().group_size();
  const auto value = trace.read(layer, LayerDataset::value, {kv_head, kv_head + 1}, {first, out.position + 1});
  const auto dim = static_cast<std::size_t>(trace.model().head_dim);
  std::vector<double> full(dim), left(dim), lost(dim);
  for (std::size_t i = static_cast<std::size_t>(first); i < count; ++i)
    for (std::size_t c = 0; c < dim; ++c) {
      const double v = value(0, static_cast<std::int64_t>(i) - first, static_cast<std::int64_t>(c));
      full[c] += out.before[i] * v;
      left[c] += out.after[i] * v;
      if (out.evicted[i]) lost[c] += out.before[i] / out.evicted_mass * v;
    }
  std::vector<double> moved(dim), difference(dim);
  for (std::size_t c = 0; c < dim; ++c) moved[c] = left[c] - lost[c], difference[c] = left[c] - full[c];
  out.output_norm = norm(full);
  if (out.evicted_mass > 0) out.value_displacement = norm(moved);
  const double error = norm(difference);
  out.head_output_error = out.output_norm > 0 ? error / out.output_norm : error > 0 ? 1 : 0;

  out.bounds = region_bounds(trace.prompt_length(), trace.num_tokens());
  for (std::size_t r = 0; r < num_regions; ++r)
    for (std::int64_t i = out.bounds[r]; i < std::min<std::int64_t>(out.bounds[r + 1], out.position + 1); ++i) {
      out.region_before[r] += out.before[static_cast<std::size_t>(i)];
      out.region_after[r] += out.after[static_cast<std::size_t>(i)];
    }
  return out;
}

}  // namespace kvreplay
