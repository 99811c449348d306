// UTF-8: checking, repairing, and walking over code points.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace kvreplay {

// Each longest piece that is no UTF-8 becomes one U+FFFD, as the Unicode standard recommends and as Python and Rust do
// when they decode with replacement. Text that is valid comes back unchanged.
std::string valid_utf8(std::string_view bytes);
bool is_valid_utf8(std::string_view bytes);

struct CodePoint {
  char32_t value = 0;
  std::size_t bytes = 0;  // how many it takes in the text
};
// The code point at `position` of a text that is valid.
CodePoint code_point_at(std::string_view text, std::size_t position);

void append_code_point(std::string& text, char32_t value);

}  // namespace kvreplay
