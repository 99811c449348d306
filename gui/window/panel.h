// A panel: one view of the state, in a dock of the main window. It gets the store, draws from it, asks it for changes, and
// knows no other panel.
//
// A new panel is one file in gui/window/panels/ that defines `const PanelDescription& NAME_panel()` and one line in
// gui/window/panels.def (CONTRIBUTING.md walks through one). What a panel has to do:
//   - build its widgets in its constructor and hand them to set_content();
//   - override refresh(): called, in the window's thread, after something changed, with all that changed since the last
//   call;
//     never while the panel is hidden (what it missed comes when it is shown);
//   - start refresh() with document_or_message() or run_or_message(), which say in place what is missing;
//   - override figure() where there is something to export: the same data that it draws, as a figure (gui/figure).
//
//   class KeptPanel final : public Panel {
//    public:
//     KeptPanel(Store& store, const PanelDescription& description) : Panel(store, description), label_(new QLabel(this)) {
//       set_content(label_);
//     }
//    protected:
//     void refresh(Changes) override {
//       const auto run = run_or_message(Side::a);
//       if (run == nullptr) return;
//       label_->setText(QString::number(run->kept_count(selection().layer, 0, selection().step)));
//     }
//    ...
#pragma once

#include <QString>
#include <QWidget>
#include <functional>
#include <memory>
#include <vector>

#include "gui/figure/canvas.h"
#include "gui/figure/figure.h"
#include "gui/model/store.h"

class QLabel;
class QStackedLayout;

namespace kvreplay::gui {

class Panel;

// Where a panel stands in the layout of the first start. Panels of one area share it as tabs, but for those on the left,
// which stand one above the other.
enum class PanelArea : std::uint8_t { left, main, side, bottom };

struct PanelDescription {
  std::string name;      // "eviction_map": of its file, its settings in AppState::views, its object in tests
  std::string title;     // "Eviction map"
  std::string question;  // what it answers, one line: tooltip and tour
  PanelArea area = PanelArea::main;
  bool shown = true;  // at the first start
  std::function<Panel*(Store&)> make;
};

// In the order of panels.def, which is that of tabs and menus.
const std::vector<const PanelDescription*>& panel_registry();

class Panel : public QWidget {
  Q_OBJECT

 public:
  Panel(Store& store, const PanelDescription& description);
  ~Panel() override;

  const PanelDescription& description() const { return description_; }

  // What an export writes. Null: nothing to export now. Title and subtitle say what is drawn; provenance is added by the
  // window.
  virtual std::unique_ptr<figure::Figure> figure() const { return nullptr; }
  // What Copy table copies: the figure's numbers unless the panel has a table of its own. Without columns: nothing to copy.
  virtual figure::Table table() const;

  // Brings the panel up to date now, without waiting for the event loop: for tests and pictures.
  void refresh_now();

 signals:
  // Asks the window for one of its commands by name ("open", "save_session": main_window.cpp).
  void command(const QString& name);

 protected:
  virtual void refresh(Changes what) = 0;

  Store& store() const { return store_; }
  const Selection& selection() const { return store_.selection(); }
  // Colours, fonts and line widths of the window as it is now, light or dark: the same as the figures'.
  const figure::Style& style_now() const;

  // The panel's widget, once, in the constructor.
  void set_content(QWidget* content);
  // In place of the content: what is missing and what to do about it. Until show_content().
  void show_message(const QString& what, const QString& remedy = {});
  void show_content();
  // The trace on screen, or null after a message that says that none is open.
  std::shared_ptr<const Document> document_or_message();
  // A run with at least the layer on screen, or null after a message (no run chosen, of another trace, its
  // error, being evaluated).
  std::shared_ptr<const Run> run_or_message(Side side);

  // This panel's settings in the state: saved with the session. Asking for a change comes back as Change::views.
  std::string setting(const std::string& name, const std::string& otherwise) const;
  void set_setting(const std::string& name, const std::string& value);

  // Whether anything of it can be seen. Where not, refresh() waits.
  bool on_screen() const;

  bool event(QEvent* event) override;
  void showEvent(QShowEvent* event) override;

 private:
  void collect(Changes what);
  void schedule();

  Store& store_;
  const PanelDescription& description_;
  QStackedLayout* layers_ = nullptr;
  QLabel* message_ = nullptr;
  QWidget* content_ = nullptr;
  Changes missed_;
  bool scheduled_ = false;
};

// One token's text as a widget shows it: white space and control characters visible.
QString token_text(const Document& document, std::int64_t position);

}  // namespace kvreplay::gui
