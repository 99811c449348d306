// Short names for policies in tables and legends.
#pragma once

#include <string>

#include "core/trace/results.h"

namespace kvreplay {

// What a policy string says beyond its defaults: "restkv@released:window=32,kernel=5,alpha=0.5,..." gives
// "restkv@released:alpha=0.5". A string that this program does not understand is its own label.
std::string policy_label(const std::string& policy);

// True for policies that look at queries which come after the eviction: a bound, not a competitor.
bool is_hindsight_bound(const std::string& preset);
bool keeps_everything(const std::string& preset);  // the full cache

// Whether the run's cache holds other keys or values than the recorded ones: it merged rows or moved positions. Attention
// and errors that are recomputed from the trace are not those of such a run.
bool changes_rows(const RunInfo& info);

// What makes a run another one than its policy at its budget: "score context; judge generated; restore 3:117"; mostly empty.
std::string run_variation(const RunInfo& info);

}  // namespace kvreplay
