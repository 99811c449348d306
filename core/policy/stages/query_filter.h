// Scoring keys with query filters (core/policy/query_filters.h).
#pragma once

#include <memory>
#include <span>
#include <string>

#include "core/policy/query_filters.h"
#include "core/policy/stages/stages.h"

namespace kvreplay {

// Where the filters of a layer come from: a file, or the prompt's own queries.
class FilterSource {
 public:
  static constexpr const char* own_name = "own";
  // A path, or "own". Throws Error when the file cannot be used.
  static FilterSource named(const std::string& name);
  const std::string& name() const { return name_; }
  // [Hk, d]. Throws Error when the file's filters do not fit the trace, or naming the query that was not recorded.
  const Tensor<float, 2>& of(LayerWorkspace& layer) const;

 private:
  std::string name_;
  std::shared_ptr<const QueryFilters> filters_;  // null: own
};

// -<filter, key>: how far the key reaches along the queries' direction.
double filter_score(std::span<const float> filter, std::span<const float> key);
std::unique_ptr<Indicator> query_filter_indicator(FilterSource source);

}  // namespace kvreplay
