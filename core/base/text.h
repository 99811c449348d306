// Small helpers for text: joining lists, printing numbers and byte counts the same way everywhere.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kvreplay {

// join({"a","b","c"}, ", ", " or ") is "a, b or c".
std::string join(const std::vector<std::string>& parts, std::string_view separator, std::string_view last_separator = {});

std::vector<std::string> split(std::string_view text, char separator);  // keeps empty parts

// The shortest decimal that reads back as the same double: "0.3", "2000", "1e-07".
std::string format_number(double value);

std::string format_bytes(double bytes);      // "3.4 MiB"
std::string format_seconds(double seconds);  // "850 ms", "12.3 s", "4 min 10 s"

// The candidate closest to `text` by edit distance when it is close enough to be a typo, else "".
std::string closest(std::string_view text, const std::vector<std::string>& candidates);

// UTF-8 with control characters and bytes that are not UTF-8 written as escapes (\n, \x1b, ...), safe for a terminal.
std::string printable(std::string_view text);

}  // namespace kvreplay
