#include <string>

#include "core/base/parallel.h"
#include "core/model/decoder_weights_internal.h"

namespace kvreplay {
namespace {

class Finder {
 public:
  Finder(const ModelConfig& config, const WeightFiles& files, std::int64_t convert_at_most)
      : config_(config), files_(files) {
    // Written by the language model ("model.norm.weight") or by its inner model alone ("norm.weight").
    prefix_ = !files.has("model.norm.weight") && files.has("norm.weight") ? "" : "model.";
    const std::int64_t c = config.hidden_size, i = config.intermediate_size, d = config.head_dim;
    const std::int64_t attention = 2 * c * d * (config.num_query_heads + config.num_kv_heads);
    const std::int64_t total = config.num_layers * (attention + 3 * c * i) + c * config.vocabulary_size;
    keep_ = total * 4 <= convert_at_most;
  }

  DecoderWeights find() const {
    DecoderWeights weights;
    weights.embedding = files_.require(embedding_name(), {config_.vocabulary_size, config_.hidden_size});
    weights.final_norm = norm(prefix_ + "norm", config_.hidden_size);
    weights.logits = config_.tied_embeddings ? Linear(weights.embedding, {}, keep_)
                                             : linear("lm_head", config_.vocabulary_size, config_.hidden_size, false);
    weights.layers.resize(static_cast<std::size_t>(config_.num_layers));
    for (int layer = 0; layer < config_.num_layers; ++layer)
      weights.layers[static_cast<std::size_t>(layer)] = find_layer(prefix_ + "layers." + std::to_string(layer) + ".");
    return weights;
  }

 private:
  // Tied embeddings may be stored under either name, or both, which are then the same.
  std::string embedding_name() const {
    std::string name = prefix_ + "embed_tokens.weight";
    if (config_.tied_embeddings && !files_.has(name) && files_.has("lm_head.weight")) name = "lm_head.weight";
    return name;
  }

  LayerWeights find_layer(const std::string& name) const {
    const std::int64_t c = config_.hidden_size, inner = config_.intermediate_size, d = config_.head_dim;
    const std::int64_t query_size = config_.num_query_heads * d, key_size = config_.num_kv_heads * d;
    LayerWeights layer;
    layer.before_attention = norm(name + "input_layernorm", c);
    if (config_.norms_after_blocks) {
      layer.after_attention = norm(name + "post_attention_layernorm", c);
      layer.before_mlp = norm(name + "pre_feedforward_layernorm", c);
      layer.after_mlp = norm(name + "post_feedforward_layernorm", c);
    } else {
      layer.before_mlp = norm(name + "post_attention_layernorm", c);
    }
    if (config_.query_key_norms) {
      layer.query_norm = norm(name + "self_attn.q_norm", d);
      layer.key_norm = norm(name + "self_attn.k_norm", d);
    }
    layer.query = linear(name + "self_attn.q_proj", query_size, c, config_.query_key_value_bias);
    layer.key = linear(name + "self_attn.k_proj", key_size, c, config_.query_key_value_bias);
    layer.value = linear(name + "self_attn.v_proj", key_size, c, config_.query_key_value_bias);
    layer.output = linear(name + "self_attn.o_proj", c, query_size, config_.output_bias);
    layer.gate = linear(name + "mlp.gate_proj", inner, c, config_.mlp_bias);
    layer.up = linear(name + "mlp.up_proj", inner, c, config_.mlp_bias);
    layer.down = linear(name + "mlp.down_proj", c, inner, config_.mlp_bias);
    return layer;
  }

  Linear linear(const std::string& name, std::int64_t outputs, std::int64_t inputs, bool bias) const {
    std::optional<StoredTensor> added;
    if (bias) added = files_.require(name + ".bias", {outputs});
    return {files_.require(name + ".weight", {outputs, inputs}), added, keep_};
  }

  NormWeight norm(const std::string& name, std::int64_t size) const {
    NormWeight weight(static_cast<std::size_t>(size));
    files_.require(name + ".weight", {size}).read(0, size, weight.data());
    if (config_.norm_adds_one)
      for (float& w : weight) w += 1;
    return weight;
  }

  const ModelConfig& config_;
  const WeightFiles& files_;
  std::string prefix_;
  bool keep_ = false;
};

}  // namespace

DecoderWeights DecoderWeights::find(const ModelConfig& config, const WeightFiles& files, std::int64_t convert_at_most) {
  return Finder(config, files, convert_at_most).find();
}

}  // namespace kvreplay
