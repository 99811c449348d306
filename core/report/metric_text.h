// What reports say of a metric.
#pragma once

#include <string>
#include <vector>

namespace kvreplay {

struct MetricText {
  std::string name;
  std::string title;  // "output error"
  std::string unit;   // what a number of it is: "relative error"; empty for a pure number
  std::string doc;    // one sentence
  bool higher_is_better = false;
  bool logarithmic = false;  // spans decades: drawn on a logarithmic axis
  bool headline = false;     // in the short tables
};

// A name that is not known gets a text of its own name and nothing else.
const MetricText& metric_text(const std::string& name);
// Known names in the order of tables.
const std::vector<std::string>& metric_order();

}  // namespace kvreplay
