// Why this token: where its score stands, what it is made of, and what the token alone is worth.
#include <QLabel>
#include <QScrollArea>
#include <QVBoxLayout>
#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "core/base/text.h"
#include "gui/figure/line_chart.h"
#include "gui/model/explain.h"
#include "gui/model/layer_desk.h"
#include "gui/model/token_values.h"
#include "gui/window/panel.h"
#include "gui/window/theme.h"
#include "gui/window/widgets/figure_view.h"

namespace kvreplay::gui {
namespace {

QString text(const std::string& utf8) { return QString::fromStdString(utf8); }
QString number(double value, int digits = 3) { return text(figure::number_label(value, digits)); }
QString with_sign(double value) { return (value < 0 ? QString::fromUtf8("−") : QString("+")) + number(std::abs(value)); }

QString cell(const QString& html, bool right = false) {
  return QString("<td style='padding-right:10px; padding-bottom:2px") +
         (right ? "; white-space:nowrap' align='right'>" : "' align='left'>") + html + "</td>";
}

// Headings break their lines: the columns are as wide as their numbers.
QString column_head(const QString& html, bool right = false) {
  return QString("<td valign='bottom' style='padding-right:10px; padding-bottom:2px' align='") + (right ? "right" : "left") +
         "'><span style='color:" + current_style().muted.name() + "'>" + html + "</span></td>";
}

// What one run has to do with the token.
struct OfRun {
  std::string label;
  std::vector<Standing> rows;  // of the rows that the selected heads read
  std::string problem;         // why there are no terms
  ScoreTerms terms;            // of rows.front()
};

struct Effects {
  Removals removals;
  std::array<std::shared_ptr<const Worths>, 2> worths;  // by side; null where there is no such run
  std::array<std::string, 2> problems;
};

struct Question {
  std::shared_ptr<const Document> document;
  std::array<std::shared_ptr<const LayerEvictions>, 2> runs;
  std::array<std::string, 2> policies;
  std::int64_t token = -1;
  int layer = 0, step = 0;
  std::vector<int> heads;
  bool operator==(const Question&) const = default;
};

constexpr std::array<Side, 2> both_sides = {Side::a, Side::b};
std::size_t index_of(Side side) { return side == Side::a ? 0 : 1; }
QString name_of(Side side) {
  return "<b style='color:" + (side == Side::a ? run_color_a() : run_color_b()).name() + "'>" +
         (side == Side::a ? "A" : "B") + "</b>";
}

class WhyTokenPanel final : public Panel {
 public:
  WhyTokenPanel(Store& the_store, const PanelDescription& description) : Panel(the_store, description) {
    auto* inner = new QWidget(this);
    auto* layout = new QVBoxLayout(inner);
    layout->setContentsMargins(10, 8, 10, 10);
    layout->setSpacing(10);
    for (auto [label, name] :
         {std::pair{&head_, "head"}, {&standing_, "standing"}, {&terms_, "terms"}, {&effects_, "effects"}}) {
      *label = new QLabel(inner);
      (*label)->setObjectName(QString("why_token_") + name);
      (*label)->setTextFormat(Qt::RichText);
      (*label)->setWordWrap(true);
      (*label)->setTextInteractionFlags(Qt::TextSelectableByMouse);
      layout->addWidget(*label);
      if (*label == standing_) {
        chart_view_ = new FigureView(inner);
        chart_view_->setObjectName("why_token_chart");
        layout->addWidget(chart_view_);
      }
    }
    layout->addStretch(1);
    auto* area = new QScrollArea(this);
    inner->setBackgroundRole(QPalette::Base);
    area->setWidget(inner);
    area->setWidgetResizable(true);
    area->setFrameShape(QFrame::NoFrame);
    set_content(area);
  }

  std::unique_ptr<figure::Figure> figure() const override {
    return chart_ != nullptr ? std::make_unique<figure::LineChart>(*chart_) : nullptr;
  }
  figure::Table table() const override;

 protected:
  void refresh(Changes what) override {
    if (!(what & ~(Change::focus | Change::zoom | Change::views))) return;
    const auto document = document_or_message();
    if (document == nullptr) return forget();
    if (selection().tokens.empty()) {
      show_message("No token is selected.",
                   "Click one in the Token strip or the Eviction map, or search for it there (Ctrl+F).");
      return forget();
    }
    const std::array<std::shared_ptr<const Run>, 2> runs = {run_on(Side::a), run_on(Side::b)};
    if (runs[0] == nullptr && runs[1] == nullptr && run_or_message(Side::a) == nullptr) return forget();
    show_content();
    Question question{document,         {}, {}, selection().tokens.front().begin, selection().layer, selection().step,
                      selection().heads};
    for (std::size_t side = 0; side < 2; ++side)
      if (runs[side] != nullptr) {
        question.runs[side] = runs[side]->layer(question.layer)->evictions;
        question.policies[side] = runs[side]->info.policy;
      }
    if (!(question == asked_)) ask(question, runs);
    show();
  }

 private:
  std::shared_ptr<const Run> run_on(Side side) const {
    auto run = store().run(side);
    return run != nullptr && run->problem.empty() && run->layer(selection().layer) != nullptr ? run : nullptr;
  }

  void forget() {
    asked_ = {};
    of_runs_ = {};
    removals_.reset();
    worths_ = {};
    chart_.reset();
    auto& background = workshop_of(store()).background;
    background.drop(&terms_asker_);
    background.drop(&effects_asker_);
  }

  // Where the scores stand is there at once; what they are made of, and what the token is worth, follow.
  void ask(const Question& question, const std::array<std::shared_ptr<const Run>, 2>& runs) {
    const Question before = std::exchange(asked_, question);
    const std::vector<int> heads = heads_of(*question.document, selection());
    for (std::size_t side = 0; side < 2; ++side) {
      of_runs_[side].reset();
      if (question.runs[side] != before.runs[side]) worths_[side].reset(), worth_problem_[side].clear();
      if (runs[side] == nullptr) continue;
      OfRun& of_run = of_runs_[side].emplace();
      of_run.label = runs[side]->label;
      for (const int head : heads)
        if (const int row = runs[side]->row_of(head); of_run.rows.empty() || of_run.rows.back().row != row)
          of_run.rows.push_back(standing_of(*runs[side], question.layer, row, question.token));
    }
    removals_.reset();
    removal_problem_.clear();
    make_chart(runs);
    ask_terms(question, runs);
    ask_effects(question, runs, heads);
  }

  void ask_terms(const Question& question, const std::array<std::shared_ptr<const Run>, 2>& runs) {
    using Answer = std::array<OfRun, 2>;
    Workshop& workshop = workshop_of(store());
    std::array<int, 2> rows{};
    for (std::size_t side = 0; side < 2; ++side)
      if (of_runs_[side]) rows[side] = of_runs_[side]->rows.front().row;
    workshop.background.ask<Answer>(
        &terms_asker_,
        [=, desk = workshop.desk] {
          Answer answer;
          for (std::size_t side = 0; side < 2; ++side) {
            if (runs[side] == nullptr) continue;
            try {
              LayerWorkspace& workspace = desk->workspace(question.document, question.layer);
              answer[side].terms = score_terms(workspace, *runs[side], question.layer, rows[side], question.token);
            } catch (const Cancelled&) {
              throw;
            } catch (const Error& error) {
              answer[side].problem = error.what();
            }
          }
          desk->tidy();
          return answer;
        },
        [this](const std::shared_ptr<const Answer>& answer, const std::string&) {
          for (std::size_t side = 0; answer != nullptr && side < 2; ++side)
            if (of_runs_[side]) {
              of_runs_[side]->terms = (*answer)[side].terms;
              of_runs_[side]->problem = (*answer)[side].problem;
            }
          show();
        });
  }

  void ask_effects(const Question& question, const std::array<std::shared_ptr<const Run>, 2>& runs,
                   const std::vector<int>& heads) {
    Workshop& workshop = workshop_of(store());
    workshop.background.ask<Effects>(
        &effects_asker_,
        [=, desk = workshop.desk, known = worths_] {
          Effects effects;
          LayerWorkspace& workspace = desk->workspace(question.document, question.layer);
          effects.removals =
              removals_of(workspace, *question.document, question.layer, heads, question.token, question.step);
          effects.worths = known;
          for (std::size_t side = 0; side < 2; ++side) {
            if (runs[side] == nullptr || known[side] != nullptr) continue;
            try {
              effects.worths[side] =
                  std::make_shared<const Worths>(worths_of(workspace, runs[side]->info, *runs[side]->layer(question.layer)));
            } catch (const Cancelled&) {
              throw;
            } catch (const Error& error) {
              effects.problems[side] = error.what();
            }
          }
          desk->tidy();
          return effects;
        },
        [this](const std::shared_ptr<const Effects>& effects, const std::string& problem) {
          removal_problem_ = problem;
          if (effects != nullptr) {
            removals_ = effects->removals;
            worths_ = effects->worths;
            worth_problem_ = effects->problems;
          }
          show();
        });
  }

  // ---- scores by rank
  // ----------------------------------------------------------------------------------------------------------

  void make_chart(const std::array<std::shared_ptr<const Run>, 2>& runs) {
    chart_ = std::make_shared<figure::LineChart>();
    chart_->x.label = "rank among the candidates";
    chart_->x.logarithmic = true;
    chart_->title = "Scores by rank: token " + asked_.document->token_label(asked_.token) + " at position " +
                    figure::number_label(static_cast<double>(asked_.token), 9);
    for (const Side side : both_sides) {
      const auto& run = runs[index_of(side)];
      if (run == nullptr || run->layer(asked_.layer)->scores().empty() || asked_.token >= run->prompt) continue;
      const Standing& standing = of_runs_[index_of(side)]->rows.front();
      const auto row = run->layer(asked_.layer)->scores().view()[standing.row].flat();
      std::vector<double> sorted;
      for (const float score : row)
        if (!std::isnan(score)) sorted.push_back(static_cast<double>(score));
      if (sorted.empty()) continue;
      std::sort(sorted.rbegin(), sorted.rend());
      figure::LineChart::Panel panel;
      panel.title = std::string(side == Side::a ? "A " : "B ") + run->label + ", " + row_name(*run, standing.row);
      panel.y.emplace().label = "score";
      panel.y->logarithmic = sorted.back() > 0;
      figure::Series all{.name = "all candidates", .x = {}, .y = sorted, .line_only = true, .style = 0};
      for (std::size_t i = 0; i < sorted.size(); ++i) all.x.push_back(static_cast<double>(i + 1));
      panel.series.push_back(std::move(all));
      if (const auto kept = static_cast<std::size_t>(kept_of(*run, standing.row)); kept > 0)
        panel.series.push_back(
            {.name = "last kept (the cut)", .x = {static_cast<double>(kept)}, .y = {sorted[kept - 1]}, .style = 2});
      if (standing.scored)
        panel.series.push_back({.name = "this token",
                                .x = {static_cast<double>(standing.rank)},
                                .y = {static_cast<double>(standing.score)},
                                .style = 1});
      chart_->panels.push_back(std::move(panel));
    }
    if (chart_->panels.empty()) chart_.reset();
  }

  std::int64_t kept_of(const Run& run, int row) const {
    const auto scores = run.layer(asked_.layer)->scores().view()[row].flat();
    const auto evicted_at = run.layer(asked_.layer)->evicted_at().view()[row].flat();
    std::int64_t kept = 0;
    for (std::size_t i = 0; i < scores.size(); ++i) kept += !std::isnan(scores[i]) && evicted_at[i] != 0 ? 1 : 0;
    return kept;
  }

  // ---- on screen
  // ---------------------------------------------------------------------------------------------------------------

  static std::string row_name(const Run& run, int row) {
    if (run.rows == 1) return "all heads";
    return (run.rows == run.query_heads ? "query head " : "KV head ") + std::to_string(row);
  }

  QString muted(const QString& html) const {
    return "<span style='color:" + style_now().muted.name() + "'>" + html + "</span>";
  }
  static QString heading(const QString& what) { return "<p style='margin-bottom:4px'><b>" + what + "</b></p>"; }

  void show() {
    if (asked_.token < 0 || asked_.document == nullptr) return;
    show_head();
    show_standing();
    chart_view_->show(chart_);
    chart_view_->setVisible(chart_ != nullptr);
    show_terms();
    show_effects();
  }

  void show_head() {
    const Document& document = *asked_.document;
    const auto part = [&](std::int64_t begin, std::int64_t end) {
      QString words;
      for (std::int64_t token = std::max<std::int64_t>(0, begin); token < std::min(end, document.num_tokens()); ++token)
        words += text(document.token_label(token)).replace("\\n", "⏎");
      return words.toHtmlEscaped();
    };
    QString html = "<p style='font-size:large'><b>" + token_text(document, asked_.token).toHtmlEscaped() + "</b>&nbsp; " +
                   muted("position " + number(static_cast<double>(asked_.token), 9)) + "</p>";
    if (const TextSpan* span = document.span_at(asked_.token))
      html += "<p>in the marked span “" + text(span->label).toHtmlEscaped() + "”</p>";
    html += "<p>" + muted("… " + part(asked_.token - 12, asked_.token)) + "<b>" + part(asked_.token, asked_.token + 1) +
            "</b>" + muted(part(asked_.token + 1, asked_.token + 13) + " …") + "</p>";
    std::int64_t selected = 0;
    for (const TokenRange& range : selection().tokens) selected += range.end - range.begin;
    if (selected > 1)
      html += "<p>" + muted("The first of " + number(static_cast<double>(selected), 9) + " selected tokens.") + "</p>";
    head_->setText(html);
  }

  static QString verdict(const Standing& standing) {
    switch (standing.fate) {
      case Fate::kept: return "kept";
      case Fate::in_window: return "kept: in the window";
      case Fate::in_sinks: return "kept: a sink";
      case Fate::generated: return "kept: generated after the prompt";
      case Fate::evicted: break;
    }
    return standing.evicted_at == 0 ? QString("evicted when the prompt ended")
                                    : "evicted after step " + QString::number(standing.evicted_at);
  }

  // As a share of the cut, where that is a size at all.
  static QString margin_text(const Standing& standing) {
    const double cut = static_cast<double>(standing.cut);
    if (!std::isfinite(cut)) return "–";
    return cut > 0 ? with_sign(std::round(standing.margin() / cut * 1000) / 10) + " %" : with_sign(standing.margin());
  }

  static QString short_verdict(const Standing& standing) {
    if (standing.fate != Fate::evicted) return verdict(standing);
    // Most policies evict once, when the prompt ends: only later steps are named.
    return standing.evicted_at == 0 ? QString("evicted") : "evicted, step " + QString::number(standing.evicted_at);
  }

  void show_standing() {
    QString html = heading("In the ranking, layer " + QString::number(asked_.document->layer_number(asked_.layer))) +
                   "<table><tr>" + column_head("run") + column_head("head") + column_head("verdict") +
                   column_head("score", true) + column_head("rank", true) + column_head("cut", true) +
                   column_head("margin", true) + "</tr>";
    bool by_score = true;
    for (const Side side : both_sides) {
      const auto& of_run = of_runs_[index_of(side)];
      const auto run = run_on(side);
      if (!of_run || run == nullptr) continue;
      for (const Standing& standing : of_run->rows) {
        html += "<tr>" + cell(name_of(side)) + cell(text(row_name(*run, standing.row)).replace(" ", "&nbsp;")) +
                cell(short_verdict(standing));
        if (standing.scored) {
          const double cut = static_cast<double>(standing.cut);
          by_score = by_score && standing.by_score;
          html += cell(number(static_cast<double>(standing.score)), true) +
                  cell(number(static_cast<double>(standing.rank), 9) + " of " +
                           number(static_cast<double>(standing.candidates), 9),
                       true);
          html += cell(std::isfinite(cut) ? number(cut) : QString("–"), true) + cell(margin_text(standing), true);
        }
        html += "</tr>";
      }
    }
    html += "</table>";
    if (!by_score)
      html += "<p>" +
              muted(
                  "Not by this score alone: some tokens stayed that score lower than some that went (chunks, blocks, "
                  "stages, or later evictions).") +
              "</p>";
    standing_->setText(html);
  }

  void show_terms() {
    QString html = heading("The score, term by term");
    for (const Side side : both_sides) {
      const auto& of_run = of_runs_[index_of(side)];
      const auto run = run_on(side);
      if (!of_run || run == nullptr) continue;
      html += "<p style='margin-bottom:2px'>" + name_of(side) + " " + text(of_run->label).toHtmlEscaped() + ", " +
              text(row_name(*run, of_run->rows.front().row)) + "</p>";
      if (!of_run->problem.empty()) {
        html += "<p>" + text(of_run->problem).toHtmlEscaped() + "</p>";
        continue;
      }
      const ScoreTerms& terms = of_run->terms;
      if (terms.stages.empty()) {
        html += "<p>" + muted("computing …") + "</p>";
        continue;
      }
      html += "<table>";
      for (const Term& term : terms.terms)
        html += "<tr>" + cell(text(term.name).toHtmlEscaped()) + cell("<b>" + number(term.value, 4) + "</b>", true) +
                cell(muted(text(term.meaning).toHtmlEscaped())) + "</tr>";
      html += "</table>" + highest_neighbour(terms);
      html += "<p style='margin-top:2px'>" + muted(text(terms.stages).toHtmlEscaped()) + "</p>";
    }
    terms_->setText(html);
  }

  // What pooling may have taken the score from.
  QString highest_neighbour(const ScoreTerms& terms) const {
    if (terms.terms.empty() || terms.terms.back().name != "after pooling" || terms.neighbours_before.empty()) return {};
    const auto highest = std::max_element(terms.neighbours_before.begin(), terms.neighbours_before.end());
    const std::int64_t position = terms.around + (highest - terms.neighbours_before.begin());
    if (position == asked_.token)
      return "<p style='margin-top:2px'>" +
             muted("Before pooling it is the highest of the " + QString::number(terms.neighbours_before.size()) +
                   " tokens around it.") +
             "</p>";
    return "<p style='margin-top:2px'>" +
           muted("Before pooling the highest around it is “" + token_text(*asked_.document, position).toHtmlEscaped() +
                 "” at " + number(static_cast<double>(position), 9) + " (" +
                 with_sign(static_cast<double>(position - asked_.token)) + "), " + number(*highest, 4)) +
           "</p>";
  }

  void show_effects() {
    QString html = heading("If it alone …");
    if (!removal_problem_.empty()) return effects_->setText(html + "<p>" + text(removal_problem_).toHtmlEscaped() + "</p>");
    if (!removals_) return effects_->setText(html + "<p>" + muted("computing …") + "</p>");
    const QString step =
        QString::number(query_position(*asked_.document, asked_.step) - asked_.document->prompt_length() + 1);
    const QString norm = removals_->projected ? "‖W<sub>o</sub>(o&nbsp;−&nbsp;v)‖" : "‖o&nbsp;−&nbsp;v‖";
    html += "<table><tr>" + column_head("head") + column_head("attention a", true) +
            column_head("odds a/(1&nbsp;−&nbsp;a)", true) + column_head("×&nbsp;" + norm, true) +
            column_head("removed, step " + step, true) + column_head("removed, mean of steps", true);
    for (const Side side : both_sides)
      if (of_runs_[index_of(side)]) html += column_head("restored in " + name_of(side), true);
    html += "</tr>";
    std::array<double, 2> total_gain{}, total_error{};
    double total_relative = 0, total_mean = 0;
    for (const Removal& removal : removals_->heads) {
      html += "<tr>" + cell("head&nbsp;" + QString::number(removal.head));
      html += removal.recorded ? cell(number(removal.attention), true) + cell(number(removal.odds), true) +
                                     cell(number(removal.displacement), true) + cell(percent(removal.relative), true)
                               : cell("–", true) + cell("–", true) + cell("–", true) + cell("not seen", true);
      html += cell(std::isnan(removal.mean_relative) ? "–" : percent(removal.mean_relative), true);
      total_relative += removal.relative;
      total_mean += std::isnan(removal.mean_relative) ? 0 : removal.mean_relative;
      for (std::size_t side = 0; side < 2; ++side) {
        if (!of_runs_[side]) continue;
        html += cell(gain_text(side, removal.head), true);
        const auto& worths = worths_[side];
        if (worths == nullptr) continue;
        const float gain = worths->gain(removal.head, asked_.token);
        total_gain[side] += std::isnan(gain) ? 0 : static_cast<double>(gain);
        total_error[side] += worths->error[static_cast<std::size_t>(removal.head)];
      }
      html += "</tr>";
    }
    if (const auto heads = static_cast<double>(removals_->heads.size()); heads > 1) {
      html += "<tr>" + cell("<b>mean</b>") + cell("") + cell("") + cell("") + cell(percent(total_relative / heads), true) +
              cell(percent(total_mean / heads), true);
      for (std::size_t side = 0; side < 2; ++side)
        if (of_runs_[side])
          html += cell(worths_[side] == nullptr ? QString("–") : gained(total_gain[side], total_error[side]), true);
      html += "</tr>";
    }
    html +=
        "</table><p>" +
        muted(
            "Removed from the full cache: relative error of the head's output. Restored in a run: what that takes off the "
            "run's mean squared head error, as a share of it.") +
        "</p>";
    for (const std::string& problem : worth_problem_)
      if (!problem.empty()) html += "<p>" + text(problem).toHtmlEscaped() + "</p>";
    effects_->setText(html);
  }

  static QString percent(double share) { return number(share * 100) + " %"; }
  static QString gained(double gain, double error) {
    return error > 0 ? QString::fromUtf8(gain < 0 ? "+" : "−") + number(std::abs(gain) / error * 100) + " %"
                     : QString("0 %");
  }
  QString gain_text(std::size_t side, int head) const {
    const auto& worths = worths_[side];
    if (worths == nullptr) return worth_problem_[side].empty() ? "…" : "–";
    const float gain = worths->gain(head, asked_.token);
    return std::isnan(gain) ? QString("kept")
                            : gained(static_cast<double>(gain), worths->error[static_cast<std::size_t>(head)]);
  }

  QLabel *head_ = nullptr, *standing_ = nullptr, *terms_ = nullptr, *effects_ = nullptr;
  FigureView* chart_view_ = nullptr;
  std::shared_ptr<figure::LineChart> chart_;

  QObject terms_asker_, effects_asker_;
  Question asked_;
  std::array<std::optional<OfRun>, 2> of_runs_;
  std::optional<Removals> removals_;
  std::string removal_problem_;
  std::array<std::shared_ptr<const Worths>, 2> worths_;
  std::array<std::string, 2> worth_problem_;
};

figure::Table WhyTokenPanel::table() const {
  figure::Table table;
  if (asked_.token < 0) return table;
  table.columns = {"run", "position", "row", "verdict", "evicted_at", "score", "rank", "candidates", "cut", "margin"};
  for (const Side side : both_sides) {
    const auto& of_run = of_runs_[index_of(side)];
    if (!of_run) continue;
    for (const Standing& standing : of_run->rows) {
      std::vector<std::string> row = {of_run->label, std::to_string(asked_.token), std::to_string(standing.row),
                                      verdict(standing).toStdString(), std::to_string(standing.evicted_at)};
      if (standing.scored)
        for (const double value :
             {static_cast<double>(standing.score), static_cast<double>(standing.rank),
              static_cast<double>(standing.candidates), static_cast<double>(standing.cut), standing.margin()})
          row.push_back(format_number(value));
      row.resize(table.columns.size());
      table.rows.push_back(std::move(row));
    }
  }
  return table;
}

}  // namespace

const PanelDescription& why_token_panel() {
  static const PanelDescription description = {
      .name = "why_token",
      .title = "Why this token",
      .question = "Why was the selected token kept or evicted, and what would it change alone?",
      .area = PanelArea::side,
      .shown = true,
      .make = [](Store& store) -> Panel* { return new WhyTokenPanel(store, why_token_panel()); },
  };
  return description;
}

}  // namespace kvreplay::gui
