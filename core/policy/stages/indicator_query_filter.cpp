#include "core/base/error.h"
#include "core/policy/stages/host_tensors.h"
#include "core/policy/stages/query_filter.h"

namespace kvreplay {
namespace {

class QueryFilterIndicator final : public Indicator {
 public:
  explicit QueryFilterIndicator(FilterSource source) : source_(std::move(source)) {}
  std::string key(std::int64_t) const override { return "query_filter:" + source_.name(); }

  Array score(LayerWorkspace& layer, std::int64_t) const override {
    const Tensor<float, 3>& keys = candidate_keys(layer);
    const Tensor<float, 2>& filters = source_.of(layer);
    Tensor<double, 2> scores({keys.dim(0), keys.dim(1)});
    for (std::int64_t h = 0; h < keys.dim(0); ++h)
      for (std::int64_t j = 0; j < keys.dim(1); ++j)
        scores(h, j) = filter_score(filters.view()[h].flat(), keys.view()[h][j].flat());
    return upload_scores(layer, scores);
  }

 private:
  FilterSource source_;
};

}  // namespace

FilterSource FilterSource::named(const std::string& name) {
  FilterSource source;
  source.name_ = name;
  if (name != own_name) source.filters_ = std::make_shared<const QueryFilters>(read_query_filters(name));
  return source;
}

const Tensor<float, 2>& FilterSource::of(LayerWorkspace& layer) const {
  using Shared = std::shared_ptr<const Tensor<float, 2>>;
  if (!filters_)
    return *layer.shared<Shared>("own query filters", [&] {
      return std::make_shared<const Tensor<float, 2>>(
          query_filters_of(candidate_queries(layer), layer.loaded().num_kv_heads));
    });
  const ModelInfo& model = layer.model();
  if (filters_->num_kv_heads != model.num_kv_heads || filters_->head_dim != model.head_dim)
    throw Error(name_,
                "has filters for " + std::to_string(filters_->num_kv_heads) + " KV heads of " +
                    std::to_string(filters_->head_dim) + " elements, and " + layer.trace().path() + " has " +
                    std::to_string(model.num_kv_heads) + " of " + std::to_string(model.head_dim),
                "derive filters from traces of the same model with `kvreplay filters`");
  const auto found = filters_->layers.find(layer.layer());
  if (found == filters_->layers.end())
    throw Error(name_, "has no filters for layer " + std::to_string(layer.layer()),
                "derive them from traces that have this layer, with `kvreplay filters`");
  return found->second;
}

double filter_score(std::span<const float> filter, std::span<const float> key) {
  double dot = 0;
  for (std::size_t i = 0; i < key.size(); ++i) dot += static_cast<double>(filter[i]) * key[i];
  return -dot;
}

std::unique_ptr<Indicator> query_filter_indicator(FilterSource source) {
  return std::make_unique<QueryFilterIndicator>(std::move(source));
}

}  // namespace kvreplay
