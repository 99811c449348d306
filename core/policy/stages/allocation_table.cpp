// Head budgets from a table of importances (Fu et al., HeadKV, ICLR 2025), as the published code has it and in a form that
// keeps the budget.
#include <algorithm>
#include <cmath>

#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

// Python's float //: what the published code divides by beta = 1.01 with.
double floor_divided(double a, double b) {
  const double quotient = (a - std::fmod(a, b)) / b, whole = std::floor(quotient);
  return quotient - whole > 0.5 ? whole + 1 : whole;
}

class TableAllocation final : public Allocation {
 public:
  explicit TableAllocation(HeadTableSettings settings) : settings_(std::move(settings)) {}

  std::vector<std::int64_t> capacity(const AllocationContext& context) const override {
    const ModelInfo& model = context.layer.model();
    if (context.layer.budgets_are_settled())
      return std::vector<std::int64_t>(static_cast<std::size_t>(context.scores.dim(0)),
                                       std::min(context.budget - context.window, context.scores.dim(1)));
    Tensor<double, 2> share = settings_.table.importance(model);
    double total = 0;
    for (const double s : share.flat()) total += s;
    double sharpened = 0;
    for (double& s : share.flat()) sharpened += s = std::pow(s / total, settings_.temperature);
    for (double& s : share.flat()) s /= sharpened;
    return settings_.exact ? exact(context, share) : published(context, share);
  }

 private:
  std::vector<std::int64_t> published(const AllocationContext& context, const Tensor<double, 2>& share) const {
    const auto base = static_cast<double>(context.budget - (settings_.window_in_base ? 0 : context.window));
    const double pooled = floor_divided(base, settings_.beta), least = base - pooled;
    const double pool = pooled * static_cast<double>(share.size());
    const std::int64_t heads = context.scores.dim(0), group = share.dim(1) / heads;
    std::vector<std::int64_t> capacity;
    for (std::int64_t h = 0; h < heads; ++h) {
      double sum = 0;  // over the query heads that share the set, each rounded half to even
      for (std::int64_t q = h * group; q < (h + 1) * group; ++q)
        sum += std::nearbyint(share(context.layer.layer(), q) * pool + least);
      const auto rounded = static_cast<std::int64_t>(std::nearbyint(sum / static_cast<double>(group)));
      capacity.push_back(std::min(rounded, context.scores.dim(1)));
    }
    return capacity;
  }

  // The same line over the heads of all layers that evict, with what exceeds a head's columns given to the others and what
  // rounding leaves to the largest remainders: together they keep exactly H · B for each of these layers.
  struct Head {
    std::int64_t layer = 0;
    double share = 0;
    std::int64_t columns = 0, capacity = 0;
    double remainder = 0;
    bool full = false;
  };

  std::vector<std::int64_t> exact(const AllocationContext& context, const Tensor<double, 2>& share) const {
    const std::int64_t base = context.budget - context.window, per_layer = context.scores.dim(0);
    std::vector<Head> heads;
    for (std::int64_t l = 0; l < share.dim(0); ++l) {
      const std::int64_t candidates = candidates_of(context.layer, static_cast<int>(l));
      if (candidates <= context.budget) continue;  // nothing is evicted there
      const std::int64_t group = share.dim(1) / per_layer;
      for (std::int64_t h = 0; h < per_layer; ++h) {
        Head head{.layer = l, .columns = candidates - context.window};
        for (std::int64_t q = h * group; q < (h + 1) * group; ++q) head.share += share(l, q);
        heads.push_back(head);
      }
    }
    const double least = static_cast<double>(base) - floor_divided(static_cast<double>(base), settings_.beta);
    divide(heads, base * static_cast<std::int64_t>(heads.size()), least);
    std::vector<std::int64_t> capacity;
    for (const Head& head : heads)
      if (head.layer == context.layer.layer()) capacity.push_back(head.capacity);
    return capacity;
  }

  static void divide(std::vector<Head>& heads, std::int64_t total, double least) {
    std::int64_t left = total;
    for (bool again = true; again;) {
      again = false;
      double shares = 0, open = 0;
      left = total;
      for (const Head& head : heads) {
        if (head.full) left -= head.columns;
        if (!head.full) shares += head.share, open += 1;
      }
      const double pool = static_cast<double>(left) - least * open;
      for (Head& head : heads) {
        if (head.full) continue;
        const double ideal = least + pool * (shares > 0 ? head.share / shares : 1 / open);
        if (ideal >= static_cast<double>(head.columns)) {
          head.full = again = true;
          head.capacity = head.columns;
        } else {
          head.capacity = static_cast<std::int64_t>(ideal);
          head.remainder = ideal - std::floor(ideal);
        }
      }
    }
    std::vector<Head*> order;
    for (Head& head : heads)
      if (!head.full) order.push_back(&head), left -= head.capacity;
    std::stable_sort(order.begin(), order.end(), [](const Head* a, const Head* b) { return a->remainder > b->remainder; });
    for (std::size_t i = 0; left > 0 && !order.empty(); i = (i + 1) % order.size()) {
      if (order[i]->capacity == order[i]->columns) continue;
      ++order[i]->capacity;
      --left;
    }
  }

  // Prompt tokens that a layer's sliding window shows when the prompt ends; layers that were not captured: all.
  static std::int64_t candidates_of(const LayerWorkspace& workspace, int layer) {
    const Trace& trace = workspace.trace();
    const bool captured = std::find(trace.layers().begin(), trace.layers().end(), layer) != trace.layers().end();
    return workspace.prompt() - (captured ? first_candidate(trace, layer) : 0);
  }

  HeadTableSettings settings_;
};

}  // namespace

std::unique_ptr<Allocation> table_allocation(HeadTableSettings settings) {
  return std::make_unique<TableAllocation>(std::move(settings));
}

}  // namespace kvreplay
