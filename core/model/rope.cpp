#include "core/model/rope_internal.h"

#include <cmath>
#include <string>
#include <utility>

#include "core/trace/rope.h"

namespace kvreplay {
namespace {

constexpr double huge = 1e18;

void read_llama3(const json_file::Reader& scaling, RopeParameters& rope) {
  rope.low_freq_factor = scaling.real("low_freq_factor", 1e-6, huge);
  rope.high_freq_factor = scaling.real("high_freq_factor", 1e-6, huge);
  if (rope.low_freq_factor == rope.high_freq_factor)
    throw Error(scaling.owner(), "\"low_freq_factor\" and \"high_freq_factor\" must differ");
}

void read_yarn(const json_file::Reader& scaling, RopeParameters& rope) {
  rope.beta_fast = scaling.real("beta_fast", 1e-6, huge, 32);
  rope.beta_slow = scaling.real("beta_slow", 1e-6, huge, 1);
  rope.mscale = scaling.real("mscale", 0, huge, 0);
  rope.mscale_all_dim = scaling.real("mscale_all_dim", 0, huge, 0);
  if (scaling.has("attention_factor")) rope.attention_factor = scaling.real("attention_factor", 1e-6, huge);
  rope.truncate = scaling.boolean("truncate", true);
}

}  // namespace

RopeConfig read_rope_config(const json_file::Reader& config, int head_dim, int max_positions, double default_theta) {
  const char* key = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const nlohmann::json empty = nlohmann::json::object();
  const nlohmann::json& object = config.has(key) ? config.at(key) : empty;
  if (!object.is_object()) throw Error(config.owner(), "\"" + std::string(key) + "\" must be an object");
  const json_file::Reader scaling(config.owner() + ": " + key, object);

  RopeParameters parameters;
  parameters.theta = scaling.real("rope_theta", 1, huge, config.real("rope_theta", 1, huge, default_theta));
  const double share = scaling.real("partial_rotary_factor", 0, 1, config.real("partial_rotary_factor", 0, 1, 1));
  parameters.rotary_dim = static_cast<int>(head_dim * share);
  if (parameters.rotary_dim < 2 || parameters.rotary_dim % 2 != 0)
    throw Error(config.owner(), "the rotary part of a head must be an even number of elements, and at least 2",
                "it is head_dim times partial_rotary_factor");

  // "rope_type" since 2024, "type" before; nothing at all for models that stretch nothing.
  parameters.type = scaling.text("rope_type", scaling.text("type", "default"));
  nlohmann::json stored = parameters.type == "default" ? nlohmann::json::object() : object;
  if (share != 1) stored["partial_rotary_factor"] = share;
  if (parameters.type == "linear") {
    parameters.factor = scaling.real("factor", 1e-6, huge);
  } else if (parameters.type == "llama3" || parameters.type == "yarn") {
    // What the model was trained with: in the scaling, beside it, or the same as the maximum.
    parameters.original_positions =
        config.real("original_max_position_embeddings", 1, huge,
                    scaling.real("original_max_position_embeddings", 1, huge, static_cast<double>(max_positions)));
    const bool yarn = parameters.type == "yarn";
    parameters.factor = yarn ? scaling.real("factor", 1e-6, huge, max_positions / parameters.original_positions)
                             : scaling.real("factor", 1e-6, huge);
    yarn ? read_yarn(scaling, parameters) : read_llama3(scaling, parameters);
    // The trace knows nothing of the rest of config.json.
    for (const auto& [name, value] : {std::pair{"original_max_position_embeddings", parameters.original_positions},
                                      std::pair{"factor", parameters.factor}})
      if (!scaling.has(name) || scaling.real(name, 0, huge) != value) stored[name] = value;
  } else if (parameters.type != "default") {
    throw Error(scaling.owner(), "RoPE scaling \"" + parameters.type + "\" is not known",
                "known are default, linear, llama3 and yarn");
  }

  RopeFrequencies frequencies = rope_frequencies(parameters);
  RopeConfig rope;
  rope.theta = parameters.theta;
  rope.rotary_dim = parameters.rotary_dim;
  rope.frequencies = std::move(frequencies.frequency);
  rope.magnitude = frequencies.magnitude;
  if (!stored.empty()) rope.scaling = stored.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return rope;
}

RopeTable::RopeTable(const RopeConfig& config, std::int64_t first, std::int64_t count)
    : half_(static_cast<std::int64_t>(config.frequencies.size())), cosine_({count, half_}), sine_({count, half_}) {
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t p = 0; p < half_; ++p) {
      const double angle = static_cast<double>(first + i) * config.frequencies[static_cast<std::size_t>(p)];
      cosine_(i, p) = static_cast<float>(std::cos(angle) * config.magnitude);
      sine_(i, p) = static_cast<float>(std::sin(angle) * config.magnitude);
    }
}

void RopeTable::apply(std::int64_t i, float* head) const {
  const float* cosine = &cosine_(i, 0);
  const float* sine = &sine_(i, 0);
  for (std::int64_t p = 0; p < half_; ++p) {
    const float x = head[p], y = head[p + half_];
    head[p] = x * cosine[p] - y * sine[p];
    head[p + half_] = y * cosine[p] + x * sine[p];
  }
}

}  // namespace kvreplay
