#include "gui/figure_kinds/kind.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/text.h"
#include "gui/figure_kinds/selection.h"

namespace kvreplay::figure {

#define KVREPLAY_FIGURE_KIND(name) const FigureKind& name##_kind();
#include "gui/figure_kinds/kinds.def"
#undef KVREPLAY_FIGURE_KIND

namespace {

// What every kind takes.
std::vector<Parameter> heading_parameters() {
  return {text_option("title", "the title; auto: what is drawn", "auto"),
          text_option("subtitle", "the line below it; auto: of what, at which budget", "auto")};
}

std::vector<FigureKind> all_kinds() {
  std::vector<FigureKind> kinds = {
#define KVREPLAY_FIGURE_KIND(name) name##_kind(),
#include "gui/figure_kinds/kinds.def"
#undef KVREPLAY_FIGURE_KIND
  };
  for (auto& kind : kinds)
    for (auto& parameter : heading_parameters()) kind.parameters.push_back(std::move(parameter));
  return kinds;
}

void add_unless_there(Figure& figure, const std::string& key, const std::string& value) {
  const std::pair<std::string, std::string> entry{key, value};
  if (!value.empty() && std::find(figure.provenance.begin(), figure.provenance.end(), entry) == figure.provenance.end())
    figure.provenance.push_back(entry);
}

void set_provenance(const FigureSpec& spec, const FigureSources& sources, const std::vector<const RunSummary*>& used,
                    Figure& figure) {
  add_unless_there(figure, "command", spec.command());
  for (const auto& file : spec.files) add_unless_there(figure, "file", file);
  for (const RunSummary* run : used) {
    add_unless_there(figure, "trace",
                     run->info.trace + (run->info.trace_sha256.empty() ? "" : " " + run->info.trace_sha256));
    if (const Trace* trace = sources.results->trace_of(run->info)) {
      const ModelInfo& model = trace->model();
      add_unless_there(figure, "model", model.name + (model.weights_sha256.empty() ? "" : " " + model.weights_sha256));
    }
    add_unless_there(figure, "policy", run->info.policy);
    add_unless_there(figure, "replayed by", run->info.created_by);
  }
  // Of one run or two, what they evicted, too.
  if (used.size() <= 2)
    for (const RunSummary* run : used)
      add_unless_there(figure, "evicted", run->label + " at " + std::to_string(run->budget) + ": " + run->info.kept_hash());
}

}  // namespace

const std::vector<const FigureKind*>& figure_kinds() {
  static const std::vector<FigureKind> kinds = all_kinds();
  static const std::vector<const FigureKind*> pointers = [] {
    std::vector<const FigureKind*> out;
    for (const auto& kind : kinds) out.push_back(&kind);
    return out;
  }();
  return pointers;
}

const FigureKind& find_figure_kind(const std::string& name) {
  std::vector<std::string> names;
  for (const FigureKind* kind : figure_kinds()) {
    if (kind->name == name) return *kind;
    names.push_back(kind->name);
  }
  const std::string guess = closest(name, names);
  throw UsageError("figure", "there is no kind \"" + printable(name) + "\"",
                   guess.empty() ? "there are " + join(names, ", ", " and ") : "did you mean " + guess + "?");
}

ParameterValues figure_options(const FigureKind& kind, const std::map<std::string, std::string>& given) {
  std::map<std::string, std::string> values;
  std::vector<std::string> keys;
  const std::string owner = "figure " + kind.name;
  for (const auto& parameter : kind.parameters) {
    keys.push_back(parameter.key);
    const auto found = given.find(parameter.key);
    values[parameter.key] = found == given.end() ? parameter.defaults.at("") : parameter.check(owner, found->second);
  }
  for (const auto& [key, value] : given) {
    if (values.contains(key)) continue;
    const std::string guess = closest(key, keys);
    throw UsageError(owner, "has no option \"" + printable(key) + "\"",
                     guess.empty() ? "it has " + join(keys, ", ", " and ") : "did you mean " + guess + "?");
  }
  return ParameterValues(std::move(values));
}

std::unique_ptr<Figure> make_figure(const FigureSpec& spec, const FigureSources& sources, Job& job) {
  const FigureKind& kind = find_figure_kind(spec.kind);
  const ParameterValues options = figure_options(kind, spec.options);
  std::vector<const RunSummary*> used;
  auto figure = kind.make({kind, sources, options, job, used});
  if (options.text("title") != "auto") figure->title = options.text("title");
  if (options.text("subtitle") != "auto") figure->subtitle = options.text("subtitle");
  set_provenance(spec, sources, used, *figure);
  return figure;
}

}  // namespace kvreplay::figure
