#include "trace_tools/report/marked_text.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/text.h"
#include "core/report/numbers.h"
#include "trace_tools/report/page.h"

namespace kvreplay::cli {
namespace {

using nlohmann::json;

// Bytes of levels that a page may carry; more, and only the runs at the shown budget are in it.
constexpr std::size_t level_limit = 3U << 20U;

// Length of the UTF-8 sequence that starts with this byte; 0: none does.
std::size_t sequence_length(unsigned char first) {
  return first < 0x80                    ? 1
         : first >= 0xC2 && first < 0xE0 ? 2
         : (first >> 4U) == 14           ? 3
         : first >= 0xF0 && first < 0xF5 ? 4
                                         : 0;
}

bool is_continuation(char c) { return (static_cast<unsigned char>(c) >> 6U) == 2; }

// Where an unfinished character begins at the end of `text`, or its size.
std::size_t unfinished_tail(const std::string& text) {
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, text.size()); ++back) {
    const std::size_t at = text.size() - back;
    if (is_continuation(text[at])) continue;
    return sequence_length(static_cast<unsigned char>(text[at])) > back ? at : text.size();
  }
  return text.size();
}

std::string with_line_ends(const std::string& text) {
  std::string out;
  std::size_t start = 0;
  for (std::size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && text[i] != '\n' && text[i] != '\t') continue;
    out += printable(std::string_view(text).substr(start, i - start));
    if (i < text.size()) out += text[i];
    start = i + 1;
  }
  return out;
}

// One character a token: '0' no head, 'l' every head, between them sixtieths that are never rounded to either end.
std::string level_string(const std::vector<float>& share) {
  std::string levels;
  levels.reserve(share.size());
  for (float value : share) {
    int sixtieths = static_cast<int>(std::lround(value * 60));
    if (value > 0) sixtieths = std::max(sixtieths, 1);
    if (value < 1) sixtieths = std::min(sixtieths, 59);
    levels += static_cast<char>('0' + sixtieths);
  }
  return levels;
}

struct Marks {
  std::vector<std::string> labels = {""};  // index 0: unmarked
  std::vector<int> of_token;
};

Marks marks_of(const Trace& trace) {
  Marks marks;
  marks.of_token.assign(static_cast<std::size_t>(trace.num_tokens()), 0);
  for (const auto& span : trace.spans()) {
    auto label = std::find(marks.labels.begin(), marks.labels.end(), span.label);
    if (label == marks.labels.end()) label = marks.labels.insert(label, span.label);
    for (int t = std::max(0, span.start); t < std::min<std::int64_t>(span.end, trace.num_tokens()); ++t)
      marks.of_token[static_cast<std::size_t>(t)] = static_cast<int>(label - marks.labels.begin());
  }
  return marks;
}

// JSON inside a script element: "<" cannot end it, and U+2028 is fine since ES2019.
std::string script_json(const json& data) {
  std::string out;
  for (char c : data.dump(-1, ' ', false, json::error_handler_t::replace))
    if (c == '<') {
      out += "\\u003c";
    } else {
      out += c;
    }
  return out;
}

std::string option(const std::string& value, const std::string& text, bool selected) {
  return "<option value=\"" + html_text(value) + "\"" + (selected ? " selected" : "") + ">" + html_text(text) + "</option>";
}

// Adjacent tokens that look the same share an element.
std::string plain_text_html(const std::vector<std::string>& texts, const std::vector<float>& share, const Marks& marks) {
  std::string html;
  int open_level = -1, open_mark = -1;
  for (std::size_t t = 0; t < texts.size(); ++t) {
    const int level = kept_level(t < share.size() ? share[t] : 0), mark = marks.of_token[t];
    if (level != open_level || mark != open_mark) {
      if (open_level >= 0) html += "</span>";
      if (mark != 0 && mark != open_mark)
        html += "<span class=\"name\">" + html_text(marks.labels[static_cast<std::size_t>(mark)]) + "</span>";
      html += "<span class=\"k" + std::to_string(level) + (mark != 0 ? " m" : "") + "\">";
      open_level = level, open_mark = mark;
    }
    const auto& text = texts[t];
    std::size_t start = 0;
    for (std::size_t i = 0; i <= text.size(); ++i) {
      if (i < text.size() && text[i] != '\n' && text[i] != '\t') continue;
      html += html_text(std::string_view(text).substr(start, i - start));
      if (i < text.size()) html += text[i];
      start = i + 1;
    }
  }
  return open_level >= 0 ? html + "</span>" : html;
}

struct TextSource {
  const Trace* trace = nullptr;
  std::vector<const RunSummary*> runs;  // of this trace
};

TextSource text_source(const ReportSources& sources) {
  TextSource source;
  for (const auto& name : sources.comparison.traces) {
    const auto found = sources.traces.find(name);
    if (found == sources.traces.end() || found->second == nullptr) continue;
    source.trace = found->second.get();
    for (const auto& run : sources.comparison.runs)
      if (run.info.trace == name && run.tokens == source.trace->num_tokens()) source.runs.push_back(&run);
    if (!source.runs.empty()) return source;
  }
  return {};
}

const char* legend_html =
    "<div class=\"legend\" aria-label=\"how the text is marked\"><span class=\"k0\">no head keeps it</span>"
    "<span class=\"k1\">under 1/3 of the heads</span><span class=\"k2\">1/3 to 2/3</span><span class=\"k3\">over 2/3</span>"
    "<span class=\"k4\">every head</span></div>\n";

std::string controls_html(const std::vector<const RunSummary*>& runs, const RunSummary& shown, std::int64_t layers,
                          const Marks& marks) {
  std::vector<std::string> policies;
  std::vector<std::int64_t> budgets;
  for (const auto* run : runs) {
    if (std::find(policies.begin(), policies.end(), run->label) == policies.end()) policies.push_back(run->label);
    if (std::find(budgets.begin(), budgets.end(), run->budget) == budgets.end()) budgets.push_back(run->budget);
  }
  std::sort(budgets.begin(), budgets.end());
  std::string html = "<div class=\"controls\" id=\"controls\" hidden><label>policy<select id=\"policy\">";
  for (const auto& policy : policies) html += option(policy, printable(policy), policy == shown.label);
  html += "</select></label><label>budget (tokens per head)<select id=\"budget\">";
  for (auto budget : budgets)
    html += option(std::to_string(budget),
                   report_count(budget) + " (" +
                       report_percent(static_cast<double>(budget) /
                                      static_cast<double>(std::max<std::int64_t>(1, shown.prompt_length))) +
                       ")",
                   budget == shown.budget);
  html += "</select></label>";
  if (layers > 0) {
    html += "<label>heads of<select id=\"layer\">" + option("0", "all layers", true);
    for (std::int64_t layer = 0; layer < layers; ++layer)
      html += option(std::to_string(layer + 1), "layer " + std::to_string(layer), false);
    html += "</select></label>";
  }
  std::string jumps;
  for (std::size_t t = 0; t < marks.of_token.size(); ++t)
    if (marks.of_token[t] != 0 && (t == 0 || marks.of_token[t] != marks.of_token[t - 1]))
      jumps += option(std::to_string(t),
                      marks.labels[static_cast<std::size_t>(marks.of_token[t])] + " (token " +
                          report_count(static_cast<std::int64_t>(t)) + ")",
                      false);
  if (!jumps.empty())
    html += "<label>go to<select id=\"jump\">" + option("", "the start", true) + jumps + "</select></label>";
  return html + "</div>\n";
}

}  // namespace

std::vector<std::string> display_texts(const std::vector<std::string>& tokens) {
  std::vector<std::string> texts;
  std::string carried;
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    std::string bytes = carried + tokens[t];
    const std::size_t end = t + 1 < tokens.size() ? unfinished_tail(bytes) : bytes.size();
    carried = bytes.substr(end);
    // A byte that the next token does not continue is no start of a character after all.
    if (!carried.empty() && (tokens[t + 1].empty() || !is_continuation(tokens[t + 1][0]))) carried.clear();
    if (!carried.empty()) bytes.resize(end);
    texts.push_back(with_line_ends(bytes));
  }
  return texts;
}

int kept_level(float share) {
  if (!(share > 0)) return 0;
  if (share >= 1) return 4;
  const int sixtieths = std::clamp(static_cast<int>(std::lround(share * 60)), 1, 59);
  return sixtieths < 20 ? 1 : sixtieths <= 40 ? 2 : 3;
}

std::string marked_text_html(const ReportSources& sources, const BudgetGroup& group) {
  const TextSource source = text_source(sources);
  if (source.trace == nullptr) return "";
  const std::vector<std::string> tokens = source.trace->token_texts();
  if (tokens.empty()) return "";

  std::vector<const RunSummary*> runs = source.runs;
  std::erase_if(runs, [](const RunSummary* run) { return run->info.summary_only; });
  std::int64_t layers = 0;
  for (const auto* run : runs) layers = std::max(layers, run->layers);
  std::string said;
  if (runs.size() * tokens.size() * static_cast<std::size_t>(layers + 1) > level_limit) layers = 0;
  if (runs.size() * tokens.size() > level_limit) {
    std::erase_if(runs, [&](const RunSummary* run) { return run->budget != group.budget; });
    said = " The text is long: only the runs at " + report_count(group.budget) + " tokens are in this page.";
  }
  if (runs.empty()) return "";

  const RunSummary* shown = runs.front();
  const Cell* best = best_cell(sources.comparison, group, sources.metric);
  for (const auto* run : runs)
    if (run->budget == group.budget && (best == nullptr || run->label == best->label)) {
      shown = run;
      break;
    }
  const std::vector<std::string> texts = display_texts(tokens);
  const Marks marks = marks_of(*source.trace);
  json data = {{"tokens", texts},
               {"mark", marks.of_token},
               {"marks", marks.labels},
               {"prompt", source.trace->prompt_length()},
               {"runs", json::array()}};
  for (const auto* run : runs) {
    json levels = json::array({level_string(kept_share(*run))});
    for (std::int64_t layer = 0; layer < std::min(layers, run->layers); ++layer)
      levels.push_back(level_string(kept_share(*run, layer)));
    data["runs"].push_back({{"policy", run->label}, {"budget", std::to_string(run->budget)}, {"levels", levels}});
  }
  std::string html =
      "<p class=\"muted\">Each token is marked by the share of heads that still hold it after the last step." +
      std::string(sources.comparison.traces.size() > 1
                      ? " The text is that of the first trace, " + html_text(source.trace->path()) + "."
                      : "") +
      said + "</p>\n";
  html += controls_html(runs, *shown, layers, marks);
  html += "<noscript><p>Shown: " + html_text(shown->label) + " at " + report_count(shown->budget) +
          " tokens per head.</p></noscript>\n";
  html += legend_html;
  html += "<p id=\"readout\" class=\"muted\" aria-live=\"polite\"></p>\n";
  html += "<div id=\"text\" tabindex=\"0\">" + plain_text_html(texts, kept_share(*shown), marks) + "</div>\n";
  html += "<script type=\"application/json\" id=\"tokens\">" + script_json(data) + "</script>\n";
  return html;
}

std::string span_table_html(const ReportSources& sources) {
  const Comparison& comparison = sources.comparison;
  // Share of (head, token) entries of each label that are still held, by policy and budget, over all traces.
  std::vector<std::string> labels;
  std::map<std::string, std::map<std::pair<std::string, std::size_t>, std::pair<double, int>>> kept;
  for (std::size_t g = 0; g < comparison.budgets.size(); ++g) {
    for (const auto& cell : comparison.budgets[g].cells) {
      for (std::size_t i : cell.runs) {
        const RunSummary& run = comparison.runs[i];
        const Trace* trace = sources.trace_of(run.info);
        if (trace == nullptr || trace->spans().empty()) continue;
        const std::vector<float> share = kept_share(run);
        if (share.empty()) continue;
        for (const auto& span : trace->spans()) {
          if (std::find(labels.begin(), labels.end(), span.label) == labels.end()) labels.push_back(span.label);
          auto& [sum, count] = kept[span.label][{cell.label, g}];
          for (int t = std::max(0, span.start); t < span.end && t < static_cast<int>(share.size()); ++t, ++count)
            sum += share[static_cast<std::size_t>(t)];
        }
      }
    }
  }
  if (labels.empty()) return "";
  std::string html = "<div class=\"scroll\"><table><thead><tr><th class=\"first\">policy</th>";
  for (const auto& group : comparison.budgets)
    html += "<th>" + report_count(group.budget) + "<br>" + report_percent(group.ratio) + "</th>";
  html += "</tr></thead>\n";
  for (const auto& label : labels) {
    html += "<tbody><tr class=\"head\"><th class=\"section\" colspan=\"" + std::to_string(comparison.budgets.size() + 1) +
            "\">" + html_text(label) + "</th></tr>\n";
    for (const auto& policy : comparison.labels) {
      html += "<tr><td class=\"first\">" + html_text(policy) + "</td>";
      for (std::size_t g = 0; g < comparison.budgets.size(); ++g) {
        const auto found = kept[label].find({policy, g});
        html += "<td>" +
                (found == kept[label].end() || found->second.second == 0
                     ? "–"
                     : report_percent(found->second.first / found->second.second)) +
                "</td>";
      }
      html += "</tr>\n";
    }
    html += "</tbody>";
  }
  return html + "</table></div>\n";
}

}  // namespace kvreplay::cli
