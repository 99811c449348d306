#include "core/base/error.h"
#include "core/policy/stages/stages.h"

namespace kvreplay {
Parameter choice_parameter(std::string key, std::string doc, std::vector<std::string> choices, Defaults defaults) {
  Parameter parameter;
  parameter.key = std::move(key);
  parameter.type = ParameterType::choice;
  parameter.doc = std::move(doc);
  parameter.choices = std::move(choices);
  parameter.defaults = std::move(defaults);
  return parameter;
}

Parameter integer_parameter(std::string key, std::string doc, double minimum, double maximum, Defaults defaults) {
  Parameter parameter = real_parameter(std::move(key), std::move(doc), minimum, maximum, std::move(defaults));
  parameter.type = ParameterType::integer;
  return parameter;
}

Parameter real_parameter(std::string key, std::string doc, double minimum, double maximum, Defaults defaults) {
  Parameter parameter;
  parameter.key = std::move(key);
  parameter.type = ParameterType::real;
  parameter.doc = std::move(doc);
  parameter.minimum = minimum;
  parameter.maximum = maximum;
  parameter.defaults = std::move(defaults);
  return parameter;
}

Parameter boolean_parameter(std::string key, std::string doc, Defaults defaults) {
  Parameter parameter;
  parameter.key = std::move(key);
  parameter.type = ParameterType::boolean;
  parameter.doc = std::move(doc);
  parameter.defaults = std::move(defaults);
  return parameter;
}

Parameter text_parameter(std::string key, std::string doc, Defaults defaults) {
  Parameter parameter;
  parameter.key = std::move(key);
  parameter.type = ParameterType::text;
  parameter.doc = std::move(doc);
  parameter.defaults = std::move(defaults);
  return parameter;
}

Parameter window_parameter(Defaults defaults) {
  return integer_parameter("window",
                           "the last prompt tokens W: their queries score, they are always kept and count in the budget", 1,
                           65536, std::move(defaults));
}

Parameter kernel_parameter(Defaults defaults) {
  return integer_parameter("kernel", "positions pooled together, an odd number", 1, 65535, std::move(defaults));
}

Parameter pooling_parameter(std::vector<std::string> choices, Defaults defaults) {
  return choice_parameter("pooling", "smoothing of the scores over positions", std::move(choices), std::move(defaults));
}

Parameter granularity_parameter(Defaults defaults) {
  return choice_parameter("granularity", "who has a kept set of its own; query_head costs Hq/Hk times the bytes of kv_head",
                          {"query_head", "kv_head", "layer"}, std::move(defaults));
}

Parameter group_parameter(Defaults defaults) {
  return choice_parameter("group", "how the scores of the query heads that share a kept set are reduced to one",
                          {"mean", "max", "sum"}, std::move(defaults));
}

Parameter head_table_parameter(Defaults defaults) {
  Parameter parameter = text_parameter(
      "table", "JSON file {\"layer-head\": importance or list, ...}; other keys and plain lists are read row-major",
      std::move(defaults));
  parameter.required = true;
  return parameter;
}

Parameter allocation_parameter(Defaults defaults) {
  return choice_parameter("allocation", "budgets of the layers: the same, or a pyramid (large first, small last)",
                          {"uniform", "pyramid"}, std::move(defaults));
}

Parameter beta_parameter(Defaults defaults) {
  return integer_parameter("beta", "slope of the pyramid: the last layer keeps about 1/beta of the mean", 1, 10000,
                           std::move(defaults));
}

Granularity granularity_of(const ParameterValues& values) {
  const std::string& granularity = values.text("granularity");
  return granularity == "query_head" ? Granularity::query_head
         : granularity == "kv_head"  ? Granularity::kv_head
                                     : Granularity::layer;
}

Grouping grouping_of(const ParameterValues& values) {
  Grouping grouping;
  grouping.granularity = granularity_of(values);
  const std::string& group = values.text("group");
  grouping.reduction = group == "mean" ? Reduction::mean : group == "max" ? Reduction::max : Reduction::sum;
  return grouping;
}

int odd_kernel_of(const PolicySpec& spec) {
  const int kernel = spec.values.integer("kernel");
  if (kernel % 2 == 0)
    throw Error("policy " + spec.description->name + "@" + spec.variant,
                "\"" + std::to_string(kernel) + "\" is not allowed for \"kernel\"",
                "it takes an odd integer, so that a window has a centre");
  return kernel;
}

std::unique_ptr<Pooling> pooling_of(const PolicySpec& spec) {
  const int kernel = odd_kernel_of(spec);
  const std::string& pooling = spec.values.text("pooling");
  if (pooling == "avg") return average_pooling(kernel);
  if (pooling == "max") return max_pooling(kernel);
  if (pooling == "none") return no_pooling();
  AdaptivePoolingSettings settings;
  settings.window = spec.values.integer("window");
  settings.kernel = kernel;
  settings.scale = spec.values.real("scale");
  settings.released = spec.variant == "released";
  return adaptive_pooling(settings, grouping_of(spec.values));
}

std::unique_ptr<Allocation> allocation_of(const PolicySpec& spec, PyramidForm form) {
  if (spec.values.text("allocation") == "uniform") return uniform_allocation();
  return pyramid_allocation(spec.values.integer("beta"), form);
}

}  // namespace kvreplay
