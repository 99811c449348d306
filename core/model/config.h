// What config.json of a Hugging Face model directory says about a decoder, in this project's terms.
//
// A family of models is one row of a table (config.cpp): what its norms, biases, windows and defaults are. The engine reads
// ModelConfig alone and knows no family by name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/trace/trace.h"

namespace kvreplay {

enum class Activation : std::uint8_t { silu, gelu_tanh, gelu };

// Rotary position embedding in the "half" layout: element i of a head turns together with element i + rotary_dim / 2.
struct RopeConfig {
  double theta = 10000;
  int rotary_dim = 0;  // leading elements of a head that turn, even
  // Radians a position turns each pair by: [rotary_dim / 2], any scaling applied.
  std::vector<double> frequencies;
  double magnitude = 1;  // multiplies cosine and sine (YaRN)
  std::string scaling;   // the config's own description as JSON; empty: none
};

struct ModelConfig {
  std::string name;          // of the directory
  std::string architecture;  // "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2"
  int num_layers = 0;
  int num_query_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int hidden_size = 0;
  int intermediate_size = 0;
  int vocabulary_size = 0;
  int max_positions = 0;
  double norm_epsilon = 0;
  double attention_scale = 0;
  std::optional<double> attention_softcap;
  std::optional<double> logit_softcap;  // of the final logits
  Activation activation = Activation::silu;
  bool tied_embeddings = false;
  bool query_key_value_bias = false;
  bool output_bias = false;
  bool mlp_bias = false;
  bool query_key_norms = false;     // a norm of each head's query and key before RoPE
  bool norm_adds_one = false;       // norms multiply by 1 + w
  bool scaled_embeddings = false;   // embeddings are multiplied by sqrt(hidden_size)
  bool norms_after_blocks = false;  // further norms on what attention and MLP add
  std::vector<int> sliding_window;  // [num_layers], 0: none
  RopeConfig rope;
  std::vector<std::int32_t> end_of_text_ids;  // from generation_config.json, else config.json; may be empty

  int group_size() const { return num_query_heads / num_kv_heads; }
  ModelInfo info() const;  // as a trace file describes it, without the hash of the weights
};

// The families that are understood, by their name in config.json ("model_type").
std::vector<std::string> known_architectures();

// Reads DIR/config.json and, where there is one, DIR/generation_config.json. Throws Error naming the file and the key.
ModelConfig load_model_config(const std::string& directory);

}  // namespace kvreplay
