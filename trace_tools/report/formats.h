// The forms that a report takes.
#pragma once

#include <string>

#include "core/report/sources.h"

namespace kvreplay::cli {

struct TerminalStyle {
  bool escapes = false;  // bold and colour
  int width = 0;         // columns; 0: as wide as it gets, every number of every metric
  bool regimes = false;  // with the means over the first steps after the prompt and over the rest
};

// Aligned tables, one a budget.
std::string report_as_text(const ReportSources& sources, const TerminalStyle& style);
// One row a run, one column a number.
std::string report_as_csv(const ReportSources& sources);
// Everything but the figures. NaN is null.
std::string report_as_json(const ReportSources& sources);

struct PageOptions {
  std::int64_t budget = 0;  // of the figures that show one budget; 0: the one closest to a tenth of the prompt
  std::string command_line;
};
// One HTML page that needs nothing else.
std::string report_as_html(const ReportSources& sources, const PageOptions& options, Job& job);

}  // namespace kvreplay::cli
