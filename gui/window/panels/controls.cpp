// Controls: the policy and its parameters, and how much it may keep. Whatever is moved is evaluated at once.
#include <QButtonGroup>
#include <QComboBox>
#include <QFormLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QPushButton>
#include <QScrollArea>
#include <QSignalBlocker>
#include <QSlider>
#include <QToolButton>
#include <QVBoxLayout>
#include <optional>

#include "core/base/error.h"
#include "gui/model/budget_form.h"
#include "gui/model/policy_form.h"
#include "gui/window/panel.h"
#include "gui/window/theme.h"
#include "gui/window/widgets/parameter_editor.h"

namespace kvreplay::gui {
namespace {

constexpr int slider_places = 1000;

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

class ControlsPanel final : public Panel {
 public:
  ControlsPanel(Store& the_store, const PanelDescription& description) : Panel(the_store, description) {
    auto* inner = new QWidget(this);
    auto* layout = new QVBoxLayout(inner);
    layout->setContentsMargins(8, 8, 8, 8);
    layout->addLayout(make_sides());
    body_ = new QWidget(inner);
    auto* body = new QVBoxLayout(body_);
    body->setContentsMargins(0, 0, 0, 0);
    body->addLayout(make_policy_choice());
    body->addLayout(make_budget());
    form_area_ = new QWidget(body_);
    body->addWidget(form_area_);
    body->addLayout(make_extra());
    layout->addWidget(body_);
    problem_ = new QLabel(inner);
    problem_->setObjectName("controls_problem");
    problem_->setWordWrap(true);
    QFont bold = problem_->font();
    bold.setBold(true);
    problem_->setFont(bold);
    layout->addWidget(problem_);
    layout->addStretch(1);
    auto* area = new QScrollArea(this);
    area->setWidget(inner);
    area->setWidgetResizable(true);
    area->setFrameShape(QFrame::NoFrame);
    area->setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
    set_content(area);
  }

 protected:
  void refresh(Changes what) override {
    if (!(what & (Change::files | Change::specs | Change::selection | Change::runs | Change::theme))) return;
    const auto document = document_or_message();
    if (document == nullptr) {
      shown_.reset();
      scale_.reset();
      return;
    }
    color_sides();
    if (what & Change::theme) fill_policy();
    const RunSpec* spec = store().spec(side_);
    const bool live = spec != nullptr && spec->source == RunSpec::Source::live;
    body_->setEnabled(live);
    if (!live) {
      shown_.reset();
      scale_.reset();
      say(spec == nullptr ? "No run " + side_name() + " is chosen: choose one in the Runs panel, or make one with New run."
                          : "Run " + side_name() + " comes from a results file and stays as it is.");
      return;
    }
    // What the form itself asked for is in it already: the fields in which somebody types are not made anew.
    if (!shown_ || !(*shown_ == *spec)) {
      show_spec(*spec);
      shown_ = *spec;
    }
    update_scale(store().document(spec->trace));
    show_budget();
    show_problem();
  }

 private:
  // ---- what the panel is made of
  // ------------------------------------------------------------------------------------------

  QHBoxLayout* make_sides() {
    auto* layout = new QHBoxLayout;
    auto* group = new QButtonGroup(this);
    for (const Side side : {Side::a, Side::b}) {
      auto* button = new QToolButton(this);
      button->setObjectName(side == Side::a ? "controls_a" : "controls_b");
      button->setText(side == Side::a ? "Run A" : "Run B");
      button->setCheckable(true);
      button->setChecked(side == side_);
      button->setToolTip("Change this run");
      button->setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
      group->addButton(button);
      layout->addWidget(button);
      (side == Side::a ? button_a_ : button_b_) = button;
      connect(button, &QToolButton::clicked, this, [this, side] {
        side_ = side;
        shown_.reset();
        refresh(Change::specs);
      });
    }
    return layout;
  }

  QFormLayout* make_policy_choice() {
    auto* layout = new QFormLayout;
    layout->setRowWrapPolicy(QFormLayout::DontWrapRows);
    policy_ = new QComboBox(this);
    policy_->setObjectName("controls_policy");
    for (const PolicyDescription* policy : policy_registry()) {
      policy_->addItem(text(policy->name));
      policy_->setItemData(policy_->count() - 1, text(policy->idea), Qt::ToolTipRole);
    }
    variant_ = new QComboBox(this);
    variant_->setObjectName("controls_variant");
    idea_ = new QLabel(this);
    idea_->setWordWrap(true);
    layout->addRow("Policy", policy_);
    layout->addRow("Variant", variant_);
    layout->addRow(idea_);
    connect(policy_, &QComboBox::textActivated, this, [this](const QString& name) {
      form_.set_policy(name.toStdString());
      fill_policy();
      fill_form();
      apply();
    });
    connect(variant_, &QComboBox::textActivated, this, [this](const QString& name) {
      form_.set_variant(name.toStdString());
      fill_policy();
      fill_form();
      apply();
    });
    return layout;
  }

  QVBoxLayout* make_budget() {
    auto* layout = new QVBoxLayout;
    auto* row = new QHBoxLayout;
    budget_ = new QLineEdit(this);
    budget_->setObjectName("controls_budget");
    budget_->setToolTip("Tokens a head (256), a share of the prompt (10%) or bytes of the whole cache (2MiB)");
    unit_ = new QComboBox(this);
    unit_->setObjectName("controls_unit");
    unit_->addItems({"tokens", "% of prompt", "bytes"});
    auto* label = new QLabel("Budget", this);
    label->setBuddy(budget_);
    row->addWidget(label);
    row->addWidget(budget_, 1);
    row->addWidget(unit_);
    slider_ = new QSlider(Qt::Horizontal, this);
    slider_->setObjectName("controls_slider");
    slider_->setRange(0, slider_places);
    slider_->setPageStep(50);
    meaning_ = new QLabel(this);
    meaning_->setObjectName("controls_meaning");
    meaning_->setWordWrap(true);
    layout->addLayout(row);
    layout->addWidget(slider_);
    layout->addWidget(meaning_);
    connect(slider_, &QSlider::valueChanged, this, [this](int place) {
      if (!scale_) return;
      set_budget(scale_->text(kind(), scale_->tokens_at(static_cast<double>(place) / slider_places)));
    });
    connect(budget_, &QLineEdit::editingFinished, this, [this] { set_budget(budget_->text().trimmed().toStdString()); });
    connect(unit_, &QComboBox::activated, this, [this] {
      if (!scale_ || !shown_) return;
      try {
        set_budget(
            scale_->text(kind(), std::clamp(scale_->tokens_of(shown_->budget), scale_->minimum(), scale_->maximum())));
      } catch (const Error&) {
        set_budget(scale_->text(kind(), scale_->tokens_at(0.5)));
      }
    });
    return layout;
  }

  QFormLayout* make_extra() {
    auto* layout = new QFormLayout;
    extra_ = new QLineEdit(this);
    extra_->setObjectName("controls_extra");
    extra_->setPlaceholderText("block=16, merge=pivot, schedule=every:64 …");
    extra_->setToolTip("Keys that every policy takes: schedule, merge, block, one_set, append_only, positions, score_dtype");
    layout->addRow("Around it", extra_);
    auto* reset = new QPushButton("Defaults", this);
    reset->setObjectName("controls_reset");
    reset->setToolTip("All parameters as the variant has them");
    layout->addRow(QString(), reset);
    connect(extra_, &QLineEdit::editingFinished, this, [this] {
      QString keys = extra_->text();
      form_.set_extra(keys.remove(' ').toStdString());
      apply();
    });
    connect(reset, &QPushButton::clicked, this, [this] {
      form_.reset();
      extra_->clear();
      fill_form();
      apply();
    });
    return layout;
  }

  // ---- state to widgets
  // ---------------------------------------------------------------------------------------------------

  void color_sides() {
    for (auto* button : {button_a_, button_b_}) {
      const QColor color = button == button_a_ ? run_color_a() : run_color_b();
      QPixmap spot(10, 10);
      spot.fill(color);
      button->setIcon(QIcon(spot));
      button->setToolButtonStyle(Qt::ToolButtonTextBesideIcon);
    }
  }

  void show_spec(const RunSpec& spec) {
    if (!shown_ || shown_->policy != spec.policy) {
      try {
        form_ = PolicyForm::of(spec.policy);
      } catch (const Error& error) {
        form_ = PolicyForm::of("snapkv");
        problem_->setText(QString::fromUtf8(error.what()));
      }
      fill_policy();
      fill_form();
      extra_->setText(text(form_.extra()));
    }
    const QSignalBlocker blocker(unit_);
    unit_->setCurrentIndex(spec.budget.find('%') != std::string::npos             ? 1
                           : spec.budget.find_first_of("Bb") != std::string::npos ? 2
                                                                                  : 0);
  }

  void fill_policy() {
    policy_->setCurrentText(text(form_.description().name));
    variant_->clear();
    for (const PolicyVariant& variant : form_.description().variants) {
      variant_->addItem(text(variant.name));
      variant_->setItemData(variant_->count() - 1, text(variant.source + ". " + variant.differences), Qt::ToolTipRole);
    }
    variant_->setCurrentText(text(form_.variant()));
    variant_->setEnabled(variant_->count() > 1);
    idea_->setText("<span style='color:" + style_now().muted.name() + "'>" + text(form_.description().idea).toHtmlEscaped() +
                   "</span>");
    idea_->setToolTip(text(form_.description().stages));
  }

  // Rows come and go with the values of others (only_with). What has the keyboard gets it back.
  void fill_form() {
    const QWidget* focused = form_area_->focusWidget();
    const QString key = focused != nullptr ? focused->objectName() : QString();
    qDeleteAll(form_area_->findChildren<QWidget*>(QString(), Qt::FindDirectChildrenOnly));
    delete form_area_->layout();
    auto* layout = new QFormLayout(form_area_);
    layout->setContentsMargins(0, 0, 0, 0);
    for (const PolicyForm::Field& field : form_.fields()) {
      auto* label = new QLabel(text(field.parameter->key), form_area_);
      label->setToolTip(text(field.parameter->doc + "; default " + field.default_value));
      QFont font = label->font();
      font.setBold(field.value != field.default_value);
      label->setFont(font);
      QWidget* editor =
          make_parameter_editor(*field.parameter, field.value, form_area_,
                                [this, name = field.parameter->key](const std::string& value) { set(name, value); });
      layout->addRow(label, editor);
      if (!key.isEmpty() && editor->objectName() == key) editor->setFocus();
    }
  }

  void set(const std::string& key, const std::string& value) {
    form_.set(key, value);
    // Not from inside the editor's own signal, which the new form deletes.
    QMetaObject::invokeMethod(
        this, [this] { fill_form(); }, Qt::QueuedConnection);
    apply();
  }

  Budget::Kind kind() const { return static_cast<Budget::Kind>(unit_->currentIndex()); }

  // document: of the run that is changed, which may be another than the one on screen; null while it is not open.
  void update_scale(const std::shared_ptr<const Document>& document) {
    scale_.reset();
    try {
      const auto policy = make_policy(parse_policy(form_.text()));
      if (document != nullptr) scale_.emplace(document, policy->granularity(), policy->minimum_budget());
    } catch (const Error&) {
    }
    slider_->setEnabled(scale_.has_value());
  }

  void show_budget() {
    if (!budget_->hasFocus() || !budget_->isModified()) budget_->setText(text(shown_->budget));
    if (!scale_) return;
    try {
      const std::int64_t tokens = scale_->tokens_of(shown_->budget);
      meaning_->setText(text(scale_->description(tokens)));
      const QSignalBlocker blocker(slider_);
      if (!slider_->isSliderDown()) slider_->setValue(static_cast<int>(scale_->place_of(tokens) * slider_places + 0.5));
    } catch (const Error&) {
      meaning_->clear();
    }
  }

  QString side_name() const { return side_ == Side::a ? "A" : "B"; }

  void say(const QString& what) {
    problem_->setText(what);
    problem_->setVisible(!what.isEmpty());
  }
  void complain(const std::string& problem) {
    say(problem.empty() ? QString() : QString(QChar(0x26a0)) + " " + text(problem));
  }

  void show_problem() {
    std::string problem = form_.problem();
    const auto run = store().run(shown_->id);
    if (problem.empty() && run != nullptr && run->spec == *shown_) problem = run->problem;
    complain(problem);
  }

  // ---- widgets to state
  // ---------------------------------------------------------------------------------------------------

  void set_budget(const std::string& budget) {
    if (!shown_) return;
    try {
      Budget::parse(budget);
    } catch (const Error& error) {
      complain(error.what());
      return;
    }
    budget_->setModified(false);
    RunSpec spec = *shown_;
    spec.budget = budget;
    change(spec);
  }

  // Text that is no policy changes no run; what is wrong with it stands below the form.
  void apply() {
    if (!shown_) return;
    show_problem();
    if (!form_.problem().empty()) return;
    RunSpec spec = *shown_;
    spec.policy = form_.text();
    change(spec);
  }

  void change(const RunSpec& spec) {
    shown_ = spec;
    store().change_run(spec);
  }

  Side side_ = Side::a;
  PolicyForm form_ = PolicyForm::of("snapkv");
  std::optional<RunSpec> shown_;  // what the widgets show
  std::optional<BudgetForm> scale_;
  QToolButton *button_a_ = nullptr, *button_b_ = nullptr;
  QComboBox *policy_ = nullptr, *variant_ = nullptr, *unit_ = nullptr;
  QLabel *idea_ = nullptr, *meaning_ = nullptr, *problem_ = nullptr;
  QLineEdit *budget_ = nullptr, *extra_ = nullptr;
  QSlider* slider_ = nullptr;
  QWidget *body_ = nullptr, *form_area_ = nullptr;
};

}  // namespace

const PanelDescription& controls_panel() {
  static const PanelDescription description = {
      .name = "controls",
      .title = "Controls",
      .question = "What happens with another policy, other parameters, another budget?",
      .area = PanelArea::left,
      .shown = true,
      .make = [](Store& store) -> Panel* { return new ControlsPanel(store, controls_panel()); },
  };
  return description;
}

}  // namespace kvreplay::gui
