#include "core/trace/rope.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "core/base/error.h"
#include "core/base/text.h"

namespace kvreplay {
namespace {

constexpr double pi = std::numbers::pi;

// Long wavelengths are stretched by `factor`, short ones kept, those between blended.
void scale_llama3(const RopeParameters& rope, std::vector<double>& frequencies) {
  for (double& f : frequencies) {
    const double wavelength = 2 * pi / f;
    if (wavelength < rope.original_positions / rope.high_freq_factor) continue;
    if (wavelength > rope.original_positions / rope.low_freq_factor) {
      f /= rope.factor;
      continue;
    }
    const double smooth =
        (rope.original_positions / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
    f = (1 - smooth) * f / rope.factor + smooth * f;
  }
}

double yarn_magnitude(double scale, double factor) { return scale <= 1 ? 1.0 : 0.1 * factor * std::log(scale) + 1.0; }

void scale_yarn(const RopeParameters& rope, RopeFrequencies& out) {
  const double computed = rope.mscale != 0 && rope.mscale_all_dim != 0
                              ? yarn_magnitude(rope.factor, rope.mscale) / yarn_magnitude(rope.factor, rope.mscale_all_dim)
                              : yarn_magnitude(rope.factor, 1);
  out.magnitude = rope.attention_factor.value_or(computed);
  const int dim = rope.rotary_dim;
  // The pair of elements that turns `rotations` times within the original context.
  const auto correction = [&](double rotations) {
    return dim * std::log(rope.original_positions / (rotations * 2 * pi)) / (2 * std::log(rope.theta));
  };
  double low = correction(rope.beta_fast), high = correction(rope.beta_slow);
  if (rope.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1.0);
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < out.frequency.size(); ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    out.frequency[i] *= stretched / rope.factor + (1 - stretched);
  }
}

double base_of(const RopeParameters& rope) {
  const auto length = static_cast<double>(rope.length);
  if (rope.type != "dynamic" || length <= rope.original_positions) return rope.theta;
  const double stretch = rope.factor * length / rope.original_positions - (rope.factor - 1);
  return rope.theta * std::pow(stretch, static_cast<double>(rope.rotary_dim) / (rope.rotary_dim - 2));
}

// The scaling that a trace carries, as its model's config.json has it. Numbers were not checked when it was written.
class Scaling {
 public:
  Scaling(std::string owner, const std::string& text) : owner_(std::move(owner)) {
    object_ = text.empty() ? nlohmann::json::object() : nlohmann::json::parse(text, nullptr, false);
    if (!object_.is_object()) throw Error(owner_, "is not a JSON object");
  }
  const std::string& owner() const { return owner_; }

  // Above 0; `absent` below 0: must be there.
  double positive(const char* key, double absent) const {
    if (!object_.contains(key) || object_.at(key).is_null()) {
      if (absent < 0) throw Error(owner_, "has no \"" + std::string(key) + "\", which its scaling needs", remedy);
      return absent;
    }
    const double value = object_.at(key).is_number() ? object_.at(key).get<double>() : -1.0;
    if (value == 0 && absent == 0) return 0;
    if (!(value > 0) || !(value <= 1e18))
      throw Error(owner_, "\"" + std::string(key) + "\" is not a number above 0", remedy);
    return value;
  }
  bool has(const char* key) const { return object_.contains(key) && !object_.at(key).is_null(); }
  bool is_false(const char* key) const { return has(key) && object_.at(key).is_boolean() && !object_.at(key).get<bool>(); }
  std::string type() const {
    for (const char* key : {"rope_type", "type"})
      if (has(key) && object_.at(key).is_string()) return object_.at(key).get<std::string>();
    return "default";
  }

  static constexpr const char* remedy = "the attribute holds rope_scaling of the model's config.json";

 private:
  std::string owner_;
  nlohmann::json object_;
};

RopeParameters parameters_of(const Trace& trace) {
  const ModelInfo& model = trace.model();
  const std::string node = trace.path() + ":/model";
  if (!model.rope_theta)
    throw Error(node, "has no attribute rope_theta, without which keys and queries before RoPE are not known",
                "capture again, or add rope_theta (and rope_scaling) of the model's config.json");
  const Scaling scaling(node + ": rope_scaling", model.rope_scaling);
  RopeParameters rope;
  rope.type = scaling.type();
  rope.theta = *model.rope_theta;
  rope.rotary_dim = static_cast<int>(model.head_dim * scaling.positive("partial_rotary_factor", 1));
  if (rope.rotary_dim < 2 || rope.rotary_dim % 2 != 0 || rope.rotary_dim > model.head_dim)
    throw Error(scaling.owner(), "the rotary part of a head must be an even number of elements, from 2 to head_dim");
  rope.length = trace.text_position(0, trace.prompt_length() - 1) + 1;
  if (rope.type == "default") return rope;
  if (rope.type != "linear" && rope.type != "dynamic" && rope.type != "llama3" && rope.type != "yarn")
    throw Error(scaling.owner(), "RoPE scaling \"" + printable(rope.type) + "\" is not known",
                "known are default, linear, dynamic, llama3 and yarn");
  rope.factor = scaling.positive("factor", -1);
  if (rope.type == "linear") return rope;
  rope.original_positions =
      scaling.positive("original_max_position_embeddings", scaling.positive("max_position_embeddings", 0));
  if (!(rope.original_positions > 0)) scaling.positive("original_max_position_embeddings", -1);
  if (rope.type == "llama3") {
    rope.low_freq_factor = scaling.positive("low_freq_factor", -1);
    rope.high_freq_factor = scaling.positive("high_freq_factor", -1);
    if (rope.low_freq_factor == rope.high_freq_factor)
      throw Error(scaling.owner(), "\"low_freq_factor\" and \"high_freq_factor\" must differ");
  }
  if (rope.type == "yarn") {
    rope.beta_fast = scaling.positive("beta_fast", 32);
    rope.beta_slow = scaling.positive("beta_slow", 1);
    rope.mscale = scaling.positive("mscale", 0);
    rope.mscale_all_dim = scaling.positive("mscale_all_dim", 0);
    if (scaling.has("attention_factor")) rope.attention_factor = scaling.positive("attention_factor", -1);
    rope.truncate = !scaling.is_false("truncate");
  }
  return rope;
}

}  // namespace

RopeFrequencies rope_frequencies(const RopeParameters& rope) {
  RopeFrequencies out;
  const double base = base_of(rope);
  for (int i = 0; i < rope.rotary_dim; i += 2)
    out.frequency.push_back(std::pow(base, -static_cast<double>(i) / rope.rotary_dim));
  if (rope.type == "linear")
    for (double& f : out.frequency) f /= rope.factor;
  if (rope.type == "llama3") scale_llama3(rope, out.frequency);
  if (rope.type == "yarn") scale_yarn(rope, out);
  return out;
}

Rope Rope::of(const Trace& trace) {
  const std::string& layout = trace.model().rope_layout;
  if (!layout.empty() && layout != "half" && layout != "interleaved")
    throw Error(trace.path() + ":/model", "rope_layout \"" + printable(layout) + "\" is not known",
                "it is half or interleaved");
  return {rope_frequencies(parameters_of(trace)), layout == "interleaved"};
}

void Rotation::apply(std::span<double> head) const {
  const std::size_t half = cosine_.size();
  for (std::size_t p = 0; p < half; ++p) {
    double& x = interleaved_ ? head[2 * p] : head[p];
    double& y = interleaved_ ? head[2 * p + 1] : head[p + half];
    const double before = x;
    x = cosine_[p] * before - sine_[p] * y;
    y = cosine_[p] * y + sine_[p] * before;
  }
}

Rotation Rope::inverse(std::int64_t position) const {
  std::vector<double> cosine, sine;
  for (const double f : frequencies_.frequency) {
    cosine.push_back(std::cos(static_cast<double>(position) * f) / frequencies_.magnitude);
    sine.push_back(-std::sin(static_cast<double>(position) * f) / frequencies_.magnitude);
  }
  return {std::move(cosine), std::move(sine), interleaved_};
}

Rotation Rope::relative(std::int64_t by) const {
  std::vector<double> cosine, sine;
  for (const double f : frequencies_.frequency) {
    cosine.push_back(std::cos(static_cast<double>(by) * f));
    sine.push_back(std::sin(static_cast<double>(by) * f));
  }
  return {std::move(cosine), std::move(sine), interleaved_};
}

Rotation Rope::mean(std::int64_t first, std::int64_t count) const {
  std::vector<double> cosine, sine;
  for (const double f : frequencies_.frequency) {
    double c = 0, s = 0;
    for (std::int64_t position = first; position < first + count; ++position) {
      c += std::cos(static_cast<double>(position) * f);
      s += std::sin(static_cast<double>(position) * f);
    }
    cosine.push_back(c * frequencies_.magnitude / static_cast<double>(count));
    sine.push_back(s * frequencies_.magnitude / static_cast<double>(count));
  }
  return {std::move(cosine), std::move(sine), interleaved_};
}

}  // namespace kvreplay
