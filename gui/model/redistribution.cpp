#include "gui/model/redistribution.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "core/base/parallel.h"
#include "core/report/policy_label.h"
#include "core/report/redistribution.h"
#include "gui/model/token_values.h"

namespace kvreplay::gui {
namespace {

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

// The `count` tokens with the largest key above 0, the largest first.
std::vector<MovedToken> largest(const std::vector<MovedToken>& tokens, int count,
                                const std::function<double(const MovedToken&)>& key) {
  std::vector<MovedToken> chosen;
  for (const MovedToken& token : tokens)
    if (key(token) > 0) chosen.push_back(token);
  const auto end = chosen.begin() + std::min<std::ptrdiff_t>(count, std::ssize(chosen));
  std::partial_sort(chosen.begin(), end, chosen.end(), [&](const MovedToken& a, const MovedToken& b) {
    return key(a) != key(b) ? key(a) > key(b) : a.token < b.token;
  });
  chosen.erase(end, chosen.end());
  return chosen;
}

double mean_of(const std::vector<ErrorFactors>& heads, double ErrorFactors::*value) {
  double sum = 0;
  for (const ErrorFactors& head : heads) sum += head.*value;
  return heads.empty() ? 0 : sum / static_cast<double>(heads.size());
}

}  // namespace

double RunRedistribution::evicted_mass() const { return mean_of(heads, &ErrorFactors::evicted_mass); }
double RunRedistribution::relative() const { return mean_of(heads, &ErrorFactors::relative); }

RunRedistribution run_redistribution(const Document& document, const Run& run, const Selection& selection, int count) {
  const RunLayer& layer = *run.layer(selection.layer);
  if (changes_rows(run.info))
    throw Error(run.label, "changes keys or values, so its attention is not that of the recorded ones",
                "choose a policy without merge and with original positions");
  const std::vector<int> heads = heads_of(document, selection);
  const std::int64_t step = query_position(document, selection.step) - document.prompt_length() + 1;
  std::vector<Redistribution> each(heads.size());
  parallel_for(std::ssize(heads), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      each[at(i)] = redistribution_of(document.trace(), document.layer_number(selection.layer), heads[at(i)], step,
                                      layer.evicted_at().view()[run.row_of(heads[at(i)])].flat());
  });

  RunRedistribution out;
  const double share = 1 / static_cast<double>(heads.size());
  std::vector<MovedToken> tokens(each.front().before.size());
  for (std::size_t token = 0; token < tokens.size(); ++token) tokens[token].token = static_cast<std::int64_t>(token);
  for (const Redistribution& one : each) {
    out.heads.push_back({one.query_head, one.evicted_mass, one.value_displacement, one.evicted_mass * one.value_displacement,
                         one.output_norm, one.head_output_error});
    for (std::size_t region = 0; region < num_regions; ++region) {
      out.before[region] += share * one.region_before[region];
      out.after[region] += share * one.region_after[region];
    }
    for (std::size_t token = 0; token < tokens.size(); ++token) {
      tokens[token].before += share * one.before[token];
      tokens[token].after += share * one.after[token];
      tokens[token].evicted += one.evicted[token] ? share : 0;
    }
  }
  for (const MovedToken& token : tokens) out.evicted += token.evicted > 0 ? 1 : 0;
  out.receivers = largest(tokens, count, [](const MovedToken& token) { return token.after - token.before; });
  out.lost =
      largest(tokens, count, [](const MovedToken& token) { return token.evicted > 0 ? token.before - token.after : 0; });
  return out;
}

}  // namespace kvreplay::gui
