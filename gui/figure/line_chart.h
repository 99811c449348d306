// Lines over a common axis: error against budget, error by layer, by step.
#pragma once

#include "gui/figure/axis.h"
#include "gui/figure/figure.h"

namespace kvreplay::figure {

struct Series {
  std::string name;
  std::vector<double> x, y;                 // a NaN in y breaks the line
  std::vector<double> low = {}, high = {};  // an interval around each y, or empty
  bool reference = false;  // a bound that nothing else is expected to reach: dashed, in the colour of the text
  bool line_only = false;  // without markers: a floor that was computed, a level that holds everywhere
  int style = -1;          // colour and marker; -1: the next free one. The same number looks the same in every figure
};

// Values of exactly 0 on a logarithmic y axis are drawn in a lane of their own below it. The legend stands beside the plot
// or above it, never on the data. Points with intervals are set apart sideways by a few pixels. Of more points than the plot
// has pixels the highest and the lowest of each column are drawn.
struct LineChart final : Figure {
  Axis x, y;
  std::vector<Series> series;
  std::vector<Tick> x_marks;  // places on the x axis that are named within the plot: "default"

  // Several plots with common axes and one legend, in place of `series`.
  struct Panel {
    std::string title;  // where the panel has a y axis of its own: what that shows
    std::vector<Series> series = {};
    std::optional<Axis> y = {};  // in place of the common one
  };
  std::vector<Panel> panels;

  std::string_view kind() const override { return "line_chart"; }
  Table data() const override;
};

}  // namespace kvreplay::figure
