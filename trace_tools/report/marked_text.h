// The text of a trace with its kept and evicted tokens marked, and how much of each marked span is left.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/report/sources.h"

namespace kvreplay::cli {

// Tokens as they are shown: bytes that only together make a character are given to the token that completes it, control
// characters and bytes that are no UTF-8 are written as escapes, line ends and tabs stay.
std::vector<std::string> display_texts(const std::vector<std::string>& tokens);

// 0: no head (0), 1: under a third, 2: a third to two thirds, 3: over two thirds, 4: every head (1).
int kept_level(float share);

// HTML: controls, the text as it is at `group`'s budget under the best policy, and the data from which the page's script
// shows every other policy, budget and layer. Empty where the trace has no token texts.
std::string marked_text_html(const ReportSources& sources, const BudgetGroup& group);

// HTML: policies × budgets for each kind of marked span; empty where the trace has none.
std::string span_table_html(const ReportSources& sources);

}  // namespace kvreplay::cli
