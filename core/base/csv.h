// Comma-separated values as RFC 4180 has them, lines ending in a single line feed.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace kvreplay {

// Quoted where a comma, a quote or a line end needs it.
std::string csv_field(std::string_view text);

// "a,b,\"c,d\"\n"
std::string csv_line(const std::vector<std::string>& fields);

// The fields of every line, read the same way; lines may end in "\r\n". Empty lines are left out. Throws Error naming
// `where` and the line for a quote that is never closed or is followed by more text.
std::vector<std::vector<std::string>> parse_csv(std::string_view text, const std::string& where);

}  // namespace kvreplay
