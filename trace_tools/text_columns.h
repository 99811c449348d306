// Tables in a terminal: columns as wide as their widest field.
#pragma once

#include <string>
#include <vector>

namespace kvreplay::cli {

// Columns of a terminal that a UTF-8 text takes, wide characters counted as one.
std::size_t display_width(const std::string& text);
// Filled with spaces to `width`; `left`: the text first.
std::string padded(const std::string& text, std::size_t width, bool left);

// One line a row, two spaces between columns, no space at the end. `left`: by column, whether it is set to the left.
std::string in_columns(const std::vector<std::vector<std::string>>& rows, const std::vector<bool>& left, int indent = 0);

// Lines of at most `width` columns (0: one line), broken between words; those after the first are indented. Spaces that the
// text begins with stay.
std::string wrapped(const std::string& text, int width, int indent);

}  // namespace kvreplay::cli
