#include "trace_tools/text_columns.h"

#include <algorithm>

#include "core/base/text.h"

namespace kvreplay::cli {

std::size_t display_width(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & '\xC0') != '\x80'; }));
}

std::string padded(const std::string& text, std::size_t width, bool left) {
  const std::size_t own = display_width(text);
  const std::string space(width > own ? width - own : 0, ' ');
  return left ? text + space : space + text;
}

std::string in_columns(const std::vector<std::vector<std::string>>& rows, const std::vector<bool>& left, int indent) {
  std::vector<std::size_t> widths(left.size(), 0);
  for (const auto& row : rows)
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], display_width(row[c]));
  std::string text;
  for (const auto& row : rows) {
    std::string line(static_cast<std::size_t>(indent), ' ');
    for (std::size_t c = 0; c < row.size(); ++c) line += (c > 0 ? "  " : "") + padded(row[c], widths[c], left[c]);
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string wrapped(const std::string& text, int width, int indent) {
  std::string lines, current = text.substr(0, text.find_first_not_of(' '));
  bool first = true;
  for (const auto& word : split(text.substr(current.size()), ' ')) {
    if (!first && width > 0 && display_width(current) + 1 + display_width(word) > static_cast<std::size_t>(width)) {
      lines += current + "\n";
      current = std::string(static_cast<std::size_t>(indent), ' ') + word;
    } else {
      current += (first ? "" : " ") + word;
    }
    first = false;
  }
  return lines + current + "\n";
}

}  // namespace kvreplay::cli
