// The figures of a report, as data for the figure library. Only in builds that have it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/report/sources.h"
#include "gui/figure/figure.h"

namespace kvreplay::cli {

struct ReportFigure {
  std::string id;    // "error-by-budget": of the file or the place on the page
  std::string help;  // how to read it, one or two sentences
  std::unique_ptr<figure::Figure> figure;
};

// Those that the runs have data for; `group` is the budget of the ones that show a single budget.
std::vector<ReportFigure> report_figures(const ReportSources& sources, const BudgetGroup& group, Job& job);

}  // namespace kvreplay::cli
