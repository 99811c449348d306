// Redistribution: where the attention of the query on screen went, and the two factors of the error that this makes.
#include "gui/figure/redistribution.h"

#include <QComboBox>
#include <QHBoxLayout>
#include <QHeaderView>
#include <QLabel>
#include <QScrollArea>
#include <QSignalBlocker>
#include <QTreeWidget>
#include <QVBoxLayout>

#include "core/base/text.h"
#include "gui/figure/axis.h"
#include "gui/model/layer_desk.h"
#include "gui/model/redistribution.h"
#include "gui/model/token_values.h"
#include "gui/window/panel.h"
#include "gui/window/theme.h"
#include "gui/window/widgets/figure_view.h"

namespace kvreplay::gui {
namespace {

constexpr int most_tokens = 12;
constexpr int token_role = Qt::UserRole;

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }
QString number(double value, int digits = 3) { return text(figure::number_label(value, digits)); }

struct Shown {
  std::shared_ptr<const Document> document;
  std::shared_ptr<const LayerEvictions> evictions;
  int layer = 0, step = 0;
  std::vector<int> heads;
  bool operator==(const Shown&) const = default;
};

class RedistributionPanel final : public Panel {
 public:
  RedistributionPanel(Store& the_store, const PanelDescription& description) : Panel(the_store, description) {
    auto* content = new QWidget(this);
    auto* layout = new QVBoxLayout(content);
    layout->setContentsMargins(8, 6, 0, 0);
    layout->addLayout(make_choices());
    auto* inner = new QWidget(content);
    auto* body = new QVBoxLayout(inner);
    body->setContentsMargins(0, 0, 8, 8);
    chart_view_ = new FigureView(inner);
    chart_view_->setObjectName("redistribution_chart");
    body->addWidget(chart_view_);
    heads_ = make_table({"Head", "Evicted mass", "× displacement", "= ‖o′ − o‖", "Relative error"}, "heads");
    heads_->setToolTip("The two factors of each head's error; a click chooses the head");
    body->addWidget(heads_);
    tokens_ = make_table({"Token", "Position", "Before", "After", "Change"}, "tokens");
    tokens_->setToolTip("A click selects the token");
    body->addWidget(tokens_);
    body->addStretch(1);
    auto* area = new QScrollArea(content);
    inner->setBackgroundRole(QPalette::Base);
    area->setWidget(inner);
    area->setWidgetResizable(true);
    area->setFrameShape(QFrame::NoFrame);
    area->setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    layout->addWidget(area, 1);
    set_content(content);
    connect(heads_, &QTreeWidget::itemClicked, this,
            [this](const QTreeWidgetItem* item) { store().select_heads({item->data(0, token_role).toInt()}); });
    connect(tokens_, &QTreeWidget::itemClicked, this, [this](const QTreeWidgetItem* item) {
      const std::int64_t token = item->data(0, token_role).toLongLong();
      if (token >= 0) store().select_tokens({{token, token + 1}});
    });
  }

  std::unique_ptr<figure::Figure> figure() const override {
    return chart_ != nullptr ? std::make_unique<figure::RedistributionChart>(*chart_) : nullptr;
  }

 protected:
  void refresh(Changes what) override {
    if (!(what & ~(Change::focus | Change::zoom))) return;
    if (what & (Change::views | Change::files)) take_settings();
    const auto run = run_or_message(side());
    if (run == nullptr) {
      clear();
      return;
    }
    if (store().document()->num_steps() == 0) {
      clear();
      show_message("The trace has no generated tokens, so no query misses what was evicted.", "Capture with --generate 64.");
      return;
    }
    if (what & (Change::files | Change::specs | Change::runs | Change::selection | Change::views)) ask(run);
    show();
  }

 private:
  QHBoxLayout* make_choices() {
    side_ = new QComboBox(this);
    side_->setObjectName("redistribution_side");
    side_->addItem("Run A", "a");
    side_->addItem("Run B", "b");
    about_ = new QLabel(this);
    about_->setObjectName("redistribution_about");
    about_->setWordWrap(true);
    connect(side_, &QComboBox::activated, this,
            [this] { set_setting("run", side_->currentData().toString().toStdString()); });
    auto* layout = new QHBoxLayout;
    layout->addWidget(side_);
    layout->addSpacing(8);
    layout->addWidget(about_, 1);
    return layout;
  }

  QTreeWidget* make_table(const QStringList& columns, const QString& name) {
    auto* table = new QTreeWidget(this);
    table->setObjectName("redistribution_" + name);
    table->setHeaderLabels(columns);
    table->setRootIsDecorated(false);
    table->setUniformRowHeights(true);
    table->setVerticalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    table->header()->setSectionResizeMode(QHeaderView::Stretch);
    table->header()->setStretchLastSection(false);
    for (int column = 1; column < columns.size(); ++column)
      table->headerItem()->setTextAlignment(column, Qt::AlignRight | Qt::AlignVCenter);
    return table;
  }

  // As tall as its lines: the panel scrolls, not the tables in it.
  static void fit_height(QTreeWidget* table) {
    int lines = 0;
    for (QTreeWidgetItemIterator each(table); *each != nullptr; ++each) ++lines;
    const int line = lines > 0 ? table->visualItemRect(table->topLevelItem(0)).height() : 0;
    table->setFixedHeight(table->header()->sizeHint().height() + std::max(line, table->fontMetrics().height() + 4) * lines +
                          4);
    table->setVisible(lines > 0);
  }

  void take_settings() {
    const QSignalBlocker blocker(side_);
    side_->setCurrentIndex(std::max(0, side_->findData(text(setting("run", "a")))));
  }
  Side side() const { return side_->currentIndex() == 1 ? Side::b : Side::a; }

  // ---- numbers
  // -------------------------------------------------------------------------------------------------------------

  void ask(const std::shared_ptr<const Run>& run) {
    const auto document = store().document();
    const Shown shown{document, run->layer(selection().layer)->evictions, selection().layer, selection().step,
                      selection().heads};
    if (shown == asked_) return;
    asked_ = shown;
    workshop_of(store()).background.ask<RunRedistribution>(
        this,
        [document, run, selection = selection()] { return run_redistribution(*document, *run, selection, most_tokens); },
        [this, run, document](std::shared_ptr<const RunRedistribution> answer, const std::string& problem) {
          answer_ = std::move(answer);
          problem_ = problem;
          run_ = run;
          document_ = document;
          make_chart();
          show();
        });
  }

  void clear() {
    workshop_of(store()).background.drop(this);
    asked_ = {};
    answer_.reset();
    chart_.reset();
  }

  std::string place() const {
    const auto& heads = asked_.heads;
    std::string text = "layer " + std::to_string(document_->layer_number(asked_.layer)) + ", ";
    text += heads.size() == 1 ? "query head " + std::to_string(heads.front())
            : heads.empty()   ? "mean of all " + std::to_string(document_->num_query_heads()) + " heads"
                              : "mean of " + std::to_string(heads.size()) + " heads";
    return text + ", query of step " +
           std::to_string(query_position(*document_, asked_.step) - document_->prompt_length() + 1);
  }

  std::vector<figure::RedistributionChart::Bar> bars_of(const std::vector<MovedToken>& tokens) const {
    std::vector<figure::RedistributionChart::Bar> bars;
    for (const MovedToken& token : tokens)
      bars.push_back({document_->token_text(token.token), token.before, token.after,
                      "position " + figure::number_label(static_cast<double>(token.token), 9), token.evicted >= 1});
    bars.resize(std::min<std::size_t>(bars.size(), 8));
    return bars;
  }

  void make_chart() {
    chart_.reset();
    if (answer_ == nullptr) return;
    chart_ = std::make_shared<figure::RedistributionChart>();
    chart_->title = "Where the evicted attention goes";
    chart_->subtitle = run_->label + "; " + place();
    if (answer_->heads.size() == 1) {
      const ErrorFactors& head = answer_->heads.front();
      chart_->has_factors = true;
      chart_->factors = {head.evicted_mass, head.value_displacement, head.output_norm, head.relative};
    }
    std::vector<figure::RedistributionChart::Bar> regions;
    for (std::size_t region = 0; region < num_regions; ++region)
      regions.push_back({region_names[region], answer_->before[region], answer_->after[region]});
    chart_->sections.push_back({"Attention by region", regions});
    if (!answer_->receivers.empty())
      chart_->sections.push_back({"Kept tokens that receive most", bars_of(answer_->receivers)});
    if (!answer_->lost.empty()) chart_->sections.push_back({"Evicted tokens that lose most", bars_of(answer_->lost)});
  }

  // ---- on screen
  // -----------------------------------------------------------------------------------------------------------

  void show() {
    if (!problem_.empty()) {
      show_message(text(problem_));
      return;
    }
    if (answer_ == nullptr) return;
    show_content();
    QString about = text(place());
    if (answer_->evicted == 0)
      about += ": nothing that it sees was evicted";
    else
      about += ": " + number(answer_->evicted_mass() * 100) + " % of its attention was on evicted tokens, error " +
               number(answer_->relative() * 100) + " %";
    about_->setText(about);
    about_->setToolTip(about);
    chart_view_->show(chart_);
    fill_heads();
    fill_tokens();
  }

  static void set_numbers(QTreeWidgetItem* item, const QStringList& values) {
    for (int column = 0; column < values.size(); ++column) {
      item->setText(column + 1, values[column]);
      item->setTextAlignment(column + 1, Qt::AlignRight | Qt::AlignVCenter);
    }
  }

  void fill_heads() {
    heads_->clear();
    for (const ErrorFactors& head : answer_->heads) {
      auto* item = new QTreeWidgetItem(heads_);
      item->setText(0, "head " + QString::number(head.head));
      item->setData(0, token_role, head.head);
      set_numbers(item, {number(head.evicted_mass), number(head.value_displacement), number(head.difference),
                         number(head.relative * 100) + " %"});
    }
    fit_height(heads_);
  }

  void fill_tokens() {
    tokens_->clear();
    const auto group = [&](const QString& name, const std::vector<MovedToken>& tokens) {
      if (tokens.empty()) return;
      auto* title = new QTreeWidgetItem(tokens_);
      title->setText(0, name);
      title->setData(0, token_role, -1);
      title->setFlags(Qt::ItemIsEnabled);
      title->setFirstColumnSpanned(true);
      title->setForeground(0, style_now().muted);
      for (const MovedToken& token : tokens) {
        auto* item = new QTreeWidgetItem(tokens_);
        item->setText(0, token_text(*document_, token.token));
        item->setData(0, token_role, static_cast<qlonglong>(token.token));
        const double change = token.after - token.before;
        set_numbers(item, {number(static_cast<double>(token.token), 9), number(token.before), number(token.after),
                           QString::fromUtf8(change < 0 ? "−" : "+") + number(std::abs(change))});
        const bool chosen = std::any_of(selection().tokens.begin(), selection().tokens.end(),
                                        [&](const TokenRange& range) { return range.contains(token.token); });
        item->setSelected(chosen);
      }
    };
    group("Kept tokens that receive most", answer_->receivers);
    group("Evicted tokens that lose most", answer_->lost);
    fit_height(tokens_);
  }

  QComboBox* side_ = nullptr;
  QLabel* about_ = nullptr;
  FigureView* chart_view_ = nullptr;
  QTreeWidget *heads_ = nullptr, *tokens_ = nullptr;

  Shown asked_;
  std::shared_ptr<const RunRedistribution> answer_;
  std::string problem_;
  std::shared_ptr<const Run> run_;
  std::shared_ptr<const Document> document_;
  std::shared_ptr<figure::RedistributionChart> chart_;
};

}  // namespace

const PanelDescription& redistribution_panel() {
  static const PanelDescription description = {
      .name = "redistribution",
      .title = "Redistribution",
      .question = "Where did the attention to evicted tokens go, and how far does that move the output?",
      .area = PanelArea::side,
      .shown = true,
      .make = [](Store& store) -> Panel* { return new RedistributionPanel(store, redistribution_panel()); },
  };
  return description;
}

}  // namespace kvreplay::gui
