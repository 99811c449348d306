// The ablations of ReST-KV's paper as its released code runs them, quirks included.
#include "core/policy/stages/stages.h"

namespace kvreplay {
namespace {

constexpr int fixed_kernel = 5;  // whatever is asked for
constexpr double fixed_alpha = 0.3;
constexpr double fixed_scale = 2000;

std::unique_ptr<Pooling> pooling_named(const std::string& name, int window, Grouping grouping) {
  if (name == "avg") return average_pooling(fixed_kernel);
  if (name == "max") return max_pooling(fixed_kernel);
  if (name == "adaptive") return adaptive_pooling({window, fixed_kernel, fixed_scale, true}, grouping);
  return no_pooling();
}

}  // namespace

const PolicyDescription& ablation_policy() {
  static const PolicyDescription description = {
      .name = "ablation",
      .idea = "The parts of ReST-KV one by one, as its released ablation code has them.",
      .paper = "An et al., ReST-KV, ICLR 2026, ablation study",
      .stages =
          "attention, attention × ‖v‖, reconstruction or random → temporal → pooling → top-k + window; once when the prompt "
          "ends",
      .needs = "the last W prompt queries; output_projection or output_gram for reconstruction",
      .variants =
          {{"released", "an-yongqi/rest-kv at a8bb112",
            "attn and attn-v always average-pool with kernel 5 and ignore temporal and pooling, so \"attention "
            "without smoothing\" is not "
            "what it measures; alpha 0.3, kernel 5 and scale 2000 are fixed. random ranks all positions and protects no "
            "window; its generator is this project's."}},
      .parameters = {choice_parameter("indicator", "what scores a token", {"attn", "attn-v", "reconstruction", "random"},
                                      {{"released", "reconstruction"}}),
                     choice_parameter("temporal",
                                      "how the window queries are weighted (reconstruction only); none: the last one alone",
                                      {"none", "mean", "ema", "inv-ema"}, {{"released", "none"}}),
                     choice_parameter("pooling", "smoothing over positions (reconstruction only)",
                                      {"none", "avg", "max", "adaptive"}, {{"released", "none"}}),
                     window_parameter({{"released", "32"}}),
                     [] {
                       Parameter seed = integer_parameter("seed", "of the generator, together with layer and head", 0,
                                                          2147483647, {{"released", "0"}});
                       seed.only_with = {{"indicator", {"random"}}};
                       return seed;
                     }()},
      .make =
          [](const PolicySpec& spec) {
            const Grouping grouping{Granularity::query_head, Reduction::mean};
            const std::string& indicator = spec.values.text("indicator");
            OneShotStages stages;
            stages.granularity = grouping.granularity;
            if (indicator == "random") {
              stages.indicator =
                  random_indicator(static_cast<std::uint64_t>(spec.values.integer("seed")), grouping.granularity);
              return make_one_shot_policy(std::move(stages));
            }
            stages.window = spec.values.integer("window");
            if (indicator != "reconstruction") {
              const auto weights = temporal_weights("sum", 0, stages.window);
              stages.indicator = indicator == "attn" ? attention_indicator(stages.window, weights, grouping)
                                                     : attention_value_indicator(stages.window, weights, grouping);
              stages.pooling = average_pooling(fixed_kernel);
              return make_one_shot_policy(std::move(stages));
            }
            ReconstructionSettings settings;
            settings.window = stages.window;
            settings.before = false;
            settings.weights = temporal_weights(spec.values.text("temporal"), fixed_alpha, stages.window);
            settings.form.prefix_output = true;
            settings.description = spec.values.text("temporal");
            stages.indicator = reconstruction_indicator(std::move(settings), grouping);
            stages.pooling = pooling_named(spec.values.text("pooling"), stages.window, grouping);
            return make_one_shot_policy(std::move(stages));
          },
  };
  return description;
}

}  // namespace kvreplay
