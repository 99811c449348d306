// Rotary position embedding: frequencies with the scalings that published models use, and their application.
#pragma once

#include <cstdint>
#include <string>

#include "core/base/tensor.h"
#include "core/model/config.h"
#include "core/model/json_file_internal.h"

namespace kvreplay {

// Scalings: none ("default"), "linear" (Chen et al. 2023), "llama3" (Llama 3.1), "yarn" (Peng et al. 2023); as Hugging Face
// transformers computes them. Understands `rope_theta` with `rope_scaling`, and the newer `rope_parameters`.
RopeConfig read_rope_config(const json_file::Reader& config, int head_dim, int max_positions, double default_theta);

// Cosines and sines of positions first ... first + count - 1. Angles are computed in float64.
class RopeTable {
 public:
  RopeTable(const RopeConfig& config, std::int64_t first, std::int64_t count);
  // Turns the head vector of the i-th position in place.
  void apply(std::int64_t i, float* head) const;

 private:
  std::int64_t half_;
  Tensor<float, 2> cosine_, sine_;  // [count, rotary_dim / 2]
};

}  // namespace kvreplay
