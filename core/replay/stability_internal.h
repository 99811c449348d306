// How stable a kept set is between two arithmetics of the same policy. Internal to core/replay.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "core/backend/backend.h"
#include "core/policy/policy.h"

namespace kvreplay {

// The policy with scores in half precision, or null where it scores so already.
std::unique_ptr<Policy> half_precision_form(const PolicySpec& spec);

// Prompt tokens that both of two evictions never evict, added up layer by layer.
class KeptOverlap {
 public:
  // evicted_at [H, T] of the policy as it is and of its half-precision form.
  void add_layer(const LoadedLayer& layer, TensorView<const std::int32_t, 2> plain, TensorView<const std::int32_t, 2> half);
  // kept_overlap_fp16: of the tokens that are kept, the share that half precision keeps too; kept_jaccard_fp16: of those
  // that either keeps, the share that both do; _worst: of the worst head. 1 where a head keeps nothing.
  void summarise(std::map<std::string, double>& summary) const;

 private:
  std::int64_t both_ = 0, kept_ = 0, either_ = 0;
  double worst_overlap_ = 1, worst_jaccard_ = 1;
};

}  // namespace kvreplay
