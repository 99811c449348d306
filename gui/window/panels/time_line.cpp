// Time line: how many tokens are evicted at each decode step, how far the output is off; scrub, step, play.
#include <QAction>
#include <QHBoxLayout>
#include <QLabel>
#include <QTimer>
#include <QToolButton>
#include <QVBoxLayout>
#include <array>
#include <cmath>

#include "gui/figure/line_chart.h"
#include "gui/model/time_line.h"
#include "gui/window/panel.h"
#include "gui/window/theme.h"
#include "gui/window/widgets/step_plot.h"

namespace kvreplay::gui {
namespace {

constexpr const char* axis = "steps";
constexpr int milliseconds_of_step = 200;

QString number(double value) {
  return std::isnan(value) ? QString("–") : QString::fromStdString(figure::number_label(value));
}

class TimeLinePanel final : public Panel {
 public:
  TimeLinePanel(Store& the_store, const PanelDescription& description)
      : Panel(the_store, description), plot_(new StepPlot(this)), reading_(new QLabel(this)), timer_(new QTimer(this)) {
    plot_->setObjectName("time_line_plot");
    reading_->setObjectName("time_line_reading");
    play_ = new QAction("Play", this);
    play_->setObjectName("time_line_play");
    play_->setCheckable(true);
    play_->setShortcut(QKeySequence("Ctrl+Space"));
    addAction(play_);
    auto* bar = new QHBoxLayout;
    for (const auto& [name, sign, tip, by] : {std::tuple{"time_line_first", "|◀", "When the prompt ended", -1000000000},
                                              std::tuple{"time_line_previous", "◀", "One step back (Ctrl+Left)", -1},
                                              std::tuple{"time_line_next", "▶", "One step on (Ctrl+Right)", 1},
                                              std::tuple{"time_line_last", "▶|", "The last step", 1000000000}}) {
      auto* button = new QToolButton(this);
      button->setObjectName(name);
      button->setText(sign);
      button->setToolTip(tip);
      button->setAutoRaise(true);
      connect(button, &QToolButton::clicked, this, [this, by = by] { move_by(by); });
      bar->addWidget(button);
    }
    auto* play = new QToolButton(this);
    play->setDefaultAction(play_);
    bar->addWidget(play);
    bar->addSpacing(8);
    bar->addWidget(reading_, 1);
    reading_->setSizePolicy(QSizePolicy::Ignored, QSizePolicy::Preferred);
    auto* content = new QWidget(this);
    auto* layout = new QVBoxLayout(content);
    layout->setContentsMargins(4, 4, 4, 4);
    layout->setSpacing(2);
    layout->addLayout(bar);
    layout->addWidget(plot_, 1);
    set_content(content);

    timer_->setInterval(milliseconds_of_step);
    connect(timer_, &QTimer::timeout, this, &TimeLinePanel::play_on);
    connect(play_, &QAction::toggled, this, &TimeLinePanel::play);
    connect(plot_, &StepPlot::step_chosen, this, [this](int step) { store().select_step(step); });
    connect(plot_, &StepPlot::hovered, this, [this](int step) {
      Focus focus = store().focus();
      focus.step = step;
      store().set_focus(focus);
    });
    connect(plot_, &StepPlot::zoomed, this, [this](double low, double high) { store().set_zoom(axis, {low, high}); });
    connect(plot_, &StepPlot::zoom_reset, this, [this] { store().reset_zoom(axis); });
  }

  std::unique_ptr<figure::Figure> figure() const override {
    const auto document = store().document();
    auto chart = std::make_unique<figure::LineChart>();
    figure::LineChart::Panel evicted{"Tokens evicted at each step", {}, figure::Axis{}};
    figure::LineChart::Panel error{"Error of each step", {}, figure::Axis{}};
    for (const Side side : {Side::a, Side::b}) {
      const auto run = store().run(side);
      if (run == nullptr || run->layer(selection().layer) == nullptr) continue;
      const TimeLine line = time_line(*run, selection().layer, selection().heads);
      figure::Series counts, errors;
      counts.name = errors.name = run->label;
      counts.style = errors.style = side == Side::a ? 0 : 1;
      for (int step = 0; step <= run->steps; ++step) {
        counts.x.push_back(step);
        counts.y.push_back(static_cast<double>(line.evicted[static_cast<std::size_t>(step)]));
        if (step == 0) continue;
        errors.x.push_back(step);
        errors.y.push_back(line.error[static_cast<std::size_t>(step)]);
      }
      evicted.series.push_back(std::move(counts));
      error.series.push_back(std::move(errors));
    }
    if (evicted.series.empty() || document == nullptr) return nullptr;
    chart->title = "Evictions and error by decode step";
    chart->subtitle = "layer " + std::to_string(document->layer_number(selection().layer)) + ", " + heads_text();
    chart->x.label = "decode step (0: when the prompt ended)";
    chart->x.integers = true;
    evicted.y->label = "tokens";
    evicted.y->integers = true;
    error.y->label = "relative error of the output";
    chart->panels = {std::move(evicted), std::move(error)};
    return chart;
  }

 protected:
  void refresh(Changes what) override {
    const auto run = run_or_message(Side::a);
    if (run == nullptr) return;
    if (what & (Change::runs | Change::selection | Change::files | Change::theme | Change::specs)) show_runs(*run);
    if (what & (Change::zoom | Change::files)) {
      const Interval all{-0.5, run->steps + 0.5};
      plot_->show_visible(store().zoom(axis, all));
    }
    plot_->show_step(selection().step);
    plot_->show_hover(store().focus().step);
    show_reading();
  }

 private:
  std::string heads_text() const {
    if (selection().heads.empty()) return "all heads";
    std::string text = selection().heads.size() == 1 ? "query head" : "query heads";
    for (const int head : selection().heads) text += " " + std::to_string(head);
    return text;
  }

  // Of the layer and heads on screen; counted anew only where it is another layer's or has new values, not at every step.
  const TimeLine& line_of(Side side, const Run& run) {
    Counted& counted = counted_[side == Side::a ? 0 : 1];
    auto layer = run.layer(selection().layer);
    if (counted.layer != layer || counted.heads != selection().heads)
      counted = {std::move(layer), selection().heads, time_line(run, selection().layer, selection().heads)};
    return counted.line;
  }

  void show_runs(const Run& a) {
    lines_.clear();
    std::vector<StepPlot::Series> series;
    for (const Side side : {Side::a, Side::b}) {
      const auto run = store().run(side);
      if (run == nullptr || run->layer(selection().layer) == nullptr || run->steps != a.steps) continue;
      const TimeLine& line = line_of(side, *run);
      const bool is_a = side == Side::a;
      series.push_back({is_a ? "A" : "B", is_a ? run_color_a() : run_color_b(), !is_a, line.evicted, line.error});
      lines_.emplace_back(is_a ? "A" : "B", line);
    }
    const QString heads = QString::fromStdString(heads_text());
    plot_->show_series(std::move(series), a.steps, "tokens evicted, " + heads, "error of the output, " + heads);
  }

  void show_reading() {
    const int shown = store().focus().step >= 0 ? store().focus().step : selection().step;
    QString text =
        shown == 0 ? QString("Prompt ended") : QString("Step %1 of %2").arg(shown).arg(store().document()->num_steps());
    for (const auto& [name, line] : lines_) {
      if (shown >= static_cast<int>(line.evicted.size())) continue;
      text += QString("   %1: %2 evicted").arg(name).arg(line.evicted[static_cast<std::size_t>(shown)]);
      if (shown > 0) text += ", error " + number(line.error[static_cast<std::size_t>(shown)]);
    }
    reading_->setText(text);
    reading_->setToolTip(text);
  }

  void move_by(int by) {
    const int steps = store().document() != nullptr ? store().document()->num_steps() : 0;
    store().select_step(std::clamp<int>(
        static_cast<int>(std::clamp<std::int64_t>(std::int64_t{selection().step} + by, 0, steps)), 0, steps));
  }

  void play(bool on) {
    play_->setText(on ? "Pause" : "Play");
    if (!on) return timer_->stop();
    if (store().document() != nullptr && selection().step >= store().document()->num_steps()) store().select_step(0);
    timer_->start();
  }

  void play_on() {
    const auto document = store().document();
    if (document == nullptr || selection().step >= document->num_steps()) return play_->setChecked(false);
    store().select_step(selection().step + 1);
  }

  struct Counted {
    std::shared_ptr<const RunLayer> layer;  // kept: another one never has its address
    std::vector<int> heads;
    TimeLine line;
  };

  StepPlot* plot_;
  QLabel* reading_;
  QTimer* timer_;
  QAction* play_;
  std::array<Counted, 2> counted_;  // of A and of B
  std::vector<std::pair<QString, TimeLine>> lines_;
};

}  // namespace

const PanelDescription& time_line_panel() {
  static const PanelDescription description = {
      .name = "time_line",
      .title = "Time line",
      .question = "When are tokens evicted, and how does the error grow from step to step?",
      .area = PanelArea::bottom,
      .shown = true,
      .make = [](Store& store) -> Panel* { return new TimeLinePanel(store, time_line_panel()); },
  };
  return description;
}

}  // namespace kvreplay::gui
