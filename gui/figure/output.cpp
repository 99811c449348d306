// Figures as files: SVG, PDF and PNG, without anything in them that changes from one run to the next.
#include <QBuffer>
#include <QHashSeed>
#include <QImage>
#include <QPainter>
#include <QPdfWriter>
#include <QSvgGenerator>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/base/version.h"
#include "gui/figure/renderer.h"

namespace kvreplay::figure {
namespace {

constexpr int css_pixels_an_inch = 96;

std::string provenance_text(const Figure& figure) {
  std::string text;
  for (const auto& [key, value] : figure.provenance)
    text += (text.empty() ? "" : "\n") + printable(key) + ": " + printable(value);
  return text;
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
}

QString document_title(const Figure& figure) {
  return QString::fromStdString(figure.title.empty() ? std::string(figure.kind()) : printable(figure.title));
}

// What QSvgGenerator writes, made smaller and portable: it repeats on every group the font that each text has anyway, and
// all defaults; names only the one font family; measures the page in millimetres; and does not say that the cells of a
// matrix are to stay sharp.
std::string tidy_svg(std::string svg, QSizeF size) {
  const auto page = svg.find("<svg width=");
  const auto view = svg.find("viewBox=", page);
  svg.replace(page, view - page,
              "<svg width=\"" + std::to_string(std::lround(size.width())) + "\" height=\"" +
                  std::to_string(std::lround(size.height())) + "\" ");
  for (std::size_t at = 0; (at = svg.find("\nfont-family=", at)) != std::string::npos;)
    svg.erase(at, svg.find('>', at) - at);
  for (const char* redundant :
       {" transform=\"matrix(1,0,0,1,0,0)\"", " fill-opacity=\"1\"", " stroke-opacity=\"1\"", " font-weight=\"400\"",
        " font-style=\"normal\"", " vector-effect=\"none\"", "<defs>\n</defs>\n"})
    replace_all(svg, redundant, "");
  replace_all(svg, " \n >", ">");
  replace_all(svg, "font-family=\"DejaVu Sans\"", "font-family=\"DejaVu Sans, Verdana, sans-serif\"");
  replace_all(svg, "<image ", "<image style=\"image-rendering:pixelated\" ");
  return svg;
}

std::string to_svg(const Figure& figure, const Style& style, QSizeF size, bool heading) {
  QBuffer buffer;
  QSvgGenerator generator;
  generator.setOutputDevice(&buffer);
  generator.setResolution(css_pixels_an_inch);
  generator.setSize(size.toSize());
  generator.setViewBox(QRectF(QPointF(0, 0), size));
  // Qt writes both as they are; they may come from a file.
  generator.setTitle(document_title(figure).toHtmlEscaped());
  generator.setDescription(QString::fromStdString(provenance_text(figure)).toHtmlEscaped());
  QPainter painter(&generator);
  paint_figure(painter, QRectF(QPointF(0, 0), size), figure, style, heading);
  painter.end();
  return tidy_svg(buffer.data().toStdString(), size);
}

// Writes one and the same date over the one that follows `key`. The length stays, and with it every offset in the file.
void fix_date(std::string& bytes, const std::string& key) {
  static const std::string date = "20000101000000";
  for (std::size_t at = 0; (at = bytes.find(key, at)) != std::string::npos;) {
    at += key.size();
    if (at + date.size() <= bytes.size()) bytes.replace(at, date.size(), date);
  }
}

// Qt writes a document's fonts in the order of a hash table, which differs from one process to the next unless its seed is
// fixed.
class FixedHashSeed {
 public:
  FixedHashSeed() { QHashSeed::setDeterministicGlobalSeed(); }
  ~FixedHashSeed() { QHashSeed::resetRandomGlobalSeed(); }
  FixedHashSeed(const FixedHashSeed&) = delete;
  FixedHashSeed& operator=(const FixedHashSeed&) = delete;
};

std::string to_pdf(const Figure& figure, const Style& style, QSizeF size, bool heading) {
  static constexpr int resolution = 1200;
  const FixedHashSeed seed;
  QBuffer buffer;
  buffer.open(QIODevice::WriteOnly);
  {
    QPdfWriter writer(&buffer);
    writer.setResolution(resolution);
    writer.setPageSize(QPageSize(size / css_pixels_an_inch, QPageSize::Inch, QString(), QPageSize::ExactMatch));
    writer.setPageMargins(QMarginsF(0, 0, 0, 0));
    writer.setTitle(document_title(figure));
    writer.setCreator(QString::fromStdString(std::string(program_version()) + "; " + provenance_text(figure)));
    QPainter painter(&writer);
    // Otherwise Qt stores images as JPEG, and a heat map gets colours that are not on its scale.
    painter.setRenderHint(QPainter::LosslessImageRendering);
    painter.scale(static_cast<double>(resolution) / css_pixels_an_inch,
                  static_cast<double>(resolution) / css_pixels_an_inch);
    paint_figure(painter, QRectF(QPointF(0, 0), size), figure, style, heading);
  }
  std::string pdf = buffer.data().toStdString();
  fix_date(pdf, "/CreationDate (D:");
  fix_date(pdf, "/ModDate (D:");
  return pdf;
}

std::string to_png(const Figure& figure, const Style& style, QSizeF size, bool heading, int pixel_ratio) {
  QImage image((size * pixel_ratio).toSize(), QImage::Format_RGB32);
  image.setDotsPerMeterX(static_cast<int>(std::lround(css_pixels_an_inch * pixel_ratio / 0.0254)));
  image.setDotsPerMeterY(image.dotsPerMeterX());
  image.fill(style.background);
  {
    QPainter painter(&image);
    painter.scale(pixel_ratio, pixel_ratio);
    paint_figure(painter, QRectF(QPointF(0, 0), size), figure, style, heading);
  }
  image.setText("Title", document_title(figure));
  image.setText("Software", program_version());
  for (const auto& [key, value] : figure.provenance)
    image.setText(QString::fromStdString(key), QString::fromStdString(value));
  QBuffer buffer;
  buffer.open(QIODevice::WriteOnly);
  if (!image.save(&buffer, "PNG")) throw Error("figure", "the PNG could not be encoded");
  return buffer.data().toStdString();
}

Format format_of(const std::string& path) {
  const std::string extension = std::filesystem::path(path).extension().string();
  if (extension == ".svg") return Format::svg;
  if (extension == ".pdf") return Format::pdf;
  if (extension == ".png") return Format::png;
  throw Error(path, "a figure's name must end in .svg, .pdf or .png");
}

}  // namespace

double figure_height(const Figure& figure, const Output& output) {
  if (output.height > 0) return output.height;
  prepare_fonts();
  const Style style = make_style(output.medium, output.dark);
  const double inside = output.width - 2 * style.space;
  const double heading = output.heading ? draw_heading(nullptr, figure, style, QRectF(0, 0, inside, 0)) : 0;
  return std::ceil(heading + renderer_of(figure).height(figure, style, inside) + 2 * style.space);
}

std::string render_figure(const Figure& figure, Format format, const Output& output) {
  prepare_fonts();
  const Style style = make_style(output.medium, output.dark);
  const QSizeF size(std::ceil(output.width), std::ceil(figure_height(figure, output)));
  switch (format) {
    case Format::svg: return to_svg(figure, style, size, output.heading);
    case Format::pdf: return to_pdf(figure, style, size, output.heading);
    case Format::png: return to_png(figure, style, size, output.heading, output.pixel_ratio);
  }
  return {};
}

void write_figure(const Figure& figure, const std::string& path, const Output& output) {
  const std::string bytes = render_figure(figure, format_of(path), output);
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file) throw Error(path, "cannot be written", "check that the folder exists and has space");
}

}  // namespace kvreplay::figure
