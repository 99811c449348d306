// Hindsight: the kept set whose outputs stay closest to the full cache's over the steps to come, as far as a greedy search
// finds it.
#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/base/parallel.h"
#include "core/policy/stages/output_search.h"
#include "core/policy/stages/per_step.h"
#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// F [d, d] of every query head with FᵀF = W_hᵀ W_h: Cholesky, or the eigen-decomposition where a head's block of W_o has no
// full rank.
std::vector<Matrix> projection_factors(const LayerWorkspace& layer) {
  const Trace& trace = layer.trace();
  const std::int64_t d = layer.model().head_dim, heads = layer.model().num_query_heads;
  const bool whole = trace.has(layer.layer(), LayerDataset::output_projection);
  const auto stored =
      trace.read(layer.layer(), whole ? LayerDataset::output_projection : LayerDataset::output_gram);  // names what lacks
  std::vector<Matrix> factors;
  for (std::int64_t h = 0; h < heads; ++h) {
    Matrix gram = Matrix::Zero(d, d);
    if (whole) {
      Matrix block(stored.dim(1), d);
      for (std::int64_t c = 0; c < stored.dim(1); ++c)
        for (std::int64_t i = 0; i < d; ++i) block(c, i) = stored(0, c, h * d + i);
      gram = block.transpose() * block;
    } else {
      for (std::int64_t i = 0; i < d; ++i)
        for (std::int64_t j = 0; j < d; ++j) gram(i, j) = stored(h, i, j);
    }
    const Eigen::LLT<Matrix> cholesky(gram);
    if (cholesky.info() == Eigen::Success) {
      factors.push_back(cholesky.matrixU());
    } else {
      const Eigen::SelfAdjointEigenSolver<Matrix> eigen(gram);
      factors.push_back(eigen.eigenvalues().cwiseMax(0).cwiseSqrt().asDiagonal() * eigen.eigenvectors().transpose());
    }
  }
  return factors;
}

// Both greedy orders of one stored head.
struct Orders {
  GreedyOrder adding, removing;
};

class OracleOutputPolicy final : public Policy {
 public:
  OracleOutputPolicy(Granularity granularity, bool project) : granularity_(granularity), project_(project) {}
  Granularity granularity() const override { return granularity_; }

  LayerEvictions evict(LayerWorkspace& layer, std::int64_t budget) const override {
    LayerEvictions result = layer.nothing_evicted(granularity_);
    if (budget >= layer.candidates()) return result;
    const auto& orders = layer.shared<std::vector<Orders>>(
        "oracle_output:" + std::string(granularity_name(granularity_)) + (project_ ? ":projected" : ":plain"),
        [&] { return search(layer); });
    const auto kept = static_cast<std::size_t>(budget);
    for (std::size_t h = 0; h < orders.size(); ++h) {
      const auto& [adding, removing] = orders[h];
      std::int32_t* row = result.evicted_at.data() + static_cast<std::int64_t>(h) * layer.tokens() + layer.first_candidate();
      const bool forwards = adding.objective[kept] <= removing.objective[kept];
      std::fill_n(row, layer.candidates(), forwards ? 0 : -1);
      if (forwards) {
        for (std::size_t i = 0; i < kept; ++i) row[adding.column[i]] = -1;
      } else {
        for (std::size_t i = 0; i < removing.column.size() - kept; ++i) row[removing.column[i]] = 0;
      }
    }
    return result;
  }

 private:
  std::vector<Orders> search(LayerWorkspace& layer) const {
    if (layer.loaded().steps() == 0)
      throw Error(layer.trace().path(), "has no generated tokens, which oracle_output looks ahead at",
                  "capture with --generate N, or --prompt-length P below the number of ids");
    const std::int64_t heads = granularity_heads(granularity_, layer.model()), group = layer.model().num_query_heads / heads;
    const Tensor<float, 3>& value = layer.host(LayerDataset::value);
    const auto factors = project_ ? projection_factors(layer) : std::vector<Matrix>{};
    for (int q = 0; q < layer.model().num_query_heads; ++q) shared_decode_logits(layer, q);  // before threads read them
    std::vector<Orders> orders(static_cast<std::size_t>(heads));
    // One head's terms at a time for each thread; each direction makes its own, which is cheap beside the search.
    parallel_for(2 * heads, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t piece = begin; piece < end; ++piece) {
        std::vector<OutputTerm> terms;
        for (std::int64_t q = piece / 2 * group; q < (piece / 2 + 1) * group; ++q)
          terms.push_back(term(layer, static_cast<int>(q), value, factors));
        Orders& order = orders[static_cast<std::size_t>(piece / 2)];
        if (piece % 2 == 0)
          order.adding = greedy_order(terms, GreedyDirection::adding);
        else
          order.removing = greedy_order(terms, GreedyDirection::removing);
      }
    });
    return orders;
  }

  static OutputTerm term(LayerWorkspace& layer, int query_head, const Tensor<float, 3>& values,
                         const std::vector<Matrix>& factors) {
    const std::int64_t n = layer.candidates(), first = layer.first_candidate(), steps = layer.loaded().steps();
    const std::int64_t d = values.dim(2), tokens = layer.tokens();
    Matrix value(tokens - first, d);  // F v of the candidates, then of the generated tokens
    const float* source = &values(query_head / layer.loaded().group(), first, 0);
    for (std::int64_t i = 0; i < value.size(); ++i) value.data()[i] = source[i];
    if (!factors.empty()) value = value * factors[static_cast<std::size_t>(query_head)].transpose();

    OutputTerm term;
    term.attention = Tensor<float, 2>({steps, n}, 0.0F);
    term.value = Tensor<float, 2>({n, d});
    for (std::int64_t i = 0; i < n * d; ++i) term.value.data()[i] = static_cast<float>(value.data()[i]);
    term.output = Tensor<double, 2>({steps, d}, 0.0);
    term.fixed_mass.assign(static_cast<std::size_t>(steps), 0.0);
    term.fixed_deviation = Tensor<double, 2>({steps, d}, 0.0);
    const auto& logits = shared_decode_logits(layer, query_head);
    for (std::int64_t s = 0; s < steps; ++s) {
      const RetainedSet seen = RetainedSet::visible(layer, s + 1);
      const auto attention = seen.attention(logits.data() + s * tokens);
      for (std::size_t slot = 0; slot < attention.size(); ++slot)
        for (std::int64_t i = 0; i < d; ++i) term.output(s, i) += attention[slot] * value(seen.positions[slot] - first, i);
      for (std::size_t slot = 0; slot < attention.size(); ++slot) {
        const std::int64_t column = seen.positions[slot] - first;
        if (column < n) {
          term.attention(s, column) = static_cast<float>(attention[slot]);
          continue;
        }
        term.fixed_mass[static_cast<std::size_t>(s)] += attention[slot];
        for (std::int64_t i = 0; i < d; ++i)
          term.fixed_deviation(s, i) += attention[slot] * (value(column, i) - term.output(s, i));
      }
    }
    return term;
  }

  Granularity granularity_;
  bool project_;
};

}  // namespace

const PolicyDescription& oracle_output_policy() {
  static const PolicyDescription description = {
      .name = "oracle_output",
      .idea =
          "Hindsight: keeps the prompt tokens that change the outputs of the generated tokens least, as far as a greedy "
          "search finds them. No policy can be expected to reach it.",
      .paper = "",
      .stages =
          "oracle output (all decode queries) → greedy search, forwards and backwards; once when the prompt ends, nothing "
          "protected",
      .needs =
          "the decode queries, at least one generated token; output_projection or output_gram (project=false needs neither)",
      .variants =
          {{"paper", "a bound of this project",
            "For each stored head, J = Σ over its query heads h and the decode steps s of ‖W_h (o'_s - o_s)‖² is lowered "
            "token by token: forwards from the generated tokens alone (the token that lowers J most comes next), and "
            "backwards "
            "from the full cache (the token whose removal raises J least goes next). The order that ends lower at the "
            "budget "
            "is taken. With one token, or all but one, that is the best set there is; in between it is a bound "
            "that a better set may undercut. J does not see that errors of different heads can cancel in the layer's "
            "output. "
            "O(S n²) for each query head, once for all budgets."}},
      .parameters = {granularity_parameter({{"paper", "kv_head"}}),
                     boolean_parameter("project", "errors after W_o (false: errors of the head outputs)",
                                       {{"paper", "true"}})},
      .make = [](const PolicySpec& spec) -> std::unique_ptr<Policy> {
        return std::make_unique<OracleOutputPolicy>(granularity_of(spec.values), spec.values.boolean("project"));
      },
      .hindsight = true,
  };
  return description;
}

}  // namespace kvreplay
