// Runs: what is loaded, with what is wrong with it and where it came from; which runs are A and B.
#include <QHBoxLayout>
#include <QHeaderView>
#include <QLabel>
#include <QMenu>
#include <QPushButton>
#include <QSignalBlocker>
#include <QTreeWidget>
#include <QVBoxLayout>
#include <cmath>

#include "core/base/text.h"
#include "gui/figure/axis.h"
#include "gui/window/panel.h"
#include "gui/window/theme.h"

namespace kvreplay::gui {
namespace {

enum Column { name_column, a_column, b_column, error_column, cache_column, num_columns };
constexpr int id_role = Qt::UserRole, is_file_role = Qt::UserRole + 1;

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

QString value_of(const RunInfo& info, const char* key) {
  const auto found = info.summary.find(key);
  return found == info.summary.end() ? QString("–") : text(figure::number_label(found->second));
}

// Key and value in two columns; what is empty is left out.
QString facts(const std::vector<std::pair<QString, QString>>& rows) {
  QString html = "<table>";
  for (const auto& [key, value] : rows)
    if (!value.isEmpty())
      html += "<tr><td style='padding-right:10px;color:" + current_style().muted.name() + "'>" + key + "</td><td>" +
              value.toHtmlEscaped() + "</td></tr>";
  return html + "</table>";
}

class RunsPanel final : public Panel {
 public:
  RunsPanel(Store& the_store, const PanelDescription& description)
      : Panel(the_store, description), tree_(new QTreeWidget(this)), details_(new QLabel(this)) {
    tree_->setObjectName("runs_tree");
    tree_->setHeaderLabels({"Run", "A", "B", "Error", "Cache"});
    tree_->setRootIsDecorated(false);
    tree_->setIndentation(12);
    tree_->setContextMenuPolicy(Qt::CustomContextMenu);
    tree_->header()->setStretchLastSection(false);
    tree_->header()->setSectionResizeMode(name_column, QHeaderView::Stretch);
    for (const int column : {a_column, b_column}) {
      tree_->header()->setSectionResizeMode(column, QHeaderView::Fixed);
      tree_->header()->resizeSection(column, 26);
    }
    for (const int column : {error_column, cache_column})
      tree_->header()->setSectionResizeMode(column, QHeaderView::ResizeToContents);
    tree_->headerItem()->setToolTip(a_column, "Click here in a run's line to make it run A");
    tree_->headerItem()->setToolTip(b_column, "Click here in a run's line to make it run B");
    tree_->headerItem()->setToolTip(error_column, "Mean relative error of the layers' outputs (output_error)");
    tree_->headerItem()->setToolTip(cache_column, "What the cache keeps when the prompt ends");
    details_->setObjectName("runs_details");
    details_->setWordWrap(true);
    details_->setTextFormat(Qt::RichText);
    details_->setAlignment(Qt::AlignTop | Qt::AlignLeft);
    details_->setTextInteractionFlags(Qt::TextSelectableByMouse);

    auto* content = new QWidget(this);
    auto* layout = new QVBoxLayout(content);
    layout->setContentsMargins(6, 6, 6, 6);
    layout->addLayout(make_buttons());
    layout->addWidget(tree_, 1);
    layout->addWidget(details_);
    set_content(content);

    connect(tree_, &QTreeWidget::itemClicked, this, &RunsPanel::click);
    connect(tree_, &QTreeWidget::currentItemChanged, this, [this] { show_details(); });
    connect(tree_, &QTreeWidget::customContextMenuRequested, this, &RunsPanel::show_menu);
  }

  figure::Table table() const override {
    figure::Table table{{"run", "policy", "budget", "tokens", "output_error", "cache_bytes", "trace"}, {}};
    for (const RunSpec& spec : store().state().runs) {
      const auto run = store().run(spec.id);
      if (run == nullptr) continue;
      const auto error = run->info.summary.find("output_error");
      table.rows.push_back({run->label, run->info.policy, run->info.budget_text, std::to_string(run->info.budget),
                            error == run->info.summary.end() ? "" : format_number(error->second),
                            std::to_string(run->info.cache_bytes), run->info.trace});
    }
    return table;
  }

 protected:
  void refresh(Changes what) override {
    if (!(what & (Change::files | Change::specs | Change::runs | Change::selection | Change::theme))) return;
    fill();
    show_details();
  }

 private:
  QHBoxLayout* make_buttons() {
    auto* layout = new QHBoxLayout;
    const auto add = [&](const QString& label, const QString& tip, const QString& name) {
      auto* button = new QPushButton(label, this);
      button->setObjectName("runs_" + name);
      button->setToolTip(tip);
      layout->addWidget(button);
      return button;
    };
    connect(add("Open …", "A trace, results or a session; dropping files here works, too", "open"), &QPushButton::clicked,
            this, [this] { emit command("open"); });
    connect(add("New run", "A copy of run A, to change in Controls", "new"), &QPushButton::clicked, this,
            [this] { add_run(); });
    connect(add("Save …", "Files, runs and selection as a session", "save"), &QPushButton::clicked, this,
            [this] { emit command("save_session"); });
    layout->addStretch(1);
    return layout;
  }

  // A copy of run A becomes run B, so that changing it can be compared at once.
  void add_run() {
    const auto document = store().document();
    if (document == nullptr) return;
    RunSpec spec;
    if (const RunSpec* a = store().spec(Side::a); a != nullptr && a->source == RunSpec::Source::live) {
      spec = *a;
    } else {
      for (const FileEntry& file : store().state().files)
        if (store().document(file.id) == document) spec.trace = file.id;
      spec.policy = "snapkv";
      spec.budget = "10%";
    }
    const int id = store().add_run(spec);
    store().select_run(store().spec(Side::a) == nullptr ? Side::a : Side::b, id);
  }

  void fill() {
    const QSignalBlocker blocker(tree_);
    const auto current = tree_->currentItem() != nullptr ? tree_->currentItem()->data(0, id_role) : QVariant();
    tree_->clear();
    for (const FileEntry& file : store().state().files) {
      auto* item = new QTreeWidgetItem(tree_);
      item->setText(name_column, text(file.path).section('/', -1));
      item->setToolTip(name_column, text(file.path));
      item->setData(0, id_role, file.id);
      item->setData(0, is_file_role, true);
      QFont font = item->font(0);
      font.setBold(true);
      item->setFont(0, font);
      item->setFirstColumnSpanned(true);
      if (!store().file_problem(file.id).empty())
        item->setText(name_column, QString(QChar(0x26a0)) + " " + item->text(name_column));
      else if (file.kind == FileEntry::Kind::trace && store().document(file.id) == nullptr)
        item->setText(name_column, item->text(name_column) + " (opening …)");
      for (const RunSpec& run : store().state().runs)
        if ((run.source == RunSpec::Source::live ? run.trace : run.results) == file.id) add_line(item, run);
      item->setExpanded(true);
      if (current == QVariant(file.id)) tree_->setCurrentItem(item);
    }
    for (QTreeWidgetItemIterator each(tree_); *each != nullptr; ++each)
      if (current.isValid() && (*each)->data(0, id_role) == current) tree_->setCurrentItem(*each);
  }

  void add_line(QTreeWidgetItem* parent, const RunSpec& spec) {
    auto* item = new QTreeWidgetItem(parent);
    item->setData(0, id_role, spec.id);
    const auto run = store().run(spec.id);
    const QString label = run != nullptr ? text(run->label) : text(spec.policy + " · " + spec.budget);
    item->setText(name_column, label);
    item->setToolTip(name_column, label);
    const QString filled(QChar(0x25cf)), empty(QChar(0x25cb));
    item->setText(a_column, selection().run_a == spec.id ? filled : empty);
    item->setText(b_column, selection().run_b == spec.id ? filled : empty);
    item->setForeground(a_column, selection().run_a == spec.id ? run_color_a() : style_now().muted);
    item->setForeground(b_column, selection().run_b == spec.id ? run_color_b() : style_now().muted);
    for (int column = a_column; column < num_columns; ++column)
      item->setTextAlignment(column, (column <= b_column ? Qt::AlignHCenter : Qt::AlignRight) | Qt::AlignVCenter);
    if (run == nullptr) return;
    if (!run->problem.empty()) {
      item->setText(name_column, QString(QChar(0x26a0)) + " " + label);
      item->setToolTip(name_column, text(run->problem));
      return;
    }
    const bool known = run->complete || !run->info.summary.empty();
    item->setText(error_column, known ? value_of(run->info, "output_error") : QString("…"));
    item->setText(cache_column, known ? text(format_bytes(static_cast<double>(run->info.cache_bytes))) : QString("…"));
  }

  void click(QTreeWidgetItem* item, int column) {
    if (item->data(0, is_file_role).toBool() || (column != a_column && column != b_column)) return;
    const Side side = column == a_column ? Side::a : Side::b;
    const int id = item->data(0, id_role).toInt(), chosen = side == Side::a ? selection().run_a : selection().run_b;
    // A second click on B leaves A alone on screen.
    store().select_run(side, chosen == id && side == Side::b ? -1 : id);
  }

  void show_menu(const QPoint& at) {
    QTreeWidgetItem* item = tree_->itemAt(at);
    if (item == nullptr) return;
    const int id = item->data(0, id_role).toInt();
    QMenu menu;
    if (item->data(0, is_file_role).toBool()) {
      menu.addAction("Read again", this, [this, id] { store().request_reload(id); });
      menu.addAction("Close", this, [this, id] { store().request_close(id); });
    } else {
      menu.addAction("Make it run A", this, [this, id] { store().select_run(Side::a, id); });
      menu.addAction("Make it run B", this, [this, id] { store().select_run(Side::b, id); });
      menu.addAction("Remove", this, [this, id] { store().remove_run(id); });
    }
    menu.exec(tree_->viewport()->mapToGlobal(at));
  }

  // ---- what is known of the current line ---------------------------------------------------------------------------------

  void show_details() {
    const QTreeWidgetItem* item = tree_->currentItem();
    const int id = item != nullptr ? item->data(0, id_role).toInt() : -1;
    if (item == nullptr)
      details_->setText(store().state().files.empty() ? QString("No file is open. Drop one here, or press Ctrl+O.")
                                                      : QString());
    else if (item->data(0, is_file_role).toBool())
      details_->setText(details_of_file(id));
    else
      details_->setText(details_of_run(id));
  }

  QString details_of_file(int id) const {
    const FileEntry* file = store().state().file(id);
    if (file == nullptr) return {};
    if (const std::string problem = store().file_problem(id); !problem.empty())
      return "<b>" + text(problem).toHtmlEscaped() + "</b><p>Right-click the file to read it again or to close it.</p>";
    const auto document = store().document(id);
    if (document == nullptr) return facts({{"file", text(file->path)}});
    const ModelInfo& model = document->model();
    QString html = facts({{"file", text(file->path)},
                          {"identity", text(document->identity()).left(20) + " …"},
                          {"model", text(model.name)},
                          {"layers", QString("%1, %2 query and %3 KV heads of %4")
                                         .arg(document->num_layers())
                                         .arg(model.num_query_heads)
                                         .arg(model.num_kv_heads)
                                         .arg(model.head_dim)},
                          {"tokens", text(figure::number_label(static_cast<double>(document->prompt_length()), 9)) + " + " +
                                         QString::number(document->num_steps()) + " generated"}});
    for (const HealthNote& note : document->health())
      html += "<p>" + QString(note.level == HealthNote::Level::warning ? QChar(0x26a0) : QChar(0x2022)) + " " +
              text(note.text + " " + note.remedy).toHtmlEscaped() + "</p>";
    return html;
  }

  QString details_of_run(int id) const {
    const RunSpec* spec = store().state().run(id);
    const auto run = store().run(id);
    if (spec == nullptr) return {};
    if (run == nullptr) return "not evaluated: nobody looks at it";
    if (!run->problem.empty()) return "<b>" + text(run->problem).toHtmlEscaped() + "</b>";
    const RunInfo& info = run->info;
    QString html =
        facts({{"policy", text(info.policy).replace(",", ", ")},
               {"budget", text(info.budget_text) + " = " + QString::number(info.budget) + " tokens a stored head"},
               {"sets per", text(info.granularity)},
               {"output error", value_of(info, "output_error")},
               {"evicted mass", value_of(info, "evicted_mass")},
               {"kept", text(info.kept_sha256).left(16)}});
    for (const std::string& note : run->notes)
      html += "<p>" + QString(QChar(0x2022)) + " " + text(note).toHtmlEscaped() + "</p>";
    return html;
  }

  QTreeWidget* tree_;
  QLabel* details_;
};

}  // namespace

const PanelDescription& runs_panel() {
  static const PanelDescription description = {
      .name = "runs",
      .title = "Runs",
      .question = "What is loaded, where does it come from, and which two runs are compared?",
      .area = PanelArea::left,
      .shown = true,
      .make = [](Store& store) -> Panel* { return new RunsPanel(store, runs_panel()); },
  };
  return description;
}

}  // namespace kvreplay::gui
