// A text as wrapped tokens that can be pointed at. Of a text of any length only the lines on screen are laid out and drawn
// (gui/model/line_index.h).
#pragma once

#include <QAbstractScrollArea>
#include <QColor>
#include <QStaticText>
#include <functional>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "gui/model/document.h"
#include "gui/model/line_index.h"
#include "gui/model/state.h"

namespace kvreplay::gui {

// How one token is drawn.
struct TokenLook {
  QColor ground;  // not valid: none
  // Share of heads that keep it, by run, drawn as one bar each below it: none at 0, the thicker the more. Told apart from
  // evicted tokens, which no run keeps and which are struck out, by shape as well as colour.
  std::vector<float> kept;
  bool known = true;  // false: nothing is known of it (yet), or it comes later: neither bar nor strike
};

class TokenView final : public QAbstractScrollArea {
  Q_OBJECT

 public:
  explicit TokenView(QWidget* parent = nullptr);

  void set_document(std::shared_ptr<const Document> document);
  // bars: a colour for each run in TokenLook::kept.
  void set_look(std::function<TokenLook(std::int64_t)> look, std::vector<QColor> bars);
  void set_selected(const std::vector<TokenRange>& ranges);
  // Ascending; current: index of the one that was gone to, or -1.
  void set_found(std::vector<TokenRange> ranges, int current);
  void set_focus_token(std::int64_t token);  // -1: none

  // The tokens of the lines on screen.
  TokenRange visible() const;
  void show_token(std::int64_t token);                // scrolls as little as shows it
  void put_on_top(std::int64_t token);                // its line becomes the first
  QRectF rectangle_of(std::int64_t token);            // in the viewport; empty where it is not on screen
  std::int64_t token_at(const QPointF& point) const;  // -1: none
  int height_for(int lines) const;

 signals:
  void selected(const std::vector<TokenRange>& ranges);
  void hovered(std::int64_t token, const QPoint& global);  // -1: left
  void scrolled();                                         // by the user

 protected:
  void paintEvent(QPaintEvent* event) override;
  void resizeEvent(QResizeEvent* event) override;
  void mousePressEvent(QMouseEvent* event) override;
  void mouseMoveEvent(QMouseEvent* event) override;
  void mouseReleaseEvent(QMouseEvent* event) override;
  void keyPressEvent(QKeyEvent* event) override;
  void changeEvent(QEvent* event) override;
  bool viewportEvent(QEvent* event) override;

 private:
  struct Place {
    std::int64_t token = 0;
    QRectF box;
  };
  QString shown_text(std::int64_t token) const;
  const QStaticText& laid_out(std::int64_t token) const;
  void measure();
  void wrap();
  void update_bars();
  double line_height() const;
  double gutter() const;
  std::vector<Place> places(std::int64_t line, double top) const;
  void paint_line(QPainter& painter, std::int64_t line, double top) const;
  void paint_token(QPainter& painter, const Place& place) const;
  void paint_outlines(QPainter& painter, const std::vector<Place>& line) const;
  void extend_to(std::int64_t token);

  std::shared_ptr<const Document> document_;
  std::function<TokenLook(std::int64_t)> look_;
  std::vector<QColor> bars_;
  std::vector<TokenRange> selected_, found_;
  int current_ = -1;
  std::int64_t focus_ = -1, anchor_ = -1, cursor_ = -1;
  bool dragging_ = false, scrolling_self_ = false;
  mutable std::unordered_map<std::string_view, QStaticText> laid_out_;  // of the bytes of tokens that were on screen
  std::vector<float> widths_;
  std::vector<bool> ends_line_;
  LineIndex lines_;
  int wrapped_at_ = -1;
};

}  // namespace kvreplay::gui
