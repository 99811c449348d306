// Head grid: layer × head, a number or a small map each: which head breaks.
#include <QHBoxLayout>
#include <QPushButton>
#include <QVBoxLayout>
#include <algorithm>
#include <cmath>

#include "core/base/text.h"
#include "gui/figure/axis.h"
#include "gui/model/background.h"
#include "gui/model/head_values.h"
#include "gui/window/panel.h"
#include "gui/window/theme.h"
#include "gui/window/widgets/choice.h"
#include "gui/window/widgets/head_grid_view.h"
#include "gui/window/widgets/readout.h"

namespace kvreplay::gui {
namespace {

constexpr int stretches = 48;  // of the text, in a head's small map

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

QString signed_number(float value, int digits = 3) {
  if (std::isnan(value)) return "–";
  return text(figure::number_label(value, digits)).replace('-', QChar(0x2212));
}

class HeadGridPanel final : public Panel {
 public:
  HeadGridPanel(Store& the_store, const PanelDescription& description)
      : Panel(the_store, description),
        view_(new HeadGridView(this)),
        readout_(new Readout("head_grid_readout", this)),
        quantity_(new Choice("head_grid_quantity", "What is shown of each head", {}, this)),
        runs_(new Choice("head_grid_runs", "Which run", {{"a", "A"}, {"b", "B"}, {"difference", "B − A"}}, this)),
        when_(new Choice("head_grid_when", "Which decode steps", {{"mean", "Mean of steps"}, {"step", "Step on screen"}},
                         this)),
        worst_(new QPushButton("Worst", this)) {
    view_->setObjectName("head_grid_view");
    view_->setAccessibleName("Head grid");
    worst_->setObjectName("head_grid_worst");
    worst_->setToolTip("Select the head that is farthest to the bad side; its cell has a corner cut off");

    auto* content = new QWidget(this);
    auto* layout = new QVBoxLayout(content);
    layout->setContentsMargins(0, 4, 0, 0);
    layout->setSpacing(2);
    auto* bar = new QHBoxLayout;
    bar->setContentsMargins(8, 0, 8, 0);
    for (QWidget* widget : std::initializer_list<QWidget*>{quantity_, runs_, when_, worst_}) bar->addWidget(widget);
    bar->addStretch(1);
    layout->addLayout(bar);
    layout->addWidget(view_, 1);
    layout->addWidget(readout_);
    set_content(content);
    setFocusProxy(view_);

    connect(quantity_, &Choice::chosen, this, [this](const std::string& value) { set_setting("quantity", value); });
    connect(runs_, &Choice::chosen, this, [this](const std::string& value) { set_setting("runs", value); });
    connect(when_, &Choice::chosen, this, [this](const std::string& value) { set_setting("when", value); });
    connect(worst_, &QPushButton::clicked, this, [this] {
      if (const auto& worst = view_->grid().worst) select(worst->row, worst->column, {});
    });
    connect(view_, &HeadGridView::clicked, this, &HeadGridPanel::select);
    connect(view_, &HeadGridView::row_clicked, this, [this](int layer) {
      Selection next = selection();
      next.layer = layer;
      next.heads.clear();
      store().set_selection(std::move(next));
    });
    connect(view_, &HeadGridView::hovered, this, [this](int layer, int head) {
      Focus focus;
      focus.layer = layer;
      focus.head = head;
      store().set_focus(focus);
      show_readout();
    });
  }

  std::unique_ptr<figure::Figure> figure() const override;

 protected:
  void refresh(Changes what) override {
    const std::string runs = setting("runs", "a");
    const auto first = run_or_message(runs == "b" ? Side::b : Side::a);
    if (first == nullptr) return;
    const auto second = runs == "difference" ? run_or_message(Side::b) : first;
    if (second == nullptr) return;
    show_settings(*first);
    if (what & Change::theme) show_shown();
    if (what & ~Changes(Change::focus | Change::zoom)) ask(first, second, runs == "difference");
    view_->set_selected(selection().layer, selection().heads);
    const Focus& focus = store().focus();
    view_->set_focus_cell(focus.head >= 0 && focus.layer >= 0 ? std::optional<HeadGrid::Place>({focus.layer, focus.head})
                                                              : std::nullopt);
    show_readout();
  }

 private:
  bool shows_maps() const { return quantity() == "maps"; }
  std::string quantity() const { return setting("quantity", "head_output_error"); }

  void show_settings(const Run& run) {
    std::vector<Choice::Option> options;
    for (const std::string& name : head_quantities(run)) {
      const MetricInfo& info = head_quantity(name);
      options.push_back({name, text(info.title), text(info.doc)});
    }
    options.push_back({"maps", "What it keeps (maps)", "The share of tokens that the head keeps, along the text"});
    quantity_->set_options(options);
    quantity_->show_value(quantity());
    runs_->show_value(setting("runs", "a"));
    when_->show_value(setting("when", "mean"));
    when_->setEnabled(!shows_maps());
    worst_->setEnabled(view_->grid().worst.has_value());
  }

  // 0 means the mean over steps, but for counts and maps, which are as of a step.
  int step() const {
    if (shows_maps() || quantity() == kept_count_name) return selection().step;
    return setting("when", "mean") == "step" ? std::max(1, selection().step) : 0;
  }

  // What the numbers are computed from: the same question has the same answer. Layers are kept, so that another one never
  // has the address of one of these.
  struct Question {
    std::shared_ptr<const Document> document;
    std::string quantity;
    int step = 0;
    bool difference = false;
    std::vector<std::shared_ptr<const void>> of_first, of_second;  // by layer: evictions, or with them what was measured
    bool operator==(const Question&) const = default;
  };
  struct Shown {
    Question question;
    std::shared_ptr<const Tensor<float, 3>> values;  // [layers, query heads, 1 or stretches]
  };

  Question question_of(const Run& first, const Run& second, bool difference) const {
    Question question{store().document(), quantity(), step(), difference, {}, {}};
    const bool kept_only = shows_maps() || quantity() == kept_count_name;
    const auto put = [&](const Run& run, std::vector<std::shared_ptr<const void>>& parts) {
      for (const auto& layer : run.layers)
        if (kept_only && layer != nullptr)
          parts.emplace_back(layer->evictions);
        else
          parts.emplace_back(layer);
    };
    put(second, question.of_second);
    if (difference) put(first, question.of_first);
    return question;
  }

  static Tensor<float, 3> numbers_of(const Run& run, const Question& question) {
    if (question.quantity == "maps") return head_maps(run, question.step, stretches);
    const Tensor<float, 2> values = head_values(run, question.quantity, question.step);
    Tensor<float, 3> numbers({values.dim(0), values.dim(1), 1});
    std::copy_n(values.data(), values.size(), numbers.data());
    return numbers;
  }

  // In the background; what is on screen stays until the answer is there. While values of the same question come in, one
  // answer is waited for before the next is asked for: else none would ever arrive.
  void ask(const std::shared_ptr<const Run>& first, const std::shared_ptr<const Run>& second, bool difference) {
    Question question = question_of(*first, *second, difference);
    if (question == asked_) return;
    const bool more_of_same = question.document == asked_.document && question.quantity == asked_.quantity &&
                              question.step == asked_.step && question.difference == asked_.difference;
    if (more_of_same && background_.is_busy(this)) return;
    asked_ = question;
    setProperty("busy", true);  // for tests and pictures, which wait
    background_.ask<Tensor<float, 3>>(
        this,
        [first, second, question] {
          Tensor<float, 3> numbers = numbers_of(*second, question);
          if (!question.difference) return numbers;
          const Tensor<float, 3> subtracted = numbers_of(*first, question);
          for (std::int64_t i = 0; i < numbers.size(); ++i) numbers.data()[i] -= subtracted.data()[i];
          return numbers;
        },
        [this, question](const std::shared_ptr<const Tensor<float, 3>>& numbers, const std::string& problem) {
          setProperty("busy", false);
          if (numbers == nullptr) return show_message(text(problem));
          shown_ = {question, numbers};
          show_shown();
          refresh(Change::runs);  // asks again where more has come meanwhile
        });
  }

  void show_shown() {
    if (shown_.values == nullptr) return;
    HeadGrid grid = empty_grid();
    grid.values.assign(shown_.values->data(), shown_.values->data() + shown_.values->size());
    if (shown_.question.quantity == "maps")
      describe_maps(grid);
    else
      describe_values(grid);
    show_grid(std::move(grid));
  }

  void describe_values(HeadGrid& grid) const {
    const MetricInfo& info = head_quantity(shown_.question.quantity);
    const bool difference = shown_.question.difference;
    Tensor<float, 2> values({grid.rows, grid.columns});
    std::copy(grid.values.begin(), grid.values.end(), values.data());
    if (const auto worst = worst_head(values, info, difference)) grid.worst = {worst->layer, worst->head};
    grid.scale.label = info.title + (info.unit.empty() ? "" : " (" + info.unit + ")") + (difference ? ", B − A" : "");
    grid.scale.missing_label = "";
    float low = 0, high = 0;
    for (const float value : grid.values) {
      if (std::isnan(value)) grid.scale.missing_label = "not measured yet";
      low = value < low ? value : low;
      high = value > high ? value : high;
    }
    if (difference) low = -(high = std::max(-low, high));
    grid.scale.map = difference ? figure::ColorMap::diverging : figure::ColorMap::viridis;
    grid.scale.low = low;
    grid.scale.high = high > low ? high : low + 1;
    grid.number = [](float value) { return signed_number(value, 2); };
  }

  void describe_maps(HeadGrid& grid) const {
    const bool difference = shown_.question.difference;
    grid.map_size = stretches;
    grid.scale.label = difference ? "share kept by B minus that of A, along the text" : "share kept, along the text";
    grid.scale.map = difference ? figure::ColorMap::diverging : figure::ColorMap::cividis;
    grid.scale.reversed = !difference && !style_now().dark;
    grid.scale.low = difference ? -1 : 0;
    const bool missing = std::any_of(grid.values.begin(), grid.values.end(), [](float one) { return std::isnan(one); });
    grid.scale.missing_label = missing ? "not evaluated yet" : "";
  }

  HeadGrid empty_grid() const {
    HeadGrid grid;
    grid.rows = static_cast<int>(shown_.values->dim(0));
    grid.columns = static_cast<int>(shown_.values->dim(1));
    grid.row_label = "layer";
    grid.column_label = "query head";
    grid.row_name = [document = shown_.question.document](int layer) {
      return QString::number(document->layer_number(layer));
    };
    return grid;
  }

  void show_grid(HeadGrid grid) {
    worst_->setEnabled(grid.worst.has_value());
    view_->set_grid(std::move(grid));
    show_readout();
  }

  void select(int layer, int head, Qt::KeyboardModifiers modifiers) {
    Selection next = selection();
    const bool add = (modifiers & Qt::ControlModifier) != 0 && layer == next.layer;
    const auto found = std::find(next.heads.begin(), next.heads.end(), head);
    if (!add)
      next.heads = {head};
    else if (found != next.heads.end())
      next.heads.erase(found);
    else
      next.heads.push_back(head);
    next.layer = layer;
    store().set_selection(std::move(next));
  }

  QString when_text() const {
    if (shows_maps() || quantity() == kept_count_name)
      return selection().step == 0 ? QString("when the prompt ended") : QString("after step %1").arg(selection().step);
    return step() == 0 ? QString("mean of steps") : QString("step %1").arg(step());
  }

  QString cell_text(int layer, int head) const {
    const HeadGrid& grid = view_->grid();
    const auto document = store().document();
    const int number = document != nullptr && layer < document->num_layers() ? document->layer_number(layer) : layer;
    const QString name = QString("layer %1, head %2").arg(number).arg(head);
    if (grid.map_size > 1 || layer >= grid.rows || head >= grid.columns) return name;
    return name + ": " + signed_number(grid.values[static_cast<std::size_t>(layer * grid.columns + head)], 4);
  }

  void show_readout() {
    const HeadGrid& grid = view_->grid();
    const Focus& focus = store().focus();
    QString line;
    if (focus.layer >= 0 && focus.head >= 0) line = cell_text(focus.layer, focus.head) + "  ·  ";
    line += quantity_->currentText() + ", " + when_text();
    if (grid.worst) line += "  ·  worst is " + cell_text(grid.worst->row, grid.worst->column);
    readout_->set_text(line);
    view_->setAccessibleDescription(line);
  }

  HeadGridView* view_;
  Readout* readout_;
  Choice *quantity_, *runs_, *when_;
  QPushButton* worst_;
  Question asked_;
  Shown shown_;
  Background background_;
};

std::unique_ptr<figure::Figure> HeadGridPanel::figure() const {
  const HeadGrid& grid = view_->grid();
  if (grid.rows == 0 || store().document() == nullptr) return nullptr;
  auto map = std::make_unique<figure::HeatMap>();
  map->title = quantity_->currentText().toStdString() + " by head";
  const auto a = store().run_a(), b = store().run_b();
  const std::string runs = setting("runs", "a");
  map->subtitle = (runs == "a"   ? (a ? a->label : "")
                   : runs == "b" ? (b ? b->label : "")
                                 : (b ? b->label : "") + " minus " + (a ? a->label : "")) +
                  "; " + when_text().toStdString();
  map->rows = grid.rows;
  map->columns = static_cast<std::int64_t>(grid.columns) * grid.map_size;
  map->column_group = grid.map_size;
  map->row_label = "layer", map->column_label = "query head";
  for (int layer = 0; layer < grid.rows; ++layer)
    map->row_names.push_back(grid.row_name ? grid.row_name(layer).toStdString() : std::to_string(layer));
  map->numbers = grid.map_size == 1;
  if (grid.map_size > 1) map->reduction = figure::Reduction::mean;
  std::vector<float> values = grid.values;
  put_scale(grid.scale, *map, values);
  map->panels.push_back({"", std::move(values)});
  return map;
}

}  // namespace

const PanelDescription& head_grid_panel() {
  static const PanelDescription description = {
      .name = "head_grid",
      .title = "Head grid",
      .question = "Which head of which layer breaks?",
      .area = PanelArea::side,
      .shown = true,
      .make = [](Store& store) -> Panel* { return new HeadGridPanel(store, head_grid_panel()); },
  };
  return description;
}

}  // namespace kvreplay::gui
