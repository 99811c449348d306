#include "core/replay/worth.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>

#include "core/base/parallel.h"
#include "core/kernels/kernels.h"

namespace kvreplay {
namespace {

// Below this share of the full cache's mass the kept weights are formed again in float64: float32 exponentials end at 1e-38.
constexpr double little_mass = 1e-20;

// One query head with the full cache, the same for every run: o of each step. Steps that were not recorded have no output.
struct FullOutputs {
  std::vector<std::vector<double>> output;  // [S][d]
};

void accumulate(double weight, const float* value, std::vector<double>& out) {
  for (std::size_t k = 0; k < out.size(); ++k) out[k] += weight * static_cast<double>(value[k]);
}

// exp(z - top) of the visible keys: float32 as far as that reaches, float64 where it does not.
class Weights {
 public:
  void set(const float* logits, std::int64_t low, std::int64_t end) {
    logits_ = logits;
    low_ = low;
    exact_.clear();
    values_.assign(logits + low, logits + end);
    top_ = kernels::maximum(values_.data(), end - low);
    total_ = kernels::exponentiate(values_.data(), end - low, top_);
  }
  void make_exact() {
    exact_.resize(values_.size());
    for (std::size_t i = 0; i < exact_.size(); ++i)
      exact_[i] = std::exp(static_cast<double>(logits_[low_ + static_cast<std::int64_t>(i)]) - static_cast<double>(top_));
  }
  double at(std::int64_t i) const {
    const auto index = static_cast<std::size_t>(i - low_);
    return exact_.empty() ? static_cast<double>(values_[index]) : exact_[index];
  }
  double total() const { return total_; }

 private:
  const float* logits_ = nullptr;
  std::int64_t low_ = 0;
  float top_ = 0;
  double total_ = 0;
  std::vector<float> values_;
  std::vector<double> exact_;
};

FullOutputs full_outputs(const LoadedLayer& layer, const Tensor<float, 2>& logits, const float* values) {
  FullOutputs full;
  full.output.resize(static_cast<std::size_t>(layer.steps()));
  Weights weights;
  for (std::int64_t step = 0; step < layer.steps(); ++step) {
    const std::int64_t position = layer.prompt + step, low = layer.first_visible(position);
    if (std::isnan(logits(step, position))) continue;  // the query was not recorded
    weights.set(&logits(step, 0), low, position + 1);
    auto& output = full.output[static_cast<std::size_t>(step)];
    output.assign(static_cast<std::size_t>(layer.head_dim), 0.0);
    for (std::int64_t i = low; i <= position; ++i) accumulate(weights.at(i), values + i * layer.head_dim, output);
    for (double& x : output) x /= weights.total();
  }
  return full;
}

// Sums of one row over its query heads and steps.
struct RowSums {
  std::vector<double> gain;   // [T] Σ of what restoring the token takes off the squared error
  std::vector<char> evicted;  // [T] was it out of sight at any measured step?
  double error = 0;
  std::int64_t count = 0;
};

// One query head of one run: adds query after query to the row's sums. values [T, d], evicted_at [T].
class HeadRestorations {
 public:
  HeadRestorations(const LoadedLayer& layer, const float* values, const std::int32_t* evicted_at)
      : layer_(layer), values_(values), evicted_at_(evicted_at), d_(layer.head_dim) {}

  void add(std::int64_t step, const float* logits, const std::vector<double>& output, RowSums& sums) {
    const std::int64_t position = layer_.prompt + step, low = layer_.first_visible(position);
    split(step, low, position);
    weights_.set(logits, low, position + 1);
    double kept_sum = sum_kept();
    if (kept_sum < little_mass * weights_.total()) {
      weights_.make_exact();
      kept_sum = std::max(sum_kept(), 1e-300);
    }
    double output_squared = 0, delta_squared = 0, delta_output = 0;
    for (std::size_t k = 0; k < output.size(); ++k) {
      delta_[k] = delta_[k] / kept_sum - output[k];
      output_squared += output[k] * output[k];
      delta_squared += delta_[k] * delta_[k];
      delta_output += delta_[k] * output[k];
    }
    if (evicted_.empty()) delta_squared = 0;
    ++sums.count;
    if (output_squared == 0) {  // the error is 0 where nothing changes, else 1, and no single token is told from another
      sums.error += delta_squared > 0 ? 1 : 0;
      return;
    }
    sums.error += delta_squared / output_squared;
    products(low, position + 1, output);
    for (const std::int64_t i : evicted_) {
      sums.evicted[static_cast<std::size_t>(i)] = 1;
      const auto index = static_cast<std::size_t>(i - low);
      const double along = static_cast<double>(along_[index]) - delta_output, squared = distance_[index];
      const double e = weights_.at(i), sum = kept_sum + e;
      // δ restored is δ plus e / (S + e) times (v - o - δ).
      const double share = e / sum, kept_share = kept_sum / sum;
      const double after =
          kept_share * kept_share * delta_squared + 2 * kept_share * share * along + share * share * squared;
      sums.gain[static_cast<std::size_t>(i)] += (delta_squared - after) / output_squared;
    }
  }

 private:
  void split(std::int64_t step, std::int64_t low, std::int64_t position) {
    kept_.clear();
    evicted_.clear();
    for (std::int64_t i = low; i <= position; ++i)
      (evicted_at_[i] < 0 || evicted_at_[i] >= step + 1 || i == position ? kept_ : evicted_).push_back(i);
  }

  // Σ exp(z) over the kept set; delta_ becomes Σ exp(z) v.
  double sum_kept() {
    delta_.assign(static_cast<std::size_t>(d_), 0.0);
    double sum = 0;
    for (const std::int64_t i : kept_) {
      sum += weights_.at(i);
      accumulate(weights_.at(i), values_ + i * d_, delta_);
    }
    return sum;
  }

  // <δ, v> and ‖v - o‖² of every visible token.
  void products(std::int64_t low, std::int64_t end, const std::vector<double>& output) {
    const std::int64_t n = end - low;
    center_.assign(output.begin(), output.end());
    direction_.assign(delta_.begin(), delta_.end());
    along_.resize(static_cast<std::size_t>(n));
    distance_.resize(static_cast<std::size_t>(n));
    kernels::gemm_nt(1, n, d_, 1.0F, direction_.data(), d_, values_ + low * d_, d_, along_.data(), n);
    kernels::squared_distances(values_ + low * d_, n, d_, d_, center_.data(), distance_.data());
  }

  const LoadedLayer& layer_;
  const float* values_;
  const std::int32_t* evicted_at_;
  std::int64_t d_;
  Weights weights_;
  std::vector<std::int64_t> kept_, evicted_;
  std::vector<double> delta_;  // o' - o
  std::vector<float> center_, direction_, along_, distance_;
};

void best_of_row(const RowSums& sums, std::int64_t count, TokenWorth worth, std::vector<TokenWorth>& out) {
  std::vector<std::int64_t> tokens;
  for (std::size_t i = 0; i < sums.evicted.size(); ++i)
    if (sums.evicted[i] != 0) tokens.push_back(static_cast<std::int64_t>(i));
  const auto gain = [&](std::int64_t token) { return sums.gain[static_cast<std::size_t>(token)]; };
  const auto end = tokens.begin() + std::min<std::int64_t>(count, static_cast<std::int64_t>(tokens.size()));
  std::partial_sort(tokens.begin(), end, tokens.end(),
                    [&](std::int64_t a, std::int64_t b) { return gain(a) != gain(b) ? gain(a) > gain(b) : a < b; });
  for (auto token = tokens.begin(); token != end; ++token) {
    worth.token = *token;
    worth.error = sums.error / static_cast<double>(sums.count);
    worth.restored_error = worth.error - gain(*token) / static_cast<double>(sums.count);
    out.push_back(worth);
  }
}

}  // namespace

std::vector<TokenWorth> most_worth_restoring(LayerWorkspace& layer, TensorView<const std::int32_t, 2> evicted_at,
                                             const std::vector<bool>& measured, std::int64_t count) {
  using Outputs = std::shared_ptr<const std::vector<FullOutputs>>;
  const LoadedLayer& loaded = layer.loaded();
  const std::int64_t rows = evicted_at.dim(0), heads = loaded.num_query_heads;
  const Tensor<float, 3>& values = layer.host(LayerDataset::value);
  const auto values_of = [&](std::int64_t head) {
    return values.data() + head / loaded.group() * loaded.tokens * loaded.head_dim;
  };
  const auto logits_of = [&](std::int64_t head) { return layer.backend().decode_logits(loaded, static_cast<int>(head)); };
  const Outputs full = layer.shared<Outputs>("worth:full outputs", [&] {
    auto outputs = std::make_shared<std::vector<FullOutputs>>(static_cast<std::size_t>(heads));
    parallel_for(heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t head = begin; head < end; ++head)
        (*outputs)[static_cast<std::size_t>(head)] = full_outputs(loaded, logits_of(head), values_of(head));
    });
    return outputs;
  });

  std::vector<RowSums> sums(static_cast<std::size_t>(rows));
  for (auto& row : sums) {
    row.gain.assign(static_cast<std::size_t>(layer.tokens()), 0.0);
    row.evicted.assign(static_cast<std::size_t>(layer.tokens()), 0);
  }
  // Query heads of a row one after the other: the order of additions stays the same whatever the threads.
  const auto add_row = [&](std::int64_t row) {
    for (std::int64_t head = row * heads / rows; head < (row + 1) * heads / rows; ++head) {
      const Tensor<float, 2> logits = logits_of(head);
      HeadRestorations restorations(loaded, values_of(head), evicted_at[row].data());
      for (std::int64_t step = 0; step < loaded.steps(); ++step) {
        const auto& output = (*full)[static_cast<std::size_t>(head)].output[static_cast<std::size_t>(step)];
        if (output.empty() || (!measured.empty() && !measured[static_cast<std::size_t>(step)])) continue;
        restorations.add(step, &logits(step, 0), output, sums[static_cast<std::size_t>(row)]);
      }
    }
  };
  parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) add_row(row);
  });
  std::vector<TokenWorth> out;
  for (std::int64_t row = 0; row < rows; ++row)
    best_of_row(sums[static_cast<std::size_t>(row)], count, {layer.layer(), row, 0, 0, 0}, out);
  return out;
}

}  // namespace kvreplay
