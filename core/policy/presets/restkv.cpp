#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

Defaults both(const std::string& paper, const std::string& released) { return {{"paper", paper}, {"released", released}}; }

std::unique_ptr<Policy> make(const PolicySpec& spec) {
  const ParameterValues& values = spec.values;
  const bool released = spec.variant == "released";
  const Grouping grouping = grouping_of(values);
  ReconstructionSettings settings;
  settings.window = values.integer("window");
  settings.before = values.text("metric") == "before";
  settings.weights = temporal_weights(values.text("temporal"), values.real("alpha"), settings.window);
  settings.description = values.text("temporal") + "," + values.text("alpha");
  settings.form.project = values.boolean("project");
  settings.form.normalize = values.boolean("normalize");
  settings.form.tau = settings.before ? 1 : values.real("tau");
  settings.form.prefix_output = released;

  OneShotStages stages;
  stages.granularity = grouping.granularity;
  stages.window = settings.window;
  stages.indicator = reconstruction_indicator(std::move(settings), grouping);
  stages.pooling = pooling_of(spec);
  stages.allocation = allocation_of(spec, released ? PyramidForm::published_without_branch : PyramidForm::exact);
  return make_one_shot_policy(std::move(stages));
}

}  // namespace

const PolicyDescription& restkv_policy() {
  static const PolicyDescription description = {
      .name = "restkv",
      .idea = "Keeps the tokens whose removal would change the layer's output most, smoothed over time and over space.",
      .paper =
          "An et al., ReST-KV: Robust KV Cache Eviction with Layer-wise Output Reconstruction and Spatial-Temporal "
          "Smoothing, ICLR 2026",
      .stages =
          "reconstruction (odds × ‖W_o (o - v)‖, last W queries) → ema → adaptive pooling → top-k + window; once when the "
          "prompt ends",
      .needs = "the last W prompt queries; output_projection or output_gram (project=false needs neither)",
      .variants = {{"paper", "An et al. 2026, Definition 3.1 and equations 7 to 10",
                    "The exact single-removal error of every window query, mean over the query heads of a KV head, then "
                    "EMA; the adaptive "
                    "window follows the group's mean attention, ties to the lowest position, shift = trunc(t / scale)."},
                   {"released", "an-yongqi/rest-kv at a8bb112",
                    "Averages attention first (metric=after) and forms the error once, with an output summed over the "
                    "prefix alone and not "
                    "renormalised; per query head; ties of the adaptive window to the highest position, its shift floor(t / "
                    "scale), + 1 for t <= 0."}},
      .parameters =
          {window_parameter(both("32", "32")), kernel_parameter(both("5", "5")),
           choice_parameter("temporal", "how the window queries are weighted; ema favours the newest",
                            {"ema", "inv-ema", "mean", "sum", "last"}, both("ema", "ema")),
           real_parameter("alpha", "weight of the newest query in ema and inv-ema", 0, 1, both("0.3", "0.3")),
           choice_parameter("metric",
                            "before: the error of every query, then the weights; after: weighted attention, then one error",
                            {"before", "after"}, both("before", "after")),
           boolean_parameter("project", "measure the error behind W_o (true) or in value space", both("true", "true")),
           boolean_parameter("normalize", "divide by the norm of the output (metric=before only)", both("false", "false")),
           real_parameter("tau", "exponent of the norm (metric=after with project=true only)", 0, 16, both("1", "1")),
           pooling_parameter({"adaptive", "avg", "max", "none"}, both("adaptive", "adaptive")),
           real_parameter("scale", "tokens of drift for each step of the adaptive window", 1e-6, 1e12, both("2000", "2000")),
           granularity_parameter(both("kv_head", "query_head")), group_parameter(both("mean", "mean")),
           allocation_parameter(both("uniform", "uniform")), beta_parameter(both("20", "20"))},
      .make = make,
  };
  return description;
}

}  // namespace kvreplay
