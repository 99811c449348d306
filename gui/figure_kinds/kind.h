// Kinds of figure: what `kvreplay figure` draws, reports embed and a window exports. A kind turns runs, traces and tables of
// values into a Figure (plain data, gui/figure/figure.h) by options that are described as data.
//
//   FigureSources sources = open_figure_sources({"results.h5"}, {}, job);
//   auto figure = make_figure({.kind = "error_by_budget", .options = {{"metric", "evicted_mass"}}}, sources, job);
//   write_figure(*figure, "mass.pdf", {.medium = Medium::print, .width = column_width});
//
// A new kind is one file in gui/figure_kinds/kinds/ that defines `const FigureKind& NAME_kind()` and one line in kinds.def.
// Options that take several values have them separated by ";" (policy strings have commas in them).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/base/job.h"
#include "core/base/parameter.h"
#include "core/policy/policy.h"
#include "core/report/sources.h"
#include "core/report/value_table.h"
#include "gui/figure/figure.h"

namespace kvreplay::figure {

// What a figure is made from. A window that has its runs in memory puts them into a ReportSources (Results is an interface).
struct FigureSources {
  std::shared_ptr<const ReportSources> results;  // null: there are none
  std::vector<ValueTable> tables;
};

// One figure as a value: what the command line, a specification file and a window say.
struct FigureSpec {
  std::string kind;
  std::vector<std::string> files;              // results, their traces, tables of values (.csv)
  std::map<std::string, std::string> options;  // only those given
  Output output;

  // {"kind": "head_grid", "files": ["r.h5"], "options": {"policy": ["a", "b"]}, "output": {"width": "column"}}. Paths are
  // relative to the file's folder. Throws Error naming `path`.
  static FigureSpec read(const std::string& path);
  std::string to_json(const std::string& folder) const;  // as a file in this folder has it
  std::string command() const;                           // "kvreplay figure head_grid r.h5 --policy snapkv", without output
};

struct FigureKind;

struct FigureRequest {
  const FigureKind& kind;
  const FigureSources& sources;
  const ParameterValues& options;  // every parameter of the kind
  Job& job;
  std::vector<const RunSummary*>&
      used;  // the runs that are drawn, for the provenance (gui/figure_kinds/selection.h fills it)
};

struct FigureKind {
  std::string name;                   // "head_grid"
  std::string idea;                   // one line
  std::string needs;                  // "results", "results and their trace", "a table of values": which files it takes
  std::vector<Parameter> parameters;  // all have a default, under the variant ""
  std::function<std::unique_ptr<Figure>(const FigureRequest&)> make;
};

const std::vector<const FigureKind*>& figure_kinds();
const FigureKind& find_figure_kind(const std::string& name);  // throws UsageError with the closest name

// Every parameter of the kind with its value. Throws UsageError for a name that the kind does not have, and Error for a
// value that is not allowed.
ParameterValues figure_options(const FigureKind& kind, const std::map<std::string, std::string>& given);

// Opens what the paths are: results files, traces (which belong to the results), tables of values (.csv). Where there is a
// trace and no results file, the options "policy" and "budget" say what is replayed on it first.
FigureSources open_figure_sources(const std::vector<std::string>& paths, const std::map<std::string, std::string>& options,
                                  Job& job);

// The figure, with its provenance: the command that makes it again, results, trace, model and policy strings. Throws Error
// that says what the sources lack.
std::unique_ptr<Figure> make_figure(const FigureSpec& spec, const FigureSources& sources, Job& job);

// "column", "page" or CSS pixels. Throws Error for anything else.
double parse_figure_width(const std::string& text);

}  // namespace kvreplay::figure
