// Curves: error against budget, by layer, by step; policies side by side with the bound that hindsight gives.
#include <QHBoxLayout>
#include <QLabel>
#include <QPushButton>
#include <QVBoxLayout>
#include <algorithm>
#include <cmath>
#include <set>

#include "core/report/metric_info.h"
#include "core/report/policy_label.h"
#include "gui/figure/line_chart.h"
#include "gui/model/budget_sweep.h"
#include "gui/model/curves.h"
#include "gui/window/panel.h"
#include "gui/window/theme.h"
#include "gui/window/widgets/choice.h"
#include "gui/window/widgets/figure_view.h"

namespace kvreplay::gui {
namespace {

const std::vector<std::string> sweep_budgets = {"80%", "40%", "20%", "10%", "5%", "2.5%"};
constexpr const char* bound_policy = "oracle_attention";

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

class CurvesPanel final : public Panel {
 public:
  CurvesPanel(Store& the_store, const PanelDescription& description) : Panel(the_store, description) {
    auto* content = new QWidget(this);
    auto* layout = new QVBoxLayout(content);
    layout->setContentsMargins(8, 6, 8, 6);
    layout->addLayout(make_choices());
    about_ = new QLabel(content);
    about_->setObjectName("curves_about");
    about_->setWordWrap(true);
    layout->addWidget(about_);
    chart_view_ = new FigureView(content);
    chart_view_->setObjectName("curves_chart");
    chart_view_->set_filling(true);
    chart_view_->setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Expanding);
    layout->addWidget(chart_view_, 1);
    set_content(content);
    connect(&sweep_, &BudgetSweep::point, this, [this](const RunInfo& info) {
      swept_.push_back(info);
      show();
    });
    connect(&sweep_, &BudgetSweep::progressed, this, &CurvesPanel::show_progress);
  }

  std::unique_ptr<figure::Figure> figure() const override {
    return chart_ != nullptr ? std::make_unique<figure::LineChart>(*chart_) : nullptr;
  }

 protected:
  void refresh(Changes what) override {
    if (!(what & ~(Change::focus | Change::zoom))) return;
    if (document_or_message() == nullptr) {
      sweep_.stop();
      swept_.clear();
      chart_.reset();
      return;
    }
    if (swept_document_ != store().document()) {
      sweep_.stop();
      swept_.clear();
      swept_document_ = store().document();
    }
    axis_->show_value(setting("against", "budget"));
    fill_metrics();
    show();
  }

 private:
  QHBoxLayout* make_choices() {
    axis_ = new Choice("curves_axis", "What the lines run over",
                       {{"budget", "Against budget", "One line a policy, over every run that there is"},
                        {"layer", "By layer", "One line a run, mean over heads and steps"},
                        {"step", "By step", "One line a run, in the layer on screen"}},
                       this);
    metric_ = new Choice("curves_metric", "What is measured", {}, this);
    connect(axis_, &Choice::chosen, this, [this](const std::string& value) { set_setting("against", value); });
    connect(metric_, &Choice::chosen, this, [this](const std::string& value) { set_setting("metric", value); });
    sweep_button_ = new QPushButton("Sweep budgets", this);
    sweep_button_->setObjectName("curves_sweep");
    sweep_button_->setToolTip("Evaluates the policies of A and B, and the bound that hindsight gives, at " +
                              QString::number(sweep_budgets.size()) + " budgets from 2.5 % to 80 %");
    connect(sweep_button_, &QPushButton::clicked, this, &CurvesPanel::toggle_sweep);
    auto* layout = new QHBoxLayout;
    layout->addWidget(axis_);
    layout->addWidget(metric_);
    layout->addStretch(1);
    layout->addWidget(sweep_button_);
    return layout;
  }

  // ---- what there is
  // ---------------------------------------------------------------------------------------------------------

  std::string metric() const { return setting("metric", "output_error"); }

  // Of what is summarised or measured, without those that have a value for each region.
  void fill_metrics() {
    std::set<std::string> names;
    for (const auto& run : runs())
      for (const std::string& name : run->metric_names()) names.insert(name);
    for (const RunInfo& info : infos())
      for (const auto& [name, value] : info.summary) names.insert(name);
    std::vector<Choice::Option> options;
    for (const std::string& name : metric_order()) {
      const MetricInfo& info = metric_info(name);
      if (names.count(name) == 0 || std::find(info.axes.begin(), info.axes.end(), "region") != info.axes.end()) continue;
      options.push_back({name, text(info.title), text(info.doc)});
    }
    if (options.empty()) options.push_back({"output_error", text(metric_info("output_error").title)});
    metric_->set_options(options);
    metric_->show_value(metric());
  }

  // A and B first, then every other that is complete, all of the trace on screen: lines over its layers and steps.
  std::vector<std::shared_ptr<const Run>> runs() const {
    std::vector<std::shared_ptr<const Run>> list;
    for (const Side side : {Side::a, Side::b})
      if (auto run = store().run(side); run != nullptr && run->problem.empty()) list.push_back(std::move(run));
    for (const RunSpec& spec : store().state().runs)
      if (auto run = store().run(spec.id); run != nullptr && run->complete &&
                                           store().document(spec.trace) == store().document() &&
                                           std::find(list.begin(), list.end(), run) == list.end())
        list.push_back(std::move(run));
    return list;
  }

  std::vector<RunInfo> infos() const {
    std::vector<RunInfo> list = swept_;
    for (const RunSpec& spec : store().state().runs)
      if (const auto run = store().run(spec.id); run != nullptr && run->problem.empty() && !run->info.summary.empty())
        list.push_back(run->info);
    return list;
  }

  // ---- the sweep
  // -------------------------------------------------------------------------------------------------------------

  void toggle_sweep() {
    if (sweep_.running()) {
      sweep_.stop();
      return;
    }
    const auto document = store().document();
    if (document == nullptr) return;
    std::vector<std::string> policies;
    for (const Side side : {Side::a, Side::b})
      if (const RunSpec* spec = store().spec(side);
          spec != nullptr && spec->source == RunSpec::Source::live &&
          std::find(policies.begin(), policies.end(), spec->policy) == policies.end())
        policies.push_back(spec->policy);
    if (policies.empty()) {
      about_->setText("There is no live run: make one with New run in the Runs panel.");
      return;
    }
    if (std::find(policies.begin(), policies.end(), bound_policy) == policies.end()) policies.emplace_back(bound_policy);
    sweep_.start(document, policies, sweep_budgets);
    set_setting("against", "budget");
  }

  void show_progress() {
    sweep_button_->setText(sweep_.running() ? QString("Stop (%1 of %2)").arg(sweep_.done()).arg(sweep_.total())
                                            : QString("Sweep budgets"));
    if (!sweep_.running()) show();
  }

  // ---- on screen
  // -------------------------------------------------------------------------------------------------------------

  void show() {
    const auto document = store().document();
    if (document == nullptr) return;
    make_chart(*document);
    chart_view_->show(chart_);
    QString about = chart_ != nullptr ? text(chart_->subtitle) : QString("Nothing has been measured yet.");
    if (chart_ != nullptr && axis_->value() == "budget" &&
        std::all_of(chart_->series.begin(), chart_->series.end(), [](const auto& series) { return series.x.size() < 2; }))
      about += " One budget each so far: Sweep budgets evaluates more.";
    if (!sweep_.problems().empty())
      about += " Left out: " + QString::number(sweep_.problems().size()) + " points, " + text(sweep_.problems().front());
    about_->setText(about);
  }

  void make_chart(const Document& document) {
    const MetricInfo& info = metric_info(metric());
    const std::string axis = axis_->value();
    chart_ = std::make_shared<figure::LineChart>();
    chart_->title = info.title.empty() ? metric() : info.title;
    chart_->y.label = chart_->title + (info.unit.empty() ? "" : " (" + info.unit + ")");
    std::vector<Curve> curves;
    if (axis == "budget") {
      curves = curves_by_budget(infos(), metric());
      chart_->x.label = "budget (tokens per stored head)";
      chart_->x.logarithmic = true;
      chart_->y.logarithmic = info.logarithmic;
      chart_->subtitle = "Mean over layers, heads and steps.";
      mark_budgets();
    } else if (axis == "layer") {
      curves = curves_by_layer(runs(), metric(), document.trace().layers());
      chart_->x.label = "layer";
      chart_->x.integers = true;
      chart_->subtitle = "Mean over heads and steps.";
    } else {
      const int head = selection().heads.size() == 1 ? selection().heads.front() : -1;
      const bool by_head = head >= 0 && std::find(info.axes.begin(), info.axes.end(), "query_head") != info.axes.end();
      curves = curves_by_step(runs(), metric(), selection().layer, by_head ? head : -1);
      chart_->x.label = "decode step";
      chart_->x.integers = true;
      chart_->subtitle = "Layer " + std::to_string(document.layer_number(selection().layer)) +
                         (by_head ? ", query head " + std::to_string(head) + "." : ", mean over heads.");
    }
    for (const Curve& curve : curves) chart_->series.push_back(series_of(curve, axis));
    // The bound last, as in tables.
    std::stable_partition(chart_->series.begin(), chart_->series.end(),
                          [](const auto& series) { return !series.reference; });
    if (chart_->series.empty()) chart_.reset();
  }

  figure::Series series_of(const Curve& curve, const std::string& axis) {
    figure::Series series{.name = curve.name, .x = {}, .y = {}, .reference = curve.bound, .line_only = axis == "step"};
    bool intervals = false;
    for (const CurvePoint& point : curve.points) intervals = intervals || !std::isnan(point.low);
    for (const CurvePoint& point : curve.points) {
      series.x.push_back(point.x);
      series.y.push_back(point.y);
      if (!intervals) continue;
      series.low.push_back(std::isnan(point.low) ? point.y : point.low);
      series.high.push_back(std::isnan(point.high) ? point.y : point.high);
    }
    if (!curve.bound) series.style = style_of(curve, axis);
    return series;
  }

  // A's and B's colours are those of the whole window; others keep one of the rest as long as the panel lives.
  int style_of(const Curve& curve, const std::string& axis) {
    for (const Side side : {Side::a, Side::b})
      if (const auto run = store().run(side);
          run != nullptr && (axis == "budget" ? policy_label(run->info.policy) == curve.policy : run->label == curve.name))
        return side == Side::a ? 0 : 1;
    const auto known = std::find(others_.begin(), others_.end(), curve.name);
    if (known == others_.end()) others_.push_back(curve.name);
    return 2 + static_cast<int>(std::find(others_.begin(), others_.end(), curve.name) - others_.begin());
  }

  // Where A and B stand.
  void mark_budgets() {
    const auto a = store().run(Side::a), b = store().run(Side::b);
    if (a != nullptr && a->info.budget > 0)
      chart_->x_marks.push_back(
          {static_cast<double>(a->info.budget), b != nullptr && b->info.budget == a->info.budget ? "A, B" : "A"});
    if (b != nullptr && b->info.budget > 0 && (a == nullptr || b->info.budget != a->info.budget))
      chart_->x_marks.push_back({static_cast<double>(b->info.budget), "B"});
  }

  Choice *axis_ = nullptr, *metric_ = nullptr;
  QPushButton* sweep_button_ = nullptr;
  QLabel* about_ = nullptr;
  FigureView* chart_view_ = nullptr;
  std::shared_ptr<figure::LineChart> chart_;

  std::vector<RunInfo> swept_;
  std::shared_ptr<const Document> swept_document_;
  std::vector<std::string> others_;
  BudgetSweep sweep_;
};

}  // namespace

const PanelDescription& curves_panel() {
  static const PanelDescription description = {
      .name = "curves",
      .title = "Curves",
      .question = "How does the error grow as the budget shrinks, over the layers and over the steps?",
      .area = PanelArea::bottom,
      .shown = true,
      .make = [](Store& store) -> Panel* { return new CurvesPanel(store, curves_panel()); },
  };
  return description;
}

}  // namespace kvreplay::gui
