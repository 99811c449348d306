#include "gui/model/token_values.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/base/parallel.h"
#include "core/kernels/kernels.h"
#include "core/replay/worth.h"
#include "core/report/policy_label.h"

namespace kvreplay::gui {
namespace {

constexpr float none = std::numeric_limits<float>::quiet_NaN();

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

// The mean over heads of what `of` says of a head and token.
template <class Of>
std::vector<float> mean_over(const std::vector<int>& heads, std::int64_t tokens, const Of& of) {
  std::vector<float> mean(at(tokens));
  for (std::int64_t token = 0; token < tokens; ++token) {
    double sum = 0;
    for (const int head : heads) sum += of(head, token);
    mean[at(token)] = static_cast<float>(sum / static_cast<double>(heads.size()));
  }
  return mean;
}

// Of one row: the share of its candidates with a lower score, NaN without a score. Equal scores share a place.
std::vector<float> lower_share(std::span<const float> scores) {
  std::vector<float> sorted;
  for (const float score : scores)
    if (!std::isnan(score)) sorted.push_back(score);
  std::sort(sorted.begin(), sorted.end());
  std::vector<float> share(scores.size(), none);
  const double others = std::max<double>(1, static_cast<double>(sorted.size()) - 1);
  for (std::size_t i = 0; i < scores.size(); ++i)
    if (!std::isnan(scores[i]))
      share[i] = static_cast<float>(
          static_cast<double>(std::lower_bound(sorted.begin(), sorted.end(), scores[i]) - sorted.begin()) / others);
  return share;
}

std::vector<float> score_places(const Run& run, int layer, const std::vector<int>& heads) {
  std::vector<float> mean(at(run.tokens), none);
  const Tensor<float, 2>& scores = run.layer(layer)->scores();
  if (scores.empty()) return mean;
  std::vector<std::int64_t> rows;
  for (const int head : heads)
    if (rows.empty() || rows.back() != head * scores.dim(0) / run.query_heads)
      rows.push_back(head * scores.dim(0) / run.query_heads);
  std::vector<std::vector<float>> places(rows.size());
  parallel_for(static_cast<std::int64_t>(rows.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) places[at(i)] = lower_share(scores[rows[at(i)]].flat());
  });
  for (std::int64_t token = 0; token < scores.dim(1); ++token) {
    double sum = 0;
    int count = 0;
    for (const auto& row : places)
      if (!std::isnan(row[at(token)])) sum += row[at(token)], ++count;
    if (count > 0) mean[at(token)] = static_cast<float>(sum / count);
  }
  return mean;
}

// Mean over heads of attention to the full cache, or of what is left of it to `run`'s cache.
std::vector<float> mean_attention(const Document& document, const Run* run, const Selection& selection) {
  if (run != nullptr && changes_rows(run->info))
    throw Error(run->label, "changes keys or values, so its attention is not that of the recorded ones",
                "choose a policy without merge and with original positions");
  const std::int64_t position = query_position(document, selection.step);
  const std::vector<int> heads = heads_of(document, selection);
  const auto attention = query_attention(document, selection.layer, heads, position);
  // The query of step s misses what went before it: after step s - 1.
  const auto step = static_cast<int>(position - document.prompt_length());
  std::vector<float> mean(at(document.num_tokens()), none);
  std::fill_n(mean.begin(), position + 1, 0.0F);
  for (std::size_t i = 0; i < heads.size(); ++i) {
    const auto kept = [&](std::int64_t token) {
      return run == nullptr || run->kept(selection.layer, heads[i], token, step) || token == position;
    };
    double mass = 0;
    for (std::int64_t token = 0; token <= position; ++token)
      if (kept(token)) mass += attention[i][at(token)];
    for (std::int64_t token = 0; token <= position; ++token)
      if (kept(token) && mass > 0)
        mean[at(token)] += static_cast<float>(attention[i][at(token)] / mass / static_cast<double>(heads.size()));
  }
  return mean;
}

std::vector<float> mean_worth(const Worths& worths, const std::vector<int>& heads, std::int64_t tokens) {
  std::vector<float> mean(at(tokens), none);
  for (std::int64_t token = 0; token < tokens; ++token) {
    double sum = 0;
    bool missed = false;
    for (const int head : heads)
      if (const float gain = worths.gain(head, token); !std::isnan(gain)) sum += gain, missed = true;
    if (missed) mean[at(token)] = static_cast<float>(sum / static_cast<double>(heads.size()));
  }
  return mean;
}

}  // namespace

std::int64_t query_position(const Document& document, int step) {
  return document.prompt_length() + std::clamp(step, 1, std::max(1, document.num_steps())) - 1;
}

std::vector<int> heads_of(const Document& document, const Selection& selection) {
  if (!selection.heads.empty()) return selection.heads;
  std::vector<int> all(at(document.num_query_heads()));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

std::vector<std::vector<float>> query_attention(const Document& document, int layer, const std::vector<int>& heads,
                                                std::int64_t position) {
  const Trace& trace = document.trace();
  const ModelInfo& model = trace.model();
  const int number = document.layer_number(layer);
  const auto& recorded = trace.query_positions();
  const auto found = std::lower_bound(recorded.begin(), recorded.end(), position);
  if (found == recorded.end() || *found != position) throw trace.missing_query(position, "its attention");
  const std::int64_t row = found - recorded.begin(), window = trace.sliding_window(number);
  const std::int64_t low = window > 0 ? std::max<std::int64_t>(0, position - window + 1) : 0;

  std::vector<std::vector<float>> attention(heads.size());
  // Heads of one KV head are next to each other: its keys are read once.
  std::vector<std::size_t> firsts;
  for (std::size_t i = 0; i < heads.size(); ++i)
    if (i == 0 || heads[i] / model.group_size() != heads[i - 1] / model.group_size()) firsts.push_back(i);
  parallel_for(static_cast<std::int64_t>(firsts.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t group = begin; group < end; ++group) {
      const int kv_head = heads[firsts[at(group)]] / model.group_size();
      const auto keys = trace.read(number, LayerDataset::key, {kv_head, kv_head + 1}, {low, position + 1});
      for (std::size_t i = firsts[at(group)]; i < heads.size() && heads[i] / model.group_size() == kv_head; ++i) {
        const auto query = trace.read(number, LayerDataset::query, {heads[i], heads[i] + 1}, {row, row + 1});
        auto& out = attention[i];
        out.assign(at(position + 1), 0.0F);
        float* weights = out.data() + low;
        const std::int64_t count = position + 1 - low;
        kernels::gemm_nt(1, count, model.head_dim, static_cast<float>(model.attention_scale), query.data(), model.head_dim,
                         keys.data(), model.head_dim, weights, count);
        if (model.logit_softcap) kernels::soft_cap(weights, count, static_cast<float>(*model.logit_softcap));
        const double total = kernels::exponentiate(weights, count, kernels::maximum(weights, count));
        kernels::scale_in_place(weights, count, static_cast<float>(1 / total));
      }
    }
  });
  return attention;
}

Worths worths_of(LayerWorkspace& workspace, const RunInfo& info, const RunLayer& layer) {
  if (changes_rows(info))
    throw Error("worth of a token", "is defined for runs that keep rows as they were recorded",
                "choose a policy without merge and with original positions");
  const std::int64_t heads = workspace.model().num_query_heads, tokens = workspace.tokens();
  // One row a query head, so that every head has its own worth.
  const Tensor<std::int32_t, 2>& stored = layer.evicted_at();
  Tensor<std::int32_t, 2> evicted_at({heads, tokens});
  for (std::int64_t head = 0; head < heads; ++head)
    std::copy_n(stored.data() + head * stored.dim(0) / heads * tokens, tokens, evicted_at.data() + head * tokens);
  Worths worths{Tensor<float, 2>({heads, tokens}, none), std::vector<double>(at(heads), 0.0)};
  for (const TokenWorth& each : most_worth_restoring(workspace, evicted_at.view(), {}, tokens)) {
    worths.gain(each.head, each.token) = static_cast<float>(each.error - each.restored_error);
    worths.error[at(each.head)] = each.error;
  }
  return worths;
}

std::vector<float> token_values(Quantity quantity, const std::shared_ptr<const Document>& document, const Run* run,
                                const Selection& selection, LayerDesk& desk) {
  const int layer = selection.layer;
  const std::int64_t tokens = document->num_tokens();
  const std::vector<int> heads = heads_of(*document, selection);
  if (quantity == Quantity::attention) return mean_attention(*document, nullptr, selection);
  if (run == nullptr || run->layer(layer) == nullptr) return std::vector<float>(at(tokens), none);
  switch (quantity) {
    case Quantity::kept:
      return mean_over(heads, tokens,
                       [&](int head, std::int64_t token) { return run->kept(layer, head, token, selection.step) ? 1 : 0; });
    case Quantity::evicted_at: {
      const Tensor<std::int32_t, 2>& evicted_at = run->layer(layer)->evicted_at();
      return mean_over(heads, tokens, [&](int head, std::int64_t token) {
        const std::int32_t step = evicted_at(run->row_of(head), token);
        return step < 0 ? run->steps + 1 : step;
      });
    }
    case Quantity::score: return score_places(*run, layer, heads);
    case Quantity::attention_after: return mean_attention(*document, run, selection);
    case Quantity::worth: {
      const Worths worths = worths_of(desk.workspace(document, layer), run->info, *run->layer(layer));
      desk.tidy();
      return mean_worth(worths, heads, tokens);
    }
    case Quantity::attention: break;
  }
  return {};
}

}  // namespace kvreplay::gui
