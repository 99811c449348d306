#include "core/replay/edit.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/replay/edit_internal.h"

namespace kvreplay {

TokenEdit TokenEdit::parse(Kind kind, std::string_view text) {
  const char* option = kind == Kind::restore ? "--restore" : "--drop";
  const auto refuse = [&] {
    return Error(option, "\"" + printable(text) + "\" names no token",
                 "write HEAD:TOKEN or LAYER:HEAD:TOKEN, numbers from 0; HEAD and LAYER may be *");
  };
  const auto parts = split(text, ':');
  if (parts.size() < 2 || parts.size() > 3) throw refuse();
  const auto number = [&](const std::string& part, bool any_allowed) {
    std::int64_t value = -1;
    if (any_allowed && part == "*") return value;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (part.empty() || error != std::errc{} || end != part.data() + part.size() || value < 0 || value > 0x7fffffff)
      throw refuse();
    return value;
  };
  TokenEdit edit;
  edit.kind = kind;
  edit.token = number(parts.back(), false);
  edit.head = number(parts[parts.size() - 2], true);
  if (parts.size() == 3) edit.layer = static_cast<int>(number(parts[0], true));
  return edit;
}

std::string TokenEdit::text() const {
  const std::string head_text = head < 0 ? "*" : std::to_string(head);
  return std::string(kind == Kind::restore ? "restore " : "drop ") + (layer < 0 ? "" : std::to_string(layer) + ":") +
         head_text + ":" + std::to_string(token);
}

std::int64_t TokenEdit::apply(const LoadedLayer& loaded, Tensor<std::int32_t, 2>& evicted_at) const {
  if (token < loaded.first_candidate) return 0;  // the sliding window took it, not the policy
  const auto own_step = static_cast<std::int32_t>(token < loaded.prompt ? 0 : token - loaded.prompt + 1);
  const std::int32_t wanted = kind == Kind::restore ? -1 : own_step;
  std::int64_t changed = 0;
  for (std::int64_t h = 0; h < evicted_at.dim(0); ++h) {
    if (head >= 0 && h != head) continue;
    std::int32_t& when = evicted_at(h, token);
    changed += when != wanted ? 1 : 0;
    when = wanted;
  }
  return changed;
}

void check_edit(const TokenEdit& edit, const Trace& trace, const Policy& policy, const std::string& label) {
  const char* option = edit.kind == TokenEdit::Kind::restore ? "--restore" : "--drop";
  const std::string where = std::string(option) + " " + edit.text().substr(edit.text().find(' ') + 1);
  const auto& layers = trace.layers();
  if (policy.changes_rows())
    throw Error(where, label + " changes keys or values beside evicting, so no token returns or leaves as it was",
                "leave the policy out, or the option");
  if (edit.token >= trace.num_tokens())
    throw Error(where, trace.path() + " has no token " + std::to_string(edit.token),
                "it has " + std::to_string(trace.num_tokens()) + ", counted from 0");
  if (edit.layer >= 0 && std::find(layers.begin(), layers.end(), edit.layer) == layers.end())
    throw Error(where, trace.path() + " has no layer " + std::to_string(edit.layer),
                "`kvreplay inspect` lists the layers that were captured");
  const std::int64_t rows = granularity_heads(policy.granularity(), trace.model());
  if (edit.head >= rows)
    throw Error(where,
                label + " has " + std::to_string(rows) + " rows a layer (" +
                    std::string(granularity_name(policy.granularity())) + "), and no row " + std::to_string(edit.head),
                "count from 0, or write * for all");
}

void refuse_edit(const TokenEdit& edit, const Trace& trace, const std::string& label, std::int64_t budget) {
  const bool restore = edit.kind == TokenEdit::Kind::restore;
  const std::string run = label + " at " + std::to_string(budget) + " tokens on " + trace.path();
  throw Error((restore ? "--restore" : "--drop") + edit.text().substr(edit.text().find(' ')),
              restore ? run + " keeps this token, so there is nothing to restore"
                      : run + " has evicted this token already, so there is nothing to drop",
              restore ? "--worth N lists evicted tokens" : "--restore measures what it was worth");
}

namespace {

double mean_of(std::span<const float> values) {
  MeanOf mean;
  for (const float value : values)
    if (!std::isnan(value)) mean.add(value);
  return mean.count > 0 ? mean.mean() : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

LayerErrors layer_errors(const MetricTable& table, const MetricSink& sink, std::size_t run, std::int64_t steps) {
  LayerErrors errors;
  errors.output = std::numeric_limits<double>::quiet_NaN();
  for (std::size_t m = 0; m < table.rows().size(); ++m) {
    const std::string& name = table.rows()[m].metric->info().name;
    const std::span<const float> values = sink.values(run, m);
    if (name == "output_error" || name == "output_error_unprojected") errors.output = mean_of(values);
    if (name != "head_output_error" || steps == 0) continue;
    for (std::size_t first = 0; first < values.size(); first += static_cast<std::size_t>(steps))
      errors.head.push_back(mean_of(values.subspan(first, static_cast<std::size_t>(steps))));
  }
  return errors;
}

void summarise_edit(const TokenEdit& edit, const Trace& trace, Granularity granularity,
                    const std::vector<LayerErrors>& before, const std::vector<LayerErrors>& after,
                    std::map<std::string, double>& summary) {
  const std::int64_t rows = granularity_heads(granularity, trace.model()), heads = trace.model().num_query_heads;
  const auto write = [&](const std::string& suffix, const std::vector<LayerErrors>& errors) {
    MeanOf output, head;
    for (std::size_t l = 0; l < errors.size(); ++l) {
      if (!edit.touches(trace.layers()[l])) continue;
      if (!std::isnan(errors[l].output)) output.add(errors[l].output);
      for (std::size_t q = 0; q < errors[l].head.size(); ++q)
        if ((edit.head < 0 || static_cast<std::int64_t>(q) * rows / heads == edit.head) && !std::isnan(errors[l].head[q]))
          head.add(errors[l].head[q]);
    }
    if (output.count > 0) summary["edit.output_error" + suffix] = output.mean();
    if (head.count > 0) summary["edit.head_output_error" + suffix] = head.mean();
  };
  write(".before", before);
  write(".after", after);
}

}  // namespace kvreplay
