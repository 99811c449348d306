// The fixed kinds of pooling: none, average, maximum.
#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

class NoPooling final : public Pooling {
 public:
  Array pool(const PoolingContext& context) const override { return context.scores; }
};

class AveragePooling final : public Pooling {
 public:
  AveragePooling(int kernel, Padding padding) : kernel_(kernel), padding_(padding) {}
  Array pool(const PoolingContext& context) const override {
    const auto heads = static_cast<std::size_t>(context.scores.dim(0));
    return context.layer.backend().average_pool(context.scores, std::vector<int>(heads, kernel_), std::vector<int>(heads, 0),
                                                padding_);
  }

 private:
  int kernel_;
  Padding padding_;
};

class MaxPooling final : public Pooling {
 public:
  explicit MaxPooling(int kernel) : kernel_(kernel) {}
  Array pool(const PoolingContext& context) const override {
    return context.layer.backend().max_pool(context.scores, kernel_);
  }

 private:
  int kernel_;
};

}  // namespace

std::unique_ptr<Pooling> no_pooling() { return std::make_unique<NoPooling>(); }
std::unique_ptr<Pooling> average_pooling(int kernel, Padding padding) {
  return std::make_unique<AveragePooling>(kernel, padding);
}
std::unique_ptr<Pooling> max_pooling(int kernel) { return std::make_unique<MaxPooling>(kernel); }

}  // namespace kvreplay
