// Which tokens stand on which line of a wrapped text: found once for a width, so that a text of any length scrolls by
// looking at the lines on screen alone.
#pragma once

#include <cstdint>
#include <vector>

namespace kvreplay::gui {

class LineIndex {
 public:
  LineIndex() = default;
  // widths [T] in pixels; ends_line [T]: a line ends after the token; begins_line: a token before which one ends, or -1. A
  // token wider than the line has one to itself.
  LineIndex(const std::vector<float>& widths, const std::vector<bool>& ends_line, std::int64_t begins_line,
            double available);

  std::int64_t num_lines() const { return static_cast<std::int64_t>(first_.size()) - (first_.empty() ? 0 : 1); }
  // Tokens [first(line), first(line + 1)).
  std::int64_t first(std::int64_t line) const { return first_[static_cast<std::size_t>(line)]; }
  std::int64_t line_of(std::int64_t token) const;

 private:
  std::vector<std::int32_t> first_;  // one entry past the last line
};

}  // namespace kvreplay::gui
