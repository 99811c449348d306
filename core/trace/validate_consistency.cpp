// What a trace says about its own queries, computed again in float64 from the stored Q, K and V. Tolerances follow from
// how the tensors are stored: a score q·k computed from rounded values is off by at most 2 u Σ|q_i k_i|, u the rounding
// of the type.
#include <algorithm>
#include <cmath>
#include <set>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/trace/tensor_reading_internal.h"
#include "core/trace/validate_internal.h"

namespace kvreplay {
namespace {

// What float32 arithmetic of an engine adds, relative to the size of the numbers: generous, for sums over long rows.
constexpr double arithmetic = 2e-4;

std::vector<std::int64_t> spread(std::int64_t count, std::int64_t wanted) {
  std::set<std::int64_t> chosen;
  for (std::int64_t i = 0; i < wanted && count > 0; ++i)
    chosen.insert(wanted == 1 ? count - 1 : i * (count - 1) / (wanted - 1));
  return {chosen.begin(), chosen.end()};
}

class Samples {
 public:
  Samples(const Source& source, const TraceStructure& trace, const LayerStructure& layer, Findings& findings)
      : source_(source), trace_(trace), layer_(layer), findings_(findings) {}

  int checked_log_sums = 0, checked_outputs = 0, checked_attention = 0;

  void run() {
    const auto* key = tensor(LayerDataset::key);
    if (key == nullptr || tensor(LayerDataset::value) == nullptr || tensor(LayerDataset::query) == nullptr) return;
    if (!tensor(LayerDataset::log_sum_exp) && !tensor(LayerDataset::head_output) && !tensor(LayerDataset::attention)) return;
    const std::int64_t group = trace_.model.group_size();
    for (const std::int64_t head : spread(trace_.model.num_query_heads, 3)) {
      key_ = read_stored_tensor(source_, *key, {head / group, head / group + 1}, {}, false);
      value_ = read_stored_tensor(source_, *tensor(LayerDataset::value), {head / group, head / group + 1}, {}, false);
      for (const std::int64_t index : spread(static_cast<std::int64_t>(trace_.query_positions.size()), 5))
        check_query(head, index);
    }
  }

 private:
  const StoredTensor* tensor(LayerDataset which) const {
    const auto& found = layer_.tensors[static_cast<std::size_t>(which)];
    return found ? &*found : nullptr;
  }

  // Weights of one query in float64, its log-sum-exp, and how far the stored numbers may be from them.
  struct Expected {
    std::int64_t begin = 0;
    std::vector<double> weights;
    double log_sum_exp = 0;
    double score_error = 0;
    bool finite = true;
  };

  Expected expected(std::int64_t head, std::int64_t index, std::int64_t position) const {
    const auto* stored_query = tensor(LayerDataset::query);
    const auto query = read_stored_tensor(source_, *stored_query, {head, head + 1}, {index, index + 1}, false);
    const double rounding = rounding_of(stored_query->type) + rounding_of(tensor(LayerDataset::key)->type);
    const ModelInfo& m = trace_.model;
    Expected e;
    e.begin = layer_.sliding_window > 0 ? std::max<std::int64_t>(0, position - layer_.sliding_window + 1) : 0;
    double largest = -INFINITY, error = 0;
    for (std::int64_t t = e.begin; t <= position; ++t) {
      double product = 0, magnitude = 0;
      for (int i = 0; i < m.head_dim; ++i) {
        const double term = static_cast<double>(query(0, 0, i)) * key_(0, t, i);
        product += term;
        magnitude += std::abs(term);
      }
      double score = product * m.attention_scale;
      if (m.logit_softcap) score = *m.logit_softcap * std::tanh(score / *m.logit_softcap);
      e.weights.push_back(score);
      largest = std::max(largest, score);
      error = std::max(error, magnitude * m.attention_scale);
    }
    double sum = 0;
    for (double& w : e.weights) sum += w = std::exp(w - largest);
    for (double& w : e.weights) w /= sum;
    e.log_sum_exp = largest + std::log(sum);
    e.score_error = error * rounding + arithmetic * (1 + error);
    e.finite = std::isfinite(e.log_sum_exp);
    return e;
  }

  void check_query(std::int64_t head, std::int64_t index) {
    const std::int64_t position = trace_.query_positions[static_cast<std::size_t>(index)];
    const Expected e = expected(head, index, position);
    if (!e.finite) return;  // told already: something is not finite
    const std::string place = "head " + std::to_string(head) + " of the query at " + std::to_string(position);
    if (const auto* stored = tensor(LayerDataset::log_sum_exp)) check_log_sum_exp(*stored, head, index, e, place);
    if (const auto* stored = tensor(LayerDataset::head_output)) check_output(*stored, head, index, e, place);
    if (const auto* stored = tensor(LayerDataset::attention)) check_attention(*stored, head, position, e, place);
  }

  void check_log_sum_exp(const StoredTensor& stored, std::int64_t head, std::int64_t index, const Expected& e,
                         const std::string& place) {
    const auto row = read_stored_tensor(source_, stored, {}, {head, head + 1}, false);
    const double found = row(0, 0, index);
    ++checked_log_sums;
    if (std::isfinite(found) && std::abs(found - e.log_sum_exp) > e.score_error)
      findings_.add_repeated(
          stored.node, "does not follow from query and key",
          "is " + format_number(found) + " where query and key give " + format_number(e.log_sum_exp) + ", for " + place);
  }

  void check_output(const StoredTensor& stored, std::int64_t head, std::int64_t index, const Expected& e,
                    const std::string& place) {
    const auto row = read_stored_tensor(source_, stored, {head, head + 1}, {index, index + 1}, false);
    const double of_value = rounding_of(tensor(LayerDataset::value)->type) + rounding_of(stored.type);
    ++checked_outputs;
    for (int i = 0; i < trace_.model.head_dim; ++i) {
      double output = 0, largest = 0;
      for (std::size_t t = 0; t < e.weights.size(); ++t) {
        const double value = value_(0, e.begin + static_cast<std::int64_t>(t), i);
        output += e.weights[t] * value;
        largest = std::max(largest, std::abs(value));
      }
      const double tolerance = largest * (2 * std::expm1(std::min(20.0, e.score_error)) + of_value + arithmetic) + 1e-6;
      const double found = row(0, 0, i);
      if (!std::isfinite(found) || !std::isfinite(output) || std::abs(found - output) <= tolerance) continue;
      findings_.add_repeated(stored.node, "does not follow from query, key and value",
                             "is " + format_number(found) + " in column " + std::to_string(i) +
                                 " where query, key and value give " + format_number(output) + ", for " + place);
      return;
    }
  }

  void check_attention(const StoredTensor& stored, std::int64_t head, std::int64_t position, const Expected& e,
                       const std::string& place) {
    const auto& positions = trace_.attention_positions;
    const auto found = std::lower_bound(positions.begin(), positions.end(), position);
    if (found == positions.end() || *found != position) return;
    const std::int64_t index = found - positions.begin();
    const auto row = read_stored_tensor(source_, stored, {head, head + 1}, {index, index + 1}, false);
    ++checked_attention;
    for (std::size_t t = 0; t < e.weights.size(); ++t) {
      const double weight = row(0, 0, e.begin + static_cast<std::int64_t>(t));
      const double tolerance =
          e.weights[t] * (2 * std::expm1(std::min(20.0, e.score_error)) + rounding_of(stored.type)) + 1e-6;
      if (!std::isfinite(weight) || std::abs(weight - e.weights[t]) <= tolerance) continue;
      findings_.add_repeated(stored.node, "does not follow from query and key",
                             "is " + format_number(weight) + " on key " +
                                 std::to_string(e.begin + static_cast<std::int64_t>(t)) + " where query and key give " +
                                 format_number(e.weights[t]) + ", for " + place);
      return;
    }
  }

  const Source& source_;
  const TraceStructure& trace_;
  const LayerStructure& layer_;
  Findings& findings_;
  Tensor<float, 3> key_, value_;
};

// (W_o[:, h])^T W_o[:, h] of the first and the last head.
void check_gram(const Source& source, const TraceStructure& trace, const LayerStructure& layer, Findings& findings) {
  const auto& gram = layer.tensors[static_cast<std::size_t>(LayerDataset::output_gram)];
  const auto& projection = layer.tensors[static_cast<std::size_t>(LayerDataset::output_projection)];
  if (!gram || !projection) return;
  const std::int64_t d = trace.model.head_dim, hidden = trace.model.hidden_size;
  const auto w = read_stored_tensor(source, *projection, {}, {}, false);
  for (const std::int64_t head : spread(trace.model.num_query_heads, 2)) {
    const auto g = read_stored_tensor(source, *gram, {head, head + 1}, {}, false);
    for (std::int64_t i = 0; i < d; ++i) {
      double product = 0, magnitude = 0;
      const std::int64_t j = d - 1 - i;
      for (std::int64_t c = 0; c < hidden; ++c) {
        const double term = static_cast<double>(w(0, c, head * d + i)) * w(0, c, head * d + j);
        product += term;
        magnitude += std::abs(term);
      }
      const double tolerance = magnitude * (2 * rounding_of(projection->type) + arithmetic) + 1e-9;
      if (std::isfinite(product) && std::abs(g(0, i, j) - product) > tolerance)
        return findings.add(gram->node, "does not follow from output_projection in head " + std::to_string(head));
    }
  }
}

}  // namespace

void validate_consistency(const Source& source, const TraceStructure& trace, Findings& findings, Job& job) {
  int log_sums = 0, outputs = 0, attention = 0;
  for (const auto& layer : trace.layers) {
    job.check();
    try {
      Samples samples(source, trace, layer, findings);
      samples.run();
      check_gram(source, trace, layer, findings);
      log_sums += samples.checked_log_sums;
      outputs += samples.checked_outputs;
      attention += samples.checked_attention;
    } catch (const Cancelled&) {
      throw;
    } catch (const Error& error) {
      findings.add("/layers", std::string("samples cannot be computed again: ") + error.what());
    }
  }
  const auto note = [&](int count, const char* what) {
    if (count > 0) findings.checked(std::string(what) + " of " + std::to_string(count) + " queries against Q, K and V");
  };
  note(log_sums, "log_sum_exp");
  note(outputs, "head_output");
  note(attention, "attention");
}

}  // namespace kvreplay
