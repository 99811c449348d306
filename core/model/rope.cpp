#include "core/model/rope_internal.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "core/base/text.h"

namespace kvreplay {
namespace {

constexpr double pi = std::numbers::pi;
constexpr double huge = 1e18;

std::vector<double> plain_frequencies(double theta, int dim) {
  std::vector<double> frequencies;
  for (int i = 0; i < dim; i += 2) frequencies.push_back(std::pow(theta, -static_cast<double>(i) / dim));
  return frequencies;
}

void scale_linear(const json_file::Reader& scaling, RopeConfig& rope) {
  const double factor = scaling.real("factor", 1e-6, huge);
  for (double& f : rope.frequencies) f /= factor;
}

// Long wavelengths are stretched by `factor`, short ones kept, those between blended.
void scale_llama3(const json_file::Reader& scaling, RopeConfig& rope, double original_positions) {
  const double factor = scaling.real("factor", 1e-6, huge);
  const double low = scaling.real("low_freq_factor", 1e-6, huge), high = scaling.real("high_freq_factor", 1e-6, huge);
  if (low == high) throw Error(scaling.owner(), "\"low_freq_factor\" and \"high_freq_factor\" must differ");
  for (double& f : rope.frequencies) {
    const double wavelength = 2 * pi / f;
    if (wavelength < original_positions / high) continue;
    if (wavelength > original_positions / low) {
      f /= factor;
      continue;
    }
    const double smooth = (original_positions / wavelength - low) / (high - low);
    f = (1 - smooth) * f / factor + smooth * f;
  }
}

double yarn_magnitude(double scale, double factor) { return scale <= 1 ? 1.0 : 0.1 * factor * std::log(scale) + 1.0; }

void scale_yarn(const json_file::Reader& scaling, RopeConfig& rope, double original_positions, double max_positions) {
  const double factor = scaling.real("factor", 1e-6, huge, max_positions / original_positions);
  const double fast = scaling.real("beta_fast", 1e-6, huge, 32), slow = scaling.real("beta_slow", 1e-6, huge, 1);
  const double mscale = scaling.real("mscale", 0, huge, 0), mscale_all = scaling.real("mscale_all_dim", 0, huge, 0);
  const double computed = mscale != 0 && mscale_all != 0
                              ? yarn_magnitude(factor, mscale) / yarn_magnitude(factor, mscale_all)
                              : yarn_magnitude(factor, 1);
  rope.magnitude = scaling.real("attention_factor", 1e-6, huge, computed);
  const int dim = rope.rotary_dim;
  // The pair of elements that turns `rotations` times within the original context.
  const auto correction = [&](double rotations) {
    return dim * std::log(original_positions / (rotations * 2 * pi)) / (2 * std::log(rope.theta));
  };
  double low = correction(fast), high = correction(slow);
  if (scaling.boolean("truncate", true)) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1.0);
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < rope.frequencies.size(); ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    rope.frequencies[i] *= stretched / factor + (1 - stretched);
  }
}

}  // namespace

RopeConfig read_rope_config(const json_file::Reader& config, int head_dim, int max_positions, double default_theta) {
  const char* key = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const nlohmann::json empty = nlohmann::json::object();
  const nlohmann::json& object = config.has(key) ? config.at(key) : empty;
  if (!object.is_object()) throw Error(config.owner(), "\"" + std::string(key) + "\" must be an object");
  const json_file::Reader scaling(config.owner() + ": " + key, object);

  RopeConfig rope;
  rope.theta = scaling.real("rope_theta", 1, huge, config.real("rope_theta", 1, huge, default_theta));
  const double share = scaling.real("partial_rotary_factor", 0, 1, config.real("partial_rotary_factor", 0, 1, 1));
  rope.rotary_dim = static_cast<int>(head_dim * share);
  if (rope.rotary_dim < 2 || rope.rotary_dim % 2 != 0)
    throw Error(config.owner(), "the rotary part of a head must be an even number of elements, and at least 2",
                "it is head_dim times partial_rotary_factor");
  rope.frequencies = plain_frequencies(rope.theta, rope.rotary_dim);

  // "rope_type" since 2024, "type" before; nothing at all for models that stretch nothing.
  const std::string type = scaling.text("rope_type", scaling.text("type", "default"));
  if (type == "default") return rope;
  rope.scaling = object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  // What the model was trained with: in the scaling, beside it, or the same as the maximum.
  const double original =
      config.real("original_max_position_embeddings", 1, huge,
                  scaling.real("original_max_position_embeddings", 1, huge, static_cast<double>(max_positions)));
  if (type == "linear") {
    scale_linear(scaling, rope);
  } else if (type == "llama3") {
    scale_llama3(scaling, rope, original);
  } else if (type == "yarn") {
    scale_yarn(scaling, rope, original, max_positions);
  } else {
    throw Error(scaling.owner(), "RoPE scaling \"" + type + "\" is not known", "known are default, linear, llama3 and yarn");
  }
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
