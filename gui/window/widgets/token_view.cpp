#include "gui/window/widgets/token_view.h"

#include <QFontMetricsF>
#include <QMouseEvent>
#include <QPainter>
#include <QScrollBar>
#include <algorithm>
#include <cmath>
#include <string_view>
#include <unordered_map>

#include "core/base/text.h"
#include "gui/figure/axis.h"
#include "gui/window/theme.h"

namespace kvreplay::gui {
namespace {

constexpr double margin = 6, bar_height = 3, bar_gap = 1, least_width = 7;

QFont text_font() { return current_style().font(current_style().label_size + 1); }
QFont gutter_font() { return current_style().font(current_style().tick_size - 1); }

// Line ends and tabs as signs, what cannot be shown as escapes.
std::string with_signs(std::string_view bytes) {
  std::string text;
  for (std::size_t begin = 0; begin < bytes.size();) {
    const std::size_t at = std::min(bytes.find_first_of("\n\t\r", begin), bytes.size());
    text += printable(bytes.substr(begin, at - begin));
    if (at < bytes.size()) text += bytes[at] == '\n' ? "⏎" : bytes[at] == '\t' ? "⇥" : "␍";
    begin = at + 1;
  }
  return text;
}

QColor outline_color(const figure::Style& style) { return style.dark ? QColor(0xf0, 0x9f, 0x35) : QColor(0xc2, 0x4e, 0x00); }

// The first range that ends behind the token, if it holds it.
int range_at(const std::vector<TokenRange>& ranges, std::int64_t token) {
  const auto found =
      std::partition_point(ranges.begin(), ranges.end(), [token](const TokenRange& range) { return range.end <= token; });
  return found != ranges.end() && found->contains(token) ? static_cast<int>(found - ranges.begin()) : -1;
}

}  // namespace

TokenView::TokenView(QWidget* parent) : QAbstractScrollArea(parent) {
  setFrameShape(QFrame::NoFrame);
  setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
  setVerticalScrollBarPolicy(Qt::ScrollBarAlwaysOn);
  setFocusPolicy(Qt::StrongFocus);
  viewport()->setMouseTracking(true);
  viewport()->setCursor(Qt::IBeamCursor);
  connect(verticalScrollBar(), &QScrollBar::valueChanged, this, [this] {
    viewport()->update();
    if (!scrolling_self_) emit scrolled();
  });
}

void TokenView::set_document(std::shared_ptr<const Document> document) {
  if (document == document_) return;
  document_ = std::move(document);
  anchor_ = cursor_ = focus_ = -1;
  found_.clear();
  measure();
}

void TokenView::set_look(std::function<TokenLook(std::int64_t)> look, std::vector<QColor> bars) {
  const bool other_lines = bars.size() != bars_.size();
  look_ = std::move(look);
  bars_ = std::move(bars);
  if (other_lines) update_bars();
  viewport()->update();
}

void TokenView::set_selected(const std::vector<TokenRange>& ranges) {
  selected_ = ranges;
  viewport()->update();
}

void TokenView::set_found(std::vector<TokenRange> ranges, int current) {
  found_ = std::move(ranges);
  current_ = current;
  viewport()->update();
}

void TokenView::set_focus_token(std::int64_t token) {
  if (focus_ == token) return;
  focus_ = token;
  viewport()->update();
}

// ---- layout ------------------------------------------------------------------------------------------------------------

QString TokenView::shown_text(std::int64_t token) const {
  return QString::fromStdString(with_signs(document_->token_text(token)));
}

// Shaping a text takes most of the time of drawing it.
const QStaticText& TokenView::laid_out(std::int64_t token) const {
  constexpr std::size_t most = 4096;
  if (laid_out_.size() > most) laid_out_.clear();
  const auto [entry, fresh] = laid_out_.try_emplace(std::string_view(document_->token_text(token)));
  if (fresh) {
    entry->second.setTextFormat(Qt::PlainText);
    entry->second.setPerformanceHint(QStaticText::AggressiveCaching);
    entry->second.setText(shown_text(token));
  }
  return entry->second;
}

// A vocabulary is far smaller than a long text: each different token is measured once.
void TokenView::measure() {
  widths_.clear();
  ends_line_.clear();
  laid_out_.clear();
  if (document_ != nullptr) {
    const QFontMetricsF metrics(text_font());
    std::unordered_map<std::string_view, float> known;
    for (std::int64_t token = 0; token < document_->num_tokens(); ++token) {
      const std::string_view bytes = document_->token_text(token);
      const auto [entry, fresh] = known.try_emplace(bytes, 0.0F);
      if (fresh) entry->second = static_cast<float>(std::max(least_width, metrics.horizontalAdvance(shown_text(token))));
      widths_.push_back(entry->second);
      ends_line_.push_back(bytes.find('\n') != std::string_view::npos);
    }
  }
  wrapped_at_ = -1;
  wrap();
}

double TokenView::line_height() const {
  return std::ceil(QFontMetricsF(text_font()).height() + 5 +
                   static_cast<double>(std::max<std::size_t>(1, bars_.size())) * (bar_height + bar_gap));
}

double TokenView::gutter() const {
  const std::int64_t tokens = document_ != nullptr ? document_->num_tokens() : 0;
  return margin * 2 + QFontMetricsF(gutter_font())
                          .horizontalAdvance(QString::fromStdString(figure::number_label(static_cast<double>(tokens), 9)));
}

void TokenView::wrap() {
  if (document_ == nullptr) return;
  const int width = viewport()->width();
  if (width != wrapped_at_) {
    const std::int64_t top = lines_.num_lines() > 0 && wrapped_at_ > 0 ? visible().begin : 0;
    wrapped_at_ = width;
    // Generated tokens begin a line of their own.
    lines_ = LineIndex(widths_, ends_line_, document_->prompt_length(), width - gutter() - margin);
    update_bars();
    put_on_top(top);
  }
  viewport()->update();
}

void TokenView::update_bars() {
  const auto height = static_cast<int>(line_height());
  const int lines = std::max(1, viewport()->height() / height);
  scrolling_self_ = true;
  verticalScrollBar()->setRange(0, std::max(0, static_cast<int>(lines_.num_lines()) - lines));
  verticalScrollBar()->setPageStep(lines);
  verticalScrollBar()->setSingleStep(1);
  scrolling_self_ = false;
}

std::vector<TokenView::Place> TokenView::places(std::int64_t line, double top) const {
  std::vector<Place> out;
  double x = gutter();
  const double height = line_height() - 2;
  for (std::int64_t token = lines_.first(line); token < lines_.first(line + 1); ++token) {
    const double width = static_cast<double>(widths_[static_cast<std::size_t>(token)]);
    out.push_back({token, QRectF(x, top + 1, width, height)});
    x += width;
  }
  return out;
}

TokenRange TokenView::visible() const {
  if (lines_.num_lines() == 0) return {};
  const std::int64_t first = std::clamp<std::int64_t>(verticalScrollBar()->value(), 0, lines_.num_lines() - 1);
  const auto lines = static_cast<std::int64_t>(viewport()->height() / line_height());
  return {lines_.first(first), lines_.first(std::min(lines_.num_lines(), first + std::max<std::int64_t>(1, lines)))};
}

void TokenView::show_token(std::int64_t token) {
  if (document_ == nullptr || token < 0 || token >= document_->num_tokens() || visible().contains(token)) return;
  const int line = static_cast<int>(lines_.line_of(token)), lines = verticalScrollBar()->pageStep();
  scrolling_self_ = true;
  verticalScrollBar()->setValue(line - lines / 3);
  scrolling_self_ = false;
}

void TokenView::put_on_top(std::int64_t token) {
  if (document_ == nullptr || document_->num_tokens() == 0) return;
  scrolling_self_ = true;
  verticalScrollBar()->setValue(
      static_cast<int>(lines_.line_of(std::clamp<std::int64_t>(token, 0, document_->num_tokens() - 1))));
  scrolling_self_ = false;
}

QRectF TokenView::rectangle_of(std::int64_t token) {
  if (document_ == nullptr || !visible().contains(token)) return {};
  const std::int64_t line = lines_.line_of(token);
  const double top = static_cast<double>(line - verticalScrollBar()->value()) * line_height();
  for (const Place& place : places(line, top))
    if (place.token == token) return place.box;
  return {};
}

std::int64_t TokenView::token_at(const QPointF& point) const {
  if (document_ == nullptr || point.y() < 0) return -1;
  const std::int64_t line = verticalScrollBar()->value() + static_cast<std::int64_t>(point.y() / line_height());
  if (line >= lines_.num_lines()) return -1;
  for (const Place& place : places(line, 0))
    if (point.x() >= place.box.left() && point.x() < place.box.right()) return place.token;
  return -1;
}

int TokenView::height_for(int lines) const { return static_cast<int>(std::ceil(lines * line_height())); }

// ---- drawing -----------------------------------------------------------------------------------------------------------

void TokenView::paintEvent(QPaintEvent*) {
  QPainter painter(viewport());
  painter.fillRect(viewport()->rect(), current_style().background);
  if (document_ == nullptr) return;
  std::int64_t line = verticalScrollBar()->value();
  for (double top = 0; top < viewport()->height() && line < lines_.num_lines(); top += line_height(), ++line)
    paint_line(painter, line, top);
}

void TokenView::paint_line(QPainter& painter, std::int64_t line, double top) const {
  const figure::Style& style = current_style();
  const std::vector<Place> line_places = places(line, top);
  const QFontMetricsF metrics(text_font());
  painter.setFont(gutter_font());
  painter.setPen(style.muted);
  painter.drawText(QRectF(0, top + 1, gutter() - margin, metrics.height() + 4), Qt::AlignRight | Qt::AlignVCenter,
                   QString::fromStdString(figure::number_label(static_cast<double>(lines_.first(line)), 9)));
  if (lines_.first(line) == document_->prompt_length())
    painter.fillRect(QRectF(0, top - 0.5, viewport()->width(), 1), style.muted);
  painter.setFont(text_font());
  for (const Place& place : line_places) paint_token(painter, place);
  paint_outlines(painter, line_places);
}

void TokenView::paint_token(QPainter& painter, const Place& place) const {
  const figure::Style& style = current_style();
  const QFontMetricsF metrics(painter.font());
  const QRectF text_box(place.box.left(), place.box.top() + 1, place.box.width(), metrics.height() + 2);
  const TokenLook look = look_ ? look_(place.token) : TokenLook{};
  QColor ink = style.ink;
  if (look.ground.isValid()) {
    painter.fillRect(text_box.adjusted(0.5, 0, -0.5, 0), look.ground);
    ink = figure::to_color(
        figure::ink_on({static_cast<std::uint8_t>(look.ground.red()), static_cast<std::uint8_t>(look.ground.green()),
                        static_cast<std::uint8_t>(look.ground.blue())}));
  }
  const bool gone = look.known && !look.kept.empty() &&
                    std::all_of(look.kept.begin(), look.kept.end(), [](float share) { return !(share > 0); });
  if (gone) ink.setAlphaF(look.ground.isValid() ? 0.8F : 0.62F);
  if (!look.known) ink = style.muted;
  painter.setPen(ink);
  const double baseline = text_box.top() + 1 + metrics.ascent();
  painter.drawStaticText(QPointF(place.box.left(), text_box.top() + 1), laid_out(place.token));
  QColor strike = ink;
  strike.setAlphaF(0.4F);
  if (gone)
    painter.fillRect(QRectF(place.box.left() + 1, baseline - metrics.xHeight() / 2, place.box.width() - 2, 1), strike);
  for (std::size_t run = 0; look.known && run < look.kept.size(); ++run) {
    const float share = look.kept[run];
    if (!(share > 0)) continue;
    const double height = share >= 1 ? bar_height : share >= 0.5F ? 2 : 1;
    const double top = text_box.bottom() + 1 + static_cast<double>(run) * (bar_height + bar_gap);
    painter.fillRect(QRectF(place.box.left() + 0.5, top, place.box.width() - 1, height), bars_[run]);
  }
  if (document_->span_at(place.token) != nullptr)
    painter.fillRect(QRectF(place.box.left(), place.box.top() - 1, place.box.width(), 1.6), outline_color(style));
}

// Around stretches of tokens, not around each of them.
void TokenView::paint_outlines(QPainter& painter, const std::vector<Place>& line) const {
  const figure::Style& style = current_style();
  painter.setRenderHint(QPainter::Antialiasing, true);
  painter.setBrush(Qt::NoBrush);
  const auto around = [&](const std::vector<TokenRange>& ranges, const std::function<QPen(int)>& pen) {
    for (std::size_t i = 0; i < line.size();) {
      const int range = range_at(ranges, line[i].token);
      std::size_t end = i + 1;
      while (range >= 0 && end < line.size() && range_at(ranges, line[end].token) == range) ++end;
      if (range >= 0) {
        painter.setPen(pen(range));
        painter.drawRoundedRect(line[i].box.united(line[end - 1].box).adjusted(-0.5, 0, 0.5, 0), 2, 2);
      }
      i = end;
    }
  };
  const QColor accent = outline_color(style);
  around(found_, [&](int range) {
    return QPen(accent, range == current_ ? 2.2 : 1, range == current_ ? Qt::SolidLine : Qt::DotLine);
  });
  around(selected_, [&](int) { return QPen(style.ink, 1.8); });
  if (focus_ >= 0) around({{focus_, focus_ + 1}}, [&](int) { return QPen(style.muted, 1.2); });
  painter.setRenderHint(QPainter::Antialiasing, false);
}

void TokenView::resizeEvent(QResizeEvent*) {
  wrap();
  update_bars();
}

void TokenView::changeEvent(QEvent* event) {
  QAbstractScrollArea::changeEvent(event);
  if (event->type() == QEvent::FontChange || event->type() == QEvent::StyleChange) measure();
}

// ---- mouse and keys ------------------------------------------------------------------------------------------------------

void TokenView::mousePressEvent(QMouseEvent* event) {
  if (event->button() != Qt::LeftButton) return;
  const std::int64_t token = token_at(event->position());
  if (token < 0) {
    anchor_ = cursor_ = -1;
    emit selected({});
    return;
  }
  dragging_ = true;
  if ((event->modifiers() & Qt::ShiftModifier) != 0U && anchor_ >= 0) return extend_to(token);
  anchor_ = cursor_ = token;
  std::vector<TokenRange> ranges;
  if ((event->modifiers() & Qt::ControlModifier) != 0U) {
    dragging_ = false;
    ranges = selected_;
    if (const int range = range_at(ranges, token); range >= 0) {
      const TokenRange old = ranges[static_cast<std::size_t>(range)];
      ranges.erase(ranges.begin() + range);
      ranges.push_back({old.begin, token});
      ranges.push_back({token + 1, old.end});
      emit selected(ranges);
      return;
    }
  }
  ranges.push_back({token, token + 1});
  emit selected(ranges);
}

void TokenView::mouseMoveEvent(QMouseEvent* event) {
  const std::int64_t token = token_at(event->position());
  emit hovered(token, event->globalPosition().toPoint());
  if (dragging_ && token >= 0 && token != cursor_) extend_to(token);
}

void TokenView::mouseReleaseEvent(QMouseEvent*) { dragging_ = false; }

bool TokenView::viewportEvent(QEvent* event) {
  if (event->type() == QEvent::Leave) emit hovered(-1, {});
  return QAbstractScrollArea::viewportEvent(event);
}

void TokenView::extend_to(std::int64_t token) {
  cursor_ = token;
  emit selected({{std::min(anchor_, token), std::max(anchor_, token) + 1}});
}

void TokenView::keyPressEvent(QKeyEvent* event) {
  const auto plain = event->modifiers() & ~(Qt::ShiftModifier | Qt::KeypadModifier);
  if (document_ == nullptr || plain != 0U) return QAbstractScrollArea::keyPressEvent(event);
  if (cursor_ < 0 && !selected_.empty()) cursor_ = anchor_ = selected_.front().begin;
  const std::int64_t last = document_->num_tokens() - 1, here = cursor_ < 0 ? visible().begin : cursor_;
  const auto line_step = [&](std::int64_t lines) {
    const QRectF box = [&] {
      for (const Place& place : places(lines_.line_of(here), 0))
        if (place.token == here) return place.box;
      return QRectF();
    }();
    const std::int64_t line = std::clamp<std::int64_t>(lines_.line_of(here) + lines, 0, lines_.num_lines() - 1);
    for (const Place& place : places(line, 0))
      if (place.box.right() > box.center().x()) return place.token;
    return lines_.first(line + 1) - 1;
  };
  std::int64_t next = -1;
  switch (event->key()) {
    case Qt::Key_Left: next = here - 1; break;
    case Qt::Key_Right: next = here + 1; break;
    case Qt::Key_Up: next = line_step(-1); break;
    case Qt::Key_Down: next = line_step(1); break;
    case Qt::Key_PageUp: next = line_step(-verticalScrollBar()->pageStep()); break;
    case Qt::Key_PageDown: next = line_step(verticalScrollBar()->pageStep()); break;
    case Qt::Key_Home: next = 0; break;
    case Qt::Key_End: next = last; break;
    default: return QAbstractScrollArea::keyPressEvent(event);
  }
  next = std::clamp<std::int64_t>(cursor_ < 0 ? here : next, 0, last);
  if ((event->modifiers() & Qt::ShiftModifier) != 0U && anchor_ >= 0) {
    extend_to(next);
  } else {
    anchor_ = cursor_ = next;
    emit selected({{next, next + 1}});
  }
  show_token(next);
}

}  // namespace kvreplay::gui
