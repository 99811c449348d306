#include "core/policy/stages/output_search.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/kernels/kernels.h"

namespace kvreplay {
namespace {

constexpr std::int64_t lanes = 16;          // columns of the inner loop's block, which the compiler vectorises
constexpr std::int64_t refresh_every = 64;  // steps after which products are computed anew: rounding does not build up
constexpr std::size_t finalists = 8;        // candidates whose J is computed in float64 before one is chosen

std::int64_t padded(std::int64_t n) { return (n + lanes - 1) / lanes * lanes; }

// One query head during a search. Columns are the candidates that can still be chosen, in any order.
class TermState {
 public:
  TermState(const OutputTerm& term, GreedyDirection direction)
      : term_(term),
        sign_(direction == GreedyDirection::adding ? 1.0 : -1.0),
        steps_(term.attention.dim(0)),
        count_(term.attention.dim(1)),
        dim_(term.value.dim(1)),
        stride_(padded(count_)),
        weight_({steps_, stride_}, 0.0F),
        distance_({steps_, stride_}, 0.0F),
        product_({steps_, stride_}, 0.0F),
        between_({stride_}, 0.0F),
        values_(term.value),
        mass_(term.fixed_mass),
        deviation_(term.fixed_deviation) {
    std::vector<float> center(static_cast<std::size_t>(dim_));
    for (std::int64_t s = 0; s < steps_; ++s) {
      std::copy_n(&term.output(s, 0), dim_, center.begin());
      std::copy_n(&term.attention(s, 0), count_, &weight_(s, 0));
      kernels::squared_distances(term.value.data(), count_, dim_, dim_, center.data(), &distance_(s, 0));
    }
    if (direction == GreedyDirection::removing)
      for (std::int64_t j = 0; j < count_; ++j) move(j, 1);
  }

  // R and D after adding (+1) or removing (-1) a candidate.
  void move(std::int64_t candidate, double sign) {
    for (std::int64_t s = 0; s < steps_; ++s) {
      const double a = sign * static_cast<double>(term_.attention(s, candidate));
      mass_[static_cast<std::size_t>(s)] += a;
      for (std::int64_t i = 0; i < dim_; ++i)
        deviation_(s, i) += a * (static_cast<double>(term_.value(candidate, i)) - term_.output(s, i));
    }
  }

  double objective() const {
    double sum = 0;
    for (std::int64_t s = 0; s < steps_; ++s) sum += squared_deviation(s) / (mass(s) * mass(s));
    return sum;
  }

  // J after this candidate, in float64.
  double objective_after(std::int64_t candidate) const {
    double sum = 0;
    for (std::int64_t s = 0; s < steps_; ++s) {
      const double a = sign_ * static_cast<double>(term_.attention(s, candidate));
      double squared = 0;
      for (std::int64_t i = 0; i < dim_; ++i) {
        const double r = deviation_(s, i) + a * (static_cast<double>(term_.value(candidate, i)) - term_.output(s, i));
        squared += r * r;
      }
      const double left = std::max(mass(s) + a, least_mass);
      sum += squared / (left * left);
    }
    return sum;
  }

  // Adds J after each of the first `columns` columns to `cost`. `chosen`: the candidate that moved last, already part of R
  // and D, whose effect on the products is still to come; -1: products are computed from R.
  void add_costs(std::int64_t columns, std::int64_t chosen, float* cost) {
    if (chosen < 0)
      compute_products(columns);
    else
      kernels::squared_distances(values_.data(), columns, dim_, dim_, &term_.value(chosen, 0), between_.data());
    const auto sign = static_cast<float>(sign_);
    constexpr auto least_square = static_cast<float>(least_mass * least_mass);  // no branch: the loops are vectorised
    for (std::int64_t s = 0; s < steps_; ++s) {
      const float half = chosen < 0 ? 0.0F : 0.5F * sign * term_.attention(s, chosen);
      const float chosen_distance = chosen < 0 ? 0.0F : chosen_distance_[static_cast<std::size_t>(s)];
      const auto squared = static_cast<float>(squared_deviation(s)), mass_now = static_cast<float>(mass(s));
      const float *weight = &weight_(s, 0), *distance = &distance_(s, 0), *between = between_.data();
      float* product = &product_(s, 0);
      for (std::int64_t begin = 0; begin < columns; begin += lanes) {
        float a[lanes], p[lanes], out[lanes];
        for (std::int64_t k = 0; k < lanes; ++k) {
          const std::int64_t c = begin + k;
          a[k] = sign * weight[c];
          p[k] = product[c] + half * (distance[c] + chosen_distance - between[c]);
        }
        for (std::int64_t k = 0; k < lanes; ++k) {
          const float left = mass_now + a[k];
          out[k] = (squared + a[k] * (2 * p[k] + a[k] * distance[begin + k])) / (left * left + least_square);
        }
        for (std::int64_t k = 0; k < lanes; ++k) product[begin + k] = p[k];
        for (std::int64_t k = 0; k < lanes; ++k) cost[begin + k] += out[k];
      }
    }
  }

  // The last column takes the place of `column`.
  void drop(std::int64_t column, std::int64_t last) {
    chosen_distance_.resize(static_cast<std::size_t>(steps_));
    std::copy_n(&values_(last, 0), dim_, &values_(column, 0));
    for (std::int64_t s = 0; s < steps_; ++s) {
      chosen_distance_[static_cast<std::size_t>(s)] = distance_(s, column);
      weight_(s, column) = weight_(s, last);
      distance_(s, column) = distance_(s, last);
      product_(s, column) = product_(s, last);
      weight_(s, last) = distance_(s, last) = product_(s, last) = 0;
    }
  }

 private:
  // Below this a removal leaves nothing to attend to; its J is as large as float32 allows.
  static constexpr double least_mass = 1e-12;

  double mass(std::int64_t s) const { return std::max(mass_[static_cast<std::size_t>(s)], least_mass); }
  double squared_deviation(std::int64_t s) const {
    double sum = 0;
    for (std::int64_t i = 0; i < dim_; ++i) sum += deviation_(s, i) * deviation_(s, i);
    return sum;
  }

  // R · (F v_j - F o) for every column.
  void compute_products(std::int64_t columns) {
    Tensor<float, 2> deviation({steps_, dim_});
    std::copy_n(deviation_.data(), deviation_.size(), deviation.data());
    kernels::gemm_nt(steps_, columns, dim_, 1, deviation.data(), dim_, values_.data(), dim_, product_.data(), stride_);
    for (std::int64_t s = 0; s < steps_; ++s) {
      double center = 0;
      for (std::int64_t i = 0; i < dim_; ++i) center += deviation_(s, i) * term_.output(s, i);
      for (std::int64_t c = 0; c < columns; ++c) product_(s, c) -= static_cast<float>(center);
    }
  }

  const OutputTerm& term_;
  double sign_;
  std::int64_t steps_, count_, dim_, stride_;
  Tensor<float, 2> weight_, distance_, product_;  // [S, columns]: a, ‖F(v - o)‖², R · F(v - o)
  Tensor<float, 1> between_;                      // [columns]: squared distances to the value that moved last
  Tensor<float, 2> values_;                       // [columns, d']: F v
  std::vector<float> chosen_distance_;            // [S]: ‖F(v - o)‖² of what moved last
  std::vector<double> mass_;                      // [S]: D
  Tensor<double, 2> deviation_;                   // [S, d']: R
};

// The column with the lowest cost, the best few compared in float64; ties to the lowest candidate.
std::int64_t best_column(const std::vector<TermState>& terms, const std::vector<std::int32_t>& active,
                         const std::vector<float>& cost) {
  std::vector<std::int32_t> order(active.size());
  std::iota(order.begin(), order.end(), 0);
  const auto end = order.begin() + static_cast<std::ptrdiff_t>(std::min(finalists, order.size()));
  const auto lower = [&](std::int32_t x, std::int32_t y) {
    const float a = cost[static_cast<std::size_t>(x)], b = cost[static_cast<std::size_t>(y)];
    return a != b ? a < b : active[static_cast<std::size_t>(x)] < active[static_cast<std::size_t>(y)];
  };
  std::partial_sort(order.begin(), end, order.end(), lower);
  std::int64_t best = -1;
  double least = std::numeric_limits<double>::infinity();
  for (auto it = order.begin(); it != end; ++it) {
    const std::int32_t candidate = active[static_cast<std::size_t>(*it)];
    double value = 0;
    for (const TermState& term : terms) value += term.objective_after(candidate);
    const bool tie = best >= 0 && value == least && candidate < active[static_cast<std::size_t>(best)];
    if (best < 0 || value < least || tie) {
      best = *it;
      least = value;
    }
  }
  return best;
}

}  // namespace

GreedyOrder greedy_order(const std::vector<OutputTerm>& terms, GreedyDirection direction) {
  const std::int64_t n = terms.front().attention.dim(1);
  std::vector<TermState> states;
  for (const OutputTerm& term : terms) states.emplace_back(term, direction);
  const auto objective = [&] {
    double sum = 0;
    for (const TermState& state : states) sum += state.objective();
    return sum;
  };
  const bool adding = direction == GreedyDirection::adding;
  GreedyOrder order;
  order.objective.resize(static_cast<std::size_t>(n + 1));
  order.objective[static_cast<std::size_t>(adding ? 0 : n)] = objective();

  std::vector<std::int32_t> active(static_cast<std::size_t>(n));
  std::iota(active.begin(), active.end(), 0);
  std::int64_t column = -1, chosen = -1;
  std::vector<float> cost;
  for (std::int64_t step = 0; step < n; ++step) {
    cost.assign(static_cast<std::size_t>(padded(static_cast<std::int64_t>(active.size()))), 0.0F);
    const bool refresh = step % refresh_every == 0;
    for (TermState& state : states)
      state.add_costs(static_cast<std::int64_t>(active.size()), refresh ? -1 : chosen, cost.data());
    column = best_column(states, active, cost);
    chosen = active[static_cast<std::size_t>(column)];
    for (TermState& state : states) {
      state.move(chosen, adding ? 1 : -1);
      state.drop(column, static_cast<std::int64_t>(active.size()) - 1);
    }
    active[static_cast<std::size_t>(column)] = active.back();
    active.pop_back();
    order.column.push_back(static_cast<std::int32_t>(chosen));
    order.objective[static_cast<std::size_t>(adding ? step + 1 : n - step - 1)] = objective();
  }
  return order;
}

double output_objective(const std::vector<OutputTerm>& terms, const std::vector<std::int32_t>& kept) {
  double sum = 0;
  for (const OutputTerm& term : terms) {
    const std::int64_t dim = term.value.dim(1);
    std::vector<double> deviation(static_cast<std::size_t>(dim));
    for (std::int64_t s = 0; s < term.attention.dim(0); ++s) {
      double mass = term.fixed_mass[static_cast<std::size_t>(s)], squared = 0;
      for (std::int64_t i = 0; i < dim; ++i) deviation[static_cast<std::size_t>(i)] = term.fixed_deviation(s, i);
      for (const std::int32_t j : kept) {
        const double a = term.attention(s, j);
        mass += a;
        for (std::int64_t i = 0; i < dim; ++i)
          deviation[static_cast<std::size_t>(i)] += a * (static_cast<double>(term.value(j, i)) - term.output(s, i));
      }
      for (const double r : deviation) squared += r * r;
      sum += squared / (mass * mass);
    }
  }
  return sum;
}

}  // namespace kvreplay
