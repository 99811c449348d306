#include <algorithm>
#include <cmath>

#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

class UniformAllocation final : public Allocation {
 public:
  std::vector<std::int64_t> capacity(const AllocationContext& context) const override {
    return std::vector<std::int64_t>(static_cast<std::size_t>(context.scores.dim(0)), context.budget - context.window);
  }
};

class PyramidAllocation final : public Allocation {
 public:
  PyramidAllocation(int beta, PyramidForm form) : beta_(beta), form_(form) {}

  std::vector<std::int64_t> capacity(const AllocationContext& context) const override {
    LayerWorkspace& layer = context.layer;
    const std::int64_t base = context.budget - context.window, columns = context.scores.dim(1);
    const std::int64_t layers = layer.model().num_layers;
    std::int64_t capacity = base;
    if (layers > 1 && form_ == PyramidForm::exact) {
      capacity = exact(layer.layer(), layers, static_cast<double>(base), static_cast<double>(columns));
    } else if (layers > 1 && (form_ == PyramidForm::published_without_branch || layer.candidates() >= 2 * base)) {
      capacity = published(layer.layer(), layers, base, columns);
    }
    return std::vector<std::int64_t>(static_cast<std::size_t>(context.scores.dim(0)),
                                     std::clamp<std::int64_t>(capacity, 0, columns));
  }

 private:
  // Integer arithmetic as in PyramidKV's code: the floor of the step makes the sum over layers exceed the nominal budget
  // by up to 15 %.
  std::int64_t published(std::int64_t layer, std::int64_t layers, std::int64_t base, std::int64_t columns) const {
    std::int64_t smallest = base / beta_, largest = 2 * base - smallest;
    if (largest >= columns) {
      largest = columns;
      smallest = 2 * base - largest;
    }
    return largest - layer * ((largest - smallest) / (layers - 1));
  }

  // The same line in real arithmetic; rounding the running sum makes all layers together get exactly layers · base.
  std::int64_t exact(std::int64_t layer, std::int64_t layers, double base, double columns) const {
    const double largest = std::min(2 * base - base / static_cast<double>(beta_), columns), smallest = 2 * base - largest;
    const double step = (largest - smallest) / static_cast<double>(layers - 1);
    const auto sum_before = [&](double l) { return std::llround(l * largest - step * l * (l - 1) / 2); };
    return sum_before(static_cast<double>(layer + 1)) - sum_before(static_cast<double>(layer));
  }

  std::int64_t beta_;
  PyramidForm form_;
};

}  // namespace

std::unique_ptr<Allocation> uniform_allocation() { return std::make_unique<UniformAllocation>(); }
std::unique_ptr<Allocation> pyramid_allocation(int beta, PyramidForm form) {
  return std::make_unique<PyramidAllocation>(beta, form);
}

}  // namespace kvreplay
