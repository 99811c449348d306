// From a value to a colour, and the key that says so: what a matrix view draws with. The colours are those of the figures
// (gui/figure/heat_map.h: states, color_start), so that a panel and its export agree.
#pragma once

#include <QColor>
#include <QRect>
#include <cstdint>
#include <string>
#include <vector>

#include "gui/figure/canvas.h"
#include "gui/figure/heat_map.h"
#include "gui/model/pyramid.h"

class QPainter;

namespace kvreplay::gui {

struct ColorScale {
  enum class Form : std::uint8_t {
    linear,
    logarithmic,    // from low > 0; what is smaller has the colour of low
    symmetric_log,  // from -high to high; magnitudes below `low` have the colour of 0
  };
  figure::ColorMap map = figure::ColorMap::viridis;
  Form form = Form::linear;
  double low = 0, high = 1;
  // The share of the map left out: its dark end, or the middle of a diverging one, so that what is there stands out.
  double start = 0;
  bool reversed = false;  // dark is much
  std::vector<figure::MapState> states;
  bool amounts = true;  // false: there are states only, and the key has no scale
  std::string label;
  std::string low_note, high_note;              // words for the ends in the key: "only A", "only B"
  std::string missing_label = "not evaluated";  // of NaN; empty: not in the key

  double position(double value) const;  // in [0, 1]
  QRgb color(float value, const figure::Style& style) const;
};

// Many values at once.
class ColorTable {
 public:
  ColorTable(const ColorScale& scale, const figure::Style& style);
  void colors(const float* values, int count, QRgb* out) const;

 private:
  static constexpr int size = 513;  // odd: the middle of a diverging map is one of them
  ColorScale scale_;
  std::vector<QRgb> table_;
  std::vector<std::pair<float, QRgb>> states_;
  QRgb missing_;
  float factor_ = 0, offset_ = 0;  // of a linear scale
};

// The scale of amounts that spread over decades: logarithmic, or symmetric for a diverging map.
void set_amounts(ColorScale& scale, const Pyramid::Extent& extent);

// The same colours in a figure. What its linear scale cannot show is put into `values` and said in its label.
void put_scale(const ColorScale& scale, figure::HeatMap& map, std::vector<float>& values);

// The key in lines of at most `width`; returns its height. A null painter only measures.
int paint_key(const ColorScale& scale, const figure::Style& style, QPainter* painter, int x, int y, int width);

}  // namespace kvreplay::gui
