// Short names for policies in tables and legends.
#pragma once

#include <string>
#include <vector>

namespace kvreplay {

// For each policy string (NAME[@VARIANT][:key=value,...]) its name and as much of the rest as tells it from the others in
// the list: {"snapkv@paper:window=32", "restkv@paper:alpha=0.3", "restkv@paper:alpha=0.5"} gives "snapkv",
// "restkv:alpha=0.3", "restkv:alpha=0.5". Equal strings get equal labels, different ones different labels.
std::vector<std::string> short_policy_labels(const std::vector<std::string>& policies);

// True for policies that look at queries which come after the eviction: a bound, not a competitor.
bool is_hindsight_bound(const std::string& preset);

}  // namespace kvreplay
