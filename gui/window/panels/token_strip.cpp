// Token strip: the text itself, each token coloured by a quantity, kept and evicted told apart by shape as well.
#include <QApplication>
#include <QComboBox>
#include <QHBoxLayout>
#include <QLabel>
#include <QLineEdit>
#include <QShortcut>
#include <QSignalBlocker>
#include <QTimer>
#include <QToolButton>
#include <QToolTip>
#include <QVBoxLayout>
#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "core/base/text.h"
#include "gui/figure/axis.h"
#include "gui/figure/token_strip.h"
#include "gui/model/text_search.h"
#include "gui/model/token_values.h"
#include "gui/window/panel.h"
#include "gui/window/theme.h"
#include "gui/window/widgets/token_view.h"
#include "gui/window/widgets/value_scale.h"

namespace kvreplay::gui {
namespace {

struct QuantityChoice {
  Quantity quantity;
  const char* name;   // in settings
  const char* label;  // in the list
  const char* key;    // what the numbers are, with their unit
  bool logarithmic, difference;
  double decades;
};

constexpr std::array<QuantityChoice, 6> choices = {{
    {Quantity::kept, "kept", "Kept", "share of heads that keep the token", false, false, 0},
    {Quantity::score, "score", "Score", "share of candidates that score lower", false, false, 0},
    {Quantity::attention, "attention", "Attention", "attention of the query, full cache", true, false, 4},
    {Quantity::attention_after, "attention_after", "Attention after", "attention of the query, evicted cache", true, false,
     4},
    {Quantity::evicted_at, "evicted_at", "Eviction step", "evicted after step", false, false, 0},
    {Quantity::worth, "worth", "Worth", "squared error less if it alone were restored", false, true, 0},
}};

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }
QString number(double value, int digits = 3) { return text(figure::number_label(value, digits)); }

// What the colours are made from: asked for in the background, kept until something else is asked for.
struct Colours {
  std::vector<float> a, b, shown;  // shown: a, b or b - a
};

// What an answer depends on: a question that is the same is not asked again.
struct Question {
  Quantity quantity = Quantity::kept;
  std::string side;
  std::shared_ptr<const Document> document;
  std::shared_ptr<const LayerEvictions> a, b;
  int layer = 0, step = 0;
  std::vector<int> heads;
  bool operator==(const Question&) const = default;
};

class TokenStripPanel final : public Panel {
 public:
  TokenStripPanel(Store& the_store, const PanelDescription& description) : Panel(the_store, description) {
    auto* content = new QWidget(this);
    auto* layout = new QVBoxLayout(content);
    layout->setContentsMargins(8, 6, 0, 0);
    layout->setSpacing(4);
    layout->addLayout(make_choices());
    layout->addLayout(make_search());
    key_ = new ScaleKey(content);
    key_->setObjectName("token_strip_key");
    layout->addWidget(key_);
    view_ = new TokenView(content);
    view_->setObjectName("token_strip_view");
    layout->addWidget(view_, 1);
    set_content(content);
    connect(view_, &TokenView::selected, this, [this](const auto& ranges) {
      store().select_tokens(ranges);
      view_->set_selected(selection().tokens);  // the next click may come before refresh()
    });
    connect(view_, &TokenView::hovered, this, &TokenStripPanel::hover);
    connect(view_, &TokenView::scrolled, this, &TokenStripPanel::carry_zoom);
  }

  std::unique_ptr<figure::Figure> figure() const override;
  figure::Table table() const override;

 protected:
  void refresh(Changes what) override {
    const auto document = document_or_message();
    view_->set_document(document);
    if (document == nullptr) return;
    if (document != searched_document_) {
      searched_document_ = document;
      text_search_.emplace(*document);
      search(false);
    }
    if (what & Change::views) take_settings();
    if (what & (Change::files | Change::specs | Change::runs | Change::selection | Change::views)) ask();
    if (what & (Change::runs | Change::selection | Change::views | Change::theme | Change::specs)) show();
    if (what & Change::focus) view_->set_focus_token(store().focus().token);
    if (what & Change::selection) follow_selection();
    if (what & Change::zoom) follow_zoom();
  }

 private:
  // ---- what the panel is made of
  // -------------------------------------------------------------------------------------------

  QHBoxLayout* make_choices() {
    quantity_ = new QComboBox(this);
    quantity_->setObjectName("token_strip_quantity");
    for (const QuantityChoice& choice : choices) {
      quantity_->addItem(choice.label, QString(choice.name));
      quantity_->setItemData(quantity_->count() - 1, QString(choice.key), Qt::ToolTipRole);
    }
    side_ = new QComboBox(this);
    side_->setObjectName("token_strip_side");
    side_->addItem("Run A", "a");
    side_->addItem("Run B", "b");
    side_->addItem("A and B", "both");
    side_->setItemData(2, QString::fromUtf8("Both runs' bars below each token; colours show B − A"), Qt::ToolTipRole);
    about_ = new QLabel(this);
    about_->setObjectName("token_strip_about");
    about_->setSizePolicy(QSizePolicy::Ignored, QSizePolicy::Preferred);
    connect(quantity_, &QComboBox::activated, this,
            [this] { set_setting("quantity", quantity_->currentData().toString().toStdString()); });
    connect(side_, &QComboBox::activated, this,
            [this] { set_setting("runs", side_->currentData().toString().toStdString()); });
    auto* layout = new QHBoxLayout;
    auto* label = new QLabel("&Colour", this);
    label->setBuddy(quantity_);
    layout->addWidget(label);
    layout->addWidget(quantity_);
    layout->addWidget(side_);
    layout->addSpacing(8);
    layout->addWidget(about_, 1);
    return layout;
  }

  QToolButton* make_button(const QString& sign, const QString& tip, const QString& name) {
    auto* button = new QToolButton(this);
    button->setText(sign);
    button->setToolTip(tip);
    button->setObjectName("token_strip_" + name);
    return button;
  }

  QHBoxLayout* make_search() {
    search_ = new QLineEdit(this);
    search_->setObjectName("token_strip_search");
    search_->setPlaceholderText("Find in the text (Ctrl+F)");
    search_->setClearButtonEnabled(true);
    regex_ = make_button(".*", "Regular expression", "regex");
    regex_->setCheckable(true);
    auto* previous = make_button("▲", "Previous match (Shift+Enter)", "previous");
    auto* next = make_button("▼", "Next match (Enter)", "next");
    count_ = new QLabel(this);
    count_->setObjectName("token_strip_count");
    auto* layout = new QHBoxLayout;
    layout->setContentsMargins(0, 0, 8, 0);
    layout->addWidget(search_, 1);
    for (auto* button : {regex_, previous, next}) layout->addWidget(button);
    layout->addWidget(count_);
    connect(search_, &QLineEdit::textChanged, this, [this] { search(true); });
    connect(regex_, &QToolButton::toggled, this, [this] { search(true); });
    connect(next, &QToolButton::clicked, this, [this] { go_to_match(1); });
    connect(previous, &QToolButton::clicked, this, [this] { go_to_match(-1); });
    connect(search_, &QLineEdit::returnPressed, this,
            [this] { go_to_match((QApplication::keyboardModifiers() & Qt::ShiftModifier) != 0U ? -1 : 1); });
    const auto* find = new QShortcut(QKeySequence::Find, this, nullptr, nullptr, Qt::WidgetWithChildrenShortcut);
    connect(find, &QShortcut::activated, this, [this] {
      search_->setFocus();
      search_->selectAll();
    });
    return layout;
  }

  // ---- settings
  // ------------------------------------------------------------------------------------------------------------

  void take_settings() {
    const QSignalBlocker first(quantity_), second(side_);
    quantity_->setCurrentIndex(std::max(0, quantity_->findData(text(setting("quantity", choices[0].name)))));
    side_->setCurrentIndex(std::max(0, side_->findData(text(setting("runs", "a")))));
  }
  const QuantityChoice& choice() const { return choices[static_cast<std::size_t>(std::max(0, quantity_->currentIndex()))]; }
  bool both() const { return side_->currentIndex() == 2; }
  // The runs whose bars are drawn.
  std::vector<Side> sides() const {
    if (both()) return {Side::a, Side::b};
    return {side_->currentIndex() == 1 ? Side::b : Side::a};
  }
  std::shared_ptr<const Run> run_on(Side side) const {
    auto run = store().run(side);
    return run != nullptr && run->problem.empty() && run->layer(selection().layer) != nullptr ? run : nullptr;
  }
  bool shows_difference() const { return both() && choice().quantity != Quantity::attention; }

  // ---- numbers
  // -------------------------------------------------------------------------------------------------------------

  void ask() {
    const auto a = run_on(Side::a), b = run_on(Side::b);
    Question question{choice().quantity,
                      side_->currentData().toString().toStdString(),
                      store().document(),
                      {},
                      {},
                      selection().layer,
                      selection().step,
                      selection().heads};
    if (a != nullptr) question.a = a->layer(question.layer)->evictions;
    if (b != nullptr) question.b = b->layer(question.layer)->evictions;
    if (question == asked_) return;
    asked_ = question;
    const auto sides = this->sides();
    const bool wants_a = sides.front() == Side::a, wants_b = sides.back() == Side::b, subtracts = shows_difference();
    Workshop& workshop = workshop_of(store());
    workshop.background.ask<Colours>(
        this,
        [=, selection = selection(), desk = workshop.desk] {
          Colours colours;
          if (wants_a) colours.a = token_values(question.quantity, question.document, a.get(), selection, *desk);
          if (wants_b) colours.b = token_values(question.quantity, question.document, b.get(), selection, *desk);
          colours.shown = wants_a ? colours.a : colours.b;
          if (subtracts)
            for (std::size_t i = 0; i < colours.shown.size(); ++i) colours.shown[i] = colours.b[i] - colours.a[i];
          return colours;
        },
        [this](std::shared_ptr<const Colours> colours, const std::string& problem) {
          colours_ = std::move(colours);
          problem_ = problem;
          show();
        });
  }

  ValueScale scale() const {
    ValueScale scale;
    const auto document = store().document();
    scale.label = shows_difference() ? QString::fromUtf8("B − A, ") + choice().key : QString(choice().key);
    scale.difference = choice().difference || shows_difference();
    scale.logarithmic = choice().logarithmic;
    switch (choice().quantity) {
      case Quantity::kept:
        scale.low_name = scale.difference ? "only A" : "0", scale.high_name = scale.difference ? "only B" : "1";
        break;
      case Quantity::score:
        scale.low_name = scale.difference ? QString::fromUtf8("−1") : QString("0"),
        scale.high_name = scale.difference ? "+1" : "1";
        break;
      case Quantity::evicted_at:
        scale.high = document->num_steps() + 1;
        scale.low_name = scale.difference ? "B earlier" : "0 (prompt)";
        scale.high_name = scale.difference ? "B later" : "never";
        break;
      default:
        return fitted_scale(scale, colours_ != nullptr ? colours_->shown : std::vector<float>{},
                            choice().decades > 0 ? choice().decades : 3);
    }
    return scale;
  }

  // ---- on screen
  // -----------------------------------------------------------------------------------------------------------

  void show() {
    const auto document = store().document();
    if (document == nullptr) return;
    show_about(*document);
    std::vector<std::shared_ptr<const Run>> runs;
    std::vector<QColor> colors;
    std::vector<ScaleKey::Mark> marks;
    for (const Side side : sides()) {
      const QColor color = side == Side::a ? run_color_a() : run_color_b();
      runs.push_back(run_on(side));
      colors.push_back(color);
      marks.push_back({QString("kept by ") + (side == Side::a ? "A" : "B"), color});
    }
    marks.push_back({"evicted", {}, true});
    for (const TextSpan& span : document->spans())
      if (std::none_of(marks.begin(), marks.end(), [&](const auto& mark) { return mark.text == text(span.label); }) &&
          marks.size() < 8)
        marks.push_back({text(span.label), marked_color(), false, true});
    ValueScale colour = scale();
    key_->show(colour, marks);
    view_->set_look([this, colour, runs, document, heads = heads_of(*document, selection())](
                        std::int64_t token) { return look_of(token, colour, runs, heads, document->prompt_length()); },
                    colors);
  }

  static QColor marked_color() { return current_style().dark ? QColor(0xf0, 0x9f, 0x35) : QColor(0xc2, 0x4e, 0x00); }

  TokenLook look_of(std::int64_t token, const ValueScale& scale, const std::vector<std::shared_ptr<const Run>>& runs,
                    const std::vector<int>& heads, std::int64_t prompt) const {
    TokenLook look;
    look.known = token < prompt + selection().step;
    for (const auto& run : runs) {
      if (run == nullptr) look.known = false;
      look.kept.push_back(run != nullptr ? share_kept(*run, token, heads) : 0);
    }
    if (colours_ != nullptr && static_cast<std::size_t>(token) < colours_->shown.size())
      look.ground = scale.color(static_cast<double>(colours_->shown[static_cast<std::size_t>(token)]), style_now());
    return look;
  }

  // Of hundreds of tokens at every movement: straight from the table.
  float share_kept(const Run& run, std::int64_t token, const std::vector<int>& heads) const {
    const int step = selection().step;
    if (token >= run.prompt + step) return 1;
    const std::int32_t* evicted_at = run.layers[static_cast<std::size_t>(selection().layer)]->evicted_at().data() + token;
    int kept = 0;
    for (const int head : heads) {
      const std::int32_t at = evicted_at[run.row_of(head) * run.tokens];
      kept += at < 0 || at > step ? 1 : 0;
    }
    return static_cast<float>(kept) / static_cast<float>(heads.size());
  }

  QString place_text(const Document& document) const {
    const auto& heads = selection().heads;
    QString where = "layer " + QString::number(document.layer_number(selection().layer)) + ", ";
    if (heads.empty() || static_cast<int>(heads.size()) == document.num_query_heads())
      where += "all heads";
    else if (heads.size() == 1)
      where += "head " + QString::number(heads.front());
    else
      where += QString::number(heads.size()) + " heads";
    return where + (selection().step == 0 ? QString(", when the prompt ended")
                                          : ", after step " + QString::number(selection().step));
  }

  void show_about(const Document& document) {
    QString about = place_text(document);
    if (choice().quantity == Quantity::attention || choice().quantity == Quantity::attention_after)
      about +=
          ", query of step " + QString::number(query_position(document, selection().step) - document.prompt_length() + 1);
    for (const Side side : sides())
      if (const RunSpec* spec = store().spec(side); spec == nullptr)
        about += QString(", no run ") + (side == Side::a ? "A" : "B") + " is chosen";
      else if (store().is_of_another_trace(side))
        about += QString(", run ") + (side == Side::a ? "A" : "B") + " is of another trace";
      else if (const auto run = store().run(side); run != nullptr && !run->problem.empty())
        about = text(run->problem);
    if (!problem_.empty()) about = text(problem_);
    about_->setText(about);
    about_->setToolTip(about);
  }

  void follow_selection() {
    const auto& ranges = selection().tokens;
    view_->set_selected(ranges);
    if (ranges == followed_) return;
    followed_ = ranges;
    if (!ranges.empty() && !view_->hasFocus()) view_->show_token(ranges.front().begin);
  }

  // ---- the stretch that panels share
  // -----------------------------------------------------------------------------------------

  void follow_zoom() {
    const auto document = store().document();
    const Interval all{0, static_cast<double>(document->num_tokens())}, zoomed = store().zoom("tokens", all);
    if (zoomed == carried_) return;
    carried_ = zoomed;
    view_->put_on_top(static_cast<std::int64_t>(zoomed.low));
  }

  // Scrolling takes a zoomed stretch along; where all is shown there is nothing to take.
  void carry_zoom() {
    const auto document = store().document();
    if (document == nullptr) return;
    const Interval all{0, static_cast<double>(document->num_tokens())}, zoomed = store().zoom("tokens", all);
    const double width = zoomed.high - zoomed.low, top = static_cast<double>(view_->visible().begin);
    if (zoomed == all) return;
    carried_.low = std::min(top, all.high - width);
    carried_.high = carried_.low + width;
    store().set_zoom("tokens", carried_);
  }

  // ---- searching
  // -------------------------------------------------------------------------------------------------------------

  void search(bool moves) {
    found_ = text_search_ ? text_search_->find(search_->text(), regex_->isChecked()) : TextSearch::Found{};
    match_ = -1;
    if (moves && !found_.ranges.empty()) {
      // The first at or behind what is on screen.
      const std::int64_t top = view_->visible().begin;
      const auto next = std::partition_point(found_.ranges.begin(), found_.ranges.end(),
                                             [top](const TokenRange& range) { return range.begin < top; });
      match_ = static_cast<int>((next == found_.ranges.end() ? found_.ranges.begin() : next) - found_.ranges.begin());
      view_->show_token(found_.ranges[static_cast<std::size_t>(match_)].begin);
    }
    show_matches();
  }

  // Selects the match, so that every panel shows what became of it.
  void go_to_match(int by) {
    const int count = static_cast<int>(found_.ranges.size());
    if (count == 0) return;
    const TokenRange* current = match_ >= 0 ? &found_.ranges[static_cast<std::size_t>(match_)] : nullptr;
    const bool was_there = current != nullptr && selection().tokens == std::vector<TokenRange>{*current};
    if (match_ < 0)
      match_ = by > 0 ? 0 : count - 1;
    else if (was_there)
      match_ = (match_ + by + count) % count;
    const TokenRange range = found_.ranges[static_cast<std::size_t>(match_)];
    store().select_tokens({range});
    view_->show_token(range.begin);
    show_matches();
  }

  void show_matches() {
    view_->set_found(found_.ranges, match_);
    const auto count = static_cast<double>(found_.ranges.size());
    if (search_->text().isEmpty())
      count_->clear();
    else if (!found_.problem.isEmpty())
      count_->setText(QString(QChar(0x26a0)) + " " + found_.problem);
    else if (found_.ranges.empty())
      count_->setText("no match");
    else
      count_->setText(number(match_ + 1, 9) + " of " + number(count, 9) + (found_.more ? " or more" : ""));
  }

  // ---- hover
  // -----------------------------------------------------------------------------------------------------------------

  void hover(std::int64_t token, const QPoint& global) {
    Focus focus = store().focus();
    focus.token = static_cast<int>(token);
    store().set_focus(focus);
    view_->set_focus_token(token);
    const auto document = store().document();
    if (token < 0 || document == nullptr)
      QToolTip::hideText();
    else
      QToolTip::showText(global, details_of(*document, token), view_);
  }

  QString details_of(const Document& document, std::int64_t token) const {
    QString html = "<b>" + token_text(document, token).toHtmlEscaped() + "</b>&nbsp;&nbsp;position " +
                   number(static_cast<double>(token), 9);
    if (const TextSpan* span = document.span_at(token)) html += ", " + text(span->label).toHtmlEscaped();
    html += "<table>";
    for (const Side side : {Side::a, Side::b}) {
      const auto run = run_on(side);
      if (run == nullptr) continue;
      html += QString("<tr><td style='padding-right:8px'><b style='color:") +
              (side == Side::a ? run_color_a() : run_color_b()).name() + "'>" + (side == Side::a ? "A" : "B") +
              "</b></td><td>" + fate_of(*run, token).toHtmlEscaped() + value_text(side, token) + "</td></tr>";
    }
    html += "</table>";
    if (shows_difference() || run_on(Side::a) == nullptr || choice().quantity == Quantity::attention)
      if (const QString value = shown_text(token); !value.isEmpty()) html += "<div>" + value + "</div>";
    return html;
  }

  static QString step_name(std::int32_t step) {
    return step == 0 ? QString("when the prompt ended") : "after step " + QString::number(step);
  }

  QString fate_of(const Run& run, std::int64_t token) const {
    const auto document = store().document();
    const std::vector<int> heads = heads_of(*document, selection());
    const Tensor<std::int32_t, 2>& evicted_at = run.layer(selection().layer)->evicted_at();
    int kept = 0;
    std::int32_t first = std::numeric_limits<std::int32_t>::max(), last = -1;
    for (const int head : heads) {
      const std::int32_t step = evicted_at(run.row_of(head), token);
      if (step < 0) ++kept;
      if (step >= 0) first = std::min(first, step), last = std::max(last, step);
    }
    const int count = static_cast<int>(heads.size());
    const QString when = first == last ? step_name(first) : QString("after steps %1 to %2").arg(first).arg(last);
    if (kept == count) return count == 1 ? "kept" : "kept by all " + QString::number(count) + " heads";
    if (kept == 0) return "evicted " + when;
    return QString("kept by %1 of %2 heads, else evicted ").arg(kept).arg(count) + when;
  }

  QString value_text(Side side, std::int64_t token) const {
    if (choice().quantity == Quantity::kept || choice().quantity == Quantity::evicted_at ||
        choice().quantity == Quantity::attention || colours_ == nullptr)
      return {};
    const auto& values = side == Side::a ? colours_->a : colours_->b;
    if (static_cast<std::size_t>(token) >= values.size()) return {};
    return "; " + in_words(static_cast<double>(values[static_cast<std::size_t>(token)]));
  }

  QString in_words(double value) const {
    switch (choice().quantity) {
      case Quantity::score:
        return std::isnan(value) ? QString("always kept, or not scored")
                                 : "scored above " + number(value * 100) + " % of the candidates";
      case Quantity::attention_after: return std::isnan(value) ? QString("not there yet") : "attention " + number(value);
      case Quantity::worth: return std::isnan(value) ? QString("not missed") : "restored: squared error " + number(-value);
      default: return number(value);
    }
  }

  QString shown_text(std::int64_t token) const {
    if (colours_ == nullptr || static_cast<std::size_t>(token) >= colours_->shown.size()) return {};
    const double value = static_cast<double>(colours_->shown[static_cast<std::size_t>(token)]);
    if (std::isnan(value)) return {};
    return (shows_difference() ? QString::fromUtf8("B − A: ") : QString("attention ")) + number(value);
  }

  QComboBox *quantity_ = nullptr, *side_ = nullptr;
  QLabel *about_ = nullptr, *count_ = nullptr;
  QLineEdit* search_ = nullptr;
  QToolButton* regex_ = nullptr;
  ScaleKey* key_ = nullptr;
  TokenView* view_ = nullptr;

  std::shared_ptr<const Document> searched_document_;
  std::optional<TextSearch> text_search_;
  TextSearch::Found found_;
  int match_ = -1;
  Question asked_;
  std::shared_ptr<const Colours> colours_;
  std::string problem_;
  std::vector<TokenRange> followed_;
  Interval carried_;
};

// The lines on screen: a whole text would be a book.
std::unique_ptr<figure::Figure> TokenStripPanel::figure() const {
  const auto document = store().document();
  const auto run = run_on(sides().front());
  if (document == nullptr || run == nullptr) return nullptr;
  auto strip = std::make_unique<figure::TokenStrip>();
  const TokenRange range = view_->visible();
  const std::vector<int> heads = heads_of(*document, selection());
  strip->first = range.begin;
  strip->title = run->label;
  strip->subtitle = place_text(*document).toStdString() + "; tokens " +
                    figure::number_label(static_cast<double>(range.begin), 9) + " to " +
                    figure::number_label(static_cast<double>(range.end - 1), 9);
  for (std::int64_t token = range.begin; token < range.end; ++token) {
    const TextSpan* span = document->span_at(token);
    strip->tokens.push_back(
        {document->token_text(token), share_kept(*run, token, heads), span != nullptr ? span->label : std::string()});
  }
  return strip;
}

// Every token of the text.
figure::Table TokenStripPanel::table() const {
  const auto document = store().document();
  if (document == nullptr) return {};
  figure::Table table{{"position", "token", "span"}, {}};
  const std::vector<int> heads = heads_of(*document, selection());
  std::vector<Side> known;
  for (const Side side : sides())
    if (run_on(side) != nullptr) {
      known.push_back(side);
      table.columns.push_back(std::string("kept_") + (side == Side::a ? "a" : "b"));
    }
  const bool coloured = colours_ != nullptr && choice().quantity != Quantity::kept;
  if (coloured) table.columns.push_back(std::string(choice().name) + (shows_difference() ? "_b_minus_a" : ""));
  for (std::int64_t token = 0; token < document->num_tokens(); ++token) {
    const TextSpan* span = document->span_at(token);
    std::vector<std::string> row = {std::to_string(token), document->token_label(token),
                                    span != nullptr ? span->label : std::string()};
    for (const Side side : known) row.push_back(format_number(share_kept(*run_on(side), token, heads)));
    if (coloured) {
      const float value = colours_->shown[static_cast<std::size_t>(token)];
      row.push_back(std::isnan(value) ? "" : format_number(static_cast<double>(value)));
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace

const PanelDescription& token_strip_panel() {
  static const PanelDescription description = {
      .name = "token_strip",
      .title = "Token strip",
      .question = "Which words of the text are kept, and which are thrown away?",
      .area = PanelArea::main,
      .shown = true,
      .make = [](Store& store) -> Panel* { return new TokenStripPanel(store, token_strip_panel()); },
  };
  return description;
}

}  // namespace kvreplay::gui
