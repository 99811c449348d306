// The window: panels in docks around one store, menus, status bar, layout and recent files kept between starts.
#pragma once

#include <QMainWindow>
#include <map>
#include <memory>
#include <string>

#include "gui/model/session.h"
#include "gui/model/store.h"
#include "gui/window/panel.h"

class QMenu;

namespace kvreplay::gui {

class StatusBar;

class MainWindow final : public QMainWindow {
  Q_OBJECT

 public:
  explicit MainWindow(Evaluator::MakeBackend make_backend, QWidget* parent = nullptr);
  ~MainWindow() override;

  Store& store() { return *store_; }
  Session& session() { return *session_; }
  // Throws Error for a name that panels.def does not have.
  Panel& panel(const std::string& name);
  bool has_panel(const std::string& name) const { return panels_.count(name) != 0; }
  void show_panel(const std::string& name);

  void open(const QString& path);
  // Figure and data of a panel: PATH is .svg, .pdf or .png, and PATH with .csv beside it gets the numbers. Throws Error.
  void export_panel(const Panel& panel, const QString& path, double width) const;
  // Every action of the menus by its object name ("open", "back", "panel_runs"): for palette, tests and screenshots.
  QAction* action(const std::string& name) const;
  QList<QAction*> all_actions() const;
  // As at the first start.
  void reset_layout();

 protected:
  void closeEvent(QCloseEvent* event) override;
  void showEvent(QShowEvent* event) override;
  void dragEnterEvent(QDragEnterEvent* event) override;
  void dropEvent(QDropEvent* event) override;

 private:
  void make_panels();
  void set_first_sizes();
  void make_menus();
  void make_file_menu();
  void make_go_menu();
  void make_view_menu();
  void make_help_menu();
  QAction* add_action(QMenu* menu, const QString& name, const QString& text, const QKeySequence& shortcut,
                      const std::function<void()>& run);
  void update_actions();
  void update_title();
  void remember_recent(const QString& path);
  void fill_recent(QMenu* menu);
  void choose_and_open();
  void choose_and_save();
  void choose_and_export();
  void copy_table();
  Panel* current_panel() const;
  void set_theme(int theme);
  // What may throw, with the error shown in the status bar.
  void guarded(const std::function<void()>& run);

  std::unique_ptr<Store> store_;
  StatusBar* status_ = nullptr;
  bool sizes_are_set_ = false;
  std::map<std::string, Panel*> panels_;
  std::map<std::string, class QDockWidget*> docks_;
  std::unique_ptr<Session> session_;  // after the store, which it refers to
};

}  // namespace kvreplay::gui
