#include "gui/figure/color_map.h"

#include <algorithm>
#include <cmath>
#include <span>

namespace kvreplay::figure {
namespace {

Rgb hex(std::uint32_t value) {
  return {static_cast<std::uint8_t>(value >> 16U), static_cast<std::uint8_t>(value >> 8U), static_cast<std::uint8_t>(value)};
}

std::uint8_t to_byte(double value) { return static_cast<std::uint8_t>(std::lround(std::clamp(value, 0.0, 1.0) * 255)); }

// A sixth-degree polynomial fitted to the published table.
Rgb viridis(double t) {
  static constexpr double coefficients[7][3] = {{0.2777273272234177, 0.005407344544966578, 0.3340998053353061},
                                                {0.1050930431085774, 1.404613529898575, 1.384590162594685},
                                                {-0.3308618287255563, 0.214847559468213, 0.09509516302823659},
                                                {-4.634230498983486, -5.799100973351585, -19.33244095627987},
                                                {6.228269936347081, 14.17993336680509, 56.69055260068105},
                                                {4.776384997670288, -13.74514537774601, -65.35303263337234},
                                                {-5.435455855934631, 4.645852612178535, 26.3124352495832}};
  double channel[3] = {0, 0, 0};
  for (int power = 6; power >= 0; --power)
    for (int c = 0; c < 3; ++c) channel[c] = channel[c] * t + coefficients[power][c];
  return {to_byte(channel[0]), to_byte(channel[1]), to_byte(channel[2])};
}

Rgb between(std::span<const std::uint32_t> anchors, double t) {
  const double place = t * static_cast<double>(anchors.size() - 1);
  const auto index = std::min(static_cast<std::size_t>(place), anchors.size() - 2);
  const double share = place - static_cast<double>(index);
  const Rgb a = hex(anchors[index]), b = hex(anchors[index + 1]);
  const auto mix = [share](std::uint8_t from, std::uint8_t to) {
    return static_cast<std::uint8_t>(std::lround(from + share * (to - from)));
  };
  return {mix(a.red, b.red), mix(a.green, b.green), mix(a.blue, b.blue)};
}

}  // namespace

Rgb color_at(ColorMap map, double position) {
  static constexpr std::array<std::uint32_t, 10> cividis = {0x00204D, 0x00336F, 0x39486B, 0x575C6D, 0x707173,
                                                            0x8A8779, 0xA69D75, 0xC4B56C, 0xE4CF5B, 0xFFEA46};
  static constexpr std::array<std::uint32_t, 11> diverging = {0x053061, 0x2166AC, 0x4393C3, 0x92C5DE, 0xD1E5F0, 0xF7F7F7,
                                                              0xFDDBC7, 0xF4A582, 0xD6604D, 0xB2182B, 0x67001F};
  const double t = std::isnan(position) ? 0 : std::clamp(position, 0.0, 1.0);
  switch (map) {
    case ColorMap::viridis: return viridis(t);
    case ColorMap::cividis: return between(cividis, t);
    case ColorMap::diverging: return between(diverging, t);
  }
  return {};
}

Rgb line_color(int index, bool dark) {
  static constexpr std::array<std::uint32_t, num_line_colors> on_light = {0x0072B2, 0xD55E00, 0x009E73, 0xCC79A7,
                                                                          0xE69F00, 0x56B4E9, 0x7A5C00, 0x7F7F7F};
  static constexpr std::array<std::uint32_t, num_line_colors> on_dark = {0x4A9FE0, 0xF07F35, 0x2BC498, 0xE39BC4,
                                                                         0xF5B93A, 0x9AD8FF, 0xF0E442, 0xA8A8A8};
  const auto at = static_cast<std::size_t>(index % num_line_colors);
  return hex(dark ? on_dark[at] : on_light[at]);
}

Rgb ink_on(Rgb background) {
  const double lightness = 0.2126 * background.red + 0.7152 * background.green + 0.0722 * background.blue;
  return lightness > 140 ? Rgb{0, 0, 0} : Rgb{255, 255, 255};
}

}  // namespace kvreplay::figure
