#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/base/text_file.h"
#include "trace_tools/command.h"
#include "trace_tools/text_columns.h"
#if KVREPLAY_WITH_FIGURES
#include "gui/figure/result_table.h"
#include "gui/figure_kinds/kind.h"
#endif

namespace kvreplay::cli {
namespace {

#if KVREPLAY_WITH_FIGURES
using figure::FigureKind;
using figure::FigureSpec;
using nlohmann::json;

std::string parameter_line(const Parameter& parameter) {
  std::string line = "    --" + parameter.key;
  line += std::string(line.size() < 20 ? 20 - line.size() : 1, ' ') + parameter.doc;
  line += " (" + (parameter.type == ParameterType::text ? std::string() : parameter.allowed() + "; ") +
          "default: " + parameter.defaults.at("") + ")";
  return line;
}

std::string kind_text(const FigureKind& kind) {
  std::string text = kind.name + "\n" + wrapped("  " + kind.idea, 120, 2) + wrapped("  needs " + kind.needs, 120, 2);
  for (const auto& parameter : kind.parameters) text += wrapped(parameter_line(parameter), 120, 20);
  return text;
}

json kind_json(const FigureKind& kind) {
  json out = {{"name", kind.name}, {"idea", kind.idea}, {"needs", kind.needs}, {"options", json::array()}};
  for (const auto& parameter : kind.parameters) {
    json one = {{"key", parameter.key},
                {"doc", parameter.doc},
                {"default", parameter.defaults.at("")},
                {"allowed", parameter.allowed()}};
    if (!parameter.choices.empty()) one["choices"] = parameter.choices;
    out["options"].push_back(one);
  }
  return out;
}

constexpr const char* specification_text =
    "A specification (--write-spec FILE) is the same as a file, with paths relative to it:\n"
    "  {\"kind\": \"error_by_budget\", \"files\": [\"results.h5\"], \"options\": {\"policy\": [\"snapkv\", \"restkv\"]},\n"
    "   \"output\": {\"width\": \"column\", \"medium\": \"print\", \"dark\": false, \"heading\": true}}\n";

void list_kinds(const std::string& name, bool as_json) {
  std::vector<const FigureKind*> chosen = figure::figure_kinds();
  if (!name.empty()) chosen = {&figure::find_figure_kind(name)};
  if (as_json) {
    json all = json::array();
    for (const FigureKind* kind : chosen) all.push_back(kind_json(*kind));
    std::printf("%s\n", all.dump(2).c_str());
    return;
  }
  std::string text;
  for (const FigureKind* kind : chosen) text += kind_text(*kind) + "\n";
  std::printf("%s%s", text.c_str(), specification_text);
}

std::string extension_of(const std::string& path) { return std::filesystem::path(path).extension().string(); }

// What the command line says, over what a specification file says.
FigureSpec spec_of(const Invocation& call) {
  const auto words = call.values["what"].as<std::vector<std::string>>();
  FigureSpec spec;
  if (extension_of(words[0]) == ".json") {
    spec = FigureSpec::read(words[0]);
  } else {
    spec.kind = words[0];
  }
  const FigureKind& kind = figure::find_figure_kind(spec.kind);
  if (words.size() > 1) spec.files.assign(words.begin() + 1, words.end());
  std::set<std::string> keys;
  for (const auto& parameter : kind.parameters) keys.insert(parameter.key);
  for (const FigureKind* other : figure::figure_kinds())
    for (const auto& parameter : other->parameters) {
      if (call.values.count(parameter.key) == 0) continue;
      if (!keys.contains(parameter.key))
        throw UsageError("figure " + kind.name, "has no option --" + parameter.key,
                         "`kvreplay figure " + kind.name + " --list` lists them");
      spec.options[parameter.key] = join(call.values[parameter.key].as<std::vector<std::string>>(), ";");
    }
  if (call.values.count("width") != 0) {
    const std::string width = call.values["width"].as<std::string>();
    spec.output.width = figure::parse_figure_width(width);
    // Widths of a page are for paper.
    if (width == "column" || width == "page") spec.output.medium = figure::Medium::print;
  }
  if (call.values.count("medium") != 0) {
    const std::string medium = call.values["medium"].as<std::string>();
    if (medium != "print" && medium != "screen")
      throw UsageError("--medium", "\"" + medium + "\" is neither print nor screen");
    spec.output.medium = medium == "print" ? figure::Medium::print : figure::Medium::screen;
  }
  if (call.values.count("dark") != 0) spec.output.dark = true;
  if (call.values.count("no-heading") != 0) spec.output.heading = false;
  return spec;
}

void write_picture(const figure::Figure& drawn, const std::string& out, const figure::Output& output) {
  if (extension_of(out) != ".tex") {
    figure::write_figure(drawn, out, output);
    return;
  }
  const auto* table = dynamic_cast<const figure::ResultTable*>(&drawn);
  if (table == nullptr) throw Error(out, "only tables can be written as LaTeX", "`kvreplay figure table` makes one");
  write_text_file(out, table->latex());
}
#endif

class FigureCommand final : public Command {
 public:
  std::string_view name() const override { return "figure"; }
  std::string_view summary() const override { return "draw a figure for a paper or a screen: SVG, PDF, PNG, LaTeX"; }
  std::string_view usage() const override {
    return "KIND|SPEC.json FILE... -o OUT.svg|pdf|png|tex [--csv [FILE]] [--KEY VALUE...]";
  }
  std::string_view description() const override {
    return "Draws one figure from results, their traces and tables of values, without a display. `kvreplay figure --list` "
           "tells\n"
           "every kind, what it needs and its own options; `kvreplay figure KIND --list` those of one. The same input gives "
           "the\n"
           "same bytes, and every file says what it was made from.\n"
           "\n"
           "  kvreplay figure error_by_budget r.h5 -o error.pdf --width column\n"
           "  kvreplay figure head_grid r.h5 -o heads.svg --budget 10% --policy snapkv --policy restkv --metric "
           "evicted_mass\n"
           "  kvreplay figure eviction_map r.h5 -o map.png --policy restkv --minus snapkv --rows layers --dark\n"
           "  kvreplay figure table r.h5 -o table.tex --columns statistic --budget 10%\n"
           "  kvreplay figure error_by_budget data/published/restkv_longbench.csv -o longbench.svg\n"
           "  kvreplay figure token_strip trace.h5 -o text.svg --policy snapkv --budget 10%     replays first";
  }
  void declare(options::options_description& visible, options::options_description& hidden,
               options::positional_options_description& positional) const override {
    visible.add_options()("out,o", options::value<std::string>()->value_name("FILE"),
                          "the figure: .svg, .pdf or .png; of a table also .tex")(
        "csv", options::value<std::string>()->value_name("FILE")->implicit_value("-"),
        "its numbers as CSV, on standard output when no file is named")(
        "width", options::value<std::string>()->value_name("W"),
        "column (3.25 inches), page (6.75 inches), both for print, or CSS pixels (default: 720)")(
        "medium", options::value<std::string>()->value_name("M"),
        "screen, or print: smaller type, thinner lines, finer matrices")("dark", "light on dark")(
        "no-heading", "without title and subtitle, for a paper's own caption")(
        "write-spec", options::value<std::string>()->value_name("FILE"), "write what was asked for as a specification")(
        "list", "the kinds of figure with what they need and their options");
    hidden.add_options()("what", options::value<std::vector<std::string>>());
    positional.add("what", -1);
#if KVREPLAY_WITH_FIGURES
    std::set<std::string> keys;
    for (const FigureKind* kind : figure::figure_kinds())
      for (const auto& parameter : kind->parameters)
        if (keys.insert(parameter.key).second)
          hidden.add_options()(parameter.key.c_str(), options::value<std::vector<std::string>>()->composing());
#endif
  }

#if KVREPLAY_WITH_FIGURES
  int run(const Invocation& call) const override {
    const bool any = call.values.count("what") != 0;
    if (call.values.count("list") != 0) {
      list_kinds(any ? call.values["what"].as<std::vector<std::string>>()[0] : "", call.json);
      return 0;
    }
    if (!any)
      throw UsageError("kvreplay figure", "no kind of figure and no specification is given",
                       "`kvreplay figure --list` lists the kinds");
    const auto text_of = [&](const char* option) {
      return call.values.count(option) != 0 ? call.values[option].as<std::string>() : std::string();
    };
    const std::string out = text_of("out"), csv = text_of("csv"), written = text_of("write-spec");
    if (out.empty() && csv.empty() && written.empty())
      throw UsageError("kvreplay figure", "no output is named", "-o FILE.svg, .pdf or .png; --csv; --write-spec FILE.json");
    if (csv == "-" && call.json)
      throw UsageError("kvreplay figure", "standard output can take one of --csv - and --json", "name a file");
    const FigureSpec spec = spec_of(call);
    figure::figure_options(figure::find_figure_kind(spec.kind),
                           spec.options);  // what is wrong with them, before files are read
    for (const auto& path : {out, csv, written})
      if (!path.empty() && path != "-") refuse_overwriting(path, spec.files);
    const auto sources = figure::open_figure_sources(spec.files, spec.options, call.job);
    const auto drawn = figure::make_figure(spec, sources, call.job);
    if (!out.empty()) write_picture(*drawn, out, spec.output);
    if (csv == "-") {
      const std::string text = drawn->data().csv();
      std::fwrite(text.data(), 1, text.size(), stdout);
    } else if (!csv.empty()) {
      write_text_file(csv, drawn->data().csv());
    }
    if (!written.empty()) write_text_file(written, spec.to_json(std::filesystem::path(written).parent_path().string()));
    if (call.json)
      std::printf("%s\n", json({{"kind", spec.kind},
                                {"title", drawn->title},
                                {"out", out},
                                {"csv", csv},
                                {"spec", written},
                                {"width", spec.output.width},
                                { "height",
                                  figure::figure_height(*drawn, spec.output) }})
                              .dump(2, ' ', false, json::error_handler_t::replace)
                              .c_str());
    return 0;
  }
#else
  int run(const Invocation&) const override {
    throw Error("kvreplay figure", "this build has no figures",
                "build with Qt 6.4 Gui and Svg (apt-get install qt6-base-dev qt6-svg-dev)");
  }
#endif
};

}  // namespace

const Command& figure_command() {
  static const FigureCommand command;
  return command;
}

}  // namespace kvreplay::cli
