#include "core/model/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <string_view>

#include "core/base/text.h"
#include "core/model/json_file_internal.h"
#include "core/model/rope_internal.h"

namespace kvreplay {
namespace {

using json_file::Reader;

enum class Bias : std::uint8_t { never, always, as_configured };
enum class Window : std::uint8_t {
  none,
  everywhere,    // `sliding_window`
  later_layers,  // with `use_sliding_window`, from layer `max_window_layers` on
  alternating,   // every other layer, the first included
};

// What distinguishes a family of models. Whatever the config file says itself is read from there.
struct Family {
  std::string_view model_type;
  std::string_view class_name;
  Bias query_key_value_bias = Bias::never;
  Bias output_bias = Bias::never;
  Bias mlp_bias = Bias::never;
  Window window = Window::none;
  bool query_key_norms = false;
  bool norm_adds_one = false;
  bool scaled_embeddings = false;
  bool norms_after_blocks = false;
  // Defaults of keys that config.json may lack.
  bool tied = false;
  int head_dim = 0;  // 0: hidden_size / num_attention_heads
  int max_positions = 2048;
  const char* activation = "silu";
  double query_scalar = 0;  // of query_pre_attn_scalar; 0: head_dim, the key is not read
  double attention_softcap = 0, logit_softcap = 0;
  int default_window = 0;
  bool gelu_means_tanh = false;  // files say "gelu" and mean the tanh form
};

constexpr std::array families = {
    Family{.model_type = "llama",
           .class_name = "LlamaForCausalLM",
           .query_key_value_bias = Bias::as_configured,
           .output_bias = Bias::as_configured,
           .mlp_bias = Bias::as_configured},
    Family{
        .model_type = "mistral", .class_name = "MistralForCausalLM", .window = Window::everywhere, .max_positions = 131072},
    Family{.model_type = "qwen2",
           .class_name = "Qwen2ForCausalLM",
           .query_key_value_bias = Bias::always,
           .window = Window::later_layers,
           .max_positions = 32768,
           .default_window = 4096},
    Family{.model_type = "qwen3",
           .class_name = "Qwen3ForCausalLM",
           .query_key_value_bias = Bias::as_configured,
           .output_bias = Bias::as_configured,
           .window = Window::later_layers,
           .query_key_norms = true,
           .head_dim = 128,
           .max_positions = 32768,
           .default_window = 4096},
    Family{.model_type = "gemma",
           .class_name = "GemmaForCausalLM",
           .query_key_value_bias = Bias::as_configured,
           .output_bias = Bias::as_configured,
           .norm_adds_one = true,
           .scaled_embeddings = true,
           .tied = true,
           .head_dim = 256,
           .max_positions = 8192,
           .activation = "gelu_pytorch_tanh",
           .gelu_means_tanh = true},
    Family{.model_type = "gemma2",
           .class_name = "Gemma2ForCausalLM",
           .query_key_value_bias = Bias::as_configured,
           .output_bias = Bias::as_configured,
           .window = Window::alternating,
           .norm_adds_one = true,
           .scaled_embeddings = true,
           .norms_after_blocks = true,
           .tied = true,
           .head_dim = 256,
           .max_positions = 8192,
           .activation = "gelu_pytorch_tanh",
           .query_scalar = 256,
           .attention_softcap = 50,
           .logit_softcap = 30,
           .default_window = 4096},
};

const Family& find_family(const Reader& config) {
  std::string name = config.text("model_type", "");
  const auto known_type = [&](const Family& family) { return family.model_type == name; };
  auto found = std::ranges::find_if(families, known_type);
  if (config.has("architectures") && config.at("architectures").is_array() && !config.at("architectures").empty() &&
      config.at("architectures").front().is_string()) {
    name = config.at("architectures").front().get<std::string>();
    found = std::ranges::find_if(families, [&](const Family& family) { return family.class_name == name; });
  }
  if (found == families.end())
    throw Error(config.owner(), "architecture \"" + printable(name) + "\" is not known",
                "known are " + join(known_architectures(), ", ", " and "));
  return *found;
}

bool bias(const Reader& config, Bias rule, const char* key) {
  return rule == Bias::always || (rule == Bias::as_configured && config.boolean(key, false));
}

Activation read_activation(const Reader& config, const Family& family) {
  std::string name = config.text("hidden_activation", config.text("hidden_act", family.activation));
  if (family.gelu_means_tanh && name == "gelu") name = "gelu_pytorch_tanh";
  if (name == "silu" || name == "swish") return Activation::silu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new" || name == "gelu_fast") return Activation::gelu_tanh;
  if (name == "gelu") return Activation::gelu;
  throw Error(config.owner(), "activation \"" + printable(name) + "\" is not known",
              "known are silu, gelu and gelu_pytorch_tanh");
}

bool is_null(const nlohmann::json& object, const char* key) { return object.contains(key) && object.at(key).is_null(); }

std::vector<int> read_windows(const Reader& config, const nlohmann::json& object, const Family& family, int num_layers) {
  std::vector<int> windows(static_cast<std::size_t>(num_layers), 0);
  if (family.window == Window::none || is_null(object, "sliding_window")) return windows;
  if (family.window == Window::later_layers && !config.boolean("use_sliding_window", false)) return windows;
  const int window = static_cast<int>(config.integer("sliding_window", 1, 1 << 30, family.default_window));
  const auto first = config.integer("max_window_layers", 0, 1 << 20, family.window == Window::later_layers ? 28 : 0);
  for (int layer = 0; layer < num_layers; ++layer) {
    const bool slides = family.window == Window::everywhere || (family.window == Window::later_layers && layer >= first) ||
                        (family.window == Window::alternating && layer % 2 == 0);
    windows[static_cast<std::size_t>(layer)] = slides ? window : 0;
  }
  if (!config.has("layer_types") || family.window == Window::everywhere) return windows;
  const auto& types = config.at("layer_types");
  if (!types.is_array() || static_cast<int>(types.size()) != num_layers)
    throw Error(config.owner(),
                "\"layer_types\" must name the type of each of the " + std::to_string(num_layers) + " layers");
  for (int layer = 0; layer < num_layers; ++layer) {
    const auto& type = types[static_cast<std::size_t>(layer)];
    if (type != "sliding_attention" && type != "full_attention")
      throw Error(config.owner(), "\"layer_types\" may hold \"sliding_attention\" and \"full_attention\" only");
    windows[static_cast<std::size_t>(layer)] = type == "sliding_attention" ? window : 0;
  }
  return windows;
}

std::optional<double> positive(double value) { return value > 0 ? std::optional(value) : std::nullopt; }

// A cap is given, absent (the family's own) or null (none).
std::optional<double> read_cap(const Reader& config, const nlohmann::json& object, const char* key, double own) {
  if (own == 0 || is_null(object, key)) return {};
  return positive(config.real(key, 0, 1e9, own));
}

std::vector<std::int32_t> read_end_ids(const Reader& config) {
  std::vector<std::int32_t> ids;
  if (!config.has("eos_token_id")) return ids;
  const auto& value = config.at("eos_token_id");
  for (const auto& id : value.is_array() ? value : nlohmann::json::array({value})) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < -1 || id.get<std::int64_t>() > (1 << 30))
      throw Error(config.owner(), "\"eos_token_id\" must be a token id or a list of them");
    if (id.get<std::int64_t>() >= 0) ids.push_back(id.get<std::int32_t>());
  }
  return ids;
}

void read_shape(const Reader& config, const Family& family, ModelConfig& model) {
  // Layers are numbered with three digits in a trace; the other limits only keep products of shapes far from overflow.
  model.num_layers = static_cast<int>(config.integer("num_hidden_layers", 1, 1000));
  model.num_query_heads = static_cast<int>(config.integer("num_attention_heads", 1, 4096));
  model.num_kv_heads = static_cast<int>(config.integer("num_key_value_heads", 1, 4096, model.num_query_heads));
  model.hidden_size = static_cast<int>(config.integer("hidden_size", 1, 1 << 20));
  model.intermediate_size = static_cast<int>(config.integer("intermediate_size", 1, 1 << 22));
  model.vocabulary_size = static_cast<int>(config.integer("vocab_size", 1, 1 << 24));
  model.max_positions = static_cast<int>(config.integer("max_position_embeddings", 1, 1 << 30, family.max_positions));
  const int implied = family.head_dim != 0 ? family.head_dim : model.hidden_size / model.num_query_heads;
  model.head_dim = static_cast<int>(config.integer("head_dim", 1, 4096, implied));
  if (model.num_query_heads % model.num_kv_heads != 0)
    throw Error(config.owner(), "\"num_attention_heads\" (" + std::to_string(model.num_query_heads) +
                                    ") must be a multiple of \"num_key_value_heads\" (" +
                                    std::to_string(model.num_kv_heads) + ")");
  if (model.head_dim < 1) throw Error(config.owner(), "\"hidden_size\" is smaller than \"num_attention_heads\"");
}

std::string directory_name(const std::string& directory) {
  std::error_code ignored;
  auto path = std::filesystem::weakly_canonical(directory, ignored);
  if (path.filename().empty()) path = path.parent_path();
  return path.filename().string();
}

}  // namespace

std::vector<std::string> known_architectures() {
  std::vector<std::string> names;
  for (const auto& family : families) names.emplace_back(family.model_type);
  return names;
}

ModelInfo ModelConfig::info() const {
  ModelInfo info;
  info.name = name;
  info.architecture = architecture;
  info.num_layers = num_layers;
  info.num_query_heads = num_query_heads;
  info.num_kv_heads = num_kv_heads;
  info.head_dim = head_dim;
  info.hidden_size = hidden_size;
  info.attention_scale = attention_scale;
  info.logit_softcap = attention_softcap;
  info.rope_theta = rope.theta;
  info.rope_scaling = rope.scaling;
  info.rope_layout = "half";
  return info;
}

ModelConfig load_model_config(const std::string& directory) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(directory, ignored))
    throw Error(directory, "is not a directory", "a model is a directory with config.json and *.safetensors");
  const std::string path = directory + "/config.json";
  const nlohmann::json object = json_file::read_object(path);
  const Reader config(path, object);
  const Family& family = find_family(config);

  ModelConfig model;
  model.name = directory_name(directory);
  model.architecture = family.model_type;
  read_shape(config, family, model);
  model.norm_epsilon = config.real("rms_norm_eps", 0, 1, 1e-6);
  model.activation = read_activation(config, family);
  model.tied_embeddings = config.boolean("tie_word_embeddings", family.tied);
  model.query_key_value_bias = bias(config, family.query_key_value_bias, "attention_bias");
  model.output_bias = bias(config, family.output_bias, "attention_bias");
  model.mlp_bias = bias(config, family.mlp_bias, "mlp_bias");
  model.query_key_norms = family.query_key_norms;
  model.norm_adds_one = family.norm_adds_one;
  model.scaled_embeddings = family.scaled_embeddings;
  model.norms_after_blocks = family.norms_after_blocks;
  const double scalar =
      family.query_scalar != 0 ? config.real("query_pre_attn_scalar", 1e-6, 1e9, family.query_scalar) : model.head_dim;
  model.attention_scale = 1 / std::sqrt(scalar);
  model.attention_softcap = read_cap(config, object, "attn_logit_softcapping", family.attention_softcap);
  model.logit_softcap = read_cap(config, object, "final_logit_softcapping", family.logit_softcap);
  model.sliding_window = read_windows(config, object, family, model.num_layers);
  model.rope = read_rope_config(config, model.head_dim, model.max_positions, 10000);
  model.end_of_text_ids = read_end_ids(config);
  const std::string generation_path = directory + "/generation_config.json";
  if (std::filesystem::exists(generation_path, ignored)) {
    const nlohmann::json generation = json_file::read_object(generation_path);
    const auto ids = read_end_ids(Reader(generation_path, generation));
    if (!ids.empty()) model.end_of_text_ids = ids;
  }
  return model;
}

}  // namespace kvreplay
