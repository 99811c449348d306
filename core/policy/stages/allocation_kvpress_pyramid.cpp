#include <algorithm>
#include <cmath>

#include "core/policy/stages/kvpress.h"

namespace kvreplay {
namespace {

class KvpressPyramidAllocation final : public Allocation {
 public:
  KvpressPyramidAllocation(int beta, int window) : beta_(beta), window_(window) {}

  std::vector<std::int64_t> capacity(const AllocationContext& context) const override {
    const auto length = static_cast<double>(context.layer.candidates()), window = static_cast<double>(window_);
    const int layers = context.layer.model().num_layers;
    const double mean = length * (1 - kvpress_ratio(context.layer.candidates(), context.budget));
    double smallest = mean / beta_, largest = mean * 2 - smallest;
    if (largest >= length - window) {
      largest = length - window;
      smallest = mean * 2 - largest;
    }
    double kept = mean;
    // nearbyint rounds half to even, as Python does.
    if (layers > 1 && length >= largest && largest >= smallest && smallest >= window)
      kept = largest - context.layer.layer() * ((largest - smallest) / (layers - 1));
    return std::vector<std::int64_t>(static_cast<std::size_t>(context.scores.dim(0)),
                                     static_cast<std::int64_t>(std::nearbyint(kept)));
  }

 private:
  int beta_, window_;
};

}  // namespace

std::unique_ptr<Allocation> kvpress_pyramid_allocation(int beta, int window) {
  return std::make_unique<KvpressPyramidAllocation>(beta, window);
}

}  // namespace kvreplay
