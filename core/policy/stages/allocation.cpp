#include <algorithm>

#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

class UniformAllocation final : public Allocation {
 public:
  std::vector<std::int64_t> capacity(const LayerWorkspace&, std::int64_t heads, std::int64_t budget,
                                     int window) const override {
    return std::vector<std::int64_t>(static_cast<std::size_t>(heads), budget - window);
  }
};

class PyramidAllocation final : public Allocation {
 public:
  PyramidAllocation(int beta, bool uniform_when_short) : beta_(beta), uniform_when_short_(uniform_when_short) {}

  // Integer arithmetic as in PyramidKV's code: the floor of the step makes the sum over layers exceed
  // the nominal budget by up to 15 %.
  std::vector<std::int64_t> capacity(const LayerWorkspace& layer, std::int64_t heads, std::int64_t budget,
                                     int window) const override {
    const std::int64_t base = budget - window, columns = layer.candidates() - window;
    std::int64_t capacity = base;
    if (!uniform_when_short_ || layer.candidates() >= 2 * base) {
      std::int64_t smallest = base / beta_, largest = 2 * base - smallest;
      if (largest >= columns) {
        largest = columns;
        smallest = 2 * base - largest;
      }
      const std::int64_t layers = layer.model().num_layers;
      const std::int64_t step = layers > 1 ? (largest - smallest) / (layers - 1) : 0;
      capacity = layers > 1 ? largest - layer.layer() * step : base;
    }
    return std::vector<std::int64_t>(static_cast<std::size_t>(heads), std::clamp<std::int64_t>(capacity, 0, columns));
  }

 private:
  std::int64_t beta_;
  bool uniform_when_short_;
};

}  // namespace

std::unique_ptr<Allocation> uniform_allocation() { return std::make_unique<UniformAllocation>(); }
std::unique_ptr<Allocation> pyramid_allocation(int beta, bool uniform_when_short) {
  return std::make_unique<PyramidAllocation>(beta, uniform_when_short);
}

}  // namespace kvreplay
