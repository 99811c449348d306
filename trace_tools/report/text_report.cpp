// The report for a terminal: one table a budget, policies in rows.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "core/base/text.h"
#include "core/report/metric_info.h"
#include "core/report/numbers.h"
#include "trace_tools/report/formats.h"
#include "trace_tools/text_columns.h"

namespace kvreplay::cli {
namespace {

constexpr const char* bold = "\x1b[1m";
constexpr const char* faint = "\x1b[2m";
constexpr const char* warning_color = "\x1b[1;33m";
constexpr const char* plain = "\x1b[0m";

struct Column {
  std::string group;  // written above columns that share it
  std::string title;
  bool left = false;
};

struct Row {
  std::vector<std::string> fields;
  bool best = false;
  bool bound = false;
};

struct TextTable {
  std::vector<Column> columns;
  std::vector<Row> rows;

  std::string print(const std::vector<std::size_t>& widths, bool escapes) const {
    std::string groups, titles, text;
    for (std::size_t i = 0; i < columns.size(); ++i) {
      const std::string gap = i == 0 ? "  " : i > 0 && columns[i].group != columns[i - 1].group ? "   " : "  ";
      if (i == 0 || columns[i].group != columns[i - 1].group) {
        groups += std::string(display_width(titles + gap) - display_width(groups), ' ') + columns[i].group;
      }
      titles += gap + padded(columns[i].title, widths[i], columns[i].left);
    }
    if (std::any_of(columns.begin(), columns.end(), [](const Column& column) { return !column.group.empty(); }))
      text += (escapes ? faint + groups + plain : groups) + "\n";
    while (titles.back() == ' ') titles.pop_back();
    text += (escapes ? faint + titles + plain : titles) + "\n";
    for (const auto& row : rows) {
      std::string line;
      for (std::size_t i = 0; i < columns.size(); ++i) {
        line += i == 0 ? "  " : columns[i].group != columns[i - 1].group ? "   " : "  ";
        line += padded(row.fields[i], widths[i], columns[i].left);
      }
      while (!line.empty() && line.back() == ' ') line.pop_back();
      text += escapes && row.best ? bold + line + plain : escapes && row.bound ? faint + line + plain : line;
      text += "\n";
    }
    return text;
  }

  std::vector<std::size_t> widths() const {
    std::vector<std::size_t> out;
    for (std::size_t i = 0; i < columns.size(); ++i) {
      std::size_t widest = display_width(columns[i].title);
      for (const auto& row : rows) widest = std::max(widest, display_width(row.fields[i]));
      out.push_back(widest);
    }
    return out;
  }
};

// Evicted tokens a head, averaged over the traces of a cell.
double evicted_per_head(const ReportSources& sources, const Cell& cell) {
  double sum = 0;
  for (std::size_t i : cell.runs) sum += sources.comparison.runs[i].evicted_per_head;
  return sum / static_cast<double>(cell.runs.size());
}

// all: every number of every metric, else only the mean of those that the table does not lead with.
TextTable table_of(const ReportSources& sources, const BudgetGroup& group, const std::vector<std::string>& metrics, bool all,
                   bool regimes) {
  TextTable table;
  const bool several = sources.comparison.traces.size() > 1;
  const bool equal_bytes = std::any_of(sources.comparison.runs.begin(), sources.comparison.runs.end(),
                                       [](const RunSummary& run) { return run.info.equal_bytes > 0; });
  table.columns = {{"", "policy", true}, {"", "bytes"}, {"", "evicted"}, {"", several ? "traces" : "kept", true}};
  if (equal_bytes) table.columns.insert(table.columns.begin() + 1, {"", "tokens"});
  for (const auto& name : metrics) {
    table.columns.push_back({name, "mean"});
    if (!all && name != sources.metric) continue;
    if (regimes) table.columns.push_back({name, "early"}), table.columns.push_back({name, "late"});
    if (several) table.columns.push_back({name, "95 % interval"});
    table.columns.push_back({name, "median"});
    for (const auto& tail : tail_of(name)) table.columns.push_back({name, tail.name});
    if (name == sources.metric) table.columns.push_back({name, "regret"});
  }
  const Cell* best = best_cell(sources.comparison, group, sources.metric);
  for (const auto& cell : group.cells) {
    const RunSummary& run = sources.comparison.runs[cell.runs.front()];
    Row row;
    row.best = &cell == best, row.bound = cell.bound;
    const double per_head = evicted_per_head(sources, cell);
    row.fields = {
        (row.best     ? "* "
         : cell.bound ? "° "
                      : "  ") +
            printable(cell.label),
        format_bytes(static_cast<double>(run.info.cache_bytes)) + (run.bytes_factor > 1.01 ? " q" : "  "),
        std::abs(per_head - std::round(per_head)) < 0.05 ? report_count(std::llround(per_head)) : report_number(per_head),
        several ? std::to_string(cell.runs.size()) : printable(run.info.kept_hash().substr(0, 8))};
    if (equal_bytes) row.fields.insert(row.fields.begin() + 1, report_count(run.info.budget));
    for (const auto& name : metrics) {
      const auto found = cell.metrics.find(name);
      const Distribution none = distribution_of({});
      const Distribution& values = found == cell.metrics.end() ? none : found->second.distribution;
      row.fields.push_back(report_number(values.mean));
      if (!all && name != sources.metric) continue;
      if (regimes)
        for (const auto regime : {&MetricSummary::early, &MetricSummary::late})
          row.fields.push_back(found == cell.metrics.end() ? "–" : report_number(found->second.*regime));
      if (several)
        row.fields.push_back(
            found == cell.metrics.end() ? "–" : report_interval(found->second.interval.low, found->second.interval.high));
      row.fields.push_back(report_number(values.median));
      for (const auto& tail : tail_of(name)) row.fields.push_back(report_number(values.*tail.value));
      if (name == sources.metric)
        row.fields.push_back(cell.bound || found == cell.metrics.end() ? "–" : report_signed(found->second.regret));
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

std::size_t total_width(const TextTable& table, const std::vector<std::size_t>& widths) {
  std::size_t total = 0;
  for (std::size_t i = 0; i < widths.size(); ++i)
    total += widths[i] + (i > 0 && table.columns[i].group != table.columns[i - 1].group ? 3 : 2);
  return total;
}

// The name above a group of columns needs its room.
void widen_for_groups(const TextTable& table, std::vector<std::size_t>& widths) {
  for (std::size_t first = 0, end = 0; first < widths.size(); first = end) {
    std::size_t room = 0;
    for (end = first; end < widths.size() && table.columns[end].group == table.columns[first].group; ++end)
      room += widths[end] + (end > first ? 2 : 0);
    widths[end - 1] += std::max(room, display_width(table.columns[first].group)) - room;
  }
}

// The same columns and widths for every budget, so that the tables line up below each other. Metrics that do not fit are
// taken from the end of `metrics`.
std::vector<TextTable> tables_within(const ReportSources& sources, std::vector<std::string>& metrics,
                                     const TerminalStyle& style, std::vector<std::size_t>& widths) {
  for (;;) {
    std::vector<TextTable> tables;
    widths.clear();
    for (const auto& group : sources.comparison.budgets) {
      tables.push_back(table_of(sources, group, metrics, style.width <= 0, style.regimes));
      const auto own = tables.back().widths();
      widths.resize(own.size(), 0);
      for (std::size_t i = 0; i < own.size(); ++i) widths[i] = std::max(widths[i], own[i]);
    }
    widen_for_groups(tables[0], widths);
    if (style.width <= 0 || metrics.size() <= 1 || total_width(tables[0], widths) <= static_cast<std::size_t>(style.width))
      return tables;
    metrics.pop_back();
  }
}

std::string heading(const ReportSources& sources) {
  const Comparison& comparison = sources.comparison;
  const auto plural = [](std::size_t count, const std::string& what) {
    return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
  };
  std::string text = plural(comparison.runs.size(), "run") + ": " + std::to_string(comparison.labels.size()) +
                     (comparison.labels.size() == 1 ? " policy" : " policies") + ", " +
                     plural(comparison.budgets.size(), "budget") + ", " + plural(comparison.traces.size(), "trace") + "\n";
  for (const auto& file : sources.files) text += "  results  " + printable(file->path()) + "\n";
  for (const auto& name : comparison.traces) {
    text += "  trace    " + printable(name);
    const auto found = sources.traces.find(name);
    if (found != sources.traces.end() && found->second != nullptr) {
      const Trace& trace = *found->second;
      text += "  (" + printable(trace.model().name) + ", " + report_count(trace.prompt_length()) + " prompt tokens, " +
              report_count(trace.num_decode_steps()) + " generated, " + plural(trace.layers().size(), "layer") + ")";
    }
    text += "\n";
  }
  return text;
}

std::string metric_line(const ReportSources& sources, const std::string& name) {
  const MetricInfo& text = metric_info(name);
  std::string line = "  " + name;
  if (!text.doc.empty()) line += ": " + text.doc;
  if (text.direction != Direction::neither) line += higher_is_better(text) ? " Higher is better." : " Lower is better.";
  for (const auto& run : sources.comparison.runs) {
    const auto found = run.metrics.find(name);
    if (found == run.metrics.end()) continue;
    line += " Quantiles over " + found->second.over + ", each a mean over steps.";
    break;
  }
  return line;
}

std::string regime_line(const ReportSources& sources) {
  std::set<std::int64_t> early;
  for (const auto& run : sources.comparison.runs) early.insert(run.early_steps);
  return "  early: mean over the first " + (early.size() == 1 ? std::to_string(*early.begin()) + " " : std::string()) +
         "steps after the prompt; late: over the rest\n";
}

std::string footer(const ReportSources& sources, const std::vector<std::string>& metrics, std::size_t left_out,
                   const TerminalStyle& style) {
  std::string text;
  bool any_bound = false, any_query_head = false;
  for (const auto& run : sources.comparison.runs) any_bound |= run.bound, any_query_head |= run.bytes_factor > 1.01;
  if (!metrics.empty())
    text += "  * best mean " + sources.metric + " at this budget among the policies that evicted something\n";
  if (sources.comparison.traces.size() > 1) text += "  95 % interval: of the mean over traces, by bootstrap\n";
  if (any_bound)
    text +=
        "  ° bound found in hindsight from later queries: no policy can be expected to reach it\n"
        "  regret: how much worse the mean is than the bound's at the same budget\n";
  if (any_query_head) text += "  q evicts per query head, so every query head keeps rows of its own: the bytes say so\n";
  if (std::any_of(sources.comparison.runs.begin(), sources.comparison.runs.end(),
                  [](const RunSummary& run) { return run.info.equal_bytes > 0; }))
    text += "  tokens: the policy's own budget, at which its cache takes the bytes that all are compared at\n";
  text += "  evicted: tokens a head at the end; kept: start of the SHA-256 of what was evicted when\n";
  if (style.regimes) text += regime_line(sources);
  for (const auto& name : metrics) text += wrapped(metric_line(sources, name), style.width, 4);
  if (style.width > 0)
    text += "  --wide shows the other numbers" +
            (left_out > 0 ? " and " + std::to_string(left_out) + " more metric" + (left_out == 1 ? "" : "s") : "") +
            "; --csv, --json and --html have them all\n";
  return text;
}

}  // namespace

std::string report_as_text(const ReportSources& sources, const TerminalStyle& style) {
  std::vector<std::string> metrics = table_metrics(sources);
  const std::size_t wanted = metrics.size();
  std::vector<std::size_t> widths;
  const std::vector<TextTable> tables = tables_within(sources, metrics, style, widths);
  std::string text = heading(sources);
  for (std::size_t i = 0; i < tables.size(); ++i) {
    const std::string title = "budget " + sources.comparison.budgets[i].text;
    text += "\n" + (style.escapes ? bold + title + plain : title) + "\n" + tables[i].print(widths, style.escapes);
  }
  text += "\n" + footer(sources, metrics, wanted - metrics.size(), style);
  const auto notes = gathered_notes(sources);
  if (notes.empty()) return text;
  text += "\n";
  for (const auto& note : notes) {
    const std::string line = "! " + printable(note.who) + (note.who.empty() ? "" : ": ") + printable(note.what);
    text += (style.escapes ? warning_color + line + plain : line) + "\n";
  }
  return text;
}

}  // namespace kvreplay::cli
