// Attention view: queries × keys of one head, to the full cache, to what a run left of it, and the difference.
#include <QHBoxLayout>
#include <QPushButton>
#include <QTimer>
#include <QVBoxLayout>
#include <algorithm>
#include <cmath>

#include "core/report/policy_label.h"
#include "gui/figure/axis.h"
#include "gui/model/attention.h"
#include "gui/model/background.h"
#include "gui/model/eviction_matrix.h"
#include "gui/window/panel.h"
#include "gui/window/theme.h"
#include "gui/window/widgets/choice.h"
#include "gui/window/widgets/matrix_view.h"
#include "gui/window/widgets/readout.h"
#include "gui/window/widgets/token_axis.h"

namespace kvreplay::gui {
namespace {

const std::string rows_axis = "attention_view.queries";
constexpr std::int64_t usual_window = 32;  // queries of the prompt's end, where the policy has no window of its own

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

QString weight_text(float value) {
  if (std::isnan(value)) return "–";
  return (value < 0 ? QString(QChar(0x2212)) : QString()) + text(figure::number_label(std::fabs(value), 4));
}

// What of a run an attention depends on: nothing but the evictions of one layer.
bool same_run(const std::shared_ptr<const Run>& a, const std::shared_ptr<const Run>& b, int layer) {
  if (a == b) return true;
  if (a == nullptr || b == nullptr) return false;
  const auto of_a = a->layer(layer), of_b = b->layer(layer);
  return of_a != nullptr && of_b != nullptr && of_a->evictions == of_b->evictions;
}

bool same_request(const AttentionRequest& a, const AttentionRequest& b) {
  return a.document == b.document && a.layer == b.layer && a.head == b.head && a.form == b.form &&
         a.first_query == b.first_query && a.end_query == b.end_query && a.first_key == b.first_key &&
         a.end_key == b.end_key && same_run(a.run, b.run, a.layer);
}

class AttentionViewPanel final : public Panel {
 public:
  AttentionViewPanel(Store& the_store, const PanelDescription& description)
      : Panel(the_store, description),
        view_(new MatrixView(this)),
        readout_(new Readout("attention_view_readout", this)),
        cancel_(new QPushButton("Stop", this)),
        form_(new Choice("attention_view_form", "Which attention",
                         {{"full", "Full cache"}, {"evicted", "Under eviction"}, {"difference", "Difference"}}, this)),
        runs_(new Choice("attention_view_runs", "Which run", {{"a", "A"}, {"b", "B"}}, this)),
        queries_(new Choice(
            "attention_view_queries", "Which queries",
            {{"generated", "Generated queries"}, {"window", "Window and generated"}, {"all", "All recorded"}}, this)) {
    view_->setObjectName("attention_view_view");
    view_->setAccessibleName("Attention of one head, queries by keys");
    cancel_->setObjectName("attention_view_cancel");
    cancel_->setVisible(false);

    auto* content = new QWidget(this);
    auto* layout = new QVBoxLayout(content);
    layout->setContentsMargins(0, 4, 0, 0);
    layout->setSpacing(2);
    auto* bar = new QHBoxLayout;
    bar->setContentsMargins(8, 0, 8, 0);
    for (Choice* choice : {form_, runs_, queries_}) bar->addWidget(choice);
    bar->addStretch(1);
    bar->addWidget(cancel_);
    layout->addLayout(bar);
    layout->addWidget(view_, 1);
    layout->addWidget(readout_);
    set_content(content);
    setFocusProxy(view_);

    progress_.setInterval(100);
    connect(&progress_, &QTimer::timeout, this, &AttentionViewPanel::show_progress);
    connect(cancel_, &QPushButton::clicked, this, [this] {
      background_.drop(this);
      finished();
      stopped_ = true;
      readout_->set_text("Stopped. Choosing anything above starts it again.");
    });
    connect(form_, &Choice::chosen, this, [this](const std::string& value) { choose("form", value); });
    connect(runs_, &Choice::chosen, this, [this](const std::string& value) { choose("runs", value); });
    connect(queries_, &Choice::chosen, this, [this](const std::string& value) { choose("queries", value); });
    connect(view_, &MatrixView::visible_changed, this, [this](Interval columns, Interval rows) {
      put_token_zoom(store(), columns, view_->content().columns);
      store().set_zoom(rows_axis, rows);
    });
    connect(view_, &MatrixView::hovered, this, &AttentionViewPanel::hover);
    connect(view_, &MatrixView::clicked, this, &AttentionViewPanel::click);
    connect(view_, &MatrixView::columns_selected, this, [this](std::int64_t begin, std::int64_t end) {
      store().select_tokens({{begin, end}});
    });
  }

  std::unique_ptr<figure::Figure> figure() const override;

 protected:
  void refresh(Changes what) override {
    form_->show_value(setting("form", "evicted"));
    runs_->show_value(setting("runs", "a"));
    queries_->show_value(setting("queries", "window"));
    const auto document = document_or_message();
    if (document == nullptr) return;
    const bool needs_run = chosen_form() != AttentionForm::full;
    const Side side = setting("runs", "a") == "b" ? Side::b : Side::a;
    const auto run = needs_run ? run_or_message(side) : store().run(side);
    runs_->setEnabled(needs_run);
    if (needs_run && run == nullptr) return;
    if (needs_run && changes_rows(run->info)) {
      forget();
      return show_message(text(run->label) + " changes keys or values, so its attention is not that of the recorded ones.",
                          "Choose the full cache, or a policy without merge and with original positions.");
    }
    if (!document->has(selection().layer, LayerDataset::query))
      return show_message("The trace has no queries of this layer.",
                          "Attention is computed from recorded queries and keys.");
    AttentionRequest wanted = request_of(document, run);
    if (wanted.first_query >= wanted.end_query)
      return show_message("No query of these tokens was recorded.", "Choose other queries, or capture with --queries all.");
    run_ = run;
    if (what & Change::theme) view_->viewport()->update();
    if (!asked_ || !same_request(wanted, *asked_)) {
      stopped_ = false;
      ask_for_all(wanted);
    } else if (shown_ && same_request(wanted, *shown_) && shown_run_ != run) {
      // The same picture beside another kept set: attention to the full cache is of no run.
      const auto layer_of_run = [&](const std::shared_ptr<const Run>& each) {
        const auto layer = each != nullptr ? each->layer(wanted.layer) : nullptr;
        return layer != nullptr ? layer->evictions : nullptr;
      };
      const bool other_set = layer_of_run(shown_run_) != layer_of_run(run);
      shown_run_ = run;
      if (other_set && whole_.pyramid) show_pictures();
    }
    follow();
  }

 private:
  AttentionForm chosen_form() const {
    const std::string name = setting("form", "evicted");
    return name == "full" ? AttentionForm::full : name == "difference" ? AttentionForm::difference : AttentionForm::evicted;
  }
  QueryRange chosen_queries() const {
    const std::string name = setting("queries", "window");
    return name == "all" ? QueryRange::all : name == "generated" ? QueryRange::generated : QueryRange::window;
  }
  int head() const { return selection().heads.empty() ? 0 : selection().heads.front(); }

  void choose(const std::string& name, const std::string& value) {
    if (stopped_) asked_.reset();
    set_setting(name, value);
    store().announce(Change::views);
  }

  AttentionRequest request_of(const std::shared_ptr<const Document>& document, const std::shared_ptr<const Run>& run) const {
    AttentionRequest request;
    request.document = document;
    request.form = chosen_form();
    if (request.form != AttentionForm::full) request.run = run;
    request.layer = selection().layer;
    request.head = head();
    const std::int64_t window = run != nullptr ? policy_window(*run) : 0;
    std::tie(request.first_query, request.end_query) =
        query_range(*document, chosen_queries(), window > 0 ? window : usual_window);
    request.end_key = document->num_tokens();
    return request;
  }

  void ask(const AttentionRequest& request, const std::function<void(const AttentionPicture&)>& done) {
    // Counted anew for each picture: one that was superseded may still count on.
    rows_done_ = std::make_shared<std::atomic<std::int64_t>>(0);
    rows_asked_ = request.end_query - request.first_query;
    setProperty("busy", true);
    progress_.start();
    background_.ask<AttentionPicture>(
        this, [painter = painter_, request, count = rows_done_] { return painter->paint(request, *count); },
        [this, done](const std::shared_ptr<const AttentionPicture>& picture, const std::string& problem) {
          finished();
          if (picture == nullptr) return show_message(text(problem));
          done(*picture);
        });
  }

  void forget() {
    background_.drop(this);
    finished();
    asked_.reset();
    shown_.reset();
  }

  void finished() {
    setProperty("busy", false);
    progress_.stop();
    cancel_->setVisible(false);
  }

  void ask_for_all(const AttentionRequest& request) {
    asked_ = request;
    detail_.reset();
    ask(request, [this, request, run = run_](const AttentionPicture& picture) {
      shown_ = request;
      shown_run_ = run;
      whole_ = picture;
      show_pictures();
      follow();
    });
  }

  // The visible part anew where the picture of all of it is too coarse.
  void ask_for_detail() {
    if (!on_screen()) return;  // the next refresh asks
    if (!shown_ || !asked_ || !same_request(*shown_, *asked_) || !whole_.pyramid || background_.is_busy(this)) return;
    const MatrixGeometry geometry = view_->geometry_now();
    const double ratio = view_->devicePixelRatioF();
    const Interval columns = view_->visible_columns(), rows = view_->visible_rows();
    const auto too_coarse = [&](double units, std::int64_t a_cell, int pixels) {
      return a_cell > 1 && units / static_cast<double>(a_cell) < pixels * ratio;
    };
    if (!too_coarse(columns.high - columns.low, whole_.keys_a_cell, geometry.map.width()) &&
        !too_coarse(rows.high - rows.low, whole_.queries_a_cell, geometry.map.height()))
      return;
    AttentionRequest part = *shown_;
    part.first_key = static_cast<std::int64_t>(columns.low);
    part.end_key = std::min<std::int64_t>(part.end_key, static_cast<std::int64_t>(std::ceil(columns.high)));
    part.first_query = shown_->first_query + static_cast<std::int64_t>(rows.low);
    part.end_query = std::min(shown_->end_query, shown_->first_query + static_cast<std::int64_t>(std::ceil(rows.high)));
    if (detail_asked_ && same_request(*detail_asked_, part)) return;
    detail_asked_ = part;
    ask(part, [this](const AttentionPicture& picture) {
      detail_ = picture;
      show_pictures();
      follow();
    });
  }

  MatrixLayer layer_of(const AttentionPicture& picture) const {
    return {picture.pyramid, static_cast<double>(picture.first_key),
            static_cast<double>(picture.first_query - shown_->first_query), static_cast<double>(picture.keys_a_cell),
            static_cast<double>(picture.queries_a_cell)};
  }

  ColorScale make_scale() const {
    ColorScale scale;
    const bool difference = shown_->form == AttentionForm::difference;
    scale.map = difference ? figure::ColorMap::diverging : figure::ColorMap::viridis;
    scale.start = difference ? 0.1 : 0;
    scale.label = difference ? "change of attention" : "attention";
    scale.low_note = difference ? "lost" : "", scale.high_note = difference ? "gained" : "";
    Pyramid::Extent extent = whole_.pyramid->extent();
    if (difference) scale.states = {{0, "no change"}};
    if (shown_->form == AttentionForm::evicted) {
      scale.states = {{evicted_key, "evicted"}};
      extent.low = 0;
    }
    scale.missing_label = "not visible to the query";
    set_amounts(scale, extent);
    return scale;
  }

  void show_pictures() {
    const auto document = shown_->document;
    const auto& positions = document->trace().query_positions();
    const std::int64_t first = shown_->first_query;
    MatrixContent content;
    content.columns = static_cast<double>(document->num_tokens());
    content.rows = static_cast<double>(shown_->end_query - first);
    content.layers = {layer_of(whole_)};
    if (detail_) content.layers.push_back(layer_of(*detail_));
    content.scale = make_scale();
    content.column_label = "key position";
    content.row_label = "query";
    content.row_numbers = content.zoom_rows = content.zoom_both = true;
    content.column_text = [document](std::int64_t position) { return token_text(*document, position); };
    const std::int64_t first_position = positions[static_cast<std::size_t>(first)];
    if (positions[static_cast<std::size_t>(shown_->end_query - 1)] - first_position == shown_->end_query - first - 1)
      content.first_row = static_cast<double>(first_position);
    content.row_name = [&positions, document, first](std::int64_t row) {
      const auto at = static_cast<std::size_t>(
          std::clamp<std::int64_t>(first + row, 0, static_cast<std::int64_t>(positions.size()) - 1));
      return text(figure::number_label(positions[at], 9));
    };
    if (shown_run_ != nullptr)
      if (const std::int64_t window = policy_window(*shown_run_); window > 0)
        content.marks.push_back({static_cast<double>(document->prompt_length() - window),
                                 static_cast<double>(document->prompt_length()), "window"});
    add_token_marks(*document, content);
    const auto generated =
        std::lower_bound(positions.begin() + first, positions.begin() + shown_->end_query, document->prompt_length());
    content.row_lines.push_back(static_cast<double>(generated - positions.begin() - first));
    add_kept_strip(content);
    view_->set_content(std::move(content));
  }

  // Which keys the head's cache holds after the step on screen.
  void add_kept_strip(MatrixContent& content) const {
    strip_step_ = selection().step;
    const auto layer = shown_run_ != nullptr ? shown_run_->layer(shown_->layer) : nullptr;
    if (layer == nullptr) return;
    const EvictionMatrix matrix(
        {shown_run_, nullptr, MapQuantity::kept, MapRows::heads, MapRuns::a, shown_->layer, selection().step});
    std::vector<float> kept(static_cast<std::size_t>(shown_run_->tokens));
    matrix.read(shown_run_->row_of(shown_->head), 0, shown_run_->tokens, kept.data());
    content.strip = MatrixLayer{std::make_shared<const Pyramid>(
        std::make_shared<StoredMatrix>(1, shown_run_->tokens, std::move(kept)), Reduction::share)};
    content.strip_scale.map = figure::ColorMap::cividis;
    content.strip_scale.reversed = !style_now().dark;
    content.strip_scale.start = 0.2;
    content.strip_scale.states = {{0, "evicted"}, {1, "kept", true}};
    content.strip_label = "kept";
  }

  // Whether what is drawn is of the trace on screen: else the next picture is on its way, and its places are not the
  // state's.
  bool shows_document() const { return shown_ && shown_->document == store().document(); }

  void follow() {
    if (!shows_document() || !whole_.pyramid) return;
    if (strip_step_ != selection().step) show_pictures();
    view_->set_visible(token_zoom(store(), view_->content().columns), store().zoom(rows_axis, {0, view_->content().rows}));
    view_->set_selected_columns(selection().tokens);
    std::vector<std::int64_t> rows;
    if (const std::int64_t row = row_of_position(shown_->document->prompt_length() + selection().step - 1);
        selection().step > 0 && row >= 0)
      rows.push_back(row);
    view_->set_selected_rows(std::move(rows));
    if (!view_->underMouse()) view_->set_focus_cell(-1, store().focus().token);
    if (!property("busy").toBool()) {
      if (!stopped_) show_readout(focus_row_, view_->underMouse() ? focus_column_ : store().focus().token);
      ask_for_detail();
    }
  }

  std::int64_t row_of_position(std::int64_t position) const {
    const auto& positions = shown_->document->trace().query_positions();
    const auto found = std::lower_bound(positions.begin(), positions.end(), position);
    const std::int64_t index = found - positions.begin();
    const bool there =
        found != positions.end() && *found == position && index >= shown_->first_query && index < shown_->end_query;
    return there ? index - shown_->first_query : -1;
  }
  std::int64_t position_of_row(std::int64_t row) const {
    return shown_->document->trace().query_positions()[static_cast<std::size_t>(shown_->first_query + row)];
  }

  void hover(std::int64_t row, std::int64_t column) {
    if (!shows_document()) return;
    focus_row_ = row, focus_column_ = column;
    show_readout(row, column);
    Focus focus;
    focus.token = static_cast<int>(column);
    if (column >= 0 && shown_) focus.layer = shown_->layer, focus.head = shown_->head;
    store().set_focus(focus);
  }

  void click(std::int64_t row, std::int64_t column, Qt::KeyboardModifiers modifiers) {
    if (!shows_document() || row < 0 || column < 0) return;
    Selection next = selection();
    next.tokens = clicked_tokens(next.tokens, column, modifiers);
    if (const std::int64_t step = position_of_row(row) - shown_->document->prompt_length() + 1; step > 0)
      next.step = static_cast<int>(step);
    store().set_selection(std::move(next));
  }

  void show_progress() {
    if (rows_done_ == nullptr || rows_asked_ == 0) return;
    cancel_->setVisible(true);
    const double share = static_cast<double>(rows_done_->load()) / static_cast<double>(rows_asked_);
    readout_->set_text(QString("Computing attention … %1 %").arg(static_cast<int>(100 * share)));
  }

  void show_readout(std::int64_t row, std::int64_t column) {
    if (!shown_ || !whole_.pyramid) return;
    const Document& document = *shown_->document;
    QString line = QString("layer %1, head %2").arg(document.layer_number(shown_->layer)).arg(shown_->head);
    if (selection().heads.size() != 1)
      line += selection().heads.empty() ? " (no head is selected)" : " (the first selected)";
    if (row >= 0 && column >= 0 && row < static_cast<std::int64_t>(view_->content().rows) &&
        column < document.num_tokens()) {
      const std::int64_t position = position_of_row(row);
      const float value = view_->value_at(row, column);
      line += "  ·  query of " + token_description(document, position) + "  ·  key of " +
              token_description(document, column) + "  ·  ";
      if (column > position)
        line += "later than the query";
      else if (std::isnan(value))
        line += "outside the sliding window";
      else if (shown_->form == AttentionForm::evicted && value == evicted_key)
        line += "evicted";
      else
        line += (shown_->form == AttentionForm::difference ? "change " : "attention ") + weight_text(value);
    } else {
      line += "  ·  point at a cell · wheel zooms, drag pans, click selects token and step";
    }
    readout_->set_text(line);
    view_->setAccessibleDescription(line);
  }

  MatrixView* view_;
  Readout* readout_;
  QPushButton* cancel_;
  Choice *form_, *runs_, *queries_;
  QTimer progress_;
  std::shared_ptr<AttentionPainter> painter_ = std::make_shared<AttentionPainter>();
  std::shared_ptr<const Run> run_;        // of the last refresh
  std::shared_ptr<const Run> shown_run_;  // of what is drawn: set together with shown_
  std::optional<AttentionRequest> asked_, shown_, detail_asked_;
  AttentionPicture whole_;
  std::optional<AttentionPicture> detail_;
  std::shared_ptr<std::atomic<std::int64_t>> rows_done_;
  std::int64_t rows_asked_ = 0, focus_row_ = -1, focus_column_ = -1;
  mutable int strip_step_ = 0;
  bool stopped_ = false;
  Background background_;
};

std::unique_ptr<figure::Figure> AttentionViewPanel::figure() const {
  if (!shown_ || !whole_.pyramid) return nullptr;
  const Interval columns = view_->visible_columns(), rows = view_->visible_rows();
  // As fine as the picture on screen is.
  const auto width = std::min<int>(1024, static_cast<int>(std::ceil(columns.high - columns.low)));
  const auto height = std::min<int>(512, static_cast<int>(std::ceil(rows.high - rows.low)));
  auto map = std::make_unique<figure::HeatMap>();
  const AttentionPicture& from = detail_ ? *detail_ : whole_;
  std::vector<float> values(static_cast<std::size_t>(width * height));
  const auto keys = static_cast<double>(from.keys_a_cell), queries = static_cast<double>(from.queries_a_cell);
  const auto top = static_cast<double>(from.first_query - shown_->first_query), left = static_cast<double>(from.first_key);
  from.pyramid->render((columns.low - left) / keys, (columns.high - left) / keys, (rows.low - top) / queries,
                       (rows.high - top) / queries, width, height, values.data());
  map->title = form_->currentText().toStdString() + ": attention of layer " +
               std::to_string(shown_->document->layer_number(shown_->layer)) + ", head " + std::to_string(shown_->head);
  map->subtitle =
      shown_run_ != nullptr && shown_->form != AttentionForm::full ? shown_run_->label : shown_->document->name();
  if (columns.high - columns.low > width) map->subtitle += "; a column is several keys, the largest of which is shown";
  map->rows = height, map->columns = width;
  map->row_label = "query", map->column_label = "key position";
  for (int row = 0; row < height; ++row)
    map->row_names.push_back(std::to_string(
        position_of_row(std::min(shown_->end_query - shown_->first_query - 1,
                                 static_cast<std::int64_t>(rows.low + (row + 0.5) * (rows.high - rows.low) / height)))));
  if (width < columns.high - columns.low || columns.low != std::floor(columns.low))
    for (int column = 0; column < width; ++column)
      map->column_names.push_back(
          std::to_string(static_cast<std::int64_t>(columns.low + (column + 0.5) * (columns.high - columns.low) / width)));
  else
    map->first_column = columns.low;
  put_scale(view_->content().scale, *map, values);
  map->panels.push_back({"", std::move(values)});
  return map;
}

}  // namespace

const PanelDescription& attention_view_panel() {
  static const PanelDescription description = {
      .name = "attention_view",
      .title = "Attention",
      .question = "What does a head attend to, with the full cache and with what is left of it?",
      .area = PanelArea::main,
      .shown = true,
      .make = [](Store& store) -> Panel* { return new AttentionViewPanel(store, attention_view_panel()); },
  };
  return description;
}

}  // namespace kvreplay::gui
