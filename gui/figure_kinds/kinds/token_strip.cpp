#include "gui/figure/token_strip.h"

#include <algorithm>

#include "core/base/text.h"
#include "core/report/comparison.h"
#include "gui/figure_kinds/selection.h"

namespace kvreplay::figure {
namespace {

constexpr std::int64_t around = 60, otherwise = 200;  // tokens around a marked span, or from the start

std::pair<std::int64_t, std::int64_t> stretch(const FigureRequest& request, const Trace& trace) {
  if (request.options.text("tokens") != "auto" || trace.spans().empty()) {
    const auto [begin, end] = chosen_tokens(request, trace.num_tokens());
    return {begin, request.options.text("tokens") == "auto" ? std::min(end, otherwise) : end};
  }
  const TextSpan& span = trace.spans().front();
  return {std::max<std::int64_t>(0, span.start - around), std::min<std::int64_t>(trace.num_tokens(), span.end + around)};
}

std::unique_ptr<Figure> make(const FigureRequest& request) {
  const RunSummary& run = chosen_run(request);
  if (run.info.summary_only) throw figure_error(request, "these results do not say which tokens were evicted");
  const Trace* trace = results_of(request).trace_of(run.info);
  if (trace == nullptr)
    throw figure_error(request, "the trace " + printable(run.info.trace) + " is not there any more",
                       "name it beside the results: the text is in it");
  const std::vector<std::string> texts = trace->token_texts();
  if (texts.empty()) throw figure_error(request, trace->path() + " has no text of its tokens");

  const auto layers = chosen_layers(request, run);
  std::vector<float> share(static_cast<std::size_t>(run.tokens), 0.0F);
  for (std::int64_t layer : layers) {
    const std::vector<float> own = kept_share(run, layer);
    for (std::size_t i = 0; i < share.size(); ++i) share[i] += own[i] / static_cast<float>(layers.size());
  }
  const auto [begin, end] = stretch(request, *trace);
  auto strip = std::make_unique<TokenStrip>();
  strip->title = "What " + run.label + " keeps";
  strip->subtitle =
      "Budget " + chosen_budget(request).text + "; " +
      (request.options.text("layer") == "all" ? "all layers and heads" : "layer " + request.options.text("layer")) +
      "; tokens " + std::to_string(begin) + " to " + std::to_string(end - 1) + ", after the last step";
  strip->first = begin;
  for (std::int64_t i = begin; i < end && i < static_cast<std::int64_t>(std::min(texts.size(), share.size())); ++i) {
    const auto at = static_cast<std::size_t>(i);
    // A mean of whole shares may miss 1 by rounding.
    TokenStrip::Token token{texts[at], share[at] > 0.99999F ? 1.0F : share[at]};
    for (const auto& span : trace->spans())
      if (span.contains(i)) token.mark = span.label;
    strip->tokens.push_back(std::move(token));
  }
  return strip;
}

}  // namespace

const FigureKind& token_strip_kind() {
  static const FigureKind kind = {
      .name = "token_strip",
      .idea = "The text itself, each token marked by the share of heads that keep it, by shape as well as colour.",
      .needs = "results and their trace",
      .parameters = {policy_option(), budget_option(), text_option("layer", "model layers, or all", "all"),
                     text_option("tokens", "a stretch BEGIN:END of the text, or all; auto: around the first marked span",
                                 "auto")},
      .make = make,
  };
  return kind;
}

}  // namespace kvreplay::figure
