// Layers × heads as cells: a colour and a number each, or a small map each.
#pragma once

#include <QWidget>
#include <functional>
#include <optional>
#include <vector>

#include "gui/window/widgets/color_scale.h"

namespace kvreplay::gui {

struct HeadGrid {
  struct Place {
    int row = 0, column = 0;
    bool operator==(const Place&) const = default;
  };
  int rows = 0, columns = 0;
  std::vector<float> values;  // [rows, columns]; or with maps [rows, columns, map_size]
  int map_size = 1;           // above 1: a small map of so many values a cell
  ColorScale scale;
  std::function<QString(float)> number;  // as it is written into cells; absent: not written
  std::function<QString(int)> row_name;
  QString row_label, column_label;
  std::optional<Place> worst;  // marked
};

class HeadGridView final : public QWidget {
  Q_OBJECT

 public:
  explicit HeadGridView(QWidget* parent = nullptr);
  void set_grid(HeadGrid grid);
  const HeadGrid& grid() const { return grid_; }
  // The selected cells of one row; no columns: all of it.
  void set_selected(int row, std::vector<int> columns);
  void set_focus_cell(std::optional<HeadGrid::Place> place);
  QRectF cell(int row, int column) const;
  QSize sizeHint() const override { return {480, 320}; }

 signals:
  void hovered(int row, int column);  // -1, -1: nothing any more
  void clicked(int row, int column, Qt::KeyboardModifiers modifiers);
  void row_clicked(int row);  // its name

 protected:
  void paintEvent(QPaintEvent* event) override;
  void mouseMoveEvent(QMouseEvent* event) override;
  void mousePressEvent(QMouseEvent* event) override;
  void leaveEvent(QEvent* event) override;
  void keyPressEvent(QKeyEvent* event) override;
  void focusInEvent(QFocusEvent* event) override;
  void focusOutEvent(QFocusEvent* event) override;

 private:
  struct Layout;
  Layout lay_out() const;
  std::optional<HeadGrid::Place> cell_at(QPointF at) const;
  void paint_cells(QPainter& painter);
  void paint_names(QPainter& painter, const Layout& layout);
  void paint_numbers(QPainter& painter);
  void paint_marks(QPainter& painter);

  HeadGrid grid_;
  int selected_row_ = -1;
  std::vector<int> selected_columns_;
  std::optional<HeadGrid::Place> focus_;
  std::optional<QRectF> painting_;  // where the cells are, while all of them are painted
};

}  // namespace kvreplay::gui
