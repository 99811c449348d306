// The report as one page: text, tables and figures in a single file that asks nothing of the network.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/text.h"
#include "core/base/version.h"
#include "core/report/metric_info.h"
#include "core/report/numbers.h"
#include "core/report/policy_label.h"
#include "trace_tools/report/formats.h"
#include "trace_tools/report/marked_text.h"
#include "trace_tools/report/page.h"
#if KVREPLAY_WITH_FIGURES
#include "trace_tools/report/figures.h"
#endif

namespace kvreplay::cli {
namespace {

const BudgetGroup& shown_group(const ReportSources& sources, const PageOptions& options) {
  const auto& groups = sources.comparison.budgets;
  if (const BudgetGroup* asked = sources.comparison.find_budget(options.budget)) return *asked;
  // Nearest a tenth of the prompt, on a scale of ratios.
  return *std::min_element(groups.begin(), groups.end(), [](const BudgetGroup& a, const BudgetGroup& b) {
    const auto distance = [](const BudgetGroup& group) { return std::abs(std::log(std::max(group.ratio, 1e-9) / 0.1)); };
    return distance(a) < distance(b);
  });
}

std::string section(const std::string& id, const std::string& title, const std::string& body) {
  return body.empty() ? "" : "<section><h2 id=\"" + id + "\">" + html_text(title) + "</h2>\n" + body + "</section>\n";
}

std::string lead_html(const ReportSources& sources, const BudgetGroup& group) {
  const Cell* best = best_cell(sources.comparison, group, sources.metric);
  if (best == nullptr) return "";
  const MetricInfo& text = metric_info(sources.metric);
  const double value = best->metrics.at(sources.metric).distribution.mean;
  std::string html = "<p class=\"lead\">At " + html_text(group.text) + ", <strong>" + html_text(best->label) +
                     "</strong> has the " + (higher_is_better(text) ? "highest" : "lowest") + " mean " +
                     html_text(lower_first(text.title)) + " of the policies that evict: " + report_number(value) + ".";
  for (const auto& cell : group.cells) {
    const auto found = cell.metrics.find(sources.metric);
    if (!cell.bound || found == cell.metrics.end()) continue;
    html += " For comparison, " + html_text(cell.label) +
            ", which knows the queries to come: " + report_number(found->second.distribution.mean) + ".";
    break;
  }
  return html + "</p>\n";
}

std::string notes_html(const ReportSources& sources) {
  const auto notes = gathered_notes(sources);
  if (notes.empty()) return "";
  std::string html = "<div class=\"notes\" role=\"note\"><strong>Note</strong><ul>\n";
  for (const auto& note : notes)
    html += "<li>" + (note.who.empty() ? "" : "<strong>" + html_text(note.who) + "</strong>: ") + html_text(note.what) +
            "</li>\n";
  return html + "</ul></div>\n";
}

// The metric that leads comes first, so that a phone shows it; what was evicted and in how many bytes next.
std::string table_head(const std::vector<std::string>& metrics, bool several_traces) {
  std::string groups = "<tr><th class=\"first\"></th>", titles = "<tr><th class=\"first\">policy</th>";
  const auto add_metric = [&](const std::string& name, bool leads) {
    groups += "<th class=\"group start\" colspan=\"" + std::to_string((leads ? 7 : 4) + (several_traces ? 1 : 0)) +
              "\" title=\"" + html_text(metric_info(name).doc) + "\">" + html_text(name) + "</th>";
    titles += "<th class=\"start\">mean</th>" + std::string(leads ? "<th>early</th><th>late</th>" : "") +
              std::string(several_traces ? "<th>95 % interval</th>" : "") + "<th>median</th>";
    for (const auto& tail : tail_of(name)) titles += "<th>" + std::string(tail.name) + "</th>";
    if (leads) titles += "<th>regret</th>";
  };
  if (!metrics.empty()) add_metric(metrics.front(), true);
  groups += "<th class=\"group start\" colspan=\"3\">cache</th>";
  titles += "<th class=\"start\">bytes</th><th>evicted</th><th>kept</th>";
  for (std::size_t i = 1; i < metrics.size(); ++i) add_metric(metrics[i], false);
  return "<thead>" + groups + "</tr>\n" + titles + "</tr></thead>\n";
}

std::string metric_cells(const Cell& cell, const std::string& name, bool leads, bool several_traces) {
  const auto found = cell.metrics.find(name);
  const Distribution none = distribution_of({});
  const Distribution& values = found == cell.metrics.end() ? none : found->second.distribution;
  std::string html = "<td class=\"start\">" + report_number(values.mean) + "</td>";
  if (leads)
    for (const auto regime : {&MetricSummary::early, &MetricSummary::late})
      html += "<td>" + (found == cell.metrics.end() ? std::string("–") : report_number(found->second.*regime)) + "</td>";
  if (several_traces)
    html += "<td>" +
            (found == cell.metrics.end() ? std::string("–")
                                         : report_interval(found->second.interval.low, found->second.interval.high)) +
            "</td>";
  html += "<td>" + report_number(values.median) + "</td>";
  for (const auto& tail : tail_of(name)) html += "<td>" + report_number(values.*tail.value) + "</td>";
  if (leads)
    html += "<td>" + (cell.bound || found == cell.metrics.end() ? std::string("–") : report_signed(found->second.regret)) +
            "</td>";
  return html;
}

std::string row_html(const ReportSources& sources, const Cell& cell, bool best, const std::vector<std::string>& metrics) {
  const RunSummary& run = sources.comparison.runs[cell.runs.front()];
  const bool several = sources.comparison.traces.size() > 1;
  std::string html = "<tr class=\"" +
                     std::string(best         ? "best"
                                 : cell.bound ? "bound"
                                              : "") +
                     "\"><td class=\"first\" title=\"" + html_text(run.info.policy) + "\">" + html_text(cell.label) +
                     (best         ? " *"
                      : cell.bound ? " °"
                                   : "") +
                     "</td>";
  if (!metrics.empty()) html += metric_cells(cell, metrics.front(), true, several);
  html += "<td class=\"start\">" + format_bytes(static_cast<double>(run.info.cache_bytes)) +
          (run.bytes_factor > 1.01 ? " q" : "") + "</td>";
  html +=
      "<td title=\"" + report_count(run.evicted) + " in all\">" + report_count(std::llround(run.evicted_per_head)) + "</td>";
  if (cell.runs.size() > 1) {
    html += "<td>" + std::to_string(cell.runs.size()) + " traces</td>";
  } else {
    html += "<td class=\"mono\" title=\"" + html_text(run.info.kept_hash()) + "\">" +
            html_text(run.info.kept_hash().substr(0, 8)) + "</td>";
  }
  for (std::size_t i = 1; i < metrics.size(); ++i) html += metric_cells(cell, metrics[i], false, several);
  return html + "</tr>\n";
}

std::string table_html(const ReportSources& sources) {
  const std::vector<std::string> metrics = table_metrics(sources);
  const std::size_t columns =
      4 + (sources.comparison.traces.size() > 1 ? 5 : 4) * metrics.size() + (metrics.empty() ? 0 : 3);
  std::string html =
      "<div class=\"scroll\" tabindex=\"0\"><table>" + table_head(metrics, sources.comparison.traces.size() > 1);
  for (const auto& group : sources.comparison.budgets) {
    html += "<tbody><tr class=\"head\"><th class=\"section\" colspan=\"" + std::to_string(columns) + "\">budget " +
            html_text(group.text) + "</th></tr>\n";
    const Cell* best = best_cell(sources.comparison, group, sources.metric);
    for (const auto& cell : group.cells) html += row_html(sources, cell, &cell == best, metrics);
    html += "</tbody>\n";
  }
  html +=
      "</table></div>\n<p class=\"small muted\">* best mean at this budget among the policies that evicted something. ° "
      "hindsight bound: it knows the queries that are still to come. "
      "<em>early</em> and <em>late</em>: means over the first steps after the prompt and over the rest. "
      "<em>regret</em>: how much worse the mean is than the bound's; below 0 where a policy does better on this metric than "
      "a bound that was built for another. <em>evicted</em>: tokens at the end, a head on "
      "average. <em>kept</em>: start of the "
      "SHA-256 of what was evicted when, the proof of what a run did. <em>q</em>: evicts per query head, so every query "
      "head keeps rows of its own and "
      "the bytes say so. Percentiles are over heads (over layers for metrics of a whole layer), each value a mean over "
      "steps.";
  html += " <a download=\"kvreplay-report.csv\" href=\"" + data_uri("text/csv", report_as_csv(sources)) +
          "\">All numbers as CSV</a></p>\n";
  return html;
}

// Where attention goes: a value a region, with the full cache and after eviction.
std::string region_table_html(const ReportSources& sources, const BudgetGroup& group) {
  const RunSummary* first = nullptr;
  for (const auto& cell : group.cells)
    if (const RunSummary& run = sources.comparison.runs[cell.runs.front()]; first == nullptr && !run.regions.empty())
      first = &run;
  if (first == nullptr) return "";
  std::string groups = "<tr><th class=\"first\"></th>", titles = "<tr><th class=\"first\">policy</th>", rows;
  std::vector<std::string> names;
  for (const Metric* metric : metric_registry())
    if (first->regions.count(metric->info().name) != 0) names.push_back(metric->info().name);
  for (const auto& name : names) {
    const RegionSummary& regions = first->regions.at(name);
    groups += "<th class=\"group start\" colspan=\"" + std::to_string(regions.names.size()) + "\" title=\"" +
              html_text(metric_info(name).doc) + "\">" + html_text(metric_info(name).title) + "</th>";
    for (std::size_t r = 0; r < regions.names.size(); ++r)
      titles += "<th" + std::string(r == 0 ? " class=\"start\"" : "") + ">" + html_text(regions.names[r]) + "</th>";
  }
  for (const auto& cell : group.cells) {
    const RunSummary& run = sources.comparison.runs[cell.runs.front()];
    rows += "<tr class=\"" + std::string(cell.bound ? "bound" : "") + "\"><td class=\"first\">" + html_text(cell.label) +
            "</td>";
    for (const auto& name : names) {
      const auto found = run.regions.find(name);
      const std::size_t count = first->regions.at(name).names.size();
      for (std::size_t r = 0; r < count; ++r) {
        const bool known =
            found != run.regions.end() && r < found->second.means.size() && !std::isnan(found->second.means[r]);
        rows += "<td" + std::string(r == 0 ? " class=\"start\"" : "") + ">" +
                (known ? report_percent(found->second.means[r]) : "–") + "</td>";
      }
    }
    rows += "</tr>\n";
  }
  return "<p class=\"muted\">Budget " + html_text(group.text) +
         "; mean over layers, heads and steps. What a region gains from the first half to the second is attention that was "
         "on "
         "evicted tokens.</p>\n<div class=\"scroll\" tabindex=\"0\"><table><thead>" +
         groups + "</tr>\n" + titles + "</tr></thead>\n<tbody>" + rows + "</tbody></table></div>\n";
}

#if KVREPLAY_WITH_FIGURES
std::string file_name_of(const std::string& id) { return "kvreplay-" + id; }

// A picture for every combination of narrow or wide and light or dark; the browser takes one.
std::string figure_html(const ReportFigure& one) {
  using figure::Format;
  const auto picture = [&](bool dark, double width) {
    return data_uri("image/svg+xml", figure::render_figure(*one.figure, Format::svg, {.dark = dark, .width = width}));
  };
  static constexpr double wide = 860, narrow = 380;
  const std::string dark = "(prefers-color-scheme: dark)", phone = "(max-width: 640px)";
  std::string html = "<figure id=\"" + one.id + "\"><picture>\n";
  html += "<source media=\"" + dark + " and " + phone + "\" srcset=\"" + picture(true, narrow) + "\">\n";
  html += "<source media=\"" + phone + "\" srcset=\"" + picture(false, narrow) + "\">\n";
  html += "<source media=\"" + dark + "\" srcset=\"" + picture(true, wide) + "\">\n";
  html += "<img src=\"" + picture(false, wide) + "\" alt=\"" + html_text(one.figure->title + ". " + one.figure->subtitle) +
          "\">\n</picture>\n<figcaption>" + html_text(one.help);
  static constexpr std::size_t data_limit = 1U << 20U;  // a page is to stay one that a phone opens
  const std::string csv = one.figure->data().csv();
  html += " <span class=\"downloads\">";
  if (csv.size() <= data_limit)
    html += "<a download=\"" + file_name_of(one.id) + ".csv\" href=\"" + data_uri("text/csv", csv) + "\">Data (CSV)</a> · ";
  html +=
      "<a download=\"" + file_name_of(one.id) + ".pdf\" href=\"" +
      data_uri("application/pdf", figure::render_figure(*one.figure, Format::pdf,
                                                        {.medium = figure::Medium::print, .width = figure::page_width})) +
      "\">PDF</a></span></figcaption></figure>\n";
  return html;
}

std::string figures_html(const ReportSources& sources, const BudgetGroup& group, Job& job) {
  const auto figures = report_figures(sources, group, job);
  std::string html;
  job.begin("drawing figures", static_cast<double>(figures.size()), "figures");
  double done = 0;
  for (const auto& one : figures) {
    job.check();
    html += figure_html(one);
    job.advance_to(++done);
  }
  job.end();
  return html;
}
#else
std::string figures_html(const ReportSources&, const BudgetGroup&, Job&) {
  return "<p class=\"muted\">The figures are missing: this build of kvreplay has no figure library (Qt Gui and Svg). "
         "Everything else is here.</p>\n";
}
#endif

std::string reading_html(const ReportSources& sources) {
  std::string html =
      "<p>A trace recorded what a model's attention read. Each policy was replayed on it: which tokens would it have "
      "evicted at each budget, and what "
      "would that have done to the outputs of attention? Budgets are tokens kept per head and layer when the prompt ends. A "
      "mean hides the heads "
      "that break, so the median, the 95th and the 99th percentile over heads stand beside it. Marked ° are hindsight "
      "bounds: they "
      "know the queries that are still to come, which no policy can.</p>\n<dl>\n";
  for (const auto& name : sources.comparison.metrics) {
    const MetricInfo& text = metric_info(name);
    if (text.doc.empty()) continue;
    html += "<dt><code>" + html_text(name) + "</code></dt><dd>" + html_text(text.doc) +
            (higher_is_better(text) ? " Higher is better." : "") + "</dd>\n";
  }
  return html + "</dl>\n";
}

void add_row(std::string& html, const std::string& name, const std::string& value) {
  if (!value.empty()) html += "<dt>" + html_text(name) + "</dt><dd>" + html_text(value) + "</dd>\n";
}

std::string pretty_json(const std::string& text) {
  const auto parsed = nlohmann::json::parse(text, nullptr, false);
  return parsed.is_discarded() ? text : parsed.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string preformatted(const std::string& text) {
  std::string html = "<pre>";
  for (const auto& line : split(text, '\n')) html += html_text(line) + "\n";
  return html + "</pre>\n";
}

std::string trace_html(const ReportSources& sources, const std::string& name) {
  std::string html = "<dl>\n";
  add_row(html, "trace", name);
  for (const auto& run : sources.comparison.runs) {
    if (run.info.trace != name) continue;
    add_row(html, "its identity", run.info.trace_sha256);
    break;
  }
  const auto found = sources.traces.find(name);
  if (found == sources.traces.end() || found->second == nullptr) return html + "</dl>\n";
  const Trace& trace = *found->second;
  const ModelInfo& model = trace.model();
  add_row(html, "model", model.name + (model.architecture.empty() ? "" : ", " + model.architecture));
  add_row(html, "weights", model.weights_sha256);
  add_row(html, "tokens",
          report_count(trace.prompt_length()) + " prompt, " + report_count(trace.num_decode_steps()) + " generated");
  add_row(html, "attention",
          report_count(static_cast<std::int64_t>(trace.layers().size())) + " layers of " + report_count(model.num_layers) +
              ", " + report_count(model.num_query_heads) + " query heads over " + report_count(model.num_kv_heads) +
              " key-value heads of " + report_count(model.head_dim));
  html += "</dl>\n";
  if (!trace.manifest().empty())
    html +=
        "<details><summary>The trace's manifest</summary>" + preformatted(pretty_json(trace.manifest())) + "</details>\n";
  return html;
}

std::string runs_html(const ReportSources& sources) {
  std::string html =
      "<details><summary>Every run, with the policy string that reproduces it</summary><div "
      "class=\"scroll\"><table><thead><tr><th class=\"first\">run</th>"
      "<th class=\"group\">policy</th><th>budget</th><th class=\"group\">granularity</th><th "
      "class=\"group\">positions</th><th class=\"group\">backend</th><th>time</th><th class=\"group\">SHA-256 of what was "
      "evicted when</th></tr></thead><tbody>\n";
  for (const auto& run : sources.comparison.runs) {
    const auto left = [](const std::string& text) { return "<td style=\"text-align:left\">" + html_text(text) + "</td>"; };
    html += "<tr><td class=\"first\">" +
            html_text((sources.files.size() > 1 ? run.results_name + " " : "") + std::to_string(run.run)) + "</td>" +
            left(run.info.policy + (run_variation(run.info).empty() ? "" : " [" + run_variation(run.info) + "]")) + "<td>" +
            report_count(run.info.budget) + "</td>" + left(run.info.granularity) + left(run.info.position_mode) +
            left(run.info.backend) + "<td>" + format_seconds(run.info.seconds) + "</td><td class=\"mono\">" +
            html_text(run.info.kept_hash()) + "</td></tr>\n";
  }
  return html + "</tbody></table></div></details>\n";
}

std::string provenance_html(const ReportSources& sources, const PageOptions& options) {
  std::string html = "<dl>\n";
  for (const auto& file : sources.files) add_row(html, "results", file->path());
  std::vector<std::string> makers;
  for (const auto& run : sources.comparison.runs)
    if (std::find(makers.begin(), makers.end(), run.info.created_by) == makers.end()) makers.push_back(run.info.created_by);
  add_row(html, "replayed by", join(makers, ", "));
  add_row(html, "this page", options.command_line + " (" + program_version() + ")");
  html += "</dl>\n";
  for (const auto& name : sources.comparison.traces) html += trace_html(sources, name);
  return html + runs_html(sources);
}

std::string facts_html(const ReportSources& sources) {
  const Comparison& comparison = sources.comparison;
  std::string text = std::to_string(comparison.labels.size()) + (comparison.labels.size() == 1 ? " policy" : " policies") +
                     " at " + std::to_string(comparison.budgets.size()) +
                     (comparison.budgets.size() == 1 ? " budget" : " budgets");
  if (comparison.traces.size() > 1)
    return "<p class=\"muted\">" + text + " on " + std::to_string(comparison.traces.size()) + " traces</p>\n";
  text += " on " + comparison.traces.front();
  if (const Trace* trace = sources.trace_of(comparison.runs.front().info))
    text += ": " + trace->model().name + ", " + report_count(trace->prompt_length()) + " prompt tokens, " +
            report_count(trace->num_decode_steps()) + " generated";
  return "<p class=\"muted\">" + html_text(text) + "</p>\n";
}

}  // namespace

std::string report_as_html(const ReportSources& sources, const PageOptions& options, Job& job) {
  const BudgetGroup& group = shown_group(sources, options);
  const std::string spans = span_table_html(sources);
  const std::string text = marked_text_html(sources, group);
  const std::string regions = region_table_html(sources, group);
  std::string html =
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<title>kvreplay report</title>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" "
      "content=\"light dark\">\n"
      "<meta name=\"generator\" content=\"" +
      html_text(program_version()) +
      "\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
      "script-src '" +
      script_hash() +
      "'\">\n"
      "<style>" +
      std::string(page_style) + "</style></head>\n<body>\n<header><h1>What eviction does to attention</h1>\n";
  html += facts_html(sources) + lead_html(sources, group) + notes_html(sources);
  html += "<nav aria-label=\"contents\"><ul><li><a href=\"#figures\">Figures</a></li>";
  if (!text.empty()) html += "<li><a href=\"#what\">The text</a></li>";
  if (!spans.empty()) html += "<li><a href=\"#spans\">Marked spans</a></li>";
  if (!regions.empty()) html += "<li><a href=\"#regions\">Attention by region</a></li>";
  html += "<li><a href=\"#numbers\">Numbers</a></li>";
  html +=
      "<li><a href=\"#reading\">How to read this</a></li><li><a "
      "href=\"#provenance\">Provenance</a></li></ul></nav></header>\n<main>\n";
  html += section("figures", "Figures", figures_html(sources, group, job));
  html += section("what", "What is kept of the text", text);
  if (!spans.empty())
    html += section("spans", "What is left of the marked spans",
                    "<p class=\"muted\">Share of a span's tokens that are still in the cache at the end, averaged over all "
                    "heads.</p>\n" +
                        spans);
  html += section("regions", "Where attention goes", regions);
  html += section("numbers", "Numbers", table_html(sources));
  html += section("reading", "How to read this", reading_html(sources));
  html += section("provenance", "Provenance", provenance_html(sources, options));
  html += "</main>\n";
  if (!text.empty()) html += "<script>" + std::string(page_script) + "</script>\n";
  return html + "</body></html>\n";
}

}  // namespace kvreplay::cli
