#include "gui/window/main_window.h"

#include <QAction>
#include <QActionGroup>
#include <QApplication>
#include <QClipboard>
#include <QCloseEvent>
#include <QDockWidget>
#include <QFileDialog>
#include <QFileInfo>
#include <QLayout>
#include <QMenuBar>
#include <QMessageBox>
#include <QMimeData>
#include <QSettings>
#include <QTimer>
#include <set>

#include "core/base/error.h"
#include "core/base/text_file.h"
#include "core/base/version.h"
#include "gui/window/command_palette.h"
#include "gui/window/shortcut_sheet.h"
#include "gui/window/status_bar.h"
#include "gui/window/theme.h"
#include "gui/window/tour.h"

namespace kvreplay::gui {
namespace {

constexpr int layout_version = 1;  // a saved layout of another one is dropped
constexpr int most_recent = 10;

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

// Documents' facts that travel with every export.
std::vector<std::pair<std::string, std::string>> provenance(const Store& store) {
  std::vector<std::pair<std::string, std::string>> facts;
  if (const auto document = store.document()) {
    facts.emplace_back("trace", document->path());
    facts.emplace_back("trace_identity", document->identity());
    facts.emplace_back("model", document->model().name);
  }
  for (const Side side : {Side::a, Side::b})
    if (const auto run = store.run(side))
      facts.emplace_back(side == Side::a ? "run_a" : "run_b",
                         (run->info.policy.empty() ? run->label : run->info.policy) + ", budget " + run->info.budget_text +
                             (run->info.kept_sha256.empty() ? "" : ", kept " + run->info.kept_sha256));
  facts.emplace_back("created_by", program_version());
  return facts;
}

}  // namespace

MainWindow::MainWindow(Evaluator::MakeBackend make_backend, QWidget* parent)
    : QMainWindow(parent),
      store_(std::make_unique<Store>()),
      session_(std::make_unique<Session>(*store_, std::move(make_backend))) {
  QSettings settings;
  apply_theme(static_cast<Theme>(settings.value("theme", 0).toInt()));
  setObjectName("main_window");
  setAcceptDrops(true);
  setDockNestingEnabled(true);
  resize(1400, 900);
  status_ = new StatusBar(this);
  setStatusBar(status_);
  make_panels();
  make_menus();
  connect(store_.get(), &Store::message, status_, &StatusBar::show_text);
  connect(store_.get(), &Store::changed, this, [this](Changes what) {
    if (what & ~Changes(Change::focus | Change::views)) update_actions();
    if (what & Change::files) update_title();
  });
  connect(&session_->evaluator(), &Evaluator::progressed, status_, &StatusBar::show_progress);
  connect(session_.get(), &Session::progressed, status_, &StatusBar::show_progress);
  connect(status_, &StatusBar::cancel_requested, this, [this] {
    session_->evaluator().cancel();
    status_->show_text("Stopped. What has come so far stays; another layer, step or setting starts it again.", false);
  });
  connect(session_.get(), &Session::opened, this, &MainWindow::remember_recent);
  reset_layout();
  if (settings.value("layout_version").toInt() == layout_version) {
    restoreGeometry(settings.value("geometry").toByteArray());
    sizes_are_set_ = restoreState(settings.value("layout").toByteArray(), layout_version);
  }
  update_actions();
  update_title();
}

MainWindow::~MainWindow() {
  // Panels draw from the store: they go first, then the session, whose threads end, then the store.
  for (auto& [name, dock] : docks_) delete dock;
  session_.reset();
}

// ---- panels
// ---------------------------------------------------------------------------------------------------------------

void MainWindow::make_panels() {
  for (const PanelDescription* description : panel_registry()) {
    auto* dock = new QDockWidget(text(description->title), this);
    dock->setObjectName("dock_" + text(description->name));
    dock->setToolTip(text(description->question));
    Panel* panel = description->make(*store_);
    connect(panel, &Panel::command, this, [this](const QString& name) {
      if (QAction* asked = action(name.toStdString())) asked->trigger();
    });
    dock->setWidget(panel);
    connect(dock, &QDockWidget::visibilityChanged, panel, [panel](bool visible) {
      if (visible) panel->refresh_now();
    });
    panels_[description->name] = panel;
    docks_[description->name] = dock;
  }
}

void MainWindow::reset_layout() {
  std::map<PanelArea, QDockWidget*> last;
  std::set<const PanelDescription*> placed;
  QDockWidget* main = nullptr;
  const auto place = [&](PanelArea area, Qt::DockWidgetArea side, bool first) {
    for (const PanelDescription* description : panel_registry()) {
      if (description->area != area || !placed.insert(description).second) continue;
      QDockWidget* dock = docks_.at(description->name);
      dock->setFloating(false);
      if (last[area] != nullptr && area != PanelArea::left)
        tabifyDockWidget(last[area], dock);
      else if (area == PanelArea::side && main != nullptr)
        splitDockWidget(main, dock, Qt::Horizontal);
      else
        addDockWidget(side, dock, Qt::Vertical);
      dock->setVisible(description->shown);
      last[area] = dock;
      if (area == PanelArea::main && main == nullptr) main = dock;
      if (first) break;
    }
  };
  // The first of every area before the others: what is split off a dock that has tabs becomes one of them.
  for (const bool first : {true, false}) {
    place(PanelArea::left, Qt::LeftDockWidgetArea, first);
    place(PanelArea::main, Qt::RightDockWidgetArea, first);
    place(PanelArea::side, Qt::RightDockWidgetArea, first);
    place(PanelArea::bottom, Qt::BottomDockWidgetArea, first);
  }
  // The left column goes down to the bottom edge.
  setCorner(Qt::BottomLeftCorner, Qt::LeftDockWidgetArea);
  // The first of each area is the one on top.
  for (auto description = panel_registry().rbegin(); description != panel_registry().rend(); ++description)
    if ((*description)->shown && (*description)->area != PanelArea::left) docks_.at((*description)->name)->raise();
  if (isVisible()) QTimer::singleShot(0, this, &MainWindow::set_first_sizes);
}

// Sizes hold only once the window has its own.
void MainWindow::set_first_sizes() {
  sizes_are_set_ = true;
  layout()->activate();
  QList<QDockWidget*> left, bottom, side;
  for (const PanelDescription* description : panel_registry()) {
    if (!description->shown) continue;
    QDockWidget* dock = docks_.at(description->name);
    if (description->area == PanelArea::left) left << dock;
    if (description->area == PanelArea::side && side.isEmpty()) side << dock;
    if (description->area == PanelArea::bottom && bottom.isEmpty()) bottom << dock;
  }
  QList<int> heights;
  for (int i = 0; i < left.size(); ++i) heights << (i + 1) * 100;  // the form needs more than the list above it
  resizeDocks(left, heights, Qt::Vertical);
  // Without a widget in the centre the docks share all the width, so each column is given its own.
  const int narrow = std::min(360, width() / 4), beside = side.isEmpty() ? 0 : width() / 4;
  QList<QDockWidget*> columns{left.front()};
  QList<int> widths{narrow};
  for (const PanelDescription* description : panel_registry())
    if (description->shown && description->area == PanelArea::main && columns.size() == 1) {
      columns << docks_.at(description->name);
      widths << width() - narrow - beside;
    }
  if (!side.isEmpty()) {
    columns << side.front();
    widths << beside;
  }
  resizeDocks(columns, widths, Qt::Horizontal);
  if (bottom.isEmpty()) return;
  const int low = std::min(260, height() / 4);
  if (columns.size() > 1) resizeDocks({columns[1], bottom.front()}, {height() - low, low}, Qt::Vertical);
}

Panel& MainWindow::panel(const std::string& name) {
  const auto found = panels_.find(name);
  if (found == panels_.end()) throw Error("panel", "there is no panel \"" + name + "\"");
  return *found->second;
}

void MainWindow::show_panel(const std::string& name) {
  QDockWidget* dock = docks_.at(panel(name).description().name);
  dock->show();
  dock->raise();
}

// The panel in which the keyboard is, else the last one that was.
Panel* MainWindow::current_panel() const {
  for (QWidget* widget = QApplication::focusWidget(); widget != nullptr; widget = widget->parentWidget())
    if (auto* panel = qobject_cast<Panel*>(widget)) return panel;
  for (const PanelDescription* description : panel_registry()) {
    Panel* panel = panels_.at(description->name);
    if (panel->isVisible() && !panel->visibleRegion().isEmpty() && panel->figure() != nullptr) return panel;
  }
  return nullptr;
}

// ---- menus
// ----------------------------------------------------------------------------------------------------------------

void MainWindow::make_menus() {
  make_file_menu();
  make_go_menu();
  make_view_menu();
  make_help_menu();
}

QAction* MainWindow::add_action(QMenu* menu, const QString& name, const QString& label, const QKeySequence& shortcut,
                                const std::function<void()>& run) {
  QAction* action = menu->addAction(label);
  action->setObjectName(name);
  action->setShortcut(shortcut);
  connect(action, &QAction::triggered, this, [this, run] { guarded(run); });
  return action;
}

void MainWindow::make_file_menu() {
  QMenu* file = menuBar()->addMenu("&File");
  add_action(file, "open", "&Open …", QKeySequence::Open, [this] { choose_and_open(); });
  add_action(file, "open_bundled", "Open the &bundled trace", {}, [this] { session_->open_bundled(); });
  QMenu* recent = file->addMenu("Open &recent");
  connect(recent, &QMenu::aboutToShow, this, [this, recent] { fill_recent(recent); });
  fill_recent(recent);
  file->addSeparator();
  add_action(file, "save_session", "&Save session …", QKeySequence::Save, [this] { choose_and_save(); });
  add_action(file, "export", "&Export panel …", QKeySequence("Ctrl+E"), [this] { choose_and_export(); });
  add_action(file, "copy_table", "&Copy table of panel", QKeySequence("Ctrl+Shift+C"), [this] { copy_table(); });
  file->addSeparator();
  add_action(file, "quit", "&Quit", QKeySequence::Quit, [this] { close(); });
}

void MainWindow::make_go_menu() {
  QMenu* go = menuBar()->addMenu("&Go");
  add_action(go, "back", "&Back", QKeySequence("Alt+Left"), [this] { store_->back(); });
  add_action(go, "forward", "&Forward", QKeySequence("Alt+Right"), [this] { store_->forward(); });
  go->addSeparator();
  const auto step = [this](int by) { store_->select_step(store_->selection().step + by); };
  const auto layer = [this](int by) { store_->select_layer(store_->selection().layer + by); };
  add_action(go, "next_step", "Next step", QKeySequence("Ctrl+Right"), [step] { step(1); });
  add_action(go, "previous_step", "Previous step", QKeySequence("Ctrl+Left"), [step] { step(-1); });
  add_action(go, "next_layer", "Next layer", QKeySequence("Ctrl+Down"), [layer] { layer(1); });
  add_action(go, "previous_layer", "Previous layer", QKeySequence("Ctrl+Up"), [layer] { layer(-1); });
  add_action(go, "all_heads", "All heads", QKeySequence("Ctrl+0"), [this] { store_->select_heads({}); });
  go->addSeparator();
  add_action(go, "swap_runs", "&Swap runs A and B", QKeySequence("Ctrl+B"), [this] { store_->swap_runs(); });
  add_action(go, "clear_tokens", "Select no token", QKeySequence("Ctrl+D"), [this] { store_->select_tokens({}); });
  add_action(go, "reset_zoom", "Show all tokens", QKeySequence("Ctrl+Shift+0"), [this] { store_->reset_zoom("tokens"); });
}

void MainWindow::make_view_menu() {
  QMenu* view = menuBar()->addMenu("&View");
  for (const PanelDescription* description : panel_registry()) {
    QAction* toggle = docks_.at(description->name)->toggleViewAction();
    toggle->setObjectName("panel_" + text(description->name));
    toggle->setToolTip(text(description->question));
    view->addAction(toggle);
  }
  view->addSeparator();
  auto* group = new QActionGroup(this);
  const std::vector<std::pair<QString, QString>> themes = {
      {"theme_system", "Colours of the desktop"}, {"theme_light", "Light"}, {"theme_dark", "Dark"}};
  for (int theme = 0; theme < 3; ++theme) {
    const auto& [name, label] = themes[static_cast<std::size_t>(theme)];
    QAction* action = add_action(view, name, label, {}, [this, theme] { set_theme(theme); });
    action->setCheckable(true);
    action->setChecked(static_cast<int>(current_theme()) == theme);
    group->addAction(action);
  }
  view->addSeparator();
  add_action(view, "reset_layout", "&Reset layout", {}, [this] { reset_layout(); });
}

void MainWindow::make_help_menu() {
  QMenu* help = menuBar()->addMenu("&Help");
  add_action(help, "command_palette", "&Commands …", QKeySequence("Ctrl+K"), [this] { CommandPalette::run(*this); });
  add_action(help, "shortcuts", "&Keys", QKeySequence("?"), [this] { ShortcutSheet::run(*this); });
  add_action(help, "tour", "&Tour", {}, [this] { Tour::run(*this); });
  add_action(help, "about", "&About", {}, [this] {
    QMessageBox::about(this, "kvreplay", text(program_version()) + "\n\nWhich tokens are evicted, why, and what that does.");
  });
}

QList<QAction*> MainWindow::all_actions() const {
  QList<QAction*> list;
  const std::function<void(const QMenu*)> collect = [&](const QMenu* menu) {
    for (QAction* action : menu->actions()) {
      if (action->menu() != nullptr)
        collect(action->menu());
      else if (!action->isSeparator())
        list << action;
    }
  };
  for (QAction* action : menuBar()->actions()) collect(action->menu());
  for (const auto& [name, panel] : panels_)
    for (QAction* action : panel->actions()) list << action;
  return list;
}

QAction* MainWindow::action(const std::string& name) const {
  for (QAction* action : all_actions())
    if (action->objectName() == text(name)) return action;
  return nullptr;
}

void MainWindow::update_actions() {
  const bool trace = store_->document() != nullptr;
  action("back")->setEnabled(store_->can_go_back());
  action("forward")->setEnabled(store_->can_go_forward());
  for (const char* name : {"next_step", "previous_step", "next_layer", "previous_layer", "all_heads", "swap_runs",
                           "clear_tokens", "reset_zoom", "export", "copy_table"})
    action(name)->setEnabled(trace);
  action("save_session")->setEnabled(!store_->state().files.empty());
  if (!trace) return status_->show_place({});
  const Selection& selection = store_->selection();
  const auto document = store_->document();
  QString place = QString("layer %1").arg(document->layer_number(selection.layer));
  QStringList heads;
  for (const int head : selection.heads) heads << QString::number(head);
  place += heads.isEmpty() ? " · all heads" : " · head " + heads.join(", ");
  place += selection.step == 0 ? QString(" · prompt ended")
                               : QString(" · step %1 of %2").arg(selection.step).arg(document->num_steps());
  status_->show_place(place);
}

void MainWindow::update_title() {
  const auto document = store_->document();
  setWindowTitle(document == nullptr ? QString("kvreplay") : text(document->name()) + " – kvreplay");
}

void MainWindow::set_theme(int theme) {
  apply_theme(static_cast<Theme>(theme));
  QSettings().setValue("theme", theme);
  store_->announce(Change::theme);
}

// ---- files
// ------------------------------------------------------------------------------------------------------------------

void MainWindow::guarded(const std::function<void()>& run) {
  try {
    run();
  } catch (const std::exception& error) {
    status_->show_text(QString::fromUtf8(error.what()), true);
  }
}

void MainWindow::open(const QString& path) {
  guarded([&] { session_->open(QFileInfo(path).absoluteFilePath().toStdString()); });
}

void MainWindow::choose_and_open() {
  for (const QString& path :
       QFileDialog::getOpenFileNames(this, "Open a trace, results or a session", {},
                                     "Traces, results, sessions (*.h5 *.hdf5 *.json *.partial);;All files (*)"))
    open(path);
}

void MainWindow::choose_and_save() {
  const QString path = QFileDialog::getSaveFileName(this, "Save the session", "session.json", "Sessions (*.json)");
  if (path.isEmpty()) return;
  session_->save(path.toStdString());
  remember_recent(path);
  status_->show_text("Saved " + path, false);
}

void MainWindow::choose_and_export() {
  Panel* panel = current_panel();
  if (panel == nullptr || panel->figure() == nullptr)
    throw Error("export", "this panel has no figure", "click into another panel first");
  const QString path =
      QFileDialog::getSaveFileName(this, "Export " + text(panel->description().title),
                                   text(panel->description().name) + ".svg", "Pictures (*.svg *.pdf *.png)");
  if (path.isEmpty()) return;
  export_panel(*panel, path, std::max(360, panel->width()));
  status_->show_text("Exported " + path + " and its data (.csv)", false);
}

void MainWindow::export_panel(const Panel& panel, const QString& path, double width) const {
  const auto figure = panel.figure();
  if (figure == nullptr) throw Error("export", "the panel \"" + panel.description().title + "\" has nothing to export now");
  for (const auto& fact : provenance(*store_)) figure->provenance.push_back(fact);
  figure::Output output;
  output.dark = is_dark();
  output.width = width;
  figure::write_figure(*figure, path.toStdString(), output);
  const QFileInfo file(path);
  std::string table;
  for (const auto& [key, value] : figure->provenance) table += "# " + key + ": " + value + "\n";
  write_text_file((file.path() + "/" + file.completeBaseName() + ".csv").toStdString(), table + figure->data().csv());
}

void MainWindow::copy_table() {
  Panel* panel = current_panel();
  const figure::Table table = panel != nullptr ? panel->table() : figure::Table{};
  if (table.columns.empty()) throw Error("copy", "this panel has no table", "click into another panel first");
  QStringList lines;
  const auto add = [&](const std::vector<std::string>& cells) {
    QStringList line;
    for (const std::string& cell : cells) line << text(cell).replace('\t', ' ').replace('\n', ' ');
    lines << line.join('\t');
  };
  add(table.columns);
  for (const auto& row : table.rows) add(row);
  QApplication::clipboard()->setText(lines.join('\n') + "\n");
  status_->show_text(QString("Copied %1 rows of %2").arg(table.rows.size()).arg(text(panel->description().title)), false);
}

void MainWindow::remember_recent(const QString& path) {
  QSettings settings;
  QStringList recent = settings.value("recent").toStringList();
  recent.removeAll(path);
  recent.prepend(path);
  while (recent.size() > most_recent) recent.removeLast();
  settings.setValue("recent", recent);
}

void MainWindow::fill_recent(QMenu* menu) {
  menu->clear();
  for (const QString& path : QSettings().value("recent").toStringList()) {
    QAction* action = menu->addAction(path);
    action->setEnabled(QFileInfo::exists(path));
    connect(action, &QAction::triggered, this, [this, path] { open(path); });
  }
  menu->setEnabled(!menu->isEmpty());
}

// ---- events
// -----------------------------------------------------------------------------------------------------------------

void MainWindow::closeEvent(QCloseEvent* event) {
  QSettings settings;
  settings.setValue("geometry", saveGeometry());
  settings.setValue("layout", saveState(layout_version));
  settings.setValue("layout_version", layout_version);
  event->accept();
}

void MainWindow::showEvent(QShowEvent* event) {
  QMainWindow::showEvent(event);
  if (!sizes_are_set_) QTimer::singleShot(0, this, &MainWindow::set_first_sizes);
}

void MainWindow::dragEnterEvent(QDragEnterEvent* event) {
  if (event->mimeData()->hasUrls()) event->acceptProposedAction();
}

void MainWindow::dropEvent(QDropEvent* event) {
  for (const QUrl& url : event->mimeData()->urls())
    if (url.isLocalFile()) open(url.toLocalFile());
  event->acceptProposedAction();
}

}  // namespace kvreplay::gui
