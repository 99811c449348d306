// Colours that readers with any of the common colour deficiencies can tell apart.
#pragma once

#include <array>
#include <cstdint>

namespace kvreplay::figure {

struct Rgb {
  std::uint8_t red = 0, green = 0, blue = 0;
};

// viridis and cividis: lightness rises evenly, for amounts. diverging: blue below, white at the middle, red above, for
// differences, whose range must then be symmetric.
enum class ColorMap : unsigned char { viridis, cividis, diverging };

// position is clamped to [0, 1].
Rgb color_at(ColorMap map, double position);

// Lines: Okabe and Ito's colours without black and yellow, in an order that keeps neighbours apart; lighter on dark.
constexpr int num_line_colors = 8;
Rgb line_color(int index, bool dark);

// Black or white, whichever reads better on `background`.
Rgb ink_on(Rgb background);

}  // namespace kvreplay::figure
