// Eviction map: tokens × heads (or × layers), when each token died, its score, or what two runs do differently.
#include <QComboBox>
#include <QHBoxLayout>
#include <QToolButton>
#include <QVBoxLayout>
#include <cmath>

#include "core/base/text.h"
#include "gui/figure/axis.h"
#include "gui/figure/heat_map.h"
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

const std::string rows_axis = "eviction_map.rows";

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }

struct Built {
  std::shared_ptr<const Document> document;  // of the matrix's runs: what is drawn is described with it
  std::shared_ptr<const EvictionMatrix> matrix;
  std::shared_ptr<const Pyramid> pyramid;
};

class EvictionMapPanel final : public Panel {
 public:
  EvictionMapPanel(Store& the_store, const PanelDescription& description)
      : Panel(the_store, description),
        view_(new MatrixView(this)),
        readout_(new Readout("eviction_map_readout", this)),
        quantity_(new Choice("eviction_map_quantity", "What is shown",
                             {{"kept", "Kept or evicted"}, {"lifetime", "When evicted"}, {"score", "Score"}}, this)),
        rows_(new Choice(
            "eviction_map_rows", "What a row is",
            {{"heads", "Heads of the layer"}, {"layers", "Layers, mean of heads"}, {"all", "All layers × heads"}}, this)),
        runs_(new Choice("eviction_map_runs", "Which run", {{"a", "A"}, {"b", "B"}, {"difference", "B − A"}}, this)) {
    view_->setObjectName("eviction_map_view");
    view_->setAccessibleName("Eviction map");

    auto* content = new QWidget(this);
    auto* layout = new QVBoxLayout(content);
    layout->setContentsMargins(0, 4, 0, 0);
    layout->setSpacing(2);
    layout->addLayout(make_bar());
    layout->addWidget(view_, 1);
    layout->addWidget(readout_);
    set_content(content);
    setFocusProxy(view_);

    connect(quantity_, &Choice::chosen, this, [this](const std::string& value) { set_setting("quantity", value); });
    connect(rows_, &Choice::chosen, this, [this](const std::string& value) { set_setting("rows", value); });
    connect(runs_, &Choice::chosen, this, [this](const std::string& value) { set_setting("runs", value); });
    connect(view_, &MatrixView::visible_changed, this, [this](Interval columns, Interval rows) {
      put_token_zoom(store(), columns, view_->content().columns);
      if (view_->content().zoom_rows) store().set_zoom(rows_axis, rows);
    });
    connect(view_, &MatrixView::hovered, this, &EvictionMapPanel::hover);
    connect(view_, &MatrixView::clicked, this, &EvictionMapPanel::click);
    connect(view_, &MatrixView::columns_selected, this, [this](std::int64_t begin, std::int64_t end) {
      store().select_tokens({{begin, end}});
    });
  }

  std::unique_ptr<figure::Figure> figure() const override;
  figure::Table table() const override;

 protected:
  void refresh(Changes what) override {
    if (what & Change::views) show_settings();
    const MapRuns runs = chosen_runs();
    const auto first = run_or_message(runs == MapRuns::b ? Side::b : Side::a);
    if (first == nullptr) return forget();
    std::shared_ptr<const Run> second;
    if (runs == MapRuns::difference && (second = run_or_message(Side::b)) == nullptr) return forget();
    if (!(what & ~Changes(Change::focus | Change::zoom | Change::selection)) && shown_.matrix != nullptr && !must_build())
      return follow(what);
    build();
    follow(what);
  }

 private:
  QHBoxLayout* make_bar() {
    auto* bar = new QHBoxLayout;
    bar->setContentsMargins(8, 0, 8, 0);
    for (Choice* choice : {quantity_, rows_, runs_}) bar->addWidget(choice);
    bar->addStretch(1);
    const auto button = [&](const char* name, const QString& label, const QString& tip, const std::function<void()>& run) {
      auto* made = new QToolButton(this);
      made->setObjectName(name);
      made->setText(label);
      made->setToolTip(tip);
      made->setAccessibleName(tip);
      made->setAutoRaise(true);
      connect(made, &QToolButton::clicked, this, run);
      bar->addWidget(made);
    };
    button("eviction_map_out", "−", "Zoom out (−)", [this] { view_->zoom(2); });
    button("eviction_map_in", "+", "Zoom in (+)", [this] { view_->zoom(0.5); });
    button("eviction_map_all", "All", "Show all tokens (0)", [this] { view_->show_all(); });
    return bar;
  }

  MapQuantity chosen_quantity() const {
    const std::string name = setting("quantity", "kept");
    return name == "lifetime" ? MapQuantity::lifetime : name == "score" ? MapQuantity::score : MapQuantity::kept;
  }
  MapRows chosen_rows() const {
    const std::string name = setting("rows", "heads");
    return name == "layers" ? MapRows::layers : name == "all" ? MapRows::all : MapRows::heads;
  }
  MapRuns chosen_runs() const {
    const std::string name = setting("runs", "a");
    return name == "b" ? MapRuns::b : name == "difference" ? MapRuns::difference : MapRuns::a;
  }

  void show_settings() {
    quantity_->show_value(setting("quantity", "kept"));
    rows_->show_value(setting("rows", "heads"));
    runs_->show_value(setting("runs", "a"));
  }

  MapRequest wanted() const {
    return {store().run_a(), store().run_b(),   chosen_quantity(), chosen_rows(),
            chosen_runs(),   selection().layer, selection().step};
  }

  void forget() {
    background_.drop(this);
    setProperty("busy", false);
    asked_.reset();
    shown_ = {};
  }

  // Whether what is asked for differs from what was asked for last.
  bool must_build() const {
    const EvictionMatrix now(wanted());
    if (asked_ == nullptr || now.rows() != asked_->rows()) return true;
    for (std::int64_t row = 0; row < now.rows(); ++row)
      if (!now.same_row(*asked_, row)) return true;
    return false;
  }

  // In the background: what is on screen stays until the new one is there.
  void build() {
    if (!must_build()) return show_built();
    asked_ = std::make_shared<const EvictionMatrix>(wanted());
    setProperty("busy", true);  // for tests and pictures, which wait
    background_.ask<Built>(
        this,
        [document = store().document(), matrix = asked_, previous = shown_.pyramid] {
          return Built{document, matrix, std::make_shared<const Pyramid>(matrix, matrix->reduction(), previous.get())};
        },
        [this](const std::shared_ptr<const Built>& built, const std::string& problem) {
          setProperty("busy", false);
          if (built == nullptr) return show_message(text(problem));
          shown_ = *built;
          show_built();
          follow(~Changes());
        });
  }

  ColorScale make_scale() const;
  void show_built();

  // Whether what is drawn is of the trace on screen: else the next is on its way, and its places are not the state's.
  bool shows_document() const { return shown_.matrix != nullptr && shown_.document == store().document(); }

  void follow(Changes what) {
    if (!shows_document()) return;
    if (what & Change::zoom) show_zoom();
    const EvictionMatrix& matrix = *shown_.matrix;
    if (what & Change::selection) {
      view_->set_selected_columns(selection().tokens);
      std::vector<std::int64_t> rows;
      if (matrix.request().rows == MapRows::layers) {
        rows.push_back(selection().layer);
      } else {
        for (const int head : selection().heads) rows.push_back(matrix.row_of(selection().layer, head));
        rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
      }
      view_->set_selected_rows(std::move(rows));
    }
    const Focus& focus = store().focus();
    // The row under the pointer stands for several heads; the focus names one. Only another panel's focus moves it.
    const std::int64_t row = matrix.row_of(focus.layer >= 0 ? focus.layer : selection().layer, focus.head);
    view_->set_focus_cell(focus.token >= 0 ? row : -1, focus.token);
    show_readout(focus.token >= 0 ? row : -1, focus.token);
  }

  void show_zoom() {
    const Interval all_rows{0, view_->content().rows};
    view_->set_visible(token_zoom(store(), view_->content().columns), store().zoom(rows_axis, all_rows));
  }

  void hover(std::int64_t row, std::int64_t column) {
    if (!shows_document()) return;
    Focus focus;
    if (column >= 0 && row >= 0) {
      focus.token = static_cast<int>(column);
      focus.layer = shown_.matrix->layer_of(row);
      if (shown_.matrix->request().rows != MapRows::layers) focus.head = shown_.matrix->heads_of(row).front();
    }
    show_readout(row, column);
    store().set_focus(focus);
  }

  void click(std::int64_t row, std::int64_t column, Qt::KeyboardModifiers modifiers) {
    if (!shows_document() || row < 0 || column < 0) return;
    Selection next = selection();
    next.layer = shown_.matrix->layer_of(row);
    if (shown_.matrix->request().rows != MapRows::layers) {
      next.heads = shown_.matrix->heads_of(row);
      if (static_cast<int>(next.heads.size()) == shown_.document->num_query_heads()) next.heads.clear();
    }
    next.tokens = clicked_tokens(next.tokens, column, modifiers);
    store().set_selection(std::move(next));
  }

  QString row_name(std::int64_t row) const {
    const EvictionMatrix& matrix = *shown_.matrix;
    const QString layer = QString("layer %1").arg(shown_.document->layer_number(matrix.layer_of(row)));
    if (matrix.request().rows == MapRows::layers) return layer;
    const std::string name = matrix.head_name();
    if (matrix.rows_per_layer() == 1) return layer + ", all heads";
    return layer + ", " + text(name) + " " + QString::number(row % matrix.rows_per_layer());
  }

  static QString fate(float value, const Run& run) {
    if (value > static_cast<float>(run.steps)) return "kept to the end";
    if (value == 0) return "evicted when the prompt ended";
    return QString("evicted after step %1").arg(static_cast<double>(value));
  }

  QString describe(const Run& run, const QString& name, std::int64_t row, std::int64_t column) const {
    MapRequest request = shown_.matrix->request();
    request.runs = &run == request.b.get() && request.a.get() != &run ? MapRuns::b : MapRuns::a;
    const bool mean = request.rows == MapRows::layers;
    const auto value = [&](MapQuantity quantity) {
      request.quantity = quantity;
      const EvictionMatrix one(request);
      float out = NAN;
      // Rows of a run alone may be fewer than those of both.
      const auto heads = shown_.matrix->heads_of(row);
      const std::int64_t own = one.row_of(shown_.matrix->layer_of(row), mean ? -1 : heads.front());
      if (own >= 0 && column < one.columns()) one.read(own, column, column + 1, &out);
      return out;
    };
    const float lifetime = value(MapQuantity::lifetime), score = value(MapQuantity::score);
    QString line = name.isEmpty() ? QString() : name + ": ";
    if (std::isnan(lifetime)) return line + "not evaluated yet";
    if (mean) {
      const float kept = value(MapQuantity::kept);
      line += std::isnan(kept) ? QString("not there yet")
                               : QString("kept by %1 % of the heads").arg(std::round(1000.0 * kept) / 10);
    } else {
      line += fate(lifetime, run);
    }
    if (!std::isnan(score)) line += (mean ? ", mean score " : ", score ") + text(figure::number_label(score, 4));
    return line;
  }

  void show_readout(std::int64_t row, std::int64_t column) {
    if (shown_.matrix == nullptr) return;
    const auto document = shown_.document;
    QString line;
    if (column >= 0 && column < document->num_tokens()) {
      line = token_description(*document, column);
      if (row >= 0 && row < shown_.matrix->rows()) {
        line += "  ·  " + row_name(row);
        const MapRequest& request = shown_.matrix->request();  // has the runs that are drawn, the other is null
        const bool both = request.runs == MapRuns::difference;
        if (request.a != nullptr) line += "  ·  " + describe(*request.a, both ? "A" : "", row, column);
        if (request.b != nullptr) line += "  ·  " + describe(*request.b, both ? "B" : "", row, column);
      }
    } else {
      line = "Point at a token · wheel zooms, drag pans, click selects, Shift+drag zooms into a part";
    }
    readout_->set_text(line);
    view_->setAccessibleDescription(line);
  }

  MatrixView* view_;
  Readout* readout_;
  Choice *quantity_, *rows_, *runs_;
  std::shared_ptr<const EvictionMatrix> asked_;
  Built shown_;
  Background background_;
};

// What stands for more than one cell a pixel, and what the colours are.
ColorScale EvictionMapPanel::make_scale() const {
  const MapRequest& request = shown_.matrix->request();
  const Pyramid::Extent extent = shown_.pyramid->extent();
  const bool difference = request.runs == MapRuns::difference, means = request.rows == MapRows::layers;
  const int steps = (request.a != nullptr ? request.a : request.b)->steps;
  ColorScale scale;
  scale.reversed = !style_now().dark && !difference;  // much stands out from the background
  scale.map = difference ? figure::ColorMap::diverging : figure::ColorMap::cividis;
  scale.start = difference ? 0.3 : 0.2;
  scale.missing_label = extent.any_missing ? "not evaluated yet" : "";
  if (request.quantity == MapQuantity::kept) {
    if (extent.any_missing) scale.missing_label = "not there yet";
    scale.low = difference ? -1 : 0;
    if (difference) {
      scale.states = {{0, "no difference"}};
      scale.label = means ? "share of heads that keep it" : "share of tokens a pixel";
      scale.low_note = "kept by A only", scale.high_note = "kept by B only";
    } else {
      scale.states = {{0, "evicted"}, {1, "kept", true}};
      scale.label = means ? "share of heads that keep it" : "share kept, where tokens share a pixel";
    }
  } else if (request.quantity == MapQuantity::lifetime) {
    const auto whole = static_cast<float>(steps + 1);
    if (difference) {
      scale.low = -whole, scale.high = whole;
      scale.states = {{0, "no difference"}};
      scale.label = "steps that a token lives longer";
      scale.low_note = "with A", scale.high_note = "with B";
    } else {
      scale.low = 1, scale.high = std::max(2, steps);
      scale.map = figure::ColorMap::viridis;
      scale.states = {{0, "evicted when the prompt ended"}, {whole, "kept to the end", true}};
      scale.label = means ? "mean over heads of the step after which it was evicted" : "evicted after step";
    }
  } else {
    scale.map = difference ? figure::ColorMap::diverging : figure::ColorMap::viridis;
    scale.reversed = false;
    scale.start = 0;
    scale.missing_label = extent.any_missing ? "no score" : "";
    scale.label = difference ? "score of B − score of A" : "score";
    set_amounts(scale, extent);
  }
  return scale;
}

void EvictionMapPanel::show_built() {
  if (shown_.matrix == nullptr) return;
  const auto document = shown_.document;
  const EvictionMatrix& matrix = *shown_.matrix;
  MatrixContent content;
  content.columns = static_cast<double>(matrix.columns());
  content.rows = static_cast<double>(matrix.rows());
  content.layers = {{shown_.pyramid}};
  content.scale = make_scale();
  content.column_label = "token position";
  content.column_text = [document](std::int64_t position) { return token_text(*document, position); };
  const bool layers = matrix.request().rows != MapRows::heads;
  content.row_label = layers ? QString("layer") : text(matrix.head_name());
  content.row_group = layers ? matrix.rows_per_layer() : 1;
  content.zoom_rows = matrix.request().rows == MapRows::all && matrix.rows() > 16;
  if (layers)
    content.row_name = [document](std::int64_t layer) {
      return QString::number(document->layer_number(static_cast<int>(layer)));
    };
  add_token_marks(*document, content);
  view_->set_content(std::move(content));
  show_zoom();
}

std::unique_ptr<figure::Figure> EvictionMapPanel::figure() const {
  const auto document = shown_.document;
  if (shown_.matrix == nullptr) return nullptr;
  const EvictionMatrix& matrix = *shown_.matrix;
  const ColorScale& scale = view_->content().scale;
  const Interval visible = view_->visible_columns();
  const auto begin = static_cast<std::int64_t>(visible.low), end = static_cast<std::int64_t>(std::ceil(visible.high));
  auto map = std::make_unique<figure::HeatMap>();
  const auto label = [](const std::shared_ptr<const Run>& run) { return run != nullptr ? run->label : std::string(); };
  const MapRequest& request = matrix.request();
  map->title = request.runs == MapRuns::difference ? label(request.b) + " minus " + label(request.a)
               : request.runs == MapRuns::a        ? label(request.a)
                                                   : label(request.b);
  map->subtitle =
      (request.rows == MapRows::heads ? "Layer " + std::to_string(document->layer_number(request.layer)) + ", " : "") +
      quantity_->currentText().toLower().toStdString();
  if (request.quantity == MapQuantity::kept)
    map->subtitle += request.step == 0 ? " when the prompt ended" : " after decode step " + std::to_string(request.step);
  map->rows = matrix.rows();
  map->columns = end - begin;
  map->first_column = static_cast<double>(begin);
  map->row_group = request.rows == MapRows::all ? matrix.rows_per_layer() : 1;
  map->row_label = view_->content().row_label.toStdString();
  if (request.rows != MapRows::heads)
    for (int layer = 0; layer < document->num_layers(); ++layer)
      map->row_names.push_back(std::to_string(document->layer_number(layer)));
  map->column_label = "token position";
  std::vector<float> values(static_cast<std::size_t>(map->rows * map->columns));
  for (std::int64_t row = 0; row < map->rows; ++row) matrix.read(row, begin, end, values.data() + row * map->columns);
  put_scale(scale, *map, values);
  map->reduction = request.quantity == MapQuantity::kept ? figure::Reduction::mean : figure::Reduction::maximum;
  map->panels.push_back({"", std::move(values)});
  for (const MatrixMark& mark : view_->content().marks) {
    const auto from = std::max<std::int64_t>(begin, static_cast<std::int64_t>(mark.begin));
    const auto to = std::min<std::int64_t>(end, static_cast<std::int64_t>(mark.end));
    if (from < to) map->marks.push_back({from - begin, to - begin, mark.label.toStdString()});
  }
  return map;
}

// The tokens on screen, or those that are selected: what became of each in every row.
figure::Table EvictionMapPanel::table() const {
  const auto document = shown_.document;
  if (shown_.matrix == nullptr) return {};
  const EvictionMatrix& matrix = *shown_.matrix;
  figure::Table table{{"position", "text"}, {}};
  for (std::int64_t row = 0; row < matrix.rows(); ++row) table.columns.push_back(row_name(row).toStdString());
  std::vector<TokenRange> ranges = shows_document() ? selection().tokens : std::vector<TokenRange>();
  if (ranges.empty())
    ranges = {{static_cast<std::int64_t>(view_->visible_columns().low),
               static_cast<std::int64_t>(std::ceil(view_->visible_columns().high))}};
  for (const TokenRange& range : ranges) {
    const auto count = static_cast<std::size_t>(range.end - range.begin);
    std::vector<std::vector<float>> rows;
    for (std::int64_t row = 0; row < matrix.rows(); ++row) {
      rows.emplace_back(count);
      matrix.read(row, range.begin, range.end, rows.back().data());
    }
    for (std::size_t i = 0; i < count; ++i) {
      const auto position = range.begin + static_cast<std::int64_t>(i);
      std::vector<std::string> cells = {std::to_string(position), document->token_label(position)};
      for (const auto& row : rows) cells.push_back(std::isnan(row[i]) ? "" : format_number(row[i]));
      table.rows.push_back(std::move(cells));
    }
  }
  return table;
}

}  // namespace

const PanelDescription& eviction_map_panel() {
  static const PanelDescription description = {
      .name = "eviction_map",
      .title = "Eviction map",
      .question = "Which tokens does each head keep, when does the others' time end, and where do two runs differ?",
      .area = PanelArea::main,
      .shown = true,
      .make = [](Store& store) -> Panel* { return new EvictionMapPanel(store, eviction_map_panel()); },
  };
  return description;
}

}  // namespace kvreplay::gui
