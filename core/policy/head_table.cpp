#include "core/policy/head_table.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/policy/stages/per_step.h"

namespace kvreplay {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* form =
    "a table of heads is {\"layer-head\": importance or a list of them, ...}; `kvreplay heads` makes one from traces";

// The mean of a number or of a list of numbers.
double importance_of(const Json& value, const std::string& path, const std::string& key) {
  const auto number = [&](const Json& entry) {
    const double x = entry.is_number() ? entry.get<double>() : std::nan("");
    if (!std::isfinite(x) || x < 0)
      throw Error(path + ": \"" + key + "\"", printable(entry.dump().substr(0, 40)) + " is no importance",
                  "it takes numbers of at least 0, or a list of them");
    return x;
  };
  if (!value.is_array()) return number(value);
  if (value.empty()) throw Error(path + ": \"" + key + "\"", "is an empty list", "it takes numbers of at least 0");
  double sum = 0;
  for (const Json& entry : value) sum += number(entry);
  return sum / static_cast<double>(value.size());
}

// "3-17", or nothing.
std::optional<std::pair<int, int>> layer_and_head(const std::string& key) {
  int layer = 0, head = 0, end = 0;
  if (key.empty() || key.find_first_not_of("0123456789-") != std::string::npos) return std::nullopt;
  if (std::sscanf(key.c_str(), "%5d-%5d%n", &layer, &head, &end) != 2) return std::nullopt;
  if (layer < 0 || head < 0 || static_cast<std::size_t>(end) != key.size()) return std::nullopt;
  return std::pair{layer, head};
}

}  // namespace

HeadTable HeadTable::read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) throw Error(path, "cannot be read", form);
  const Json json = Json::parse(text.str(), nullptr, false);
  if (json.is_discarded()) throw Error(path, "is not JSON", form);
  if ((!json.is_object() && !json.is_array()) || json.empty()) throw Error(path, "holds no table of heads", form);

  HeadTable table;
  table.path_ = path;
  bool all_named = json.is_object();
  if (json.is_object())
    for (const auto& [key, ignored] : json.items()) all_named = all_named && layer_and_head(key).has_value();
  std::size_t index = 0;
  for (const auto& [key, value] : json.items()) {
    const std::string name = json.is_object() ? key : std::to_string(index++);
    const double importance = importance_of(value, path, name);
    if (all_named)
      table.named_[*layer_and_head(key)] = importance;
    else
      table.listed_.push_back(importance);
  }
  return table;
}

Tensor<double, 2> HeadTable::importance(const ModelInfo& model) const {
  const int layers = model.num_layers, heads = model.num_query_heads;
  const std::string shape = std::to_string(layers) + " layers of " + std::to_string(heads) + " query heads";
  const auto count = named_.size() + listed_.size();
  if (count != static_cast<std::size_t>(layers) * static_cast<std::size_t>(heads))
    throw Error(path_, "has " + std::to_string(count) + " heads, the model " + shape,
                "`kvreplay heads` makes a table from traces of this model");
  Tensor<double, 2> out({layers, heads});
  for (int l = 0; l < layers; ++l)
    for (int h = 0; h < heads; ++h) {
      if (named_.empty()) {
        out(l, h) = listed_[static_cast<std::size_t>(l * heads + h)];
        continue;
      }
      const auto found = named_.find({l, h});
      if (found == named_.end())
        throw Error(path_, "has no \"" + std::to_string(l) + "-" + std::to_string(h) + "\", the model has " + shape,
                    "`kvreplay heads` makes a table from traces of this model");
      out(l, h) = found->second;
    }
  const auto values = out.flat();
  if (std::none_of(values.begin(), values.end(), [](double x) { return x > 0; }))
    throw Error(path_, "gives every head the importance 0", "at least one has to be above");
  return out;
}

std::vector<double> measure_heads(LayerWorkspace& layer, const std::vector<TextSpan>& evidence, HeadMeasure measure) {
  const std::int64_t steps = layer.loaded().steps(), tokens = layer.tokens();
  if (steps == 0)
    throw Error(layer.trace().path(), "has no generated tokens, whose attention heads are measured by",
                "capture with --generate N, or --prompt-length P below the number of ids");
  std::vector<bool> marked(static_cast<std::size_t>(tokens));
  for (const TextSpan& span : evidence)
    std::fill(marked.begin() + span.start, marked.begin() + std::min<std::int64_t>(span.end, tokens), true);
  const auto needle = static_cast<std::size_t>(std::count(marked.begin(), marked.end(), true));

  std::vector<double> importance;
  for (int h = 0; h < layer.loaded().num_query_heads; ++h) {
    const auto& logits = shared_decode_logits(layer, h);
    double total = 0;
    for (std::int64_t s = 0; s < steps; ++s) {
      const RetainedSet seen = RetainedSet::visible(layer, s + 1);
      const auto attention = seen.attention(logits.data() + s * tokens);
      const bool all = measure == HeadMeasure::mass;
      double sum = 0;
      for (const std::size_t slot : top_slots(attention, attention.size(), all ? attention.size() : needle))
        if (marked[static_cast<std::size_t>(seen.positions[slot])]) sum += attention[slot];
      total += all ? sum : sum / static_cast<double>(needle);
    }
    importance.push_back(total / static_cast<double>(steps));
  }
  return importance;
}

}  // namespace kvreplay
