#include "trace_tools/replay_tables.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/base/text.h"
#include "core/policy/wrappers/wrapper.h"
#include "core/report/policy_label.h"
#include "trace_tools/text_columns.h"

namespace kvreplay::cli {
namespace {

using nlohmann::ordered_json;

using Rows = std::vector<std::vector<std::string>>;

// The first `left` columns are set to the left.
std::string aligned(const Rows& rows, std::size_t left) {
  std::vector<bool> to_the_left(rows[0].size(), false);
  std::fill_n(to_the_left.begin(), left, true);
  return in_columns(rows, to_the_left);
}

std::string number(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.4g", value);
  return text.data();
}

std::string summary_number(const RunInfo& run, const std::string& key) {
  const auto found = run.summary.find(key);
  return found == run.summary.end() ? "-" : number(found->second);
}

std::string signed_number(double value) { return (value > 0 ? "+" : "") + number(value); }

std::string difference(const RunInfo& run, const std::string& metric) {
  const auto before = run.summary.find(metric + ".before"), after = run.summary.find(metric + ".after");
  if (before == run.summary.end() || after == run.summary.end()) return "-";
  return signed_number(after->second - before->second);
}

std::string label_of(const RunInfo& run) {
  return printable(policy_label(run.policy)) + (run.edit.empty() ? "" : " [" + run.edit + "]");
}

const char* error_key(const RunInfo& run) {
  return run.summary.contains("output_error") ? "output_error" : "output_error_unprojected";
}

// What an engine's constraint adds to the error: over the run without it, on the same trace at the same budget. Nothing
// where a run has no constraint, or its policy alone was not run.
std::optional<double> extra_error(const RunInfo& run, const std::vector<RunInfo>& runs) {
  const std::string plain = unconstrained_form(parse_policy(run.policy)).text();
  if (plain == run.policy || !run.edit.empty() || !run.summary.contains(error_key(run))) return {};
  const auto own = std::find_if(runs.begin(), runs.end(), [&](const RunInfo& other) {
    return other.policy == plain && other.trace == run.trace && other.budget_text == run.budget_text && other.edit.empty();
  });
  if (own == runs.end() || !own->summary.contains(error_key(run))) return {};
  return run.summary.at(error_key(run)) - own->summary.at(error_key(run));
}

std::string runs_table(const std::vector<RunInfo>& runs) {
  Rows rows = {{"policy", "budget", "cache", "of full", "output error", "evicted mass", "kept set"}};
  std::vector<std::optional<double>> extra;
  for (const RunInfo& run : runs) extra.push_back(extra_error(run, runs));
  const bool constrained = std::any_of(extra.begin(), extra.end(), [](const auto& value) { return value.has_value(); });
  if (constrained) rows[0].insert(rows[0].begin() + 5, "extra error");
  const bool stability =
      std::any_of(runs.begin(), runs.end(), [](const RunInfo& run) { return run.summary.contains("kept_overlap_fp16"); });
  if (stability) rows[0].insert(rows[0].end(), {"same in fp16", "worst head"});
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const RunInfo& run = runs[i];
    std::array<char, 32> share{};
    std::snprintf(share.data(), share.size(), "%.1f %%",
                  run.full_cache_bytes > 0
                      ? 100.0 * static_cast<double>(run.cache_bytes) / static_cast<double>(run.full_cache_bytes)
                      : 0);
    rows.push_back(
        {label_of(run), std::to_string(run.budget),
         run.equal_bytes > 0 ? std::to_string(run.cache_bytes) + " B" : format_bytes(static_cast<double>(run.cache_bytes)),
         share.data(), summary_number(run, error_key(run)), summary_number(run, "evicted_mass"),
         run.kept_hash().substr(0, 12)});
    if (constrained) rows.back().insert(rows.back().begin() + 5, extra[i] ? signed_number(*extra[i]) : "");
    if (stability)
      for (const char* key : {"kept_overlap_fp16", "kept_overlap_fp16_worst"})
        rows.back().push_back(summary_number(run, key));
  }
  return aligned(rows, 1);
}

// Means over the layers, rows and steps that an edit touches.
std::string edits_table(const std::vector<RunInfo>& runs) {
  Rows rows = {
      {"edit", "policy", "budget", "token was", "output error", "after", "change", "head error", "after", "change"}};
  for (const RunInfo& run : runs) {
    if (run.edit.empty()) continue;
    const bool restored = run.edit.starts_with("restore");
    rows.push_back({run.edit, printable(policy_label(run.policy)), std::to_string(run.budget),
                    (restored ? "evicted in " : "kept in ") + summary_number(run, "edit.rows") +
                        (run.summary.at("edit.rows") == 1 ? " row" : " rows"),
                    summary_number(run, "edit.output_error.before"), summary_number(run, "edit.output_error.after"),
                    difference(run, "edit.output_error"), summary_number(run, "edit.head_output_error.before"),
                    summary_number(run, "edit.head_output_error.after"), difference(run, "edit.head_output_error")});
  }
  return rows.size() == 1 ? "" : "\n" + aligned(rows, 4);
}

std::string worth_table(const std::vector<RankedToken>& worth) {
  if (worth.empty()) return "";
  Rows rows = {{"policy", "budget", "layer", "head", "place", "token", "squared head error", "restored", "change", "text"}};
  for (const RankedToken& token : worth)
    rows.push_back({printable(token.policy), std::to_string(token.budget), std::to_string(token.worth.layer),
                    std::to_string(token.worth.head), std::to_string(token.place), std::to_string(token.worth.token),
                    number(token.worth.error), number(token.worth.restored_error),
                    number(token.worth.restored_error - token.worth.error), printable(token.text)});
  return "\n" + aligned(rows, 1);
}

ordered_json json_of(const RunInfo& run) {
  return {{"policy", run.policy},
          {"budget", run.budget},
          {"budget_text", run.budget_text},
          {"equal_bytes", run.equal_bytes},
          {"prompt_length", run.prompt_length},
          {"scope", run.scope},
          {"edit", run.edit},
          {"edit_of", run.edit_of},
          {"granularity", run.granularity},
          {"trace", run.trace},
          {"cache_bytes", run.cache_bytes},
          {"full_cache_bytes", run.full_cache_bytes},
          {"peak_cache_bytes", run.peak_cache_bytes},
          {"kept_sha256", run.kept_sha256},
          {"kept_prompt_sha256", run.kept_prompt_sha256},
          {"summary_only", run.summary_only},
          {"seconds", run.seconds},
          {"summary", run.summary},
          {"notes", run.notes}};
}

ordered_json json_of(const RankedToken& token) {
  return {{"trace", token.trace},
          {"policy", token.policy},
          {"budget", token.budget},
          {"run", token.run},
          {"layer", token.worth.layer},
          {"head", token.worth.head},
          {"place", token.place},
          {"token", token.worth.token},
          {"text", token.text},
          {"squared_head_error", token.worth.error},
          {"restored_squared_head_error", token.worth.restored_error}};
}

}  // namespace

std::string replay_tables(const ReplayOutcome& outcome) {
  const std::string out = printable(outcome.out);
  return runs_table(outcome.runs) + edits_table(outcome.runs) + worth_table(outcome.worth) + "\n" +
         std::to_string(outcome.runs.size()) + " runs in " + out + "; `kvreplay report " + out + "` tells more.\n";
}

std::string replay_json(const ReplayOutcome& outcome) {
  ordered_json json = {{"out", outcome.out}, {"runs", ordered_json::array()}};
  for (const RunInfo& run : outcome.runs) {
    json["runs"].push_back(json_of(run));
    if (const auto extra = extra_error(run, outcome.runs)) json["runs"].back()["extra_output_error"] = *extra;
  }
  if (!outcome.worth.empty()) json["worth"] = ordered_json::array();
  for (const RankedToken& token : outcome.worth) json["worth"].push_back(json_of(token));
  // Text from files need not be UTF-8.
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace kvreplay::cli
