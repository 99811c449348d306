// The weights of a decoder by their role, found by name in a model directory's files.
#pragma once

#include <vector>

#include "core/model/config.h"
#include "core/model/linear_internal.h"
#include "core/model/weight_files.h"

namespace kvreplay {

using NormWeight = std::vector<float>;  // what a normalised vector is multiplied by; empty: there is no such norm

struct LayerWeights {
  NormWeight before_attention, after_attention, before_mlp, after_mlp;
  NormWeight query_norm, key_norm;  // [head_dim]
  Linear query, key, value, output;
  Linear gate, up, down;
};

struct DecoderWeights {
  StoredTensor embedding;  // [vocabulary_size, hidden_size]
  std::vector<LayerWeights> layers;
  NormWeight final_norm;
  Linear logits;

  // convert_at_most: EngineOptions. Throws Error naming the file and the tensor that is missing or misshapen.
  static DecoderWeights find(const ModelConfig& config, const WeightFiles& files, std::int64_t convert_at_most);
};

}  // namespace kvreplay
