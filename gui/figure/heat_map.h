// Matrices as colour: one map, or several with one common scale, side by side.
#pragma once

#include <cstdint>
#include <optional>

#include "gui/figure/color_map.h"
#include "gui/figure/figure.h"

namespace kvreplay::figure {

// What one pixel shows where a map has more columns (or rows) than the picture has pixels.
enum class Reduction : unsigned char {
  maximum,  // a single peak stays visible at every size
  mean,     // for shares and densities, where the largest of many says little
};

// A stretch of columns named above the maps ("needle").
struct ColumnMark {
  std::int64_t begin = 0, end = 0;  // end: one past the last
  std::string label;
};

// A value that stands for a state instead of an amount ("kept to the end"): drawn in a colour that is not on the scale and
// named in the key.
struct MapState {
  float value = 0;
  std::string label;
  bool strong = false;  // in the colour of the text; else pale
};

struct HeatMap final : Figure {
  struct Panel {
    std::string title;
    std::vector<float> values;  // [rows, columns], row-major; NaN: no value, drawn grey and named in the key
  };
  std::int64_t rows = 0, columns = 0;
  std::vector<Panel> panels;
  std::string row_label, column_label;         // "layer", "query head"
  std::vector<std::string> row_names;          // [rows / row_group], or empty: the row's number
  std::vector<std::string> column_names = {};  // [columns], or empty: the column's number
  // Rows that belong together: the heads of a layer. Groups are set apart, and row_names or numbers are theirs.
  std::int64_t row_group = 1;
  // Columns that belong together: a head's own small map in a grid of heads. Groups are set apart, and numbered instead of
  // their columns.
  std::int64_t column_group = 1;
  bool numbers = false;     // each value is written into its cell, where all of them have room
  std::string value_label;  // with its unit
  ColorMap color_map = ColorMap::viridis;
  double color_start = 0;  // of the colour map, in [0, 1): 0.25 leaves out its darkest quarter
  std::vector<MapState> states;
  std::optional<double> minimum, maximum;  // of the colour scale; absent: of the data
  Reduction reduction = Reduction::maximum;
  std::vector<ColumnMark> marks;
  double first_column = 0;  // the number of the first column (or group): of a stretch of a longer text

  std::string_view kind() const override { return "heat_map"; }
  Table data() const override;
};

// values [rows, columns] reduced to at most max_rows × max_columns, each cell standing for an equal stretch of the input.
// NaN only where a whole stretch is NaN.
std::vector<float> reduce_matrix(const std::vector<float>& values, std::int64_t rows, std::int64_t columns,
                                 std::int64_t max_rows, std::int64_t max_columns, Reduction reduction);

}  // namespace kvreplay::figure
