// Figures: plain data in, a picture out. The same code draws what a window shows, what a report embeds and what a paper
// prints, as SVG, PDF or PNG. No window system is needed, and no Qt type appears in this header.
//
//   LineChart chart;                                  // line_chart.h: what is drawn, as data
//   chart.title = "Output error against budget";
//   chart.series.push_back({.name = "snapkv", .x = {64, 128}, .y = {0.3, 0.1}});
//   write_figure(chart, "error.pdf", {.medium = Medium::print, .width = column_width});
//
// The same figure and output give the same bytes: no date, no random identifier. Text stays text in SVG and PDF; a matrix
// is one image, lossless. A new kind of figure is a header, a source file with its renderer and a line in renderers.def.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kvreplay::figure {

// The numbers of a figure, for a reader who wants them.
struct Table {
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;
  std::string csv() const;  // RFC 4180
};

struct Figure {
  std::string title;
  std::string subtitle;  // what is drawn: quantity, average over what, interval. Wrapped where the figure is narrow
  std::vector<std::pair<std::string, std::string>> provenance;  // "trace", "model", "command": embedded, not drawn

  virtual ~Figure() = default;
  virtual std::string_view kind() const = 0;  // "line_chart"
  virtual Table data() const = 0;
};

enum class Format : unsigned char { svg, pdf, png };
enum class Medium : unsigned char { screen, print };  // print: smaller type and thinner lines, for a page

// Lengths are in CSS pixels, 1/96 inch.
constexpr double column_width = 3.25 * 96;
constexpr double page_width = 6.75 * 96;

struct Output {
  Medium medium = Medium::screen;
  bool dark = false;
  double width = 720;
  double height = 0;    // 0: what the figure needs at this width
  int pixel_ratio = 2;  // PNG: image pixels a CSS pixel
  bool heading = true;  // false: title and subtitle are left to what is around the figure
};

// The file's bytes. Throws Error when no font is installed.
std::string render_figure(const Figure& figure, Format format, const Output& output = {});
// The format follows from the extension: .svg, .pdf or .png. Throws Error when it is none of them or PATH cannot be written.
void write_figure(const Figure& figure, const std::string& path, const Output& output = {});
// Height in CSS pixels of the figure drawn at output.width.
double figure_height(const Figure& figure, const Output& output = {});

}  // namespace kvreplay::figure
