#include "gui/model/line_index.h"

#include <algorithm>

namespace kvreplay::gui {

LineIndex::LineIndex(const std::vector<float>& widths, const std::vector<bool>& ends_line, std::int64_t begins_line,
                     double available) {
  double x = 0;
  bool fresh = true;  // the next token begins a line
  for (std::size_t token = 0; token < widths.size(); ++token) {
    const double width = widths[token];
    if (fresh || x + width > available || static_cast<std::int64_t>(token) == begins_line) {
      first_.push_back(static_cast<std::int32_t>(token));
      x = 0;
    }
    x += width;
    fresh = ends_line[token];
  }
  first_.push_back(static_cast<std::int32_t>(widths.size()));
}

std::int64_t LineIndex::line_of(std::int64_t token) const {
  const auto after = std::upper_bound(first_.begin(), first_.end() - 1, static_cast<std::int32_t>(token));
  return std::max<std::int64_t>(0, after - first_.begin() - 1);
}

}  // namespace kvreplay::gui
